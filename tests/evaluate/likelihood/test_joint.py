"""Latents of any support on the real line: mixtures as priors, wrapped in whatever Pyro has."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import transforms
from torch.distributions import constraints

from pyrovae import AISOptions, evaluate
from pyrovae.evaluate.likelihood import annealed
from pyrovae.evaluate.likelihood.joint import Joint, _bijection
from pyrovae.evaluate.likelihood.plates import Plates
from pyrovae.evaluate.likelihood.tiles import Tiles
from pyrovae.models import LatentVariableModel, Program

SHARES = torch.tensor([0.3, 0.7], dtype=torch.float64)


def pair(first, second):
    return torch.tensor([first, second], dtype=torch.float64)


def mixture(component, *batch):
    return dist.MixtureSameFamily(dist.Categorical(SHARES.expand(*batch, 2)), component)


def flow(base, *parts):
    return dist.TransformedDistribution(base, list(parts))


PRIORS = {
    "real": mixture(dist.Normal(pair(-1, 2), 0.5)),
    "positive": mixture(dist.Gamma(pair(2, 6), 2.0)),
    "in the unit interval": mixture(dist.Beta(pair(2, 5), 3.0)),
    "vectors": mixture(dist.Normal(torch.tensor([[-1.0, 0], [1, 1]]).double(), 0.5).to_event(1)),
    "positive vectors": mixture(dist.LogNormal(torch.tensor([[-1.0, 0], [0, 1]]).double(), 0.5).to_event(1)),
    "simplex": mixture(dist.Dirichlet(torch.tensor([[1.0, 2, 3], [5, 2, 2]]).double())),
    "independent mixtures": mixture(dist.Gamma(pair(2, 6).expand(2, 2), 2.0), 2).to_event(1),
    "a mixture of mixtures": mixture(mixture(dist.Gamma(pair(2, 6).expand(2, 2), 2.0), 2)),
    "a masked mixture": mixture(dist.Gamma(pair(2, 6), 2.0)).mask(True),
    "a transformed mixture": flow(mixture(dist.Normal(pair(-1, 2), 0.5)), transforms.ExpTransform()),
    "of transformed": mixture(flow(dist.Normal(pair(-1, 1), 0.5), transforms.SigmoidTransform())),
    "a mixture of one interval": mixture(dist.Uniform(pair(-1, -1), pair(2, 2))),
    "an interval a number": dist.Uniform(pair(-1, 0), pair(1, 5)).to_event(1),
}


class Prior(Program):
    def __init__(self, prior, noise=False):
        super().__init__()
        self.prior, self.noise = prior, noise

    def forward(self, x=None, *, num_data=1):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", self.prior)
            if self.noise:
                loc = z.reshape(*z.shape[: z.ndim - len(self.prior.event_shape)], -1).sum(-1, keepdim=True)
                pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)


class Model(LatentVariableModel):
    data_shape = (1,)

    def __init__(self, prior):
        super().__init__()
        self.model, self.guide = Prior(prior, noise=True), Prior(prior)


@pytest.mark.parametrize("name", PRIORS)
def test_a_draw_goes_to_real_numbers_and_back(name):
    """And log p(z) there is that of the prior with the volume, by the derivative of the way back."""
    model, x = Model(PRIORS[name]), torch.randn(3, 1, dtype=torch.float64)
    joint = Joint(model.model, (x,), Tiles(100), Plates())
    draws = PRIORS[name].sample((4, 3))
    z = joint.flat({"z": draws})
    values, volume = joint.values(z)
    torch.testing.assert_close(values["z"], draws)
    _, prior = joint.terms((x,), {"z": z})
    torch.testing.assert_close(prior, PRIORS[name].log_prob(draws) + volume)
    jacobian = torch.autograd.functional.jacobian(lambda at: joint.values(at)[0]["z"], z[:1, :1])
    square = jacobian.reshape(-1, joint.latent_dim)[: joint.latent_dim]  # of a simplex, its free numbers
    torch.testing.assert_close(volume[0, 0], square.det().abs().log())


@pytest.mark.parametrize("name", ["real", "in the unit interval", "a mixture of mixtures"])
def test_mixtures_are_priors_for_annealing_and_quadrature(name, monkeypatch):
    monkeypatch.setattr(annealed, "PILOT_TRANSITIONS", 10)
    monkeypatch.setattr(annealed, "PILOT_WARM_UP", 5)
    model, x = Model(PRIORS[name]), torch.randn(3, 1, dtype=torch.float64)
    exact = evaluate.quadrature(model, x)
    chains = evaluate.ais(model, x, AISOptions(200, 10))
    assert ((chains.values - exact.values).abs() <= 6 * chains.standard_error + 1e-4).all()
    weighed = evaluate.log_likelihood(model, x, 5000)
    assert ((weighed.values - exact.values).abs() <= 6 * weighed.standard_error + 1e-4).all()


@pytest.mark.parametrize("join", [constraints.stack, constraints.cat])
def test_joined_supports_are_unwrapped_too(join):
    """(torch has such supports, but its own log_prob of what has them fails.)"""
    mixed = mixture(dist.Beta(pair(2, 5).expand(4, 2), 3.0), 4).support
    support = join([mixed, constraints.positive], -1)
    z = torch.randn(4, 2, dtype=torch.float64)
    bijection = _bijection("z", support)
    expected = torch.stack([z[:, 0].sigmoid(), z[:, 1].exp()], -1)
    torch.testing.assert_close(bijection(z), expected)
    torch.testing.assert_close(bijection.inv(expected), z)


class Moving(Prior):
    """An upper bound that is another latent."""

    def __init__(self):
        super().__init__(None)

    def forward(self, x=None, *, num_data=1):
        with pyro.plate("data", len(x), dim=-1):
            u = pyro.sample("u", dist.Uniform(torch.zeros((), dtype=torch.float64), 1.0))
            z = pyro.sample("z", dist.Uniform(torch.zeros_like(u), u))
            pyro.sample("x", dist.Normal(z[..., None], 1.0).to_event(1), obs=x)


def test_a_support_that_moves_is_refused():
    model, x = Model(PRIORS["real"]), torch.zeros(1, 1, dtype=torch.float64)
    model.model = Moving()
    with pytest.raises(ValueError, match=r"`model` must have latents of one support for all data, got .* at site 'z'"):
        evaluate.ais(model, x)
    model.model = Prior(mixture(dist.Uniform(pair(0, 1), pair(1, 2))), noise=True)
    with pytest.raises(ValueError, match=r"`model` must have latents of one support for all data, got .* at site 'z'"):
        evaluate.quadrature(model, x)


def test_a_support_that_has_no_bijection_is_refused_with_what_to_do():
    masked = dist.MaskedMixture(
        torch.tensor(True), dist.Gamma(pair(1, 1)[0], 1.0), dist.Normal(torch.zeros(()).double(), 1.0)
    )
    with pytest.raises(ValueError, match="`model` must have latents whose support can be mapped from real numbers"):
        evaluate.ais(Model(masked), torch.zeros(2, 1, dtype=torch.float64))
