"""Stochastic variational inference: stock Pyro's SVI, with mini-batches, a schedule, validation and early stopping."""

import math
import time
from collections.abc import Callable, Sequence
from functools import partial

import torch
from pyro.infer import ELBO
from torch import Tensor
from torch.optim import Optimizer

from pyrovae.data import Observations, as_observations
from pyrovae.engine.checks import check_positive, check_whole
from pyrovae.engine.execution import DEFAULT, Execution, keywords_moved
from pyrovae.engine.isolation import alone, evaluating, quiet
from pyrovae.engine.processes import ProcessGroup
from pyrovae.engine.progress import progress_bar
from pyrovae.engine.seeding import seeded
from pyrovae.fit.defaults import svi_options
from pyrovae.fit.feed import open_feed
from pyrovae.fit.loss import BatchLoss, check_elbo
from pyrovae.fit.optimizers import Schedule, check_optimizer, in_units, make_optimizer, make_scheduler, schedule_of
from pyrovae.fit.result import FitResult, FitWarning, Refit, warn
from pyrovae.fit.steps import AnyStep, make_step
from pyrovae.fit.steps.backends import check_execution
from pyrovae.fit.steps.captured import Stale
from pyrovae.fit.training import (
    Checked,
    NotFinite,
    TrainingState,
    frozen_kept,
    offender_named,
    require_finite,
    warn_of_scale,
)
from pyrovae.models.base import LatentVariableModel, check_model

NOT_REGISTERED = ".*was not registered in the param store"  # Pyro's word on a frozen parameter, at every step


