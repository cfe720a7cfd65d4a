"""The training run inside of :func:`~pyrovae.fit.svi`: the loss of a batch, optimizer, schedule and traces."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer import ELBO, Trace_ELBO, TraceEnum_ELBO
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler, OneCycleLR

from pyrovae.engine.capture import NotStatic
from pyrovae.engine.precision import Precision, layers_in
from pyrovae.engine.seeding import seeded
from pyrovae.fit.feed import Feed
from pyrovae.fit.optimizers import UPKEEP, adam, forget_negligible
from pyrovae.fit.result import FitWarning
from pyrovae.fit.steps.backends import Compile, best_way
from pyrovae.fit.steps.captured import CompiledLoss, loss_of, next_weight
from pyrovae.fit.steps.cuda_graph import CudaGraphStep
from pyrovae.models.base import LatentVariableModel

Schedule = Callable[[Optimizer, int], LRScheduler]
Update = Callable[..., Sequence[Tensor]]  # of a batch's index: gradients, a step of the optimizer; gives `_losses`

SCHEDULES: dict[str, Schedule] = {
    "constant": lambda optimizer, num_steps: LambdaLR(optimizer, lambda step: 1.0),
    "cosine": lambda optimizer, num_steps: CosineAnnealingLR(optimizer, num_steps),
    "one_cycle": lambda optimizer, num_steps: OneCycleLR(optimizer, optimizer.param_groups[0]["lr"], num_steps),
}


class NotFinite(Exception):
    """The loss of a step was not finite."""


class Run:
    """The state of one training run.

    Args:
        model: The model, which is trained in place.
        source: Its data.
        elbo, lr, schedule, optimizer, batch_size, num_epochs, compile, precision: As for :func:`~pyrovae.fit.svi`.
    """

    def __init__(
        self,
        model: LatentVariableModel,
        source: Feed,
        *,
        elbo: ELBO | None,
        lr: float,
        schedule: str | Schedule,
        optimizer: Callable[..., Optimizer] | None,
        batch_size: int,
        num_epochs: int,
        compile: Compile,
        precision: Precision = "full",
    ) -> None:
        self.model, self.source = model, source
        self.observations, self.given = source.observations, source.given
        self.batch_size, self.num_epochs = batch_size, num_epochs
        self.compile, self.precision = compile, precision
        enumerated = has_enumerated_site(model, *(each[:2] for each in (self.observations.x, *self.given)))
        elbo = elbo or (TraceEnum_ELBO(max_plate_nesting=1) if enumerated else Trace_ELBO())
        self.loss: nn.Module = elbo(model.model, model.guide)
        self.elbo: Any = getattr(self.loss, "elbo", elbo)  # the module's own, which counts the steps of a schedule
        self.parameters = [each for each in self.loss.parameters() if each.requires_grad]
        self.optimizer = (optimizer or adam)(self.parameters, lr=lr)
        make_scheduler = SCHEDULES[schedule] if isinstance(schedule, str) else schedule
        self.scheduler = make_scheduler(self.optimizer, num_epochs * math.ceil(len(source) / batch_size))
        self.updates: dict[int, Update] = {}  # by the size of what they are called with
        self.usual_sizes = Counter([min(batch_size, len(source))])  # and how many of them are in a full batch
        self.refusal: NotStatic | None = None
        self.step = 0
        self.trace: list[float] = []
        self.valid_trace: list[float] = []

    def epoch(self) -> None:
        """One pass over the data in random order; appends the mean ELBO of its batches to the trace."""
        self.model.train()
        losses, first = [], self.step + 1
        for index in self.source.batches(self.batch_size):
            self.step += 1
            loss, x = self._take_step(index)
            losses.append(loss)
        self.model.eval()
        values = torch.stack(losses).tolist()
        for self.step, value in enumerate(values, first):
            if not math.isfinite(value):  # on a GPU, where nobody has looked before
                raise self._not_finite(self._batch(index))
        self._check_last(index, x)  # no further step would notice what the last one did
        self.trace.append(-sum(values) / len(self.source))

    def validate(self, inputs: tuple[Tensor, ...], seed: int) -> float:
        """ELBO on validation data, nats per datum, with the same draws after every epoch.

        Not under ``no_grad``, where Pyro's ``TraceEnum_ELBO`` refuses to give its loss.
        """
        self.model.eval()
        total = 0.0
        with seeded(seed):
            for batch in zip(*(each.split(max(self.batch_size, 1024)) for each in inputs), strict=True):
                total -= self._checked_loss(batch).item()
        self.valid_trace.append(total / len(inputs[0]))
        return self.valid_trace[-1]

    def _take_step(self, index: Tensor) -> Sequence[Tensor]:
        """A step of the optimizer and of the schedule; gives the loss, and the x that it is of."""
        outputs = self._descend(index, *next_weight(self.elbo, self.parameters[0]))
        self.scheduler.step()
        if self.step % UPKEEP == 0:
            forget_negligible(self.optimizer)
        if self.refusal is not None:
            warnings.warn(
                f"the loss cannot be captured as a graph, so Pyro interprets the model at every step: {self.refusal}; "
                "`compile=False` does so unasked.",
                FitWarning,
                stacklevel=4,  # where `fit.svi` was called
            )
            self.refusal = None
        return outputs[1:]

    def _descend(self, index: Tensor, *weight: Tensor) -> Sequence[Tensor]:
        """A step of the optimizer; gives what :meth:`_losses` does."""
        if len(index) not in self.updates:
            self.updates[len(index)] = self._update(len(index))
        try:
            return self.updates[len(index)](index, *weight)
        except NotStatic as error:
            self.compile, self.updates, self.refusal = False, {}, error
            return self._update(len(index))(index, *weight)

    def _update(self, size: int) -> Update:
        """How steps are taken on batches of this size."""
        loss, way = self._loss_for(size)
        on_gpu = CudaGraphStep(loss, self.optimizer) if way == "cuda_graph" else None

        def update(*inputs: Tensor) -> Sequence[Tensor]:
            def batch() -> tuple[Tensor, ...]:
                return self._batch(inputs[0])

            if on_gpu is not None:
                return self._checked(lambda: on_gpu(*inputs), batch, look=False)  # the host does not wait for the GPU
            gradients = loss if way else loss.run
            outputs = self._checked(lambda: gradients(*inputs), batch)
            self.optimizer.step()
            return outputs

        return update

    def _loss_for(self, size: int) -> tuple[CompiledLoss, Compile]:
        """The loss of batches of this size, and the way in which it is to be computed."""
        asked = self.compile if self.compile is False or size in self.usual_sizes else "auto"
        full_batches = max(1, len(self.source) // self.batch_size)
        num_steps = self.num_epochs * (full_batches * self.usual_sizes[size] or 1)
        way = best_way(self.observations.x.device, num_steps, self.elbo) if asked == "auto" else asked
        if self.precision == "bf16" and way == "inductor":
            way = "graph"
        modules = list(self.loss.modules())
        loss = CompiledLoss(
            self._losses,
            self.parameters,
            [each for each in (*self.loss.parameters(), *self.loss.buffers()) if not each.requires_grad],
            mode=lambda: tuple([each.training for each in modules]),
            backend="inductor" if way == "inductor" else "graph",
        )
        return loss, way

    def _losses(self, index: Tensor, *weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The loss a datum, which is descended; the loss; and the x that they are of."""
        batch = self._batch(index)
        with layers_in(self.precision):
            loss = loss_of(self.elbo, self.model.model, self.model.guide, (*batch, *weight))
        return loss / len(index), loss, batch[0]

    def _batch(self, index: Tensor) -> tuple[Tensor, ...]:
        return self.observations.draw(index), *(each[index] for each in self.given)

    def _check_last(self, index: Tensor, x: Tensor) -> None:
        self._checked_loss((x, *(each[index] for each in self.given)))

    def _checked_loss(self, batch: tuple[Tensor, ...]) -> Tensor:
        return self._checked(lambda: [self.loss(*batch)], lambda: batch)[0]

    def _checked(
        self, evaluate: Callable[[], Sequence[Tensor]], batch: Callable[[], tuple[Tensor, ...]], look: bool = True
    ) -> Sequence[Tensor]:
        """What ``evaluate`` returns, if it returns, and the first of it is finite or nobody is to look."""
        cause: Exception | None = None
        try:
            values = evaluate()
            if not look or math.isfinite(values[0].item()):
                return values
        except (ValueError, torch.linalg.LinAlgError) as error:  # Pyro's validation or a factorisation met it first
            cause = error
        refusal = self._not_finite(batch(), cause)
        raise refusal from (None if refusal is cause else cause)

    def _not_finite(self, batch: tuple[Tensor, ...], cause: Exception | None = None) -> Exception:
        """What to raise: the step and the first offender, or the cause itself where all is finite."""
        offender = self._first_offender(batch)
        if offender is None and cause is not None:
            return cause
        return NotFinite(f"the loss is not finite at step {self.step}: {offender or 'the ELBO'} is not")

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
