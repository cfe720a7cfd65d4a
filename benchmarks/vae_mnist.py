"""How good are variational autoencoders on MNIST within minutes on two cores?  Needs PYROVAE_DATA.

    python benchmarks/vae_mnist.py [EXPERIMENT ...] [--epochs E] [--device cuda]

dynamic: 784-200-200-50, tanh, binarized afresh at each use; claim: log p(x) of the whole test set, by 1,000 importance
samples, at least -91.0 after at most 5 minutes of training, about 20 active units.  default: the same sizes and the
same claim by the default call, with no option given.  importance-weighted: the same
network trained by the bound of k = 1 and of k = 5 particles for equal epochs; claim: k = 5 is better.  continuous:
MNIST/255 under a Gaussian decoder; claims: with sigma = 1 a bound of -740.5 ± 3, with one learned sigma at least +896,
and above probabilistic PCA's exact value with as many latents.  static: Larochelle's binarized MNIST, 784-400-40 with
ReLU, batches of 100, learning rate 1e-4, 500 epochs, 200 importance samples, as published for pythae (-89.78); claim:
at least -89.9.
"""

from __future__ import annotations

import argparse
import time

import torch

from pyrovae import PPCA, VAE, Bernoulli, Gaussian, data, evaluate, fit


def report(name: str, model: VAE, test: data.Observations, seconds: float, particles: int = 1000) -> None:
    """log p(x) of test data, and what the latents carry."""
    began = time.perf_counter()
    likelihood = evaluate.log_likelihood(model, test, particles)
    units = evaluate.latent_report(evaluate.encode(model, test)).num_active
    elbo = evaluate.elbo(model, test, 20).double().mean().item()
    print(
        f"{name}: log p(x) {likelihood.mean:.2f} ± {likelihood.mean_standard_error:.2f} ({particles:,} samples, "
        f"{len(test):,} test data), ELBO {elbo:.2f}, {units} active units; trained in {seconds:.0f} s, "
        f"evaluated in {time.perf_counter() - began:.0f} s",
        flush=True,
    )


def burda(activation: str = "tanh") -> VAE:
    """The network of Burda, Grosse and Salakhutdinov (2016), one stochastic layer."""
    return VAE(50, 784, Bernoulli(), hidden=(200, 200), activation=activation)


def dynamic(epochs: int | None, device: str) -> None:
    dataset = data.load("mnist", observations="binary", resample=True)
    options = {"batch_size": 200, "lr": 5e-3, "schedule": "one_cycle", "device": device}
    warming = fit.BetaELBO(fit.LinearWarmup(1000))  # else units collapse before they are of use
    result = fit.svi(burda(), dataset.train, num_epochs=epochs or 100, elbo=warming, **options)
    report("dynamic MNIST, 784-200-200-50", result.model, dataset.test, result.seconds)


def default(epochs: int | None, device: str) -> None:
    dataset = data.load("mnist", observations="binary", resample=True)
    vae = VAE(50, 784, Bernoulli(), hidden=(200, 200))
    result = fit.svi(vae, dataset.train, num_epochs=epochs, device=device)
    report("dynamic MNIST, 784-200-200-50, the default call", result.model, dataset.test, result.seconds)


def importance_weighted(epochs: int | None, device: str) -> None:
    dataset = data.load("mnist", observations="binary", resample=True)
    options = {"batch_size": 200, "lr": 2e-3, "schedule": "one_cycle", "device": device, "num_epochs": epochs or 15}
    for particles in (1, 5):
        result = fit.svi(burda(), dataset.train, elbo=fit.ImportanceWeightedELBO(particles), **options)
        report(f"dynamic MNIST, bound of k = {particles}", result.model, dataset.test[:2000], result.seconds)


def continuous(epochs: int | None, device: str) -> None:
    dataset = data.load("mnist", dequantize=False, num_valid=0)  # as published: all 60,000
    options = {"batch_size": 200, "lr": 2e-3, "schedule": "one_cycle", "device": device, "num_epochs": epochs or 24}
    likelihoods = {"1": Gaussian(1.0), "shared": Gaussian("shared", floor=1e-4, bounded=True)}
    for scale, likelihood in likelihoods.items():
        result = fit.svi(VAE(40, 784, likelihood, hidden=(400, 400), activation="silu"), dataset.train, **options)
        report(f"MNIST/255, sigma = {scale}", result.model, dataset.test, result.seconds)
    exact = fit.closed_form(PPCA(40, 784), dataset.train.to(torch.float64)).model
    print(f"MNIST/255, probabilistic PCA with 40 latents: {exact.score(dataset.test):.2f}, exactly")


def static(epochs: int | None, device: str) -> None:
    dataset = data.load("binarized_mnist")
    model = VAE(40, 784, Bernoulli(), hidden=(400,), activation="relu")
    options = {"batch_size": 100, "lr": 1e-4, "schedule": "constant", "device": device, "num_epochs": epochs or 500}
    result = fit.svi(model, dataset.train, valid=dataset.valid, **options)
    report(f"static MNIST, 784-400-40, {result.kept}", result.model, dataset.test, result.seconds, particles=200)


EXPERIMENTS = {
    "dynamic": dynamic,
    "default": default,
    "importance-weighted": importance_weighted,
    "continuous": continuous,
    "static": static,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", nargs="*", metavar="EXPERIMENT", help="all by default")
    parser.add_argument("--epochs", type=int, help="instead of those that the claim's time allows")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    if unknown := set(options.experiment) - set(EXPERIMENTS):
        parser.error(f"EXPERIMENT must be one of {', '.join(EXPERIMENTS)}, got {', '.join(sorted(unknown))}.")
    for name in options.experiment or EXPERIMENTS:
        EXPERIMENTS[name](options.epochs, options.device)


if __name__ == "__main__":
    main()
