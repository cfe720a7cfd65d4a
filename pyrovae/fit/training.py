"""The state of a training by gradient steps, and what ends one early: a loss that is not finite."""

import copy
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any

import pyro
import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from pyrovae.engine.seeding import random_states, set_random_states
from pyrovae.fit.loss import sample_sites
from pyrovae.fit.optimizers import UPKEEP, forget_negligible
from pyrovae.fit.result import DivergenceError, FitResult, nats
from pyrovae.models.base import LatentVariableModel
from pyrovae.models.sites import log_density

FIRST_CHECK = 1000  # steps, so that a comparison, which takes as long as a few, is a small part of them


class NotFinite(Exception):
    """The loss of a step is not finite."""


@dataclass(frozen=True)
class Checked:
    """What a training was when its graphs had last been seen to be right.

    Attributes:
        counts: The counts, traces and best parameters.
        parts: The states of model, optimizer and scheduler.
        attributes: Of every module, those that are set, in Python.
        trained: Which of the parameters were not frozen.
        random_states: Of torch, on the host and every GPU.
    """

    counts: dict[str, Any]
    parts: list[dict[str, Any]]
    attributes: list[dict[str, Any]]
    trained: list[bool]
    random_states: list[Tensor]


@dataclass
class TrainingState:
    """What changes in the course of a training.

    Attributes:
        model: The model, with its current parameters.
        optimizer: The optimizer, with its running means.
        scheduler: The schedule of the learning rate.
        began: When the fit began, by ``time.perf_counter``.
        about: Those attributes of the result that are known from the start.
        num_steps: Steps taken.
        trace: The mean ELBO of each epoch, nats per datum.
        valid_trace: The ELBO on validation data after each epoch, nats per datum.
        best_epoch: The best epoch so far, counted from 1; 0 before the first.  Without validation data, the last.
        best_elbo: Its ELBO.
        best_parameters: Its parameters and buffers.
        collapsed_since: The first epoch at which the posterior was seen to have collapsed for good, or None.
    """

    model: LatentVariableModel
    optimizer: Optimizer
    scheduler: LRScheduler
    began: float
    about: dict[str, Any]
    num_steps: int = 0
    trace: list[float] = field(default_factory=list)
    valid_trace: list[float] = field(default_factory=list)
    best_epoch: int = 0
    best_elbo: float = -math.inf
    best_parameters: dict[str, Any] = field(default_factory=dict)
    collapsed_since: int | None = None

    def __post_init__(self) -> None:
        self.parameters = list(self.model.parameters())

    @property
    def epoch(self) -> int:
        """The number of finished epochs."""
        return len(self.trace)

    @property
    def elbo(self) -> float:
        """The ELBO of the last epoch, on validation data if there are any."""
        return (self.valid_trace or self.trace)[-1]

    def schedule(self) -> None:
        """Set the learning rate of the next step.  Every so many steps, clear what has faded from the optimizer."""
        self.scheduler.step()
        if self.num_steps % UPKEEP == 0:
            forget_negligible(self.optimizer)

    def keep_if_best(self) -> None:
        """Keep the current parameters if they are the best on validation data.  Without such data, keep the last."""
        if not self.valid_trace or self.elbo > self.best_elbo:
            self.best_epoch, self.best_elbo = self.epoch, self.elbo
            self.best_parameters = copy.deepcopy(self.model.state_dict())

    def is_out_of(self, patience: int | None) -> bool:
        """Whether so many epochs, or one at least, have passed since the best."""
        return patience is not None and self.epoch - self.best_epoch >= max(patience, 1)

    def is_due(self, checked: "Checked", num_epochs: int, patience: int | None) -> bool:
        """Whether graphs are to be compared with the interpreter after the next epoch: each time that the number of
        steps has doubled, and at the end."""
        waited = patience is not None and self.epoch + 1 - self.best_epoch >= max(patience, 1)
        steps = checked.counts["num_steps"]
        return waited or self.epoch + 1 == num_epochs or self.num_steps >= max(FIRST_CHECK, 2 * steps)

    def saved(self) -> "Checked":
        """All of it, to go back to."""
        counts = {each.name: copy.copy(getattr(self, each.name)) for each in fields(self)[5:]}
        parts = [copy.deepcopy(each.state_dict()) for each in self._parts]
        attributes = [dict(vars(each)) for each in self.model.modules()]
        trained = [each.requires_grad for each in self.parameters]
        return Checked(counts, parts, attributes, trained, random_states())

    def go_back(self, checked: "Checked") -> None:
        """Be what it was, torch's random state included."""
        for name, value in checked.counts.items():
            setattr(self, name, copy.copy(value))
        for module, attributes in zip(self.model.modules(), checked.attributes, strict=True):
            vars(module).clear()
            vars(module).update(attributes)
        for parameter, trained in zip(self.parameters, checked.trained, strict=True):
            parameter.requires_grad_(trained)
        for part, state in zip(self._parts, checked.parts, strict=True):
            part.load_state_dict(state)
        set_random_states(checked.random_states)

    @property
    def _parts(self) -> tuple[Any, ...]:
        return self.model, self.optimizer, self.scheduler

    @property
    def kept(self) -> str:
        """Which parameters are kept, in words."""
        last = f"last, epoch {self.epoch}"
        return f"best on validation, epoch {self.best_epoch} of {self.epoch}" if self.valid_trace else last

    def call(self, callback: Callable[[int, LatentVariableModel], None]) -> None:
        """Call back after an epoch, and check what has become of the parameters.

        Raises:
            DivergenceError: If one is not finite, or a buffer has NaN.
            ValueError: If one is another object than before, of which the optimizer knows nothing.
        """
        callback(self.epoch, self.model)
        now = dict(self.model.named_parameters())
        if replaced := [name for name, each in now.items() if not any(each is own for own in self.parameters)]:
            raise ValueError(
                f"`callback` must change parameters in place, got a new {replaced[0]!r} after epoch {self.epoch}, "
                "which would not be trained; under torch.no_grad(), use parameter.copy_(value)."
            )
        bad = [f"parameter {name!r} not finite" for name, each in now.items() if not torch.isfinite(each).all()]
        bad += [f"buffer {name!r} with NaN" for name, each in self.model.named_buffers() if each.isnan().any()]
        if bad:
            raise self.diverged(f"`callback` left the {bad[0]} after epoch {self.epoch}.")

    def diverged(self, message: str) -> DivergenceError:
        """The error of a fit that left the finite numbers, with the last good result."""
        kept = f"epoch {self.best_epoch}, before the loss left the finite numbers"
        return DivergenceError(message, self.result(kept) if self.best_epoch else None)

    def result(self, kept: str) -> FitResult:
        """The result of the fit, with the parameters that are kept.

        Args:
            kept: Which these are, in words.
        """
        self.model.load_state_dict(self.best_parameters)
        return FitResult(
            model=self.model.eval(),
            method="SVI",
            trace=nats(self.trace),
            converged=None,
            seconds=time.perf_counter() - self.began,
            kept=kept,
            num_steps=self.num_steps,
            valid_trace=nats(self.valid_trace) if self.valid_trace else None,
            elbo=self.best_elbo,
            **self.about,
        )


