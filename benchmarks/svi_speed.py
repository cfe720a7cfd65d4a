"""How fast is a step of ``fit.svi``, captured as a graph or compiled, beside the same network by others?

    python benchmarks/svi_speed.py [SECTION ...] [--quick] [--num-data N] [--rounds R] [--record]

Sections: mlp (784-400-20, batch 128, Bernoulli), dynamic (the same, binarized within every step), conv (28×28 and
64×64), models (loss and gradients of other models), growth (with N and with the width), profile (where the time of a
step goes), products (the large matrix products by BLAS and by oneDNN).  Claims: compiled at most 1.1 times NumPyro's
``lax.scan`` and 0.5 times a loop by hand; the graph, without a compiler, 1.3 and 0.65 times; at most 0.35 times Pyro's
own loop; binarizing within the step at most 1.15 times NumPyro; convolutions at most 1.0 times by hand.

Needs PYROVAE_DATA for MNIST, else noise takes its place; NumPyro where it is installed.  ``--record`` appends the
tables to RESULTS.md.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import math
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import peers
import pyro
import torch
from pyro.infer import Trace_ELBO, TraceEnum_ELBO
from timing import RESULTS, interleaved, processor, ratio
from torch import Tensor, nn

from pyrovae import PPCA, VAE, Bernoulli, Gaussian, GaussianMixture, data
from pyrovae.engine.capture import compiler_found
from pyrovae.fit import CompiledELBO
from pyrovae.models.networks import CategoricalEncoder, LinearGaussianEncoder

WAYS = ("graph", "inductor") if compiler_found() else ("graph",)


def images(num_data: int, grey: bool) -> Tensor:
    """MNIST, flat; noise where it is not to be had."""
    try:
        train = data.load("mnist", dequantize=False, num_valid=0).train.x
    except (FileNotFoundError, RuntimeError):
        train = torch.rand(num_data, 784).square()
    x = train[:num_data].float()
    return x if grey else torch.bernoulli(x, generator=torch.Generator().manual_seed(0))


class Report:
    """Lines that are printed as they come, and kept for RESULTS.md."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def __call__(self, line: str = "") -> None:
        print(line, flush=True)
        self.lines.append(line)

    def table(self, seconds: dict[str, list[float]], steps: int, base: str) -> None:
        """Milliseconds a step, and multiples of one of the ways, the median over rounds and the range."""
        self(f"| | ms a step | times {base} |\n|---|---|---|")
        for name, each in seconds.items():
            multiple = ratio(seconds[base], each)
            self(f"| {name} | {1000 * statistics.median(each) / steps:.2f} | {multiple} |")


def race(report: Report, contestants: dict[str, Callable[[], Any]], steps: int, rounds: int, base: str) -> None:
    """Build all, check that each trains, and time their epochs in turn."""
    calls = {}
    for name, build in contestants.items():
        torch.manual_seed(0)
        calls[name] = peers.falls(build(), name)
    report.table(interleaved(calls, rounds), steps, base if base in calls else next(iter(calls)))


def perceptron_race(report: Report, options: argparse.Namespace, resample: bool) -> None:
    x = images(options.num_data, grey=resample)
    layers = lambda: peers.dense_layers(784, (400,), 20)  # noqa: E731
    contestants: dict[str, Callable[[], Any]] = {}
    if importlib.util.find_spec("numpyro"):
        contestants["NumPyro, scan"] = lambda: peers.NumPyro(x, (400,), 20, resample)
    else:
        report("NumPyro is not installed here, so it is left out.")
    contestants["PyTorch by hand"] = lambda: peers.ByHand(x, layers(), resample)
    if "inductor" in WAYS:
        contestants["PyTorch by hand, torch.compile"] = lambda: peers.ByHand(x, layers(), resample, compiled=True)
    contestants["Pyro's SVI"] = lambda: peers.PyroSVI(x, layers(), resample, 20)
    for way in (False, *WAYS):
        contestants[f"ours, {way or 'interpreted'}"] = lambda way=way: peers.Ours(peers.perceptrons(), x, resample, way)
    race(report, contestants, math.ceil(len(x) / peers.BATCH), options.rounds, "NumPyro, scan")


def mlp(report: Report, options: argparse.Namespace) -> None:
    report("784-400-20, batch 128, Bernoulli, binarized once:\n")
    perceptron_race(report, options, resample=False)


def dynamic(report: Report, options: argparse.Namespace) -> None:
    report("784-400-20, batch 128, Bernoulli, binarized afresh within every step:\n")
    perceptron_race(report, options, resample=True)


def conv(report: Report, options: argparse.Namespace) -> None:
    convolutions(report, options, (1, 28, 28), (32, 64), share=4)
    convolutions(report, options, (3, 64, 64), (32, 64, 128), share=16)


