"""Configuration: the YAML files of runs and searches, parsed once."""
