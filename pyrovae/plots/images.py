"""Images in rows: what every picture of data, samples, means and reconstructions is laid out with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from matplotlib.axes import Axes
from matplotlib.layout_engine import ConstrainedLayoutEngine
from torch import Tensor
from torch.distributions import identity_transform

from pyrovae.data import Observations, Space
from pyrovae.plots.common import SMALL, WIDTH, Entry, Picture, Seen, as_seen, evenly, headline

Limits = tuple[float, float]
PITCH = 1.08  # from one image to the next, in widths of an image


@dataclass(frozen=True)
class Row:
    """Images side by side.

    Args:
        label: Written to their left.
        x: Flat images of any channels, shape (n, D).
        first: Whether they begin a block, with a little room above.
        colours: A matplotlib colour map, for images of one channel.
        limits: Values of its two ends, or None for those of the whole picture.
    """

    label: str
    x: Tensor
    first: bool = False
    colours: str = "gray"
    limits: Limits | None = None


def image_rows(
    rows: Sequence[Row], image_shape: tuple[int, ...], limits: Limits, title: str, caption: str
) -> tuple[Picture, list[Axes]]:
    """A figure of rows of images above one another, and the axes of every row."""
    height, width = image_shape[1:]
    columns = max(len(row.x) for row in rows)
    size = (WIDTH - 1.7) / (PITCH * max(columns, 6)) * height / width
    ratios = [ratio for row in rows for ratio in ((0.15, 1.0) if row.first else (1.0,))]
    layout = ConstrainedLayoutEngine(hspace=0, h_pad=0.02)
    figure = Picture(figsize=(WIDTH, 0.65 + sum(ratios) * (size + 0.05)), layout=layout)
    grid = figure.add_gridspec(len(ratios), 1, height_ratios=ratios)
    places = [place for place, ratio in enumerate(ratios) if ratio == 1]
    every = []
    for place, row in zip(places, rows, strict=True):
        axes = figure.add_subplot(grid[place])
        low, high = row.limits or limits
        pictures = shown(row.x, (row.x.shape[1] // (height * width), height, width), (low, high))
        for column, picture in enumerate(pictures):
            left = column * PITCH * width
            extent = (left, left + width, height, 0.0)
            axes.imshow(picture, cmap=row.colours, vmin=low, vmax=high, extent=extent, interpolation="nearest")
        axes.set(xlim=(-0.5, columns * PITCH * width), ylim=(height, 0), xticks=[], yticks=[])
        axes.set_anchor("W")  # beside its label, whichever of width and height is short
        axes.spines[:].set_visible(False)
        axes.set_ylabel(row.label, rotation=0, ha="right", va="center", fontsize=SMALL)
        every.append(axes)
    headline(figure, title, caption)
    return figure, every


def shown(x: Tensor, image_shape: tuple[int, ...], limits: Limits) -> list:
    """Flat images as matplotlib draws them: (height, width) of values, or (height, width, 3) of colours in [0, 1]."""
    low, high = limits
    pictures = x.clamp(low, high).reshape(-1, *image_shape).permute(0, 2, 3, 1)
    return list((pictures[..., 0] if image_shape[0] == 1 else (pictures - low) / (high - low)).numpy())


@dataclass(frozen=True)
class Gallery:
    """Real images and models of them, shown in the reference space of the images.

    Args:
        models: Each with the space of its x.
        data: The real images.
        image_shape: Of one and of three channels only.
    """

    models: Seen
    data: Observations
    image_shape: tuple[int, ...]

    @classmethod
    def of(cls, models: Mapping[str, Entry], data: Observations | Tensor, number: int) -> Self:
        """So many of the data, evenly spread.

        Raises:
            ValueError: If the data are no images, or of neither one nor three channels; and as ``as_seen``.
        """
        seen, observations = as_seen(models, data)
        shape = observations.image_shape
        if shape is None:
            raise ValueError(
                "`data` must be images, got data without `image_shape`; set it to (channels, height, width)."
            )
        if shape[0] not in (1, 3):
            raise ValueError(f"`data` must be images of 1 or 3 channels to be shown, got {shape[0]}.")
        return cls(seen, observations[evenly(len(observations), number)], shape)

    @property
    def real(self) -> Tensor:
        """The data, flat."""
        return self.seen(self.data.x, self.data.space)

    @property
    def limits(self) -> Limits:
        """Values of black and white."""
        return grey_limits(self.real)

    def seen(self, x: Tensor, space: Space) -> Tensor:
        """``x`` of a model in ``space``, flat."""
        return seen_from(x, space, self.data, reference_of(self.data.space))

    def figure(
        self, rows: Sequence[Row], title: str, said: str, made: Mapping[str, Tensor]
    ) -> tuple[Picture, list[Axes]]:
        """The rows with a title, and a caption on what the models made."""
        said = f"{said} {caption(self.limits, self.image_shape, made, self.models)}"
        return image_rows(rows, self.image_shape, self.limits, f"{title}: {self.data.space.reference}", said)


def reference_of(space: Space) -> Space:
    """The space itself, seen as it is."""
    return replace(space, transform=identity_transform, transform_name="as it is")


def seen_from(x: Tensor, space: Space, data: Observations, target: Space) -> Tensor:
    """``x`` of a model in one space as flat data of another, (n, D), float64."""
    shaped = x.detach().to("cpu", torch.float64).reshape(len(x), *data.data_shape)
    return Observations(shaped, space=space).in_space(target).x.flatten(1)


def grey_limits(real: Tensor) -> Limits:
    """0 and 1, or the range of the data where they leave it."""
    if real.min() > -1e-3 and real.max() < 1.001:  # far below a grey level: rounding of a transform and its inverse
        return 0.0, 1.0
    return min(0.0, real.min().item()), max(1.0, real.max().item())


def caption(limits: Limits, image_shape: tuple[int, ...], generated: Mapping[str, Tensor], models: Seen) -> str:
    """What the greys mean, how much of what was generated lies beyond them, and in which view it was."""
    low, high = limits
    slack = 1e-3 * (high - low)
    said = f"Grey from {low:g} (black) to {high:g} (white)." if image_shape[0] == 1 else f"Colours {low:g} to {high:g}."
    clipped = {name: ((x < low - slack) | (x > high + slack)).double().mean().item() for name, x in generated.items()}
    if any(clipped.values()):
        shares = ", ".join(f"{name} {share:.1%}" for name, share in clipped.items() if share > 0)
        said += f" Values outside are clipped: {shares}."
    views = {space.transform_name for _, space in models.values()} - {"as it is"}
    if views:
        said += f" Means are taken where the model lives ({', '.join(sorted(views))}), then mapped back."
    return said
