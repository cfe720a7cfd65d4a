"""The one door to data: :func:`load` reads a source, splits it, and says in which space its density lives.

Grey pixels are integers v in {0, …, levels − 1}.  Integers have no density, so there are three honest readings of them:
*dequantized*, (v + u) / levels with u uniform on [0, 1), whose density bounds the mass of the integers; *binarized*, a
Bernoulli sample of v / (levels − 1), which has a mass; or the integers themselves, shown as v / (levels − 1), for a
likelihood that is a mass on these levels.  The same values as a density, without noise, are there for pictures and for
comparison with older work: their likelihood is unbounded, and comparable with nothing else.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.distributions import AffineTransform, ComposeTransform, Transform, constraints

from pyrovae.data import readers
from pyrovae.data.celeba import celeba
from pyrovae.data.observations import DataSet, Observations, Space, as_observations
from pyrovae.data.readers import Source
from pyrovae.data.tables import Missing, TableOptions
from pyrovae.engine.checks import check_choice

PIXEL_ROWS = 4096  # images made continuous together


def load(
    name: str | Path = "digits",
    *,
    observations: Literal["continuous", "binary", "integer"] | None = None,
    dequantize: bool = True,
    transform: Literal["logit", "standardize"] | None = None,
    alpha: float = 1e-6,
    resample: bool = False,
    split: Literal["random", "contiguous"] | None = None,
    num_valid: int | None = None,
    max_images: int | None = None,
    seed: int = 0,
    root: str | Path | None = None,
    dtype: torch.dtype | None = None,
    label: str | None = None,
    drop: Sequence[str] = (),
    missing: Missing = "error",
) -> DataSet:
    r"""Load a data set, split into train, valid and test, each datum flat.

    ===================  ===================  ==========================================================================
    name                 N × D                train / valid / test
    ===================  ===================  ==========================================================================
    ``digits``           1,797 × 64           60/20/20 %, random; within scikit-learn, needs no network
    ``mnist``,           70,000 × 784         50,000 / 10,000 / 10,000: torchvision's test set, the last 10,000 of its
    ``fashion_mnist``,                        training set to validate; downloaded once
    ``kmnist``
    ``binarized_mnist``  70,000 × 784         50,000 / 10,000 / 10,000, as it comes; put there by you
    ``frey``             1,965 × 560          1,565 / 200 / 200 frames of one video, in order; put there by you
    ``celeba``           202,599 × 12,288     162,770 / 19,867 / 19,962 faces, 3×64×64; those that you put there
    a path               as the file says     60/20/20 %, random; or the parts of an .npz
    ===================  ===================  ==========================================================================

    A file of one's own is a table of numbers (.csv, .tsv or .txt, compressed or not; separator, decimal comma, encoding
    and header are found), an .npy array, or an .npz with ``x`` (and ``labels``), or with ``train``, ``test`` and
    perhaps ``valid`` (and ``train_labels`` …).  Arrays of shape (N, H, W) or (N, C, H, W) are images.  Those of type
    uint8 are pixels of 256 levels (of zeros and ones only, or bool: binary data); all others are taken as given.

    Args:
        name: A data set of the table, or a path.
        observations: ``"continuous"`` (a density), ``"binary"`` (a mass on zeros and ones), ``"integer"`` (a mass on
            the levels v / (levels − 1)), or None: the natural one of the first two.
        dequantize: Whether pixels become (v + u) / levels; else v / (levels − 1), with no bits per dimension.
        transform: A further view of continuous data, with its log\|det J\|: ``"logit"``, logit(α + (1 − 2α) x) for x in
            [0, 1], or ``"standardize"``, (x − mean) / std per dimension of the training split (constant ones: std 1).
        alpha: The α of ``"logit"``, in (0, 0.5).
        resample: For binary data, keep the training split grey and binarize it afresh at each use
            (:meth:`Observations.draw`); valid and test are binarized once.
        split: ``"random"``, by seed, or ``"contiguous"``, the last data to test and those before to valid; None for
            the default of the table.  An established test set is kept: only the validation split is drawn.
        num_valid: Size of the validation split, or None for the default; with 0, ``valid`` is None.
        max_images: For ``celeba``, at most so many images, the first of each part in proportion.  The whole set takes
            10 GB in float32, and twice that while it is read.
        seed: Of the split, the noise and the binarization; the global random state is neither used nor changed.
        root: Folder with the files; by default the environment variable PYROVAE_DATA.  The cache folder
            (PYROVAE_CACHE, or pyrovae under XDG_CACHE_HOME or ~/.cache) is looked in next, and takes downloads.
        dtype: torch.float32 or torch.float64; by default float64 for tables, whose numbers may need it, and float32.
        label: Of a table, the column of labels.  By default one called label, labels, class, target or y that holds a
            few classes, words or whole numbers.
        drop: Of a table, columns to leave out.
        missing: Of a table, what to do about missing cells: ``"error"``; ``"nan"`` keeps them as NaN, for models that
            take missing values; ``"drop"`` drops their rows.

    Returns:
        The data set: ``train``, ``valid`` and ``test`` are Observations of shape (N, D), disjoint, with labels where
        there are any and ``image_shape`` where the data are images.  ``about`` says what was read of a table, and what
        was left out and why.

    Warns:
        TableWarning: If columns of a table are constant, zeros and ones, look like an id or hold a code for missing
            values.

    Raises:
        ValueError: If the name or an option is unknown, options do not go together, or a file cannot be read.
        FileNotFoundError: If the files are not there and cannot be downloaded.

    Example:
        >>> d = load("digits")
        >>> [len(part) for part in d], d.train.image_shape, d.train.space.reference
        ([1079, 359, 359], (1, 8, 8), 'digits, (v + u)/17')
        >>> load("digits", observations="binary").test.x.unique().tolist()
        [0.0, 1.0]

    Reference:
        Theis, van den Oord and Bethge (2016), A note on the evaluation of generative models (dequantization).
        Papamakarios, Pavlakou and Murray (2017), Masked autoregressive flow for density estimation (logit).
        Larochelle and Murray (2011), The neural autoregressive distribution estimator (binarized MNIST).
    """
    check_choice("observations", observations, (None, "continuous", "binary", "integer"))
    check_choice("transform", transform, (None, "logit", "standardize"))
    check_choice("split", split, (None, "random", "contiguous"))
    check_choice("dtype", dtype, (None, torch.float32, torch.float64))
    if isinstance(drop, str):
        raise TypeError(f"`drop` must be a list of names of columns, got {drop!r}; write [{drop!r}].")
    source = _read(name, root, max_images, TableOptions(label, tuple(drop), missing))
    dtype = dtype or (torch.float32 if source.names is None else torch.float64)
    observations = observations or ("binary" if source.levels == 2 else "continuous")
    _check_combination(source, observations, transform, resample)

    generator = torch.Generator().manual_seed(seed)
    indices = _split(source, split, num_valid, generator)
    x, space = observed(source, observations, dequantize, dtype, generator)
    whole = Observations(x, source.labels, space, image_shape=source.image_shape, names=source.names, rows=source.rows)
    parts = [whole[index].to(dtype) for index in indices]
    if resample:
        grey, _ = _grey(replace(source, x=source.x[indices[0]]))
        parts[0] = replace(parts[0], x=grey.to(dtype), resample=True)
    if transform is not None:
        view, view_name = _logit(x, alpha) if transform == "logit" else _standardize(parts[0].x)
        parts = [part.transformed(view, view_name) for part in parts]
    train, valid, test = parts
    return DataSet(source.name, train, valid if len(valid) else None, test, source.about)


def _read(name: str | Path, root: str | Path | None, max_images: int | None, table: TableOptions) -> Source:
    if name == "celeba":
        return celeba(readers.places(root), max_images)
    if max_images is not None:
        raise ValueError(f"`max_images` must be None for {str(name)!r}, got {max_images}; it is for 'celeba' alone.")
    return readers.read(name, root, table)


def _check_combination(source: Source, observations: str, transform: str | None, resample: bool) -> None:
    """Refuse what has no density, no Jacobian or no grey values."""
    if observations == "continuous" and source.levels == 2:
        raise ValueError(
            f"`observations` must be 'binary' or None for {source.name!r}, which holds only zeros and ones, got "
            "'continuous'; they have a mass and no density."
        )
    kinds = {2: "only zeros and ones", None: "values as given, not integer pixels"}
    if observations == "integer" and source.levels in kinds:
        kind = kinds[source.levels]
        raise ValueError(f"`observations` must not be 'integer' for {source.name!r}, which holds {kind}; leave it out.")
    if observations != "continuous" and transform is not None:
        raise ValueError(
            f"`transform` must be None for {observations} observations, got {transform!r}; a mass has no Jacobian."
        )
    if resample and (observations != "binary" or source.levels == 2):
        raise ValueError(
            "`resample` must be False unless observations='binary' binarizes grey values, got True for "
            f"{source.name!r} with {observations} observations; leave it out."
        )


def _split(source: Source, split: str | None, num_valid: int | None, generator: torch.Generator) -> Sequence[Tensor]:
    """Sorted indices of train, valid and test: disjoint, and together all data."""
    n = len(source.x)
    if len(source.parts) == 3:
        if (split, num_valid) != (None, None):
            raise ValueError(
                f"`split` and `num_valid` must be None for {source.name!r}, which comes in train, valid and test, got "
                f"{split!r} and {num_valid!r}; leave them out."
            )
        return torch.arange(n).split(source.parts)
    num_train, num_valid, num_test = _sizes(source, num_valid)
    pool = source.parts[0] if len(source.parts) == 2 else n  # an established test set stays
    order = torch.randperm(pool, generator=generator)  # drawn always, so that the noise is the same for either split
    if split == "contiguous" or (split is None and source.ordered):
        order = torch.arange(pool)
    order = torch.cat([order, torch.arange(pool, n)])
    return [index.sort().values for index in order.split([num_train, num_valid, num_test])]


def _sizes(source: Source, num_valid: int | None) -> tuple[int, int, int]:
    """Numbers of data to train, validate and test, of a source that does not come in three parts."""
    n = len(source.x)
    if n < 5 and len(source.parts) == 1:
        raise ValueError(f"`name` must hold at least 5 data to be split, got {n} in {source.name!r}; give more.")
    if len(source.parts) == 2:
        pool, num_test = source.parts
        default = max(pool // 6, 1)  # 10,000 of the 60,000 of MNIST
    else:
        default = num_test = source.held_out or n // 5
    num_valid = default if num_valid is None else num_valid
    num_train = n - num_test - num_valid
    if not isinstance(num_valid, int) or num_valid < 0 or num_train < 1:
        raise ValueError(
            f"`num_valid` must be a whole number that leaves data to train, got {num_valid} of {n} with {num_test} to "
            "test; choose another size."
        )
    return num_train, num_valid, num_test


def observed(
    source: Source, observations: str, dequantize: bool, dtype: torch.dtype, generator: torch.Generator
) -> tuple[Tensor, Space]:
    """All data as ``observations`` says, and their space."""
    if observations == "continuous":
        return _continuous(source, dequantize, dtype, generator)
    if observations == "integer" and source.levels is not None:
        top = source.levels - 1
        return source.x.double() / top, Space(f"{source.name}, integers v as v/{top}", "integer", levels=top + 1)
    grey, space = _grey(source)
    return grey if source.levels == 2 else torch.bernoulli(grey, generator=generator), space


def _continuous(
    source: Source, dequantize: bool, dtype: torch.dtype, generator: torch.Generator
) -> tuple[Tensor, Space]:
    """All data as points of a real space; pixels in the type asked for, converted in blocks to save memory."""
    if source.levels is None:
        as_observations(
            source.x.to(dtype), source.name, allow_nan=source.names is not None
        )  # which read_table has seen
        return source.x, Space(f"{source.name}, as given", "real")
    x = torch.empty(source.x.shape, dtype=dtype)
    top = source.levels - 1
    # v + u stays a few roundings away from v and v + 1, so that floor(levels * x) gives v back, in float32 too.
    edge = source.levels * torch.finfo(dtype).eps
    for block, v in zip(x.split(PIXEL_ROWS), source.x.split(PIXEL_ROWS), strict=True):
        if dequantize:
            u = torch.rand(v.shape, generator=generator, dtype=torch.float64).clamp_(edge, 1 - edge)
            block.copy_(u.add_(v).div_(source.levels))
        else:
            block.copy_(v.double() / top)
    if dequantize:
        return x, Space(f"{source.name}, (v + u)/{source.levels}", "real", levels=source.levels)
    return x, Space(f"{source.name}, v/{top} without noise", "real")


def _grey(source: Source) -> tuple[Tensor, Space]:
    """All data as Bernoulli probabilities, and the space of their samples."""
    x = source.x
    if source.levels is not None and source.levels > 2:
        top = source.levels - 1
        return x.double() / top, Space(f"{source.name}, binarized by Bernoulli(v/{top})", "boolean")
    if source.name == "binarized_mnist":
        return x, Space("binarized MNIST (Larochelle)", "boolean")
    if source.levels is None:
        as_observations(x, source.name)
        _check_unit_interval(x, "observations", "'continuous'", f"'binary' for {source.name!r}")
    exact = ((x == 0) | (x == 1)).all()
    return x, Space(f"{source.name}, {'as given' if exact else 'binarized by Bernoulli(x)'}", "boolean")


class Logit(Transform):
    """y = log x − log(1 − x), as torch's ``SigmoidTransform().inv``, which can be neither copied nor pickled."""

    domain = constraints.unit_interval
    codomain = constraints.real
    bijective = True
    sign = +1

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Logit)

    __hash__ = Transform.__hash__

    def _call(self, x: Tensor) -> Tensor:
        return torch.logit(x)

    def _inverse(self, y: Tensor) -> Tensor:
        return torch.sigmoid(y)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return -x.log() - (-x).log1p()


