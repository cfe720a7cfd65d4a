"""Readers of raw files: one small function per source, each of which gives a :class:`Source`.

A source is what the files say, before any choice of split, noise or scale: integers stay integers, and no random number
is drawn.  Heavy readers (torchvision, scipy.io, pandas, scikit-learn) are imported where they are used.
"""

import contextlib
import http.client
import io
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyrovae.data.table_columns import LABELS
from pyrovae.data.table_form import is_table
from pyrovae.data.tables import WHOLE, TableOptions, read_table

TORCHVISION = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "kmnist": "KMNIST"}
PARTS = ("train", "valid", "test")


@dataclass(frozen=True)
class Source:
    """What the files of one data set say.

    Args:
        name: Of the data set, or of the user's file.
        x: Shape (N, D): uint8 where ``levels`` is set, else float64; its parts one after the other.
        labels: Integer classes, shape (N,), −1 where missing; or None.
        levels: Number of grey levels of integer pixels (2 for zeros and ones), or None for values taken as given.
        image_shape: (channels, height, width), or None for a table.
        parts: Sizes of the parts it comes in: (N,), (train, test) or (train, valid, test).
        held_out: Number of test data to hold out of a source in one part, or None for a fifth of them.
        names: Of the columns of a table.
        rows: The row in the file of each datum, counted from 1 without the header, shape (N,).
        about: What was read of a table and what was not, in a line.
        ordered: Whether splits are contiguous by default (a video, an established split).
        left_out: Names of the columns of the file that are not among them, where they were asked for by name.
    """

    name: str
    x: Tensor
    labels: Tensor | None
    levels: int | None
    image_shape: tuple[int, ...] | None
    parts: tuple[int, ...]
    held_out: int | None = None
    ordered: bool = False
    names: tuple[str, ...] | None = None
    rows: Tensor | None = None
    about: str = ""
    left_out: tuple[str, ...] = ()


