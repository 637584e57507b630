"""Measures of the serving benchmark; each returns its figures as a dictionary."""
