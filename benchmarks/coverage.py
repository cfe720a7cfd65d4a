"""Do 95% intervals cover?  On models whose log p(x) is known, for every datum and for the whole population.

    python benchmarks/coverage.py [ppca | gmm | vae] [--replicates R]

A replicate is a test set of 200 data drawn from the first of two models, and the importance-weighted likelihood of both
by 100 particles a datum.  Three intervals of ±1.96 standard errors are held against the truth: of the test set's mean
(the Monte-Carlo part), of the population's mean (both parts), and of the difference between the two models, paired over
data, as on the scoreboard (both parts).  Claim: over 2,000 replicates each covers in 93 to 97%.  What a q four times
too certain does to them stands below, with the share of data whose k̂ gives the warning (the library gives no
Monte-Carlo error there; here it does); and what is left of the error where nothing is estimated: differences between
models are skewed, and a mean of few of them is not normal.

Truth of a test set: PPCA and the Gaussian mixture have log p(x) in closed form; the autoencoder, two latents and eight
binary pixels, by quadrature of all 256 images that there are.  Truth of the population: PPCA's is minus a
cross-entropy of Gaussians; the autoencoder's a sum over the 256 images; the mixture's the mean over a million data,
whose own standard error, 1/72 of those judged by it, moves no coverage by 0.01%.
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from unittest.mock import patch

import torch
from pyro.distributions import Categorical, Distribution, MultivariateNormal, Normal
from torch import Tensor, nn

from pyrovae import PPCA, VAE, Bernoulli, GaussianMixture, data, evaluate, fit
from pyrovae.evaluate.likelihood import estimate, log_likelihood
from pyrovae.models.base import LatentVariableModel
from pyrovae.models.guides import AmortizedGuide

QUANTILE = 1.959964
NUM_DATA, NUM_PARTICLES = 200, 100
SIZES = (50, 200, 1000)
POPULATION = 2**20


class Tempered(nn.Module):
    """q ∝ posterior^power: above 1 too certain, below 1 too wide."""

    def __init__(self, posterior: Callable[[Tensor], Distribution], power: float) -> None:
        super().__init__()
        self._posterior, self.power = (posterior,), power  # in a tuple: its parameters are not this module's

    def forward(self, x: Tensor) -> Distribution:
        q = self._posterior[0](x)
        if isinstance(q, Categorical):
            return Categorical(logits=self.power * q.logits)
        if isinstance(q, MultivariateNormal):
            return MultivariateNormal(q.mean, scale_tril=q.scale_tril / self.power**0.5)
        return Normal(q.mean, q.stddev / self.power**0.5).to_event(1)


@dataclass(frozen=True)
class Case:
    """Two models, and all that is known of them."""

    models: tuple[LatentVariableModel, LatentVariableModel]
    posteriors: tuple[Callable[[Tensor], Distribution], Callable[[Tensor], Distribution]]
    exact: tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]  # log p(x) of data, (N,)
    population: tuple[float, float]  # mean log p(x) under the first model
    power: float  # of a reasonable q


def ppca() -> Case:
    """Two latents in six dimensions, beside the best model of one latent."""
    torch.manual_seed(0)
    first = PPCA(2, 6, noise_variance=0.5)
    nn.init.normal_(first.model.weight)
    second = fit.closed_form(PPCA(1, 6), first.sample(10_000)[0]).model
    with torch.no_grad():
        covariances = [m.weight @ m.weight.T + m.noise_variance * torch.eye(6) for m in (first, second)]
        population = []
        for model, covariance in zip((first, second), covariances, strict=True):
            offset = model.mean - first.mean
            within = torch.linalg.solve(covariance, covariances[0] + offset.outer(offset)).trace()
            population.append(-0.5 * (6 * math.log(2 * math.pi) + covariance.logdet() + within).item())
    pair = (first, second)
    return Case(pair, tuple(m.posterior for m in pair), tuple(m.log_prob for m in pair), tuple(population), 0.7)


def gmm() -> Case:
    """Three overlapping components in the plane, beside a fit of two."""
    torch.manual_seed(1)
    first = GaussianMixture(3, 2, floor=0.1)
    nn.init.normal_(first.model.means, std=2.0)
    second = fit.em(GaussianMixture(2, 2, floor=0.1), first.sample(10_000)[0], tolerance=1e-4, progress=False).model
    pair, x = (first, second), first.sample(POPULATION, seed=1)[0]
    population = tuple(m.score(x) for m in pair)
    return Case(pair, tuple(m.posterior for m in pair), tuple(m.log_prob for m in pair), population, 0.7)


def vae() -> Case:
    """Two latents and eight pixels of the digits, 0 or 1, beside one latent."""
    pixels = data.load("digits", observations="binary", dtype=torch.float64).train.x[:, 18:50:4]
    pair = tuple(
        fit.svi(
            VAE(latents, 8, Bernoulli(), (32,), "tanh").double(),
            pixels,
            num_epochs=60,
            batch_size=128,
            lr=1e-2,
            schedule="cosine",
            progress=False,
        ).model
        for latents in (2, 1)
    )
    every_image = torch.tensor(list(itertools.product((0.0, 1.0), repeat=8)), dtype=torch.float64)
    tables = [evaluate.quadrature(model, every_image).values for model in pair]
    assert all(abs(table.exp().sum() - 1) < 1e-6 for table in tables)
    places = 2 ** torch.arange(7, -1, -1)
    exact = tuple(lambda x, table=table: table[(x.long() * places).sum(1)] for table in tables)
    population = tuple((tables[0].exp() * table).sum().item() for table in tables)
    return Case(pair, tuple(m.encoder for m in pair), exact, population, 1.0)


CASES = {"ppca": ppca, "gmm": gmm, "vae": vae}


def split(likelihood: evaluate.LogLikelihood, size: int = NUM_DATA) -> list[evaluate.LogLikelihood]:
    """One likelihood for every replicate."""
    names = ("values", "standard_error", "ess", "k_hat")
    parts = zip(*(getattr(likelihood, name).split(size) for name in names), strict=True)
    return [replace(likelihood, **dict(zip(names, part, strict=True))) for part in parts]


def covered(estimates: list[float], errors: list[float], truths: Tensor | float) -> float:
    """Share of the intervals that hold the truth."""
    misses = (torch.tensor(estimates, dtype=torch.float64) - truths).abs()
    return (misses <= QUANTILE * torch.tensor(errors, dtype=torch.float64)).double().mean().item()


def study(case: Case, num_replicates: int, power: float, seed: int = 1) -> dict[str, float]:
    """Coverage of the three intervals, and how good the weights were; q is the posterior to this power."""
    x = case.models[0].sample(num_replicates * NUM_DATA, seed=seed)[0]
    guides = [AmortizedGuide(Tempered(posterior, power)) for posterior in case.posteriors]
    with without_k_hat():
        both = [
            evaluate.log_likelihood(model, x, NUM_PARTICLES, "importance", guide=guide, seed=seed)
            for model, guide in zip(case.models, guides, strict=True)
        ]
    looked_at = evaluate.log_likelihood(case.models[0], x[:1000], NUM_PARTICLES, "importance", guide=guides[0])
    likelihoods, pairs = split(both[0]), split(replace(both[0], values=both[1].values - both[0].values))
    with torch.no_grad():
        truths = case.exact[0](x).reshape(num_replicates, NUM_DATA).mean(1)
    means, monte_carlo, whole = (
        [getattr(each, name) for each in likelihoods]
        for name in ("mean", "monte_carlo_standard_error", "mean_standard_error")
    )
    unbiased = [each.mean - each.bias.mean().item() for each in likelihoods]
    differences, paired = ([getattr(each, name) for each in pairs] for name in ("mean", "mean_standard_error"))
    return {
        "test set": covered(means, monte_carlo, truths),
        "less bias": covered(unbiased, monte_carlo, truths),
        "population": covered(means, whole, case.population[0]),
        "difference": covered(differences, paired, case.population[1] - case.population[0]),
        "SE of a datum": both[0].standard_error.mean().item(),
        "k̂ too large": looked_at.k_hat_share,
    }


@contextmanager
def without_k_hat() -> Iterator[None]:
    """The delta method's errors whatever the weights: k̂ would take most of the time, and hide the worst of them."""
    with (
        patch.object(estimate, "pareto_k", lambda log_w: torch.zeros(log_w.shape[1])),
        patch.object(log_likelihood, "_summary", lambda weights, _: estimate.summarize(weights.log_w)),
    ):
        yield


