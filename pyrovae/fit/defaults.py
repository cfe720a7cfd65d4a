"""What suits the data for a fit where nobody chose: steps, batches, learning rates, tolerances.

SVI runs for a number of steps, not of epochs: a model needs as many of them on few data as on many.
"""

import math
from typing import Any

import numpy as np
import torch

from pyrovae.data import Observations
from pyrovae.fit.parts import Parts
from pyrovae.models.architecture import FEW_DIMS
from pyrovae.models.base import LatentVariableModel
from pyrovae.models.floors import mean_variance
from pyrovae.models.tractable import TractableModel

MANY = 10_000  # data whose variance is that of all
LARGE_NUMBERS = 4_000_000  # numbers in the training data, N × D, above which they are large


def em_options(model: TractableModel, data: Any, **given: Any) -> dict[str, Any]:
    """Tolerance and acceleration of ``fit.em``: as given, or to suit model and data.

    A linear Gaussian model climbs slowly, and is helped.  Batches whose number nobody knows are not large.
    """
    is_linear = hasattr(model, "latent_dim") and not _is_mixture(model)
    options = {"tolerance": 1e-3 if is_large(data) else 1e-6, "accelerate": is_linear}
    return options | {name: value for name, value in given.items() if value is not None}


def svi_options(model: LatentVariableModel, train: Observations, **given: Any) -> dict[str, Any]:
    """Steps, batch size, largest learning rate and schedule of ``fit.svi``: as given, or to suit the data.

    Steps make whole passes over the data, unless their number is given.

    A model without an exact posterior has an encoder to train: many steps, on a schedule that begins with small ones,
    since large ones on a decoder far from the data make the posterior collapse.  A mixture, z summed over, needs fewer;
    a linear Gaussian model, with its exact posterior as guide, takes large batches and long steps.  Where nobody chose
    ``lr``, the parameters of an exact model that are in units of the data have ``unit`` times it, and others ``lr``.

    Example:
        >>> from pyrovae import PPCA
        >>> svi_options(PPCA(latent_dim=1, data_shape=(3,)), Observations(torch.randn(5000, 3)))["num_steps"]
        402
    """
    large, most = is_large(train), None
    if not isinstance(model, TractableModel):
        lr = 3e-3 if train.num_dims >= FEW_DIMS else 6e-3  # the network is then shallow by default
        options: dict[str, Any] = {"batch_size": 256 if large else 64, "lr": lr, "schedule": "one_cycle"}
        passes = 60 * len(train) // (given.get("batch_size") or options["batch_size"])
        num_steps, most = min(max(1700, passes), 12_000), 400
    elif _is_mixture(model):
        options = {"batch_size": 128, "lr": 0.03 if model.support == "boolean" else 2e-3, "schedule": "cosine"}
        options["unit"] = _unit(train) if model.support == "real" else 1.0
        num_steps = 60 if large else 450
    else:
        options = {"batch_size": 2048, "lr": 0.03, "schedule": "cosine", "unit": _unit(train)}
        num_steps = 400
    options |= {name: value for name, value in given.items() if value is not None}
    if given.get("lr") is not None:
        options["unit"] = 1.0
    num_batches = math.ceil(len(train) / options["batch_size"])
    num_epochs = math.ceil(num_steps / num_batches)
    num_epochs = options.pop("num_epochs", min(num_epochs, most or num_epochs))
    return {"num_steps": num_epochs * num_batches, **options}


def _unit(train: Observations) -> float:
    """A deviation of the data, over that of the data on which learning rates were tried."""
    return math.sqrt(mean_variance(train.x[:MANY]) / 0.07)


def is_large(data: Any) -> bool:
    """Whether data are so many that a fit to all of them is cut short; an iterable of batches does not say."""
    x = data.x if isinstance(data, Observations) else data
    return isinstance(x, torch.Tensor | np.ndarray | Parts) and math.prod(x.shape) > LARGE_NUMBERS


def _is_mixture(model: TractableModel) -> bool:
    return hasattr(model, "num_components")
