"""Run by torchrun in test_distributed.py: the fits of this process, written to a file of its own."""

import os
import sys
import warnings
from pathlib import Path

import torch

from pyrovae import PPCA, BernoulliMixture, Execution, FactorAnalysis, GaussianMixture, PPCAMixture, fit

D = 4
MODELS = {
    "full": lambda: GaussianMixture(3, D, floor=1e-3),
    "tied": lambda: GaussianMixture(3, D, "tied", floor=1e-3, start="random"),
    "missing": lambda: GaussianMixture(2, D, "diag", floor=1e-3, missing="nan"),
    "PPCA": lambda: PPCA(2, D),
    "factor analysis": lambda: FactorAnalysis(1, D, floor=1e-3, missing="nan"),
    "PPCA mixture": lambda: PPCAMixture(3, 1, D, floor=1e-3),
    "Bernoulli": lambda: BernoulliMixture(3, D),
}


def data_for(name: str) -> torch.Tensor:
    """103 data, which no number of processes but one divides."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(103, D, generator=generator, dtype=torch.float64) + 4 * (torch.arange(103) % 3)[:, None]
    if name == "Bernoulli":
        return (x > 4).to(x)
    return x.masked_fill(x > 8, torch.nan) if name in ("missing", "factor analysis") else x


def fits(distributed: bool) -> dict[str, dict[str, torch.Tensor]]:
    """The parameters of every model, and the traces, from the default starts."""
    result, execution = {}, Execution(distributed=distributed)
    for name, build in MODELS.items():
        # Not accelerated: an extrapolation's length is a ratio of differences that vanish, and magnifies rounding.
        options = {"max_iterations": 15, "num_restarts": 2, "accelerate": False, "execution": execution}
        weight = torch.linspace(0.5, 2, 103) if name == "tied" else None
        fitted = fit.em(build(), data_for(name), sample_weight=weight, **options)
        result[name] = {**fitted.model.state_dict(), "trace": fitted.trace}
        result[name + " of arrays"] = {"trace": fit.em(build(), data_for(name).numpy(), **options).trace}
    rank, size = (torch.distributed.get_rank(), torch.distributed.get_world_size()) if distributed else (0, 1)
    batches = data_for("PPCA")[rank::size].split(9)  # each process has batches of its own
    start = PPCA(2, D)
    with torch.no_grad():
        start.weight.copy_(torch.eye(D)[:, :2])
    fitted = fit.em(start, list(batches), warm_start=True, accelerate=False, max_iterations=15, execution=execution)
    return {**result, "batches": {**fitted.model.state_dict(), "trace": fitted.trace}}


if __name__ == "__main__":
    torch.distributed.init_process_group("gloo")
    warnings.simplefilter("ignore")
    torch.save(fits(distributed=True), Path(sys.argv[1]) / f"{os.environ['RANK']}.pt")
    torch.distributed.destroy_process_group()
