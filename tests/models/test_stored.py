"""Distributions that a program stores: a mixture as prior, a flow; trained with, scored, sampled, copied and saved."""

import copy

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions.transforms import affine_autoregressive
from torch import nn

from pyrovae import PPCA, FactorAnalysis, GaussianMixture, PPCAMixture, evaluate, fit, io
from pyrovae.models.base import LatentVariableModel, Program

L, D = 2, 3


def far_apart(mixture, places):
    """A mixture with means at these places, (K, L)."""
    with torch.no_grad():
        mixture.model.means.copy_(torch.as_tensor(places, dtype=mixture.model.means.dtype))
    return mixture


PLACES = [[-3.0, 0.0], [3.0, 0.0], [0.0, 3.0]]
OTHERS = [[0.5, 0.5], [1.0, 0.0], [0.0, 1.0]]


def by_hand(places, dtype=torch.float32):
    components = dist.Normal(torch.tensor(places, dtype=dtype), torch.tensor(0.5, dtype=dtype)).to_event(1)
    return dist.MixtureSameFamily(dist.Categorical(probs=torch.tensor([0.5, 0.3, 0.2], dtype=dtype)), components)


PRIORS = {
    "full mixture in double precision": lambda places: far_apart(GaussianMixture(3, (L,)), places).as_distribution(),
    "diagonal mixture": lambda places: far_apart(
        GaussianMixture(3, (L,), "diag", dtype=torch.float32), places
    ).as_distribution(),
    "one by hand": by_hand,
    "one by hand in double precision": lambda places: by_hand(places, torch.float64),
    "in a list": lambda places: [by_hand(places)],
    "a flow of constants": lambda places: dist.TransformedDistribution(
        dist.Normal(torch.tensor(places[1]), 1.0).to_event(1), [dist.transforms.AffineTransform(torch.ones(L), 2.0)]
    ),
}


class Stored(Program):
    """z ~ the stored prior; x ~ Normal(Wz + b, 1)."""

    def __init__(self, prior):
        super().__init__()
        self.prior, self.layer = prior, nn.Linear(L, D)

    def forward(self, x=None, *, num_data=1):
        with pyro.plate("data", num_data if x is None else len(x), dim=-1):
            z = pyro.sample("z", self.prior[0] if isinstance(self.prior, list) else self.prior)
            return pyro.sample("x", dist.Normal(self.layer(z), 1.0).to_event(1), obs=x)


class Guide(Program):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(D, 2 * L)

    def forward(self, x=None, *, num_data=1):
        loc, raw = self.layer(x).chunk(2, -1)
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(loc, raw.exp()).to_event(1))


class WithPrior(LatentVariableModel):
    data_shape = (D,)

    def __init__(self, prior):
        super().__init__()
        self.model, self.guide = Stored(prior), Guide()

    def initialize(self, x):
        pass


@pytest.fixture(params=PRIORS)
def build(request):
    return lambda places=PLACES: WithPrior(PRIORS[request.param](places))


def prior_of(model):
    prior = model.model.prior
    return prior[0] if isinstance(prior, list) else prior


def log_weights_at(model, x, z):
    layer, q = model.model.layer, model.guide.layer(x).chunk(2, -1)
    return (
        dist.Normal(layer(z), 1.0).log_prob(x).sum(-1)
        + prior_of(model).log_prob(z)
        - dist.Normal(q[0], q[1].exp()).log_prob(z).sum(-1)
    ).detach()


def test_a_model_with_a_stored_prior_is_fitted_scored_and_sampled(build):
    model, x = build(), torch.randn(40, D)
    before = prior_of(model).log_prob(torch.ones(L))
    fitted = fit.svi(model, x, num_epochs=3, batch_size=10, progress=False).model
    assert (fitted.model.layer.weight != model.model.layer.weight).any()
    for each in (model, fitted):
        z, log_w = evaluate.draws(each, x, 5)
        torch.testing.assert_close(log_w, log_weights_at(each, x, z).to(log_w), rtol=0, atol=1e-4)
        torch.testing.assert_close(prior_of(each).log_prob(torch.ones(L)), before)
    drawn, z = fitted.sample(4000)
    assert drawn.dtype == torch.float32
    own = prior_of(fitted).sample((4000,)).to(z)
    spread = (own.var(0) / 2000).sqrt()
    assert ((z.mean(0) - own.mean(0)).abs() < 5 * spread).all()
    assert evaluate.posterior_predictive_check(fitted, x, num_replicates=2, latents="prior").replicates.shape[0] == 2
    assert evaluate.reconstruct_means(fitted, x).shape == x.shape


def test_its_likelihood_is_annealed_and_integrated(build):
    """Two latents: the integral is known; annealing from either start, and importance weights, come near it."""
    model, x = build(), torch.randn(2, D)
    exact = evaluate.quadrature(model, x, tolerance=1e-3).values
    weighed = evaluate.log_likelihood(model, x, 20_000)
    for start in ("prior", "guide"):
        options = evaluate.AISOptions(num_temperatures=20, num_chains=64, start=start, num_leapfrog=3)
        annealed = evaluate.ais(model, x, options)
        spread = (annealed.log_weights - annealed.values).exp().std(0) / 8
        assert ((annealed.values - exact).abs() < 6 * spread + 1e-3).all()
    assert (weighed.values - exact < 6 * weighed.standard_error.nan_to_num(1) + 1e-3).all()


def test_its_copies_are_equal_and_independent(build):
    model, z = build(), torch.randn(6, L)
    twin = model.copy()
    torch.testing.assert_close(prior_of(twin).log_prob(z), prior_of(model).log_prob(z))
    assert prior_of(twin) is not prior_of(model)
    own = prior_of(model).log_prob(z)
    twin.to(torch.float64)
    assert prior_of(twin).log_prob(z.double()).dtype == torch.float64
    assert torch.equal(prior_of(model).log_prob(z), own)