def convolutions(
    report: Report, options: argparse.Namespace, shape: tuple[int, int, int], channels: tuple[int, ...], share: int
) -> None:
    num_data = max(peers.BATCH, options.num_data // share // peers.BATCH * peers.BATCH)
    x = images(num_data, grey=False).reshape(-1, 1, 28, 28)
    x = torch.nn.functional.interpolate(x, shape[1:]).expand(-1, *shape).contiguous()

    def layers() -> tuple[nn.Module, nn.Module]:
        return peers.image_layers(shape, channels, 20)

    vae = peers.vae_like(layers(), VAE(20, shape, Bernoulli(), network="conv", hidden=channels, activation="relu"))
    contestants: dict[str, Callable[[], Any]] = {"PyTorch by hand": lambda: peers.ByHand(x, layers(), False)}
    for way in WAYS:
        contestants[f"ours, {way}"] = lambda way=way: peers.Ours(vae, x, False, way)
    report(f"\nConvolutions, {' × '.join(map(str, shape))}, channels {channels}, 20 latents, batch 128:\n")
    race(report, contestants, math.ceil(len(x) / peers.BATCH), options.rounds, "PyTorch by hand")


def models(report: Report, options: argparse.Namespace) -> None:
    report("Loss and gradients, ms, by Pyro and by its captures, batch 128:\n")
    report(f"| | Pyro | {' | '.join(WAYS)} |\n|---|---|{'---|' * len(WAYS)}")
    x, y = images(peers.BATCH, grey=False), torch.arange(peers.BATCH) % 10
    encoder = CategoricalEncoder((10,), 5)
    cases: dict[str, tuple[Any, tuple[Tensor, ...], Any]] = {
        "conditional VAE, 784-400-20": (
            VAE(20, 784, Bernoulli(), (400,), "relu", num_classes=10),
            (x, y),
            Trace_ELBO(),
        ),
        "VAE, Gaussian decoder": (VAE(20, 784, Gaussian("decoder"), (400,), "relu"), (x,), Trace_ELBO()),
        "PPCA, learned q": (
            PPCA(5, 10, encoder=LinearGaussianEncoder(10, 5), dtype=torch.float32),
            (x[:, 300:310],),
            Trace_ELBO(),
        ),
        "mixture, enumerated in the model": (
            GaussianMixture(5, 10, "diag", 0.01, dtype=torch.float32),
            (x[:, 300:310],),
            TraceEnum_ELBO(max_plate_nesting=1),
        ),
        "mixture, enumerated in the guide": (
            GaussianMixture(5, 10, "diag", 0.01, encoder=encoder, dtype=torch.float32),
            (x[:, 300:310],),
            TraceEnum_ELBO(max_plate_nesting=1),
        ),
    }
    for name, (model, inputs, elbo) in cases.items():
        with pyro.get_param_store().scope():
            module = elbo(model.model, model.guide)

            def plainly(module: Any = module, inputs: Any = inputs) -> None:
                module.zero_grad()
                module(*inputs).backward()

            calls: dict[str, Callable[[], object]] = {"Pyro": plainly}
            for way in WAYS:
                compiled = CompiledELBO(model.model, model.guide, elbo, backend=way)
                for _ in range(3):
                    compiled(*inputs)
                calls[way] = lambda compiled=compiled, inputs=inputs: compiled(*inputs)
            repeated = {way: lambda call=call: [call() for _ in range(20)] for way, call in calls.items()}
            seconds = interleaved(repeated, options.rounds)
        report(f"| {name} | " + " | ".join(f"{50 * statistics.median(each):.2f}" for each in seconds.values()) + " |")


def growth(report: Report, options: argparse.Namespace) -> None:
    """Time ∝ size^exponent, fitted on logarithms."""

    def exponent(sizes: list[int], seconds: list[float]) -> float:
        return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])

    x = images(60_000, grey=False)
    sizes = [options.num_data // 8, options.num_data // 4, options.num_data // 2, options.num_data]
    calls = {str(n): peers.Ours(peers.perceptrons(), x[:n], False, "graph").epoch for n in sizes}
    seconds = [statistics.median(each) for each in interleaved(calls, options.rounds).values()]
    report(f"Time of an epoch ∝ N^{exponent(sizes, seconds):.2f} for N = {sizes}; claim: 1.")
    widths = [400, 800, 1600, 3200]
    few = x[: 8 * peers.BATCH]
    calls = {str(w): peers.Ours(peers.perceptrons((w,)), few, False, "graph").epoch for w in widths}
    seconds = [statistics.median(each) for each in interleaved(calls, options.rounds).values()]
    numbers = [sum(p.numel() for p in peers.perceptrons((w,)).parameters()) for w in widths]
    report(f"Time of a step ∝ parameters^{exponent(numbers, seconds):.2f} for widths {widths}; claim: 1 at most.")


GROUPS = {
    "matrix products": ("addmm", "::mm", "linear", "conv", "mkldnn", "bmm"),
    "optimizer": ("adam", "optimizer"),
    "draws and gather": ("normal", "bernoulli", "rand", "index"),
}


def profile(report: Report, options: argparse.Namespace) -> None:
    """Where the time of a profiled epoch goes, by the self time of its operations; the host is what is left."""
    x = images(min(options.num_data, 40 * peers.BATCH), grey=False)
    report("Share of an epoch, per cent:\n\n| | matrix products | elementwise | optimizer | draws and gather | host |")
    report("|---|---|---|---|---|---|")
    for way in (False, *WAYS):
        ours = peers.Ours(peers.perceptrons(), x, False, way)
        for _ in range(3):
            ours.epoch()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
            began = time.perf_counter()
            ours.epoch()
            whole = time.perf_counter() - began
        shares = dict.fromkeys((*GROUPS, "elementwise"), 0.0)
        for event in profiler.key_averages():
            name = event.key.lower()
            group = next((group for group, words in GROUPS.items() if any(w in name for w in words)), "elementwise")
            shares[group] += event.self_cpu_time_total / 1e6 / whole
        order = ("matrix products", "elementwise", "optimizer", "draws and gather")
        rest = 1 - sum(shares.values())
        cells = " | ".join(f"{100 * share:.0f}" for share in (*(shares[each] for each in order), rest))
        report(f"| {way or 'interpreted'} | {cells} |")
    report("\n(The profiler slows the host and small operations, whose shares are upper bounds.)")


def products(report: Report, options: argparse.Namespace) -> None:
    """The five large products of a step, by the default BLAS and by oneDNN from the same wheel."""
    report("The five large products of 784-400-20 at batch 128, float32:\n\n| | default, ms | oneDNN, ms | ratio |")
    report("|---|---|---|---|")
    a, w, h, v = (torch.randn(shape) for shape in ((128, 784), (400, 784), (128, 400), (784, 400)))
    linear = torch.ops.mkldnn._linear_pointwise

    def default() -> None:
        torch.mm(a, w.T), torch.mm(h.T, a), torch.mm(h, v.T), torch.mm(a, v), torch.mm(a.T, h)

    def onednn() -> None:
        for left, right in ((a, w), (h.T, a.T), (h, v), (a, v.T), (a.T, h.T)):
            linear(left, right, None, "none", [], "")

    repeated = {
        name: lambda call=call: [call() for _ in range(20)] for name, call in (("default", default), ("onednn", onednn))
    }
    seconds = interleaved(repeated, options.rounds)
    ours, theirs = (1000 * statistics.median(each) / 20 for each in seconds.values())
    report(f"| all | {ours:.2f} | {theirs:.2f} | {ratio(seconds['onednn'], seconds['default'])} |")


SECTIONS: dict[str, Callable[[Report, argparse.Namespace], None]] = {
    "mlp": mlp,
    "dynamic": dynamic,
    "conv": conv,
    "models": models,
    "growth": growth,
    "profile": profile,
    "products": products,
}


def versions() -> str:
    """Machine, versions and date, for a table's heading."""
    names = [("torch", torch.__version__), ("pyro", pyro.__version__)]
    names += [(name, sys.modules[name].__version__) for name in ("numpyro", "jax") if name in sys.modules]
    threads = torch.get_num_threads()
    return f"{processor()}, {threads} threads, {', '.join(map(' '.join, names))}, {datetime.date.today()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("section", nargs="*", metavar="SECTION", help="all by default")
    parser.add_argument("--quick", action="store_true", help="few data, few rounds")
    parser.add_argument("--num-data", type=int, help="data in an epoch; 25,600 by default")
    parser.add_argument("--rounds", type=int, help="7 by default")
    parser.add_argument("--record", action="store_true", help="append the tables to RESULTS.md")
    options = parser.parse_args()
    if unknown := set(options.section) - set(SECTIONS):
        parser.error(f"SECTION must be one of {', '.join(SECTIONS)}, got {', '.join(sorted(unknown))}.")
    options.num_data = options.num_data or (2_560 if options.quick else 25_600)
    options.rounds = options.rounds or (3 if options.quick else 7)
    report = Report()
    for name in options.section or SECTIONS:
        report()
        SECTIONS[name](report, options)
    report(f"\n{versions()}")
    if options.record:
        text = "\n".join(report.lines).strip("\n")
        with RESULTS.open("a") as results:
            results.write(f"\n## Speed of stochastic variational inference: `svi_speed.py`\n\n{text}\n")


if __name__ == "__main__":
    main()
