"""Do annealed chains from the prior hold the exact log p(x) between them, and how many temperatures does it take?

    python benchmarks/sandwich.py [--figures FOLDER]

Probabilistic PCA of 20 and of 50 latents, and one component of a mixture of PPCA with 20, whose log p(x) is known; data
that the model simulates, chains up from the prior and down from the z that each x was made from.  Claims, at every
number of temperatures: mean lower - 4 SE <= mean exact <= mean upper + 4 SE, SE being that of the distance from the
exact value, by its spread over data (few chains of few temperatures do not know their own); and the gap falls towards
zero.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from torch import nn

from pyrovae import PPCA, PPCAMixture, evaluate, plots

TEMPERATURES = (10, 30, 100, 300, 1000)
STANDARD_ERRORS = 4


def ppca(latent_dim: int, num_dims: int) -> PPCA:
    torch.manual_seed(0)
    model = PPCA(latent_dim, num_dims, noise_variance=0.5)
    nn.init.normal_(model.model.weight, std=0.5)
    return model


def component() -> PPCA:
    """p(x|the component), the mixture's second."""
    torch.manual_seed(1)
    mixture = PPCAMixture(3, 20, 40)
    for parameter in mixture.parameters():
        nn.init.normal_(parameter, std=0.5)
    return mixture.component(1)


MODELS = {
    "PPCA, 20 latents in 40 dimensions": lambda: ppca(20, 40),
    "PPCA, 50 latents in 100 dimensions": lambda: ppca(50, 100),
    "component of a mixture of PPCA, 20 latents in 40": component,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--figures", type=Path, help="a folder to write the pictures to")
    options = parser.parse_args()
    holds = True
    for number, (name, build) in enumerate(MODELS.items()):
        model, results, began = build(), [], time.perf_counter()
        print(name)
        for num_temperatures in TEMPERATURES:
            annealing = evaluate.AISOptions(num_chains=10, num_temperatures=num_temperatures, num_leapfrog=5)
            both = evaluate.sandwich(model, 50, annealing)
            truth, exact = model.score_samples(both.data), model.score(both.data)
            errors = [((each.values - truth).std() / len(truth) ** 0.5).item() for each in (both.lower, both.upper)]
            slack = [STANDARD_ERRORS * error for error in errors]
            holds &= both.lower.mean - slack[0] <= exact <= both.upper.mean + slack[1]
            print(
                f"{num_temperatures:6,} temperatures: {both.lower.mean:10.3f} ± {errors[0]:.3f} <= {exact:10.3f} <= "
                f"{both.upper.mean:10.3f} ± {errors[1]:.3f}; gap {both.gap:7.3f} ± {both.gap_standard_error:.3f}; "
                f"acceptance {both.lower.acceptance.mean():.2f}",
                flush=True,
            )
            results.append(both)
        gaps = [each.gap for each in results]
        holds &= gaps == sorted(gaps, reverse=True) and gaps[-1] < 0.05 * gaps[0]
        print(f"       {time.perf_counter() - began:.0f} s")
        if options.figures:
            plots.sandwich(results, exact).savefig(options.figures / f"sandwich_{number}.png", dpi=100)
    print(f"claim: {'holds' if holds else 'DOES NOT HOLD'}")


if __name__ == "__main__":
    main()
