"""Pareto k̂ of importance weights, by ArviZ (0.23 and 1.x)."""

import math

import numpy as np
import torch
from torch import Tensor

from pyrovae.engine.isolation import quiet


def pareto_k(log_weights: Tensor) -> Tensor:
    """Shape k̂ of the generalised Pareto fitted to the largest importance weights of each datum.

    Args:
        log_weights: Shape (S, N), nats.

    Returns:
        k̂, shape (N,).  −∞ where all weights are equal, which is the best there is (the guide is the posterior); NaN,
        for not available, where the largest weights are too few to fit a tail, or too few of them differ (a discrete
        z).

    Reference:
        Vehtari, Simpson, Gelman, Yao and Gabry (2024), Pareto smoothed importance sampling.
    """
    values = log_weights.detach().double().cpu()
    spread = values.amax(0) - values.amin(0)
    last_digit = torch.finfo(log_weights.dtype).eps * values.abs().amax(0).clamp_min(1)
    rounding = 64 * last_digit
    k_hat = torch.full(values.shape[1:], math.nan, dtype=torch.float64)
    if len(values) > 1:  # a single weight is equal to itself
        k_hat[spread <= rounding] = -math.inf
    tail = values.topk(int(min(len(values) / 5, 3 * math.sqrt(len(values)))), dim=0).values  # that ArviZ fits
    rest = (spread > rounding) & ((tail.diff(dim=0).abs() > 8 * last_digit).sum(0) >= 4)  # it needs five
    if rest.any():
        k_hat[rest] = torch.from_numpy(np.asarray(_psislw(values[:, rest].T.numpy()), dtype=np.float64))
    return k_hat


def k_hat_threshold(num_particles: int) -> float:
    """The k̂ up to which S weights give a reliable estimate, min(1 − 1/log₁₀ S, 0.7).

    Example:
        >>> round(k_hat_threshold(100), 2), round(k_hat_threshold(10_000), 2)
        (0.5, 0.7)
    """
    return min(1 - 1 / math.log10(num_particles), 0.7) if num_particles > 1 else -math.inf


def _psislw(log_weights: np.ndarray) -> np.ndarray:
    """k̂ of each row."""
    with quiet():  # both versions announce their own changes on import
        import arviz

        if hasattr(arviz, "psislw"):
            return arviz.psislw(log_weights)[1]
        from arviz_stats.base import array_stats

        return array_stats.psislw(-log_weights, axis=-1)[1]  # it takes log-likelihoods, to weigh by their inverses
