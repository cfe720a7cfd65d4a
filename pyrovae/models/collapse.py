"""Collapse of the posterior: what every unit of z carries, and what a linear model of the same noise would use.

For a linear decoder the ELBO with the KL weighted by β has its maximum at W = U(Λ − βσ²I)₊^½ on the principal axes U of
the data.  A latent whose eigenvalue λ is below βσ² has a weight of zero there, and q(z|x) = p(z); one above it
has means of variance 1 − βσ²/λ over the data, a posterior variance of βσ²/λ, and a KL of ½ log(λ/βσ²) on average.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence
from torch.nn.functional import pad

from pyrovae.data import Observations, as_observations
from pyrovae.engine.checks import check_positive, check_whole
from pyrovae.engine.isolation import evaluating
from pyrovae.engine.seeding import seeded
from pyrovae.models.base import LatentVariableModel
from pyrovae.models.latents import data_axis, is_latent, kind, traced
from pyrovae.models.sites import data_plate

ROUNDING = 1e-12  # of an eigenvalue, in units of the largest
NEGLIGIBLE = 0.01  # nats, that a unit carries nothing below
NEGLIGIBLE_TOGETHER = 0.1  # nats, that all units together carry nothing below
DRAWS = 10  # of each q(z|x) whose KL has no closed form

Batch = tuple[Tensor, ...]  # what the programs are called with


# ------------------------------------------------------------------------------------------ what every unit carries


def gaussian_kl(mean: Tensor, variance: Tensor) -> Tensor:
    """KL(Normal(μ, σ²) ‖ Normal(0, 1)) = ½(μ² + σ² − 1 − log σ²), nats, of the shape of both."""
    return 0.5 * (mean.square() + variance - 1 - variance.log())


@torch.no_grad()
def latent_kl(model: LatentVariableModel, batches: Sequence[Batch]) -> Tensor | None:
    """KL(q(z|x) ‖ p(z)) of every unit of z, averaged over data; the model stays as it was, to its Python attributes.

    Of a Gaussian q of full covariance, unit l counts given those before it, so that all add up to the KL of z.  Where
    it has no closed form, as of a flow, the KL of a site is that of 10 draws, and shared among its units.

    Args:
        model: Any model.
        batches: Of data, as its programs take them.

    Returns:
        Nats, shape (L,), float64; None where no continuous z is drawn for every datum.
    """
    with untouched(model), seeded(0):
        sums = [_sums_of_units(runs(model, batch), len(batch[0])) for batch in batches]
    if not sums or not len(sums[0]):
        return None
    return torch.stack(sums).sum(0) / sum(len(batch[0]) for batch in batches)


@contextmanager
def untouched(model: LatentVariableModel) -> Iterator[None]:
    """A block in which a model is evaluated, after which buffers, modes and the attributes of modules are as before."""
    kept = [(each, dict(vars(each))) for each in model.modules()]
    try:
        with evaluating(model):
            yield
    finally:
        for module, attributes in kept:
            vars(module).clear()
            vars(module).update(attributes)


def runs(model: LatentVariableModel, batch: Batch) -> tuple[Any, Any]:
    """The sites of the guide, and of the model at its draws."""
    guide = traced(model.guide, model._like, *batch)
    return guide.nodes, traced(poutine.replay(model.model, guide), model._like, *batch).nodes


def _sums_of_units(runs: tuple[Any, Any], num_data: int) -> Tensor:
    """The KL of every unit, summed over data, from a run of guide and model."""
    guided, modelled = runs
    sums = []
    for name, q in guided.items():
        if is_latent(q) and name in modelled and kind(q) == kind(modelled[name]) == "density":
            plate = data_plate(q)
            if plate is not None and plate.size == num_data:
                kl = _kl(q["fn"], modelled[name]["fn"]).movedim(data_axis(q), 0)
                sums.append(kl.reshape(num_data, -1).double().sum(0).cpu())
    return torch.cat(sums) if sums else torch.zeros(0)


def _kl(q: Any, p: Any) -> Tensor:
    """KL(q ‖ p) of every unit, of the shape of a draw."""
    total = None
    match q, p:
        case MultivariateNormal(), Independent(base_dist=Normal()):
            factor = q.scale_tril / p.base_dist.scale[..., None]
            mean = (q.loc - p.base_dist.loc) / p.base_dist.scale
            variance = factor.square().sum(-1)
            return 0.5 * (mean.square() + variance - 1) - factor.diagonal(dim1=-2, dim2=-1).log()
        case Independent(), Independent() if q.event_shape == p.event_shape:
            total = _closed_form(q.base_dist, p.base_dist)
    if total is None:
        total = _closed_form(q, p)
    if total is None:
        z = q.sample((DRAWS,))
        total = (q.log_prob(z) - p.log_prob(z)).mean(0)
    if total.shape == q.batch_shape + q.event_shape:
        return total
    return (
        (total / q.event_shape.numel())
        .reshape(*q.batch_shape, *[1] * len(q.event_shape))
        .expand(q.batch_shape + q.event_shape)
    )


def _closed_form(q: Any, p: Any) -> Tensor | None:
    try:
        return kl_divergence(q, p)
    except NotImplementedError:
        return None


# ------------------------------------------------------------------------------------ what a linear model would use


@dataclass(frozen=True, eq=False)
class LinearForecast:
    """What a linear model of L latents would do with them at the maximum of its objective.

    Attributes:
        eigenvalues: Of the data's covariance (divided by N), the L largest, descending, shape (L,).
        noise_variance: σ².
        beta: β, the weight of the KL.
    """

    eigenvalues: Tensor
    noise_variance: float
    beta: float

    @property
    def threshold(self) -> float:
        """βσ², the eigenvalue below which a latent collapses."""
        return self.beta * self.noise_variance

    @property
    def active(self) -> Tensor:
        """Which latents it would use, shape (L,), boolean: those above the threshold by more than rounding."""
        return self.eigenvalues > self.threshold + ROUNDING * self.eigenvalues.max()

    @property
    def num_active(self) -> int:
        """How many."""
        return int(self.active.sum())

    @property
    def kl(self) -> Tensor:
        """Mean KL(q(z_l|x) ‖ p(z_l)) of each, ½ log(λ/βσ²) or 0, shape (L,), nats."""
        return 0.5 * (self.eigenvalues / self.threshold).clamp_min(1).log()

    @property
    def mean_variance(self) -> Tensor:
        """Variance over data of the posterior mean of each, 1 − βσ²/λ or 0, shape (L,)."""
        return 1 - 1 / (self.eigenvalues / self.threshold).clamp_min(1)


def linear_forecast(
    data: Observations | Tensor, noise_variance: float, latent_dim: int, *, beta: float = 1.0
) -> LinearForecast:
    """What a linear decoder with noise σ² would use of L latents, by the eigenvalues of the data's covariance.

    Args:
        data: N data, those that the model in question was fitted to.
        noise_variance: σ², in squared units of the data.
        latent_dim: L.
        beta: The weight of the KL in the objective.

    Returns:
        The forecast.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> x = torch.tensor([[2.0, 0.1], [-2.0, 0.1], [2.0, -0.1], [-2.0, -0.1]])
        >>> linear_forecast(x, noise_variance=0.25, latent_dim=2).active.tolist()
        [True, False]

    Reference:
        Lucas, Tucker, Grosse and Norouzi (2019), Don't blame the ELBO! A linear VAE perspective on posterior collapse.
    """
    check_whole("latent_dim", latent_dim)
    check_positive("noise_variance", noise_variance)
    check_positive("beta", beta)
    x = as_observations(data).fixed().x.flatten(1).double()
    centred = (x - x.mean(0)) / math.sqrt(len(x))
    gram = centred.T @ centred if len(x) >= x.shape[1] else centred @ centred.T
    values = torch.linalg.eigvalsh(gram).flip(0)[:latent_dim].clamp_min(0)
    return LinearForecast(pad(values, (0, latent_dim - len(values))), noise_variance, beta)
