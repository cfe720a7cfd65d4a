"""encode, latent_report, downstream: equal to exact posteriors and analytic KL divergences; classes found again."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.distributions import kl_divergence

from pyrovae import PPCA, VAE, Gaussian, GaussianMixture, data, evaluate, exact_guide, fit
from pyrovae.data import Observations
from pyrovae.evaluate import Encoding
from pyrovae.models.base import LatentVariableModel, Program
from pyrovae.models.networks import LinearGaussianEncoder


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", dtype=torch.float64)


@pytest.fixture(scope="module")
def ppca(digits):
    return fit.closed_form(PPCA(4, (64,)), digits.train).model


@pytest.fixture
def vae():
    return VAE(3, (64,), Gaussian(), hidden=(16,)).double()


def test_ppca_is_encoded_by_its_exact_posterior(ppca, digits):
    encoding = evaluate.encode(ppca, digits.test)
    exact = ppca.posterior(digits.test)
    torch.testing.assert_close(encoding.mean, exact.mean.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(encoding.variance, exact.variance.detach(), rtol=1e-12, atol=1e-12)
    assert torch.equal(encoding.labels, digits.test.labels)
    assert not encoding.mean.requires_grad


def test_a_guide_takes_the_place_of_the_exact_posterior(digits):
    linear = PPCA(2, (64,), encoder=LinearGaussianEncoder(64, 2, torch.float64))
    linear.initialize(digits.train.x)
    with torch.no_grad():
        linear.guide.encoder.loc.bias += 1  # away from the posterior that it started at
    exact, own = evaluate.encode(linear, digits.test), evaluate.encode(linear, digits.test, guide=linear.guide)
    torch.testing.assert_close(own.mean, linear.guide.encoder(digits.test.x).mean.detach())
    assert (own.mean - exact.mean).abs().min() > 0.5
    same = evaluate.encode(linear, digits.test, guide=exact_guide(linear))
    torch.testing.assert_close(same.mean, exact.mean, rtol=1e-12, atol=1e-12)


def test_data_with_values_missing_are_encoded_by_the_posterior_of_what_is_observed(ppca, digits):
    whole = PPCA(ppca.latent_dim, ppca.data_shape, missing="nan")
    whole.load_state_dict(ppca.state_dict())
    x = digits.test.x[:5].clone()
    x[1, ::2] = x[2] = torch.nan
    encoding, q = evaluate.encode(whole, x), whole.posterior(x)
    torch.testing.assert_close(encoding.mean, q.mean)
    torch.testing.assert_close(encoding.variance, q.variance)
    torch.testing.assert_close(encoding.variance[2], torch.ones(ppca.latent_dim, dtype=torch.float64))


def test_a_vae_is_encoded_by_its_encoder_in_evaluation_mode(digits, vae, monkeypatch):
    vae.guide.encoder.body.append(nn.Dropout(0.5))
    vae.train()
    state = torch.get_rng_state()
    encoding = evaluate.encode(vae, digits.test)
    monkeypatch.setattr("pyrovae.evaluate.latents.encoding.ENCODED_FLOATS", 64 * 7)
    in_blocks = evaluate.encode(vae, digits.test)
    assert vae.training
    assert vae.guide.encoder.training
    assert torch.equal(state, torch.get_rng_state())
    q = vae.eval().encoder(digits.test.x)
    torch.testing.assert_close(encoding.mean, q.mean.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(in_blocks.mean, encoding.mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(in_blocks.variance, encoding.variance, rtol=1e-12, atol=1e-12)


def test_a_guide_of_ones_own_is_left_in_its_mode(vae):
    guide = HandwrittenGuide().train()
    encoding = evaluate.encode(vae, torch.ones(5, 64), guide=guide)
    assert torch.equal(encoding.mean, torch.ones(5, 2).double())
    assert guide.training


class HandwrittenGuide(Program):
    """q(z|x) without an encoder, and with dropout."""

    def __init__(self):
        super().__init__()
        self.dropout = nn.Dropout(0.5)

    def forward(self, x=None, *, num_data=1):
        with pyro.plate("data", len(x), dim=-1):
            return pyro.sample("z", dist.Normal(self.dropout(x[:, :2]), 0.5).to_event(1))


class Handwritten(LatentVariableModel):
    """A model of the user's own, with no more than the contract asks for."""

    data_shape = (3,)

    def __init__(self):
        super().__init__()
        self.register_buffer("like", torch.zeros(()))
        self.guide = HandwrittenGuide()


def test_any_guide_will_do():
    x = torch.randn(6, 3)
    encoding = evaluate.encode(Handwritten(), x)
    assert torch.equal(encoding.mean, x[:, :2])
    assert torch.equal(encoding.variance, torch.full((6, 2), 0.25))
    assert encoding.labels is None


