"""Data: tables and files to graphs, targets and splits."""
