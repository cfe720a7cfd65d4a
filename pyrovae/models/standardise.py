"""Data in units of their own deviations, so that networks see numbers of about 1 whatever the units of x."""

import math

import torch
from torch import Tensor, nn

FARTHEST = 10.0  # units from the mean to the farthest datum, at most: of a pixel that is seldom on, say


class Standardise(nn.Module):
    """x → (x − centre)/unit, by buffers that are taken from the training data and saved with the model.

    Args:
        data_shape: Shape of one datum.

    Example:
        >>> layer = Standardise((2,))
        >>> layer.start_at(torch.tensor([[1.0, 1000.0], [3.0, 3000.0]]), each=True)
        >>> layer(torch.tensor([3.0, 3000.0]))
        tensor([1., 1.])
    """

    centre: Tensor
    unit: Tensor

    def __init__(self, data_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.data_shape = data_shape
        self.register_buffer("centre", torch.zeros(math.prod(data_shape)))  # flat, as layers of flat images are
        self.register_buffer("unit", torch.ones(math.prod(data_shape)))

    def forward(self, x: Tensor) -> Tensor:
        """x of shape (..., *data_shape)."""
        return (x - self.centre.view(self.data_shape)) / self.unit.view(self.data_shape)

    @torch.no_grad()
    def start_at(self, x: Tensor, each: bool) -> None:
        """Take centre and unit from data (N, *data_shape): for ``each`` dimension its own unit, or one for all."""
        self.centre.copy_(x.flatten(1).double().mean(0))
        self.unit.copy_(units(x.flatten(1), each).expand_as(self.unit))


def units(x: Tensor, each: bool, least: float = 0.0) -> Tensor:
    """The deviation of data (N, D) from their mean: of ``each`` dimension (D,), or of all (1,); ``least`` or more.

    Where data lie far out, it is a tenth of the largest.  Of what does not vary but by rounding it is 1.
    """
    deviation = x.double() - x.double().mean(0)
    std, largest, size = deviation.square().mean(0).sqrt(), deviation.abs().amax(0), x.double().abs().amax(0)
    if not each:
        std, largest, size = std.square().mean(0, True).sqrt(), largest.amax(0, True), size.amax(0, True)
    unit = torch.maximum(std, largest / FARTHEST).clamp_min(least)
    return torch.where(unit > 8 * torch.finfo(x.dtype).eps * size, unit, 1.0).to(x.dtype)
