"""What an encoder and a decoder return, the user's own as well: checked once, when a model is built."""

from typing import Any

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import nn
from torch.nn.parameter import is_lazy

from pyrovae.data.observations import Support
from pyrovae.engine.isolation import evaluating
from pyrovae.engine.seeding import seeded
from pyrovae.models.stored import copied


def checked_output(
    encoder: nn.Module, decoder: nn.Module, latent_dim: int, data_shape: tuple[int, ...], num_classes: int | None
) -> Any:
    """What the decoder returns for two z, after a look at that and at what the encoder returns for two x.

    Args:
        encoder: x → q(z|x), or with classes (x, y) → q(z|x, y).
        decoder: z → p(x|z), or with classes (z, y) → p(x|z, y).
        latent_dim: L.
        data_shape: Shape of one datum; () where only the decoder knows.
        num_classes: Number of classes, or None.

    Raises:
        ValueError: If one of them returns no distribution of the right batch and event shapes.
    """
    p = _output_for_two("decoder", decoder, (latent_dim,), num_classes)
    if data_shape and p.event_shape != torch.Size(data_shape):
        raise ValueError(
            f"`decoder` must return a distribution of event shape {data_shape}, got {tuple(p.event_shape)}; "
            "declare the data dimensions with .to_event()."
        )
    q = _output_for_two("encoder", encoder, tuple(p.event_shape), num_classes)
    if q.event_shape != (latent_dim,):
        raise ValueError(
            f"`encoder` must return a distribution of event shape ({latent_dim},), `latent_dim` numbers, got "
            f"{tuple(q.event_shape)}; give both the same."
        )
    return p


@torch.no_grad()
def _output_for_two(name: str, module: nn.Module, input_shape: tuple[int, ...], num_classes: int | None) -> Any:
    """The distribution for two inputs in [0, 1], labels 0 where there are classes; the module stays as it was.

    They are drawn, since some modules give no number at constants, such as one that standardises its input.
    """
    tensors = (*module.parameters(), *module.buffers())
    probed = module if any(map(is_lazy, tensors)) else copied(module)  # a lazy one learns its sizes here
    known = (each for each in tensors if not is_lazy(each) and each.is_floating_point())
    like = next(known, torch.zeros(()))
    labels = [] if num_classes is None else [torch.zeros(2, device=like.device, dtype=torch.long)]
    with evaluating(probed), seeded(0):
        output = probed(torch.rand(2, *input_shape, device=like.device, dtype=like.dtype), *labels)
    given, over, dimensions = ("z", "x", "data") if name == "decoder" else ("x", "z", "latent")
    if not isinstance(output, torch.distributions.Distribution):
        raise ValueError(f"`{name}` must return a distribution over {over}, got {type(output).__name__}.")
    if name == "encoder" and not isinstance(output, TorchDistributionMixin):
        raise ValueError(
            f"`{name}` must return a distribution of Pyro, got {type(output).__name__} of {type(output).__module__}; "
            "take the one of that name in pyro.distributions."
        )
    if (batch_shape := tuple(output.batch_shape)) != (2,):
        raise ValueError(
            f"`{name}` must return a distribution of batch shape (2,) for two {given}, got {batch_shape}; "
            f"declare the {dimensions} dimensions with .to_event()."
        )
    return output


@torch.no_grad()
def needs_rows(decoder: nn.Module, latent_dim: int, num_classes: int | None) -> bool:
    """Whether a decoder fails at z (S, N, L), or is another there than at the S·N rows; the module stays as it was.

    It is looked at with other parameters and buffers: fresh ones, of which many are 0 or 1, may hide what it does.
    """
    probed = copied(decoder)
    with evaluating(probed), seeded(0):
        try:
            for each in filter(torch.is_floating_point, (*probed.parameters(), *probed.buffers())):
                each += 0.1 * torch.rand_like(each)
            return not all(_same_by_rows(probed, shape, latent_dim, num_classes) for shape in ((2, 3), (3, 2)))
        except Exception:  # rows are always right
            return True


def _same_by_rows(decoder: nn.Module, shape: tuple[int, int], latent_dim: int, num_classes: int | None) -> bool:
    like = next(decoder.parameters(), torch.zeros(()))
    z = torch.randn(*shape, latent_dim, device=like.device, dtype=like.dtype)
    y = [] if num_classes is None else [torch.arange(shape[1], device=like.device) % num_classes]
    p, by_rows = decoder(z, *y), decoder(z.flatten(0, 1), *(each.repeat(shape[0]) for each in y))
    x = by_rows.sample()
    together, alone = p.log_prob(x.unflatten(0, shape)), by_rows.log_prob(x).unflatten(0, shape)
    return together.shape == shape and torch.allclose(together, alone, 1e-4, 1e-4)


def values_of(p: Any) -> Any:
    """The constraint on one number of x ~ p, from inside the wrapping of ``to_event``."""
    values = p.support
    while hasattr(values, "base_constraint"):
        values = values.base_constraint
    return values


def support_of(values: Any) -> Support:
    """What kind of data a distribution with this constraint on one number is a density or mass of."""
    if "Boolean" in type(values).__name__:
        return "boolean"
    return "integer" if values.is_discrete else "real"
