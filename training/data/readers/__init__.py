"""Data sets in the forms that the field keeps them in; `data.catalogue.read_dataset` picks the reader."""