@contextmanager
def frozen_kept(model: LatentVariableModel) -> Iterator[None]:
    """A block that may set parameters; those without a gradient, which nothing trains, then have their values back."""
    kept = [(each, each.clone()) for each in model.parameters() if not each.requires_grad]
    yield
    with torch.no_grad():
        for each, value in kept:
            each.copy_(value)


def require_finite(loss: Tensor | float) -> None:
    """Check a loss.

    Raises:
        NotFinite: If it is not finite.
    """
    if not math.isfinite(loss):
        raise NotFinite


@contextmanager
def offender_named(state: TrainingState, batch: Callable[[], tuple[Tensor, ...]]) -> Iterator[None]:
    """A block that takes a loss.  If the loss is not finite, the error names the step and the first offender.

    Args:
        state: Of the training.
        batch: Gives what model and guide are called with.

    Raises:
        NotFinite: If the loss, a parameter or a site is not finite; any other error stays as it is.
    """
    try:
        yield
    except (NotFinite, ValueError, torch.linalg.LinAlgError) as error:  # Pyro's validation may meet it first
        if "more than 1 value per channel" in str(error):
            raise ValueError(
                f"`batch_size` must leave no batch of 1 datum to a BatchNorm, which takes variances over a batch, got "
                f"one at step {state.num_steps}; choose another `batch_size`, or leave one datum out of `data`."
            ) from error
        offender = first_offender(state.model, batch())
        if offender is None and not isinstance(error, NotFinite):
            raise
        message = f"the loss is not finite at step {state.num_steps}: {offender or 'the ELBO'} is not"
        raise NotFinite(message) from (None if isinstance(error, NotFinite) else error)


@torch.no_grad()
def first_offender(model: LatentVariableModel, batch: tuple[Tensor, ...]) -> str | None:
    """The first parameter or log-density that is not finite, in words."""
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            return f"parameter {name!r}"
    try:
        with pyro.validation_enabled(False):  # else it raises before the site can be named
            for site in sample_sites(model, *batch):
                if not torch.isfinite(log_density(site)).all():
                    return f"the log-density of site {site['name']!r}"
    except torch.linalg.LinAlgError:
        return "a covariance matrix"
    return None
