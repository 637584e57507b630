"""Queue: requests, replies and heartbeats in Redis; client and cluster state of the API, consumer of a worker."""
