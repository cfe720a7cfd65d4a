"""Importance-weighted log p(x) on MNIST: against pythae's ``get_nll``, in time and memory.  Needs PYROVAE_DATA.

    python benchmarks/importance_speed.py [--images N] [--particles S] [--rounds R] [--record]

One network, 784-200-200-50 and back, with one set of weights in both libraries; timed in turn.  Claims: at least 3
as fast for 1,000 images and 1,000 particles, and memory that grows neither with N nor with S.  Printed beside: by how
much the two values differ, the share of the time that is matrix products, and what a large evaluation, whose scoring of
z is compiled, takes beside the same one interpreted by Pyro.  Without pythae, which is no requirement
of ours, only our own side is measured.
"""

from __future__ import annotations

import argparse
import math
import platform
import resource
from typing import Any
from unittest import mock

import torch
from timing import RESULTS, paired
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from pyrovae import VAE, Bernoulli, data, evaluate, fit
from pyrovae.evaluate.likelihood import tiles

PRODUCTS = ("aten::addmm", "aten::mm", "aten::bmm", "aten::baddbmm", "aten::linear", "aten::matmul")


def as_pythae(vae: VAE) -> Any:
    """The same networks, as pythae's VAE; None where there is no pythae."""
    try:
        from pythae.models import VAE as PeerVAE, VAEConfig
        from pythae.models.base.base_utils import ModelOutput
        from pythae.models.nn import BaseDecoder, BaseEncoder
    except ImportError:
        return None

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.net = vae.encoder

        def forward(self, x: Tensor) -> Any:
            h = self.net.body(x)
            scale = nn.functional.softplus(self.net.raw_scale(h)) + 1e-6
            return ModelOutput(embedding=self.net.loc(h), log_covariance=2 * scale.log())

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(vae.decoder.body, vae.decoder.head.logits, nn.Sigmoid())

        def forward(self, z: Tensor) -> Any:
            return ModelOutput(reconstruction=self.net(z))

    config = VAEConfig(input_dim=(784,), latent_dim=vae.latent_dim, reconstruction_loss="bce")
    return PeerVAE(config, Encoder(), Decoder()).eval()


def share_of_products(vae: VAE, x: Tensor, num_particles: int) -> float:
    """Of the processor's time in all operations, that in matrix products."""
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        evaluate.log_likelihood(vae, x, num_particles, progress=False)
    times = {event.key: event.self_cpu_time_total for event in profiled.key_averages()}
    return sum(times.get(name, 0) for name in PRODUCTS) / sum(times.values())


def memory() -> str:
    """MiB that the peak rises by with ten times the data or particles, of a network that nothing was loaded for."""
    vae, x, peaks = network(), torch.bernoulli(torch.full((1000, 784), 0.2)), {}
    for num_data, num_particles in ((100, 1000), (1000, 100), (1000, 1000), (100, 10_000), (10, 60_000)):
        evaluate.log_likelihood(vae, x[:num_data], num_particles, progress=False)
        peaks[f"{num_data:,} × {num_particles:,}"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    (first, lowest), *later = peaks.items()
    rises = ", ".join(f"{name} +{peak - lowest:.0f}" for name, peak in later)
    return f"peak memory {lowest:.0f} MiB after N × S = {first}; above it, after {rises}"


def network() -> VAE:
    return VAE(50, 784, Bernoulli(), (200, 200), "tanh")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--particles", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--record", action="store_true", help="append what is printed to RESULTS.md")
    options = parser.parse_args()
    particles = options.particles
    lines = [f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}", memory()]
    print("\n".join(lines), flush=True)
    dataset = data.load("mnist", observations="binary")
    vae = fit.svi(
        network(), dataset.train[:10_000], num_epochs=5, batch_size=200, lr=3e-3, schedule="cosine", progress=False
    ).model
    x = dataset.test.x[: options.images]
    lines.append(f"matrix products: {share_of_products(vae, x[:100], particles):.0%} of the processor's time")
    print(lines[-1], flush=True)
    peer = as_pythae(vae)
    if peer is None:
        lines.append("pythae is not installed, and not compared with: pip install pythae")
    else:
        lines.append(against(peer, vae, x, particles, options.rounds))
    print(lines[-1], flush=True)
    lines.append(compiled(vae, dataset.test.x, options.rounds))
    print(lines[-1])
    if options.record:
        with RESULTS.open("a") as file:
            file.write(
                "\n## Importance weights: `importance_speed.py`\n\n" + "\n".join(f"- {each}" for each in lines) + "\n"
            )


def against(peer: Any, vae: VAE, x: Tensor, num_particles: int, rounds: int) -> str:
    """Seconds of the peer over ours, and the difference of the two values."""
    values: dict[str, float] = {}

    def ours() -> None:
        values["ours"] = evaluate.log_likelihood(vae, x, num_particles, progress=False).mean

    @torch.no_grad()
    def theirs() -> None:
        values["peer"] = peer.get_nll(x, num_particles)

    ratio = paired(ours, theirs, rounds)
    return (
        f"{len(x):,} images × {num_particles:,} particles: pythae's seconds / ours {ratio} (claim: at least 3); ours "
        f"{ratio.ours:.1f} s, log p(x) {values['ours']:.3f}, pythae's {values['peer']:.3f}"
    )


def compiled(vae: VAE, x: Tensor, rounds: int) -> str:
    """Seconds of the scoring by Pyro over those of its compiled graph, compilation included."""
    num_particles = math.ceil(tiles.FLOATS_TO_COMPILE / x.numel())
    values: dict[str, float] = {}

    def ours() -> None:
        values["compiled"] = evaluate.log_likelihood(vae, x, num_particles, progress=False).mean

    def interpreted() -> None:
        with mock.patch.object(tiles, "TILES_TO_CAPTURE", math.inf):
            values["interpreted"] = evaluate.log_likelihood(vae, x, num_particles, progress=False).mean

    ratio = paired(ours, interpreted, rounds)
    return (
        f"{len(x):,} images × {num_particles:,} particles: interpreted / compiled {ratio}; compiled "
        f"{ratio.ours:.1f} s, the two means {abs(values['compiled'] - values['interpreted']):.1e} apart"
    )


if __name__ == "__main__":
    main()
