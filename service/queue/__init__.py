"""Queue: Redis streams, answers, heartbeats; the client of the API and the consumer of a worker."""
