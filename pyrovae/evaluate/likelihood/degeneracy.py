"""Likelihoods that a floor has made: where variances lie at ε, and what the score would be under a higher one.

The likelihood of Gaussians is unbounded: a component on a single datum or a decoder with σ → 0 has any score that one
wants.  A floor, Σ ⪰ ε I, bounds it by the density of the narrowest Gaussian at its mean, −(D/2) log 2πε; but a score
that comes from variances at the floor is then a statement about ε, which somebody chose, and not about the data.
"""

import math
from dataclasses import dataclass

from torch import Tensor

from pyrovae.data import Observations, as_observations
from pyrovae.engine.checks import check_positive, check_whole
from pyrovae.evaluate.likelihood.estimate import standard_error
from pyrovae.evaluate.likelihood.log_likelihood import log_likelihood
from pyrovae.models.base import LatentVariableModel
from pyrovae.models.floors import AT_FLOOR


@dataclass(frozen=True, eq=False)
class DegeneracyReport:
    """What the floor has to do with a score; nats per datum, in the space that the model sees.

    Attributes:
        floor: ε, in squared units of the data.
        at_floor: Of the D variances about each datum, the share at the floor, which is up to 1.1 ε, shape (N,).
        score: Mean log p(x), or its importance-weighted bound.
        raised_floor: The higher floor, ε times ten unless another factor was asked for.
        raised_score: The same mean with the variances below the higher floor lifted to it, from the same draws.
        change: ``raised_score`` − ``score``.
        change_standard_error: Of the change, by its spread over data.
        ceiling: −(D/2) log 2πε: no datum can have a higher log p(x) under this floor.  With values missing, its mean
            over data, D counting the observed ones.
    """

    floor: float
    at_floor: Tensor
    score: float
    raised_floor: float
    raised_score: float
    change: float
    change_standard_error: float
    ceiling: float

    @property
    def share_of_dimensions(self) -> float:
        """Share of all variances, D for each datum, that are at the floor."""
        return self.at_floor.mean().item()

    @property
    def share_of_data(self) -> float:
        """Share of the data with at least one variance at the floor."""
        return (self.at_floor > 0).double().mean().item()

    @property
    def flagged(self) -> bool:
        """Whether any of the likelihood comes from the floor."""
        return self.share_of_data > 0

    @property
    def meaning(self) -> str:
        """One sentence on what the floor has to do with the score."""
        if not self.flagged:
            return f"No variance is at the floor, {self.floor:g}."
        return (
            f"{self.share_of_dimensions:.1%} of the variances are at the floor, {self.floor:g}, and "
            f"{self.share_of_data:.1%} of the data have one there; with a floor of {self.raised_floor:g} the score "
            f"changes by {self.change:+z.2f} nats.  The floor's ceiling is {self.ceiling:.2f}.  A variance is "
            f"at the floor up to {AT_FLOOR:g} times it."
        )

    def __str__(self) -> str:
        return self.meaning


def degeneracy_report(
    model: LatentVariableModel,
    data: Observations | Tensor,
    *,
    factor: float = 10.0,
    num_particles: int = 100,
    seed: int = 0,
    progress: bool | None = None,
) -> DegeneracyReport | None:
    """How much of a model's score comes from its floor ε on covariances.

    The score is taken twice, as it is and with every variance below ``factor`` · ε lifted to that: the σ of a decoder,
    the eigenvalues of a component's covariance.  A model that uses variances of its own hardly notices.

    Args:
        model: Any model.
        data: N data, in the space that the model sees.
        factor: How many times higher the other floor is.
        num_particles: Particles of each datum where the likelihood is not exact; both scores use the same draws.
        seed: Of the draws.
        progress: Show a progress bar; by default one appears after a second.

    Returns:
        The report, or None for a model without a floor: a mass, a σ that was given, a decoder of one's own.

    Raises:
        ValueError: If ``factor`` is not above 1, or the data do not fit.

    Example:
        >>> import torch
        >>> from pyrovae import GaussianMixture
        >>> gmm = GaussianMixture(num_components=1, data_shape=(2,), floor=1e-4)  # of unit covariance
        >>> report = degeneracy_report(gmm, torch.zeros(3, 2, dtype=torch.float64))
        >>> report.flagged, round(report.change, 6), round(report.ceiling, 2)
        (False, 0.0, 7.37)

    Reference:
        Mattei and Frellsen (2018), Leveraging the exact likelihood of deep latent variable models.
    """
    check_positive("factor", factor, above=1)
    check_whole("num_particles", num_particles)
    floor = model.covariance_floor
    if floor is None:
        return None
    observations = as_observations(data, allow_nan=model.missing == "nan").fixed(seed)
    both = [
        log_likelihood(each, observations, num_particles, seed=seed, progress=progress).values.double()
        for each in (model, model.with_floor(factor * floor))
    ]
    change = both[1] - both[0]
    num_dims = (~observations.x.isnan()).sum().item() / len(observations)
    return DegeneracyReport(
        floor=floor,
        at_floor=model.share_at_floor(observations).double().cpu(),
        score=both[0].mean().item(),
        raised_floor=factor * floor,
        raised_score=both[1].mean().item(),
        change=change.mean().item(),
        change_standard_error=standard_error(change),
        ceiling=-0.5 * num_dims * math.log(2 * math.pi * floor),
    )
