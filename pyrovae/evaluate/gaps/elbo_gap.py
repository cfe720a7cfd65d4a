"""Where the ELBO loses: to the family of q, and to the encoder that must serve every datum.

log p(x) − ELBO[q] = (log p(x) − ELBO[q*]) + (ELBO[q*] − ELBO[q]), q* being the best q of its family for this one datum:
the approximation gap and the amortization gap.  The whole is KL(q(z|x) ‖ p(z|x)), known exactly where the
posterior is.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from pyrovae.data import Observations
from pyrovae.engine.checks import check_choice, check_whole
from pyrovae.engine.execution import keywords_moved
from pyrovae.engine.isolation import alone
from pyrovae.evaluate.evaluation import Evaluation
from pyrovae.evaluate.gaps.closed_form import exact_kl, guide_and_posterior
from pyrovae.evaluate.latents.encoding import is_continuous, posteriors
from pyrovae.evaluate.likelihood.best_gaussian import (
    DEFAULT_SEARCH,
    Family,
    GaussianPosteriors,
    SearchOptions,
    as_gaussian,
    best_gaussians,
    log_weights_at,
)
from pyrovae.evaluate.likelihood.estimate import LogLikelihood, error_of_mean, known, short_by
from pyrovae.evaluate.likelihood.joint import Joint
from pyrovae.evaluate.likelihood.plates import check_likelihood, plates_of
from pyrovae.evaluate.likelihood.tiles import Tiles
from pyrovae.models.base import LatentVariableModel, Program
from pyrovae.models.linear_algebra import log_det

BLOCK = 256  # data whose q* are searched for together; part of the definition of what a seed gives


@dataclass(frozen=True, eq=False)
class ELBOGap:
    """What the ELBO is short of log p(x), per datum, and why; nats, each shape (N,).

    Attributes:
        log_prob: log p(x), exact or the estimate given.
        elbo: ELBO of the guide's q.
        best_elbo: ELBO of q*, the best of ``family`` for the datum.
        log_prob_standard_error, elbo_standard_error, best_elbo_standard_error: Monte-Carlo standard errors; 0 where
            exact.
        amortization_standard_error: That of :attr:`amortization_gap`, whose two ELBOs share their noise.
        family: The family of q*.
        method: ``"exact"``, all in closed form, or ``"optimized"``.
        num_steps: The most steps that the search for q* took in any block of data.
    """

    log_prob: Tensor
    elbo: Tensor
    best_elbo: Tensor
    log_prob_standard_error: Tensor
    elbo_standard_error: Tensor
    best_elbo_standard_error: Tensor
    amortization_standard_error: Tensor
    family: Family
    method: Literal["exact", "optimized"]
    num_steps: int = 0

    @property
    def gap(self) -> Tensor:
        """log p(x) − ELBO = KL(q ‖ p(z|x))."""
        return self.log_prob - self.elbo

    @property
    def approximation_gap(self) -> Tensor:
        """log p(x) − ELBO[q*]: what the family cannot express.  With log p(x) bounded from below, so is this."""
        return self.log_prob - self.best_elbo

    @property
    def approximation_standard_error(self) -> Tensor:
        """Monte-Carlo standard error of :attr:`approximation_gap`."""
        return (self.log_prob_standard_error.square() + self.best_elbo_standard_error.square()).sqrt()

    @property
    def amortization_gap(self) -> Tensor:
        """ELBO[q*] − ELBO: what the encoder loses by serving all data.  Negative if q is outside of ``family``."""
        return self.best_elbo - self.elbo

    @property
    def too_low(self) -> str:
        """One sentence where log p(x) lies below an ELBO by more than chance, and so is too low; else ``""``."""
        given = self.log_prob.double().mean().item(), error_of_mean(self.log_prob_standard_error)
        for name, elbo, error in (
            (f"the ELBO of the best {self.family} q", self.best_elbo, self.best_elbo_standard_error),
            ("the ELBO", self.elbo, self.elbo_standard_error),
        ):
            if short := short_by(*given, elbo.double().mean().item(), error_of_mean(error)):
                return f"log p(x) as given lies {short:,.3f} nats below {name}, a lower bound; take a tighter one."
        return ""

    def in_reference(self, log_abs_det: Tensor) -> "ELBOGap":
        """The same with its densities brought to the reference space of the data; gaps are the same in all spaces.

        Args:
            log_abs_det: That of the data, shape (N,).
        """
        moved = {name: getattr(self, name) + log_abs_det.to(self.elbo) for name in ("log_prob", "elbo", "best_elbo")}
        return replace(self, **moved)

    def __str__(self) -> str:
        rows = [
            ("log p(x)", self.log_prob, self.log_prob_standard_error),
            ("− approximation gap", self.approximation_gap, self.approximation_standard_error),
            (f"= ELBO, best {self.family} q", self.best_elbo, self.best_elbo_standard_error),
            ("− amortization gap", self.amortization_gap, self.amortization_standard_error),
            ("= ELBO", self.elbo, self.elbo_standard_error),
        ]
        lines = [f"{name:<22} {value.mean():12.4f} ± {known(error_of_mean(error))}" for name, value, error in rows]
        told = f"nats per datum, N = {len(self.elbo):,}, {self.method}; ± Monte-Carlo error"
        unknown = self.log_prob_standard_error.isnan().any()
        return "\n".join(
            [*lines, told + (", n/a where it is not known" if unknown else ""), *filter(None, [self.too_low])]
        )


@keywords_moved(search=SearchOptions)
def elbo_gap(
    model: LatentVariableModel,
    data: Observations | Tensor,
    family: Family = "diag",
    *,
    log_prob: LogLikelihood | Tensor | None = None,
    method: Literal["auto", "exact", "optimized"] = "auto",
    guide: Program | None = None,
    num_particles: int = 1000,
    search: SearchOptions = DEFAULT_SEARCH,
    chunk_size: int | None = None,
    seed: int = 0,
    progress: bool | None = None,
) -> ELBOGap:
    """log p(x) − ELBO of every datum, split into what q's family costs and what amortization costs.

    Where the posterior is known, all is in closed form: the best diagonal q of a Gaussian posterior with precision Λ
    has its mean and the variances 1/Λ_ii, at a distance of ½(Σ log Λ_ii − log|Λ|).  Otherwise q* is searched for, from
    the guide's q, and both ELBOs are taken at noise that the search has not seen.

    Args:
        model: Any model with one latent site z of event shape (L,), unconstrained, and a Gaussian q.
        data: N data.
        family: That of q*: a Gaussian of ``"diag"`` or ``"full"`` covariance.
        log_prob: log p(x) of these data as :func:`log_likelihood` or :func:`ais` gives it, or a tensor (N,) without
            error, as the values of :func:`quadrature`; left out for a tractable model, which has it exactly.
        method: ``"exact"``, ``"optimized"``, or ``"auto"``: exact if the model's posterior is known.
        guide: q; by default ``model.guide``.
        num_particles: Particles of the two ELBOs.
        search: How q* is searched for.
        chunk_size: (particle, datum) pairs decoded at once; bounds the memory.
        seed: Seed of all noise.
        progress: Show a progress bar; by default one appears after a second.

    Returns:
        The gap, in its two parts.

    Raises:
        ValueError: If an argument is out of range, or log p(x) is neither known nor given.
        TypeError: If q is no Gaussian.

    Example:
        >>> from pyrovae import PPCA
        >>> found = elbo_gap(PPCA(latent_dim=2, data_shape=(5,)), torch.zeros(3, 5), "full")
        >>> found.method, found.gap.abs().max().item() < 1e-12
        ('exact', True)

    Reference:
        Cremer, Li and Duvenaud (2018), Inference suboptimality in variational autoencoders.
    """
    check_choice("family", family, ("diag", "full"))
    check_choice("method", method, ("auto", "exact", "optimized"))
    check_whole("num_particles", num_particles, 2)
    if method == "exact" or (method == "auto" and hasattr(model, "posterior")):
        return _exact(model, data, family, guide)
    run = Evaluation(model, data, guide, chunk_size, seed, progress)
    exact, error = _log_prob(model, data, log_prob)
    with alone():  # where gradients can be taken
        (elbo, best_elbo, _), (of_elbo, of_best, of_change), steps = _optimized(run, family, search, num_particles)
    errors = error.to(elbo), of_elbo, of_best, of_change
    return ELBOGap(exact.to(elbo), elbo, best_elbo, *errors, family, "optimized", steps)


@torch.no_grad()
def _exact(model: Any, data: Observations | Tensor, family: Family, guide: Program | None) -> ELBOGap:
    pairs = list(guide_and_posterior(model, data, guide))
    kl = torch.cat([exact_kl(q, p) for q, p in pairs])
    smallest = torch.cat([_smallest_kl(p, family) for _, p in pairs])
    log_prob = model.log_prob(data)
    zeros = torch.zeros_like(log_prob)
    return ELBOGap(log_prob, log_prob - kl, log_prob - smallest, zeros, zeros, zeros, zeros, family, "exact")


def _smallest_kl(posterior: Any, family: Family) -> Tensor:
    """The distance from the nearest q of the family, for a block of exact posteriors, (n,)."""
    if not is_continuous(posterior):
        return torch.zeros_like(posterior.logits[..., 0])  # a categorical q is as good as any
    if family == "full":
        return torch.zeros_like(posterior.mean[..., 0])
    factor = as_gaussian(posterior).scale_tril
    precision = torch.cholesky_inverse(factor).diagonal(dim1=-2, dim2=-1)
    return 0.5 * precision.log().sum(-1) + log_det(factor)


def _optimized(
    run: Evaluation, family: Family, search: SearchOptions, num_particles: int
) -> tuple[Tensor, Tensor, int]:
    """Of ELBO[q], ELBO[q*] and their difference, at the same noise, the means and standard errors, each (3, N); and the
    most steps that a search took."""
    amortized = [as_gaussian(q) for q in posteriors(run.model, run.data, guide=run.guide)]
    every_q = zip(*(torch.cat(part).split(BLOCK) for part in zip(*amortized, strict=True)), strict=True)
    means, errors, most = [], [], 0
    with run.at(0):
        plates = plates_of(run, run.guide, run.model.model)
    if plates.masked:
        raise ValueError(f"`model` must have latents without a mask for this gap, got one at {plates.masked[0]!r}.")
    check_likelihood(plates)
    with run.bar(len(run.inputs[0]), "best q of each datum") as bar:
        for (number, block), parameters in zip(run.blocks(BLOCK), every_q, strict=True):
            q = GaussianPosteriors(*parameters)
            with run.at(number):
                joint = Joint(run.model.model, block, Tiles.of(run), plates)
                best, num_steps = best_gaussians(joint, q, family, search)
                noise = torch.randn(num_particles, *q.mean.shape, dtype=q.mean.dtype, device=q.mean.device)
                elbo, best_elbo = (log_weights_at(joint, each, noise) for each in (q, best))
            log_w = torch.stack([elbo, best_elbo, best_elbo - elbo])
            means.append(log_w.mean(1))
            errors.append(log_w.std(1, correction=1) / math.sqrt(num_particles))
            most = max(most, num_steps)
            bar.update(len(block[0]))
    return torch.cat(means, dim=1), torch.cat(errors, dim=1), most


@torch.no_grad()
def _log_prob(model: Any, data: Observations | Tensor, given: LogLikelihood | Tensor | None) -> tuple[Tensor, Tensor]:
    """log p(x) and its standard error: exact where that is known, else what is given."""
    if hasattr(model, "log_prob"):
        exact = model.log_prob(data)
        return exact, torch.zeros_like(exact)
    if given is None:
        raise ValueError(
            "`log_prob` must be given for a model without an exact one, got None; pass evaluate.log_likelihood(model, "
            "data) or evaluate.ais(model, data)."
        )
    values = given if isinstance(given, Tensor) else given.values
    if values.shape != (len(data),):
        raise ValueError(f"`log_prob` must be of the same {len(data)} data, got shape {tuple(values.shape)}.")
    return values, torch.zeros_like(values) if isinstance(given, Tensor) else given.standard_error
