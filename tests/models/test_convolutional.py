"""Convolutional networks: images of any channels and size, under any likelihood."""

import pytest
import torch
from torch import nn

from pyrovae import VAE, Bernoulli, ContinuousBernoulli, DiscretizedLogistic, FullGaussian, Gaussian, LowRankGaussian
from pyrovae.models.architecture import Architecture, default_channels
from pyrovae.models.convolutional import ConvDecoder, ConvEncoder
from pyrovae.models.networks import redraw_parameters

L = 3
IMAGES = [(1, 28, 28), (3, 64, 64), (2, 9, 7), (1, 8, 8), (3, 5, 17), (1, 2, 3)]
SMALL = (2, 9, 6)
LIKELIHOODS = [
    Bernoulli(),
    ContinuousBernoulli(),
    DiscretizedLogistic(17),
    *(Gaussian(scale) for scale in (0.5, "shared", "per_dim", "decoder_scalar", "decoder")),
    LowRankGaussian(2),
    FullGaussian(),
]
images = pytest.mark.parametrize("shape", IMAGES, ids=str)
likelihoods = pytest.mark.parametrize("likelihood", LIKELIHOODS, ids=str)


@images
def test_images_of_any_channels_and_size(shape):
    channels = [4 + i for i in range(len(default_channels(shape)))]
    architecture = Architecture(L, shape, channels)
    encoder, decoder = ConvEncoder(architecture), ConvDecoder(architecture, Gaussian("decoder"))
    q = encoder(torch.randn(5, *shape))
    p = decoder(q.mean)
    assert (q.batch_shape, q.event_shape) == ((5,), (L,))
    assert (p.batch_shape, p.event_shape) == ((5,), shape)


@pytest.mark.parametrize(
    ("shape", "channels"),
    [
        ((1, 28, 28), (32, 64)),
        ((3, 64, 64), (32, 64, 128, 256)),
        ((3, 200, 256), (32, 64, 128, 256, 256)),
        ((1, 8, 8), (32,)),
        ((1, 15, 40), (32,)),
        ((1, 16, 16), (32, 64)),
        ((1, 2, 2), (32,)),
    ],
)
def test_the_default_stack_halves_until_a_side_is_shorter_than_eight(shape, channels):
    assert default_channels(shape) == channels


@images
def test_every_pixel_is_seen_and_every_pixel_is_drawn(shape):
    channels = [3 for _ in default_channels(shape)]
    architecture = Architecture(L, shape, channels, "silu")
    encoder, decoder = ConvEncoder(architecture).double(), ConvDecoder(architecture, Gaussian(1.0)).double()
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    (seen,) = torch.autograd.grad(encoder(x).mean.square().sum(), x)
    assert (seen != 0).all()
    z = torch.randn(7, L, dtype=torch.float64)
    assert (decoder(z).mean.std(0) > 0).all()


@likelihoods
@pytest.mark.parametrize("num_classes", [None, 4])
def test_leading_dimensions_are_a_batch(likelihood, num_classes):
    architecture = Architecture(L, SMALL, (4, 5), num_classes=num_classes)
    encoder, decoder = ConvEncoder(architecture).double(), ConvDecoder(architecture, likelihood).double()
    x, z = torch.rand(6, 5, *SMALL, dtype=torch.float64), torch.randn(6, 5, L, dtype=torch.float64)
    y = () if num_classes is None else (torch.arange(5) % num_classes,)
    row = [each[1:2] for each in y]
    torch.testing.assert_close(encoder(x, *y).mean[3, 1], encoder(x[3, 1][None], *row).mean[0])
    torch.testing.assert_close(decoder(z, *y).mean[3, 1], decoder(z[3, 1][None], *row).mean[0])
    torch.testing.assert_close(decoder(z, *y).variance[3, 1], decoder(z[3, 1][None], *row).variance[0])


