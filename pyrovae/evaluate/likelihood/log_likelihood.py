"""Held-out log p(x) per datum: exact, by importance sampling, or by annealing, all in one form."""

import math
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from pyrovae.data import Observations, as_observations
from pyrovae.engine.checks import check_choice
from pyrovae.engine.execution import DEFAULT, Execution, keywords_moved
from pyrovae.evaluate.checks import check_density
from pyrovae.evaluate.evaluation import Evaluation
from pyrovae.evaluate.likelihood.adaptive import adaptive
from pyrovae.evaluate.likelihood.annealed import DEFAULT_OPTIONS, AISOptions, bounds
from pyrovae.evaluate.likelihood.estimate import LogLikelihood, summarize
from pyrovae.evaluate.likelihood.importance import Weights, weigh
from pyrovae.models.base import LatentVariableModel, Program
from pyrovae.models.guides import is_exact


@keywords_moved(ais=AISOptions, execution=Execution)
def log_likelihood(
    model: LatentVariableModel,
    x: Observations | Tensor,
    num_particles: int = 1000,
    method: Literal["auto", "exact", "importance", "adaptive", "ais"] = "auto",
    *,
    guide: Program | None = None,
    ais: AISOptions = DEFAULT_OPTIONS,
    chunk_size: int | None = None,
    seed: int = 0,
    progress: bool | None = None,
    execution: Execution = DEFAULT,
) -> LogLikelihood:
    """Held-out log p(x): exact where the model can, else log (1/S) Σ_s w_s, which is below it in expectation.

    Annealed importance sampling gives a tighter bound for more time.

    Args:
        model: Any model.  One of p(x|y) gives log p(x|y); see :func:`log_likelihood_by_class` for log p(x).
        x: N data, Observations or tensor.
        num_particles: S, of importance sampling.
        method: ``"exact"``, ``"importance"``, ``"ais"`` (annealed importance sampling), or ``"auto"``: exact if the
            model has ``log_prob``, else by importance.
        ais: Of annealing.  Where a guide is given, the chains start from it.
        guide, chunk_size, seed, progress, execution: As for :func:`log_weights`.  Nothing is shared where log p(x) is
            exact.

    Returns:
        Values, standard errors, effective sample sizes and Pareto k̂, per datum.

    Raises:
        TypeError: If ``model`` is no model of this form.
        ValueError: If ``method`` is unknown, or exact and the model has no ``log_prob``, or the model's p(x|z) is
            a loss and no density or has a scaled site, or there is no process group; else as :func:`log_weights`.
    """
    run = Evaluation(model, x, guide, chunk_size, seed, progress, execution)
    check_density(model)
    check_choice("method", method, ("auto", "exact", "importance", "adaptive", "ais"))
    if method == "auto":
        method = "exact" if hasattr(model, "log_prob") else "importance"
    if method == "exact":
        return _exact(model, x)
    if method == "adaptive":
        return adaptive(run, num_particles)
    if method == "ais":
        options = ais if guide is None else replace(ais, start="guide")
        return bounds(run, options)["lower"]
    exact = is_exact(run.guide)
    summaries = run.joined([_summary(block, exact) for block in weigh(run, num_particles, density=True)])
    values, standard_error, ess, k_hat = map(torch.cat, summaries)
    return LogLikelihood(values, "importance", num_particles, standard_error, ess, k_hat.cpu())


def _summary(weights: Weights, exact_guide: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What the weights of a block say; of their error nothing where a discrete z has taken one value alone.

    Equal weights prove that the guide is the posterior only if their draws differ, or it is known to be.
    """
    values, standard_error, ess, k_hat = summarize(weights.log_w)
    alike = torch.full_like(values, bool(weights.z) and not exact_guide, dtype=torch.bool)
    for z in weights.z.values():
        alike &= (z == z[:1]).reshape(*z.shape[:2], -1).all(2).all(0)
    return values, standard_error.masked_fill(alike, math.nan), ess, k_hat.masked_fill(alike.cpu(), math.nan)


@torch.no_grad()
def _exact(model: LatentVariableModel, x: Observations | Tensor) -> LogLikelihood:
    if not hasattr(model, "log_prob"):
        raise ValueError(f'`method` "exact" needs a model with log_prob, got {type(model).__name__}; use "importance".')
    values = model.log_prob(x).detach()  # type: ignore[operator]
    zeros = torch.zeros_like(values)
    return LogLikelihood(values, "exact", 0, zeros, zeros + math.inf, (zeros - math.inf).double().cpu())


def log_likelihood_by_class(
    model: LatentVariableModel,
    x: Observations | Tensor,
    num_particles: int = 100,
    *,
    chunk_size: int | None = None,
    seed: int = 0,
    progress: bool | None = None,
) -> Tensor:
    """log p(x|y) of every datum under every label y, for a conditional model, by importance sampling.

    With class probabilities p(y), log p(x) = log Σ_y p(y) p(x|y), which can stand beside the log p(x) of other
    models, and the model classifies: p(y|x) ∝ p(y) p(x|y).

    Args:
        model: A model of p(x|y).
        x: N data, whose own labels are not looked at.
        num_particles: S, for each label.
        chunk_size, seed, progress: As for :func:`log_weights`.

    Returns:
        Tensor (N, K), nats.

    Raises:
        ValueError: If the model is not conditional; else as :func:`log_likelihood`.

    Example:
        >>> from pyrovae import VAE
        >>> vae, x = VAE(latent_dim=1, data_shape=(3,), hidden=(4,), num_classes=2), torch.zeros(5, 3)
        >>> by_class = log_likelihood_by_class(vae, x, num_particles=10)
        >>> log_px = (by_class + math.log(1 / 2)).logsumexp(1)
        >>> by_class.shape, log_px.shape
        (torch.Size([5, 2]), torch.Size([5]))
    """
    if model.num_classes is None:
        raise ValueError(f"`model` must be conditional on labels, got a {type(model).__name__} of p(x).")
    x = as_observations(x, "x")
    options: dict[str, Any] = {"chunk_size": chunk_size, "seed": seed, "progress": progress}
    labelled = [replace(x, labels=torch.full((len(x),), y)) for y in range(model.num_classes)]
    columns = [log_likelihood(model, each, num_particles, "importance", **options).values for each in labelled]
    return torch.stack(columns, dim=1)
