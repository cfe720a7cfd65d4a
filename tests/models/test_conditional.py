"""The supervised autoencoder, p(x|y): labels through programs, fits, evaluation and generation."""

import copy
import math
import pickle
from dataclasses import replace

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Predictive, Trace_ELBO, TraceMeanField_ELBO
from torch import nn

from pyrovae import PPCA, VAE, Bernoulli, Gaussian, compare, data, evaluate, exact_guide, fit
from pyrovae.data import Observations, Space

D, L, K = 16, 2, 3
NETWORKS = {"mlp": ((D,), (8,)), "conv": ((1, 4, 4), (4,))}
stock_pyro = pytest.mark.usefixtures("stock_pyro")


def random_parameters(model):
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    return model


@pytest.fixture(params=NETWORKS)
def network(request):
    return request.param


@pytest.fixture
def vae(network):
    shape, hidden = NETWORKS[network]
    return random_parameters(VAE(L, shape, Gaussian("decoder"), hidden, network=network, num_classes=K).double())


@pytest.fixture
def labelled(vae):
    return Observations(torch.randn(7, *vae.data_shape, dtype=torch.float64), labels=torch.arange(7) % K)


class Fixed(nn.Module):
    """A conditional network at one label: an unconditional one."""

    def __init__(self, network, label, num_event_dims):
        super().__init__()
        self.network, self.label, self.num_event_dims = network, label, num_event_dims

    def forward(self, given):
        return self.network(given, torch.full((given.shape[-1 - self.num_event_dims],), self.label))


def at_label(vae, label):
    encoder = Fixed(vae.encoder, label, len(vae.data_shape))
    return VAE(L, vae.data_shape, encoder=encoder, decoder=Fixed(vae.decoder, label, 1))


def whole(observations, label):
    return replace(observations, labels=torch.full((len(observations),), label))


# ----------------------------------------------------------------------------------------------------------- identities


@pytest.mark.parametrize("label", range(K))
def test_given_one_label_it_is_the_unconditional_model_with_that_label_built_in(vae, labelled, label):
    plain, given = at_label(vae, label), whole(labelled, label)
    for estimate in (evaluate.log_weights, evaluate.elbo):
        torch.testing.assert_close(estimate(vae, given, 20, seed=1), estimate(plain, given.x, 20, seed=1))
    conditional, unconditional = (evaluate.log_likelihood(m, o, 20) for m, o in ((vae, given), (plain, given.x)))
    torch.testing.assert_close(conditional.values, unconditional.values)
    for draw in ("sample", "sample_means"):
        for a, b in zip(getattr(vae, draw)(5, labels=label, seed=2), getattr(plain, draw)(5, seed=2), strict=True):
            torch.testing.assert_close(a, b)


def test_every_datum_has_its_own_label(vae, labelled):
    together = evaluate.log_weights(vae, labelled, 5)
    for label in range(K):
        alone = evaluate.log_weights(vae, whole(labelled, label), 5)  # the same noise, datum by datum
        mine = labelled.labels == label
        torch.testing.assert_close(together[:, mine], alone[:, mine])
        assert (together[:, ~mine] != alone[:, ~mine]).all()


@pytest.mark.parametrize("chunk_size", [1, 3, 11])
def test_chunks_do_not_change_the_weights(vae, labelled, chunk_size):
    expected = evaluate.log_weights(vae, labelled, 4)
    torch.testing.assert_close(
        evaluate.log_weights(vae, labelled, 4, chunk_size=chunk_size), expected, rtol=1e-12, atol=1e-9
    )


def test_blocks_of_data_keep_their_labels(monkeypatch, vae, labelled):
    monkeypatch.setattr("pyrovae.evaluate.likelihood.importance.PAIRS", 8)  # two data a block
    terms = [evaluate.elbo_terms(vae, labelled[i : i + 2], 4) for i in (0, 2)]
    blocks = evaluate.elbo_terms(vae, labelled, 4)
    torch.testing.assert_close(blocks.elbo[:2], terms[0].elbo)
    assert (blocks.elbo[2:4] != terms[1].elbo).all()  # another seed
    z = torch.zeros(7, L, dtype=torch.float64)
    torch.testing.assert_close(
        vae.decoder(z, labelled.labels).mean[5], vae.decoder(z[:1], labelled.labels[5:6]).mean[0]
    )


