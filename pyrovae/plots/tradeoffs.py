"""Two numbers against one another, or one against epochs: rate and distortion, FID by epoch."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pyrovae.evaluate import ELBOTerms, FIDHistory
from pyrovae.plots.common import COLOURS, NORMAL, SMALL, check_some, label, legend_beside, number, panel, style, wrapped


def rate_distortion(terms: Mapping[str, ELBOTerms]) -> Figure:
    """Distortion −E_q[log p(x|z)] against rate KL(q(z|x) ‖ p(z)), one point a model, in the order given.

    The ELBO is minus their sum, so models on one falling line have equal ELBO, and the best is the lowest line.  A
    weight β on the rate moves a model along the frontier: to the left, and upwards, with rising β.

    Args:
        terms: Name, e.g. "β = 0.5" → :func:`pyrovae.evaluate.elbo_terms` of that model on the same data.

    Returns:
        The figure; bars are one standard error over data, and mostly smaller than their point.

    Raises:
        ValueError: If ``terms`` is empty, or not finite.
        TypeError: If an entry is no ``ELBOTerms``.

    Example:
        >>> from pyrovae import PPCA, data, evaluate, fit
        >>> d = data.load("digits")
        >>> fits = {f"q = {q}": fit.closed_form(PPCA(q, (64,)), d.train).model for q in (2, 8)}
        >>> figure = rate_distortion({name: evaluate.elbo_terms(ppca, d.test, 10) for name, ppca in fits.items()})
        >>> figure.axes[0].get_xlabel()
        'rate KL(q(z|x) ‖ p(z)), nats per datum'

    Reference:
        Alemi, Poole, Fischer, Dillon, Saurous and Murphy (2018), Fixing a broken ELBO.
    """
    check_some("terms", terms, "model's terms")
    points, bars = [], []
    for name, each in terms.items():
        if not isinstance(each, ELBOTerms):
            raise TypeError(f"`terms[{name!r}]` must be ELBOTerms, got {type(each).__name__}; pass elbo_terms(...).")
        both = np.stack([part.detach().cpu().double().numpy() for part in (each.kl, -each.reconstruction)])
        if not np.isfinite(both).all():
            raise ValueError(f"`terms[{name!r}]` must be finite, got NaN or infinity.")
        points.append(both.mean(1))
        bars.append(both.std(1, ddof=1) / np.sqrt(both.shape[1]) if both.shape[1] > 1 else np.full(2, np.nan))
    rate, distortion = np.array(points).T
    figure, axes = panel(4.4)
    axes.plot(rate, distortion, "-", color="0.6", linewidth=1.2, zorder=1)
    errors = np.array(bars).T
    axes.errorbar(rate, distortion, errors[1], errors[0], fmt="o", color=COLOURS[0], markersize=6, elinewidth=1.2)
    for name, x, y in zip(terms, rate, distortion, strict=True):
        axes.annotate(wrapped(str(name), 28), (x, y), (7, 5), textcoords="offset points", fontsize=NORMAL)
    axes.margins(0.14)
    axes.set_xlim(left=max(axes.get_xlim()[0], min(0.0, rate.min())))
    axes.set_title("dotted: equal ELBO = −(rate + distortion), better towards lower left", loc="left", fontsize=NORMAL)
    label(axes, "rate KL(q(z|x) ‖ p(z)), nats per datum", "distortion −E[log p(x|z)], nats per datum")
    _equal_elbo(axes)
    return figure


def _equal_elbo(axes: Axes) -> None:
    """Lines of equal ELBO = −(rate + distortion) across the panel, each with its value where it leaves at the right."""
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    levels = MaxNLocator(7).tick_values(left + low, right + high)
    for level in levels:
        axes.plot([left, right], [level - left, level - right], ":", color="0.5", linewidth=0.9, zorder=0.5)
        if low < level - right < high:
            value, place = number(0.0 - level).removesuffix(".00"), (right, level - right)
            options: dict[str, Any] = {"textcoords": "offset points", "va": "center", "annotation_clip": False}
            axes.annotate(f"ELBO {value}", place, (3, 0), fontsize=SMALL, color="0.35", **options)
    axes.set(xlim=(left, right), ylim=(low, high))


def fid_by_epoch(histories: Mapping[str, FIDHistory]) -> Figure:
    """Fréchet inception distance after epochs of a fit; lower is better, and a ring marks the lowest.

    Args:
        histories: Name → :class:`pyrovae.evaluate.FIDHistory`, or anything with ``epochs`` and ``values``.

    Returns:
        The figure.

    Raises:
        ValueError: If there is no history, or one is empty or not finite.

    Example:
        >>> from types import SimpleNamespace
        >>> figure = fid_by_epoch({"VAE": SimpleNamespace(epochs=[1, 2, 3], values=[90.0, 60.0, 55.0])})
        >>> figure.axes[0].get_ylabel()
        'FID (lower is better)'
    """
    check_some("histories", histories, "history")
    figure, axes = panel(3.4)
    top = 0.0
    for index, (name, history) in enumerate(histories.items()):
        epochs, values = np.asarray(history.epochs), np.asarray(history.values, dtype=float)
        if not len(values) or not np.isfinite(values).all():
            raise ValueError(f"`histories[{name!r}]` must hold finite values, got {values.tolist()[:5]}.")
        best = int(values.argmin())
        text = f"{wrapped(name, 30)}\nlowest {values[best]:,.1f}, epoch {epochs[best]}"
        every = max(1, len(values) // 12)
        axes.plot(epochs, values, "-", **style(index), markevery=every, label=text)
        ring = {**style(index), "marker": "o", "markersize": 10, "markerfacecolor": "none"}
        axes.plot(epochs[best], values[best], linestyle="", **ring)
        top = max(top, values.max())
    axes.set_ylim(0, 1.06 * top or 1.0)
    axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))
    label(axes, "epoch", "FID (lower is better)")
    axes.grid(color="0.9")
    legend_beside(axes)
    return figure
