"""Is a fit of the exact models as fast as scikit-learn's?  Prints ratios, scikit-learn's seconds over ours.

EM of a full-covariance mixture of 10 Gaussians from the same start, per iteration (the difference between a long and a
short fit, so that set-up does not count); probabilistic PCA in closed form; how time grows with N; float32.

    python benchmarks/em_speed.py [--device cuda] [--only NAME]
"""

from __future__ import annotations

import argparse
import math
import resource
import time
import warnings

import numpy as np
import sklearn.mixture
import torch
from sklearn.decomposition import PCA
from timing import paired

from pyrovae import PPCA, GaussianMixture, data, fit

K = 10
FOREVER = 1e-300  # a tolerance that is not met, so that every fit takes the iterations asked for


def clusters(num_data: int, num_dims: int) -> tuple[np.ndarray, np.ndarray]:
    """Ten overlapping clusters of full covariance, and a start for their means."""
    generator = np.random.default_rng(0)
    centres = generator.normal(size=(K, num_dims)) * (4 / math.sqrt(num_dims) + 0.5)
    mixing = np.eye(num_dims) + 0.3 * generator.normal(size=(num_dims, num_dims)) / math.sqrt(num_dims)
    x = centres[generator.integers(K, size=num_data)] + generator.normal(size=(num_data, num_dims)) @ mixing
    return x, centres + 0.1 * generator.normal(size=centres.shape)


class Pair:
    """The same mixture in both libraries, at the same start."""

    def __init__(self, num_data: int, num_dims: int, dtype: torch.dtype, device: str) -> None:
        x, means = clusters(num_data, num_dims)
        covariances = np.repeat(np.cov(x.T)[None], K, axis=0)
        self.x = torch.from_numpy(x).to(device, dtype)
        self.start = GaussianMixture.from_parameters(
            torch.full((K,), 1 / K, dtype=dtype), torch.from_numpy(means).to(dtype), torch.from_numpy(covariances)
        ).to(device)
        self.peer_x = x.astype(str(dtype).removeprefix("torch."))
        self.peer_start = (
            np.full(K, 1 / K, dtype=self.peer_x.dtype),
            means.astype(self.peer_x.dtype),
            np.linalg.inv(covariances).astype(self.peer_x.dtype),
        )

    def ours(self, iterations: int) -> float:
        result = fit.em(
            self.start, self.x, warm_start=True, max_iterations=iterations, tolerance=FOREVER, progress=False
        )
        return result.trace[-1].item()

    def theirs(self, iterations: int) -> None:
        weights, means, precisions = self.peer_start
        peer = sklearn.mixture.GaussianMixture(
            K, tol=0, max_iter=iterations, weights_init=weights, means_init=means, precisions_init=precisions
        )
        peer.fit(self.peer_x)


def seconds_per_iteration(call, iterations: int, rounds: int) -> float:
    """Median over rounds of (long fit − short fit) / iterations between them."""
    differences = []
    for _ in range(rounds):
        marks = [time.perf_counter()]
        for number in (1, 1 + iterations):
            call(number)
            marks.append(time.perf_counter())
        differences.append((marks[2] - marks[1] - (marks[1] - marks[0])) / iterations)
    return sorted(differences)[rounds // 2]


def mixtures(device: str) -> None:
    print("\nGaussian mixture, K = 10, full, per EM iteration: scikit-learn's seconds / ours")
    for num_data, num_dims, dtype, iterations, claim in (
        (60_000, 2, torch.float64, 40, "at least 3"),
        (60_000, 50, torch.float64, 10, "at least 2"),
        (10_000, 784, torch.float64, 2, "at least 1"),
    ):
        pair = Pair(num_data, num_dims, dtype, device)
        ratios, own = [], []
        for _ in range(3):  # interleaved
            mine = seconds_per_iteration(pair.ours, iterations, 1)
            peer = seconds_per_iteration(pair.theirs, iterations, 1)
            ratios.append(peer / mine)
            own.append(mine)
        ratios.sort()
        print(
            f"{num_data:,} × {num_dims}: {ratios[1]:.2f} ({ratios[0]:.2f} to {ratios[2]:.2f}); "
            f"ours {1000 * sorted(own)[1]:.1f} ms; claim: {claim}",
            flush=True,
        )


def single_precision(device: str) -> None:
    print("\nGaussian mixture at 10,000 × 784 in float32: float64's seconds / float32's; claim: at least 2")
    pairs = {dtype: Pair(10_000, 784, dtype, device) for dtype in (torch.float64, torch.float32)}
    ratios, values = [], {}
    for _ in range(3):
        seconds = {dtype: seconds_per_iteration(pair.ours, 2, 1) for dtype, pair in pairs.items()}
        ratios.append(seconds[torch.float64] / seconds[torch.float32])
    for dtype, pair in pairs.items():
        values[dtype] = pair.ours(3)
    relative = abs(values[torch.float32] / values[torch.float64] - 1)
    ratios.sort()
    print(f"{ratios[1]:.2f} ({ratios[0]:.2f} to {ratios[2]:.2f}); log p(x) after 3 iterations apart by {relative:.1e}")


def pca(device: str) -> None:
    print("\nPPCA in closed form, q = 50, against sklearn.decomposition.PCA at 60,000 × 784: PCA's seconds / ours")
    try:
        x = data.load("mnist", dequantize=False, num_valid=0, dtype=torch.float64).train.x
    except FileNotFoundError:
        x = torch.rand(60_000, 784, dtype=torch.float64)
    for dtype in (torch.float64, torch.float32):
        mine, theirs = x.to(device, dtype), x.to(dtype).numpy()
        model = PPCA(50, 784, dtype=dtype).to(device)
        ratio = paired(
            lambda model=model, mine=mine: model.copy().maximum_likelihood(mine),
            lambda theirs=theirs: PCA(50).fit(theirs),
        )
        print(f"{dtype}: {ratio}; ours {ratio.ours:.2f} s; claim: at least 1", flush=True)


def growth(device: str) -> None:
    print("\nGrowth with N, full covariance, D = 20: seconds per iteration ∝ N^exponent; claim: 1")
    sizes = [20_000, 40_000, 80_000, 160_000, 320_000]
    seconds, memory = [], []
    for size in sizes:
        pair = Pair(size, 20, torch.float64, device)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        seconds.append(seconds_per_iteration(pair.ours, 5, 3))
        memory.append((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
    exponent = np.polyfit(np.log(sizes), np.log(seconds), 1)[0]
    print(f"exponent {exponent:.2f}; ms {[round(1000 * each, 1) for each in seconds]} for N = {sizes}")
    print(f"peak memory added by the fit, MiB: {[round(each) for each in memory]}")


SECTIONS = {"mixtures": mixtures, "float32": single_precision, "pca": pca, "growth": growth}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", choices=SECTIONS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # no fit here is meant to converge
    for name, section in SECTIONS.items():
        if options.only in (None, name):
            section(options.device)


if __name__ == "__main__":
    main()
