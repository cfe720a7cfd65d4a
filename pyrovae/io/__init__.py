"""Models in files, and what ArviZ reads."""

from pyrovae.io.model_file import describe as describe, load as load, save as save
