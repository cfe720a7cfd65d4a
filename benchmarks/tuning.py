"""Is the default call of a VAE as good as the best of 30 random configurations?  Some data sets need PYROVAE_DATA.

    python benchmarks/tuning.py --out runs.jsonl [--only NAME ...] [--part default tuned] [--table]

Each run is one line of the file, and runs that are there are not made again.  The default is ``fit.svi(VAE(latent_dim,
data_shape, likelihood), train, valid=valid)``.  A random configuration takes as many steps, the same latents and the
same likelihood; the ELBO on validation data chooses among them and the default's first seed, and the chosen one is
fitted again to be scored.  Claim: on each data set
the default's mean over five seeds is within 1 nat of the chosen one's log p of test data, or within 2% of the chosen
one's gain over one Gaussian (binary data: independent Bernoullis), and never collapsed where the chosen one is not.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Any

import sklearn.datasets
import torch
from timing import processor

from pyrovae import VAE, Bernoulli, BernoulliMixture, Gaussian, GaussianMixture, data, evaluate, fit
from pyrovae.fit.defaults import svi_options
from pyrovae.models.architecture import ACTIVATIONS
from pyrovae.models.defaults import default_latent_dim

SCHEDULES = ("constant", "cosine", "one_cycle")
CARRIES = 0.01  # nats; a unit with less carries nothing, and a VAE of such units alone has collapsed
LIKELIHOODS = {"": "decoder", "-shared": "shared", "-per-dim": "per_dim"}
SETS = (
    "digits",
    "digits-shared",
    "digits-per-dim",
    "mnist-binary",
    "mnist",
    "frey",
    "breast-cancer",
    "wine",
    "diabetes",
)
Lines = list[dict[str, Any]]
Parts = tuple[data.Observations, data.Observations, data.Observations]


def load(name: str) -> Parts:
    """Training, validation and test data."""
    source = name.removesuffix("-shared").removesuffix("-per-dim").removesuffix("-binary")
    if source not in ("digits", "mnist", "frey"):
        return table(source)
    loaded = data.load(source, observations="binary" if "binary" in name else None)
    assert loaded.valid is not None
    if source == "mnist":
        return loaded.train[:10_000], loaded.valid[:2000], loaded.test[:1000]
    return loaded.train, loaded.valid, loaded.test


def table(name: str) -> Parts:
    """A table of scikit-learn's, 60% to train, 20% to validate and 20% to test, in the training part's units."""
    x = torch.from_numpy(getattr(sklearn.datasets, f"load_{name.replace('-', '_')}")().data)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    train, valid, test = x[order].tensor_split((int(0.6 * len(x)), int(0.8 * len(x))))
    parts = (data.Observations(((part - train.mean(0)) / train.std(0)).float()) for part in (train, valid, test))
    return next(parts), next(parts), next(parts)


def vae(name: str, train: data.Observations, **network: Any) -> VAE:
    """The model of a data set, of the default network unless another is given."""
    scale = next(scale for ending, scale in reversed(LIKELIHOODS.items()) if name.endswith(ending))
    likelihood = Bernoulli() if train.space.support == "boolean" else Gaussian(scale)
    return VAE(default_latent_dim(train), train.data_shape, likelihood, **network)


def baseline(train: data.Observations) -> fit.FitResult:
    """One full Gaussian; for binary data independent Bernoullis."""
    if train.space.support == "boolean":
        return fit.em(BernoulliMixture(1, train.data_shape), train)
    gaussian = GaussianMixture(1, train.data_shape)
    return fit.closed_form(gaussian, train.to(torch.float64))


def configuration(name: str, number: int) -> dict[str, Any]:
    """A random configuration, which data set and number determine."""
    drawn = random.Random(f"{name} {number}")
    return {
        "lr": log_uniform(drawn, 3e-4, 1e-2),
        "batch_size": round(log_uniform(drawn, 32, 256)),
        "schedule": drawn.choice(SCHEDULES),
        "activation": drawn.choice(sorted(ACTIVATIONS)),
        "hidden": [round(log_uniform(drawn, 64, 512)) for _ in range(drawn.randint(1, 3))],
        "warmup": drawn.random() < 0.5,
    }


def log_uniform(drawn: random.Random, low: float, high: float) -> float:
    return math.exp(drawn.uniform(math.log(low), math.log(high)))


def tuned(name: str, train: data.Observations, config: dict[str, Any]) -> tuple[VAE, dict[str, Any]]:
    """Model and options of a configuration, for as many steps as the default's."""
    model = vae(name, train, hidden=config["hidden"], activation=config["activation"])
    steps = svi_options(vae(name, train), train)["num_steps"]
    options = {"num_steps": steps, **{name: config[name] for name in ("lr", "batch_size", "schedule")}}
    if config["warmup"]:
        options["elbo"] = fit.BetaELBO(fit.LinearWarmup(max(1, steps // 10)))
    return model, options


def run(name: str, part: str, number: int, parts: Parts) -> dict[str, Any]:
    """One line: a fit and what its model is worth."""
    train, valid, test = parts
    line: dict[str, Any] = {"data": name, "part": part, "number": number, "processor": processor()}
    if part == "baseline":
        return line | {"test": evaluate.log_likelihood(baseline(train).model, test).mean}
    model, options = vae(name, train), {}
    if part != "default":
        line["config"] = configuration(name, number)
        model, options = tuned(name, train, line["config"])
    began, cpu = time.perf_counter(), time.process_time()
    try:
        result = fit.svi(model, train, valid=valid, seed=number, progress=False, **options)
    except fit.DivergenceError as error:
        return line | {"valid": -math.inf, "error": str(error)}
    line |= {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - cpu}
    assert result.latent_kl is not None
    line |= {"steps": result.num_steps, "kept": result.kept, "valid": result.elbo, "kl": result.latent_kl.tolist()}
    if part == "tuned":
        return line
    score = evaluate.log_likelihood(result.model, test, 1000, "importance")
    return line | {"test": score.mean, "error_of_mean": score.mean_standard_error}


def runs(options: argparse.Namespace, lines: Lines) -> Iterator[tuple[str, str, int]]:
    """What is to be run: data set, part and number, the quick ones first; what was chosen, when all are there."""
    numbers = {"default": range(options.seeds), "tuned": range(options.configs)}
    for name in options.only:
        yield name, "baseline", 0
        for part in options.part:
            yield from ((name, part, number) for number in numbers[part])
        if "tuned" in options.part:
            yield name, "chosen", max(of(name, "tuned", lines), key=lambda line: line["valid"])["number"]


def of(name: str, part: str, lines: Lines) -> Lines:
    """The lines of a part of a data set."""
    return [line for line in lines if (line["data"], line["part"]) == (name, part)]


def markdown(lines: Lines) -> str:
    """The table, from the lines alone."""
    rows = [
        "| data | baseline | default: mean (worst) | best of | log p | its configuration | behind (allowed) | holds |",
        "|" + "---|" * 8,
    ]
    for name in SETS:
        parts = [of(name, part, lines) for part in ("baseline", "default", "tuned", "chosen")]
        if all(parts):
            rows.append(row(name, *parts))
    return "\n".join(rows)


def row(name: str, floor: Lines, default: Lines, others: Lines, tuned: Lines) -> str:
    chosen = max(tuned[-1], next(line for line in default if line["number"] == 0), key=lambda line: line["valid"])
    scores = [line["test"] for line in default]
    behind, allowed = chosen["test"] - mean(scores), max(1.0, 0.02 * (chosen["test"] - floor[0]["test"]))
    holds = behind <= allowed and (collapsed(chosen) or not any(map(collapsed, default)))
    config = ", ".join(
        f"{key} {value:.2g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in chosen.get("config", {"the default": ""}).items()
    )
    gaussian = floor[0]["test"]
    return (
        f"| {name} | {gaussian:.2f} | {mean(scores):.2f} ({min(scores):.2f}) | {len(others)} | {chosen['test']:.2f} "
        f"| {config} | {behind:.2f} ({allowed:.2f}) | {'yes' if holds else '**no**'} |"
    )


def collapsed(line: dict[str, Any]) -> bool:
    """Whether no unit of z carries anything, or the fit diverged."""
    return all(kl < CARRIES for kl in line.get("kl", ()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="file of the runs, one line each")
    parser.add_argument("--only", nargs="+", choices=SETS, default=SETS, metavar="NAME", help=", ".join(SETS))
    parser.add_argument("--part", nargs="+", choices=("default", "tuned"), default=("default", "tuned"))
    parser.add_argument("--seeds", type=int, default=5, help="of the default")
    parser.add_argument("--configs", type=int, default=30, help="random configurations a data set")
    parser.add_argument("--table", action="store_true", help="print the table of the runs that are there, and run none")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # that a configuration is bad is what its line says
    lines = [json.loads(line) for line in options.out.read_text().splitlines()] if options.out.exists() else []
    done = {(line["data"], line["part"], line["number"]) for line in lines}
    parts: dict[str, Parts] = {}
    for each in () if options.table else runs(options, lines):
        if each in done:
            continue
        if each[0] not in parts:
            parts = {each[0]: load(each[0])}
        lines.append(run(*each, parts[each[0]]))
        with options.out.open("a") as file:
            file.write(json.dumps(lines[-1]) + "\n")
        print(*each, f"{lines[-1].get('test', lines[-1].get('valid')):.2f}", flush=True)
    print(markdown(lines))


if __name__ == "__main__":
    main()
