"""What a GPU gives: everything that is claimed of one, by one command.  Needs PYROVAE_DATA for MNIST.

    python benchmarks/gpu.py [--device cuda] [--quick] [--record]

Claims, of 784-400-20 with batches of 128: an epoch of 469 steps in less than 0.15 s; a step at most 1.15 times the time
of its kernels, which a profiler sums; at least 10 times as fast as Pyro's own loop.  10,000 images × 5,000 particles in
less than 15 s.  ``--quick`` takes a tenth of the data; with ``--device cpu`` it only shows that the script runs.
``benchmarks/em_speed.py --device cuda`` times EM and PPCA, ``benchmarks/vae_mnist.py`` trains.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable

import peers
import torch
from timing import RESULTS, interleaved, ratio
from torch.profiler import ProfilerActivity, profile

from pyrovae import VAE, Bernoulli, data, evaluate


def synchronised(call: Callable[[], object], device: str) -> Callable[[], object]:
    """The call, until the device is done with it."""

    def run() -> None:
        call()
        if device == "cuda":
            torch.cuda.synchronize()

    return run


def kernel_seconds(call: Callable[[], object], device: str) -> float:
    """The time that the device spends in kernels (on a CPU, in operations)."""
    activity = ProfilerActivity.CUDA if device == "cuda" else ProfilerActivity.CPU
    with profile(activities=[activity]) as profiler:
        call()
    totals = profiler.key_averages()
    times = [each.self_device_time_total if device == "cuda" else each.self_cpu_time_total for each in totals]
    return sum(times) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--record", action="store_true", help="append the table to RESULTS.md")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("`--device` cuda needs a GPU, and torch finds none.")
    share = 10 if options.quick else 1
    binary = data.load("mnist", observations="binary", num_valid=0)
    x = binary.train.x[: 60_000 // share].float().to(options.device)
    test = binary.test[: 10_000 // share].to(options.device)

    layers = [each.to(options.device) for each in peers.dense_layers(784, (400,), 20)]
    vae = VAE(20, 784, Bernoulli(), hidden=(400,), activation="relu").to(device=options.device)
    way = "cuda_graph" if options.device == "cuda" else "graph"
    ours = peers.Ours(vae, x, False, way)
    pyro_loop = peers.PyroSVI(x, (layers[0], layers[1]), False, 20)
    falling = ours.epoch(), ours.epoch(), pyro_loop.epoch(), pyro_loop.epoch()
    assert falling[1] < falling[0], "our loss does not fall"
    assert falling[3] < falling[2], "the loss of Pyro's loop does not fall"
    calls = {"ours": synchronised(ours.epoch, options.device), "Pyro": synchronised(pyro_loop.epoch, options.device)}
    seconds = interleaved(calls, rounds=1 if options.quick else 5)
    beside_pyro = ratio(seconds["ours"], seconds["Pyro"])
    kernels = kernel_seconds(calls["ours"], options.device)

    began = time.perf_counter()
    evaluate.log_likelihood(ours.vae.eval(), test, 5000 // share)
    evaluation = time.perf_counter() - began

    name = torch.cuda.get_device_name() if options.device == "cuda" else platform.processor() or platform.machine()
    lines = [
        f"## On one accelerator: `gpu.py`, {name}, torch {torch.__version__}",
        "",
        "| | claim | measured |",
        "|---|---|---|",
        f"| an epoch of {-(-len(x) // peers.BATCH)} steps | under 0.15 s | {beside_pyro.ours:.3f} s |",
        f"| an epoch over the time of its kernels | at most 1.15 | {beside_pyro.ours / kernels:.2f} |",
        f"| Pyro's loop over ours | at least 10 | {beside_pyro} |",
        f"| {len(test):,} images × {5000 // share:,} particles | under 15 s | {evaluation:.1f} s |",
    ]
    print("\n".join(lines))
    if options.record:
        with RESULTS.open("a") as file:
            file.write("\n" + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