@stock_pyro
def test_programs_are_the_prior_the_decoder_and_the_encoder_given_labels(vae, labelled):
    x, y = labelled.x, labelled.labels
    guide = poutine.trace(vae.guide).get_trace(x, y)
    model = poutine.trace(poutine.replay(vae.model, guide)).get_trace(x, y)
    z = guide.nodes["z"]["value"]
    for trace in (guide, model):
        trace.compute_log_prob()
    torch.testing.assert_close(guide.nodes["z"]["log_prob"], vae.encoder(x, y).log_prob(z))
    torch.testing.assert_close(model.nodes["x"]["log_prob"], vae.decoder(z, y).log_prob(x))
    assert [(f.name, f.size) for f in model.nodes["x"]["cond_indep_stack"]] == [("data", 7)]


def test_marginal_over_labels_is_that_of_a_mixture_whose_components_are_known():
    """z is ignored, so p(x|y) is a Gaussian about the mean of class y, and p(x) their mixture."""

    class Means(nn.Module):
        def __init__(self):
            super().__init__()
            self.means = nn.Parameter(torch.randn(K, 2, dtype=torch.float64))

        def forward(self, z, y):
            return dist.Normal(self.means[y].expand(*z.shape[:-1], 2), 0.7).to_event(1)

    class Prior(nn.Module):
        def forward(self, x, y):
            return dist.Normal(torch.zeros(len(x), L, dtype=x.dtype), 1.0).to_event(1)

    vae = VAE(L, num_classes=K, encoder=Prior(), decoder=(means := Means()))
    x, class_probs = torch.randn(9, 2, dtype=torch.float64), torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    by_class = evaluate.log_likelihood_by_class(vae, x, 3)
    components = torch.distributions.Independent(torch.distributions.Normal(means.means, 0.7), 1)
    mixture = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(class_probs), components)
    torch.testing.assert_close((by_class + class_probs.log()).logsumexp(1), mixture.log_prob(x))
    by_hand = torch.stack([components.log_prob(row) for row in x])
    torch.testing.assert_close(by_class, by_hand)


# -------------------------------------------------------------------------------------------------------- in stock Pyro


@stock_pyro
@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceMeanField_ELBO])
@pytest.mark.parametrize(("posterior", "twin"), [("diag", "built"), ("full", "copied"), ("full", "unpickled")])
def test_stock_svi_trains_it_and_leaves_another_alone(network, elbo, posterior, twin):
    shape, hidden = NETWORKS[network]
    build = lambda: random_parameters(  # noqa: E731
        VAE(L, shape, Gaussian("shared"), hidden, network=network, posterior=posterior, num_classes=K).double()
    )
    vae = build()
    other = {"built": build, "copied": vae.copy, "unpickled": lambda: pickle.loads(pickle.dumps(vae))}[twin]()
    asleep = copy.deepcopy(other.state_dict())
    x, y = torch.randn(20, *shape, dtype=torch.float64), torch.arange(20) % K
    before = {name: p.clone() for name, p in vae.named_parameters()}
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.02}), elbo())
    losses = [svi.step(x, y) for _ in range(30)]
    assert sum(losses[-5:]) < sum(losses[:5])
    assert all((p != before[name]).any() for name, p in vae.named_parameters())
    assert all((value == asleep[name]).all() for name, value in other.state_dict().items())


@stock_pyro
def test_predictive_draws_at_given_labels(vae):
    y = torch.tensor([0, 2, 1, 1])
    for parallel in (False, True):
        drawn = Predictive(vae.model, num_samples=5, parallel=parallel)(None, y)
        assert drawn["x"].shape == (5, 4, *vae.data_shape)
    x = torch.randn(4, *vae.data_shape, dtype=torch.float64)
    assert Predictive(vae.model, guide=vae.guide, num_samples=5)(x, y)["z"].shape == (5, 4, L)


