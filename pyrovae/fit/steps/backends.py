"""How a fit by gradient steps gets its gradients: interpreted by Pyro, from a graph, compiled, or from a CUDA graph."""

from __future__ import annotations

from typing import Literal

import torch
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO

from pyrovae.engine.capture import compiler_found
from pyrovae.fit.objectives import BetaELBO, ImportanceWeightedELBO

Compile = Literal["auto", "graph", "inductor", "cuda_graph", False]

WAYS = ("auto", "graph", "inductor", "cuda_graph", False)
STEPS_TO_CAPTURE = 300  # by then a graph has saved what its capture takes, up to half a second
STEPS_TO_COMPILE = 10_000  # and Inductor some ten seconds
KNOWN = (Trace_ELBO, TraceMeanField_ELBO, TraceEnum_ELBO, BetaELBO, ImportanceWeightedELBO)


def check_way(compile: Compile, device: torch.device) -> None:
    """Check what the caller asks for.

    Raises:
        ValueError: If it is not known, or not to be had on this device.
    """
    if compile not in WAYS:
        raise ValueError(f"`compile` must be one of {WAYS}, got {compile!r}.")
    if compile == "cuda_graph" and device.type != "cuda":
        raise ValueError(
            f"`compile='cuda_graph'` needs a CUDA device, got {device.type!r}; pass device=\"cuda\", or "
            "compile='inductor'."
        )


def best_way(device: torch.device, num_steps: int, elbo: object) -> Compile:
    """What is fastest over so many steps, compilation included.

    An ELBO of a kind not known here may do more at a step than calculate, which no graph repeats: it is interpreted.
    """
    if num_steps < STEPS_TO_CAPTURE or type(elbo) not in KNOWN:
        return False
    if device.type == "cuda":
        return "cuda_graph"
    return "inductor" if device.type == "cpu" and num_steps >= STEPS_TO_COMPILE and compiler_found() else "graph"
