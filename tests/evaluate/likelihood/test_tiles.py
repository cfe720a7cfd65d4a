"""Evaluators that capture what they do for tile after tile: the same numbers, and what cannot be captured is called."""

import math

import pytest
import torch
from torch import nn

from pyrovae import PPCA, VAE, AISOptions, Bernoulli, FullGaussian, Gaussian, GaussianMixture, evaluate
from pyrovae.data import Observations
from pyrovae.engine.capture import NotStatic, compiler_found
from pyrovae.engine.replay import Replayed
from pyrovae.engine.watch import Watched
from pyrovae.evaluate.likelihood import tiles
from pyrovae.models.base import Program
from pyrovae.models.networks import CategoricalEncoder, LinearGaussianEncoder

D, N, S = 4, 11, 40
MODELS = {
    "Bernoulli VAE": lambda: VAE(2, D, Bernoulli(), hidden=(8,)),
    "Gaussian VAE": lambda: VAE(2, D, Gaussian("decoder"), hidden=(8,)),
    "full covariance": lambda: VAE(2, D, FullGaussian(), hidden=(8,)),
    "conditional VAE": lambda: VAE(2, D, Bernoulli(), hidden=(8,), num_classes=3),
    "images": lambda: VAE(2, (1, 2, 2), hidden=(4,)),
    "PPCA": lambda: PPCA(2, D, floor=0.1, encoder=LinearGaussianEncoder(D, 2, torch.float64)),
    "mixture": lambda: GaussianMixture(3, D, floor=0.1, encoder=CategoricalEncoder((D,), 3).double()),
}


@pytest.fixture(params=MODELS)
def model(request):
    built = MODELS[request.param]().double()
    for parameter in built.parameters():
        nn.init.normal_(parameter, std=0.5)
    return built


def data_for(model):
    x = (torch.randn(N, *model.data_shape, dtype=torch.float64) > 0).double()
    return Observations(x, labels=torch.arange(N) % 3 if model.num_classes else None)


@pytest.fixture
def captured(monkeypatch):
    """How often a graph was replayed, with capture from the first tile on."""
    monkeypatch.setattr(tiles, "TILES_TO_CAPTURE", 0)
    monkeypatch.setattr(tiles, "FEW", 0)
    replays = []
    replay = Replayed._replay
    monkeypatch.setattr(Replayed, "_replay", lambda self, *args: replays.append(self.backend) or replay(self, *args))
    return replays


def everything(model, x, chunk_size):
    return evaluate.log_weights(model, x, S, chunk_size=chunk_size)


@pytest.mark.parametrize("chunk_size", [1, 7, 30, 10**6])
def test_captured_weights_are_the_interpreted_ones_to_the_bit(model, chunk_size, captured, monkeypatch):
    """Tiles of all shapes, a last one that is not full among them."""
    x = data_for(model)
    values = everything(model, x, chunk_size)
    assert set(captured) == ({"graph"} if chunk_size < 10**6 else set())  # the third tile of a shape is the first
    monkeypatch.setattr(tiles, "TILES_TO_CAPTURE", math.inf)
    assert (values == everything(model, x, chunk_size)).all()


