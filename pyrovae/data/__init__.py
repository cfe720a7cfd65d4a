"""Data sets as :class:`Observations`, each with its observation space and the log|det J| of every transform."""

from pyrovae.data.loading import load
from pyrovae.data.observations import DataSet, Observations, Space, as_observations

__all__ = ["DataSet", "Observations", "Space", "as_observations", "load"]
