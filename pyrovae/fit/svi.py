"""Stochastic variational inference: stock Pyro's SVI, with mini-batches, a schedule, validation and early stopping."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pyro
import torch
from pyro.infer import ELBO
from torch import Tensor
from torch.optim import Optimizer
from tqdm.auto import tqdm

from pyrovae.data import Observations, as_observations
from pyrovae.engine.precision import Precision, check_precision
from pyrovae.engine.processes import process_group
from pyrovae.engine.progress import hidden
from pyrovae.engine.seeding import seeded
from pyrovae.fit.feed import feed
from pyrovae.fit.result import DivergenceError, FitResult, nats
from pyrovae.fit.steps.backends import Compile, check_way
from pyrovae.fit.steps.sharded import ShardedRun
from pyrovae.fit.steps.training import SCHEDULES, NotFinite, Run, Schedule
from pyrovae.models.base import LatentVariableModel, check_model


def svi(
    model: LatentVariableModel,
    data: Observations | Tensor,
    *,
    valid: Observations | Tensor | None = None,
    num_epochs: int = 100,
    batch_size: int = 128,
    lr: float = 1e-3,
    schedule: str | Schedule = "cosine",
    optimizer: Callable[..., Optimizer] | None = None,
    elbo: ELBO | None = None,
    patience: int | None = None,
    warm_start: bool = False,
    device: torch.device | str | None = None,
    callback: Callable[[int, LatentVariableModel], None] | None = None,
    seed: int = 0,
    progress: bool | None = None,
    compile: Compile = "auto",
    num_shards: int | None = None,
    distributed: bool = False,
    precision: Precision = "full",
    memory_budget: int | None = None,
) -> FitResult:
    """Fit θ and φ together by stochastic ascent of the ELBO.

    This is the loop that a Pyro user would write, ``loss = elbo(model.model, model.guide)(batch)``, a torch optimizer
    and its schedule, captured as a graph where that pays.  Data, batches and shuffling live on the device.

    Args:
        model: Any model with ``model`` and ``guide``; it is left as it was.
        data: Observations or tensor, N data; resampled observations are drawn afresh for every batch.  A model of
            p(x|y) asks for Observations with labels.
        valid: Validation data.  If given, the ELBO on them is taken after every epoch, and the best parameters are
            kept.
        num_epochs: Passes over the data.
        batch_size: Data in a batch; the last of an epoch may be short.
        lr: Largest learning rate.
        schedule: ``"cosine"`` (to zero at the last step), ``"one_cycle"``, ``"constant"``, or a function of the
            optimizer and the number of steps that returns a torch scheduler, stepped after every batch.
        optimizer: Called as ``optimizer(parameters, lr=lr)``; Adam by default.
        elbo: Any Pyro ELBO object with a ``differentiable_loss``.  By default ``TraceEnum_ELBO`` where a site is
            enumerated, else ``Trace_ELBO``.
        patience: Stop after so many epochs without a better ELBO on ``valid``.
        warm_start: Start from the parameters of ``model`` rather than from ``model.initialize(data)``.
        device: Where to compute; by default where the model is.
        callback: Called as ``callback(epoch, model)`` after every epoch and its validation, the epoch counted from 1,
            with the model in evaluation mode (``evaluate.FIDHistory``, say); its draws do not change those of the fit.
        seed: Seed of the start, the shuffling and every draw.
        progress: Show a progress bar; by default one appears when a fit takes over a second.
        compile: How a step is computed: ``False``, by Pyro in Python; ``"graph"``, by a graph of its operations, which
            is captured once and replayed; ``"inductor"``, by what Inductor compiles of that, in some ten seconds and
            with a C++ compiler; ``"cuda_graph"``, on a GPU, with the optimizer, in one launch.  ``"auto"`` takes what
            is fastest for so many steps, on a CPU from 300 a graph and from 10,000 Inductor, and interprets an ELBO of
            the caller's own.  The draws, and but for rounding the results, are the same.  A model that is
            not static, such as one with a branch on values, is interpreted, and a warning says why.
        num_shards: Deal every batch into so many parts, whose gradients are averaged over its data: as many processes,
            or a batch larger than memory in one process, give the same fit but for rounding.  Each part has draws of
            its own, so that fits differ from number to number.  By default one for each process.
        distributed: Share the parts among the processes of ``torch.distributed`` (see ``torchrun``), which must be
            initialised.  Every process is given the same arguments, ``batch_size`` being that of all of them together,
            and the same data; all of them return the same fit, and call ``callback``.
        precision: ``"full"``, that of the parameters; or ``"bf16"``, linear and convolutional layers in bfloat16 by
            torch.autocast, and parameters, draws, log-densities, losses and validation in float32.  It pays on
            processors that multiply bfloat16 fast, as GPUs of recent years do, and for wide layers; others are slower
            by it.  Whether float32 products are rounded to TF32 on a GPU is torch's own switch, off by default, which
            a fit does not touch.
        memory_budget: Bytes that the data may take on the device.  More than that stay where they are, in memory of the
            host or in a mapped file, and come in chunks of half the budget through pinned memory, in the same random
            order; the start is then taken from as many random data as a chunk holds.  By default that is done only for
            data that would take more than half of what is free on a GPU.  ``valid`` is always on the device.

    Returns:
        The fit.  ``kept`` says which parameters it holds, and ``elbo`` is theirs, nats per datum.

    Raises:
        TypeError: If ``elbo`` is no ELBO, or ``model`` no model of this form.
        ValueError: If an argument is out of range, the data do not fit the model, or there is no process group.
        DivergenceError: If the loss is not finite: it names the step and the first offending parameter or site, and
            carries the last good result.

    Example:
        >>> from pyrovae import VAE
        >>> x = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
        >>> result = svi(VAE(latent_dim=1, data_shape=(3,), hidden=(8,)), x, num_epochs=2)
        >>> result.kept, len(result.trace)
        ('last, epoch 2', 2)

    Reference:
        Kingma and Welling (2014), Auto-encoding variational Bayes; Bingham et al. (2019), Pyro.
    """
    check_model(model)
    if num_epochs < 1 or batch_size < 1:
        raise ValueError(f"`num_epochs` and `batch_size` must be at least 1, got {num_epochs} and {batch_size}.")
    if not (0 < lr < math.inf):
        raise ValueError(f"`lr` must be a positive number, got {lr}.")
    if isinstance(schedule, str) and schedule not in SCHEDULES:
        raise ValueError(f"`schedule` must be one of {tuple(SCHEDULES)} or a function, got {schedule!r}.")
    if elbo is not None and not hasattr(elbo, "differentiable_loss"):
        raise TypeError(
            f"`elbo` must be a Pyro ELBO with a differentiable_loss, got {type(elbo).__name__}; use e.g. Trace_ELBO."
        )
    if patience is not None and valid is None:
        raise ValueError("`patience` needs `valid`, the data on which the ELBO is to improve, got None.")
    group = process_group(distributed)
    shards = group.number if num_shards is None else num_shards
    if not group.number <= shards <= batch_size:
        raise ValueError(
            f"`num_shards` must be from {group.number}, the number of processes, to `batch_size` = {batch_size}, "
            f"got {shards}."
        )

    arguments: dict[str, Any] = {
        "valid": valid,
        "num_epochs": num_epochs,
        "batch_size": batch_size,
        "lr": lr,
        "schedule": schedule,
        "optimizer": optimizer,
        "elbo": elbo,
        "patience": patience,
        "warm_start": warm_start,
        "device": device,
        "callback": callback,
        "progress": progress,
        "compile": compile,
        "num_shards": num_shards,
        "distributed": distributed,
        "precision": precision,
        "memory_budget": memory_budget,
    }
    began = time.perf_counter()
    observations = as_observations(data)
    fitted = model.copy().to(device=device) if device is not None else model.copy()
    source = feed(fitted, observations, batch_size, memory_budget, group)
    valid_inputs = None if valid is None else fitted.program_inputs(valid, "valid")

    check_way(compile, source.observations.x.device)
    check_precision(precision, compile, fitted.parameters())
    run: Run

    def result(kept: str, elbo_kept: float) -> FitResult:
        return FitResult(
            model=fitted.eval(),
            method="SVI",
            trace=nats(run.trace),
            objective=getattr(elbo, "objective", "ELBO"),
            converged=None,
            seconds=time.perf_counter() - began,
            kept=kept,
            space=observations.space,
            valid_trace=None if valid_inputs is None else nats(run.valid_trace),
            elbo=elbo_kept,
            refit=lambda other: svi(model, data, seed=other, **arguments),
        )

    best_state, best_elbo, best_epoch = copy.deepcopy(fitted.state_dict()), -math.inf, 0
    with pyro.get_param_store().scope(), seeded(seed):
        if not warm_start:
            fitted.initialize(source.start())
        kind = Run if shards == 1 else partial(ShardedRun, num_shards=shards, group=group, seed=seed)
        run = kind(
            fitted,
            source,
            elbo=elbo,
            lr=lr,
            schedule=schedule,
            optimizer=optimizer,
            batch_size=batch_size,
            num_epochs=num_epochs,
            compile=compile,
            precision=precision,
        )
        bar = tqdm(
            range(1, num_epochs + 1),
            desc="SVI",
            unit="epoch",
            delay=1.0,
            leave=False,
            disable=hidden(progress) or group.rank > 0,
        )
        for epoch in bar:
            try:
                run.epoch()
                current = run.trace[-1] if valid_inputs is None else run.validate(valid_inputs, seed)
            except NotFinite as error:
                fitted.load_state_dict(best_state)
                last_good = result(f"epoch {best_epoch}, before the loss left the finite numbers", best_elbo)
                raise DivergenceError(
                    f"{error}; lower `lr` = {lr:g}, or raise the likelihood's floor.", last_good if best_epoch else None
                ) from error.__cause__
            bar.set_postfix_str(f"ELBO {current:.3f} nats", refresh=False)
            if callback is not None:
                with seeded(seed):
                    callback(epoch, fitted)
            if valid_inputs is None or current > best_elbo:
                best_state, best_elbo, best_epoch = copy.deepcopy(fitted.state_dict()), current, epoch
            elif patience is not None and epoch - best_epoch >= patience:
                break
        bar.close()
    if valid_inputs is None:
        return result(f"last, epoch {num_epochs}", best_elbo)
    fitted.load_state_dict(best_state)
    return result(f"best on validation, epoch {best_epoch} of {epoch}", best_elbo)