@pytest.mark.skipif(not compiler_found(), reason="no C++ compiler")
def test_compiled_weights_are_the_interpreted_ones(captured, monkeypatch):
    """To rounding: in float32 sums over D = 4 of numbers of size 1 to 10, a few parts in 10⁷ each."""
    monkeypatch.setattr(tiles, "FLOATS_TO_COMPILE", 1)
    model = VAE(2, D, Bernoulli(), hidden=(8,))
    x = (torch.randn(N, D) > 0).float()
    values = everything(model, x, 30)
    assert set(captured) == {"inductor"}
    monkeypatch.setattr(tiles, "TILES_TO_CAPTURE", math.inf)
    torch.testing.assert_close(values, everything(model, x, 30), rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("start", ["prior", "guide"])
def test_captured_annealing_is_the_interpreted_one_to_the_bit(start, captured, monkeypatch):
    model = VAE(2, D, Bernoulli(), hidden=(8,)).double()
    x = (torch.randn(N, D, dtype=torch.float64) > 0).double()
    options = AISOptions(4, 6, start, num_leapfrog=3)
    values = evaluate.ais(model, x, options, chunk_size=9).log_weights
    assert set(captured) == {"graph"}
    monkeypatch.setattr(tiles, "TILES_TO_CAPTURE", math.inf)
    assert (values == evaluate.ais(model, x, options, chunk_size=9).log_weights).all()


def test_a_program_that_branches_on_values_is_interpreted(captured, monkeypatch):
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(2, D)

        def forward(self, z):
            logits = self.net(z if z.sum() > 0 else -z)
            return torch.distributions.Independent(torch.distributions.Bernoulli(logits=logits), 1)

    model = VAE(2, encoder=VAE(2, D, hidden=(4,)).encoder, decoder=Branching())
    x = (torch.randn(N, D) > 0).float()
    values = everything(model, x, 30)
    assert captured == []
    monkeypatch.setattr(tiles, "TILES_TO_CAPTURE", math.inf)
    assert (values == everything(model, x, 30)).all()


def test_few_tiles_are_not_captured(monkeypatch):
    monkeypatch.setattr(tiles, "Replayed", None)  # would fail
    model = VAE(2, D, Bernoulli(), hidden=(8,))
    assert everything(model, (torch.randn(N, D) > 0).float(), None).shape == (S, N)


def one_tile(loop, function, z):
    """The function at one tile of a single datum, whose latents are z (S,)."""
    return loop(lambda inputs, latents: function(latents["z"]), (torch.zeros(1),), {"z": z[:, None]})[0][:, 0]


def test_a_shape_that_occurs_seldom_has_no_graph(monkeypatch):
    monkeypatch.setattr(tiles, "TILES_TO_CAPTURE", 0)
    loop, calls = tiles.Tiles(10), []

    def double(x):
        calls.append(x)
        return (2 * x,)

    for each in range(tiles.FEW + 10):
        assert (one_tile(loop, double, torch.full((2,), float(each))) == 2.0 * each).all()
    assert len(calls) == tiles.FEW + 4  # of which the last four are interpreted, twice, captured and compared
    one_tile(loop, double, torch.zeros(3))
    assert len(calls) == tiles.FEW + 5


def test_graphs_hold_parameters_by_reference():
    scale = nn.Parameter(torch.ones(1))
    double = Replayed(lambda x: [x * scale])
    for _ in range(5):
        assert double(torch.ones(1))[0] == 1
    with torch.no_grad():
        scale.mul_(3)
    assert double(torch.ones(1))[0] == 3


def test_what_the_function_refuses_is_refused_in_a_graph_too(captured):
    """A graph validates nothing, so where it gives NaN the function itself is asked."""

    def log_prob(x):
        return (torch.distributions.Normal(x, 1.0).log_prob(torch.zeros(2, 1)),)

    loop = tiles.Tiles(10)
    for _ in range(5):
        one_tile(loop, log_prob, torch.ones(2))
    assert captured
    with pytest.raises(ValueError, match="Expected parameter loc"):
        one_tile(loop, log_prob, torch.tensor([1.0, torch.nan]))


@pytest.mark.parametrize(
    "value",
    [
        lambda x, call: x * (call == 3),  # captured as x, where it is zero otherwise
        lambda x, call: torch.cat([x * call, x / 0]),  # another number each time, beside an infinite one
    ],
)
def test_a_graph_that_is_wrong_beside_zero_or_infinity_is_refused(value):
    calls = []

    def counting(x):
        calls.append(x)
        return [value(x, len(calls))]

    replayed = Replayed(counting, watched=Watched())  # of nothing: there is a second net
    for _ in range(3):
        replayed(torch.ones(2))
    with pytest.raises(NotStatic, match="off, relatively"):
        replayed(torch.ones(2))


def test_a_guide_that_leaves_z_unsampled_is_refused_as_ever(captured):
    class Empty(Program):
        def forward(self, x):
            return None

    model = VAE(2, D, Bernoulli(), hidden=(8,))
    with pytest.raises(ValueError, match="`guide` must sample every latent site"):
        evaluate.log_weights(model, torch.ones(N, D), S, guide=Empty(), chunk_size=7)
