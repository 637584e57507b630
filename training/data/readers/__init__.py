"""Readers of data sets, one module for each form; `data.catalogue.read_dataset` selects the reader."""
