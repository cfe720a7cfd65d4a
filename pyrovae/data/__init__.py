"""Data sets as :class:`Observations`, each with its observation space and the log|det J| of every transform."""

from pyrovae.data.loading import load as load
from pyrovae.data.observations import (
    DataSet as DataSet,
    Observations as Observations,
    Space as Space,
    as_observations as as_observations,
)
