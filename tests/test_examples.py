"""The programs of docs/examples do what they say, on small data."""

import importlib.util
from pathlib import Path

import optuna
import pytest
import torch
from pyro.infer import Trace_ELBO

from pyrovae import VAE, Bernoulli, BernoulliMixture, compare, data, evaluate, fit, load, save
from pyrovae.engine.seeding import seeded
from pyrovae.evaluate import AISOptions
from pyrovae.fit.defaults import svi_options
from pyrovae.models.architecture import DEFAULT_HIDDEN
from pyrovae.models.defaults import default_latent_dim

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"


def example(name):
    """The module of an example."""
    specification = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


# ---------------------------------------------------------------------------------------------------------- two layers


@pytest.fixture(scope="module")
def two_layers():
    return example("two_layers")


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", observations="binary")


@pytest.fixture(scope="module")
def fitted(two_layers, digits):
    return two_layers.train(digits.train, 60, lr=1e-2, batch_size=200, progress=False)


def test_two_layers_learn_the_digits(two_layers, fitted, digits):
    """Better than independent pixels, whose likelihood is exact, and under its own bound."""
    pixels = fit.em(BernoulliMixture(1, (64,)), digits.train).model
    found = evaluate.log_likelihood(fitted.model, digits.test, num_particles=50)
    assert (found.values - pixels.log_prob(digits.test)).mean() > 1
    assert fitted.trace[-1] > fitted.trace[0]
    with torch.no_grad():
        for name, parameter in fitted.model.named_parameters():
            assert torch.isfinite(parameter).all(), name


@pytest.mark.usefixtures("stock_pyro")
def test_its_bound_is_stock_pyros(two_layers, fitted, digits):
    """At one draw and at the same noise; and what draws gives is p(x, z) / q(z|x) by the four conditionals."""
    x, model = digits.test.x[:5], fitted.model
    with seeded(1):
        stock = Trace_ELBO(num_particles=20, vectorize_particles=True).loss(model.model, model.guide, x)
    z, log_w = evaluate.draws(model, x, 2000)
    assert {name: value.shape[2] for name, value in z.items()} == {"z1": 100, "z2": 50}
    error = (log_w.var(0).sum() * (1 / 20 + 1 / 2000)).sqrt()
    assert abs(-stock - log_w.mean(0).sum()) < 5 * error
    z1, z2 = z["z1"][0], z["z2"][0]
    program, guide = model.model, model.guide
    top = torch.distributions.Normal(0.0, 1.0).log_prob(z2).sum(1)
    p = program.pixels(z1).log_prob(x) + program.low(z2).log_prob(z1) + top
    torch.testing.assert_close(log_w[0], (p - guide.low(x).log_prob(z1) - guide.top(z1).log_prob(z2)).detach())


def test_it_samples_encodes_and_reconstructs(fitted, digits):
    model, x = fitted.model, digits.test[:20]
    drawn, z = model.sample(7)
    assert drawn.shape == (7, 64)
    torch.testing.assert_close(evaluate.decode_means(model, z), model.sample_means(7)[0])
    encoding = evaluate.encode(model, x)
    torch.testing.assert_close(encoding["z1"].mean, model.guide.low(x.x).mean.detach())
    assert encoding["z2"].variance.shape == (20, 50)
    assert evaluate.latent_report(encoding).num_active <= 150
    assert evaluate.reconstruct_samples(model, x).unique().tolist() == [0.0, 1.0]


def test_it_is_annealed_and_compared(fitted, digits):
    x = digits.test[:20]
    options = AISOptions(num_temperatures=20, num_chains=4, start="guide", num_leapfrog=2)
    annealed, elbo = evaluate.ais(fitted.model, x[:5], options), evaluate.elbo_terms(fitted.model, x[:5]).elbo
    error = (annealed.log_weights.var(0) / 4).sum().sqrt() / 5
    assert (annealed.values - elbo).mean() > -5 * error  # chains from the guide bound log p(x) above the ELBO
    vae = VAE(2, (64,), Bernoulli(), hidden=(16,))
    board = compare({"two layers": fitted, "untrained": vae}, x, num_particles=50)
    assert board.rows[0].name == "two layers"


