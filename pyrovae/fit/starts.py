"""The starts of a fit by SVI: what they have in common, one of them on its way, and which is trained to the end."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pyro.infer import ELBO
from torch import Tensor
from torch.optim import Optimizer

from pyrovae.engine.execution import DEFAULT, Execution
from pyrovae.engine.processes import ALONE, ProcessGroup
from pyrovae.engine.seeding import block_seed, random_states, set_random_states
from pyrovae.fit.feed import Feed
from pyrovae.fit.loss import BatchLoss
from pyrovae.fit.optimizers import Schedule, in_units, make_optimizer, make_scheduler
from pyrovae.fit.select import tied_for_best
from pyrovae.fit.steps import make_step
from pyrovae.fit.training import TrainingState, frozen_kept
from pyrovae.fit.units import warn_of_floor
from pyrovae.models.base import LatentVariableModel

SHORT = 10  # a short run is one in so many of the epochs
LEAST_PATIENCE = 10  # epochs
LENIENT = 2  # patience is one in so many of the epochs; one cycle was seen to gain again after 0.43 of them


@dataclass(frozen=True, eq=False)
class Plan:
    """What the starts of a fit have in common; the arguments of :func:`~pyrovae.fit.svi`, as they were decided.

    Attributes:
        model: On the device; every start trains a copy.
        feed: The data.
        valid: What the programs take of the validation data; empty where there are none.
        group: The processes that share the fit.
        began: When the fit began, by ``time.perf_counter``.
        about: Those attributes of the result that are known from the start.
    """

    model: LatentVariableModel
    feed: Feed
    valid: Sequence[Tensor]
    num_steps: int
    batch_size: int
    lr: float
    schedule: str | Schedule
    optimizer: Callable[..., Optimizer] | None
    elbo: ELBO | None
    about: dict[str, Any]
    unit: float = 1.0
    patience: int | None = None
    num_restarts: int = 1
    warm_start: bool = False
    seed: int = 0
    execution: Execution = DEFAULT
    group: ProcessGroup = ALONE
    began: float = 0.0

    @property
    def num_batches(self) -> int:
        """Batches of an epoch."""
        return math.ceil(len(self.feed) / self.batch_size)

    @property
    def num_epochs(self) -> int:
        """Passes over the data; the last may be cut short."""
        return math.ceil(self.num_steps / self.num_batches)

    @property
    def stop_after(self) -> int | None:
        """Epochs without a gain on validation data after which a run stops; None without such data."""
        if self.patience is None and self.valid:
            return max(LEAST_PATIENCE, math.ceil(self.num_epochs / LENIENT))
        return self.patience

    def start_seed(self, start: int) -> int:
        """The seed of a start: that of the fit for the first; apart from those of shards, which count upwards."""
        return block_seed(block_seed(self.seed), -start) if start else self.seed


class Run:
    """A start on its way.

    Args:
        plan: Of the fit.
        start: Its number, from 0.
        is_short: Whether it ends after the first part of the plan.
        restarts: The ELBOs of the short runs, where there were any.

    Attributes:
        num_epochs: After which it ends.
        loss: Of a batch.
        step: What :func:`~pyrovae.fit.steps.make_step` makes.
        state: What changes in the course of the training.
        checked: The state when graphs had last been seen to be right.
        diverged: Whether a loss of a short run was not finite, which ends it.
    """

    def __init__(self, plan: Plan, start: int = 0, is_short: bool = False, restarts: Sequence[float] = ()) -> None:
        self.plan, self.start, self.is_short, self.diverged = plan, start, is_short, False
        self.num_epochs = math.ceil(plan.num_epochs / SHORT) if is_short else plan.num_epochs
        model = plan.model.copy()
        if not plan.warm_start:
            model.forget_parameters()
            with frozen_kept(model):
                model.initialize(plan.feed.start())
        if not is_short:
            warn_of_floor(model, plan.feed.source)
        self.loss = BatchLoss(model, plan.feed, plan.elbo, plan.execution.precision)
        plan.group.copy_from_first(model)
        optimizer = make_optimizer(plan.optimizer, self.loss.parameters, float(plan.lr))
        in_units(optimizer, model, plan.unit)
        scheduler = make_scheduler(plan.schedule, optimizer, plan.num_steps)
        num_steps, seed = min(plan.num_steps, self.num_epochs * plan.num_batches), plan.start_seed(start)
        self.step = make_step(self.loss, optimizer, plan.execution, num_steps, plan.batch_size, seed, plan.group)
        self.state = TrainingState(model, optimizer, scheduler, plan.began, {**plan.about, "restarts": tuple(restarts)})
        self.checked = self.state.saved()

    @property
    def goes_on(self) -> bool:
        """Whether another epoch is to come."""
        is_over = self.diverged or self.state.epoch >= self.num_epochs
        return not (is_over or self.state.is_out_of(self.plan.stop_after))

    @property
    def is_due(self) -> bool:
        """Whether graphs are to be compared with the interpreter after the next epoch."""
        return self.state.is_due(self.checked, self.num_epochs, self.plan.stop_after)

    @property
    def kept(self) -> str:
        """Which parameters are kept, in words."""
        stopped = f" (stopped early, {self.num_epochs} planned)" if self.state.epoch < self.num_epochs else ""
        return f"{self.state.kept}{stopped}{self.which}"

    @property
    def which(self) -> str:
        """Which start it is, where there are several, in words."""
        return f", start {self.start + 1} of {self.plan.num_restarts}" if self.plan.num_restarts > 1 else ""

    def settle(self, checked: bool) -> None:
        """After all else of an epoch, such as a callback.

        Args:
            checked: Whether graphs were seen to be right after this epoch.
        """
        self.state.keep_if_best()
        self.step.settle()
        if checked:
            self.checked = self.state.saved()


def runs(plan: Plan) -> Iterator[Run]:
    """The runs of a fit, each to be trained before the next is asked for: short ones, then that of the best start.

    That is run from its start again, so that a callback sees, and may change, the whole of what is returned.
    """
    opened = random_states()

    def begin(start: int) -> None:
        if start == 0:
            set_random_states(opened)  # as if it were the only one
        else:
            torch.manual_seed(plan.start_seed(start))

    scored: list[tuple[float, int]] = []
    for start in range(plan.num_restarts if plan.num_restarts > 1 else 0):
        begin(start)
        yield (run := Run(plan, start, is_short=True))
        scored.append((plan.group.gathered(-math.inf if run.diverged else run.state.best_elbo)[0], start))
    best = tied_for_best(scored)[0][1] if scored else 0
    begin(best)
    yield Run(plan, best, restarts=[elbo for elbo, _ in scored])
