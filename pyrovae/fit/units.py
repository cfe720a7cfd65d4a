"""Units of data in which a fit would go wrong without a word: what it does about them, or says."""

import torch
from torch import Tensor

from pyrovae.data import Observations
from pyrovae.fit.result import FitWarning, warn
from pyrovae.models.base import LatentVariableModel

MANY = 10_000  # data that show the size of all
COARSE = 1e-3  # of a deviation: the rounding of data that changes a fit
CONSTANT = 1e-28  # of the mean variance: rounding of a rotation, say, in a dimension that does not vary


def precise_enough(model: LatentVariableModel, observations: Observations) -> LatentVariableModel:
    """The model, in float64 where float32 cannot tell the data apart: those that vary little about large numbers."""
    x = observations.x[:MANY].flatten(1)
    if x.dtype != torch.float64 or model._like.dtype != torch.float32 or model.support != "real":
        return model
    steps = torch.finfo(torch.float32).eps * x.abs().amax(0)
    std = x.std(0, correction=0)
    lost = (steps > COARSE * std) & (std > torch.finfo(torch.float64).eps * x.abs().amax(0))
    if not lost.any():
        return model
    worst = int((steps / std).nan_to_num().argmax())
    warn(
        f"`data` vary by {std[worst]:.2g} about {x[:, worst].mean():.2g} in dimension {worst}, where float32 goes in "
        f"steps of {steps[worst]:.2g}: the fit is in float64; subtract the mean first for one in float32.",
        FitWarning,
    )
    return model.double()


def warn_of_floor(model: LatentVariableModel, x: Tensor, data: object) -> None:
    """Warn of a floor that nobody gave, and that is above all that a dimension varies.

    It follows the mean variance, which suits dimensions in one unit.  Pixels are, and some of an image hardly vary.
    Where nothing varies, or at a warm start of a model that no fit has given a floor, it follows nothing.

    Args:
        model: Started.
        x: Its data, (N, ...), as the model takes them.
        data: What the caller gave.
    """
    if model.floor_is_given or model.covariance_floor is None or getattr(data, "image_shape", None) is not None:
        return
    x = x.flatten(1)
    mean = x.double().nanmean(0)
    variance = (x.double() - mean).square().nanmean(0)
    rounding = (8 * torch.finfo(x.dtype).eps * x.nan_to_num().abs().amax(0).double()).square()
    varies = (variance > rounding) & (variance > CONSTANT * variance.nanmean())
    below = (variance < model.covariance_floor) & varies
    if below.any():
        least = int(variance.where(below, torch.inf).argmin())
        warn(
            f"`floor` was not given and is {model.covariance_floor:g}, above the variance of {int(below.sum())} of "
            f"{len(below)} dimensions, {variance[least]:.2g} of dimension {least}, which the fit cannot resolve; "
            "standardise data whose dimensions have different units, or give `floor`.",
            FitWarning,
        )
