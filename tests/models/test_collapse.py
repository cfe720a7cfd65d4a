"""What every unit of z carries, and why a posterior has collapsed."""

import math

import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.distributions import kl_divergence

from pyrovae import PPCA, VAE, GaussianMixture, evaluate
from pyrovae.models.collapse import latent_kl
from pyrovae.models.collapse_causes import ignores_latents, linear_gain, residuals

D, L = 5, 2


def data(num_data=60):
    return torch.randn(num_data, D)


class Decoder(nn.Module):
    """z → Normal(f(z), 1); it can be blind, and its units can be dead."""

    def __init__(self, blind=False, dead=False):
        super().__init__()
        self.hidden, self.loc, self.blind, self.calls = nn.Linear(L, 8), nn.Linear(8, D), blind, 0
        if dead:
            nn.init.constant_(self.hidden.bias, -1e3)

    def forward(self, z):
        self.calls += 1
        h = self.hidden(torch.zeros_like(z) if self.blind else z).relu()
        return dist.Normal(self.loc(h), 1.0).to_event(1)


class Flow(nn.Module):
    """x → Normal(m(x), ½²), said as a flow, of which no moments are known."""

    def __init__(self):
        super().__init__()
        self.loc = nn.Linear(D, L)

    def forward(self, x):
        loc = self.loc(x)
        base = dist.Normal(torch.zeros_like(loc), 1.0).to_event(1)
        return dist.TransformedDistribution(base, [dist.transforms.AffineTransform(loc, 0.5, event_dim=1)])


def test_the_kl_of_every_unit_is_that_of_the_encoding():
    vae, x = VAE(L, D, hidden=(4,)), data()
    batches = [(x[:40],), (x[40:],)]
    torch.testing.assert_close(latent_kl(vae, batches).float(), evaluate.encode(vae, x).kl.mean(0))


def test_units_of_a_full_covariance_add_up_to_the_whole():
    vae, x = VAE(L, D, hidden=(4,), posterior="full").double(), data().double()
    nn.init.constant_(vae.encoder.below_diagonal.bias, 0.7)
    with torch.no_grad():
        whole = kl_divergence(vae.encoder(x), dist.Normal(x.new_zeros(L), 1.0).to_event(1)).mean()
    assert latent_kl(vae, [(x,)]).sum().item() == pytest.approx(whole.item(), rel=1e-10)


def test_the_units_of_an_exact_posterior_add_up_to_its_kl():
    x = data().double() @ torch.randn(D, D).double()
    ppca = PPCA(L, D)
    ppca.maximum_likelihood(x)
    assert latent_kl(ppca, [(x,)]).sum().item() == pytest.approx(ppca.posterior_kl(x).mean().item(), rel=1e-10)


def test_a_flow_has_the_kl_of_the_gaussian_that_it_is():
    vae, x = VAE(L, D, encoder=Flow(), decoder=Decoder()), data(4000)
    exact = 0.5 * (vae.encoder.loc(x).square() + 0.25 - 1 - math.log(0.25)).sum(1).mean().item()
    log_ratio_deviation = math.sqrt(2 * L * 0.75**2 / 4 + 4 * exact)  # a bound of that of log q − log p, roughly
    assert latent_kl(vae, [(x,)]).sum().item() == pytest.approx(exact, abs=6 * log_ratio_deviation / math.sqrt(40000))


def test_a_latent_that_is_summed_over_has_none():
    assert latent_kl(GaussianMixture(2, D), [(data().double(),)]) is None


def test_a_look_leaves_the_model_and_the_random_state_as_they_were():
    vae = VAE(L, D, encoder=Flow(), decoder=Decoder()).train()
    before, calls = torch.get_rng_state(), vae.decoder.calls
    latent_kl(vae, [(data(),)] if torch.set_rng_state(before) is None else [])
    assert vae.training
    assert vae.decoder.calls == calls


@pytest.mark.parametrize(("options", "ignored"), [({}, False), ({"blind": True}, True), ({"dead": True}, False)])
def test_a_decoder_that_ignores_z_is_told_from_dead_units(options, ignored):
    vae, x = VAE(L, D, encoder=Flow(), decoder=Decoder(**options)), data()
    before = vae.state_dict()
    assert ignores_latents(vae, (x,)) is ignored
    torch.testing.assert_close(vae.state_dict(), before, rtol=0, atol=0)


def test_residuals_are_data_about_the_mean_in_units_of_sigma():
    vae = VAE(L, D, encoder=Flow(), decoder=Decoder(blind=True))
    x = data()
    mean = vae.decoder(torch.zeros(1, L)).mean.detach()
    found = residuals(vae, [(x,)])
    torch.testing.assert_close(found.values, (x - mean).double(), rtol=1e-6, atol=1e-6)
    assert (found.noise_variance, found.has_one_scale, found.is_learned) == (1.0, True, False)


def test_a_linear_model_gains_by_structure_and_by_nothing_else():
    noise = torch.randn(3000, D, dtype=torch.float64)
    axis = torch.randn(3000, 1, dtype=torch.float64) * torch.ones(D, dtype=torch.float64)
    assert linear_gain(noise, None, L).is_none
    assert not linear_gain(noise + axis, None, L).is_none
    expected = 0.5 * (D * math.log(2.0) - math.log(1 + D))  # 1 + D on the axis and 1 beside it, or 2 throughout
    gain = linear_gain(noise + axis, None, 1)
    assert gain.nats == pytest.approx(expected, abs=5 * gain.standard_error + 0.05)
