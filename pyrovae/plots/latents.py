"""Latent means by class, in a plane or in space."""

from collections.abc import Mapping
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from pyrovae.data import Observations
from pyrovae.evaluate.latents.encoding import encode, is_continuous, posteriors_by_site
from pyrovae.plots.common import (
    COLOURS,
    NORMAL,
    SMALL,
    Entry,
    Seen,
    as_seen,
    balanced,
    grid,
    principal_axes,
    sheet,
    wrapped,
)

CLASS_COLOURS = (  # after Paul Tol's "muted", its palest two darkened for thin strokes
    *("#332288", "#CC6677", "#117733", "#4C9BD6", "#882255", "#999933", "#AA4499", "#44AA99", "#B8860B"),
    "#000000",
)
MOST_CLASSES = 20  # more labels than these are not told apart


def latents(models: Mapping[str, Entry], data: Observations | Tensor, *, num_axes: int = 2) -> Figure:
    """E[z|x] of data under every model with a continuous z, one panel a model, each point its label.

    The exact posterior mean where the model has one, else the encoder's.  With more latents than axes, the first
    principal axes of the means, with their shares of the variance; with one, the mean against the data in order of
    class.  At most about 1,000 data are shown, the same for every model, equally many of each class.

    Args:
        models: Name → model of ``data``, or fit result, which sees the data as it was fitted to.  Models with a
            discrete z are left out, and named.
        data: Data, with labels if there are any.
        num_axes: 2, or 3 for a view in space of the models with three latents or more.

    Returns:
        The figure; one that says so if no model has a continuous z.

    Raises:
        ValueError: If ``models`` is empty, ``num_axes`` is neither 2 nor 3, or the data do not fit a model.
        TypeError: If an entry is neither a model nor a fit result.

    Example:
        >>> from pyrovae import PPCA, data, fit
        >>> d = data.load("digits")
        >>> figure = latents({"PPCA": fit.closed_form(PPCA(2, (64,)), d.train)}, d.test)
        >>> figure.axes[0].get_xlabel()
        'E[$z_1$|x]'
    """
    if num_axes not in (2, 3):
        raise ValueError(f"`num_axes` must be 2 or 3, got {num_axes!r}.")
    seen, observations = as_seen(models, data)
    shown = observations[balanced(observations)]
    means = _latent_means(seen, shown)
    discrete = [name for name in seen if name not in {model for model, _ in means.values()}]
    skipped = f"z is discrete: {', '.join(discrete)}"
    if not means:
        figure = sheet(1.2)
        said = wrapped(f"No model has a continuous z to show; {skipped}.", 90)
        figure.text(0.5, 0.5, said, ha="center", va="center")
        return figure
    figure, panels = grid(len(means), min(len(means), 2))
    for index, (title, (name, z)) in enumerate(means.items()):
        if num_axes == 3 and z.shape[1] > 2:
            panels[index] = _in_space(panels[index])
        _latent_panel(panels[index], z, shown.labels)
        kind = "exact posterior means" if hasattr(seen[name][0], "posterior") else "means of the encoder"
        panels[index].set_title(f"{wrapped(title, 40)}\n({kind})", fontsize=NORMAL)
    lines = [f"Latent means E[z|x] of {len(shown):,} data, {observations.space.reference}"]
    lines += [f"left out, {skipped}"] * bool(discrete)
    figure.suptitle("\n".join(wrapped(line, 90) for line in lines), fontsize=10)
    class_legend(figure, panels[0])
    return figure


def class_legend(figure: Figure, axes: Axes, *, beside: bool = False) -> None:
    """The classes drawn on ``axes``, below everything or beside it."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        options: dict[str, Any] = {"fontsize": SMALL, "handletextpad": 0.1, "columnspacing": 1.2, "frameon": False}
        options |= {"ncols": 1 if beside else min(len(handles), 10), "title": "class"}
        figure.legend(handles, labels, loc="outside right center" if beside else "outside lower center", **options)


def scatter_by_class(axes: Any, points: Tensor, labels: Tensor | None, size: float = 24) -> None:
    """Points (N, 2) or (N, 3), each drawn as its label; as plain dots where there are none, or too many."""
    if labels is None or len(classes := labels.cpu().unique().tolist()) > MOST_CLASSES:
        axes.scatter(*points.T.numpy(), s=size / 2, color=COLOURS[0], alpha=0.7)
        return
    for number, label in enumerate(classes):
        axes.scatter(
            *points[labels.cpu() == label].T.numpy(),
            s=size * len(str(label)),  # an area, so that labels of two digits are as tall
            marker=f"${label}$",
            color=CLASS_COLOURS[number % len(CLASS_COLOURS)],
            linewidths=0.3,
            label=str(label),
        )


def _latent_means(models: Seen, data: Observations) -> dict[str, tuple[str, Tensor]]:
    """By title, the name of a model of continuous latents and E[z|x], shape (N, L), of one of them."""
    means: dict[str, tuple[str, Tensor]] = {}
    for name, (model, space) in models.items():
        view = data.in_space(space)
        sites = next(posteriors_by_site(model, view[:1])).sites.values()
        if all(is_continuous(site["fn"]) for site in sites):
            found = encode(model, view).mean
            each = {name: found} if isinstance(found, Tensor) else {f"{name}, {site}": z for site, z in found.items()}
            means |= {title: (name, z.to("cpu", torch.float64)) for title, z in each.items()}
    return means


def _in_space(axes: Axes) -> Any:
    """Axes of three dimensions in the place of these."""
    figure, place = axes.figure, axes.get_subplotspec()
    axes.remove()
    solid = figure.add_subplot(place, projection="3d")
    solid.tick_params(labelsize=SMALL, pad=0)
    solid.view_init(elev=20, azim=-60)
    solid.set_box_aspect((1, 1, 1), zoom=0.95)  # room for the labels
    return solid


def _latent_panel(axes: Any, z: Tensor, labels: Tensor | None) -> None:
    """One scatter of means (N, L), in the plane or in space, each point drawn as its label."""
    num_axes = 3 if axes.name == "3d" else 2
    points, names = _coordinates(z, labels, num_axes)
    for name, side in zip(names, "xyz", strict=False):
        getattr(axes, f"set_{side}label")(name, fontsize=NORMAL)
    if z.shape[1] > 1 and num_axes == 2:
        axes.set_aspect("equal", adjustable="datalim")
    scatter_by_class(axes, points, labels)


def _coordinates(z: Tensor, labels: Tensor | None, num_axes: int) -> tuple[Tensor, list[str]]:
    """Where means (N, L) are drawn along so many axes, and what the axes are called."""
    if z.shape[1] == 1:
        order = torch.arange(len(z), dtype=z.dtype)
        if labels is not None:
            order[labels.cpu().argsort(stable=True)] = order.clone()
        return torch.cat([z, order[:, None]], 1), ["E[z|x]", "datum" + ", in order of class" * (labels is not None)]
    if z.shape[1] == num_axes:
        return z, [f"E[$z_{i + 1}$|x]" for i in range(num_axes)]
    centre, directions, shares = principal_axes(z, num_axes)
    name = "principal axis {} of E[z|x] ({:.0%} of variance)" if num_axes == 2 else "axis {} ({:.0%})"
    return (z - centre) @ directions, [name.format(i, share) for i, share in enumerate(shares, 1)]
