"""From z to x: what p(x|z) says at chosen z, and ways to choose them.

Of p(x|z) one can show the mean, a draw, or the standard deviation, and they look nothing alike: a mean is smooth,
a draw has the noise that the likelihood was measured with.  So every function says in its name which it gives.  All
give x as the model sees it, in the view of the data that it was fitted to.
"""

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from pyrovae.data import Observations
from pyrovae.engine.checks import check_choice, check_positive, check_whole
from pyrovae.engine.isolation import evaluating
from pyrovae.engine.seeding import seeded
from pyrovae.evaluate.latents.encoding import continuous_posteriors, joined, posterior_moments
from pyrovae.models.base import LatentVariableModel
from pyrovae.models.latents import (
    Latents,
    Values,
    bare,
    by_site,
    data_axis,
    data_first,
    known,
    named_sites,
    run_of,
)

Labels = Tensor | int | None

DECODED = 4096  # z decoded at once; part of the definition of what a seed gives


def decode_means(model: LatentVariableModel, z: Values, labels: Labels = None) -> Tensor:
    """E[x|z] at given z: smoother than data, and *not* samples of the model.

    Args:
        model: Any model.
        z: Latents, shape (..., L), or of several sites a dict of such.
        labels: For a model of p(x|z, y): y, shape (...), or one label for all.

    Returns:
        Tensor (..., *data_shape).

    Raises:
        ValueError: If ``z`` has other latents than the model, or labels are missing or not asked for.

    Example:
        >>> from pyrovae import PPCA
        >>> ppca = PPCA(latent_dim=2, data_shape=(5,))
        >>> decode_means(ppca, torch.zeros(3, 4, 2)).shape
        torch.Size([3, 4, 5])
    """
    with seeded(0):  # the program draws x, too, which is not used
        return _decoded(model, z, labels, lambda site: known(site["fn"], "mean"))


def decode_deviations(model: LatentVariableModel, z: Values, labels: Labels = None) -> Tensor:
    """The standard deviation of p(x|z), dimension by dimension, at given z; as :func:`decode_means`."""
    with seeded(0):
        return _decoded(model, z, labels, lambda site: known(site["fn"], "stddev"))


def decode_samples(model: LatentVariableModel, z: Values, labels: Labels = None, *, seed: int = 0) -> Tensor:
    """One draw x ~ p(x|z) at each given z; as :func:`decode_means`, by ``seed``."""
    with seeded(seed):
        return _decoded(model, z, labels, lambda site: site["value"])


def reconstruct_means(model: LatentVariableModel, data: Observations | Tensor) -> Tensor:
    """E[x|z] at the mean z of q(z|x), as :func:`encode` finds it: what is left of a datum after it went through z.

    Args:
        model: Any model of continuous latents.
        data: N data.

    Returns:
        Tensor (N, *data_shape).

    Raises:
        ValueError: If the data do not fit the model, or its z is discrete.
    """
    means, _ = posterior_moments(model, data, "to reconstruct from")
    return decode_means(model, bare(means), _labels_of(model, data))


def reconstruct_samples(model: LatentVariableModel, data: Observations | Tensor, *, seed: int = 0) -> Tensor:
    """One draw z ~ q(z|x), then x ~ p(x|z), for every datum; as :func:`reconstruct_means`, by ``seed``."""
    with seeded(seed):
        z = joined([block.draws(1) for block in continuous_posteriors(model, data, "to reconstruct from")], dim=1)
        z = bare({name: value[0] for name, value in z.items()})
        return _decoded(model, z, _labels_of(model, data), lambda site: site["value"])


