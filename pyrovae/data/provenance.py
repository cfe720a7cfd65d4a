"""Where a model comes from: its data in plain values, enough to load them again, and to refuse others.

A model alone does not know in which space it was fitted.  Saved beside it, a :class:`Provenance` brings what it
generates back to the reference space without the data, and brings the data, once they are loaded again, to what the
model sees.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from torch.distributions import AffineTransform, ComposeTransform, Transform

from pyrovae import data
from pyrovae.data import DataSet, Observations, Space
from pyrovae.data.loading import Logit
from pyrovae.data.tables import WHOLE, TableOptions

OBSERVATIONS: dict[str | None, Any] = {"boolean": "binary", "integer": "integer", "real": "continuous"}
DTYPES = {"float32": torch.float32, "float64": torch.float64}
ROUNDING = 1e-5  # relative, of the magnitude of data in float32 that were brought to a view and back
BLOCK = 1024  # data looked at together
MANY = 10_000  # rows that are known again
DIGEST = 6  # bytes of each
TUPLES = ("image_shape", "sizes", "names", "ranges")


class OtherDataError(ValueError):
    """Data are not those that a model was fitted to."""


@dataclass(frozen=True)
class Provenance:
    """The data that a model was fitted to.

    Attributes:
        name: As ``data.load`` was given it.
        seed: Of the split, the noise and the binarization.
        max_images: As ``data.load`` was given it.
        dtype: ``"float32"`` or ``"float64"``.
        image_shape: (channels, height, width) where a datum is an image, else None.
        sizes: Numbers of data to train, validate and test.
        magnitude: Mean of |x| over the test data in the reference space: other data of the same name are told by it.
        space: What the model sees.
        names: What the D columns are called, or None.
        ranges: Smallest and largest value of every column of the training data in the reference space; None for images.
        digests: Of up to 10,000 rows of the training data, as the model sees them, by which they are known again; None
            for images.
        table: What of a table was read.

    Example:
        >>> digits = data.load("digits", transform="logit")
        >>> provenance = Provenance.of(digits, "digits", seed=0)
        >>> again = Provenance.from_plain(provenance.to_plain()).load().test
        >>> bool((again.x - digits.test.x).abs().max() < 1e-4), again.space.transform_name
        (True, 'logit, alpha 1e-06')
    """

    name: str
    seed: int
    max_images: int | None
    dtype: str
    image_shape: tuple[int, ...] | None
    sizes: tuple[int, ...]
    magnitude: float
    space: Space
    names: tuple[str, ...] | None = None
    ranges: tuple[tuple[float, ...], ...] | None = None
    digests: str | None = None
    table: TableOptions = WHOLE

    @classmethod
    def of(
        cls, dataset: DataSet, name: str, *, seed: int, max_images: int | None = None, table: TableOptions = WHOLE
    ) -> Self:
        """What there is to say of a data set that ``data.load`` has given.

        Args:
            dataset: The data set.
            name, seed, max_images: As they were given to ``data.load``.
            table: What of a table was read.
        """
        test, train = dataset.test, dataset.train
        return cls(
            name=name,
            seed=seed,
            max_images=max_images,
            dtype=str(test.x.dtype).removeprefix("torch."),
            image_shape=test.image_shape,
            sizes=tuple(0 if part is None else len(part) for part in dataset),
            magnitude=sum(in_reference(x, test.space).abs().nansum().item() for x in test.x.split(BLOCK))
            / test.x.numel(),
            space=test.space,
            names=train.names,
            table=table,
            ranges=None if train.image_shape or train.space.support != "real" else _ranges(train),
            digests=None if train.image_shape or train.resample else "".join(_digests(train.x[_evenly(len(train))])),
        )

    def load(self, name: str | None = None) -> DataSet:
        """The data again, as the model sees them.

        Args:
            name: Where they are now, if they are a file that was moved or renamed.

        Raises:
            OtherDataError: If they are other data.
            FileNotFoundError: If they are not there.
        """
        name = self.name if name is None else name
        observations, dtype = OBSERVATIONS[self.space.support], DTYPES[self.dtype]
        options: dict[str, Any] = {**vars(self.table), "max_images": self.max_images}
        loaded = data.load(name, observations=observations, seed=self.seed, dtype=dtype, **options)
        found = Provenance.of(loaded, name, seed=self.seed)
        same = self.is_of_kind(found.space, name) and found.sizes == self.sizes and self.names in (None, found.names)
        if not (same and math.isclose(found.magnitude, self.magnitude, rel_tol=ROUNDING)):
            raise OtherDataError(
                f"`name` must lead to the data that the model was fitted to, {self._described()}, got "
                f"{found._described()}; fit a model to these."
            )
        train, valid, test = (part and self.seen(part) for part in loaded)
        return DataSet(loaded.name, train, valid, test, loaded.about)

    def is_of_kind(self, space: Space, name: str) -> bool:
        """Whether values of another file, of a space of that name, are of the kind of these: levels, noise and all."""
        own, other = (
            (each.reference.removeprefix(Path(called).name), each.support, each.levels)
            for each, called in ((self.space, self.name), (space, name))
        )
        return own == other

    def known_rows(self, seen: Observations) -> int | None:
        """How many rows are among those of the training data that are known again; None where none is known."""
        if self.digests is None:
            return None
        known = {self.digests[start : start + 2 * DIGEST] for start in range(0, len(self.digests), 2 * DIGEST)}
        return sum(each in known for each in _digests(seen.x))

    def seen(self, part: Observations) -> Observations:
        """Data of the kind of these as the model sees them, whatever their file is called."""
        return replace(part, space=replace(part.space, reference=self.space.reference)).in_space(self.space)

    def to_plain(self) -> dict[str, Any]:
        """Strings, numbers and lists only."""
        space = {**vars(self.space), "transform": _steps(self.space.transform)}
        tuples = {name: _lists(getattr(self, name)) for name in TUPLES}
        table = {**vars(self.table), "drop": list(self.table.drop)}
        return {**vars(self), **tuples, "space": space, "table": table}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Self:
        """The provenance that :meth:`to_plain` described.

        Raises:
            ValueError: If it is no such description.
        """
        try:
            space = Space(**{**plain["space"], "transform": _transform(plain["space"]["transform"])})
            tuples = {name: _tuples(plain[name]) for name in TUPLES if name in plain}
            table = plain.get("table", {})
            options = TableOptions(**{**table, "drop": tuple(table.get("drop", ()))})
            provenance = cls(**{**plain, "space": space, "table": options, **tuples})
            if provenance.space.support not in OBSERVATIONS or provenance.dtype not in DTYPES:
                raise ValueError(f"{provenance.space.support}, {provenance.dtype}")
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError("`plain` must be what Provenance.to_plain gives, got something else.") from error
        return provenance

    def _described(self) -> str:
        return (
            f"{self.space.reference!r} ({self.space.support}) in parts of {', '.join(map(str, self.sizes))}, the last "
            f"with mean |x| {self.magnitude:.6g}"
        )


def in_reference(x: Tensor, space: Space) -> Tensor:
    """``x`` as seen in a space, brought back to the reference; float64, on the CPU."""
    return space.transform.inv(x.detach().to("cpu", torch.float64))


def _digests(x: Tensor) -> Iterator[str]:
    """A digest of every row."""
    return (blake2b(row.tobytes(), digest_size=DIGEST).hexdigest() for row in x.detach().cpu().flatten(1).numpy())


def _evenly(length: int) -> Tensor:
    """At most MANY indices, evenly spread."""
    return torch.linspace(0, length - 1, min(length, MANY), dtype=torch.float64).round().long()


def _ranges(data: Observations) -> tuple[tuple[float, ...], ...]:
    """Smallest and largest value of every column in the reference space."""
    x = in_reference(data.x, data.space)
    lowest, highest = x.nan_to_num(nan=math.inf).amin(0), x.nan_to_num(nan=-math.inf).amax(0)
    return tuple(lowest.tolist()), tuple(highest.tolist())


def _lists(value: Any) -> Any:
    return [_lists(each) for each in value] if isinstance(value, tuple) else value


def _tuples(value: Any) -> Any:
    return tuple(_tuples(each) for each in value) if isinstance(value, list | tuple) else value


TRANSFORMS = {"affine": AffineTransform, "logit": Logit}


def _steps(transform: Transform) -> list[list[Any]]:
    """A transform of ``data.load`` as names and numbers."""
    match transform:
        case ComposeTransform(parts=parts):
            return [step for part in parts for step in _steps(part)]
        case AffineTransform(loc=loc, scale=scale):
            return [["affine", *(each.tolist() if isinstance(each, Tensor) else each for each in (loc, scale))]]
        case Logit():
            return [["logit"]]
    raise ValueError(f"`space` must have a transform that data.load knows, got {type(transform).__name__}.")


def _transform(steps: list[list[Any]]) -> Transform:
    """The transform that :func:`_steps` described: a list of numbers is one for each dimension."""

    def parameter(plain: Any) -> Any:
        return torch.tensor(plain, dtype=torch.float64) if isinstance(plain, list) else plain

    return ComposeTransform([TRANSFORMS[name](*map(parameter, numbers)) for name, *numbers in steps])
