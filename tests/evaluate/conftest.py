"""A model of the user's own that several tests share."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from pyrovae.models.base import LatentVariableModel, Program


class PositiveAndReal(Program):
    """τ ~ Gamma(3, 2), z ~ Normal(0, 1), x ~ Normal(z, τ^-½) in three dimensions: two latents, one of them positive."""

    def forward(self, x=None, *, num_data=1):
        with pyro.plate("data", num_data if x is None else len(x), dim=-1):
            one = torch.ones((), dtype=torch.float64)
            tau = pyro.sample("tau", dist.Gamma(3 * one, 2 * one))
            z = pyro.sample("z", dist.Normal(0 * one, one))
            scale = tau.rsqrt()[..., None].expand(*tau.shape, 3)
            return pyro.sample("x", dist.Normal(z[..., None].expand_as(scale), scale).to_event(1), obs=x)


class Prior(PositiveAndReal):
    """The same without x: its prior as its guide."""

    def forward(self, x=None, *, num_data=1):
        return poutine.block(super().forward, hide=["x"])(x, num_data=num_data)


class TwoSites(LatentVariableModel):
    data_shape = (3,)

    def __init__(self):
        super().__init__()
        self.register_buffer("like", torch.zeros((), dtype=torch.float64))
        self.model, self.guide = PositiveAndReal(), Prior()


class NormalPrior(Program):
    """z ~ Normal(0, I), the prior of a linear model as its guide; the model itself would observe x in it."""

    def __init__(self, latent_dim):
        super().__init__()
        self.latent_dim = latent_dim

    def forward(self, x, *, num_data=1):
        with pyro.plate("data", len(x), dim=-1):
            return pyro.sample("z", dist.Normal(x.new_zeros(self.latent_dim), 1.0).to_event(1))


@pytest.fixture
def normal_prior():
    return NormalPrior


@pytest.fixture
def two_sites():
    return TwoSites()
