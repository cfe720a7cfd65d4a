"""The picture of p(z|x) beside q: what it draws is the posterior, and the regions hold the mass that they say."""

import pytest
import torch
from torch import nn

from pyrovae import PPCA, VAE, Gaussian, plots
from pyrovae.models.networks import LinearGaussianEncoder
from pyrovae.plots.posteriors import MASSES, _levels


def random_ppca(latent_dim, encoder=None):
    ppca = PPCA(latent_dim, 4, noise_variance=0.5, encoder=encoder)
    for parameter in ppca.parameters():
        nn.init.normal_(parameter, std=0.7)
    return ppca


def test_one_latent_is_drawn_as_densities():
    ppca = random_ppca(1)
    x, _ = ppca.sample(2)
    figure = plots.posterior_contours(ppca, x)
    for n, axes in enumerate(figure.axes):
        z, density = axes.lines[0].get_data()  # q, which is the posterior here
        exact = ppca.posterior(x).log_prob(torch.as_tensor(z)[:, None, None]).exp()[:, n].detach()
        torch.testing.assert_close(torch.as_tensor(density), exact, rtol=1e-8, atol=1e-8)
        filled = axes.collections[0].get_paths()[0].vertices[:, 1].max()
        assert filled == pytest.approx(exact.max().item(), rel=1e-3)
        assert torch.trapezoid(exact, torch.as_tensor(z)) == pytest.approx(1, abs=2e-3)


def test_two_latents_are_drawn_as_regions_and_both_fit_in():
    """A q two wide units off: the panel shows the mean of either."""
    encoder = LinearGaussianEncoder(4, 2, torch.float64)
    ppca = random_ppca(2, encoder)
    x, _ = ppca.sample(8)
    with torch.no_grad():
        ppca.match_guide()
        encoder.loc.bias.add_(2)
    figure = plots.posterior_contours(ppca, x, num_nodes=61, most=4)
    assert [axes.get_title() for axes in figure.axes] == [f"datum {n}" for n in range(4)]
    exact, q = ppca.posterior(x).mean, encoder(x).mean
    for n, axes in enumerate(figure.axes):
        for mean in (exact[n], q[n]):
            assert axes.get_xlim()[0] < mean[0] < axes.get_xlim()[1]
            assert axes.get_ylim()[0] < mean[1] < axes.get_ylim()[1]
    assert "68%" in figure.get_suptitle()


def test_regions_hold_their_share_of_the_mass():
    """Of a standard normal in the plane, a share m lies within r² = −2 log(1 − m)."""
    side = torch.linspace(-6, 6, 401, dtype=torch.float64)
    log_density = -0.5 * (side[:, None].square() + side.square())
    expected = [torch.log1p(torch.tensor(-mass)).item() for mass in MASSES]
    assert _levels(log_density) == pytest.approx(expected, abs=5e-3)


def test_more_latents_and_too_few_panels_are_refused():
    x = torch.zeros(2, 4)
    with pytest.raises(ValueError, match=r"`model` must have one latent or two for quadrature, got 3"):
        plots.posterior_contours(VAE(3, 4, Gaussian(), hidden=(4,)), x)
    with pytest.raises(ValueError, match=r"`most` must be a whole number of at least 1, got 0"):
        plots.posterior_contours(VAE(2, 4, Gaussian(), hidden=(4,)), x, most=0)
