"""What suits the data for a model where nobody chose: its sizes, its floor, its likelihood; and models by name.

Floors are relative to the variance of the data, so that they follow the units of the data.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from inspect import signature
from typing import Any

from pyrovae.data import Observations
from pyrovae.models import PPCA, VAE, BernoulliMixture, FactorAnalysis, GaussianMixture, PPCAMixture
from pyrovae.models.base import LatentVariableModel
from pyrovae.models.floors import FLOOR, relative_floor
from pyrovae.models.likelihoods import LIKELIHOODS as CLASSES, DiscretizedLogistic, Likelihood

LIKELIHOODS: dict[str, type[Any]] = {
    re.sub(r"(?<!^)(?=[A-Z])", "-", name).lower(): cls for name, cls in CLASSES.items() if cls.is_density
}
NATURAL = {"boolean": "bernoulli", "integer": "discretized-logistic"}  # likelihoods by support; else Gaussian


@dataclass(frozen=True)
class Kind:
    """A kind of model.

    Attributes:
        cls: Its class.
        options: What can be chosen of it, named as by its class and its likelihood.
    """

    cls: type[LatentVariableModel]
    options: tuple[str, ...]


OF_LIKELIHOOD = ("likelihood", "scale", "floor")
OF_NETWORK = ("network", "hidden", "activation", "posterior", "num_classes")
KINDS = {
    "gmm": Kind(GaussianMixture, ("num_components", "covariance", "floor")),
    "ppca": Kind(PPCA, ("latent_dim", "floor")),
    "fa": Kind(FactorAnalysis, ("latent_dim", "floor")),
    "ppca-mixture": Kind(PPCAMixture, ("num_components", "latent_dim", "floor")),
    "bernoulli-mixture": Kind(BernoulliMixture, ("num_components", "floor")),
    "vae": Kind(VAE, ("latent_dim", *OF_LIKELIHOOD, *OF_NETWORK)),
}


def default_latent_dim(train: Observations) -> int:
    """L where nobody chose one: 8 (or D − 1), 16 from 256 dimensions on."""
    return min(16 if train.num_dims >= 256 else 8, max(1, train.num_dims - 1))


def default_components(train: Observations) -> int:
    """K where nobody chose one: 10, but no more than a tenth of the data."""
    return max(1, min(10, len(train) // 10))


SIZES = {"num_components": default_components, "latent_dim": default_latent_dim}


def build(kind: str, train: Observations, **options: Any) -> LatentVariableModel:
    """A model of a kind, not fitted; what is not given, or None, is chosen to suit the data.

    Args:
        kind: A key of ``KINDS``.
        train: Training data.
        **options: Of the model, named as by its class; a likelihood by its name in ``LIKELIHOODS``, with ``scale``
            and ``floor`` beside it.

    Raises:
        ValueError: If an option is not one of this kind, is out of range, or does not fit the data.

    Example:
        >>> from pyrovae import data
        >>> build("gmm", data.load("digits").train, covariance="diag").config
        {'num_components': 10, 'data_shape': [64], 'covariance': 'diag', 'floor': None, 'missing': 'error'}
    """
    check_options(kind, options)
    if (train.x == train.x[0]).all():
        raise ValueError("`data` must hold training data that differ, got one value throughout.")
    arguments = {name: value for name, value in options.items() if value is not None}
    if (count := arguments.get("num_components", 0)) > len(train):
        raise ValueError(
            f"`num_components` must be at most the number of training data, {len(train):,}, got {count:,}."
        )
    chosen = KINDS[kind]
    for name, default in SIZES.items():
        if name in chosen.options:
            arguments.setdefault(name, default(train))
    arguments = _of_vae(train, arguments) if kind == "vae" else {**arguments, "data_shape": (train.num_dims,)}
    if train.x.isnan().any():
        if "missing" not in signature(chosen.cls).parameters:
            raise ValueError(
                f"`data` must have no missing values for {kind}, which takes none; drop their rows, or take gmm, ppca "
                "or fa."
            )
        arguments["missing"] = "nan"
    model = chosen.cls(**arguments)
    _check_support(kind, model.support, train)
    return model


def check_options(kind: str, options: Mapping[str, Any]) -> None:
    """Refuse options that are not a model's.

    Raises:
        ValueError: Then; it says which there are.
    """
    takes = KINDS[kind].options
    for name in options:
        if name not in takes:
            raise ValueError(
                f"`{name}` must be left out for {kind}, which takes {', '.join(f'`{each}`' for each in takes)}."
            )


def _of_vae(train: Observations, options: dict[str, Any]) -> dict[str, Any]:
    """A VAE's arguments: its likelihood has options of its own, and a convolution sees images."""
    images = options.get("network") == "conv"
    if images and train.image_shape is None:
        raise ValueError('`network` "conv" needs images, got data without a shape of images; use "mlp".')
    name = options.get("likelihood", NATURAL.get(str(train.space.support), "gaussian"))
    given = {option: value for option, value in options.items() if option in ("scale", "floor")}
    others = {option: value for option, value in options.items() if option not in ("likelihood", *given)}
    shape = train.image_shape if images else train.data_shape
    return {**others, "data_shape": shape, "likelihood": _likelihood(name, train, given)}


def _likelihood(name: str, train: Observations, given: dict[str, Any]) -> Likelihood:
    """A likelihood by its name, with what is given, and the rest as suits the data."""
    cls = LIKELIHOODS[name]
    _check_support(f"the {name} likelihood", cls.support, train)
    takes = {field.name for field in fields(cls)}
    for option in given.keys() - takes:
        raise ValueError(f"`{option}` must be left out for the {name} likelihood, which has none.")
    if cls is DiscretizedLogistic:
        return cls(levels=train.space.levels, **given)
    if "floor" in takes and "floor" not in given:
        given = {**given, "floor": relative_floor(train.x, FLOOR)}
    return cls(**given)


def _check_support(what: str, support: str | None, train: Observations) -> None:
    """Refuse a model of one support for data of another."""
    if train.space.support not in (support, None):
        raise ValueError(
            f"`data` must be {support} for {what}, got {train.space.support} values; load them otherwise by "
            "`observations`, or choose another model."
        )
