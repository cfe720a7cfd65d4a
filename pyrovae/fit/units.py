"""Units of data in which a fit would go wrong without a word: what it does about them, or says."""

from typing import Any

import torch
from torch import Tensor

from pyrovae.data import Observations
from pyrovae.data.observations import named
from pyrovae.fit.result import FitWarning, warn
from pyrovae.models.base import LatentVariableModel

MANY = 10_000  # data that show the size of all
COARSE = 1e-3  # of a deviation: the rounding of data that changes a fit
LARGEST = 1e15  # deviation whose square float32 holds with room for sums
CONSTANT = 1e-28  # of the mean variance: rounding of a rotation, say, in a dimension that does not vary


def precise_enough(model: LatentVariableModel, observations: Observations) -> LatentVariableModel:
    """The model, in float64 where float32 cannot tell the data apart, or cannot hold their variance."""
    x = observations.x[:MANY].flatten(1).double()
    if model._like.dtype != torch.float32 or model.support != "real" or not observations.x.is_floating_point():
        return model
    size, std = x.abs().amax(0), x.std(0, correction=0)
    varies = std > torch.finfo(observations.x.dtype).eps * size
    steps = torch.finfo(torch.float32).eps * size
    lost = varies & (steps > COARSE * std) & (observations.x.dtype == torch.float64)
    beyond = varies & ((std > LARGEST) | (std < 1 / LARGEST))
    if not (lost | beyond).any():
        return model
    worst = int((lost | beyond).double().argmax())
    where = f"in steps of {steps[worst]:.2g}" if lost[worst] else f"in squares of 1/{LARGEST**2:g} to {LARGEST**2:g}"
    warn(
        f"`data` vary by {std[worst]:.2g} about {x[:, worst].mean():.2g} in {observations.column(worst)}, where "
        f"float32 goes {where}: the fit is in float64; subtract the mean, or rescale, for one in float32.",
        FitWarning,
    )
    return model.double()


def warn_of_floor(model: LatentVariableModel, data: Any, x: Tensor | None = None) -> None:
    """Warn of a floor that nobody gave, and that is above all that a dimension varies.

    It follows the mean variance, which suits dimensions in one unit.  Pixels are, and some of an image hardly vary.
    Where nothing varies, or at a warm start of a model that no fit has given a floor, it follows nothing.

    Args:
        model: Started.
        data: What the caller gave.
        x: Some of them, (N, ...), as the model takes them; by default the first.
    """
    if model.floor_is_given or model.covariance_floor is None or getattr(data, "image_shape", None) is not None:
        return
    x = (model.as_input(data[:MANY]) if x is None else x).flatten(1)
    mean = x.double().nanmean(0)
    variance = (x.double() - mean).square().nanmean(0)
    rounding = (8 * torch.finfo(x.dtype).eps * x.nan_to_num().abs().amax(0).double()).square()
    varies = (variance > rounding) & (variance > CONSTANT * variance.nanmean())
    if not varies.any():
        warn(f"`data` do not vary, so that no `floor` can follow them: it is {model.covariance_floor:g}.", FitWarning)
    below = (variance < model.covariance_floor) & varies
    if below.any():
        least = int(variance.where(below, torch.inf).argmin())
        line = (
            f"`floor` was not given and is {model.covariance_floor:g}, above the variance of {int(below.sum())} of "
            f"{len(below)} dimensions, {variance[least]:.2g} of dimension {least}, which the fit cannot resolve; "
            "standardise data whose dimensions have different units, or give `floor`."
        )
        warn(named(line, data), FitWarning)