@stock_pyro
@pytest.mark.parametrize("y", [[0, 1, 2], [[0], [1]]], ids=str)
def test_programs_refuse_labels_that_do_not_fit(vae, y):
    x = torch.zeros(2, *vae.data_shape, dtype=torch.float64)
    for program in (vae.model, vae.guide):
        with pytest.raises(ValueError, match=r"`y` must have shape \(2,\), one label a datum, got \("):
            program(x, torch.tensor(y))
        with pytest.raises(ValueError, match=r"`y` must be given to a conditional model, got None; pass the labels"):
            program(x)
        with pytest.raises(TypeError, match=r"`y` must be whole numbers, got torch.float32; convert"):
            program(x, torch.zeros(2))
    with pytest.raises(ValueError, match=r"`x` must be given to an amortized guide, got None; q\(z\|x, y\)"):
        vae.guide(y=torch.tensor([0]))


@stock_pyro
def test_labels_of_a_small_type_serve(vae, labelled):
    torch.manual_seed(1)
    expected = vae.guide(labelled.x, labelled.labels)
    torch.manual_seed(1)
    assert (vae.guide(labelled.x, labelled.labels.to(torch.uint8)) == expected).all()


# ------------------------------------------------------------------------------------------------------ fit and compare


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", observations="binary", dtype=torch.float32)


@pytest.fixture(scope="module")
def fits(digits):
    """The same autoencoder told the labels, and told them wrong."""
    generator = torch.Generator().manual_seed(0)
    wrong = replace(digits.train, labels=torch.randint(10, digits.train.labels.shape, generator=generator))
    vae = VAE(2, (64,), Bernoulli(), (32,), num_classes=10)
    options = {"num_epochs": 12, "batch_size": 64, "lr": 5e-3, "valid": digits.valid}
    return {name: fit.svi(vae, train, **options) for name, train in (("right", digits.train), ("wrong", wrong))}


def test_svi_learns_what_labels_say(fits, digits):
    right, wrong = (fits[name].model for name in ("right", "wrong"))
    gain = (
        evaluate.log_likelihood(right, digits.test, 50).values - evaluate.log_likelihood(wrong, digits.test, 50).values
    )
    assert gain.mean() > 10 * gain.std() / math.sqrt(len(gain))
    assert fits["right"].trace[-1] > fits["right"].trace[0] + 1


def test_it_generates_the_digit_that_is_asked_for(fits, digits):
    """The mean of a class is nearest to the mean image of that class in the data, for every class but at most one."""
    x, y = digits.test.x, digits.test.labels
    centres = torch.stack([x[y == label].mean(0) for label in range(10)])
    agreed = 0
    for label in range(10):
        means, _ = fits["right"].model.sample_means(100, labels=label)
        agreed += int((means.mean(0) - centres).square().sum(1).argmin() == label)
    assert agreed >= 9


def test_it_classifies(fits, digits):
    by_class = evaluate.log_likelihood_by_class(fits["right"].model, digits.test[:100], 20)
    accuracy = (by_class.argmax(1) == digits.test.labels[:100]).double().mean()
    assert by_class.shape == (100, 10)
    assert accuracy > 0.5  # of ten


def test_svi_leaves_data_and_model_alone_and_repeats_itself(vae, labelled):
    before = copy.deepcopy(vae.state_dict())
    results = [fit.svi(vae, labelled, num_epochs=2, batch_size=3, seed=5) for _ in range(2)]
    assert (results[0].trace == results[1].trace).all()
    assert all((value == before[name]).all() for name, value in vae.state_dict().items())


def test_resampled_data_train_with_their_labels(network):
    shape, hidden = NETWORKS[network]
    vae = VAE(L, shape, Bernoulli(), hidden, network=network, num_classes=K)
    grey = Observations(torch.rand(20, *shape), labels=torch.arange(20) % K, resample=True)
    assert fit.svi(vae, grey, num_epochs=2, batch_size=8).trace.isfinite().all()


def test_the_scoreboard_says_what_is_given(fits, digits, tmp_path):
    plain = VAE(2, (64,), Bernoulli(), (8,))
    board = compare({"told": fits["right"], "not told": plain}, digits.test[:50], num_particles=20)
    assert {row.name: row.conditional for row in board.rows} == {"told": True, "not told": False}
    told, not_told = (next(line for line in str(board).split("\n") if line.startswith(n)) for n in ("told", "not told"))
    assert "bound, given y" in told
    assert "given y" not in not_told
    assert "given y: log p(x|y), the label told" in str(board)
    assert "given y" not in str(compare({"not told": plain}, digits.test[:50], num_particles=20))
    board.save(tmp_path / "board")  # pictures, ArviZ files and models too
    assert (tmp_path / "board" / "models" / "told.pt").is_file()


