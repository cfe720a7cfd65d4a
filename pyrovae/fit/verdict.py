"""What a fit by SVI says of itself at its end: whether the posterior collapsed, and whether one Gaussian is better."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pyrovae.engine.isolation import alone
from pyrovae.engine.seeding import seeded
from pyrovae.fit.loss import BatchLoss
from pyrovae.fit.result import DegeneracyWarning, FitResult, FitWarning, warn
from pyrovae.fit.training import TrainingState
from pyrovae.models.collapse import NEGLIGIBLE, NEGLIGIBLE_TOGETHER, Batch, latent_kl
from pyrovae.models.collapse_causes import Residuals, ignores_latents, linear_gain, residuals
from pyrovae.models.reference import independent_bernoullis, one_gaussian
from pyrovae.models.tractable import TractableModel

FEWEST = 300  # steps; in fewer, latents of a sound fit have been seen not to be in use yet
DATA, BATCHES = 1000, 16  # that the KL is looked at on at the end, at most
MOST_DIMS, MOST_DATA = 2000, 10_000  # of one full Gaussian
MARGIN = 0.1  # nats, or the standard error: a score within it of another is as good
SHARE = 0.1  # of the arithmetic of the fit, that one Gaussian may take
SMALL_STEPS = "a schedule that begins with small steps, a KL warm-up, `num_restarts`, or a larger likelihood floor"
BELOW = ".* is below the log p of "  # how a user's filter knows the warning of the score


def watch(state: TrainingState, loss: BatchLoss, batch_size: int) -> None:
    """After epochs 1, 2, 4, … look whether the posterior has collapsed, on a batch, so that it is known since when."""
    if state.epoch & (state.epoch - 1) == 0:
        kl = latent_kl(state.model, _batches(loss, batch_size, 1))
        if not is_collapsed(kl):
            state.collapsed_since = None
        elif state.collapsed_since is None:
            state.collapsed_since = state.epoch


def judged(
    result: FitResult, state: TrainingState, loss: BatchLoss, batch_size: int, valid: Sequence[Tensor]
) -> FitResult:
    """The result with the KL of its latents, and a warning where they carry nothing, or one Gaussian does better.

    Args:
        result: Of the fit.
        state: Of the training that led to it.
        loss: Of its batches.
        batch_size: Data in one.
        valid: Validation data, as the programs take them; empty without.
    """
    with alone():
        batches = _batches(loss, batch_size, BATCHES)
        kl = latent_kl(result.model, batches)
        result = replace(result, latent_kl=kl)
        if state.num_steps < FEWEST:
            return result
        if kl is not None and is_collapsed(kl):
            line = _collapse(result.model, kl, state, loss, batches, valid)
            warn(f"SVI ended in a degenerate fit: {line}.", DegeneracyWarning)
            return replace(result, degeneracies=(*result.degeneracies, line))
        if valid and _weight_of_kl(loss) == 1:
            _warn_of_score(result, state, loss, batch_size, valid[0].flatten(1))
        return result


def is_collapsed(kl: Tensor | None) -> bool:
    """Whether every unit carries next to nothing, or all of them do together."""
    return kl is not None and bool((kl < NEGLIGIBLE).all() or kl.sum() < NEGLIGIBLE_TOGETHER)


def _batches(loss: BatchLoss, batch_size: int, most: int) -> list[Batch]:
    """Some of the training data, the same at every call, in batches as large as those of the fit."""
    num_data = len(loss.feed.observations)
    size = min(batch_size, num_data)
    number = max(1, min(most, DATA // size, num_data // size))
    index = torch.arange(number * size, device=loss.feed.observations.x.device)
    with seeded(0):
        return [loss.batch(rows) for rows in (index * num_data // len(index)).split(size)]


def _weight_of_kl(loss: BatchLoss) -> float:
    """β, at the end of its warm-up."""
    elbo: Any = loss.elbo.elbo
    return float(elbo.beta_at(math.inf)) if hasattr(elbo, "beta_at") else 1.0


def _collapse(
    model: Any, kl: Tensor, state: TrainingState, loss: BatchLoss, batches: list[Batch], valid: Sequence[Tensor]
) -> str:
    """That the posterior collapsed, since when, and why."""
    latent_dim, is_none = len(kl), bool((kl < NEGLIGIBLE).all())
    carried, almost = f"of {latent_dim} latents carry under {NEGLIGIBLE:g}", ""
    if not is_none:
        carried, almost = f"latents together carry {kl.sum():.2g}", "almost "
    since = "" if state.collapsed_since is None else f" since epoch {state.collapsed_since} of {state.epoch}"
    found = residuals(model, batches)
    if ignores_latents(model, batches[0]):
        why = "the decoder ignores z, p(x|z) is the same whatever z is: let z into it"
    elif found is None:
        why = f"the optimiser may be to blame: try {SMALL_STEPS}"
    else:
        held_out = residuals(model, [tuple(each[:DATA] for each in valid)]) if valid else None
        why = reason(found, held_out, latent_dim, _weight_of_kl(loss))
    without = f"log p is {almost}that of p(x) without latents"
    return f"posterior collapsed: {latent_dim} {carried} nats{since}; {without}; {why}"


def reason(train: Residuals, held_out: Residuals | None, latent_dim: int, beta: float) -> str:
    """Why a posterior collapsed whose decoder does take z, and what to try.

    Args:
        train: What p(x|z) leaves of training data.
        held_out: And of validation data, if there are any.
        latent_dim: L.
        beta: The weight of the KL.
    """
    gain = linear_gain(train.values, None if held_out is None else held_out.values, latent_dim)
    if gain.is_none:
        return (
            f"it may be the best for these data: a linear model gains {gain.nats:.2g} ± {gain.standard_error:.1g} nats "
            "by its latents on data held out"
        )
    forecast = train.forecast(latent_dim, beta)
    if forecast.num_active == 0:
        largest, noise = forecast.eigenvalues[0].item(), train.noise_variance
        unit = "" if train.has_one_scale else ", both in units of the variance of p(x|z)"
        return (
            f"the objective asks for it: beta sigma^2 = {forecast.threshold:.3g} is above the largest eigenvalue of "
            f"the data's covariance, {largest:.3g}{unit}; lower {'sigma' if largest <= noise else 'beta'}"
        )
    best = min(1.0, gain.noise_variance) if train.is_learned else 1.0
    used = train.forecast(latent_dim, beta, best).num_active
    return f"a linear model would use {used} of {latent_dim} latents: try {SMALL_STEPS}"


def _warn_of_score(result: FitResult, state: TrainingState, loss: BatchLoss, batch_size: int, valid: Tensor) -> None:
    """Warn if the ELBO on validation data is below log p of a closed form, by more than the margin."""
    of_fit = 6 * state.num_steps * batch_size * sum(each.numel() for each in state.parameters)
    found = _closed_form(result.model, loss.feed.observations.x.flatten(1), SHARE * of_fit)
    if found is None or result.elbo is None:
        return
    name, reference, advice = found
    with torch.no_grad():
        log_p = reference.log_prob(valid.double())
    error = (log_p.std() / math.sqrt(len(log_p))).item() if len(log_p) > 1 else math.inf
    if result.elbo < log_p.mean().item() - max(error, MARGIN):
        warn(
            f"the ELBO on `valid`, {result.elbo:.2f} nats, is below the log p of {name} in closed form, "
            f"{log_p.mean().item():.2f}; try {advice}more latents, more steps, or `num_restarts`.",
            FitWarning,
        )


def _closed_form(model: Any, x: Tensor, most: float) -> tuple[str, TractableModel, str] | None:
    """What a learned model is to beat, by name, and what else to try; None where nothing is comparable or cheap.

    Args:
        model: That was fitted.
        x: Its training data, (N, D).
        most: Arithmetic that it may take.
    """
    if model.num_classes is not None or not model.is_density or hasattr(model, "log_prob"):
        return None
    x = x[:: math.ceil(len(x) / MOST_DATA)].double()
    num_data, num_dims = x.shape
    if model.support == "boolean":
        return "independent Bernoullis", independent_bernoullis(x), ""
    if model.support != "real" or num_dims > MOST_DIMS or 2 * num_data * num_dims**2 + num_dims**3 > most:
        return None
    return "one Gaussian", one_gaussian(x, model.covariance_floor), 'Gaussian("decoder") as the likelihood, '
