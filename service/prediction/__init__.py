"""Prediction: model versions, cached results, and the way of a structure to its answer."""
