"""What do layers in bfloat16 cost in nats, and what do they save in time?

    python benchmarks/precision.py [--num-epochs E] [--seeds S]

Equal training in float32 and in bfloat16, on MNIST where PYROVAE_DATA has it, else on digits; the held-out ELBO by
float32 in both, at the same draws.  Claim: the mean cost is below 0.5 nats per datum.  Time is saved only by processors
that multiply bfloat16 fast; the peer is float32.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from typing import Any

import torch
from timing import ratio

from pyrovae import VAE, Bernoulli, Execution, data, evaluate, fit
from pyrovae.data import DataSet


def images() -> tuple[DataSet, tuple[int, ...]]:
    """Binary images, and the widths of a network for them."""
    try:
        return data.load("mnist", observations="binary"), (400,)
    except (FileNotFoundError, RuntimeError):
        return data.load("digits", observations="binary"), (128,)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    dataset, hidden = images()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    train, test = (each.to(torch.float32) for each in (dataset.train, dataset.test.fixed()))
    nats: dict[Any, list[float]] = {"full": [], "bf16": []}
    seconds: dict[str, list[float]] = {"full": [], "bf16": []}
    for seed in range(options.seeds):
        torch.manual_seed(seed)
        vae = VAE(20, train.data_shape, Bernoulli(), hidden=hidden, activation="relu")
        for precision in nats:
            result = fit.svi(
                vae,
                train,
                num_epochs=options.num_epochs,
                batch_size=128,
                lr=1e-3,
                schedule="cosine",
                seed=seed,
                device=device,
                execution=Execution(compile="auto" if device == "cuda" else "graph", precision=precision),
            )
            nats[precision].append(evaluate.elbo(result.model.cpu(), test, 20).mean().item())
            seconds[precision].append(result.seconds)
    cost = [full - mixed for full, mixed in zip(nats["full"], nats["bf16"], strict=True)]
    print(f"{dataset.name}, {len(train):,} images, {options.num_epochs} epochs, {device}; test ELBO, nats per datum")
    for precision, each in nats.items():
        print(f"{precision:5} {statistics.mean(each):9.3f}  seeds: {', '.join(f'{value:.3f}' for value in each)}")
    spread = statistics.stdev(cost) if len(cost) > 1 else float("nan")
    print(
        f"cost of bfloat16 {statistics.mean(cost):.3f} ± {spread:.3f} (standard deviation over seeds); claim: below 0.5"
    )
    print(f"time of float32 over that of bfloat16 {ratio(seconds['bf16'], seconds['full'])}")
    return int(not statistics.mean(cost) < 0.5)


if __name__ == "__main__":
    sys.exit(main())
