"""Held-out log p(x) per datum: exact, by importance sampling, or by annealing, all in one form."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from pyrovae.data import Observations, as_observations
from pyrovae.engine.processes import process_group
from pyrovae.evaluate.likelihood.annealed import ais
from pyrovae.evaluate.likelihood.importance import LogLikelihood, block_terms, summarize
from pyrovae.models.base import LatentVariableModel, Program, check_model


def log_likelihood(
    model: LatentVariableModel,
    x: Observations | Tensor,
    num_particles: int = 1000,
    method: Literal["auto", "exact", "importance", "ais"] = "auto",
    *,
    guide: Program | None = None,
    num_chains: int = 16,
    num_temperatures: int = 1000,
    chunk_size: int | None = None,
    seed: int = 0,
    progress: bool | None = None,
    distributed: bool = False,
) -> LogLikelihood:
    """Held-out log p(x): exact where the model can, else log (1/S) Σ_s w_s, which is below it in expectation.

    Annealed importance sampling gives a tighter bound for more time; :func:`ais` has more to choose.

    Args:
        model: Any model.  One of p(x|y) gives log p(x|y); see :func:`log_likelihood_by_class` for log p(x).
        x: N data, Observations or tensor.
        num_particles: S, of importance sampling.
        method: ``"exact"``, ``"importance"``, ``"ais"`` (annealed importance sampling, from the prior or, where a guide
            is given, from that), or ``"auto"``: exact if the model has ``log_prob``, else by importance.
        num_chains: S, of annealing.
        num_temperatures: T, of annealing.
        guide, chunk_size, seed, progress, distributed: As for :func:`log_weights`.  Nothing is shared where log p(x) is
            exact.

    Returns:
        Values, standard errors, effective sample sizes and Pareto k̂, per datum.

    Raises:
        TypeError: If ``model`` is no model of this form.
        ValueError: If ``method`` is unknown, or exact and the model has no ``log_prob``, or the model's p(x|z) is
            a loss and no density, or there is no process group; else as :func:`log_weights`.
    """
    check_model(model)
    if not model.is_density:
        raise ValueError(
            f"`model` must have a likelihood that is a density or a mass, got a {type(model).__name__} trained by a "
            "loss that is neither; its bound can be watched with evaluate.elbo_terms."
        )
    tractable = hasattr(model, "log_prob")
    if method not in ("auto", "exact", "importance", "ais"):
        raise ValueError(f'`method` must be "auto", "exact", "importance" or "ais", got {method!r}.')
    if method == "exact" and not tractable:
        raise ValueError(f'`method` "exact" needs a model with log_prob, got {type(model).__name__}; use "importance".')
    group = process_group(distributed)
    if method == "exact" or (method == "auto" and tractable):
        with torch.no_grad():
            values = model.log_prob(x).detach()  # type: ignore[operator]
        zeros = torch.zeros_like(values)
        return LogLikelihood(values, "exact", 0, zeros, zeros + math.inf, (zeros - math.inf).double().cpu())
    if method == "ais":
        return ais(
            model,
            x,
            num_chains=num_chains,
            num_temperatures=num_temperatures,
            start="prior" if guide is None else "guide",
            guide=guide,
            chunk_size=chunk_size,
            seed=seed,
            progress=progress,
            distributed=distributed,
        )
    blocks = block_terms(model, x, num_particles, guide, chunk_size, seed, progress, group)
    summaries = group.joined([summarize(terms.log_weights) for terms in blocks], model.program_inputs(x)[0].device)
    values, standard_error, ess, k_hat = (torch.cat(each) for each in zip(*summaries, strict=True))
    return LogLikelihood(values, "importance", num_particles, standard_error, ess, k_hat.cpu())


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
    observations = as_observations(x, "x")
    columns = []
    for y in range(model.num_classes):
        labelled = replace(observations, labels=torch.full((len(observations),), y))
        columns.append(
            log_likelihood(
                model, labelled, num_particles, "importance", chunk_size=chunk_size, seed=seed, progress=progress
            ).values
        )
    return torch.stack(columns, dim=1)
