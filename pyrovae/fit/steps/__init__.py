"""One step of SVI: interpreted, captured as a graph, recorded as a CUDA graph, or sharded; all are called alike."""

import math
from collections import Counter
from dataclasses import replace

import torch
from torch.optim import Optimizer

from pyrovae.engine.execution import Compile, Execution
from pyrovae.engine.processes import ALONE, ProcessGroup
from pyrovae.engine.watch import Watched
from pyrovae.fit.loss import BatchLoss
from pyrovae.fit.steps.backends import choose
from pyrovae.fit.steps.captured import Captured, graph_of
from pyrovae.fit.steps.cuda_graph import CudaGraphStep
from pyrovae.fit.steps.interpreted import NoSteps, Step
from pyrovae.fit.steps.sharded import Sharded, Shards

AnyStep = Step | Captured | Sharded


def make_step(
    loss: BatchLoss,
    optimizer: Optimizer,
    execution: Execution,
    num_steps: int,
    batch_size: int,
    seed: int = 0,
    group: ProcessGroup = ALONE,
) -> AnyStep:
    """The step that the caller asks for, or that is fastest.

    Args:
        loss: Of a batch.
        optimizer: Of its parameters.
        execution: How steps are computed.
        num_steps: Steps that will be taken.
        batch_size: Data in a batch.
        seed: Seed of the draws of shards.
        group: The processes that share the shards.

    Returns:
        ``step(index)``, see :class:`~pyrovae.fit.steps.interpreted.Step`.
    """
    shards = Shards(execution.num_shards or group.number, group, seed, list(loss.module.buffers()))
    own = optimizer if shards.number == 1 else NoSteps()  # the gradients of shards are averaged first
    interpreted = Step(loss, own)
    full_batch, num_batches = torch.arange(min(batch_size, len(loss.feed))), max(1, len(loss.feed) // batch_size)
    num_epochs = math.ceil(num_steps / math.ceil(len(loss.feed) / batch_size))
    num_full = min(num_steps, num_epochs * num_batches)  # the last batch of an epoch may be short
    usual = Counter(len(part) for _, part in shards.own(full_batch))  # sizes of parts, and how many a batch has of each
    device, elbo = loss.feed.observations.x.device, loss.elbo.elbo
    kinds = {size: choose(execution, device, num_full * number, elbo) for size, number in usual.items()}
    of_last_batch = choose(replace(execution, compile="auto"), device, num_epochs, elbo)
    watched = Watched(loss.model, loss.elbo.unweighted)
    captured = Captured(
        interpreted, lambda size: step_of_kind(kinds.get(size, of_last_batch), loss, own, watched), watched
    )
    step = captured if any(kinds.values()) else interpreted
    return step if shards.number == 1 else Sharded(step, loss, optimizer, shards)


def step_of_kind(
    kind: Compile, loss: BatchLoss, optimizer: Optimizer | NoSteps, watched: Watched
) -> Step | CudaGraphStep:
    """The step for batches of one size."""
    if not kind:
        return Step(loss, optimizer)
    graph = graph_of(loss, watched, "inductor" if kind == "inductor" else "graph")
    return CudaGraphStep(graph, optimizer) if kind == "cuda_graph" else Step(loss, optimizer, graph.evaluate)
