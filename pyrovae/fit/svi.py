"""Stochastic variational inference: stock Pyro's SVI, with mini-batches, a schedule, validation and early stopping."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from pyro.infer import ELBO
from torch import Tensor
from torch.optim import Optimizer

from pyrovae.data import Observations, as_observations
from pyrovae.engine.checks import check_positive, check_whole
from pyrovae.engine.execution import DEFAULT, Execution, keywords_moved
from pyrovae.engine.isolation import alone, evaluating, quiet
from pyrovae.engine.progress import progress_bar
from pyrovae.engine.seeding import seeded
from pyrovae.fit.defaults import svi_options
from pyrovae.fit.feed import open_feed
from pyrovae.fit.loss import check_elbo
from pyrovae.fit.optimizers import Schedule, check_optimizer, schedule_of
from pyrovae.fit.result import FitResult, FitWarning, Refit, warn
from pyrovae.fit.starts import Plan, Run, runs
from pyrovae.fit.steps.backends import check_execution
from pyrovae.fit.steps.captured import Stale
from pyrovae.fit.training import NotFinite, offender_named, require_finite
from pyrovae.fit.units import precise_enough
from pyrovae.fit.verdict import judged, watch
from pyrovae.models.base import LatentVariableModel, check_model

NOT_REGISTERED = ".*was not registered in the param store"  # Pyro's word on a frozen parameter, at every step

AS_GIVEN = ("optimizer", "elbo", "patience", "num_restarts", "warm_start", "seed", "execution")


@keywords_moved(execution=Execution)
def svi(
    model: LatentVariableModel,
    data: Observations | Tensor,
    *,
    valid: Observations | Tensor | None = None,
    num_epochs: int | None = None,
    num_steps: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    schedule: str | Schedule | None = None,
    optimizer: Callable[..., Optimizer] | None = None,
    elbo: ELBO | None = None,
    patience: int | None = None,
    num_restarts: int = 1,
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
        num_steps: Steps of the optimizer, in place of ``num_epochs``.  The last epoch is cut short where they end, and
            its entry in ``trace`` is the mean over the data that it saw.
        batch_size: Data in a batch; the last of an epoch may be short.  By default it follows model and data, as do
            ``lr`` and ``schedule``: see :func:`~pyrovae.fit.defaults.svi_options`.
        lr: Largest learning rate.
        schedule: ``"one_cycle"`` (up, then down to zero at the last step), ``"cosine"`` (down), ``"constant"``, or a
            function of the optimizer and the number of steps that returns a torch scheduler, stepped after every batch.
        optimizer: Called as ``optimizer(parameters, lr=lr)``; Adam by default.
        elbo: Any Pyro ELBO object with a ``differentiable_loss``.  By default ``TraceEnum_ELBO`` where a site is
            enumerated, else ``Trace_ELBO``.
        patience: Stop after so many epochs without a better ELBO on ``valid``: by default half of those planned, and
            10 at least, which saves time where a model overfits.  A number as large as the epochs stops nothing.
        num_restarts: Starts to try.  Each has draws of its own, and runs a tenth of the epochs, at least one, of the
            same schedule.  The best by the ELBO on ``valid``, or without it by that of the last epoch, is then trained
            from its start to the end; of those within rounding (1e-9, relative) the first.  One that
            diverges has an ELBO of minus infinity.
        warm_start: Start from the parameters of ``model`` rather than from ``model.initialize(data)``.
        device: Where to compute; by default where the model is.
        callback: Called as ``callback(epoch, model)`` after every epoch and its validation, the epoch counted from 1,
            with the model in evaluation mode (``evaluate.FIDHistory``, say); its draws do not change those of the fit.
            With restarts, of the fit that is returned alone.
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
    _check_arguments(**refit.arguments)
    began, group, observations = time.perf_counter(), execution.process_group(), as_observations(data)
    given = {"num_epochs": num_epochs, "num_steps": num_steps, "batch_size": batch_size, "lr": lr, "schedule": schedule}
    chosen = svi_options(model, observations, **given)
    about = {"space": observations.space, "objective": getattr(elbo, "objective", "ELBO"), "refit": refit}
    bar = progress_bar(desc="SVI", unit="epoch", progress=progress, rank=group.rank)
    with alone(), quiet(UserWarning, NOT_REGISTERED), torch.enable_grad(), seeded(seed), bar:
        placed = precise_enough(model.copy().to(device=device), observations)
        check_execution(execution, placed, chosen["batch_size"], group)
        feed = open_feed(placed, observations, chosen["batch_size"], execution.memory_budget, group)
        inputs = () if valid is None else placed.program_inputs(valid, "valid")
        as_given = {name: refit.arguments[name] for name in AS_GIVEN}
        plan = Plan(placed, feed, inputs, **chosen, **as_given, group=group, began=began, about=about)
        for run in runs(plan):  # short ones of all starts, where there are several, then that of the best
            state, bar.total = run.state, run.num_epochs
            while run.goes_on:
                is_due = run.is_due
                try:
                    train_epoch(run, is_due)
                    if inputs:
                        state.valid_trace.append(validate(run))
                except NotFinite as error:
                    if run.is_short:  # the others go on
                        run.diverged = True
                        continue
                    advice = f"lower `lr` = {plan.lr:g}, or raise the likelihood's floor"
                    raise state.diverged(f"{error}; {advice}.") from error.__cause__
                except Stale as error:
                    go_back(run, error)
                    continue
                bar.set_postfix_str(f"ELBO {state.elbo:.3f} nats{run.which}", refresh=False)
                bar.update(state.epoch - bar.n)
                if callback is not None and not run.is_short:
                    with seeded(seed):
                        state.call(callback)
                watch(state, run.loss, plan.batch_size)
                run.settle(checked=is_due)
    return judged(state.result(run.kept), state, run.loss, plan.batch_size, inputs)


def train_epoch(run: Run, is_due: bool) -> None:
    """One pass over the data in random order; their mean ELBO, each at its own step, goes into the trace.

    Raises:
        NotFinite: If a loss is not finite; it names the step and the first offender.
        Stale: If steps were replayed from a graph that was out of date, which is looked into where it ``is_due``.
    """
    state, loss, step = run.state, run.loss, run.step
    state.model.train()
    losses, num_data, first = [], 0, state.num_steps + 1
    # One step, as steps/interpreted.py takes it and the other steps do what it does:
    #     x = data[index];  optimizer.zero_grad()
    #     value = elbo(model.model, model.guide)(x)  # minus the ELBO, summed over the batch; Trace_ELBO by default
    #     (value / len(index)).backward();  optimizer.step()
    for index in loss.feed.batches(run.plan.batch_size, run.plan.num_steps - state.num_steps):
        state.num_steps += 1
        loss.elbo.advance()  # the weight of a warm-up
        with offender_named(state, partial(loss.batch, index)):
            value, x = step(index)
        state.schedule()
        losses.append(value)
        num_data += len(index)
    step.check(compare=is_due)
    state.model.eval()
    values = torch.stack(losses).tolist()
    with offender_named(state, partial(loss.batch, index)):
        for state.num_steps, value in enumerate(values, first):  # so that an error names its step
            require_finite(value)  # a CUDA graph has not looked at its losses
        require_finite(step.again(index, x))  # at the parameters that the last step made
    state.trace.append(-sum(values) / num_data)


def go_back(run: Run, error: Stale) -> None:
    """Go back to where graphs had last been seen to be right, and be interpreted from there."""
    state, epoch = run.state, run.state.epoch + 1
    state.go_back(run.checked)
    run.loss.elbo.go_back(state.num_steps)
    run.step.go_on(state.num_steps + state.epoch)
    warn(
        f"the graph of the loss was out of date after epoch {epoch}: {error}; the fit and its model went back to "
        f"epoch {state.epoch}, from where Pyro interprets the model at every step; `compile=False` does so unasked.",
        FitWarning,
    )


def validate(run: Run) -> float:
    """The ELBO on validation data, nats per datum, with the same draws after every epoch.

    Not under ``no_grad``, where Pyro's ``TraceEnum_ELBO`` refuses to give its loss.

    Raises:
        NotFinite: If a loss is not finite; it names the step and the first offender.
    """
    plan, total = run.plan, 0.0
    with evaluating(run.state.model), seeded(plan.seed):
        for batch in zip(*(each.split(max(plan.batch_size, 1024)) for each in plan.valid), strict=True):
            with offender_named(run.state, partial(tuple, batch)):
                value = run.loss.on(*batch).item()
                require_finite(value)
            total -= value
    return plan.group.gathered(total / len(plan.valid[0]))[0]  # so that all processes decide alike


def _check_arguments(
    model: LatentVariableModel,
    num_epochs: int | None,
    num_steps: int | None,
    batch_size: int | None,
    lr: float | None,
    schedule: str | Schedule | None,
    optimizer: Callable[..., Optimizer] | None,
    elbo: ELBO | None,
    patience: int | None,
    num_restarts: int,
    warm_start: bool,
    valid: object,
    callback: object,
    **_: Any,
) -> None:
    check_model(model)
    check_whole("num_epochs", num_epochs, optional=True)
    check_whole("num_steps", num_steps, optional=True)
    check_whole("batch_size", batch_size, optional=True)
    check_whole("patience", patience, 0, optional=True)
    check_whole("num_restarts", num_restarts)
    if num_epochs is not None and num_steps is not None:
        raise ValueError(
            f"`num_steps` must be left out where `num_epochs` is given, got {num_steps} and {num_epochs}; give one."
        )
    if warm_start and num_restarts > 1:
        raise ValueError(
            f"`num_restarts` must be 1 with `warm_start`, which has one start, got {num_restarts}; leave one out."
        )
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
