"""Uncertainty: conformal intervals, class probabilities and the applicability domain; numpy only."""