@keywords_moved(execution=Execution)
def svi(
    model: LatentVariableModel,
    data: Observations | Tensor,
    *,
    valid: Observations | Tensor | None = None,
    num_epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    schedule: str | Schedule | None = None,
    optimizer: Callable[..., Optimizer] | None = None,
    elbo: ELBO | None = None,
    patience: int | None = None,
    warm_start: bool = False,
    device: torch.device | str | None = None,
    callback: Callable[[int, LatentVariableModel], None] | None = None,
    seed: int = 0,
    progress: bool | None = None,
    execution: Execution = DEFAULT,
) -> FitResult:
    """Fit θ and φ together by stochastic ascent of the ELBO.

    This does what the loop of a Pyro user does, ``loss = elbo(model.model, model.guide)(batch)``, a torch optimizer
    and its schedule, captured as a graph where that pays.  Data, batches and shuffling live on the device.

    Args:
        model: Any model with ``model`` and ``guide``; it is left as it was.
        data: Observations or tensor, N data; resampled observations are drawn afresh for every batch.  A model of
            p(x|y) asks for Observations with labels.
        valid: Validation data.  If given, the ELBO on them is taken after every epoch, and the best parameters are
            kept.
        num_epochs: Passes over the data; by default as many as make the number of steps that such a model needs.
        batch_size: Data in a batch; the last of an epoch may be short.  By default it follows model and data, as do
            ``lr`` and ``schedule``: see :func:`~pyrovae.fit.defaults.svi_options`.
        lr: Largest learning rate.
        schedule: ``"one_cycle"`` (up, then down to zero at the last step), ``"cosine"`` (down), ``"constant"``, or a
            function of the optimizer and the number of steps that returns a torch scheduler, stepped after every batch.
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
        execution: How steps are computed, see :class:`~pyrovae.Execution`.  ``compile="auto"`` takes the fastest for so
            many steps, on a CPU a graph from 300 and Inductor from 10,000, and interprets an ELBO of the caller's
            own.  The draws, and but for rounding the results, are the same.  A model that is not static, such as one
            with a branch on values, is interpreted, and a warning says why.  ``num_shards`` parts of a batch give the
            same fit in as many processes as in one, where the batch may then be larger than memory; ``batch_size`` is
            that of all of them together, and each calls ``callback``.  ``precision="bf16"`` pays on processors that
            multiply bfloat16 fast, as GPUs of recent years do, and for wide layers.  Data larger than
            ``memory_budget``, or by default than half of what is free on a GPU, stay where they are, in memory or in a
            mapped file, and come in chunks of half the budget, in the same random order; ``valid`` is always on the
            device.

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
    refit = Refit(svi, locals())
    _check_arguments(model, num_epochs, batch_size, lr, schedule, optimizer, elbo, patience, valid, callback)
    began, group = time.perf_counter(), execution.process_group()
    chosen = svi_options(
        model, as_observations(data), num_epochs=num_epochs, batch_size=batch_size, lr=lr, schedule=schedule
    )
    num_epochs, batch_size, lr, schedule = (chosen[name] for name in ("num_epochs", "batch_size", "lr", "schedule"))
    with alone(), quiet(UserWarning, NOT_REGISTERED), torch.enable_grad(), seeded(seed):
        fitted, observations = model.copy().to(device=device), as_observations(data)
        check_execution(execution, fitted, batch_size, group)
        feed = open_feed(fitted, observations, batch_size, execution.memory_budget, group)
        valid_inputs = () if valid is None else fitted.program_inputs(valid, "valid")
        about = {"space": observations.space, "objective": getattr(elbo, "objective", "ELBO"), "refit": refit}
        if not warm_start:
            fitted.forget_parameters()
            with frozen_kept(fitted):
                fitted.initialize(start := feed.start())
            warn_of_scale(fitted, start)
        loss = BatchLoss(fitted, feed, elbo, execution.precision)
        group.copy_from_first(fitted)
        torch_optimizer = make_optimizer(optimizer, loss.parameters, float(lr))
        in_units(torch_optimizer, fitted, chosen.get("unit", 1.0))
        scheduler = make_scheduler(schedule, torch_optimizer, num_epochs * math.ceil(len(feed) / batch_size))
        step = make_step(loss, torch_optimizer, execution, num_epochs, batch_size, seed, group)
        state = TrainingState(fitted, torch_optimizer, scheduler, began, about)
        checked = state.saved()
        with progress_bar(total=num_epochs, desc="SVI", unit="epoch", progress=progress, rank=group.rank) as bar:
            while state.epoch < num_epochs and not state.is_out_of(patience):
                is_due = state.is_due(checked, num_epochs, patience)
                try:
                    train_epoch(state, loss, step, batch_size, is_due)
                    if valid_inputs:
                        state.valid_trace.append(validate(state, loss, valid_inputs, batch_size, seed, group))
                except NotFinite as error:
                    advice = f"lower `lr` = {lr:g}, or raise the likelihood's floor"
                    raise state.diverged(f"{error}; {advice}.") from error.__cause__
                except Stale as error:
                    go_back(state, checked, loss, step, error)
                    continue
                bar.set_postfix_str(f"ELBO {state.elbo:.3f} nats", refresh=False)
                bar.update(state.epoch - bar.n)
                if callback is not None:
                    with seeded(seed):
                        state.call(callback)
                state.keep_if_best()
                step.settle()
                if is_due:
                    checked = state.saved()
    return state.result(state.kept)


def train_epoch(state: TrainingState, loss: BatchLoss, step: AnyStep, batch_size: int, is_due: bool) -> None:
    """One pass over the data in random order; their mean ELBO, each at its own step, goes into the trace.

    Raises:
        NotFinite: If a loss is not finite; it names the step and the first offender.
        Stale: If steps were replayed from a graph that was out of date, which is looked into where it ``is_due``.
    """
    state.model.train()
    losses, first = [], state.num_steps + 1
    # One step, as steps/interpreted.py takes it and the other steps do what it does:
    #     x = data[index];  optimizer.zero_grad()
    #     value = elbo(model.model, model.guide)(x)  # minus the ELBO, summed over the batch; Trace_ELBO by default
    #     (value / len(index)).backward();  optimizer.step()
    for index in loss.feed.batches(batch_size):
        state.num_steps += 1
        loss.elbo.advance()  # the weight of a warm-up
        with offender_named(state, partial(loss.batch, index)):
            value, x = step(index)
        state.schedule()
        losses.append(value)
    step.check(compare=is_due)
    state.model.eval()
    values = torch.stack(losses).tolist()
    with offender_named(state, partial(loss.batch, index)):
        for state.num_steps, value in enumerate(values, first):  # so that an error names its step
            require_finite(value)  # a CUDA graph has not looked at its losses
        require_finite(step.again(index, x))  # at the parameters that the last step made
    state.trace.append(-sum(values) / len(loss.feed))


def go_back(state: TrainingState, checked: Checked, loss: BatchLoss, step: AnyStep, error: Stale) -> None:
    """Go back to where graphs had last been seen to be right, and be interpreted from there."""
    epoch = state.epoch + 1
    state.go_back(checked)
    loss.elbo.go_back(state.num_steps)
    step.go_on(state.num_steps + state.epoch)
    warn(
        f"the graph of the loss was out of date after epoch {epoch}: {error}; the fit and its model went back to "
        f"epoch {state.epoch}, from where Pyro interprets the model at every step; `compile=False` does so unasked.",
        FitWarning,
    )


def validate(
    state: TrainingState, loss: BatchLoss, inputs: Sequence[Tensor], batch_size: int, seed: int, group: ProcessGroup
) -> float:
    """The ELBO on validation data, nats per datum, with the same draws after every epoch.

    Not under ``no_grad``, where Pyro's ``TraceEnum_ELBO`` refuses to give its loss.

    Raises:
        NotFinite: If a loss is not finite; it names the step and the first offender.
    """
    total = 0.0
    with evaluating(state.model), seeded(seed):
        for batch in zip(*(each.split(max(batch_size, 1024)) for each in inputs), strict=True):
            with offender_named(state, partial(tuple, batch)):
                value = loss.on(*batch).item()
                require_finite(value)
            total -= value
    return group.gathered(total / len(inputs[0]))[0]  # so that all processes decide alike


def _check_arguments(
    model: LatentVariableModel,
    num_epochs: int | None,
    batch_size: int | None,
    lr: float | None,
    schedule: str | Schedule | None,
    optimizer: Callable[..., Optimizer] | None,
    elbo: ELBO | None,
    patience: int | None,
    valid: object,
    callback: object,
) -> None:
    check_model(model)
    check_whole("num_epochs", num_epochs, optional=True)
    check_whole("batch_size", batch_size, optional=True)
    check_whole("patience", patience, 0, optional=True)
    if lr is not None:
        check_positive("lr", lr)
    if schedule is not None:
        schedule_of(schedule)
    if optimizer is not None:
        check_optimizer(optimizer)
    if elbo is not None:
        check_elbo(elbo)
    if not (callback is None or callable(callback)):
        raise TypeError(f"`callback` must be a function of the epoch and the model, got {type(callback).__name__}.")
    if patience is not None and valid is None:
        raise ValueError("`patience` needs `valid`, the data on which the ELBO is to improve, got None.")