def of_exact_differences(case: Case, num_replicates: int) -> str:
    """Coverage of paired differences without any Monte-Carlo error, by the size of the test set."""
    x = case.models[0].sample(num_replicates * max(SIZES), seed=2)[0]
    with torch.no_grad():
        difference = case.exact[1](x) - case.exact[0](x)
    skewness = ((difference - difference.mean()) / difference.std()).pow(3).mean().item()
    parts = []
    for size in SIZES:
        sets = difference[: num_replicates * size].reshape(num_replicates, size)
        errors = (sets.std(1) / math.sqrt(size)).tolist()
        share = covered(sets.mean(1).tolist(), errors, case.population[1] - case.population[0])
        parts.append(f"{share:.1%} at N = {size:,}")
    return f"exact differences, of skewness {skewness:.1f}: {', '.join(parts)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", nargs="*", metavar="CASE", help="all by default")
    parser.add_argument("--replicates", type=int, default=2000)
    options = parser.parse_args()
    if unknown := set(options.case) - set(CASES):
        parser.error(f"CASE must be one of {', '.join(CASES)}, got {', '.join(sorted(unknown))}.")
    began, claim = time.perf_counter(), []
    num_replicates, fewer = options.replicates, max(1, options.replicates // 4)
    error = math.sqrt(0.95 * 0.05 / num_replicates)
    print(f"coverage of nominal 95% intervals, N = {NUM_DATA}, S = {NUM_PARTICLES}")
    print(f"{num_replicates:,} replicates: ± {error:.1%}; of a q too certain {fewer:,}: ± {2 * error:.1%}")
    header = ("test set", "less bias", "population", "difference", "SE of a datum", "k̂ too large")
    print(f"{'':20s}" + "".join(f"{name:>15s}" for name in header))
    for name in options.case or CASES:
        case = CASES[name]()
        runs = (("", case.power, num_replicates), (", q too certain", 4 * case.power, fewer))
        for quality, power, replicates in runs:
            row = study(case, replicates, power)
            forms = {"SE of a datum": ".3f"}
            shown = ["n/a" if math.isnan(row[each]) else f"{row[each]:{forms.get(each, '.1%')}}" for each in header]
            print(f"{name + quality:20s}" + "".join(f"{each:>15s}" for each in shown), flush=True)
            if not quality:
                claim += [row[each] for each in ("test set", "population", "difference")]
        print("  " + of_exact_differences(case, num_replicates), flush=True)
    verdict = "holds" if all(0.93 <= each <= 0.97 for each in claim) else "DOES NOT HOLD"
    print(f"claim, 93 to 97% in every first row: {verdict}; {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