def test_its_file_gives_it_back(two_layers, fitted, digits, tmp_path):
    again = load(save(fitted.model, tmp_path / "two.pt"), into=two_layers.TwoLayers(64))
    assert torch.equal(*(evaluate.log_weights(each, digits.test[:5], 3) for each in (again, fitted.model)))


def test_it_is_what_the_paper_describes_and_starts_at_the_mean_of_the_pixels(two_layers):
    model, x = two_layers.TwoLayers(), torch.rand(50, 784).round()
    widths = [each.out_features for each in model.model.modules() if isinstance(each, torch.nn.Linear)]
    assert widths == [100, 100, 100, 100, 200, 200, 784]
    widths = [each.out_features for each in model.guide.modules() if isinstance(each, torch.nn.Linear)]
    assert widths == [200, 200, 100, 100, 100, 100, 50, 50]
    model.initialize(x)
    bias = model.model.pixels.logits.bias
    torch.testing.assert_close(bias.sigmoid(), x.mean(0).clamp(0.001, 0.999))


# ---------------------------------------------------------------------------------------------------------------- tune


@pytest.fixture(scope="module")
def tune():
    return example("tune")


@pytest.fixture(scope="module")
def images():
    return data.load("digits")


def test_a_study_starts_at_the_default_and_goes_on_where_it_stopped(tune, images, tmp_path):
    """Its best value is the ELBO of a fit with its best parameters."""
    study = tune.study_of(tmp_path / "study.db")
    tune.tune(study, images, num_trials=2, steps=40)
    assert {name: study.trials[0].params[name] for name in tune.DEFAULT} == tune.DEFAULT
    again = tune.study_of(tmp_path / "study.db")
    tune.tune(again, images, num_trials=3, steps=40)
    assert [trial.number for trial in again.trials] == [0, 1, 2]
    assert again.trials[1].params == study.trials[1].params != again.trials[2].params
    assert again.best_value == max(trial.value for trial in again.trials)
    assert tune.fitted(again.best_params, images, 40).elbo == pytest.approx(again.best_value, rel=1e-6)


def test_a_trial_that_lags_behind_is_pruned(tune, images, tmp_path):
    study = tune.study_of(tmp_path / "study.db")
    study.pruner = optuna.pruners.ThresholdPruner(lower=1e6)  # no ELBO of the digits is as high
    tune.tune(study, images, num_trials=1, steps=200)
    (trial,) = study.trials
    assert trial.state == optuna.trial.TrialState.PRUNED
    assert list(trial.intermediate_values) == [1]  # after the first tenth


def test_pruning_leaves_the_model_and_the_random_state_alone(tune, images, tmp_path):
    study = tune.study_of(tmp_path / "study.db")
    study.pruner = optuna.pruners.ThresholdPruner(lower=1e6)
    vae = VAE(2, (64,), hidden=(8,))
    state, parameters = torch.get_rng_state(), [each.clone() for each in vae.parameters()]
    with pytest.raises(optuna.TrialPruned):
        fit.svi(vae, images.train, num_epochs=10, callback=tune.pruner(study.ask(), images.valid, 10))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(map(torch.equal, vae.parameters(), parameters))


def test_its_default_is_that_of_pyrovae(tune, images):
    chosen = svi_options(VAE(8, (64,)), images.train)
    assert {name: chosen[name] for name in ("lr", "batch_size")}.items() <= tune.DEFAULT.items()
    assert default_latent_dim(images.train) == tune.DEFAULT["latent_dim"]
    assert (tune.DEFAULT["width"],) * tune.DEFAULT["num_layers"] == DEFAULT_HIDDEN
