"""The prediction service: an API process without torch and a worker process, joined by Redis Streams."""
