"""The fixtures that these tests share with others."""

from tests.fixtures import tiny

__all__ = ["tiny"]
