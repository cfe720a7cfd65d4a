"""The loss of a batch: minus the ELBO, as every step of SVI descends it."""

from functools import partial
from typing import Any

import torch
from pyro import poutine
from pyro.infer import ELBO, Trace_ELBO, TraceEnum_ELBO
from torch import Tensor, nn

from pyrovae.engine.execution import Precision
from pyrovae.engine.isolation import evaluating
from pyrovae.engine.precision import layers_in
from pyrovae.fit.feed import Feed
from pyrovae.models.base import LatentVariableModel
from pyrovae.models.sites import FEW, GivenData, vectorized


class WeightedELBO:
    """An ELBO whose own weight, β where there is a schedule of it, is a tensor, so that a graph sees it change.

    Attributes:
        loss: The differentiable loss of a model, a guide and their inputs.
        weight: That tensor in a list, which is empty for an ELBO without a weight.
        unweighted: The ELBO but for its weight and the count of it.
    """

    def __init__(self, elbo: Any, like: Tensor) -> None:
        self.elbo = elbo
        self.weight = [torch.ones((), dtype=like.dtype, device=like.device)] if hasattr(elbo, "next_weight") else []
        self.loss = partial(elbo.weighted_loss, *self.weight) if self.weight else elbo.differentiable_loss
        self.unweighted = elbo.elbo if self.weight else elbo

    def go_back(self, num_steps: int) -> None:
        """Have counted so many steps."""
        if self.weight:
            self.elbo.step = num_steps

    def advance(self) -> None:
        """Count a step, and set the weight to that of the step."""
        for weight in self.weight:
            weight.fill_(self.elbo.next_weight())


class BatchLoss:
    """The loss of the batches of a feed.

    Args:
        model: The model, which is trained in place.
        feed: Its data.
        elbo: As for :func:`~pyrovae.fit.svi`.
        precision: Of the layers.

    Attributes:
        module: Pyro's ELBO module of model and guide.
        elbo: Its ELBO, with the weight of the step.
        parameters: θ and φ; those frozen at the moment, which get no gradients, among them.
    """

    def __init__(self, model: LatentVariableModel, feed: Feed, elbo: ELBO | None, precision: Precision) -> None:
        self.model, self.feed, self.precision = model, feed, precision
        suited = first_run(model, *(each[:FEW] for each in (feed.observations.x, *feed.given)))
        elbo = elbo or suited
        self.module: nn.Module = elbo(model.model, model.guide)
        self.parameters = [each for each in self.module.parameters() if each.is_floating_point()]
        if not any(each.requires_grad for each in self.parameters):
            raise ValueError(
                "`model` must have a parameter to be fitted, got none that requires a gradient; make one in its "
                "constructor, or by pyro.param in its program."
            )
        own = getattr(self.module, "elbo", elbo)  # the module's own counts the steps of a schedule
        self.elbo = WeightedELBO(own, model._like)

    def __call__(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of the data at ``index``: the loss a datum, which is descended, their sum, nats, and the x drawn."""
        batch = self.batch(index)
        with layers_in(self.precision), GivenData(len(index)):
            loss = self.elbo.loss(self.model.model, self.model.guide, *batch)
        return loss / len(index), loss, batch[0]

    def on(self, *inputs: Tensor) -> Tensor:
        """The loss of given inputs, summed over their data, nats, in full precision; no step."""
        with GivenData(len(inputs[0])):
            return self.module(*inputs)

    def batch(self, index: Tensor) -> tuple[Tensor, ...]:
        """What model and guide are called with; resampled data are drawn afresh."""
        return self.feed.observations.draw(index), *(each[index] for each in self.feed.given)


def check_elbo(elbo: object) -> None:
    """Refuse what is no ELBO.

    Raises:
        TypeError: If it has no ``differentiable_loss``, or is a class.
    """
    if isinstance(elbo, type) or not hasattr(elbo, "differentiable_loss"):
        given = f"the class {elbo.__name__}" if isinstance(elbo, type) else type(elbo).__name__
        raise TypeError(f"`elbo` must be a Pyro ELBO with a differentiable_loss, got {given}; use e.g. Trace_ELBO().")


@torch.no_grad()
def first_run(model: LatentVariableModel, *inputs: Tensor) -> ELBO:
    """Run the programs once, so that the model holds what they make by ``pyro.param``; returns the ELBO that suits."""
    with evaluating(model), torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        sites = sample_sites(model, *inputs)
        model.hold_parameters()
    if not any(site["infer"].get("enumerate") for site in sites):
        return Trace_ELBO()
    return TraceEnum_ELBO(max_plate_nesting=max(-plate.dim for plate in vectorized(*sites)))


def sample_sites(model: LatentVariableModel, *inputs: Tensor) -> list[Any]:
    """The sample sites of one run of the guide, and of the model against it."""
    guide = poutine.trace(model.guide).get_trace(*inputs)
    trace = poutine.trace(poutine.replay(model.model, guide)).get_trace(*inputs)
    sites: list[Any] = [*guide.nodes.values(), *trace.nodes.values()]
    return [site for site in sites if site["type"] == "sample"]
