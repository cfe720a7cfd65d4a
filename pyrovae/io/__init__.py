"""Models in files, and what ArviZ reads."""

from pyrovae.io.model_file import describe, load, save

__all__ = ["describe", "load", "save"]