# ------------------------------------------------------------------------------------------------------------- contract


def test_generation_by_label(vae):
    x, z = vae.sample(6, labels=torch.tensor([0, 1, 2, 2, 1, 0]), seed=1)
    means, z_of_means = vae.sample_means(6, labels=[0, 1, 2, 2, 1, 0], seed=1)
    assert (z == z_of_means).all()
    torch.testing.assert_close(means, vae.decoder(z, torch.tensor([0, 1, 2, 2, 1, 0])).mean)
    assert x.shape == means.shape == (6, *vae.data_shape)
    in_turn, z = vae.sample_means(6)
    torch.testing.assert_close(in_turn, vae.decoder(z, torch.arange(6) % K).mean)


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        (None, ValueError, r"`x` must carry labels for a model of p\(x\|y\), got none; pass Observations\(x, lab"),
        (torch.zeros(7), TypeError, r"`x.labels` must be whole numbers, got torch.float32; convert them"),
        (torch.full((7,), K), ValueError, r"`x.labels` must be in 0, …, 2, got values from 3 to 3; number the classes"),
        (torch.full((7,), -1), ValueError, r"`x.labels` must be in 0, …, 2, got values from -1 to -1; number"),
    ],
)
def test_labels_that_do_not_fit_are_refused(vae, labelled, labels, error, message):
    with pytest.raises(error, match=message):
        evaluate.log_weights(vae, replace(labelled, labels=labels), 2)


def test_messages_name_the_argument_that_lacks_labels(vae, labelled):
    with pytest.raises(ValueError, match=r"`data` must carry labels"):
        fit.svi(vae, labelled.x, num_epochs=1)
    with pytest.raises(ValueError, match=r"`valid` must carry labels"):
        fit.svi(vae, labelled, valid=labelled.x, num_epochs=1)


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        (torch.tensor([0, 1]), ValueError, r"`labels` must have shape \(4,\), one label a datum, got \(2,\)"),
        (K, ValueError, r"`labels` must be in 0, …, 2, got values from 3 to 3"),
        (0.5, TypeError, r"`labels` must be whole numbers, got torch.float32"),
    ],
)
def test_labels_of_samples_that_do_not_fit_are_refused(vae, labels, error, message):
    with pytest.raises(error, match=message):
        vae.sample(4, labels=labels)


def test_models_without_classes_take_no_labels(labelled):
    flat = replace(labelled, x=labelled.x.flatten(1))
    for model in (VAE(L, D, hidden=(4,)), PPCA(L, D)):
        assert [each.shape for each in model.program_inputs(flat)] == [(7, D)]
        with pytest.raises(ValueError, match=r"`labels` must be left out for a model of p\(x\)"):
            model.sample(3, labels=1)
        with pytest.raises(ValueError, match=r"`model` must be conditional on labels, got a \w+ of p\(x\)"):
            evaluate.log_likelihood_by_class(model, flat)


def test_modules_of_ones_own_take_labels_as_a_second_argument():
    class Own(nn.Module):
        def __init__(self, n_in, n_out):
            super().__init__()
            self.layer, self.shift = nn.Linear(n_in, n_out), nn.Embedding(K, n_out)

        def forward(self, given, y):
            return dist.Normal(self.layer(given) + self.shift(y), 1.0).to_event(1)

    vae = VAE(L, num_classes=K, encoder=Own(5, L), decoder=Own(L, 5))
    observations = Observations(torch.randn(6, 5), labels=torch.arange(6) % K, space=Space("x", "real"))
    assert vae.data_shape == (5,)
    assert fit.svi(vae, observations, num_epochs=1, batch_size=4).trace.isfinite().all()
    assert compare({"own": vae}, observations, num_particles=5).rows[0].conditional
    with pytest.raises(TypeError, match="closed-form posterior"):
        exact_guide(vae)