def interpolate(
    start: Tensor, end: Tensor, num_steps: int = 8, method: Literal["linear", "spherical"] = "linear"
) -> Tensor:
    """A path from one code to another, both ends included.

    The linear path leads through the middle of a Gaussian prior, where for large L hardly any z of the prior lie; the
    spherical one, sin((1 − t)ω)/sin ω · start + sin(tω)/sin ω · end with ω the angle between the two, keeps their
    distance from the origin.

    Args:
        start: Code, shape (..., L), e.g. a row of ``encode(model, x).mean``.
        end: Another, of the same shape.
        num_steps: Points of the path, at least 2.
        method: ``"linear"`` or ``"spherical"``.

    Returns:
        Tensor (num_steps, ..., L), for :func:`decode_means`.

    Raises:
        ValueError: If the shapes differ, an argument is out of range, or no great circle joins the two codes.

    Example:
        >>> interpolate(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.0]), 3)
        tensor([[0.0000, 1.0000],
                [0.5000, 0.5000],
                [1.0000, 0.0000]])

    Reference:
        Shoemake (1985), Animating rotation with quaternion curves; White (2016), Sampling generative networks.
    """
    if start.shape != end.shape:
        raise ValueError(f"`end` must have the shape of `start`, {tuple(start.shape)}, got {tuple(end.shape)}.")
    check_whole("num_steps", num_steps, 2)
    check_choice("method", method, ("linear", "spherical"))
    steps = torch.linspace(0, 1, num_steps, dtype=start.dtype, device=start.device)
    t = steps.reshape(-1, *(1,) * start.ndim)
    if method == "linear":
        return torch.lerp(start, end, t)
    lengths = [code.norm(dim=-1, keepdim=True) for code in (start, end)]
    unit_start, unit_end = (code / length for code, length in zip((start, end), lengths, strict=True))
    # Half the angle, from two sides of a triangle: exact for small angles, where the arc cosine is not.
    angle = 2 * torch.atan2((unit_start - unit_end).norm(dim=-1), (unit_start + unit_end).norm(dim=-1)).unsqueeze(-1)
    if not (angle < math.pi - 1e-6).all():
        raise ValueError(
            "`start` and `end` must be no zero vectors and not opposite for a spherical path, got such a pair; "
            'use method="linear".'
        )
    near = angle < 1e-6
    safe = torch.where(near, 1.0, angle)
    path = (((1 - t) * safe).sin() * start + (t * safe).sin() * end) / safe.sin()
    path = torch.where(near, torch.lerp(start, end, t), path)
    return torch.cat([start[None], path[1:-1], end[None]])


def latent_grid(
    latent_dim: int,
    num_steps: int = 20,
    *,
    extent: float | None = None,
    units: tuple[int, int] = (0, 1),
    fixed: Tensor | None = None,
) -> Tensor:
    """A square grid of z over two units, the others held.

    Args:
        latent_dim: L, at least 2.
        num_steps: Points along each side; odd, to have z = 0 (or ``fixed``) in the middle.
        extent: Even steps from −extent to extent, in standard deviations of the prior; or None for the quantiles (i +
            ½)/num_steps of the Normal prior, which give each cell the same prior mass.
        units: Which unit runs along the columns, and which along the rows.
        fixed: Values of the other units, shape (L,), by default 0.

    Returns:
        Tensor (num_steps, num_steps, L), float64: of ``units``, the first rises with the column, the second with the
        row.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> latent_grid(2, 3, extent=1.0)[0]
        tensor([[-1., -1.],
                [ 0., -1.],
                [ 1., -1.]], dtype=torch.float64)

    Reference:
        Kingma and Welling (2014), Auto-encoding variational Bayes (the manifold by quantiles).
    """
    check_whole("num_steps", num_steps)
    if len(set(units)) != 2 or not all(0 <= unit < latent_dim for unit in units):
        raise ValueError(f"`units` must be two different units from 0 to L - 1 = {latent_dim - 1}, got {units}.")
    if extent is not None:
        check_positive("extent", extent, "number of standard deviations or None")
    fixed = torch.zeros(latent_dim) if fixed is None else torch.as_tensor(fixed)
    if fixed.shape != (latent_dim,):
        raise ValueError(f"`fixed` must have shape ({latent_dim},), got {tuple(fixed.shape)}.")
    z = fixed.double().repeat(num_steps, num_steps, 1)
    side = grid_side(num_steps, extent).to(z.device)
    z[..., units[0]] = side
    z[..., units[1]] = side[:, None]
    return z


