"""Observations, and the space in which their density lives.

A density is a number per unit of volume, so it means nothing until the space is named.  An :class:`Observations`
therefore carries its :class:`Space`: the reference space in which densities are compared, and the invertible transform
that led from there to the tensor a model sees.  With y = t(x) and J = dt/dx, a model of y has the density p(x) = p(y)
|det J| in the reference space; ``log_abs_det`` holds log|det J| per datum, in nats.
"""

import math
import re
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.distributions import ComposeTransform, Transform, identity_transform

from pyrovae.data.arrays import gathered, is_dataset, numbers
from pyrovae.engine.seeding import seeded

Support = Literal["boolean", "integer", "real"]
MASSES = ("boolean", "integer")
CHECKED_FLOATS = 2**22  # numbers that are looked at together


@dataclass(frozen=True)
class Space:
    """Where a density lives: a reference space, and the transform from it to what a model sees.

    Two densities can be ranked only if their ``reference`` and ``support`` are the same; different transforms of one
    reference are brought back to it by their Jacobians.

    Args:
        reference: Names the space in which densities are compared, e.g. ``"digits, (v + u)/17"``.
        support: ``"boolean"`` (a probability mass on {0, 1}), ``"integer"`` (a mass on integers, or on evenly spaced
            levels that stand for them), ``"real"`` (a density), or None when nobody has said.
        levels: For dequantised integers the number of integer levels in one unit of the reference space, so that
            bits per dimension can be quoted; for integers themselves the number of their levels; else None.
        transform: An invertible, elementwise :class:`torch.distributions.Transform`, reference → x.
        transform_name: How it is called in a message or a table.

    Example:
        >>> Space("digits, (v + u)/17", "real", levels=17)
        Space(reference='digits, (v + u)/17', support='real', levels=17, transform_name='as it is')
    """

    reference: str = "the values as given"
    support: Support | None = None
    levels: int | None = None
    transform: Transform = field(default_factory=lambda: identity_transform, repr=False, compare=False)
    transform_name: str = "as it is"

    def comparable_with(self, other: "Space") -> bool:
        """Whether densities on the two spaces can be brought to one scale."""
        return self.reference == other.reference and self.support == other.support