def test_units_of_a_diagonal_guide_sum_to_the_analytic_kl(digits, vae):
    encoding = evaluate.encode(vae, digits.test)
    q = vae.encoder(digits.test.x)
    prior = dist.Normal(torch.zeros(3).double(), 1.0).to_event(1)
    torch.testing.assert_close(encoding.kl.sum(1), kl_divergence(q, prior).detach(), rtol=1e-12, atol=1e-12)
    few = digits.test[:20]
    estimates = torch.stack([evaluate.elbo_terms(vae, few, 100, seed=seed).kl.mean() for seed in range(20)])
    difference = estimates - encoding.kl[:20].sum(1).mean()
    assert difference.mean().abs() < 5 * difference.std() / math.sqrt(20)


def test_units_that_depend_on_one_another_tell_more_together(digits):
    x = digits.train.x
    model = fit.closed_form(PPCA(2, (64,)), x).model
    whole = model.posterior_kl(x).detach()
    torch.testing.assert_close(evaluate.encode(model, x).kl.sum(1), whole)  # the axes of the closed form are its own
    with torch.no_grad():
        model.weight.copy_(model.weight @ torch.tensor([[0.6, 0.8], [-0.8, 0.6]], dtype=torch.float64))
    turned = evaluate.encode(model, x)
    torch.testing.assert_close(model.posterior_kl(x).detach(), whole)
    covariance = model.posterior(x[:1]).covariance_matrix[0].detach()
    gap = 0.5 * (covariance.diagonal().log().sum() - covariance.logdet())
    assert gap > 1e-4
    torch.testing.assert_close(whole - turned.kl.sum(1), gap.expand(len(x)), rtol=0, atol=1e-10)


def test_report_finds_what_was_put_in(ppca, digits):
    silent = PPCA(4, (64,))
    silent.load_state_dict(ppca.state_dict())
    with torch.no_grad():
        silent.weight[:, 2] = 0
    encoding = evaluate.encode(silent, digits.train)
    report = evaluate.latent_report(encoding)
    assert report.active.tolist() == [True, True, False, True]
    assert (report.num_active, report.collapse_share) == (3, 0.25)
    torch.testing.assert_close(report.kl[2].item(), 0.0)
    torch.testing.assert_close(report.posterior_variance[2].item(), 1.0)
    torch.testing.assert_close(report.kl, encoding.kl.mean(0))
    torch.testing.assert_close(report.kl_bits * math.log(2), report.kl)
    # At the closed form E[zzᵀ] averages to I, so the two variances of an active unit add to 1.
    total = report.mean_variance + report.posterior_variance
    torch.testing.assert_close(total[report.active], torch.ones(3, dtype=torch.float64))
    assert evaluate.latent_report(encoding, threshold=10).collapse_share == 1


def test_report_prints_the_strongest_unit_on_top():
    mean = torch.tensor([[0.01, 1.0], [-0.01, -1.0]], dtype=torch.float64)
    text = str(evaluate.latent_report(Encoding(mean, torch.tensor([[1.0, 0.25]] * 2, dtype=torch.float64))))
    _, first, second, last = text.splitlines()
    kl = 0.5 * (1 + 0.25 - 1 - math.log(0.25))
    assert first.split() == ["z[1]", f"{kl:.3f}", f"{kl / math.log(2):.3f}", "1.0000", "0.2500", "yes"]
    assert second.split()[0] == "z[0]"
    assert second.split()[-1] == "no"
    assert last.startswith("1 of 2 units active (Var E_q[z] > 0.01), collapse share 50%")


def test_encodings_are_cut_like_observations():
    encoding = Encoding(torch.arange(6.0).reshape(3, 2), torch.ones(3, 2), torch.tensor([0, 1, 1]))
    part = encoding[encoding.labels == 1]
    assert (len(part), part.latent_dim, part.mean.tolist()) == (2, 2, [[2.0, 3.0], [4.0, 5.0]])


def test_refuses(digits, ppca):
    with pytest.raises(ValueError, match="`model` must have a continuous z to be encoded, got GaussianMixture"):
        evaluate.encode(GaussianMixture(2, (64,)), digits.test)
    with pytest.raises(ValueError, match=r"`x` must have shape \(N, 64\), got \(2, 3\)"):
        evaluate.encode(ppca, torch.zeros(2, 3))
    with pytest.raises(TypeError, match="`encoding` must be an Encoding, got Tensor"):
        evaluate.latent_report(torch.zeros(3, 2))
    with pytest.raises(ValueError, match="`encoding` must be of at least 2 data, got 1"):
        evaluate.latent_report(evaluate.encode(ppca, digits.test[:1]))


