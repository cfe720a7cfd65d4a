"""The example of a tractable model of one's own: exact by the sum over all paths, ascended by EM, taken everywhere."""

import importlib.util
import itertools
import math
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceEnum_ELBO
from scipy import stats
from torch import nn

import pyrovae
from pyrovae import GaussianMixture, compare, evaluate, fit

EXAMPLE = Path(__file__).parents[1] / "docs" / "examples" / "hidden_markov.py"
spec = importlib.util.spec_from_file_location("hidden_markov", EXAMPLE)
hidden_markov = importlib.util.module_from_spec(spec)
spec.loader.exec_module(hidden_markov)
HiddenMarkovModel, MarkovChain = hidden_markov.HiddenMarkovModel, hidden_markov.MarkovChain

K, T = 3, 4
PATHS = torch.tensor(list(itertools.product(range(K), repeat=T)))
few_iterations = pytest.mark.filterwarnings("ignore::pyrovae.fit.ConvergenceWarning")


def build(num_states=K, length=T, floor=0.01):
    """At random parameters."""
    model = HiddenMarkovModel(num_states, length, floor)
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return model


def data(num_data=30):
    x, _ = build().sample(num_data)
    return x


@torch.no_grad()
def joint_of_paths(model, x):
    """log p(z), (K^T,), and log p(x, z), (N, K^T), term by term, by scipy."""
    initial, transition = model.model.initial.softmax(0).log(), model.model.transition.softmax(1).log()
    prior = torch.stack([initial[z[0]] + transition[z[:-1], z[1:]].sum() for z in PATHS])
    variance = model.model.noise_factor.square() + model.model.floor
    density = stats.norm(model.model.mean[PATHS].numpy(), variance.sqrt()[PATHS].numpy()).logpdf(x[:, None].numpy())
    return prior, prior + torch.from_numpy(density).sum(2)


# ------------------------------------------------------------------------------------------------------ exactness


def test_log_prob_is_the_sum_over_all_paths():
    model, x = build(), data()
    _, joint = joint_of_paths(model, x)
    torch.testing.assert_close(model.log_prob(x), joint.logsumexp(1), rtol=1e-10, atol=1e-10)


