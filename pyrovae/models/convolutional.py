"""Convolutional encoder and decoder, for images of any number of channels and any size.

A stack of 4×4 convolutions of stride 2, each halving height and width (an odd size rounds down), and for the decoder
the same stack backwards, each transposed convolution giving the size from which the encoder came.  No batch norm: it
would make one datum's q depend on the others.
"""

import itertools
import math
from functools import partial

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyrovae.models.architecture import Architecture, image_shape
from pyrovae.models.likelihoods import Likelihood
from pyrovae.models.networks import GaussianPosterior, with_labels
from pyrovae.models.standardise import Standardise

Size = tuple[int, int]


def _sizes(data_shape: tuple[int, ...], num_layers: int) -> list[Size]:
    """Height and width before the first layer, and after each.

    Raises:
        ValueError: If nothing is left after the last.
    """
    _, height, width = image_shape(data_shape)
    sizes = [(height >> i, width >> i) for i in range(num_layers + 1)]
    if num_layers < 1 or min(sizes[-1]) < 1:
        most = min(height, width).bit_length() - 1
        raise ValueError(
            f"`hidden` must hold the channels of at least 1 and at most {most} layers, each of which halves an image "
            f"of {height} by {width}, got {num_layers}."
        )
    return sizes


def _over_images(layers: nn.Module, x: Tensor) -> Tensor:
    """Apply layers for batches of images to x of shape (..., channels, height, width)."""
    y = layers(x.reshape(-1, *x.shape[-3:]))
    return y.reshape(*x.shape[:-3], *y.shape[1:])


class ConvEncoder(GaussianPosterior):
    """q(z|x) = Normal(μ(x), Σ(x)) by convolutions; with classes, q(z|x, y).

    Args:
        architecture: Its data are images.

    Raises:
        ValueError: If the shape is not that of an image, or there are more layers than it can be halved.

    Example:
        >>> ConvEncoder(Architecture(2, (1, 28, 28), hidden=(8, 16)))(torch.zeros(5, 1, 28, 28)).event_shape
        torch.Size([2])

    Reference:
        Radford, Metz and Chintala (2016), Unsupervised representation learning with deep convolutional generative
        adversarial networks.
    """

    def __init__(self, architecture: Architecture) -> None:
        channels = architecture.widths
        height, width = _sizes(architecture.data_shape, len(channels))[-1]
        super().__init__(channels[-1] * height * width, architecture)
        self.standardise = Standardise(architecture.data_shape)
        layers: list[nn.Module] = []
        for n_in, n_out in itertools.pairwise((architecture.data_shape[0] + architecture.num_labels, *channels)):
            layers += [nn.Conv2d(n_in, n_out, kernel_size=4, stride=2, padding=1), architecture.activate()]
        self.body = nn.Sequential(*layers)

    def forward(self, x: Tensor, y: Tensor | None = None) -> dist.Distribution:
        """x of shape (..., channels, height, width) → distribution of batch shape (...), event shape (L,)."""
        pixels = self.standardise(x).movedim(-3, -1)
        pixels = with_labels(pixels, None if y is None else y[..., None, None], self.num_classes)
        return self.q(_over_images(self.body, pixels.movedim(-1, -3)).flatten(-3))


class ConvDecoder(nn.Module):
    """p(x|z): transposed convolutions under the head of a likelihood; with classes, p(x|z, y).

    The outputs of the head come from the last transposed convolution, with a bias for every output and pixel, so that
    they can start at the data.

    Args:
        architecture: Its data are images; each layer doubles them.
        likelihood: p(x|z).

    Raises:
        ValueError: If the shape is not that of an image, or there are more layers than it can be halved.

    Example:
        >>> from pyrovae import Bernoulli
        >>> decoder = ConvDecoder(Architecture(2, (1, 28, 28), hidden=(8, 16)), Bernoulli())
        >>> decoder(torch.zeros(5, 2)).event_shape
        torch.Size([1, 28, 28])
    """

    def __init__(self, architecture: Architecture, likelihood: Likelihood) -> None:
        super().__init__()
        data_shape, channels = architecture.data_shape, architecture.widths[::-1]
        sizes = _sizes(data_shape, len(channels))[::-1]
        self.num_classes = architecture.num_classes
        self.first_shape = (channels[0], *sizes[0])
        self.first = nn.Linear(architecture.latent_dim + architecture.num_labels, math.prod(self.first_shape))
        layers = [architecture.activate()]
        for n_in, n_out, small, large in zip(channels, channels[1:], sizes, sizes[1:], strict=False):
            layers += [_doubling(n_in, n_out, small, large), architecture.activate()]
        self.body = nn.Sequential(*layers)
        self.head = likelihood.head(channels[-1], data_shape, partial(_output_layer, data_shape, sizes[-2]))

    def forward(self, z: Tensor, y: Tensor | None = None) -> dist.Distribution:
        """z of shape (..., L) → distribution of batch shape (...), event shape data_shape."""
        h = self.first(with_labels(z, y, self.num_classes)).unflatten(-1, self.first_shape)
        return self.head(_over_images(self.body, h))


def _doubling(n_in: int, n_out: int, small: Size, large: Size, bias: bool = True) -> nn.ConvTranspose2d:
    """The layer from an image of one size to one of double the size, or one pixel more."""
    more = (large[0] - 2 * small[0], large[1] - 2 * small[1])
    return nn.ConvTranspose2d(n_in, n_out, kernel_size=4, stride=2, padding=1, output_padding=more, bias=bias)


def _output_layer(data_shape: tuple[int, ...], size: Size, num_features: int, num_outputs: int) -> nn.Module:
    """From feature maps (..., F, h, w) to outputs (..., num_outputs): whole images where that is what is asked for."""
    num_images, rest = divmod(num_outputs, math.prod(data_shape))
    if rest:
        return MapsToVector(num_features * math.prod(size), num_outputs)
    return MapsToImages(num_features, size, num_images, data_shape)


class MapsToVector(nn.Linear):
    """Feature maps (..., F, h, w) → (..., num_outputs), an affine layer on all of them."""

    def forward(self, h: Tensor) -> Tensor:
        return super().forward(h.flatten(-3))


class MapsToImages(nn.Module):
    """Feature maps (..., F, h, w) → flattened images (..., num_images · D), with a bias for every number."""

    def __init__(self, num_features: int, size: Size, num_images: int, data_shape: tuple[int, ...]) -> None:
        super().__init__()
        channels, height, width = data_shape
        self.layer = _doubling(num_features, num_images * channels, size, (height, width), bias=False)
        self.bias = nn.Parameter(torch.zeros(num_images * math.prod(data_shape)))

    def reset_parameters(self) -> None:
        """The bias alone; the convolution resets itself."""
        nn.init.zeros_(self.bias)

    def forward(self, h: Tensor) -> Tensor:
        return _over_images(self.layer, h).flatten(-3) + self.bias
