"""Stochastic variational inference: stock Pyro's SVI, with mini-batches, a schedule, validation and early stopping."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer import ELBO, Trace_ELBO, TraceEnum_ELBO
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler, OneCycleLR
from tqdm.auto import tqdm

from pyrovae.data import Observations, as_observations
from pyrovae.fit.progress import hidden
from pyrovae.fit.result import DivergenceError, FitResult, nats
from pyrovae.models.base import LatentVariableModel
from pyrovae.seeding import seeded

Schedule = Callable[[Optimizer, int], LRScheduler]

SCHEDULES: dict[str, Schedule] = {
    "constant": lambda optimizer, num_steps: LambdaLR(optimizer, lambda step: 1.0),
    "cosine": lambda optimizer, num_steps: CosineAnnealingLR(optimizer, num_steps),
    "one_cycle": lambda optimizer, num_steps: OneCycleLR(optimizer, optimizer.param_groups[0]["lr"], num_steps),
}


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
) -> FitResult:
    """Fit θ and φ together by stochastic ascent of the ELBO.

    This is the loop that a Pyro user would write, ``loss = elbo(model.model, model.guide)(batch)``, a torch optimizer
    and its schedule.  Data, batches and shuffling live on the device.

    Args:
        model: Any model with ``model`` and ``guide``; it is left as it was.
        data: Observations or tensor, N data; resampled observations are drawn afresh for every batch.  A model of
            p(x given y) asks for Observations with labels.
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

    Returns:
        The fit.  ``kept`` says which parameters it holds, and ``elbo`` is theirs, nats per datum.

    Raises:
        TypeError: If ``elbo`` is no ELBO.
        ValueError: If an argument is out of range, or the data do not fit the model.
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
    }
    began = time.perf_counter()
    observations = as_observations(data)
    fitted = model.copy().to(device=device) if device is not None else model.copy()
    start_data, *given = fitted.program_inputs(observations, "data")
    observations = observations.to(start_data.device, start_data.dtype)
    observations = replace(observations, x=observations.x.reshape(start_data.shape))
    valid_inputs = None if valid is None else fitted.program_inputs(valid, "valid")

    run = _Run(fitted, elbo, lr, schedule, optimizer, num_epochs * math.ceil(len(observations) / batch_size))

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
            fitted.initialize(start_data)
        run.prepare((start_data, *given))
        bar = tqdm(range(1, num_epochs + 1), desc="SVI", unit="epoch", delay=1.0, leave=False, disable=hidden(progress))
        for epoch in bar:
            try:
                run.epoch(observations, given, batch_size)
                current = run.trace[-1] if valid_inputs is None else run.validate(valid_inputs, batch_size, seed)
            except _NotFinite as error:
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


class _NotFinite(Exception):
    """The loss of a step was not finite."""


class _Run:
    """The state of one training run: the loss as a function of a batch, the optimizer and its schedule, the traces."""

    def __init__(
        self,
        model: LatentVariableModel,
        elbo: ELBO | None,
        lr: float,
        schedule: str | Schedule,
        optimizer: Callable[..., Optimizer] | None,
        num_steps: int,
    ) -> None:
        self.model, self.elbo, self.lr, self.num_steps = model, elbo, lr, num_steps
        self.schedule = SCHEDULES[schedule] if isinstance(schedule, str) else schedule
        self.make_optimizer = optimizer or _adam
        self.step = 0
        self.trace: list[float] = []
        self.valid_trace: list[float] = []

    def prepare(self, inputs: tuple[Tensor, ...]) -> None:
        """Build the loss and the optimizer, once the parameters are where training starts."""
        enumerated = has_enumerated_site(self.model, *(each[:2] for each in inputs))
        elbo = self.elbo or (TraceEnum_ELBO(max_plate_nesting=1) if enumerated else Trace_ELBO())
        self.loss: nn.Module = elbo(self.model.model, self.model.guide)
        self.optimizer = self.make_optimizer([p for p in self.loss.parameters() if p.requires_grad], lr=self.lr)
        self.scheduler = self.schedule(self.optimizer, self.num_steps)

    def epoch(self, observations: Observations, given: Sequence[Tensor], batch_size: int) -> None:
        """One pass over the data in random order; appends the mean ELBO of its batches to the trace.

        ``given`` is what the programs take beside x, such as labels.
        """
        self.model.train()
        total = 0.0
        for index in torch.randperm(len(observations), device=observations.x.device).split(batch_size):
            batch = (observations.draw(index), *(each[index] for each in given))
            self.step += 1
            self.optimizer.zero_grad()
            loss = self._checked_loss(batch)
            (loss / len(index)).backward()
            self.optimizer.step()
            self.scheduler.step()
            total -= loss.item()
        self.model.eval()
        self._checked_loss(batch)  # no further step would notice what the last one did
        self.trace.append(total / len(observations))

    def validate(self, inputs: tuple[Tensor, ...], batch_size: int, seed: int) -> float:
        """ELBO on validation data, nats per datum, with the same draws after every epoch.

        Not under ``no_grad``, where Pyro's ``TraceEnum_ELBO`` refuses to give its loss.
        """
        self.model.eval()
        with seeded(seed):
            batches = zip(*(each.split(max(batch_size, 1024)) for each in inputs), strict=True)
            total = sum(-self._checked_loss(batch).item() for batch in batches)
        self.valid_trace.append(total / len(inputs[0]))
        return self.valid_trace[-1]

    def _checked_loss(self, batch: tuple[Tensor, ...]) -> Tensor:
        cause: Exception | None = None
        try:
            loss = self.loss(*batch)
            if torch.isfinite(loss):
                return loss
        except (ValueError, torch.linalg.LinAlgError) as error:  # Pyro's validation or a factorisation met it first
            cause = error
        offender = self._first_offender(batch)
        if offender is None and cause is not None:
            raise cause
        raise _NotFinite(f"the loss is not finite at step {self.step}: {offender or 'the ELBO'} is not") from cause

    @torch.no_grad()
    def _first_offender(self, batch: tuple[Tensor, ...]) -> str | None:
        for name, parameter in self.model.named_parameters():
            if not torch.isfinite(parameter).all():
                return f"parameter {name!r}"
        try:
            with pyro.validation_enabled(False):  # else it raises before the site can be named
                guide = poutine.trace(self.model.guide).get_trace(*batch)
                trace = poutine.trace(poutine.replay(self.model.model, guide)).get_trace(*batch)
                sites: list[Any] = [*guide.nodes.values(), *trace.nodes.values()]
                for site in sites:
                    if site["type"] == "sample" and not torch.isfinite(site["fn"].log_prob(site["value"])).all():
                        return f"the log-density of site {site['name']!r}"
        except torch.linalg.LinAlgError:
            return "a covariance matrix"
        return None


@torch.no_grad()
def has_enumerated_site(model: LatentVariableModel, *inputs: Tensor) -> bool:
    """Whether the model or its guide marks a site for enumeration."""
    with pyro.get_param_store().scope(), seeded(0):
        guide = poutine.trace(model.guide).get_trace(*inputs)
        trace = poutine.trace(poutine.replay(model.model, guide)).get_trace(*inputs)
    sites: list[Any] = [*guide.nodes.values(), *trace.nodes.values()]
    return any(site["type"] == "sample" and site["infer"].get("enumerate") for site in sites)


def _adam(parameters: list[nn.Parameter], lr: float) -> Optimizer:
    return torch.optim.Adam(parameters, lr=lr, fused=True)