def test_its_file_holds_the_prior(build, tmp_path):
    model, other = build(), build(OTHERS)
    z = torch.randn(6, L)
    prior_of(model).log_prob(z), prior_of(other).log_prob(z)  # which may leave figures behind
    again = io.load(io.save(model, tmp_path / "model.pt"), into=other)
    torch.testing.assert_close(prior_of(again).log_prob(z), prior_of(model).log_prob(z))
    assert (prior_of(again).log_prob(z) != prior_of(other).log_prob(z)).any()
    x = torch.randn(5, D)
    torch.testing.assert_close(evaluate.log_weights(again, x, 3), evaluate.log_weights(model, x, 3))


def test_a_model_as_part_of_another_keeps_its_floating_point_type_in_a_file(tmp_path):
    """A mixture fitted in double precision, in a program whose layers are in single precision."""
    model, other = (WithPrior(GaussianMixture(2, (L,))) for _ in range(2))
    again = io.load(io.save(model, tmp_path / "model.pt"), into=other)
    expected = model.state_dict()
    assert {each.dtype for each in expected.values()} == {torch.float32, torch.float64}
    for name, value in again.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=0)


@pytest.mark.parametrize(
    "model",
    [
        GaussianMixture(3, (4,)),
        GaussianMixture(3, (4,), "tied"),
        GaussianMixture(2, (4,), "spherical", dtype=torch.float32),
        PPCAMixture(2, 2, (4,)),
        PPCA(2, (4,)),
        FactorAnalysis(1, (4,)),
    ],
    ids=lambda model: type(model).__name__,
)
def test_a_copy_of_what_a_model_is_as_a_distribution_has_its_values_and_no_gradients(model):
    p = model.as_distribution()
    x = p.sample((5,))
    twin = copy.deepcopy(p)
    torch.testing.assert_close(twin.log_prob(x), p.log_prob(x))
    assert p.log_prob(x).requires_grad
    model.zero_grad()
    twin.expand((5,)).log_prob(x).sum().requires_grad_().backward()
    assert all(each.grad is None for each in model.parameters())


@pytest.mark.usefixtures("stock_pyro")
def test_a_mixture_whose_parameters_are_the_models_is_trained_when_it_is_built_in_the_program():
    class Trained(Stored):
        def __init__(self):
            super().__init__(None)
            self.mixture = far_apart(GaussianMixture(3, (L,), dtype=torch.float32), PLACES)

        def forward(self, *inputs, **options):
            self.prior = self.mixture.as_distribution()
            return super().forward(*inputs, **options)

    model = WithPrior(None)
    model.model = Trained()
    fitted = fit.svi(model, torch.randn(40, D), num_epochs=2, lr=0.1, progress=False).model
    assert (fitted.model.mixture.model.means - model.model.mixture.model.means).abs().max() > 0.01
    model.model(torch.zeros(2, D))  # which leaves a distribution behind, and makes another next time
    assert model.copy().sample(3)[0].shape == (3, D)


class Own(Stored):
    """A prior with parameters of the model, computed once, where no training reaches it."""

    def __init__(self, kind):
        super().__init__(None)
        self.loc, self.mixture = nn.Parameter(torch.zeros(L)), GaussianMixture(2, (L,), dtype=torch.float32)
        normal = dist.Normal(self.loc, self.loc.exp() if kind == "normal" else 1.0).to_event(1)
        self.prior = self.mixture.as_distribution() if kind == "mixture" else normal


@pytest.mark.parametrize(("kind", "name"), [("normal", "base_dist.scale"), ("mixture", "_mixture_distribution.logits")])
def test_a_prior_computed_once_from_the_models_own_parameters_is_refused(kind, name):
    model = WithPrior(None)
    model.model = Own(kind)
    with pytest.raises(
        ValueError, match=rf"`model` must make a distribution of its parameters .*got 'model.prior.{name}'"
    ):
        fit.svi(model, torch.randn(8, D), num_epochs=1, progress=False)


def test_one_that_holds_the_parameters_themselves_is_trained():
    model = WithPrior(None)
    model.model = Own("parameter alone")
    fitted = fit.svi(model, torch.randn(8, D) + 5, num_epochs=3, lr=0.1, progress=False).model
    assert fitted.model.loc.abs().min() > 0.01
    assert fitted.model.prior.base_dist.loc is fitted.model.loc
    assert fitted.double().model.prior.base_dist.loc is fitted.model.loc


class FlowPrior(Stored):
    """A flow as prior, whose transform is a module of the program and keeps a cache of what it computed last."""

    def __init__(self):
        super().__init__(None)
        self.flow = affine_autoregressive(L, [4])
        self.prior = dist.TransformedDistribution(dist.Normal(torch.zeros(L), 1.0).to_event(1), [self.flow])


def test_a_flow_with_parameters_of_its_own_is_trained_and_copied_after_use(tmp_path):
    model, x = WithPrior(None), torch.randn(30, D)
    model.model = FlowPrior()
    model.model.prior.log_prob(model.model.prior.rsample())
    fitted = fit.svi(model, x, num_epochs=2, lr=0.1, progress=False).model
    z = torch.randn(4, L)
    assert (fitted.model.prior.log_prob(z) - model.model.prior.log_prob(z)).abs().max() > 1e-3
    again = io.load(io.save(fitted, tmp_path / "flow.pt"), into=model)
    torch.testing.assert_close(again.model.prior.log_prob(z), fitted.model.prior.log_prob(z))
    assert fitted.copy().sample(3)[0].shape == (3, D)
