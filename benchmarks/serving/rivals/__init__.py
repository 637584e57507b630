"""Servers that the service is compared with, each a program of its own."""
