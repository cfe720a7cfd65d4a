"""What each datum counts for: a weight of 2 is that datum twice, a weight of 0 is one that is not there."""

from typing import Any

import numpy as np
import torch
from torch import Tensor


def as_weight(sample_weight: Any, count: int, name: str = "sample_weight", *, positive: bool = True) -> Tensor:
    """Weights (N,) in float64, as they are.

    Args:
        sample_weight: One number a datum: a tensor, an array, a column, a list.
        count: N.
        name: Of the argument.
        positive: Whether some datum must count for something.

    Raises:
        ValueError: If there is not one finite, non-negative number a datum.
    """
    weight = sample_weight
    if not isinstance(weight, Tensor):  # a masked weight is none
        weight = torch.tensor(np.ma.asarray(sample_weight, np.float64).filled(np.nan))
    if weight.shape != (count,):
        raise ValueError(f"`{name}` must have shape ({count},), one entry a datum, got {tuple(weight.shape)}.")
    if not torch.isfinite(weight).all() or (weight < 0).any() or (positive and not weight.sum() > 0):
        raise ValueError(
            f"`{name}` must be finite and not negative{', and not all of them zero' if positive else ''}, "
            f"got values in [{weight.min().item():g}, {weight.max().item():g}]."
        )
    return weight.double()


def weighted_sum(values: Tensor, weight: Tensor | None) -> tuple[float, float]:
    """Σ w v and Σ w in float64; what has no weight does not count, −inf neither.

    Example:
        >>> weighted_sum(torch.tensor([-1.0, -3.0, -torch.inf]), torch.tensor([2.0, 1.0, 0.0]))
        (-5.0, 3.0)
    """
    values = values.double()
    if weight is None:
        return values.sum().item(), float(len(values))
    weight = weight.to(values)
    return torch.where(weight > 0, weight * values, 0.0).sum().item(), weight.sum().item()
