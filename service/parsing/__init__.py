"""Parsing: request bodies and structure files to graphs, in processes of their own."""
