"""The version of the package, in one place without imports."""

__version__ = "0.1.0"