def _logit(x: Tensor, alpha: float) -> tuple[Transform, str]:
    """logit(α + (1 − 2α) x), and its name."""
    if not 0 < alpha < 0.5:
        raise ValueError(f"`alpha` must be in (0, 0.5), got {alpha}; 1e-6 is usual.")
    _check_unit_interval(x, "transform", "'standardize' or None", "'logit'")
    return ComposeTransform([AffineTransform(alpha, 1 - 2 * alpha), Logit()]), f"logit, alpha {alpha:g}"


def _check_unit_interval(x: Tensor, argument: str, expected: str, got: str) -> None:
    if ((x < 0) | (x > 1)).any():
        known = x[~x.isnan()]
        raise ValueError(
            f"`{argument}` must be {expected} for values outside [0, 1], got {got} with values from {known.min():g} to "
            f"{known.max():g}; rescale them."
        )


def _standardize(x: Tensor) -> tuple[Transform, str]:
    """(x − mean) / std per dimension, std = 1 where a dimension is constant, and its name."""
    x = x.double()
    mean = x.nanmean(0)
    std = (x - mean).square().nanmean(0).sqrt()
    std = torch.where(((x == x[:1]) | x.isnan()).all(0) | (std == 0), 1.0, std)
    return ComposeTransform([AffineTransform(-mean, 1.0), AffineTransform(0.0, 1 / std)]), "standardized"
