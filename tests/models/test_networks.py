"""Networks whose forward returns a distribution."""

import pyro.distributions as dist
import pytest
import torch
from pyro.infer import TraceMeanField_ELBO
from torch import nn
from torch.distributions import kl_divergence

from pyrovae import VAE, Gaussian
from pyrovae.engine.seeding import seeded
from pyrovae.models import networks
from pyrovae.models.architecture import Architecture

ENCODERS = {
    "gaussian": lambda shape: networks.GaussianEncoder(Architecture(2, shape, (8,))),
    "categorical": lambda shape: networks.CategoricalEncoder(shape, 4, hidden=(8,)),
}


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("shape", [(6,), (1, 2, 3)], ids=str)
@pytest.mark.parametrize("batch_shape", [(5,), (3, 5)], ids=str)
def test_encoders_take_data_of_any_shape(encoder, shape, batch_shape):
    q = ENCODERS[encoder](shape)(torch.randn(*batch_shape, *shape))
    assert q.batch_shape == batch_shape
    assert q.event_shape == ((2,) if encoder == "gaussian" else ())


def test_image_and_flat_encoders_agree_on_the_same_numbers():
    flat, image = (networks.GaussianEncoder(Architecture(2, shape)) for shape in ((6,), (1, 2, 3)))
    image.load_state_dict(flat.state_dict())
    x = torch.randn(5, 6)
    assert (flat(x).mean == image(x.reshape(5, 1, 2, 3)).mean).all()


def test_gaussian_encoder_keeps_its_scale_positive():
    encoder = networks.GaussianEncoder(Architecture(2, (6,), hidden=()))
    nn.init.constant_(encoder.raw_scale.bias, -1e6)
    assert (encoder(torch.randn(5, 6)).stddev > 0).all()


@pytest.mark.parametrize("hidden", [(), (8,), (8, 7)])
def test_mlp_has_an_activation_after_every_layer(hidden):
    layers = networks.mlp((6, *hidden), nn.Tanh)
    assert [type(layer) for layer in layers] == [nn.Linear, nn.Tanh] * len(hidden)
    assert layers(torch.randn(5, 6)).shape == (5, (6, *hidden)[-1])


def test_linear_gaussian_encoder_has_one_full_covariance():
    encoder = networks.LinearGaussianEncoder(6, 3, torch.float64)
    for parameter in encoder.parameters():
        nn.init.normal_(parameter)
    q = encoder(torch.randn(5, 6, dtype=torch.float64))
    tril = encoder.lower.tril(-1) + encoder.log_diagonal.exp().diag()
    assert q.mean.std(0).min() > 0
    torch.testing.assert_close(q.covariance_matrix, (tril @ tril.T).expand(5, 3, 3))


def test_redrawn_parameters_follow_the_random_state():
    encoder, x = networks.GaussianEncoder(Architecture(2, (6,))), torch.randn(5, 6)
    means = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        networks.redraw_parameters(encoder)
        means.append(encoder(x).mean)
    assert (means[0] == means[1]).all()
    assert (means[0] != means[2]).all()


def test_categorical_encoder_has_the_dtype_asked_for():
    encoder = networks.CategoricalEncoder((6,), 4, dtype=torch.float64)
    assert encoder(torch.randn(5, 6, dtype=torch.float64)).probs.dtype == torch.float64


def test_full_posterior_has_a_covariance_of_its_own_for_every_datum():
    encoder = networks.GaussianEncoder(Architecture(3, (6,), hidden=(8,), posterior="full")).double()
    x = torch.randn(5, 6, dtype=torch.float64)
    q, h = encoder(x), encoder.body(x)
    lower = torch.zeros(5, 3, 3, dtype=torch.float64)
    lower[:, [1, 2, 2], [0, 0, 1]] = encoder.below_diagonal(h)
    tril = lower + (nn.functional.softplus(encoder.raw_scale(h)) + 1e-6).diag_embed()
    torch.testing.assert_close(q.covariance_matrix, tril @ tril.mT)
    torch.testing.assert_close(q.mean, encoder.loc(h))
    assert (q.covariance_matrix.std(0) > 0).all()


def test_full_posterior_without_entries_below_the_diagonal_is_the_diagonal_one():
    full, diag = (networks.GaussianEncoder(Architecture(3, (6,), posterior=kind)) for kind in ("full", "diag"))
    diag.load_state_dict({k: v for k, v in full.state_dict().items() if not k.startswith("below")})
    for parameter in full.below_diagonal.parameters():
        nn.init.zeros_(parameter)
    x, z = torch.randn(5, 6), torch.randn(5, 3)
    torch.testing.assert_close(full(x).log_prob(z), diag(x).log_prob(z))


@pytest.mark.usefixtures("stock_pyro")
def test_mean_field_elbo_takes_the_kl_of_a_full_posterior_exactly():
    """As torch does that between two multivariate normals: no noise of z is left in it."""
    vae = VAE(3, 6, Gaussian(1.0), hidden=(8,), posterior="full").double()
    x = torch.randn(5, 6, dtype=torch.float64)
    q = vae.encoder(x)
    kl = kl_divergence(dist.MultivariateNormal(q.loc, scale_tril=q.scale_tril), standard_normal(3))
    torch.testing.assert_close(kl_divergence(q, dist.Normal(torch.zeros(3).double(), 1.0).to_event(1)), kl)
    with seeded(1):
        loss = TraceMeanField_ELBO().loss(vae.model, vae.guide, x)
    with seeded(1):
        z = vae.encoder(x).rsample()
    assert loss == pytest.approx((kl - vae.decoder(z).log_prob(x)).sum().item(), rel=1e-12)
    shifted = dist.Normal(torch.arange(3).double(), torch.tensor([0.5, 1.0, 2.0]).double())
    full = dist.MultivariateNormal(shifted.loc, shifted.variance.diag())
    expected = kl_divergence(dist.MultivariateNormal(q.loc, scale_tril=q.scale_tril), full)
    torch.testing.assert_close(kl_divergence(q, shifted.to_event(1)), expected)


def standard_normal(num_dims):
    return dist.MultivariateNormal(torch.zeros(num_dims).double(), torch.eye(num_dims).double())


def test_full_posterior_of_one_latent_is_the_diagonal_one():
    q = networks.GaussianEncoder(Architecture(1, (6,), posterior="full"))(torch.randn(5, 6))
    assert (q.batch_shape, q.event_shape) == ((5,), (1,))


def test_labels_are_appended_as_their_one_hot_code():
    h, y = torch.randn(3, 4, 2), torch.tensor([2, 0, 1, 2])
    joined = networks.with_labels(h, y, 3)
    assert (joined[..., :2] == h).all()
    for row in range(3):
        assert joined[row, :, 2:].tolist() == [[0, 0, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert networks.with_labels(h, None, None) is h


@pytest.mark.parametrize(
    ("y", "num_classes", "message"), [(None, 3, "given to a cond"), (torch.zeros(4), None, "left out")]
)
def test_labels_and_classes_go_together(y, num_classes, message):
    with pytest.raises(ValueError, match=rf"`y` must be {message}"):
        networks.with_labels(torch.randn(4, 2), y, num_classes)
