"""``pyrovae fit``: one model, fitted to one data set, into one file."""

from __future__ import annotations

import argparse
import math
import textwrap
from typing import Any

import torch
from pyro.infer import ELBO

from pyrovae import evaluate, fit
from pyrovae.cli import options as shared
from pyrovae.data import DataSet
from pyrovae.fit import FitResult
from pyrovae.io import model_file
from pyrovae.models.architecture import ACTIVATIONS
from pyrovae.models.base import LatentVariableModel
from pyrovae.models.gmm import COVARIANCES
from pyrovae.models.likelihoods import SCALES
from pyrovae.scoreboard import recipes, results_folder
from pyrovae.scoreboard.recipes import LIKELIHOODS, RECIPES

VALID_PARTICLES = 100  # of the bound in the summary
MODEL_OPTIONS = tuple(dict.fromkeys(name for recipe in RECIPES.values() for name in recipe.options))
FIT_OPTIONS = tuple(
    dict.fromkeys(name for recipe in RECIPES.values() for names in recipe.methods.values() for name in names)
)


def add_to(commands: Any) -> None:
    """Add the command to the parser's commands."""
    parser = commands.add_parser(
        "fit",
        parents=[_kind(), shared.data_options(), shared.size_options(), shared.run_options()],
        help="fit one model, and write it to a file",
        description="Fit one model to the training data, say how well it does on the validation data, and write it to "
        "a file for pyrovae evaluate and pyrovae sample.  An option that the model or the way of fitting has not is "
        "refused.",
    )
    model = parser.add_argument_group("the model")
    model.add_argument("--covariance", choices=COVARIANCES, help="of the components of gmm (default full)")
    model.add_argument(
        "--floor",
        type=shared.positive_number,
        metavar="ε",
        help="lower bound of covariances, in squared units of what the model sees (of probabilities, for "
        "bernoulli-mixture); default: relative to the variance of the data",
    )
    model.add_argument(
        "--likelihood",
        choices=tuple(LIKELIHOODS),
        help="p(x|z) of a vae; default: bernoulli, gaussian or discretized-logistic, as suits the observations",
    )
    model.add_argument(
        "--scale",
        type=_scale,
        metavar="σ",
        help=f"where σ of the likelihood comes from: {', '.join(SCALES)}, or a number, which is fixed",
    )
    model.add_argument("--network", choices=("mlp", "conv"), help="of a vae (default mlp)")
    model.add_argument(
        "--hidden",
        type=shared.positive,
        nargs="*",
        metavar="W",
        help="widths of the encoder's layers, or channels; the decoder mirrors them; without a number: none, a linear "
        "vae (default 256 256, or channels for the size of the images)",
    )
    model.add_argument("--activation", choices=tuple(ACTIVATIONS), help="of a vae's layers (default silu)")
    model.add_argument("--posterior", choices=("diag", "full"), help="covariance of a vae's q(z|x)")
    model.add_argument("--conditional", action="store_true", help="p(x|y), on the labels of the data; a vae's")
    way = parser.add_argument_group("the fit")
    way.add_argument("--how", choices=("em", "svi", "closed-form"), help="default: the best that the model has")
    way.add_argument("--restarts", dest="num_restarts", type=shared.positive, metavar="R", help="of EM (default 1)")
    way.add_argument("--batch-size", type=shared.positive, metavar="B", help="of SVI")
    way.add_argument("--lr", type=shared.positive_number, help="largest learning rate of SVI")
    way.add_argument(
        "--objective",
        choices=("elbo", "iw", "dreg"),
        help="of SVI: the ELBO (default), the importance-weighted bound, or that with doubly reparametrised gradients",
    )
    way.add_argument(
        "--particles",
        dest="num_particles",
        type=shared.positive,
        metavar="K",
        help="of the importance-weighted bound (default 5)",
    )
    way.add_argument("--beta", type=shared.positive_number, help="weight of the KL term of the ELBO (default 1)")
    way.add_argument(
        "--warmup", type=shared.positive, metavar="STEPS", help="over which the weight of the KL term grows to its end"
    )
    way.add_argument(
        "--patience", type=shared.positive, metavar="E", help="stop after E epochs that validation gained nothing by"
    )
    way.add_argument(
        "--resample", action="store_true", help="binarize the training data afresh for every batch (dynamic)"
    )
    parser.add_argument(
        "--out",
        required=True,
        metavar="FILE.pt",
        help="where to write the model, whole or not at all; earlier output is replaced, no other file is",
    )
    parser.set_defaults(run=run)


