"""``pyrovae fit``: one model, fitted to one data set, into one file."""

import argparse
import textwrap
from collections.abc import Iterable
from typing import Any

import torch
from pyro.infer import ELBO

from pyrovae import evaluate, fit
from pyrovae.cli import options as shared
from pyrovae.cli.options import add
from pyrovae.data import DataSet
from pyrovae.evaluate.likelihood.estimate import standard_error
from pyrovae.fit import FitResult
from pyrovae.io import model_file
from pyrovae.models.architecture import ACTIVATIONS
from pyrovae.models.defaults import KINDS, LIKELIHOODS, build, check_options
from pyrovae.models.gmm import COVARIANCES
from pyrovae.models.likelihoods import SCALES
from pyrovae.scoreboard import results_folder
from pyrovae.scoreboard.figures import Figure

VALID_PARTICLES = 100  # of the bound in the summary
EM = ("num_restarts",)
SVI = ("num_epochs", "num_steps", "batch_size", "lr", "patience", "num_restarts")
BOUND = ("objective", "num_particles", "beta", "warmup")  # of SVI where z is drawn, and not summed over
METHODS: dict[str, dict[str, tuple[str, ...]]] = {  # how a kind can be fitted, the best first, and what each way takes
    "gmm": {"em": EM, "svi": SVI, "closed-form": ()},
    "ppca": {"closed-form": ("beta",), "em": EM, "svi": SVI + BOUND},
    "fa": {"em": EM, "svi": SVI + BOUND},
    "ppca-mixture": {"em": EM, "svi": SVI},
    "bernoulli-mixture": {"em": EM, "svi": (*SVI, "resample")},
    "vae": {"svi": (*SVI, *BOUND, "resample")},
}
MODEL_OPTIONS = tuple(dict.fromkeys(name for kind in KINDS.values() for name in kind.options))
FIT_OPTIONS = (*SVI, *BOUND, "resample")  # those of EM among them


def add_to(commands: Any) -> None:
    """Add the command to the parser's commands."""
    parser = commands.add_parser(
        "fit",
        help="fit one model, and write it to a file",
        description="Fit one model to the training data, say how well it does on the validation data, and write it to "
        "a file for pyrovae evaluate and pyrovae sample.  Options that do not apply to the model, or to the way of "
        "fitting it, raise an error.",
    )
    parser.add_argument("kind", choices=tuple(KINDS), metavar="MODEL", help=", ".join(KINDS))
    for add_group in (shared.add_data, shared.add_sizes, shared.add_run):
        add_group(parser)
    _add_model_options(parser.add_argument_group("the model"))
    _add_fit_options(parser.add_argument_group("the fit"))
    help = "where to write the model, whole or not at all; earlier output is replaced, no other file is"
    add(parser, "out", help, required=True, metavar="FILE.pt")
    parser.set_defaults(run=run)


def _add_model_options(group: Any) -> None:
    add(group, "covariance", "of the components of gmm (default full)", choices=COVARIANCES)
    help = (
        "lower bound of covariances, in squared units of what the model sees (of probabilities, for "
        "bernoulli-mixture); default: relative to the variance of the data"
    )
    add(group, "floor", help, type=shared.positive_number, metavar="ε")
    help = "p(x|z) of a vae; default: bernoulli, gaussian or discretized-logistic, as suits the observations"
    add(group, "likelihood", help, choices=tuple(LIKELIHOODS))
    help = f"where σ of the likelihood comes from: {', '.join(SCALES)}, or a number, which is fixed"
    add(group, "scale", help, type=_scale, metavar="σ")
    add(group, "network", "of a vae (default mlp)", choices=("mlp", "conv"))
    help = (
        "widths of the encoder's layers, or channels; the decoder mirrors them; without a number: none, a linear vae "
        "(default 256 256, or channels for the size of the images)"
    )
    add(group, "hidden", help, type=shared.positive, nargs="*", metavar="W")
    add(group, "activation", "of a vae's layers (default silu)", choices=tuple(ACTIVATIONS))
    add(group, "posterior", "covariance of a vae's q(z|x)", choices=("diag", "full"))
    add(group, "num_classes", "p(x|y), on the labels of the data; a vae's", action="store_true")


def _add_fit_options(group: Any) -> None:
    help = "default: the best that the model has"
    group.add_argument("--how", dest="method", choices=("em", "svi", "closed-form"), help=help)
    help = "starts of EM, or of SVI, of which the best is kept (default 1)"
    add(group, "num_restarts", help, type=shared.positive, metavar="R")
    add(group, "num_steps", "of SVI, in place of --epochs", type=shared.positive, metavar="T")
    add(group, "batch_size", "of SVI", type=shared.positive, metavar="B")
    add(group, "lr", "largest learning rate of SVI", type=shared.positive_number)
    help = "of SVI: the ELBO (default), the importance-weighted bound, or that with doubly reparametrised gradients"
    add(group, "objective", help, choices=("elbo", "iw", "dreg"))
    add(group, "num_particles", "of the importance-weighted bound (default 5)", type=shared.positive, metavar="K")
    add(group, "beta", "weight of the KL term of the ELBO (default 1)", type=shared.positive_number)
    help = "over which the weight of the KL term grows to its end"
    add(group, "warmup", help, type=shared.positive, metavar="STEPS")
    help = "stop after E epochs without a gain on validation data (default: half of all, and 10 at least)"
    add(group, "patience", help, type=shared.positive, metavar="E")
    add(group, "resample", "binarize the training data afresh for every batch (dynamic)", action="store_true")