def grid_side(num_steps: int, extent: float | None) -> Tensor:
    """The values along a side of :func:`latent_grid`, ascending, shape (num_steps,), float64."""
    middle = (torch.arange(num_steps, dtype=torch.float64) + 0.5) / num_steps
    if extent is None:
        return torch.special.ndtri(middle)
    return (2 * torch.arange(num_steps, dtype=torch.float64) / max(num_steps - 1, 1) - 1) * extent


def manifold_means(
    model: LatentVariableModel,
    num_steps: int = 20,
    *,
    extent: float | None = None,
    units: tuple[int, int] = (0, 1),
    fixed: Tensor | None = None,
    labels: int | None = None,
) -> Tensor:
    """E[x|z] over a grid of two latents: the surface that the decoder lays through the data.

    Args, Raises: as for :func:`latent_grid`; ``latent_dim`` is the model's, and a model of p(x|z, y) needs a
    label.

    Returns:
        Tensor (num_steps, num_steps, *data_shape), row by row upwards.

    Example:
        >>> from pyrovae import PPCA
        >>> manifold_means(PPCA(latent_dim=2, data_shape=(5,)), 3).shape
        torch.Size([3, 3, 5])
    """
    z = model.sample(1)[1]
    if not isinstance(z, Tensor) or z.ndim != 2 or not z.is_floating_point() or z.shape[1] < 2:
        got = f"z of shape {tuple(z.shape[1:])}" if isinstance(z, Tensor) else f"the sites {list(z)}"
        raise ValueError(f"`model` must have a continuous z of at least 2 units, got {got}.")
    return decode_means(model, latent_grid(z.shape[1], num_steps, extent=extent, units=units, fixed=fixed), labels)


@torch.no_grad()
def _decoded(model: LatentVariableModel, z: Values, labels: Labels, read: Callable[[Any], Tensor]) -> Tensor:
    """What ``read`` takes from the site of x, at every z; draws from torch's random state."""
    observed, sites = named_sites(model)
    flat, batch = _flat(by_site(z, sites), sites)
    given = _checked_labels(model, labels, batch)
    blocks = []
    with evaluating(model):
        for block, *y in zip(*(each.split(DECODED) for each in (torch.arange(batch.numel()), *given)), strict=True):
            at = {name: value[block].movedim(0, data_axis(sites[name])) for name, value in flat.items()}
            site = run_of(model, (None, *y), len(block), at)[observed]
            blocks.append(data_first(site, read(site)))
    x = torch.cat(blocks)
    return x.reshape(*batch, *x.shape[1:])


def _flat(z: Latents, sites: dict[str, Any]) -> tuple[Latents, torch.Size]:
    """The latents by site, each (N, ...) as the program has them, and the shape of the N.

    Raises:
        ValueError: If the shape of one is not that of its site after a shape that all share.
    """
    batches, flat = {}, {}
    for name, value in z.items():
        like = data_first(sites[name])
        event = like.shape[1:]
        batches[name] = batch = value.shape[: max(0, value.ndim - len(event))]
        if value.shape != (*batch, *event):
            raise ValueError(
                f"`z` must have shape ({', '.join(map(str, ('...', *event)))}), got {tuple(value.shape)}; "
                "pass codes of this model."
            )
        flat[name] = value.to(like).reshape(-1, *event)
    if len(set(batches.values())) > 1:
        raise ValueError(
            f"`z` must hold as many values of every site, got {[tuple(each) for each in batches.values()]}."
        )
    return flat, next(iter(batches.values()))


def _checked_labels(model: LatentVariableModel, labels: Labels, batch: torch.Size) -> tuple[Tensor, ...]:
    """Nothing, or one label for each z, flat."""
    if model.num_classes is not None and labels is None:
        raise ValueError("`labels` must be given to a model of p(x|z, y), got None; pass one, or one for each z.")
    if labels is not None:
        y = torch.as_tensor(labels)
        if y.ndim and y.shape != batch:
            raise ValueError(f"`labels` must have shape {tuple(batch)}, one for each z, got {tuple(y.shape)}.")
        labels = y.expand(batch).flatten()
    return model._labels_to_generate(batch.numel(), labels)


def _labels_of(model: LatentVariableModel, data: Observations | Tensor) -> Labels:
    """The labels of the data where the model asks for them."""
    return data.labels if model.num_classes is not None and isinstance(data, Observations) else None
