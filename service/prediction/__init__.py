"""Prediction: which versions answer, results that are known already, and a structure's way to its answer."""
