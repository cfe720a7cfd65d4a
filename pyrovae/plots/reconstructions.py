"""What a model makes of images: data beside their reconstructions, and means with the noise that is measured."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from matplotlib.figure import Figure
from torch import Tensor

from pyrovae import evaluate
from pyrovae.data import Observations, as_observations
from pyrovae.plots.common import (
    SMALL,
    Entry,
    Seen,
    as_seen,
    check_count,
    check_models,
    check_shapes,
    evenly,
    wrapped,
)
from pyrovae.plots.images import Row, caption, check_images, grey_limits, image_rows, reference_of, seen_from

STEPS = (-2, -1, 0, 1, 2)  # standard deviations from the mean


def reconstructions(models: Mapping[str, Entry], data: Observations | Tensor, *, num_images: int = 10) -> Figure:
    """Images above what is left of them after z: E[x|z] at the mean z of q(z|x).

    Args:
        models: Name → model of ``data`` with a continuous z, or fit result, which sees the data as it was fitted to.
        data: Images; they are taken evenly spread.
        num_images: Images in a row.

    Returns:
        The figure, in the reference space, clipped as the caption says.

    Raises:
        ValueError: If ``models`` is empty, ``data`` are no images, or a model is one of other data or of a discrete z.
        TypeError: If an entry is neither a model nor a fit result.

    Example:
        >>> from pyrovae import PPCA, data, fit
        >>> d = data.load("digits")
        >>> figure = reconstructions({"PPCA": fit.closed_form(PPCA(8, (64,)), d.train)}, d.test, num_images=5)
        >>> len(figure.axes), len(figure.axes[0].images)
        (2, 5)
    """
    seen, few, image_shape = _chosen(models, data, num_images)
    reference = reference_of(few.space)
    real = seen_from(few.x, few.space, few, reference)
    limits = grey_limits(real)
    made = {
        name: seen_from(evaluate.reconstruct_means(model, few.in_space(space)), space, few, reference)
        for name, (model, space) in seen.items()
    }
    rows = [Row("data x", real)]
    rows += [Row(f"{wrapped(name, 24)}\nE[x|z]", x, first=len(made) > 1) for name, x in made.items()]
    said = "Below each datum its reconstruction, the mean at z = E[z|x]. "
    title = f"Data and reconstructions: {few.space.reference}"
    return image_rows(rows, image_shape, limits, title, said + caption(limits, image_shape, made, seen))[0]


def strips(models: Mapping[str, Entry], data: Observations | Tensor, *, num_samples: int = 8, seed: int = 0) -> Figure:
    """From μ − 2σ to μ + 2σ of p(x|z), at z drawn from the prior: five panels above one another for every z.

    A sample has noise of its own in every pixel; these images move all pixels together, which no sample of independent
    pixels does.  They show where the model is sure.

    Args:
        models: Name → model of ``data``, or fit result.
        data: Real images, for their shape, space and range.
        num_samples: Number of z.
        seed: Of the z.

    Returns:
        The figure, in the reference space, clipped as the caption says.

    Raises:
        ValueError, TypeError: As for :func:`reconstructions`; any z will do.

    Example:
        >>> from pyrovae import PPCA, data, fit
        >>> d = data.load("digits")
        >>> figure = strips({"PPCA": fit.closed_form(PPCA(8, (64,)), d.train)}, d.test)
        >>> [axes.get_ylabel() for axes in figure.axes]
        ['μ − 2σ', 'μ − σ', 'PPCA   μ', 'μ + σ', 'μ + 2σ']
    """
    seen, few, image_shape = _chosen(models, data, num_samples, "num_samples")
    reference = reference_of(few.space)
    limits = grey_limits(seen_from(few.x, few.space, few, reference))
    rows, made = [], {}
    for name, (model, space) in seen.items():
        means, z = model.sample_means(num_samples, seed=seed)
        turns = None if model.num_classes is None else torch.arange(num_samples) % model.num_classes
        deviations = evaluate.decode_deviations(model, z, turns)
        moved = [seen_from(means + k * deviations, space, few, reference) for k in STEPS]
        made[name] = torch.cat(moved)
        for k, x in zip(STEPS, moved, strict=True):
            sign = "−" if k < 0 else "+"
            label = f"μ {sign} {abs(k) if abs(k) > 1 else ''}σ" if k else f"{wrapped(name, 24)}   μ"
            rows.append(Row(label, x, first=k == STEPS[0] and len(seen) > 1))
    said = "A column has one z ~ p(z); μ and σ are the mean and the standard deviation of every pixel given z. "
    title = f"Means and standard deviations of p(x|z): {few.space.reference}"
    return image_rows(rows, image_shape, limits, title, said + caption(limits, image_shape, made, seen))[0]


def sigma_maps(models: Mapping[str, Entry], data: Observations | Tensor, *, num_images: int = 8) -> Figure:
    """The standard deviation σ of p(x|z), pixel by pixel, below each datum and its reconstruction.

    Args:
        models: Name → model of ``data`` with a continuous z, or fit result.
        data: Images; they are taken evenly spread.
        num_images: Images in a row.

    Returns:
        The figure; every row of σ has a colour bar from 0 to its largest, in the units of x as the model sees it.  Of
        colour images, the root mean square over channels.

    Raises:
        ValueError, TypeError: As for :func:`reconstructions`.
    """
    seen, few, image_shape = _chosen(models, data, num_images)
    reference = reference_of(few.space)
    real = seen_from(few.x, few.space, few, reference)
    limits = grey_limits(real)
    maps, made = [], {}
    for name, (model, space) in seen.items():
        z = evaluate.encode(model, few.in_space(space)).mean
        y = None if model.num_classes is None else few.labels
        made[name] = seen_from(evaluate.decode_means(model, z, y), space, few, reference)
        sigma = evaluate.decode_deviations(model, z, y).detach().cpu().double().reshape(-1, *image_shape)
        sigma = sigma.square().mean(1).sqrt().flatten(1)
        top = sigma.max().item()
        maps += [
            Row(f"{wrapped(name, 24)}\nμ(z)", made[name], first=True),
            Row("σ(z)", sigma, colours="cividis", limits=(0.0, top)),
        ]
    said = "At z = E[z|x]. σ in the units of x, dark where the model is sure. "
    title = f"Standard deviations of p(x|z): {few.space.reference}"
    rows = [Row("data x", real), *maps]
    figure, every = image_rows(rows, image_shape, limits, title, said + caption(limits, image_shape, made, seen))
    for axes in every[2::2]:
        (image,) = axes.images[:1]
        bar = figure.colorbar(
            image, cax=axes.inset_axes((1.01, 0.0, 0.012, 1.0))
        )  # beside, so that columns stay aligned
        bar.set_ticks(image.get_clim(), labels=[f"{value:.2g}" for value in image.get_clim()])
        bar.ax.tick_params(labelsize=SMALL)
    return figure


def _chosen(
    models: Mapping[str, Entry], data: Observations | Tensor, number: int, argument: str = "num_images"
) -> tuple[Seen, Observations, tuple[int, ...]]:
    """The models with their spaces, so many data evenly spread, and the shape of an image; all checked."""
    check_models(models)
    check_count(argument, number)
    observations = as_observations(data).fixed()
    seen = as_seen(models, observations)
    check_shapes(seen, observations)
    image_shape = check_images(observations)
    return seen, observations[evenly(len(observations), number)], image_shape
