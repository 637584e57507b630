"""Scheduling: predicted cost, admission, fairness and batching; no Redis, no torch, no HTTP."""
