"""Do Dask and Spark give the fit of one process, and how long do they take?  10⁶ × 20 data, 20 iterations of EM.

The default start and two workers of one thread each, on this machine; claim: log p(x) after every iteration, and the
parameters after the last, agree to 1e-10.  The first call of a cluster, in which workers import torch and read their
files, is not counted.  Needs the extras dask and spark; what is not installed is left out.

    python benchmarks/clusters.py [--rows 1000000] [--only dask]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from em_speed import FOREVER, clusters
from timing import processor

from pyrovae import FactorAnalysis, GaussianMixture, fit

sys.path.append(str(Path(__file__).parents[1] / "docs" / "examples"))

D = 20
NUM_PARTS = 4
MODELS = {
    "Gaussian mixture, K = 5, full": lambda: GaussianMixture(5, D),
    "factor analysis, q = 5": lambda: FactorAnalysis(5, D),
}


@contextmanager
def on_dask(paths: list[str]) -> Iterator[fit.Parts]:
    from fit_on_dask import Client, LocalCluster, parts_of

    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster) as client:
        yield parts_of(client, client.map(np.load, paths))


@contextmanager
def on_spark(paths: list[str]) -> Iterator[fit.Parts]:
    from fit_on_spark import parts_of, session

    spark = session("local[2]")
    yield parts_of(spark.sparkContext.parallelize(paths, len(paths)).map(np.load).cache())
    spark.stop()


CLUSTERS = {"dask": on_dask, "pyspark": on_spark}


def fitted(build: Callable[[], object], data: object) -> tuple[fit.FitResult, float]:
    """Twenty plain iterations, and their seconds with the start."""
    began = time.perf_counter()
    result = fit.em(
        build(), data, max_iterations=20, tolerance=FOREVER, accelerate=False, num_restarts=1, progress=False
    )
    return result, time.perf_counter() - began


def apart(found: fit.FitResult, expected: fit.FitResult) -> float:
    """The largest difference of log p(x) and of the parameters."""
    pairs = [(found.trace, expected.trace), *zip(found.model.parameters(), expected.model.parameters(), strict=True)]
    return max((a - b).abs().max().item() for a, b in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--only", choices=CLUSTERS)
    options = parser.parse_args()
    warnings.simplefilter("ignore", fit.FitWarning)  # no fit here is meant to converge
    print(f"{processor()}; {options.rows:,} × {D}, 20 iterations, {NUM_PARTS} parts; claim: at most 1e-10 apart")
    x, _ = clusters(options.rows, D)
    torch.set_num_threads(1)
    alone = {}
    for name, build in MODELS.items():
        alone[name], seconds = fitted(build, x)
        print(f"{name}: one process, one thread, {seconds:.1f} s", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        paths = [f"{folder}/{number}.npy" for number in range(NUM_PARTS)]
        for path, part in zip(paths, np.array_split(x, NUM_PARTS), strict=True):
            np.save(path, part)
        for package, cluster in CLUSTERS.items():
            if options.only not in (None, package):
                continue
            if find_spec(package) is None:
                print(f"{package} is not installed")
                continue
            with cluster(paths) as data:
                assert data.shape == x.shape  # the first call
                for name, build in MODELS.items():
                    result, seconds = fitted(build, data)
                    difference = apart(result, alone[name])
                    print(f"{name}: {package}, {seconds:.1f} s, {difference:.1e} apart", flush=True)


if __name__ == "__main__":
    main()
