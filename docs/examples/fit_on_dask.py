"""Fit a Gaussian mixture on Dask, to files of which every worker holds some: the fit of one process, to 1e-10.

    python docs/examples/fit_on_dask.py                          # made-up data, two workers on this machine
    python docs/examples/fit_on_dask.py data/*.npy --components 5
    python docs/examples/fit_on_dask.py data/*.npy --scheduler tcp://scheduler:8786

docs/how_to/fit_on_dask.md says why it is written as it is.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from dask.distributed import Client, Future, LocalCluster

from pyrovae import GaussianMixture, fit


def parts_of(client: Client, held: Sequence[Future], *, weighted: bool = False) -> fit.Parts:
    """What ``fit.em`` takes, for data that workers hold.

    Args:
        client: Of the cluster.
        held: One future a part, each made by a task, which Dask runs again where a worker was lost.
        weighted: Whether a part is a pair of data and weights.
    """

    def over(function: Callable[[int, Any], Any]) -> list[Any]:
        return client.gather(client.map(function, range(len(held)), held, pure=False))

    return fit.Parts(over, weighted=weighted)


def made_up(folder: Path) -> list[Path]:
    """Three clusters in five dimensions, in four files of different sizes, one of them empty."""
    generator = np.random.default_rng(0)
    centres = generator.normal(size=(3, 5)) * 3
    paths = []
    for number, size in enumerate((3000, 0, 5000, 1000)):
        paths.append(folder / f"part_{number}.npy")
        np.save(paths[-1], centres[generator.integers(3, size=size)] + generator.normal(size=(size, 5)))
    return paths


def fitted(client: Client, paths: Iterable[Path | str], num_components: int) -> fit.FitResult:
    """The fit; every worker reads its own files, once."""
    data = parts_of(client, client.map(np.load, [str(path) for path in paths]))
    return fit.em(GaussianMixture(num_components, data.shape[1:]), data)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", help=".npy files of (N, D) numbers, which every worker can read")
    parser.add_argument("--components", type=int, default=3)
    parser.add_argument("--scheduler", help="address of a cluster; left out, two workers are started here")
    options = parser.parse_args()
    with ExitStack() as stack:
        paths = options.files or made_up(Path(stack.enter_context(tempfile.TemporaryDirectory())))
        local = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
        address = options.scheduler or stack.enter_context(LocalCluster(**local))
        client = stack.enter_context(Client(address))
        on_dask = fitted(client, paths, options.components)
        print(on_dask)
        if not options.files:
            here = fit.em(GaussianMixture(options.components, 5), np.concatenate([np.load(path) for path in paths]))
            print(f"log p(x) apart from one process by {abs(on_dask.trace[-1] - here.trace[-1]):.1e} nats")


if __name__ == "__main__":
    main()