@dataclass(frozen=True, eq=False)
class Observations:
    """N data of one space; what every fit and every evaluation takes (a plain tensor serves too).

    Args:
        x: Data, shape (N, *data_shape), floating point.
        labels: Integer classes, shape (N,), or None.
        space: The space that a density of ``x`` lives in.
        log_abs_det: log|det dx/d(reference)| per datum, shape (N,), nats, float64; zeros if left out.
        image_shape: (channels, height, width) where a datum is an image, else None; for pictures.
        resample: If True, ``x`` holds Bernoulli probabilities (grey values in [0, 1]), and every :meth:`draw` returns
            a fresh binary sample of them ("dynamic binarization").
        names: What the D columns are called, or None.
        rows: The row of each datum in its file, int64 (N,), counted from 1 without the header; or None.

    Example:
        >>> data = Observations(torch.zeros(3, 2, dtype=torch.float64), labels=torch.tensor([0, 1, 1]))
        >>> len(data), data.data_shape, data[:2].labels.tolist()
        (3, (2,), [0, 1])
    """

    x: Tensor
    labels: Tensor | None = None
    space: Space = field(default_factory=Space)
    log_abs_det: Tensor = None  # type: ignore[assignment]  # filled in below
    image_shape: tuple[int, ...] | None = None
    resample: bool = False
    names: tuple[str, ...] | None = None
    rows: Tensor | None = None

    def __post_init__(self) -> None:
        _check_dims("x", self.x)
        if self.log_abs_det is None:
            object.__setattr__(self, "log_abs_det", torch.zeros(len(self.x), dtype=torch.float64, device=self.x.device))
        for name, value in (("labels", self.labels), ("log_abs_det", self.log_abs_det), ("rows", self.rows)):
            if value is not None and value.shape != (len(self.x),):
                raise ValueError(
                    f"`{name}` must have shape ({len(self.x)},), one entry a datum, got {tuple(value.shape)}."
                )

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: Any) -> "Observations":
        """The subset at a slice, a boolean mask or an index tensor."""
        return replace(
            self,
            x=self.x[index],
            labels=None if self.labels is None else self.labels[index],
            log_abs_det=self.log_abs_det[index],
            rows=None if self.rows is None else self.rows[index],
        )

    @property
    def data_shape(self) -> tuple[int, ...]:
        """Shape of one datum."""
        return tuple(self.x.shape[1:])

    @property
    def num_dims(self) -> int:
        """Number of observed dimensions D."""
        return math.prod(self.data_shape)

    @property
    def column_names(self) -> list[str]:
        """What the D columns are called: by name, or x[0], x[1], …"""
        return [f"x[{d}]" for d in range(self.num_dims)] if self.names is None else list(self.names)

    def column(self, d: int) -> str:
        """What a column is called in a sentence: ``'alcohol'``, in quotation marks, or ``dimension 0``."""
        return f"dimension {d}" if self.names is None else repr(self.names[d])

    def datum(self, n: int) -> str:
        """What a datum is called: by its row in the file, or its index."""
        return f"datum {n}" if self.rows is None else f"row {int(self.rows[n])} of the file"

    def draw(self, index: Tensor | None = None) -> Tensor:
        """What one use of the data sees: ``x`` (at ``index``), binarized afresh if ``resample`` is set.

        Returns:
            Tensor of shape (len(index) or N, *data_shape).
        """
        x = self.x if index is None else self.x.index_select(0, index)
        return torch.bernoulli(x) if self.resample else x

    def fixed(self, seed: int = 0) -> "Observations":
        """The same data with nothing left to chance: a resampled set is binarized once, by ``seed``."""
        if not self.resample:
            return self
        with seeded(seed):
            return replace(self, x=self.draw(), resample=False)

    def to(self, *args: Any, **kwargs: Any) -> "Observations":
        """The same data on another device or of another floating-point type, by the arguments of ``Tensor.to``."""
        x = self.x.to(*args, **kwargs)
        labels = None if self.labels is None else self.labels.to(x.device)
        return replace(self, x=x, labels=labels, log_abs_det=self.log_abs_det.to(x.device))

    def images(self) -> "Observations":
        """The same data as images: ``x`` of shape (N, channels, height, width).

        Raises:
            ValueError: If the data are not images.
        """
        if self.image_shape is None:
            raise ValueError("`image_shape` of these observations is None, so they cannot be shown as images.")
        return replace(self, x=self.x.reshape(len(self), *self.image_shape))

    def transformed(self, transform: Transform, name: str) -> "Observations":
        """The same data seen through one more elementwise transform, its log|det J| added.

        Args:
            transform: Applied to ``x`` on the CPU in float64; must be invertible and elementwise.
            name: How the resulting view is called.
        """
        if self.space.support in MASSES:
            raise ValueError(
                f"`transform` needs continuous data, got a space of {self.space.support} values, whose masses carry no "
                "Jacobian."
            )
        x = self.x.to("cpu", torch.float64)  # where the parameters of a transform live, wherever the data are
        y = transform(x)
        jacobian = transform.log_abs_det_jacobian(x, y).expand(x.shape).masked_fill(x.isnan(), 0.0).flatten(1).sum(1)
        first = self.space.transform == identity_transform
        both = transform if first else ComposeTransform([self.space.transform, transform])
        return replace(
            self,
            x=y.to(self.x),
            space=replace(self.space, transform=both, transform_name=name),
            log_abs_det=self.log_abs_det + jacobian.to(self.log_abs_det.device),
        )

    def in_space(self, space: Space) -> "Observations":
        """The same data as a model of ``space`` sees them: back to the reference, then through the other transform.

        Raises:
            ValueError: If the two spaces have no common reference, so that no Jacobian joins them.
        """
        if not self.space.comparable_with(space):
            raise ValueError(
                f"`space` must be a view of {self.space.reference!r} ({self.space.support}), got {space.reference!r} "
                f"({space.support}); no Jacobian joins the two, so their densities cannot be compared."
            )
        if space.transform == self.space.transform:
            return self
        reference = replace(
            self,
            x=self.space.transform.inv(self.x.to("cpu", torch.float64)).to(self.x.device),
            space=replace(space, transform=identity_transform, transform_name="as it is"),
            log_abs_det=torch.zeros_like(self.log_abs_det),
        )
        return reference.transformed(space.transform, space.transform_name).to(self.x.dtype)

    def bits_per_dim(self, log_prob: Tensor) -> Tensor | None:
        """Convert a log-likelihood in the reference space (nats per datum) to bits per dimension (lower is better).

        Args:
            log_prob: log p in the reference space, nats per datum, any shape.

        Returns:
            Tensor of the same shape: −(log p − D log levels) / (D log 2), which bounds the bits per dimension of the
            integers (Theis et al. 2016); for binary data and integers −log p / (D log 2), their own; None where the
            space has no integers behind it.  With values missing (NaN), D counts the observed ones: of each datum where
            the last axis of ``log_prob`` is that of the data, else their mean over data.

        Reference:
            Theis, van den Oord and Bethge (2016), A note on the evaluation of generative models.
        """
        levels = 1 if self.space.support in MASSES else self.space.levels
        if levels is None:
            return None
        observed = (~self.x.isnan()).flatten(1).sum(1).to(log_prob)
        num_dims = observed if log_prob.shape[-1:] == observed.shape else observed.mean()
        return -(log_prob - num_dims * math.log(levels)) / (num_dims * math.log(2))


