"""Processes: start, supervise, check and demonstrate a service."""
