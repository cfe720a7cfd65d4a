"""What suits the data for a fit where nobody chose: steps, batches, learning rates, tolerances.

SVI runs for a number of steps, not of epochs: a model needs as many of them on few data as on many.
"""

import math
from typing import Any

from pyrovae.data import Observations
from pyrovae.models.base import LatentVariableModel
from pyrovae.models.defaults import variance
from pyrovae.models.tractable import TractableModel

LARGE_NUMBERS = 4_000_000  # numbers in the training data, N × D, above which they are large


def em_options(model: TractableModel, train: Observations) -> dict[str, Any]:
    """Arguments of ``fit.em`` that suit a model and the data; a linear Gaussian model climbs slowly, and is helped."""
    return {"tolerance": 1e-3 if is_large(train) else 1e-6, "accelerate": not _is_mixture(model)}


def svi_options(model: LatentVariableModel, train: Observations) -> dict[str, Any]:
    """Arguments of ``fit.svi`` that suit a model and the data.

    A model without an exact posterior has an encoder to train: many steps, on a schedule.  A mixture, z summed over,
    needs fewer; a linear Gaussian model, with its exact posterior as guide, takes large batches and long steps.

    Example:
        >>> import torch
        >>> from pyrovae import PPCA
        >>> svi_options(PPCA(latent_dim=1, data_shape=(3,)), Observations(torch.randn(5000, 3)))["num_epochs"]
        134
    """
    large = is_large(train)
    if not isinstance(model, TractableModel):
        batch_size = 256 if large else 64
        num_epochs = min(max(20, 1700 // math.ceil(len(train) / batch_size)), 400)
        return {"num_epochs": num_epochs, "batch_size": batch_size, "lr": 3e-3, "schedule": "one_cycle"}
    if _is_mixture(model):
        batch_size, num_steps, lr = 128, 60 if large else 450, 0.03 if model.support == "boolean" else 2e-3
    else:
        batch_size, num_steps, lr = 2048, 400, 0.03 * math.sqrt(variance(train) / 0.07)  # with the units of the data
    num_epochs = math.ceil(num_steps / math.ceil(len(train) / batch_size))
    return {"num_epochs": num_epochs, "batch_size": batch_size, "lr": lr}


def is_large(train: Observations) -> bool:
    """Whether data are so many that a fit to all of them is cut short."""
    return train.x.numel() > LARGE_NUMBERS


def _is_mixture(model: TractableModel) -> bool:
    return hasattr(model, "num_components")