# --------------------------------------------------------------------------------------------------------- downstream


def coded(mean, labels):
    return Encoding(mean, torch.ones_like(mean), labels)


@pytest.fixture
def apart():
    """Three clusters far apart, and a fourth that is the first again under another label."""
    labels = torch.arange(90) % 3
    noise = torch.randn(90, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return coded(torch.tensor([[0.0, 0.0], [50.0, 0.0], [0.0, 50.0]]).double()[labels] + noise, labels)


def test_separate_classes_are_found_again(apart):
    for result in (evaluate.downstream(apart), evaluate.downstream(apart[:60], apart[60:])):
        accuracies = result.nearest_neighbour_accuracy, result.linear_probe_accuracy
        assert (*accuracies, result.adjusted_rand_index, result.normalized_mutual_information) == (1, 1, 1, 1)
        assert result.majority_share == pytest.approx(1 / 3)
    assert (evaluate.downstream(apart).num_data, result.num_data) == (90, 30)


def test_labels_that_codes_do_not_know_are_guessed():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(2, (1000,), generator=generator)
    result = evaluate.downstream(coded(torch.randn(1000, 3, generator=generator), labels))
    guess = 5 * 0.5 / math.sqrt(1000)  # five standard errors of a fair coin
    assert abs(result.nearest_neighbour_accuracy - 0.5) < guess
    assert abs(result.linear_probe_accuracy - 0.5) < guess
    assert abs(result.adjusted_rand_index) < 0.02
    assert result.majority_share == pytest.approx(labels.bincount().max().item() / 1000)


def test_a_ring_is_seen_by_neighbours_and_not_by_a_line():
    angle = torch.linspace(0, 2 * math.pi, 200).double()
    ring = torch.stack([angle.cos(), angle.sin()], 1)
    x = torch.cat([ring[:100] * 0.1, ring.roll(0, 0) * 5])
    result = evaluate.downstream(coded(x, torch.arange(300) // 100 > 0))
    assert result.nearest_neighbour_accuracy == 1
    assert result.linear_probe_accuracy < 0.9


def test_the_probe_forgets_the_scale_and_the_neighbours_do_not(apart):
    shrunk = coded(apart.mean * torch.tensor([1.0, 1e-6]).double(), apart.labels)
    result = evaluate.downstream(shrunk)
    assert result.linear_probe_accuracy == 1
    assert result.nearest_neighbour_accuracy < 0.95
    assert result.adjusted_rand_index < 0.95


def test_digits_are_found_again_from_eight_numbers(digits):
    model = fit.closed_form(PPCA(8, (64,)), digits.train).model
    train, test = evaluate.encode(model, digits.train), evaluate.encode(model, digits.test)
    result = evaluate.downstream(train, test)
    from sklearn.neighbors import KNeighborsClassifier

    witness = KNeighborsClassifier(1).fit(train.mean.numpy(), train.labels.numpy())
    assert result.nearest_neighbour_accuracy == witness.score(test.mean.numpy(), test.labels.numpy())
    assert result.nearest_neighbour_accuracy > result.linear_probe_accuracy > 5 * result.majority_share
    assert f"{result.linear_probe_accuracy:.3f} ± " in str(result)


def test_missing_labels_are_left_out(apart):
    labels = apart.labels.clone()
    labels[::2] = -1
    assert evaluate.downstream(coded(apart.mean, labels)).num_data == 45


@pytest.mark.parametrize(("accuracy", "num_data"), [(1.0, 5), (0.0, 30), (0.9, 10_000)])
def test_an_accuracy_of_all_or_none_is_not_certain(accuracy, num_data):
    """By the rule of succession; of many data it is the binomial error."""
    said = str(evaluate.Downstream(accuracy, accuracy, 1.0, 1.0, 0.5, num_data))
    error = float(said.splitlines()[0].split("± ")[1])
    share = (accuracy * num_data + 1) / (num_data + 2)
    assert error == pytest.approx((share * (1 - share) / num_data) ** 0.5, abs=5e-4)
    assert error > 0


def test_downstream_refuses(apart):
    with pytest.raises(TypeError, match="`test` must be an Encoding, got Observations"):
        evaluate.downstream(apart, Observations(apart.mean))
    with pytest.raises(ValueError, match="`encoding` must have labels, got none"):
        evaluate.downstream(coded(apart.mean, None))
    with pytest.raises(ValueError, match=r"`encoding` must have data of at least two classes, got labels \[0\]"):
        evaluate.downstream(coded(apart.mean, 0 * apart.labels))
    with pytest.raises(ValueError, match=r"`num_folds` must be a whole number from 2 to 30, got 31; .* smallest class"):
        evaluate.downstream(apart, num_folds=31)