def _kind() -> argparse.ArgumentParser:
    """MODEL, which comes before DATA."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("model", choices=tuple(RECIPES), metavar="MODEL", help=", ".join(RECIPES))
    return parser


def run(options: argparse.Namespace) -> None:
    """Do what was asked."""
    say = shared.reporter(options)
    device = shared.device_of(options.device)
    path = results_folder.check_file(options.out, ".pt")
    kind, of_model = options.model, _given(options, MODEL_OPTIONS)
    if options.conditional:
        of_model["num_classes"] = None  # until the data are there to count them
    recipes.check_options(kind, of_model)
    of_fit = _given(options, FIT_OPTIONS)
    how = recipes.choose_method(kind, options.how, of_fit, options.num_components)
    if how == "svi":
        of_fit["elbo"] = _objective(of_fit)

    dtype = torch.float32 if kind == "vae" else torch.float64
    dataset = shared.load(options, dtype, resample=of_fit.pop("resample", False))
    say(shared.describe(dataset))
    shared.set_threads(options.threads, dataset.train.x.numel())
    if options.conditional:
        of_model["num_classes"] = _num_classes(dataset)
    model = recipes.build(kind, dataset.train, **of_model).to(device)
    say(f"{kind}: {how}")
    if how == "svi":
        of_fit = {**recipes.svi_options(kind, dataset.train), "valid": dataset.valid, **of_fit}
    elif how == "em":
        of_fit = {**recipes.em_options(kind, dataset.train), **of_fit}
    result = _fit(how, model, dataset, of_fit, options)
    score = _score(result, dataset, options)
    description = {
        "data": shared.provenance_of(options, dataset).to_plain(),
        "fit": {"method": result.method, "objective": result.objective, "kept": result.kept, "seed": options.seed},
    }
    model_file.save(result.model, path, description=description)
    summary = f"{kind} fitted to {dataset.train.space.reference}: {_told(result)}.  {score}  Written to {path}."
    print(textwrap.fill(summary, 100, break_on_hyphens=False, break_long_words=False))


def _given(options: argparse.Namespace, names: tuple[str, ...]) -> dict[str, Any]:
    """The options that were given, by their names in the library."""
    return {name: value for name in names if (value := getattr(options, name, None)) not in (None, False)}


def _objective(of_fit: dict[str, Any]) -> ELBO | None:
    """The ELBO asked for, its own options taken out of those of the fit; None for that of the model.

    Raises:
        ValueError: If options do not go together.
    """
    kind, num_particles = of_fit.pop("objective", "elbo"), of_fit.pop("num_particles", None)
    beta, warmup = of_fit.pop("beta", None), of_fit.pop("warmup", None)
    if kind == "elbo":
        if num_particles is not None:
            raise ValueError("`num_particles` must be left out for `objective` elbo; it is the k of iw and dreg.")
        if warmup is not None:
            return fit.BetaELBO(fit.LinearWarmup(warmup, beta or 1.0))
        return None if beta is None else fit.BetaELBO(beta)
    for name, value in (("beta", beta), ("warmup", warmup)):
        if value is not None:
            raise ValueError(f"`{name}` must be left out for `objective` {kind}; it weights the KL term of the ELBO.")
    gradient: Any = "reparametrised" if kind == "iw" else "doubly_reparametrised"
    return fit.ImportanceWeightedELBO(num_particles or 5, gradient=gradient)


def _num_classes(dataset: DataSet) -> int:
    """Number of classes of the labels of all parts."""
    labels = [part.labels for part in dataset if part is not None and part.labels is not None]
    if not labels:
        raise ValueError(f"`num_classes` needs labels, and {dataset.name} has none; leave it out.")
    return int(max(each.max() for each in labels)) + 1


def _fit(
    how: str, model: LatentVariableModel, dataset: DataSet, of_fit: dict[str, Any], options: argparse.Namespace
) -> FitResult:
    """The fit itself."""
    if how == "closed-form":
        return fit.closed_form(model, dataset.train, **of_fit)  # type: ignore[arg-type]
    progress = False if options.quiet else None
    if how == "em":
        return fit.em(model, dataset.train, seed=options.seed, progress=progress, **of_fit)  # type: ignore[arg-type]
    return fit.svi(model, dataset.train, seed=options.seed, progress=progress, **of_fit)


def _told(result: FitResult) -> str:
    """What the fit says of itself."""
    value = result.trace[-1].item() if result.elbo is None else result.elbo
    where = "training" if result.valid_trace is None else "validation"
    view = "" if result.space.transform_name == "as it is" else f" as seen ({result.space.transform_name})"
    return (
        f"{result.method}, {result.objective} {value:.3f} nats per datum of the {where} data{view}; kept: "
        f"{result.kept}; {result.model.num_free_parameters:,} parameters of p(x), {result.seconds:.1f} s"
    )


def _score(result: FitResult, dataset: DataSet, options: argparse.Namespace) -> str:
    """log p(x) of the validation data, in the reference space."""
    if dataset.valid is None:
        return "There are no validation data."
    found = evaluate.log_likelihood(
        result.model, dataset.valid, VALID_PARTICLES, seed=options.seed, progress=False if options.quiet else None
    )
    values = found.values.double().cpu() + dataset.valid.log_abs_det
    error = values.std().item() / math.sqrt(len(values)) if len(values) > 1 else math.nan
    what = "log p(x|y)" if result.model.num_classes is not None else "log p(x)"
    how = "exact" if found.method == "exact" else f"bound, {VALID_PARTICLES} particles"
    return f"Validation {what}: {values.mean():.3f} ± {error:.3f} nats per datum ({how})."


def _scale(text: str) -> str | float:
    return text if text in SCALES else shared.positive_number(text)