@likelihoods
def test_gradients_reach_every_parameter(likelihood):
    decoder = ConvDecoder(Architecture(L, SMALL, (4, 5)), likelihood).double()
    p = decoder(torch.randn(8, L, dtype=torch.float64))
    p.log_prob(p.sample()).sum().backward()
    for name, parameter in decoder.named_parameters():
        assert (parameter.grad != 0).any(), name


@pytest.mark.parametrize("likelihood", [Bernoulli(), ContinuousBernoulli(), Gaussian("decoder"), LowRankGaussian(2)])
def test_output_starts_at_the_data_pixel_by_pixel(likelihood):
    x = torch.rand(300, *SMALL, dtype=torch.float64) * torch.linspace(0.1, 1, 108, dtype=torch.float64).reshape(SMALL)
    x = x.bernoulli() if isinstance(likelihood, Bernoulli) else x
    vae = VAE(L, SMALL, likelihood, (4, 5), network="conv").double()
    vae.initialize(x)
    for layer in vae.decoder.head.modules():
        if isinstance(layer, nn.ConvTranspose2d):
            nn.init.zeros_(layer.weight)
    output = vae.decoder(torch.zeros(1, L, dtype=torch.float64))
    torch.testing.assert_close(output.mean[0], x.mean(0).clamp(0.001, 0.999), rtol=1e-10, atol=0)
    if isinstance(likelihood, Gaussian | LowRankGaussian):
        torch.testing.assert_close(output.variance[0], x.var(0, correction=0), rtol=1e-10, atol=0)


def test_columns_of_a_low_rank_factor_are_images():
    """So that the noise of neighbouring pixels is drawn by one kernel, as their means are."""
    decoder = ConvDecoder(Architecture(L, SMALL, (4, 5)), LowRankGaussian(3)).double()
    z = torch.randn(2, L, dtype=torch.float64)
    h = decoder.body(decoder.first(z).unflatten(-1, decoder.first_shape))
    images = decoder.head.factor.layer(h).unflatten(1, (3, SMALL[0]))
    nn.init.zeros_(decoder.head.factor.bias)
    torch.testing.assert_close(decoder(z).vectors.cov_factor.mT.unflatten(-1, SMALL), images)


def test_redrawing_covers_every_weight_and_follows_the_random_state():
    vae = VAE(L, SMALL, Gaussian("decoder"), (4, 5), network="conv", posterior="full", num_classes=3)
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        for module in (vae.encoder, vae.decoder):
            redraw_parameters(module)
        drawn.append({name: value.clone() for name, value in vae.state_dict().items() if name.endswith("weight")})
    assert len(drawn[0]) == 2 + 3 + 1 + 1 + 2
    for name, weight in drawn[0].items():
        assert (weight == drawn[1][name]).all(), name
        assert (weight != drawn[2][name]).all(), name


def test_labels_are_seen_by_encoder_and_decoder():
    vae = VAE(L, SMALL, hidden=(4, 5), network="conv", num_classes=3)
    x, z = torch.randn(1, *SMALL), torch.randn(1, L)
    for module, given in ((vae.encoder, x), (vae.decoder, z)):
        zero, two = (module(given, torch.tensor([y])).mean for y in (0, 2))
        assert (zero != two).any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"data_shape": (784,)},
            r"`data_shape` must be \(channels, height, width\) for a conv.*, got \(784,\); show it",
        ),
        ({"hidden": (4, 4, 4, 4)}, r"`hidden` must hold .* at least 1 and at most 2 layers, .* of 9 by 6, got 4"),
        ({"hidden": ()}, r"`hidden` must hold the channels of at least 1 and at most 2 layers, .*, got 0"),
        ({"network": "resnet"}, r"`network` must be one of \('mlp', 'conv'\), got 'resnet'"),
    ],
)
def test_shapes_and_layers_that_do_not_fit_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        VAE(**{"latent_dim": L, "data_shape": SMALL, "network": "conv", **arguments})
