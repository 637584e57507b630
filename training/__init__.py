"""Data sets, splits, the loop, calibration, evaluation: from a YAML file to published versions."""
