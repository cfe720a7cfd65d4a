"""What one model generates, in the reference space of its data: a picture, arrays or a table."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pyrovae.data.observations import MASSES, Observations
from pyrovae.data.provenance import Provenance, in_reference
from pyrovae.engine.files import written_whole
from pyrovae.models.base import LatentVariableModel
from pyrovae.plots.images import Row, caption, grey_limits, image_rows

COLUMNS = 8  # of pictures, if there are no classes
MOST_COLUMNS = 20
FORMATS = (".png", ".npz", ".csv")


@dataclass(frozen=True, eq=False)
class Generated:
    """What :func:`generate` returns.

    Attributes:
        x: Shape (N, D), float64.
        z: What they came from, shape (N, ...).
        labels: Their classes, shape (N,), or None.
        stem: ``"sample"``, or ``"mean"`` of p(x|z), which is no sample.
        model: The model.
        provenance: Its data.
    """

    x: Tensor
    z: Tensor
    labels: Tensor | None
    stem: str
    model: LatentVariableModel
    provenance: Provenance

    def write(self, path: Path) -> None:
        """Write a file in one of ``FORMATS``, by the end of its name, whole or not at all."""
        with written_whole(path) as temporary:
            match path.suffix.lower():
                case ".png":
                    self._write_picture(temporary)
                case ".npz":
                    self._write_arrays(temporary)
                case _:
                    self._write_table(temporary)

    def _write_arrays(self, path: Path) -> None:
        arrays = {
            "pyrovae_space": np.array(self.provenance.space.reference),  # first: earlier output is known by it
            f"{self.stem}s": self.x.reshape(-1, *(self.provenance.image_shape or self.x.shape[1:])).numpy(),
            "z": self.z.numpy(),
            **({} if self.labels is None else {"labels": self.labels.numpy()}),
        }
        with path.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]

    def _write_table(self, path: Path) -> None:
        import pandas as pd

        table = pd.DataFrame(self.x.numpy(), columns=Observations(self.x, names=self.provenance.names).column_names)
        table.insert(0, f"pyrovae_{self.stem}", range(1, 1 + len(table)))  # earlier output is known by it
        if self.labels is not None:
            table["label"] = self.labels.numpy()
        table.to_csv(path, index=False)

    def _write_picture(self, path: Path) -> None:
        space, shape, kind = self.provenance.space, self.provenance.image_shape or (), type(self.model).__name__
        classes = 1 if self.labels is None else len(self.labels.unique())
        columns = min(classes, MOST_COLUMNS) if classes > 1 else COLUMNS  # a column is a class
        limits = (0.0, 1.0) if space.levels is not None or space.support in MASSES else grey_limits(self.x)
        what = "means E[x|z], not samples" if self.stem == "mean" else "ancestral samples x ~ p(x|z)"
        title = f"{kind} of {space.reference}: {what}"
        said = caption(limits, shape, {kind: self.x}, {kind: (self.model, space)})
        rows = [Row("", part) for part in self.x.split(columns)]
        figure, panels = image_rows(rows, shape, limits, title, said)
        for axes in panels:
            axes.set_anchor("C")  # there is no label beside it
        figure.savefig(path, dpi=150, format="png", metadata={"Software": "pyrovae", "Title": title})


def generate(
    model: LatentVariableModel,
    provenance: Provenance,
    num_samples: int,
    *,
    label: int | None = None,
    means: bool = False,
    seed: int = 0,
) -> Generated:
    """Ancestral samples of a model, or E[x|z] in their place; the data are not needed.

    Args:
        model: The model.
        provenance: The data that it was fitted to.
        num_samples: How many.
        label: The class, for a model of p(x|y); by default the classes in turn.
        means: Give E[x|z].
        seed: Of the draws.

    Raises:
        ValueError: If ``label`` is no class of the model.
    """
    labels = None
    if (classes := model.num_classes) is not None:
        if label is not None and label >= classes:
            raise ValueError(f"`labels` must be a class of the model, 0, …, {classes - 1}, got {label}.")
        labels = torch.arange(num_samples) % classes if label is None else torch.full((num_samples,), label)
    draw = model.sample_means if means else model.sample
    x, z = draw(num_samples, labels=label, seed=seed)
    x = in_reference(x.flatten(1), provenance.space)
    return Generated(x, z.cpu(), labels, "mean" if means else "sample", model, provenance)
