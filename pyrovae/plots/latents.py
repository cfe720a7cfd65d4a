"""Latent means by class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from pyrovae.data import Observations, as_observations
from pyrovae.models.base import LatentVariableModel
from pyrovae.plots.common import (
    CLASS_COLOURS,
    COLOURS,
    MOST_CLASSES,
    NORMAL,
    SMALL,
    WIDTH,
    Entry,
    Picture,
    as_seen,
    balanced,
    check_models,
    grid,
    principal_axes,
    wrapped,
)


def latents(models: Mapping[str, Entry], data: Observations | Tensor) -> Figure:
    """E[z given x] of data under every model with a continuous z, one panel a model, each point its label.

    The exact posterior mean where the model has one, else the encoder's.  With more than two latents, the first two
    principal axes of the means, with their shares of the variance; with one, the mean against the data in order of
    class.  At most about 1,000 data are shown, the same for every model, equally many of each class.

    Args:
        models: Name → model of ``data``, or fit result, which sees the data as it was fitted to.  Models with a
            discrete z are left out, and named.
        data: Data, with labels if there are any.

    Returns:
        The figure; one that says so if no model has a continuous z.

    Raises:
        ValueError: If ``models`` is empty, or the data do not fit a model.
        TypeError: If an entry is neither a model nor a fit result.

    Example:
        >>> from pyrovae import PPCA, data, fit
        >>> d = data.load("digits")
        >>> figure = latents({"PPCA": fit.closed_form(PPCA(2, (64,)), d.train)}, d.test)
        >>> figure.axes[0].get_xlabel()
        'E[$z_1$ given x]'
    """
    check_models(models)
    observations = as_observations(data).fixed()
    shown = observations[balanced(observations)]
    every = {
        name: _latent_means(model, shown.in_space(space)) for name, (model, space) in as_seen(models, shown).items()
    }
    means = {name: (z, kind) for name, (z, kind) in every.items() if z is not None}
    reasons = dict.fromkeys(kind for z, kind in every.values() if z is None)
    skipped = [f"{why}: {', '.join(name for name, (_, kind) in every.items() if kind == why)}" for why in reasons]
    if not means:
        figure = Picture(figsize=(WIDTH, 1.2), layout="constrained")
        figure.text(
            0.5,
            0.5,
            wrapped(f"No model has a continuous z to show; {'; '.join(skipped)}.", 90),
            ha="center",
            va="center",
        )
        return figure
    figure, panels = grid(len(means), min(len(means), 2))
    for axes, (name, (z, kind)) in zip(panels, means.items(), strict=True):
        _latent_panel(axes, z, shown.labels)
        axes.set_title(f"{wrapped(name, 40)}\n({kind})", fontsize=NORMAL)
    title = wrapped(f"Latent means E[z given x] of {len(shown):,} data, {observations.space.reference}", 90)
    if skipped:
        title += "\n" + wrapped(f"left out, {'; '.join(skipped)}", 90)
    figure.suptitle(title, fontsize=10)
    handles, labels = panels[0].get_legend_handles_labels()
    if handles:
        columns = min(len(handles), 10)
        options: dict[str, Any] = {"fontsize": SMALL, "handletextpad": 0.1, "columnspacing": 1.2, "frameon": False}
        figure.legend(handles, labels, loc="outside lower center", ncols=columns, title="class", **options)
    return figure


@torch.no_grad()
def _latent_means(model: LatentVariableModel, data: Observations) -> tuple[Tensor | None, str]:
    """E[z given x], shape (N, L), and whose it is; None where z is discrete or nothing gives its mean."""
    encoder = getattr(model, "encoder", None) or getattr(model.guide, "encoder", None)
    if (exact := getattr(model, "posterior", None)) is not None:
        q, kind = exact(data), "exact posterior means"
    elif encoder is not None:
        training = model.training
        try:
            model.eval()
            q, kind = encoder(*model.program_inputs(data)), "means of the encoder"
        finally:
            model.train(training)
    else:
        return None, "no posterior, no encoder"
    if q.support.is_discrete:
        return None, "z is discrete"
    return q.mean.to("cpu", torch.float64).flatten(1), kind


def _latent_panel(axes: Axes, z: Tensor, labels: Tensor | None) -> None:
    """One scatter of means (N, L), each point drawn as its label."""
    if z.shape[1] == 1:
        order = torch.arange(len(z), dtype=torch.float64)
        if labels is not None:
            order[labels.cpu().argsort(stable=True)] = order.clone()
        points = torch.stack([z[:, 0], order], dim=1)
        names = ["E[z given x]", "datum" if labels is None else "datum, in order of class"]
    elif z.shape[1] == 2:
        points, names = z, [f"E[$z_{i}$ given x]" for i in (1, 2)]
    else:
        centre, axes_of, shares = principal_axes(z)
        points = (z - centre) @ axes_of
        names = [f"principal axis {i + 1} of E[z given x] ({share:.0%} of variance)" for i, share in enumerate(shares)]
    axes.set_xlabel(names[0], fontsize=NORMAL)
    axes.set_ylabel(names[1], fontsize=NORMAL)
    if z.shape[1] > 1:
        axes.set_aspect("equal", adjustable="datalim")
    if labels is None or len(classes := labels.cpu().unique().tolist()) > MOST_CLASSES:
        axes.scatter(points[:, 0].numpy(), points[:, 1].numpy(), s=12, color=COLOURS[0], alpha=0.7)
        return
    for number, label in enumerate(classes):
        chosen = points[labels.cpu() == label]
        colour = CLASS_COLOURS[number % len(CLASS_COLOURS)]
        size = 24 * len(str(label))  # an area, so that labels of two digits are as tall
        axes.scatter(
            chosen[:, 0].numpy(),
            chosen[:, 1].numpy(),
            s=size,
            marker=f"${label}$",
            color=colour,
            linewidths=0.3,
            label=str(label),
        )
