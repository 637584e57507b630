"""The service under load; `python -m benchmarks.serving` measures it against other servers."""