@dataclass(frozen=True)
class DataSet:
    """One data set, split: ``train`` to fit, ``valid`` to choose (None if asked for), ``test`` to report.

    Iterates in that order.  ``about`` says what was read of a table, and what was left out and why.
    """

    name: str
    train: Observations
    valid: Observations | None
    test: Observations
    about: str = ""

    def __iter__(self):  # type: ignore[no-untyped-def]
        return iter((self.train, self.valid, self.test))


def named(line: str, data: object) -> str:
    """A line in which the columns of data that know their names are called by them.

    Example:
        >>> named("the noise of dimension 1 is at the floor", Observations(torch.zeros(2, 2), names=("ash", "hue")))
        "the noise of 'hue' is at the floor"
    """
    if not isinstance(data, Observations) or data.names is None:
        return line
    return re.sub(r"\bdimension (\d+)\b", lambda found: data.column(int(found[1])), line)


def _check_dims(name: str, x: Tensor) -> None:
    if x.ndim < 2:
        raise ValueError(
            f"`{name}` must have shape (N, *data_shape), got {tuple(x.shape)}; for scalar data pass x[:, None]."
        )


def _observed(data: Any, name: str) -> Observations:
    """What is given in any form."""
    labels = None
    if is_dataset(data):
        data, labels = gathered(data, name)
    x = data if isinstance(data, Tensor) else torch.from_numpy(np.array(numbers(data, name)))
    _check_dims(name, x)
    columns = getattr(data, "columns", None)
    return Observations(x, labels, names=None if columns is None else tuple(map(str, columns)))


def as_observations(data: Any, name: str = "data", *, allow_nan: bool = False) -> Observations:
    """Check data once, at the public boundary, and give them the one form that everything below expects.

    Args:
        data: Observations, or a tensor of shape (N, *data_shape); an array, of which what is masked is missing; a
            pandas table, whose columns keep their names; a list of rows; a Dataset or DataLoader, gone through once,
            with labels where whole numbers come beside the data.
        name: How the caller's argument is called in messages.
        allow_nan: Whether a NaN may stand for a missing value.

    Raises:
        TypeError: If it is none of these, or a tensor that is not floating point.
        ValueError: If it is empty, or holds NaN or infinite values.
    """
    if not isinstance(data, Observations):
        data = _observed(data, name)
    if not data.x.is_floating_point():
        raise TypeError(
            f"`{name}` must be of a floating-point type, got {data.x.dtype}; convert it with x.to(torch.float64)."
        )
    if len(data) == 0:
        raise ValueError(f"`{name}` must hold at least one datum, got shape {tuple(data.x.shape)}.")
    offends = torch.isinf if allow_nan else lambda x: ~torch.isfinite(x)
    parts = data.x.split(max(1, CHECKED_FLOATS // max(1, data.num_dims)))  # data may be a file larger than memory
    bad = torch.cat([offends(part).flatten(1).any(1) for part in parts]).nonzero().flatten()
    if len(bad):
        what = "infinity" if allow_nan else "NaN or infinity"
        raise ValueError(
            f"`{name}` must be finite, got {what} in {len(bad)} of {len(data)} data, first in row {int(bad[0])}; "
            'remove or impute them; with a model of missing="nan", fit.em, encode and compare take NaN for what is '
            "missing."
        )
    return data
