"""Data sets in the forms that the field keeps them in; `training.datasets.read_dataset` picks the reader."""
