"""Which kind of step is fastest: interpreted by Pyro, from a graph, compiled, or from a CUDA graph."""

import torch
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO

from pyrovae.engine.capture import compiler_found
from pyrovae.engine.execution import Compile, Execution
from pyrovae.engine.processes import ProcessGroup
from pyrovae.fit.objectives import BetaELBO, ImportanceWeightedELBO
from pyrovae.models.base import LatentVariableModel

STEPS_TO_CAPTURE = 300  # by then a graph has saved what its capture takes, up to half a second
STEPS_TO_COMPILE = 10_000  # and Inductor some ten seconds
KNOWN = (Trace_ELBO, TraceMeanField_ELBO, TraceEnum_ELBO, BetaELBO, ImportanceWeightedELBO)


def check_execution(execution: Execution, model: LatentVariableModel, batch_size: int, group: ProcessGroup) -> None:
    """Check that the steps that the caller asks for can be had.

    Raises:
        ValueError: If they cannot, for this model on its device, these batches, or in this combination.
    """
    if not group.number <= (execution.num_shards or group.number) <= batch_size:
        raise ValueError(
            f"`num_shards` must be from {group.number}, the number of processes, to `batch_size` = {batch_size}, "
            f"got {execution.num_shards or group.number}."
        )
    device = model._like.device
    if execution.compile == "cuda_graph" and device.type != "cuda":
        raise ValueError(
            f"`compile='cuda_graph'` needs a CUDA device, got {device.type!r}; pass device=\"cuda\", or "
            "compile='inductor'."
        )
    if execution.precision == "full":
        return
    if execution.compile == "inductor":
        raise ValueError(
            "`precision='bf16'` needs a way of computing that rounds where it is told to, got compile='inductor'; "
            'use "graph", or "cuda_graph" on a GPU.'
        )
    if other := sorted({str(each.dtype) for each in model.parameters() if each.dtype != torch.float32}):
        raise ValueError(f"`precision='bf16'` needs parameters in float32, got {', '.join(other)}; use model.float().")


def choose(execution: Execution, device: torch.device, num_steps: int, elbo: object) -> Compile:
    """The kind of step that the caller asks for, or that is fastest over so many steps, compilation included.

    An ELBO of a kind not known here may do more at a step than calculate, which no graph repeats: it is interpreted.
    """
    chosen = execution.compile
    if chosen == "auto":
        if num_steps < STEPS_TO_CAPTURE or type(elbo) not in KNOWN:
            chosen = False
        elif device.type == "cuda":
            chosen = "cuda_graph"
        else:
            compiles = device.type == "cpu" and num_steps >= STEPS_TO_COMPILE and compiler_found()
            chosen = "inductor" if compiles else "graph"
    return "graph" if chosen == "inductor" and execution.precision == "bf16" else chosen
