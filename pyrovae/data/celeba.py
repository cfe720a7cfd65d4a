"""CelebA: 202,599 aligned faces of 178×218, cut to the middle 148×148 and resized to 64×64, three channels.

The images are decoded once, and kept as uint8 (12,288 bytes an image, 2.5 GB in all) in the cache folder.
"""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from pyrovae.data.readers import PARTS, Source, cache_folder, missing, reading
from pyrovae.engine.files import written_whole
from pyrovae.engine.progress import progress_bar

WIDTH, HEIGHT = 178, 218  # of an aligned image
CROP, SIDE = 148, 64
IMAGES, PARTITION = "img_align_celeba", "list_eval_partition.txt"


def celeba(folders: Sequence[Path], max_images: int | None = None) -> Source:
    """The faces in the established partition: torchvision's complete set, or whichever of its images are there.

    Args:
        folders: Where to look for ``celeba/img_align_celeba/*.jpg`` and ``celeba/list_eval_partition.txt``.
        max_images: At most so many images, the first of each part, in the proportions of what is there.
    """
    if max_images is not None and not (isinstance(max_images, int) and max_images >= len(PARTS)):
        raise ValueError(f"`max_images` must be a whole number of at least 3, one a part, or None, got {max_images!r}.")
    folder = _folder(folders)
    parts = _parts(folder)
    total = sum(map(len, parts))
    if max_images is not None and max_images < total:
        parts = [files[: max(1, len(files) * max_images // total)] for files in parts]
    x = torch.from_numpy(_pixels([folder / IMAGES / file for files in parts for file in files])).flatten(1)
    return Source("celeba", x, None, 256, (3, SIDE, SIDE), tuple(map(len, parts)), ordered=True)


def _folder(folders: Sequence[Path]) -> Path:
    """The first folder with images, which must have the partition, too."""
    folder = next((f / "celeba" for f in folders if (f / "celeba" / IMAGES).is_dir()), None)
    if folder is None or not (folder / PARTITION).is_file():
        raise missing("celeba", folders[0], "celeba", f"the aligned images as {IMAGES}/*.jpg, and {PARTITION},")
    return folder


def _parts(folder: Path) -> list[list[str]]:
    """File names of train, valid and test, of the images that are there."""
    there = {entry.name for entry in os.scandir(folder / IMAGES)}
    parts = [[file for file in files if file in there] for files in _verified(folder) or _listed(folder / PARTITION)]
    if not all(parts):
        counts = ", ".join(f"{len(files)} to {name}" for files, name in zip(parts, PARTS, strict=True))
        raise ValueError(
            f"`name` 'celeba' must have images of every part in {folder / IMAGES}, got {counts}; add images that "
            f"{PARTITION} lists."
        )
    return parts


def _verified(folder: Path) -> list[list[str]] | None:
    """File names of train, valid and test by torchvision's own class, which verifies its lists; None if it cannot."""
    from torchvision.datasets import CelebA

    try:
        return [CelebA(str(folder.parent), split=part, target_type=[]).filename for part in PARTS]
    except RuntimeError:  # some lists are missing, or not the published ones
        return None


def _listed(path: Path) -> list[list[str]]:
    """File names of train, valid and test by the partition's file alone."""
    parts: list[list[str]] = [[] for _ in PARTS]
    with reading(path, "a text file of one image and its part, 0, 1 or 2, a line"):
        for name, part in map(str.split, path.read_text().splitlines()):
            parts[("0", "1", "2").index(part)].append(name)
    return parts


def _pixels(paths: Sequence[Path]) -> np.ndarray:
    """All images, (N, 3, 64, 64), uint8: from the cache if these very files were decoded before."""
    stats = ((path, path.stat()) for path in paths)
    said = "\n".join(f"{path} {stat.st_size} {stat.st_mtime_ns}" for path, stat in stats)
    key = hashlib.sha256(said.encode()).hexdigest()[:16]
    cache = cache_folder() / "celeba" / f"{SIDE}x{SIDE}-{len(paths)}-{key}.npy"
    if cache.is_file():
        return np.load(cache, allow_pickle=False)
    pixels = np.empty((len(paths), 3, SIDE, SIDE), dtype=np.uint8)
    for row, path in enumerate(progress_bar(paths, desc="decoding CelebA", unit="image", progress=None)):
        pixels[row] = decode(path)
    cache.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(cache) as temporary, temporary.open("wb") as file:
        np.save(file, pixels)
    return pixels


def decode(path: Path) -> np.ndarray:
    """One face, (3, 64, 64), uint8: the middle 148×148 of the aligned image, resized with antialiasing."""
    from PIL import Image

    with reading(path, f"an aligned image of {WIDTH}×{HEIGHT} pixels"), Image.open(path) as image:
        if image.size != (WIDTH, HEIGHT):
            raise ValueError(f"it has {image.width}×{image.height}")
        left, top = (WIDTH - CROP) // 2, (HEIGHT - CROP) // 2
        face = image.convert("RGB").crop((left, top, left + CROP, top + CROP))
        return np.asarray(face.resize((SIDE, SIDE), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
