"""What a model makes of images: data beside their reconstructions, and means with the noise that is measured."""

from collections.abc import Mapping

import torch
from matplotlib.figure import Figure
from torch import Tensor

from pyrovae import evaluate
from pyrovae.data import Observations
from pyrovae.engine.checks import check_whole
from pyrovae.evaluate.latents.encoding import posterior_moments
from pyrovae.models.latents import bare
from pyrovae.plots.common import SMALL, Entry, wrapped
from pyrovae.plots.images import Gallery, Row

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
    check_whole("num_images", num_images)
    gallery = Gallery.of(models, data, num_images)
    made = {
        name: gallery.seen(evaluate.reconstruct_means(model, gallery.data.in_space(space)), space)
        for name, (model, space) in gallery.models.items()
    }
    rows = [Row("data x", gallery.real)]
    rows += [Row(f"{wrapped(name, 24)}\nE[x|z]", x, first=len(made) > 1) for name, x in made.items()]
    said = "Below each datum its reconstruction, the mean at z = E[z|x]."
    return gallery.figure(rows, "Data and reconstructions", said, made)[0]


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
    check_whole("num_samples", num_samples)
    gallery = Gallery.of(models, data, num_samples)
    rows, made = [], {}
    for name, (model, space) in gallery.models.items():
        means, z = model.sample_means(num_samples, seed=seed)
        turns = None if model.num_classes is None else torch.arange(num_samples) % model.num_classes
        deviations = evaluate.decode_deviations(model, z, turns)
        moved = [gallery.seen(means + k * deviations, space) for k in STEPS]
        made[name] = torch.cat(moved)
        for k, x in zip(STEPS, moved, strict=True):
            sign = "−" if k < 0 else "+"
            label = f"μ {sign} {abs(k) if abs(k) > 1 else ''}σ" if k else f"{wrapped(name, 24)}   μ"
            rows.append(Row(label, x, first=k == STEPS[0] and len(gallery.models) > 1))
    said = "A column has one z ~ p(z); μ and σ are the mean and the standard deviation of every pixel given z."
    return gallery.figure(rows, "Means and standard deviations of p(x|z)", said, made)[0]


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
    check_whole("num_images", num_images)
    gallery = Gallery.of(models, data, num_images)
    rows, made = [Row("data x", gallery.real)], {}
    for name, (model, space) in gallery.models.items():
        means, _ = posterior_moments(model, gallery.data.in_space(space), "to be decoded")
        z = bare(means)
        y = None if model.num_classes is None else gallery.data.labels
        made[name] = gallery.seen(evaluate.decode_means(model, z, y), space)
        sigma = evaluate.decode_deviations(model, z, y).detach().cpu().double().reshape(-1, *gallery.image_shape)
        sigma = sigma.square().mean(1).sqrt().flatten(1)
        rows += [
            Row(f"{wrapped(name, 24)}\nμ(z)", made[name], first=True),
            Row("σ(z)", sigma, colours="cividis", limits=(0.0, sigma.max().item())),
        ]
    said = "At z = E[z|x]. σ in the units of x, dark where the model is sure."
    figure, every = gallery.figure(rows, "Standard deviations of p(x|z)", said, made)
    for axes in every[2::2]:
        (image,) = axes.images[:1]
        beside = axes.inset_axes((1.01, 0.0, 0.012, 1.0))  # so that columns stay aligned
        bar = figure.colorbar(image, cax=beside)
        bar.set_ticks(image.get_clim(), labels=[f"{value:.2g}" for value in image.get_clim()])
        bar.ax.tick_params(labelsize=SMALL)
    return figure
