"""Does the first call of a newcomer train?  ``fit.svi(VAE(8, (64,), likelihood), train, valid=valid)`` on digits.

    python benchmarks/first_call.py [--only decoder shared units] [--seeds 10]

Claims, log p(x) of test data by 1,000 importance weights over ten seeds: sigma(z) at least 72.5 in the mean and 71 at
worst, one shared sigma at least 41 and 39, none collapsed; one Gaussian has 48.5.  units: data times 1,000 and data
plus 1,000,000, float64, leave the ELBO where the Jacobian says, to 0.5 nats over three seeds.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from statistics import mean

import torch

from pyrovae import VAE, Gaussian, data, evaluate, fit

CLAIMS = {"decoder": (72.5, 71.0), "shared": (41.0, 39.0)}  # nats: the mean over seeds, and the worst
UNITS = {"x": (1.0, 0.0), "1000 x": (1000.0, 0.0), "x + 1e6": (1.0, 1e6)}  # name -> factor and shift
CARRIES = 0.01  # nats; a unit with less carries nothing


def train(scale: str, num_seeds: int) -> bool:
    """The default call over so many seeds, whose claims hold or not."""
    digits = data.load("digits")
    scores, alive = [], []
    for seed in range(num_seeds):
        began = time.perf_counter()
        result = fit.svi(VAE(8, (64,), Gaussian(scale)), digits.train, valid=digits.valid, seed=seed)
        seconds = time.perf_counter() - began
        terms = evaluate.elbo_terms(result.model, digits.test)
        kl = evaluate.latent_report(evaluate.encode(result.model, digits.test)).kl
        scores.append(evaluate.log_likelihood(result.model, digits.test, 1000, "importance").mean)
        alive.append(bool((kl >= CARRIES).any()))
        print(
            f"{scale}, seed {seed}: log p {scores[-1]:.2f}, ELBO {terms.elbo.mean():.2f}, KL {terms.kl.mean():.2f}, "
            f"{result.kept}, {seconds:.0f} s",
            flush=True,
        )
    least, worst = CLAIMS[scale]
    holds = mean(scores) >= least and min(scores) >= worst and all(alive)
    print(
        f"{scale}: mean {mean(scores):.2f} (claim {least}), worst {min(scores):.2f} (claim {worst}), "
        f"{alive.count(False)} collapsed: {'holds' if holds else 'FAILS'}",
        flush=True,
    )
    return holds


def units(num_seeds: int) -> bool:
    """The ELBO in other units, the Jacobian taken off, beside that in the data's own."""
    digits = data.load("digits", dtype=torch.float64)
    assert digits.valid is not None
    means = {}
    for name, (factor, shift) in UNITS.items():
        parts = [part.x * factor + shift for part in (digits.train, digits.valid, digits.test)]
        elbos = []
        for seed in range(num_seeds):
            vae = VAE(8, (64,), Gaussian("decoder"))
            model = fit.svi(vae, parts[0], valid=parts[1], seed=seed).model
            elbos.append(evaluate.elbo(model, parts[2]).mean().item() + 64 * math.log(factor))
        means[name] = mean(elbos)
        print(f"{name}: ELBO {means[name]:.2f}, that of x by the Jacobian, {num_seeds} seeds", flush=True)
    off = max(abs(each - means["x"]) for each in means.values())
    print(f"units: {off:.2f} nats at most (claim 0.5): {'holds' if off <= 0.5 else 'FAILS'}", flush=True)
    return off <= 0.5


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=(*CLAIMS, "units"), default=(*CLAIMS, "units"))
    parser.add_argument("--seeds", type=int, default=10, help="of each likelihood; units take three at most")
    options = parser.parse_args()
    holds = [units(min(3, options.seeds)) if name == "units" else train(name, options.seeds) for name in options.only]
    return int(not all(holds))


if __name__ == "__main__":
    sys.exit(main())
