"""Programs whose layers know z (N, L) alone are refused before they give a wrong number; others are left alone."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyrovae import PPCA, evaluate, exact_guide
from pyrovae.evaluate import AISOptions
from pyrovae.models.base import LatentVariableModel, Program

L, D = 3, 4
N = 8  # as many data as features


class Decoding(Program):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x=None, *, num_data=1):
        with pyro.plate("data", num_data if x is None else len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(L), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.layer(z)[..., :D], 1.0).to_event(1), obs=x)


class Encoding(Program):
    """z ~ q(z|x); with a second layer w ~ q(w|z) by a module of its own."""

    def __init__(self, layer=None):
        super().__init__()
        self.first, self.second = nn.Linear(D, L), layer

    def forward(self, x=None, *, num_data=1):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(self.first(x), 1.0).to_event(1))
            if self.second is not None:
                pyro.sample("w", dist.Normal(self.second(z)[..., 0], 1.0))


class Own(LatentVariableModel):
    data_shape = (D,)

    def __init__(self, model, guide):
        super().__init__()
        self.model, self.guide = model, guide


class WithW(Decoding):
    def forward(self, x=None, *, num_data=1):
        with pyro.plate("rows", num_data if x is None else len(x), dim=-1):
            pyro.sample("w", dist.Normal(torch.zeros(()), 1.0))
        super().forward(x, num_data=num_data)


def batch_norm():
    layer = nn.Sequential(nn.Linear(L, N), nn.BatchNorm1d(N))
    for _ in range(10):
        layer(torch.randn(50, L) + 1)
    return layer


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.LSTM(L, N, batch_first=True)

    def forward(self, z):
        return self.layer(z if z.ndim == 3 else z.unsqueeze(1))[0].reshape(*z.shape[:-1], N)


NARROW = {
    "batch norm of as many features as data": batch_norm,
    "a view": lambda: nn.Sequential(nn.Unflatten(1, (L, 1, 1)), nn.ConvTranspose2d(L, N, 1), nn.Flatten(1)),
    "an LSTM that takes particles for time": Recurrent,
}
USES = {
    "weights": lambda model, x: evaluate.log_weights(model, x, 3),
    "likelihood": lambda model, x: evaluate.log_likelihood(model, x, 3),
    "ais": lambda model, x: evaluate.ais(model, x, AISOptions(num_temperatures=2, num_chains=2)),
    "terms": lambda model, x: evaluate.elbo_terms(model, x, 3),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("layer", NARROW)
def test_a_program_that_knows_no_particles_is_refused(layer, use):
    model = Own(Decoding(NARROW[layer]()), Encoding()).eval()
    with pytest.raises(ValueError, match=r"`model` must take particles in a dimension on the left, z \(S, N, \.\.\.\)"):
        USES[use](model, torch.randn(N, D))


@pytest.mark.parametrize("layer", NARROW)
def test_so_is_a_guide(layer):
    model = Own(WithW(nn.Linear(L, D)), Encoding(NARROW[layer]())).eval()
    with pytest.raises(ValueError, match=r"`model` must take particles in a dimension on the left"):
        evaluate.log_weights(model, torch.randn(N, D), 3)


class Noisy(nn.Module):
    def forward(self, z):
        return torch.cat([z, z], -1) + torch.randn(())


@pytest.mark.parametrize("layer", [lambda: nn.Linear(L, D), Noisy], ids=["a linear layer", "a layer that draws"])
def test_others_are_weighed(layer):
    model, x = Own(Decoding(layer()), Encoding()), torch.randn(N, D)
    assert evaluate.log_weights(model, x, 3).shape == (3, N)
    assert evaluate.log_weights(model, x[:1], 3).shape == (3, 1)
    ppca = PPCA(2, (D,))
    assert evaluate.log_weights(ppca, x, 2, guide=exact_guide(ppca)).shape == (2, N)


def test_a_latent_that_all_data_share_is_refused_by_name():
    class Shared(Encoding):
        def forward(self, x=None, *, num_data=1):
            pyro.sample("w", dist.Normal(torch.zeros(()), 1.0))
            super().forward(x, num_data=num_data)

    model = Own(Decoding(nn.Linear(L, D)), Shared())
    for num_data in (1, N):
        with pytest.raises(ValueError, match=r"must have every site inside the plate over data, got site 'w'"):
            evaluate.log_likelihood(model, torch.randn(num_data, D), 3)