def test_the_posterior_is_bayes_rule_on_every_path():
    model, x = build(), data()
    prior, joint = joint_of_paths(model, x)
    expected, posterior = joint.log_softmax(1), model.posterior(x)
    torch.testing.assert_close(posterior.log_prob(PATHS[:, None]).T, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(model.posterior_kl(x), (expected.exp() * (expected - prior)).sum(1))
    states, pairs = posterior.marginals()
    for t, i in itertools.product(range(T), range(K)):
        torch.testing.assert_close(states[:, t, i], expected.exp() @ (PATHS[:, t] == i).double())
    for t, i, j in itertools.product(range(T - 1), range(K), range(K)):
        moved = (PATHS[:, t] == i) & (PATHS[:, t + 1] == j)
        torch.testing.assert_close(pairs[:, t, i, j], expected.exp() @ moved.double())


@pytest.mark.usefixtures("stock_pyro")
def test_stock_pyro_gives_the_same_by_enumeration_and_by_the_elbo():
    """With the exact posterior as guide the ELBO of any draw is log p(x)."""
    model, x = build(), data()
    program = model.model

    def enumerated(x):
        with pyro.plate("data", len(x)):
            logits = program.initial
            for t in pyro.markov(range(T)):
                z = pyro.sample(f"z{t}", dist.Categorical(logits=logits), infer={"enumerate": "parallel"})
                pyro.sample(f"x{t}", program.emission(z), obs=x[:, t])
                logits = program.transition[z]

    total = model.log_prob(x).sum().item()
    assert TraceEnum_ELBO(max_plate_nesting=1).loss(enumerated, lambda x: None, x) == pytest.approx(-total, rel=1e-9)
    assert Trace_ELBO().loss(program, model.guide, x) == pytest.approx(-total, rel=1e-9)


def test_every_importance_weight_is_log_prob():
    model, x = build(), data()
    log_weights = evaluate.log_weights(model, x, 20)
    torch.testing.assert_close(log_weights, model.log_prob(x).expand(20, -1), rtol=1e-10, atol=1e-10)


def test_samples_have_the_frequencies_of_the_chain():
    """Each pair of states at each time, within 5 standard errors: 27 of them, once in 60,000 seeds."""
    model, number = build(), 20_000
    x, z = model.sample(number)
    assert x.shape == z.shape == (number, T)
    _, pairs = model.model.chain().marginals()
    for t, i, j in itertools.product(range(T - 1), range(K), range(K)):
        p = pairs[t, i, j].item()
        share = ((z[:, t] == i) & (z[:, t + 1] == j)).double().mean().item()
        assert abs(share - p) <= 5 * math.sqrt(p * (1 - p) / number) + 1 / number


@pytest.mark.parametrize(("num_states", "number"), [(1, 2), (2, 7), (3, 14)])
def test_the_free_parameters_are_the_dimension_of_the_set_of_densities(num_states, number):
    """The rank of the Jacobian of log p at many x; the program holds more numbers."""
    model, x = build(num_states), 2 * torch.randn(200, T, dtype=torch.float64)
    gradients = [torch.autograd.grad(each, list(model.parameters()), retain_graph=True) for each in model.log_prob(x)]
    matrix = torch.stack([torch.cat([each.flatten() for each in row]) for row in gradients])
    assert torch.linalg.matrix_rank(matrix, rtol=1e-9) == number == model.num_free_parameters
    assert matrix.shape[1] > number
    total = model.log_prob(x).sum().item()
    assert model.bic(x) == pytest.approx(-2 * total + number * math.log(200))
    assert model.aic(x) == pytest.approx(-2 * total + 2 * number)


# ------------------------------------------------------------------------------------------------------------- EM


@few_iterations
@pytest.mark.parametrize("floor", [1e-6, 0.3, 30.0])  # never binds, binds in some states, binds in all
@pytest.mark.parametrize("weighted", [False, True])
def test_em_never_falls(floor, weighted):
    x = data()
    weight = torch.rand(len(x), dtype=torch.float64) + 0.1 if weighted else None
    result = fit.em(HiddenMarkovModel(K, T, floor), x, sample_weight=weight, max_iterations=40, tolerance=1e-12)
    assert (result.trace.diff() >= -1e-10).all()
    share = torch.ones(len(x)) if weight is None else weight
    mean = (result.model.log_prob(x) * share).sum() / share.sum()
    assert result.trace[-1].item() == pytest.approx(mean.item(), rel=1e-10)


@few_iterations
@pytest.mark.parametrize("chunk_size", [1, 7])
def test_em_in_chunks_is_em(chunk_size):
    x, model = data(), build()
    options = {"warm_start": True, "max_iterations": 5, "tolerance": 1e-12}
    whole, chunks = (fit.em(model, x, chunk_size=size, **options) for size in (None, chunk_size))
    torch.testing.assert_close(chunks.trace, whole.trace, rtol=1e-10, atol=1e-10)


@few_iterations
def test_a_weight_of_two_is_a_datum_twice():
    x, model = data(), build()
    options = {"warm_start": True, "max_iterations": 5, "tolerance": 1e-12}
    weighted = fit.em(model, x, sample_weight=1 + (torch.arange(len(x)) < 10).double(), **options)
    torch.testing.assert_close(weighted.trace, fit.em(model, torch.cat([x, x[:10]]), **options).trace)


def test_the_m_step_is_a_maximum():
    """No direction among the free parameters gains from where EM has converged."""
    x = data(40)
    result = fit.em(HiddenMarkovModel(2, T, floor=0.5), x, tolerance=1e-13, max_iterations=20_000, accelerate=True)
    model = result.model
    model.log_prob(x).mean().backward()
    for name in ("mean", "initial", "transition"):
        parameter = getattr(model.model, name)
        likely = parameter.softmax(-1) > 1e-6 if name != "mean" else torch.ones(2, dtype=torch.bool)
        assert parameter.grad[likely].abs().max() < 1e-4, name


# ------------------------------------------------------------------------------------------------------- everywhere


@few_iterations
def test_it_stands_beside_other_models_where_it_made_the_data():
    truth = build(2, 8)
    with torch.no_grad():
        truth.model.mean.copy_(torch.tensor([-2.0, 2.0]))
        truth.model.transition.copy_(2 * torch.eye(2))
        truth.model.noise_factor.fill_(1.0)
    train, test = truth.sample(200, seed=1)[0], truth.sample(400, seed=2)[0]
    fits = {
        "chain": fit.em(HiddenMarkovModel(2, 8, floor=0.01), train, tolerance=1e-3, num_restarts=2),
        "mixture": fit.em(GaussianMixture(2, (8,), "diag", floor=0.01), train, tolerance=1e-3),
    }
    best, other = compare(fits, test).rows
    assert (best.name, best.kind, best.num_free_parameters) == ("chain", "exact", 7)
    assert other.difference < -5 * other.difference_standard_error
    assert best.mean == pytest.approx(fits["chain"].model.score(test), rel=1e-10)
    assert best.reconstruction - best.kl == pytest.approx(best.mean, rel=1e-9)


def test_svi_ascends_the_same_likelihood():
    x, model = data(), build()
    by_svi = fit.svi(model, x, num_epochs=30, batch_size=len(x), lr=0.03, warm_start=True)
    assert by_svi.trace[0].item() == pytest.approx(model.score(x), rel=1e-9)  # the ELBO of the exact posterior
    assert by_svi.model.score(x) > model.score(x)


def test_it_is_copied_saved_and_loaded(tmp_path):
    model, x = build(), data()
    before = model.log_prob(x).detach()
    copied = model.copy()
    with torch.no_grad():
        copied.model.mean.add_(1.0)
    torch.testing.assert_close(model.log_prob(x), before, rtol=0, atol=0)
    torch.testing.assert_close(evaluate.log_weights(copied, x, 2)[0], copied.log_prob(x))  # its guide is its own
    file = pyrovae.save(model, tmp_path / "chain.pt")
    with pytest.raises(ValueError, match=r"`into` must be given for a HiddenMarkovModel .*; pass a model built as"):
        pyrovae.load(file)
    loaded = pyrovae.load(file, into=HiddenMarkovModel(K, T, 0.01))
    assert torch.equal(loaded.log_prob(x), before)


def test_the_chain_is_a_distribution():
    """Expanded or not, over any sample shape, all paths have probability 1."""
    chain = build().model.chain()
    assert chain.log_prob(PATHS).logsumexp(0).item() == pytest.approx(0.0, abs=1e-12)
    wide = chain.expand(torch.Size((5, 2)))
    assert wide.sample((3,)).shape == (3, 5, 2, T)
    assert wide.log_prob(PATHS[:5, None]).shape == (5, 2)
    assert chain.support.check(chain.sample((10,))).all()
