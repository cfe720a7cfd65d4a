"""Models from a few plain values and the data, and how each is fitted: what ``fit`` and ``compare`` have in common.

A value that is left out is a default that suits the data: floors are set relative to the variance of the data, and
SVI runs for a number of steps, not of epochs.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from pyrovae.data import Observations
from pyrovae.models import (
    PPCA,
    VAE,
    Bernoulli,
    BernoulliMixture,
    ContinuousBernoulli,
    DiscretizedLogistic,
    FactorAnalysis,
    FullGaussian,
    Gaussian,
    GaussianMixture,
    LowRankGaussian,
    PPCAMixture,
)
from pyrovae.models.architecture import Network
from pyrovae.models.base import LatentVariableModel
from pyrovae.models.gmm import Covariance
from pyrovae.models.likelihoods import Likelihood, Scale

LARGE_NUMBERS = 4_000_000  # numbers in the training data, N × D, above which they are large
FLOOR = 4e-3  # of a covariance or a decoder's variance, relative to the mean variance of a dimension
NOISE_FLOOR = 1e-6  # of the noise of linear models, relative too
EM = ("num_restarts",)
SVI = ("num_epochs", "batch_size", "lr", "patience")
BOUND = ("objective", "num_particles", "beta", "warmup")  # of SVI where z is drawn, and not summed over
LIKELIHOODS: dict[str, type[Any]] = {
    re.sub(r"(?<!^)(?=[A-Z])", "-", cls.__name__).lower(): cls
    for cls in (Bernoulli, ContinuousBernoulli, Gaussian, LowRankGaussian, FullGaussian, DiscretizedLogistic)
}
NATURAL = {"boolean": "bernoulli", "integer": "discretized-logistic"}  # likelihoods by support; else Gaussian


def variance(train: Observations) -> float:
    """Mean variance of a dimension."""
    return train.x.double().var(0, correction=0).mean().clamp_min(1e-12).item()


def relative_floor(train: Observations, relative: float) -> float:
    """So many times the mean variance, to two significant digits, so that a reported floor is the floor."""
    return float(f"{relative * variance(train):.1e}")


def default_latent_dim(num_dims: int) -> int:
    """L where nobody chose one: 8 (or D − 1), 16 from 256 dimensions on."""
    return min(16 if num_dims >= 256 else 8, max(1, num_dims - 1))


def default_components(train: Observations) -> int:
    """K where nobody chose one: 10, but no more than a tenth of the data."""
    return max(1, min(10, len(train) // 10))


def _gmm(
    train: Observations,
    *,
    num_components: int | None = None,
    covariance: Covariance = "full",
    floor: float | None = None,
) -> GaussianMixture:
    floor = relative_floor(train, FLOOR) if floor is None else floor
    return GaussianMixture(num_components or default_components(train), (train.num_dims,), covariance, floor)


def _linear(kind: type[PPCA] | type[FactorAnalysis]) -> Callable[..., LatentVariableModel]:
    def build(train: Observations, *, latent_dim: int | None = None, floor: float | None = None) -> LatentVariableModel:
        floor = relative_floor(train, NOISE_FLOOR) if floor is None else floor
        return kind(latent_dim or default_latent_dim(train.num_dims), (train.num_dims,), floor)

    return build


def _ppca_mixture(
    train: Observations,
    *,
    num_components: int | None = None,
    latent_dim: int | None = None,
    floor: float | None = None,
) -> PPCAMixture:
    components = num_components or default_components(train)
    latent_dim = latent_dim or default_latent_dim(train.num_dims)
    floor = relative_floor(train, FLOOR) if floor is None else floor
    return PPCAMixture(components, latent_dim, (train.num_dims,), floor)


def _bernoulli_mixture(
    train: Observations, *, num_components: int | None = None, floor: float = 1e-3
) -> BernoulliMixture:
    return BernoulliMixture(num_components or default_components(train), (train.num_dims,), floor)


def _vae(
    train: Observations,
    *,
    latent_dim: int | None = None,
    likelihood: str | None = None,
    scale: Scale | None = None,
    floor: float | None = None,
    network: Network = "mlp",
    hidden: Sequence[int] | None = None,
    activation: str = "silu",
    posterior: Any = "diag",
    num_classes: int | None = None,
) -> VAE:
    if network == "conv" and train.image_shape is None:
        raise ValueError('`network` "conv" needs images, got data without a shape of images; use "mlp".')
    return VAE(
        latent_dim or default_latent_dim(train.num_dims),
        train.image_shape if network == "conv" else train.data_shape,
        _likelihood(train, likelihood, scale=scale, floor=floor),
        hidden,
        activation,
        network=network,
        posterior=posterior,
        num_classes=num_classes,
    )


def _likelihood(train: Observations, name: str | None, **given: Any) -> Likelihood:
    """A likelihood by its name, with what is given, and the rest as suits the data."""
    name = name or NATURAL.get(str(train.space.support), "gaussian")
    cls = LIKELIHOODS[name]
    _check_support(f"the {name} likelihood", cls.support, train)
    takes = {field.name for field in fields(cls)}
    arguments = {option: value for option, value in given.items() if value is not None}
    for option in arguments.keys() - takes:
        raise ValueError(f"`{option}` must be left out for the {name} likelihood, which has none.")
    if cls is DiscretizedLogistic:
        arguments["levels"] = train.space.levels
    elif "floor" in takes:
        arguments.setdefault("floor", relative_floor(train, FLOOR))
    return cls(**arguments)


@dataclass(frozen=True)
class Recipe:
    """A kind of model.

    Attributes:
        build: Makes it from the training data and options.
        methods: How it can be fitted, the best first, and the options that each way takes.
        batch_size, num_steps, lr: Of SVI.
    """

    build: Callable[..., LatentVariableModel]
    methods: Mapping[str, tuple[str, ...]]
    batch_size: int = 128
    num_steps: int = 450
    lr: float = 2e-3

    @property
    def options(self) -> tuple[str, ...]:
        """What ``build`` takes beside the data."""
        return tuple(inspect.signature(self.build).parameters)[1:]


LINEAR: dict[str, Any] = {"batch_size": 2048, "num_steps": 400, "lr": 0.03}
RECIPES = {
    "gmm": Recipe(_gmm, {"em": EM, "svi": SVI, "closed-form": ()}),
    "ppca": Recipe(_linear(PPCA), {"closed-form": ("beta",), "em": EM, "svi": SVI + BOUND}, **LINEAR),
    "fa": Recipe(_linear(FactorAnalysis), {"em": EM, "svi": SVI + BOUND}, **LINEAR),
    "ppca-mixture": Recipe(_ppca_mixture, {"em": EM, "svi": SVI}),
    "bernoulli-mixture": Recipe(_bernoulli_mixture, {"em": EM, "svi": (*SVI, "resample")}, lr=0.03),
    "vae": Recipe(_vae, {"svi": (*SVI, *BOUND, "resample")}, batch_size=64, num_steps=1700, lr=3e-3),
}


def build(kind: str, train: Observations, **options: Any) -> LatentVariableModel:
    """A model of a kind, from options and for the rest as suits the data; not fitted.

    Args:
        kind: A key of ``RECIPES``.
        train: Training data.
        **options: Of the model, as its class calls them; a likelihood by its name in ``LIKELIHOODS``, with ``scale``
            and ``floor`` beside it.

    Raises:
        ValueError: If an option is not one of this kind, is out of range, or does not fit the data.

    Example:
        >>> from pyrovae import data
        >>> build("gmm", data.load("digits").train, covariance="diag").config
        {'num_components': 10, 'data_shape': [64], 'covariance': 'diag', 'floor': 0.00026, 'missing': 'error'}
    """
    check_options(kind, options)
    if (train.x == train.x[0]).all():
        raise ValueError("`data` must hold training data that differ, got one value throughout.")
    if (count := options.get("num_components")) is not None and count > len(train):
        raise ValueError(
            f"`num_components` must be at most the number of training data, {len(train):,}, got {count:,}."
        )
    model = RECIPES[kind].build(train, **options)
    _check_support(kind, model.support, train)
    return model


def check_options(kind: str, options: Mapping[str, Any]) -> None:
    """Refuse options that are not a model's.

    Raises:
        ValueError: Then; it says which there are.
    """
    recipe = RECIPES[kind]
    for name in options:
        if name not in recipe.options:
            raise ValueError(
                f"`{name}` must be left out for {kind}, which takes "
                f"{', '.join(f'`{each}`' for each in recipe.options)}."
            )


def choose_method(kind: str, method: str | None, given: Mapping[str, Any], num_components: int | None = None) -> str:
    """How a model is fitted: the way asked for, or the best that it has; options of other ways are refused.

    Args:
        kind: A key of ``RECIPES``.
        method: ``"em"``, ``"svi"``, ``"closed-form"``, or None for the best.
        given: The options of the fit that somebody has given.
        num_components: K if given: one Gaussian has a closed form.

    Raises:
        ValueError: If the model cannot be fitted so, or an option belongs to another way.

    Example:
        >>> choose_method("ppca", None, {}), choose_method("fa", None, {}), choose_method("gmm", None, {}, 1)
        ('closed-form', 'em', 'closed-form')
    """
    methods = RECIPES[kind].methods
    if method is None:
        method = "closed-form" if kind == "gmm" and num_components == 1 else next(iter(methods))
    if method not in methods:
        raise ValueError(f"`method` must be one of {', '.join(methods)} for {kind}, got {method}.")
    for name in given:
        if name not in methods[method]:
            takes = ", ".join(f"`{each}`" for each in methods[method]) or "no options"
            raise ValueError(f"`{name}` must be left out where {kind} is fitted by {method}, which takes {takes}.")
    return method


def em_options(kind: str, train: Observations) -> dict[str, Any]:
    """Arguments of ``fit.em`` that suit a kind of model and the data."""
    large = train.x.numel() > LARGE_NUMBERS
    return {"tolerance": 1e-3 if large else 1e-6, "accelerate": kind in ("ppca", "fa")}


def svi_options(kind: str, train: Observations) -> dict[str, Any]:
    """Arguments of ``fit.svi`` that suit a kind of model and the data; those of ``compare``."""
    recipe, large = RECIPES[kind], train.x.numel() > LARGE_NUMBERS
    if kind == "vae":
        batch_size = 4 * recipe.batch_size if large else recipe.batch_size
        num_epochs = max(20, recipe.num_steps // math.ceil(len(train) / batch_size))
        return {"num_epochs": min(num_epochs, 400), "batch_size": batch_size, "lr": recipe.lr, "schedule": "one_cycle"}
    num_steps = 60 if large and recipe.batch_size < 1000 else recipe.num_steps
    return {
        "num_epochs": math.ceil(num_steps / math.ceil(len(train) / recipe.batch_size)),
        "batch_size": recipe.batch_size,
        "lr": recipe.lr * math.sqrt(variance(train) / 0.07) if kind in ("ppca", "fa") else recipe.lr,
    }


def _check_support(what: str, support: str | None, train: Observations) -> None:
    """Refuse a model of one support for data of another."""
    if train.space.support not in (support, None):
        raise ValueError(
            f"`data` must be {support} for {what}, got {train.space.support} values; load them otherwise by "
            "`observations`, or choose another model."
        )