def cache_folder() -> Path:
    """Where downloads go: PYROVAE_CACHE, else ``pyrovae`` under XDG_CACHE_HOME or ~/.cache."""
    cache = os.environ.get("PYROVAE_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "pyrovae")
    return Path(cache).expanduser()


def places(root: str | Path | None) -> list[Path]:
    """The folders to look in: ``root`` if given, else PYROVAE_DATA if set; then the cache folder."""
    first = root or os.environ.get("PYROVAE_DATA")
    return [Path(first).expanduser(), cache_folder()] if first else [cache_folder()]


def digits(folders: Sequence[Path]) -> Source:
    """scikit-learn's 1,797 digits, 8×8, integers 0 to 16; they come with it, so no folder is looked in."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return _source("digits", [bunch.images.astype(np.uint8)], [bunch.target], levels=17)


def torchvision_set(name: str, folders: Sequence[Path]) -> Source:
    """MNIST and its siblings, 28×28, by torchvision's own class, which downloads, verifies and unpacks."""
    import torchvision

    dataset = getattr(torchvision.datasets, TORCHVISION[name])
    inner = Path(dataset.__name__, "raw")
    files = [file for file, _ in dataset.resources]
    unpacked = (f for f in folders if all((f / inner / file).with_suffix("").is_file() for file in files))
    here = next(unpacked, None) or _unpack(name, dataset, inner, files, folders)
    with reading(here / inner, "a folder of whole idx files"):
        train, test = (dataset(here, train=part) for part in (True, False))
    images, labels = [train.data.numpy(), test.data.numpy()], [train.targets.numpy(), test.targets.numpy()]
    return _source(name, images, labels, levels=256, ordered=True)


def _unpack(name: str, dataset: Any, inner: Path, files: Sequence[str], folders: Sequence[Path]) -> Path:
    """Unpack .gz files, found or downloaded, into the cache folder: in a scratch folder first, so never half a file."""
    cache = cache_folder()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as scratch, contextlib.redirect_stdout(io.StringIO()):
            raw = Path(scratch, inner)
            raw.mkdir(parents=True)
            for file in files:
                found = next((f / inner / file for f in folders if (f / inner / file).is_file()), None)
                if found is not None:
                    shutil.copyfile(found, raw / file)
            dataset(scratch, download=True)  # verifies the copies by md5, downloads what is not there
            (cache / inner).mkdir(parents=True, exist_ok=True)
            for file in files:
                os.replace((raw / file).with_suffix(""), (cache / inner / file).with_suffix(""))
    except (RuntimeError, OSError, http.client.HTTPException) as error:
        raise missing(name, folders[0], inner, ", ".join(files), "could be neither found nor downloaded") from error
    return cache


def binarized_mnist(folders: Sequence[Path]) -> Source:
    """Larochelle's fixed binarization of MNIST: one .npz, or three .amat files of one image a line."""
    inner = "binarized_mnist"
    path = _find(folders, inner, "binarized_mnist.npz")
    texts = [text for part in PARTS if (text := _find(folders, inner, f"binarized_mnist_{part}.amat"))]
    if path is not None:
        arrays = _arrays(path)
    elif len(texts) == len(PARTS):
        path, arrays = texts[0], {part: _amat(text) for part, text in zip(PARTS, texts, strict=True)}
    else:
        raise missing(inner, folders[0], inner, "binarized_mnist.npz, or binarized_mnist_{train,valid,test}.amat,")
    with reading(path, "a file with train, valid and test, each of shape (N, 784), zeros and ones"):
        parts = [arrays[part].reshape(-1, 28, 28) for part in PARTS]
        if not all(((part == 0) | (part == 1)).all() for part in parts):
            raise ValueError("it holds other values")
    labels = _labels_of_parts(arrays, PARTS)
    return _source(inner, [part.astype(np.uint8) for part in parts], labels, levels=2, ordered=True)


def _amat(path: Path) -> np.ndarray:
    """Zeros and ones between blanks, 784 a line, shape (N, 784): each is one byte, so no parser is needed."""
    with reading(path, "a text file of 784 zeros and ones a line"):
        text = np.frombuffer(path.read_bytes(), dtype=np.uint8)
        return (text[text > ord(" ")] - ord("0")).reshape(-1, 784)


def frey(folders: Sequence[Path]) -> Source:
    """Frey faces: 1,965 frames of one video, 28 rows × 20 columns; each column of ``ff`` is a frame, row after row."""
    from scipy.io import loadmat

    path = _find(folders, "frey", "frey_rawface.mat")
    if path is None:
        raise missing("frey", folders[0], "frey", "frey_rawface.mat")
    with reading(path, "a MATLAB file with `ff` of shape (560, 1965), uint8"):
        frames = loadmat(path)["ff"].T.reshape(-1, 28, 20).astype(np.uint8)
    return _source("frey", [frames], levels=256, held_out=200, ordered=True)


KNOWN: dict[str | Path, Callable[[Sequence[Path]], Source]] = {
    "digits": digits,
    **{name: partial(torchvision_set, name) for name in TORCHVISION},
    "binarized_mnist": binarized_mnist,
    "frey": frey,
}


def read(name: str | Path, root: str | Path | None, options: TableOptions = WHOLE) -> Source:
    """The source called ``name``: a known data set but CelebA, or a path."""
    if name not in KNOWN:
        return own_file(name, root, options)
    if options != WHOLE:
        raise ValueError(f"`label`, `drop` and `missing` must be left out for {name!r}, which is no table.")
    return KNOWN[name](places(root))


def own_file(
    name: str | Path, root: str | Path | None, options: TableOptions = WHOLE, columns: Sequence[str] | None = None
) -> Source:
    """The user's .npy, .npz or table; of a table these columns alone, in this order, if they are given."""
    path = Path(root or "").expanduser() / Path(name).expanduser()
    reader = {".npy": _npy, ".npz": _npz}.get(path.suffix.lower())
    if reader is None and not is_table(path):
        known = ", ".join(map(str, KNOWN))
        raise ValueError(
            f"`name` must be one of {known}, celeba, or a path to a .csv, .tsv or .txt table (.gz, .bz2, .xz or .zip), "
            f"a .npy or a .npz file, got {name!r}."
        )
    if not path.is_file():
        raise FileNotFoundError(f"`name` must be a file that exists, got {str(path)!r} (looked for from {Path.cwd()}).")
    if reader is None:
        return _table(path, options, columns)
    if options != WHOLE:
        raise ValueError(f"`label`, `drop` and `missing` must be left out for {path.name!r}, which is no table.")
    return reader(path)


def _npy(path: Path) -> Source:
    with reading(path, "an .npy file of one numeric array"), path.open("rb") as file:
        array = np.lib.format.read_array(file, allow_pickle=False)
    return _own(path, [array])


def _npz(path: Path) -> Source:
    arrays = _arrays(path)
    if "x" in arrays:
        labels = next((arrays[key] for key in LABELS if key in arrays), None)
        return _own(path, [arrays["x"]], None if labels is None else [labels])
    if "train" in arrays and "test" in arrays:
        parts = [part for part in PARTS if part in arrays]
        return _own(path, [arrays[part] for part in parts], _labels_of_parts(arrays, parts))
    raise ValueError(
        f"`name` must be an .npz file with key x (and labels), or train, test and perhaps valid, got {str(path)!r} "
        f"with {', '.join(arrays) or 'none'}; rename its arrays."
    )


def _table(path: Path, options: TableOptions = WHOLE, columns: Sequence[str] | None = None) -> Source:
    found = read_table(path, options, columns)
    source = _own(path, [found.x], None if found.labels is None else [found.labels])
    return replace(
        source, names=found.names, rows=torch.from_numpy(found.rows), about=found.about, left_out=found.left_out
    )


def _own(path: Path, parts: Sequence[np.ndarray], labels: Sequence[np.ndarray] | None = None) -> Source:
    """Check the user's arrays; uint8 counts as pixels, of 2 levels if there are only zeros and ones, else of 256."""
    for part, values in zip_longest(parts, labels or []):
        _check_part(path, part, parts[0].shape[1:], values)
    if all(part.dtype in (np.uint8, np.bool_) for part in parts):
        levels = 2 if max(part.max() for part in parts) <= 1 else 256
        return _source(path.name, [part.astype(np.uint8) for part in parts], labels, levels=levels)
    return _source(path.name, [part.astype(np.float64) for part in parts], labels)


def _check_part(path: Path, x: np.ndarray, shape: tuple[int, ...], labels: np.ndarray | None) -> None:
    if x.ndim not in (2, 3, 4) or x.size == 0 or x.shape[1:] != shape:
        raise ValueError(
            f"`name` must hold data of shape (N, D), (N, H, W) or (N, C, H, W), got {x.shape} in {str(path)!r}; "
            "reshape them."
        )
    if x.dtype.kind not in "biuf":
        raise ValueError(f"`name` must hold numbers, got {x.dtype} in {str(path)!r}; convert them.")
    if labels is not None and labels.shape != (len(x),):
        raise ValueError(
            f"`name` must hold one label a datum, got labels of shape {labels.shape} for {len(x)} data in "
            f"{str(path)!r}; give labels of shape ({len(x)},)."
        )


def _source(
    name: str,
    parts: Sequence[np.ndarray],
    labels: Sequence[np.ndarray] | None = None,
    *,
    levels: int | None = None,
    held_out: int | None = None,
    ordered: bool = False,
) -> Source:
    """Join the parts and flatten each datum; (H, W) and (C, H, W) are images."""
    shape = parts[0].shape[1:]
    image_shape = None if len(shape) == 1 else (1, *shape)[-3:]
    x = torch.from_numpy(np.concatenate(parts).reshape(-1, int(np.prod(shape))))
    joined = None if labels is None else _integers(np.concatenate(labels))
    return Source(name, x, joined, levels, image_shape, tuple(map(len, parts)), held_out, ordered)


def _integers(labels: np.ndarray) -> Tensor:
    """Integers as they are; anything else numbered in sorted order, −1 where missing."""
    if labels.dtype.kind not in "iub":
        import pandas as pd

        labels = pd.factorize(labels, sort=True)[0]
    return torch.from_numpy(labels.astype(np.int64))


def _labels_of_parts(arrays: Mapping[str, np.ndarray], parts: Sequence[str]) -> list[np.ndarray] | None:
    """``train_labels`` … if every part has them."""
    names = [f"{part}_labels" for part in parts]
    return [arrays[name] for name in names] if all(name in arrays for name in names) else None


def _arrays(path: Path) -> dict[str, np.ndarray]:
    with reading(path, "an .npz file of numeric arrays"), np.load(path, allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


def _find(folders: Sequence[Path], inner: str, file: str) -> Path | None:
    """The first of <folder>/<inner>/<file> and <folder>/<file> that exists."""
    candidates = [path for folder in folders for path in (folder / inner / file, folder / file)]
    return next((path for path in candidates if path.is_file()), None)


def missing(
    name: str, folder: Path, inner: str | Path, files: str, failed: str = "could not be found"
) -> FileNotFoundError:
    """What to say of a known data set without its files."""
    return FileNotFoundError(
        f"`name` {name!r} needs files that {failed}; put {files} into {folder / inner}, or set the environment "
        f"variable PYROVAE_DATA to a folder that holds {inner}."
    )


@contextlib.contextmanager
def reading(path: Path, expected: str) -> Iterator[None]:
    """Whatever a parser says about a broken file, in one sentence."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        raise ValueError(
            f"`name` must lead to {expected}, got {str(path)!r}, which cannot be read as such ({error}); replace it."
        ) from error
