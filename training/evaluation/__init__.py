"""Evaluation: errors, conformal calibration, applicability domain, comparison."""