def run(options: argparse.Namespace) -> None:
    """Do what was asked."""
    say = shared.reporter(options)
    path = results_folder.check_file(options.out, ".pt")
    kind, of_model = options.kind, _given(options, MODEL_OPTIONS)
    check_options(kind, of_model)
    of_fit = _given(options, FIT_OPTIONS)
    method = choose_method(kind, options.method, of_fit, options.num_components)
    if method == "svi":
        of_fit["elbo"] = _objective(of_fit)

    dtype = torch.float32 if kind == "vae" else torch.float64
    dataset = shared.load(options, dtype=dtype, resample=of_fit.pop("resample", False))
    say(shared.describe(dataset))
    shared.set_threads(options.threads, dataset.train.x.numel())
    if "num_classes" in of_model:
        of_model["num_classes"] = _num_classes(dataset)
    model: Any = build(kind, dataset.train, **of_model).to(options.device)
    say(f"{kind}: {method}")
    common = shared.picked(options, "seed", "progress")
    match method:
        case "closed-form":
            result = fit.closed_form(model, dataset.train, **of_fit)
        case "em":
            result = fit.em(model, dataset.train, **common, **of_fit)
        case _:
            result = fit.svi(model, dataset.train, **common, **{"valid": dataset.valid, **of_fit})
    score = _score(result, dataset, options)
    description = {
        "data": shared.provenance_of(options, dataset).to_plain(),
        "fit": {"method": result.method, "objective": result.objective, "kept": result.kept, "seed": options.seed},
    }
    model_file.save(result.model, path, description=description)
    summary = (
        f"{kind} fitted to {dataset.train.space.reference}: {_told(result, dataset)}.  {score}  Written to {path}."
    )
    print(textwrap.fill(summary, 100, break_on_hyphens=False, break_long_words=False))


def choose_method(kind: str, method: str | None, given: Iterable[str], num_components: int | None = None) -> str:
    """How a model is fitted: the way asked for, or the best that it has; options of other ways are refused.

    Args:
        kind: A key of ``METHODS``.
        method: ``"em"``, ``"svi"``, ``"closed-form"``, or None for the best.
        given: The options of the fit that somebody has given.
        num_components: K if given: one Gaussian has a closed form.

    Raises:
        ValueError: If the model cannot be fitted so, or an option belongs to another way.

    Example:
        >>> choose_method("ppca", None, ()), choose_method("fa", None, ()), choose_method("gmm", None, (), 1)
        ('closed-form', 'em', 'closed-form')
    """
    methods = METHODS[kind]
    if method is None:
        method = "closed-form" if kind == "gmm" and num_components == 1 else next(iter(methods))
    if method not in methods:
        raise ValueError(f"`--how` must be one of {', '.join(methods)} for {kind}, got {method}.")
    for name in given:
        if name not in methods[method]:
            takes = ", ".join(f"`{each}`" for each in methods[method]) or "no options"
            raise ValueError(f"`{name}` must be left out where {kind} is fitted by {method}, which takes {takes}.")
    return method


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


def _told(result: FitResult, dataset: DataSet) -> str:
    """What the fit says of itself, in the reference space as all else."""
    value = result.trace[-1].item() if result.elbo is None else result.elbo
    valid = dataset.valid if result.valid_trace is not None else None
    where, part = ("training", dataset.train) if valid is None else ("validation", valid)
    value += part.log_abs_det.mean().item()
    return (
        f"{result.method}, {result.objective} {value:.3f} nats per datum of the {where} data; kept: "
        f"{result.kept}; {result.model.num_free_parameters:,} parameters of p(x), {result.seconds:.1f} s"
    )


def _score(result: FitResult, dataset: DataSet, options: argparse.Namespace) -> str:
    """log p(x) of the validation data, in the reference space."""
    if dataset.valid is None:
        return "There are no validation data."
    common = shared.picked(options, "seed", "progress")
    found = evaluate.log_likelihood(result.model, dataset.valid, VALID_PARTICLES, **common)
    values = found.values.double().cpu() + dataset.valid.log_abs_det
    what = "log p(x|y)" if result.model.num_classes is not None else "log p(x)"
    basis = "exact" if found.method == "exact" else f"bound, {VALID_PARTICLES} particles"
    figure = Figure("log_likelihood", what, values.mean().item(), standard_error(values))
    return f"Validation {what}: {figure.text(3)} ± {figure.error_text(3)} nats per datum ({basis})."


def _scale(text: str) -> str | float:
    return text if text in SCALES else shared.positive_number(text)
