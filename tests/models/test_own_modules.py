"""Modules of the user's own: shapes that they know, modes that they are in, and state that is theirs."""

import copy
import random

import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import transforms
from torch import nn

from pyrovae import VAE, Bernoulli, Gaussian, data, evaluate, fit
from pyrovae.evaluate import AISOptions
from pyrovae.models.distributions import Unflattened

L, SIDE, D = 3, 2, 4
N = 8  # as many data as the batch norm below has features


class Own(nn.Module):
    """A decoder from ``body``, features of z (N, L), to a likelihood."""

    def __init__(self, body, likelihood):
        super().__init__()
        self.body, self.likelihood = body, likelihood

    def forward(self, z):
        return self.likelihood(self.body(z))


class Viewed(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.ConvTranspose2d(L, N // SIDE**2, SIDE)

    def forward(self, z):
        return self.layer(z.view(-1, L, 1, 1)).flatten(1)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.LSTM(L, N, batch_first=True)

    def forward(self, z):
        return self.layer(z.unsqueeze(1).expand(-1, 2, -1))[0][:, -1]


class Attentive(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.layer = nn.Linear(L, 2 * N), nn.MultiheadAttention(N, 2, batch_first=True)

    def forward(self, z):
        tokens = self.first(z).view(len(z), 2, N)
        return self.layer(tokens, tokens, tokens)[0].mean(1)


class Contracted(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(L, L, N))

    def forward(self, z):
        return torch.einsum("nl,nm,lmd->nd", z, z, self.weight)


class ZeroAtFirst(nn.Module):
    """A layer that takes the wrong dimension of z (S, N, L), which its zero weights hide in the beginning."""

    def __init__(self):
        super().__init__()
        self.last = nn.Linear(L, N)
        nn.init.zeros_(self.last.weight)

    def forward(self, z):
        return self.last(z.softmax(1))


BODIES = {
    "a layer of zeros": ZeroAtFirst,
    "a view": Viewed,
    "batch norm of as many features as data": lambda: nn.Sequential(nn.Linear(L, N), nn.BatchNorm1d(N), nn.Tanh()),
    "instance norm over channels": lambda: nn.Sequential(
        nn.Linear(L, N), nn.Unflatten(1, (2, 4)), nn.InstanceNorm1d(2, affine=True), nn.Flatten(1)
    ),
    "an LSTM": Recurrent,
    "attention": Attentive,
    "einsum": Contracted,
}


def flow(h):
    return dist.TransformedDistribution(
        dist.Normal(h[:, :D], 1.0).to_event(1), [transforms.AffineTransform(0.0, 2.0), transforms.TanhTransform()]
    )


def mixture(h):
    components = dist.Normal(h.view(-1, 2, D), 0.5).to_event(1)
    return dist.MixtureSameFamily(dist.Categorical(logits=h[:, :2]), components)


LIKELIHOODS = {
    "Bernoulli": lambda h: dist.Bernoulli(logits=h[:, :D]).to_event(1),
    "Student t": lambda h: dist.StudentT(3.0, h[:, :D], h[:, D:].exp()).to_event(1),
    "full": lambda h: dist.MultivariateNormal(h[:, :D], torch.eye(D, dtype=h.dtype)),
    "low rank": lambda h: dist.LowRankMultivariateNormal(h[:, :D], h[:, :D, None], h[:, D:].exp()),
    "a flow": flow,
    "a mixture": mixture,
    "categories": lambda h: dist.Categorical(logits=h.view(-1, D, 2)).to_event(1),
    "masked": lambda h: dist.Normal(h[:, :D], 1.0).to_event(1).mask(True),
}


def expected_log_weights(vae, x, z):
    """By definition, particle by particle."""
    vae = copy.deepcopy(vae).eval()
    prior = torch.distributions.Normal(0.0, 1.0)
    parts = [vae.decoder(each).log_prob(x) + prior.log_prob(each).sum(1) - vae.encoder(x).log_prob(each) for each in z]
    return torch.stack(parts).detach()


def warmed_up(module, num_features):
    """The module after batches that give its running statistics something to say."""
    for _ in range(20):
        module(torch.randn(50, num_features, dtype=torch.float64))
    return module


@pytest.mark.parametrize("body", BODIES)
def test_a_decoder_that_knows_z_as_a_matrix_alone_is_evaluated_as_it_was_trained(body):
    decoder = warmed_up(Own(BODIES[body](), LIKELIHOODS["Bernoulli"]).double(), L)
    vae, x = VAE(L, (D,), decoder=decoder, hidden=(5,)).double(), torch.rand(N, D, dtype=torch.float64).round()
    assert vae.model.by_rows
    if body == "a layer of zeros":
        nn.init.normal_(vae.decoder.body.last.weight)
    z, log_w = evaluate.draws(vae, x, 6)
    torch.testing.assert_close(log_w, expected_log_weights(vae, x, z), rtol=0, atol=1e-9)
    one = evaluate.log_likelihood(vae, x, 6, chunk_size=5).values  # blocks of other sizes
    torch.testing.assert_close(one, evaluate.log_likelihood(vae, x, 6).values, rtol=0, atol=1e-9)
    fitted = fit.svi(vae, x, num_epochs=2, batch_size=4, elbo=fit.ImportanceWeightedELBO(3), progress=False)
    assert torch.isfinite(fitted.trace).all()


def test_a_decoder_of_any_leading_shape_is_given_particles_as_they_are():
    plain = nn.Sequential(nn.Linear(L, 5), nn.LayerNorm(5), nn.Dropout(0.5), nn.Linear(5, D))
    decoder = Own(plain, lambda h: dist.Bernoulli(logits=h).to_event(1))
    assert not VAE(L, (D,), decoder=decoder, hidden=(5,)).model.by_rows
    assert not VAE(L, (D,), hidden=(5,)).model.by_rows


def test_so_it_is_when_it_is_annealed():
    decoder = Own(BODIES["a view"](), LIKELIHOODS["Bernoulli"])
    x = torch.ones(N, D)
    estimate = evaluate.ais(VAE(L, (D,), decoder=decoder, hidden=(5,)), x, AISOptions(num_temperatures=3, num_chains=2))
    assert torch.isfinite(estimate.values).all()


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_whatever_such_a_decoder_returns_is_scored_and_drawn(likelihood):
    decoder = warmed_up(Own(BODIES["batch norm of as many features as data"](), LIKELIHOODS[likelihood]).double(), L)
    vae = VAE(L, (D,), decoder=decoder, hidden=(5,)).double()
    x = vae.sample(N)[0].double()
    z, log_w = evaluate.draws(vae, x, 6)
    torch.testing.assert_close(log_w, expected_log_weights(vae, x, z), rtol=0, atol=1e-9)
    assert evaluate.decode_samples(vae, z).shape == (6, N, D)


def test_importance_weighted_gradients_are_those_of_the_particles_as_data():
    """The loss with batch norm in training mode takes the statistics of all particles together."""
    vae = VAE(L, (D,), decoder=Own(BODIES["batch norm of as many features as data"](), LIKELIHOODS["Bernoulli"]))
    z = torch.randn(5, N, L)
    together = vae.model.given(z).log_prob(torch.ones(N, D))
    torch.testing.assert_close(together, vae.decoder(z.flatten(0, 1)).log_prob(torch.ones(5 * N, D)).view(5, N))


class Conditional(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.norm = nn.Linear(L, D), nn.BatchNorm1d(D)
        self.of_class = nn.Embedding(3, D)

    def forward(self, z, y):
        return dist.Normal(self.norm(self.layer(z)) + self.of_class(y), 1.0).to_event(1)


def test_so_is_a_conditional_one():
    decoder = Conditional().double()
    vae = VAE(L, (D,), decoder=decoder, hidden=(5,), num_classes=3).double()
    x, y = torch.randn(D, D, dtype=torch.float64), torch.tensor([0, 2, 1, 1])
    z, log_w = evaluate.draws(vae, data.Observations(x, labels=y), 6)
    decoder.eval()
    prior = torch.distributions.Normal(0.0, 1.0)
    q = vae.encoder(x, y)
    parts = [decoder(each, y).log_prob(x) + prior.log_prob(each).sum(1) - q.log_prob(each) for each in z]
    torch.testing.assert_close(log_w, torch.stack(parts).detach(), rtol=0, atol=1e-9)


def test_an_unflattened_distribution_is_the_flat_one_in_another_shape():
    flat = dist.Gamma(torch.rand(6, 2) + 1, 2.0).to_event(1)
    shown, x = Unflattened(flat, torch.Size((2, 3))), torch.rand(3, 2)
    assert (shown.batch_shape, shown.event_shape, shown.has_rsample) == ((2, 3), (2,), True)
    torch.testing.assert_close(shown.log_prob(x), flat.log_prob(x.repeat(2, 1)).view(2, 3))
    torch.testing.assert_close(shown.log_prob(x.expand(5, 2, 3, 2))[4], shown.log_prob(x))
    torch.testing.assert_close((shown.mean, shown.variance), (flat.mean.view(2, 3, 2), flat.variance.view(2, 3, 2)))
    assert shown.sample((7,)).shape == shown.rsample((7,)).shape == (7, 2, 3, 2)


class Torch(nn.Module):
    """What torch has under the name of a distribution of Pyro: it has no call that samples."""

    def forward(self, x):
        return torch.distributions.Independent(torch.distributions.Normal(x, 1.0), 1)


def test_a_decoder_may_return_a_distribution_of_torch_and_an_encoder_of_pyro_alone():
    vae, x = VAE(D, (D,), decoder=Torch(), hidden=(5,)), torch.randn(N, D)
    z, log_w = evaluate.draws(vae, x, 6)
    torch.testing.assert_close(log_w, expected_log_weights(vae, x, z))
    with pytest.raises(
        ValueError, match=r"`model` must make `num_data` data .*pyro.distributions.*got 'Independent' obj"
    ):
        vae.sample(3)
    assert torch.isfinite(fit.svi(vae, x, num_epochs=1, progress=False).trace).all()
    with pytest.raises(ValueError, match=r"`encoder` must return a distribution of Pyro, got Independent"):
        VAE(D, (D,), encoder=Torch())


# --------------------------------------------------------------------------------------------------------------- modes


class Backbone(nn.Module):
    """An encoder on a pretrained backbone with batch norm, which the user has put into evaluation mode."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(D, N), nn.BatchNorm1d(N))
        self.norm, self.head = nn.BatchNorm1d(N), nn.Linear(N, 2 * L)
        warmed_up(self.double().backbone, D)
        self.backbone.eval()

    def forward(self, x):
        loc, raw = self.head(self.norm(self.backbone(x))).chunk(2, -1)
        return dist.Normal(loc, raw.exp()).to_event(1)


@pytest.fixture
def frozen():
    return VAE(L, (D,), Gaussian(1.0), hidden=(5,), encoder=Backbone()).double()


def modes(model):
    return {name: module.training for name, module in model.named_modules()}


def statistics(model):
    return {name: value.clone() for name, value in model.named_buffers() if "backbone" in name}


def test_a_submodule_in_evaluation_mode_stays_there_in_fits_and_evaluators(frozen):
    x, before, states = torch.randn(40, D, dtype=torch.float64) + 5, modes(frozen), statistics(frozen)
    assert not before["guide.encoder.backbone.1"]
    assert before["guide.encoder.norm"]
    seen = []

    def watch(epoch, model):
        seen.append(model.train().guide.encoder.backbone[1].training)
        model.eval()

    fitted = fit.svi(frozen, x, num_epochs=3, batch_size=10, callback=watch, progress=False).model
    again = fit.svi(fitted, x, num_epochs=2, batch_size=10, warm_start=True, progress=False).model
    for model in (fitted, again, frozen.copy()):
        assert all((value == states[name]).all() for name, value in statistics(model).items())
    assert seen == [False] * 3
    moved = fitted.guide.encoder.norm.running_mean - frozen.guide.encoder.norm.running_mean
    assert moved.abs().max() > 0.1  # that of the others is trained
    evaluate.log_likelihood(frozen, x, 5)
    evaluate.encode(frozen, x)
    frozen.sample(3)
    assert modes(frozen) == before


def test_train_and_eval_keep_it_and_its_own_train_thaws_it(frozen):
    before = modes(frozen)
    for _ in range(2):
        assert not any(modes(frozen.eval()).values())
        assert modes(frozen.train()) == before
    twin = copy.deepcopy(frozen.eval()).train()
    assert modes(twin) == before
    twin.encoder.backbone.train()
    assert all(modes(twin.eval().train()).values())
    assert modes(frozen.train()) == before
    frozen.eval().encoder.backbone.train()  # as a callback does, which meets the model in evaluation mode
    assert all(modes(frozen.train()).values())


def test_a_hook_on_a_gradient_holds_in_a_fit():
    vae, mask = VAE(L, (D,), Gaussian(1.0), hidden=(5,)), torch.arange(5)[:, None] < 2
    vae.encoder.body[0].weight.register_hook(lambda gradient: gradient * mask)
    before = vae.encoder.body[0].weight.detach().clone()
    fitted = fit.svi(vae, torch.randn(30, D), num_epochs=2, warm_start=True, progress=False).model
    assert ((fitted.encoder.body[0].weight == before) == ~mask).all()


class Normalised(nn.Module):
    """It has no value for constants."""

    def forward(self, h):
        return (h - h.mean(-1, keepdim=True)) / h.std(-1, keepdim=True)


def test_modules_without_a_value_at_constants_are_looked_at_elsewhere():
    decoder = Own(nn.Sequential(Normalised(), nn.Linear(L, D)), LIKELIHOODS["Bernoulli"])
    encoder = Own(nn.Sequential(Normalised(), nn.Linear(D, 2 * L)), lambda h: dist.Normal(h[:, :L], 1.0).to_event(1))
    assert VAE(L, encoder=encoder, decoder=decoder).data_shape == (D,)


def test_lazy_layers_learn_their_sizes_when_the_model_is_made():
    lazy = [nn.Sequential(nn.LazyLinear(5), nn.LazyBatchNorm1d(), nn.Tanh(), nn.LazyLinear(n)) for n in (D, 2 * L)]
    encoder = Own(lazy[1], lambda h: dist.Normal(h[:, :L], 1.0).to_event(1))
    vae, x = VAE(L, encoder=encoder, decoder=Own(lazy[0], LIKELIHOODS["Bernoulli"])), torch.ones(8, D)
    fitted = fit.svi(vae, x, num_epochs=1, progress=False).model
    assert evaluate.log_likelihood(fitted, x, 5).values.isfinite().all()


def test_a_decoder_in_evaluation_mode_stays_in_it():
    decoder = nn.Sequential(nn.Linear(L, N), nn.Dropout(0.5))
    vae = VAE(L, (D,), decoder=Own(decoder.eval(), LIKELIHOODS["Bernoulli"]), hidden=(5,))
    result = fit.svi(vae, torch.ones(8, D), num_epochs=1, progress=False)
    assert not result.model.train().decoder.body.training
    assert result.model.encoder.training


@pytest.mark.parametrize("part", ["guide.encoder", "model.decoder", "model.decoder.head"])
def test_parameters_without_a_gradient_keep_their_values_in_a_fit_from_scratch(part):
    vae = VAE(L, (D,), Gaussian("per_dim"), hidden=(5,))
    vae.get_submodule(part).requires_grad_(False)
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    fitted = fit.svi(vae, torch.randn(30, D), num_epochs=2, progress=False).model
    for name, value in fitted.named_parameters():
        assert torch.equal(value, before[name]) == name.startswith(part), name


# --------------------------------------------------------------------------------------------------------------- state


class Restless(nn.Module):
    """A decoder that counts its calls, in a buffer and in Python, drops out, and normalises by running statistics."""

    def __init__(self):
        super().__init__()
        self.layer, self.norm, self.dropout = nn.Linear(L, D), nn.BatchNorm1d(D), nn.Dropout(0.5)
        self.register_buffer("in_place", torch.zeros(()))
        self.register_buffer("replaced", torch.zeros(()))

    def forward(self, z):
        self.in_place += 1
        self.replaced = self.replaced + 1
        return dist.Normal(self.dropout(self.norm(self.layer(z))), 1.0).to_event(1)


USES = {
    "sample": lambda vae, x: vae.sample(5),
    "sample_means": lambda vae, x: vae.sample_means(5),
    "decode": lambda vae, x: evaluate.decode_means(vae, torch.zeros(2, L)),
    "reconstruct": lambda vae, x: evaluate.reconstruct_samples(vae, x),
    "encode": lambda vae, x: evaluate.encode(vae, x),
    "weights": lambda vae, x: evaluate.log_weights(vae, x, 3),
    "ais": lambda vae, x: evaluate.ais(vae, x, AISOptions(num_temperatures=2, num_chains=2)),
    "check": lambda vae, x: evaluate.posterior_predictive_check(vae, x, num_replicates=2, latents="prior"),
    "calibration": lambda vae, x: evaluate.simulation_based_calibration(vae, 100, 19),
    "information": lambda vae, x: evaluate.latent_information(vae, x),
    "copy": lambda vae, x: vae.copy(),
    "fit": lambda vae, x: fit.svi(vae, x, valid=x, num_epochs=1, progress=False),
}


@pytest.mark.parametrize("use", USES)
def test_no_use_of_a_model_changes_it_or_the_random_states(use):
    vae, x = VAE(L, (D,), decoder=Restless(), hidden=(5,)), torch.randn(6, D)
    assert vae.decoder.in_place == vae.decoder.replaced == 0  # the constructor has left no trace
    buffers, before, ways = dict(vae.named_buffers()), copy.deepcopy(vae.state_dict()), modes(vae)
    states = torch.get_rng_state(), random.getstate()
    USES[use](vae, x)
    assert all(value is buffers[name] for name, value in vae.named_buffers())
    assert all((value == before[name]).all() for name, value in vae.state_dict().items())
    assert modes(vae) == ways
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]


def test_a_fit_counts_the_steps_that_it_takes_and_no_look_at_the_model():
    vae, x = VAE(L, (D,), decoder=Restless(), hidden=(5,)), torch.randn(8, D)
    model = fit.svi(vae, x, valid=x, num_epochs=1, batch_size=4, progress=False).model
    assert model.decoder.norm.num_batches_tracked == 2


def test_sampling_is_without_dropout_and_by_the_running_statistics():
    vae = VAE(L, (D,), decoder=Restless(), hidden=(5,))
    vae.decoder.norm.running_mean.fill_(3.0)
    means, z = vae.sample_means(4)
    torch.testing.assert_close(means, copy.deepcopy(vae.decoder).eval()(z).mean.detach())


class Noisy(nn.Module):
    """An encoder that draws in every mode."""

    def forward(self, x):
        return dist.Normal(x[:, :L] + torch.randn(L), 1.0).to_event(1)


def test_the_share_at_the_floor_draws_nothing_of_the_callers_and_changes_nothing():
    vae, x = VAE(L, (D,), Gaussian("decoder"), hidden=(5,), encoder=Noisy()), torch.randn(6, D)
    state = torch.get_rng_state()
    first, again = vae.share_at_floor(x), vae.share_at_floor(x)
    assert torch.equal(first, again)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(modes(vae).values())


def test_the_optimal_scale_leaves_buffers_as_they_were():
    class Counting(Noisy):
        def __init__(self):
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x):
            self.calls += 1
            return super().forward(x)

    vae = VAE(L, (D,), Gaussian("shared"), hidden=(5,), encoder=Counting())
    assert vae.with_optimal_scale(torch.randn(6, D)).encoder.calls == 0
    assert VAE(L, (D,), Bernoulli(), hidden=(5,)).encoder.training
