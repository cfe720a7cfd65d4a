"""Why a posterior has collapsed: what a decoder and the data say about it.

Near z = 0 any p(x|z) that has collapsed obeys the rule of the linear model, see :mod:`pyrovae.models.collapse`, for
data about its means in units of its standard deviations: a latent is of use if an eigenvalue of their covariance is
above β.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from pyrovae.engine.seeding import seeded
from pyrovae.models.base import LatentVariableModel
from pyrovae.models.collapse import NEGLIGIBLE, Batch, LinearForecast, linear_forecast, runs, untouched
from pyrovae.models.latents import data_axis, data_first, is_latent, is_random, traced
from pyrovae.models.ppca import PPCA
from pyrovae.models.sites import data_plate

SMALLEST = 1e-12  # of a variance
RARE = 0.1  # of the mean variance: that of a pixel that is on or off in nearly all images is taken to be this
HELD_OUT = 5  # of so many data one is held out where there are no validation data


@dataclass(frozen=True)
class Residuals:
    """Data about the means of p(x|z), in units of its standard deviations, dimension by dimension.

    Attributes:
        values: (x − E[x|z]) / σ(x|z) at z ~ q(z|x), shape (N, D), float64.
        noise_variance: σ², where all dimensions share it, else 1.
        has_one_scale: Whether they do.
        is_learned: Whether σ has parameters of its own to be learned.
    """

    values: Tensor
    noise_variance: float
    has_one_scale: bool
    is_learned: bool

    def forecast(self, latent_dim: int, beta: float, relative_noise: float = 1.0) -> LinearForecast:
        """What a linear model would use of L latents, at this noise or another, relative to it."""
        x = self.values * math.sqrt(self.noise_variance)
        return linear_forecast(x, relative_noise * self.noise_variance, latent_dim, beta=beta)


def residuals(model: LatentVariableModel, batches: Sequence[Batch]) -> Residuals | None:
    """The residuals of data, as the programs take them; None where p(x|z) has no mean or variance.

    With a posterior that has collapsed, they are what z has left to explain, after labels, say.
    """
    with untouched(model), seeded(0), torch.enable_grad():
        parts = [_residuals(runs(model, batch)[1]) for batch in batches]
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    values, variances = (torch.cat(part) for part in list(zip(*known, strict=True))[:2])
    smallest, largest = (each.item() for each in variances.aminmax())
    shared = largest <= smallest * (1 + 1e-4)
    noise = variances.mean().item() if shared else 1.0
    return Residuals(values, noise, shared, known[0][2]) if values.isfinite().all() and noise > 0 else None


def _residuals(modelled: Any) -> tuple[Tensor, Tensor, bool] | None:
    """Of the only observed site of a run: residuals and variances (N, D), and whether the latter are learned."""
    observed = [site for site in modelled.values() if is_random(site) and site["is_observed"]]
    try:
        (site,) = observed
        mean, variance = site["fn"].mean, site["fn"].variance
    except (ValueError, AttributeError, NotImplementedError):
        return None
    x, mean, spread = (
        data_first(site, each.expand_as(site["value"])).detach().flatten(1).double().cpu()
        for each in (site["value"], mean, variance)
    )
    discrete = site["fn"].support.is_discrete
    if discrete:  # values that hardly ever occur would outweigh all others
        spread = spread.clamp_min(RARE * spread.mean())
    learned = variance.requires_grad and not discrete
    return (x - mean) / spread.sqrt().clamp_min(SMALLEST), spread, learned


@dataclass(frozen=True)
class LinearGain:
    """What probabilistic PCA of L latents gains over none on data that it was not fitted to.

    Attributes:
        nats: Mean of log p(x) less that without latents, per datum.
        standard_error: Of that.
        noise_variance: Its σ², relative to that without latents.
    """

    nats: float
    standard_error: float
    noise_variance: float

    @property
    def is_none(self) -> bool:
        """Whether it is negligible, or within two standard errors of nothing."""
        return self.nats <= max(NEGLIGIBLE, 2 * self.standard_error)


def linear_gain(train: Tensor, held_out: Tensor | None, latent_dim: int) -> LinearGain:
    """Fit probabilistic PCA with L latents and with none, and compare them on data (N, D) held out.

    Args:
        train: Data to fit to; a fifth of them is held out where ``held_out`` is None.
        held_out: Data to compare on.
        latent_dim: L; of as many as such a model can have.
    """
    if held_out is None:
        is_held = torch.arange(len(train)) % HELD_OUT == 0
        train, held_out = train[~is_held], train[is_held]
    num_dims, num_data = train.shape[1], len(train)
    variance = train.var(0, correction=0).mean().clamp_min(SMALLEST)
    train, held_out = train / variance.sqrt(), held_out / variance.sqrt()
    most = min(latent_dim, num_dims - 1, num_data - 2)
    if most < 1:
        return LinearGain(0.0, 0.0, 1.0)
    none, some = (PPCA(number, num_dims, floor=1e-6) for number in (0, most))
    for each in (none, some):
        each.maximum_likelihood(train)
    with torch.no_grad():
        gain = some.log_prob(held_out) - none.log_prob(held_out)
        error = (gain.std() / math.sqrt(len(gain))).item() if len(gain) > 1 else math.inf
        return LinearGain(gain.mean().item(), error, some.noise_variance.item())


def ignores_latents(model: LatentVariableModel, batch: Batch) -> bool:
    """Whether p(x|z) is the same whatever z is, and stays so with other parameters, which tells it from dead units."""
    if len(batch[0]) < 2 or not _same_at_other_latents(model, batch):  # one datum has no other's latents
        return False
    other = model.copy()
    with torch.no_grad(), seeded(0):
        for each in other.model.parameters():
            if each.is_floating_point():
                each.copy_(torch.randn_like(each) / math.sqrt(each[0].numel() if each.ndim else 1))
    try:
        return _same_at_other_latents(other, batch)
    except (ValueError, RuntimeError):  # parameters that cannot be
        return False


@torch.no_grad()
def _same_at_other_latents(model: LatentVariableModel, batch: Batch) -> bool:
    """Whether log p(x|z) is the same for z of one datum as for z of the next."""
    with untouched(model), seeded(0):
        guide = traced(model.guide, model._like, *batch)
        found = []
        for shift in (0, 1):
            for site in guide.nodes.values():
                if is_latent(site) and data_plate(site) is not None:
                    site["value"] = site["value"].roll(shift, data_axis(site))
            nodes = traced(poutine.replay(model.model, guide), model._like, *batch).nodes.values()
            observed = [site for site in nodes if is_random(site) and site["is_observed"]]
            found.append([site["fn"].log_prob(site["value"]) for site in observed])
    return all(torch.equal(one, other) for one, other in zip(*found, strict=True))
