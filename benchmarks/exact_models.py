"""Do the exact models reproduce the published log-likelihoods?  Prints one table; exits with 1 if a row does not.

Data: iris from scikit-learn; MNIST, binarized MNIST and Frey faces from the folder that PYROVAE_DATA names (rows of
data that are not there are left out, and said to be).  ``--quick`` leaves out the rows that take longest.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import mean

import pandas as pd
import sklearn.datasets
import torch

from pyrovae import PPCA, BernoulliMixture, GaussianMixture, data, fit


@dataclass(frozen=True)
class Claim:
    """A published number, in nats, and how far from it a reproduction may be."""

    what: str
    source: str
    expected: float
    tolerance: float
    compute: Callable[[], float]
    at_least: bool = False

    def holds(self, value: float) -> bool:
        return value >= self.expected - self.tolerance and (self.at_least or value <= self.expected + self.tolerance)


def iris_claims() -> Iterator[Claim]:
    iris = torch.from_numpy(sklearn.datasets.load_iris().data)

    def total(num_components: int, covariance: str, num_restarts: int = 20) -> Callable[[], float]:
        mixture = GaussianMixture(num_components, 4, covariance, floor=1e-3)
        return lambda: 150 * fit.em(mixture, iris, num_restarts=num_restarts, tolerance=1e-8).model.score(iris)

    yield Claim("iris, total: GMM full K=2", "mclust (VVV)", -214.355, 0.01, total(2, "full"))
    yield Claim("iris, total: GMM full K=3", "mclust (VVV)", -180.185, 0.01, total(3, "full"))
    yield Claim("iris, total: GMM tied K=3", "tidyLPA", -256.355, 0.01, total(3, "tied"))
    yield Claim("iris, total: GMM diag K=3", "computed", -306.86, 0.01, total(3, "diag", 100))


def mnist_claims(quick: bool) -> Iterator[Claim]:
    grey = data.load("mnist", dequantize=False, num_valid=0, dtype=torch.float64).train
    published = {2: 12.43, 10: 182.15, 20: 299.76, 50: 507.91, 100: 680.95, 200: 839.54}
    for latent_dim, expected in published.items():
        yield Claim(
            f"MNIST/255, train: PPCA q={latent_dim}",
            "computed, float64",
            expected,
            0.01,
            lambda q=latent_dim, x=grey: fit.closed_form(PPCA(q, 784), x).trace[-1].item(),
        )
    if quick:
        return

    def logit_gaussian() -> float:
        dataset = data.load("mnist", transform="logit", dtype=torch.float64)
        fitted = fit.closed_form(GaussianMixture(1, 784, floor=1e-6), dataset.train)
        return fitted.model.score(dataset.test)

    yield Claim("logit MNIST, test: one full Gaussian", "Papamakarios et al. 2017", -1366.9, 1.4, logit_gaussian)


def frey_claims() -> Iterator[Claim]:
    published = {2: 561, 10: 762, 20: 859, 50: 997, 100: 1087}  # ± 10 to 27 by split
    splits = [data.load("frey", split="random", seed=seed, dtype=torch.float64) for seed in range(10)]
    last = data.load("frey", dtype=torch.float64)
    for latent_dim, expected in published.items():
        yield Claim(
            f"Frey, test, mean of 10 random splits: PPCA q={latent_dim}",
            "computed; ± 10 to 27 by split",
            expected,
            27,
            lambda q=latent_dim: mean(fit.closed_form(PPCA(q, 560), d.train).model.score(d.test) for d in splits),
        )
    for latent_dim, expected in {20: 559, 100: 386}.items():
        yield Claim(
            f"Frey, last 200 frames, test: PPCA q={latent_dim}",
            "computed; spread over noise",
            expected,
            3,
            lambda q=latent_dim: fit.closed_form(PPCA(q, 560), last.train).model.score(last.test),
        )


def binarized_claims(quick: bool) -> Iterator[Claim]:
    dataset = data.load("binarized_mnist")

    def mixture(num_components: int) -> float:
        model = BernoulliMixture(num_components, 784, dtype=torch.float32)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", fit.FitWarning)  # 60 iterations do; empty components are no matter here
            return fit.em(model, dataset.train, max_iterations=60).model.score(dataset.test)

    yield Claim("binarized MNIST, test: Bernoulli mixture K=10", "computed", -167.5, 0.5, lambda: mixture(10))
    if not quick:
        claim = "binarized MNIST, test: Bernoulli mixture K=500"
        yield Claim(claim, "computed", -128.5, 0, lambda: mixture(500), at_least=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="leave out the rows that take longest")
    quick = parser.parse_args().quick
    rows, missing, failed = [], [], False
    for claims in (iris_claims(), mnist_claims(quick), frey_claims(), binarized_claims(quick)):
        try:
            for claim in claims:
                began = time.perf_counter()
                value = claim.compute()
                failed |= not claim.holds(value)

                rows.append(
                    {
                        "log p, nats": claim.what,
                        "published": f"{claim.expected:.2f}",
                        "": "≥" if claim.at_least else f"± {claim.tolerance:g}",
                        "here": f"{value:.2f}",
                        "holds": "yes" if claim.holds(value) else "NO",
                        "s": f"{time.perf_counter() - began:.1f}",
                        "source": claim.source,
                    }
                )
                print(f"{claim.what}: {value:.3f}", file=sys.stderr, flush=True)
        except FileNotFoundError as error:
            missing.append(str(error))
    print(pd.DataFrame(rows).to_string(index=False))
    for line in missing:
        print(f"left out: {line}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
