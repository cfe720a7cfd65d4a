"""The variational autoencoder: what it builds, what it takes of one's own, and where it starts."""

import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from torch import nn

from pyrovae import (
    VAE,
    Bernoulli,
    ContinuousBernoulli,
    CrossEntropyLoss,
    DiscretizedLogistic,
    FullGaussian,
    Gaussian,
    evaluate,
    fit,
)
from pyrovae.engine.seeding import seeded

D, L = 6, 2


class Encoder(nn.Module):
    """x (N, 1, 2, 3) → Normal over z."""

    def __init__(self):
        super().__init__()
        self.loc = nn.Linear(D, L)

    def forward(self, x):
        return dist.Normal(self.loc(x.flatten(-3)), 0.5).to_event(1)


class Decoder(nn.Module):
    """z → Laplace over x (1, 2, 3): a likelihood that the package does not have."""

    def __init__(self, event_dims=3):
        super().__init__()
        self.loc, self.event_dims = nn.Linear(L, D), event_dims

    def forward(self, z):
        return dist.Laplace(self.loc(z).unflatten(-1, (1, 2, 3)), 1.0).to_event(self.event_dims)


class WideEncoder(Encoder):
    """One latent number too many."""

    def __init__(self):
        super().__init__()
        self.loc = nn.Linear(D, L + 1)


class JointEncoder(Encoder):
    """A batch that is part of the event."""

    def forward(self, x):
        return dist.Normal(self.loc(x.flatten(-3)), 0.5).to_event(2)


@pytest.fixture(params=[Gaussian(), Gaussian("decoder"), Bernoulli()], ids=str)
def vae(request):
    return VAE(L, (D,), request.param, hidden=(8,)).double()


def data(vae, num_data=5):
    return torch.rand(num_data, D, dtype=torch.float64).round()  # of either support


# ----------------------------------------------------------------------------------------------------------- identities


@pytest.mark.usefixtures("stock_pyro")
def test_programs_are_the_prior_the_decoder_and_the_encoder(vae):
    x = data(vae)
    guide = poutine.trace(vae.guide).get_trace(x)
    model = poutine.trace(poutine.replay(vae.model, guide)).get_trace(x)
    z = guide.nodes["z"]["value"]
    for trace in (guide, model):
        trace.compute_log_prob()
    standard_normal = torch.distributions.Normal(torch.zeros(L, dtype=z.dtype), 1.0)
    torch.testing.assert_close(guide.nodes["z"]["log_prob"], vae.encoder(x).log_prob(z))
    torch.testing.assert_close(model.nodes["z"]["log_prob"], standard_normal.log_prob(z).sum(-1))
    torch.testing.assert_close(model.nodes["x"]["log_prob"], vae.decoder(z).log_prob(x))


def test_samples_and_their_means_come_from_the_same_z(vae):
    x, z = vae.sample(7, seed=3)
    means, z_of_means = vae.sample_means(7, seed=3)
    assert x.shape == means.shape == (7, D)
    assert (z == z_of_means).all()
    assert (means == vae.decoder(z).mean).all()
    assert (x != means).any()
    assert (vae.sample(7, seed=4)[1] != z).all()


def test_z_of_samples_are_standard_normal(vae):
    """Mean 0 ± 1/√n and second moment 1 ± √2/√n, at 5 standard errors."""
    num_samples = 10_000
    _, z = vae.sample(num_samples)
    assert (z.mean(0).abs() <= 5 / num_samples**0.5).all()
    assert ((z.square().mean(0) - 1).abs() <= 5 * (2 / num_samples) ** 0.5).all()


class WeightOfZ(poutine.messenger.Messenger):
    """Gives the site z, and no other, a weight: in model and guide alike, it is the weight of the KL."""

    def __init__(self, weight):
        super().__init__()
        self.weight = weight

    def _pyro_sample(self, msg):
        if msg["name"] == "z":
            msg["scale"] = msg["scale"] * self.weight


@pytest.mark.usefixtures("stock_pyro")
@pytest.mark.parametrize("posterior", ["diag", "full"])
@pytest.mark.parametrize("beta", [0.25, 3.0])
def test_a_weight_on_the_kl_is_a_variance_of_the_decoder(beta, posterior):
    """Weight β at variance σ² gives β times the gradients of weight 1 at variance βσ², at the same noise."""
    variance, x = 0.3, torch.randn(7, D, dtype=torch.float64)

    def gradients(weight, sigma_squared):
        torch.manual_seed(3)
        vae = VAE(L, D, Gaussian(sigma_squared**0.5), (8,), "tanh", posterior=posterior).double()
        with seeded(1), WeightOfZ(weight):
            Trace_ELBO().differentiable_loss(vae.model, vae.guide, x).backward()
        return torch.cat([p.grad.flatten() for p in vae.parameters()])

    heavy, plain = gradients(beta, variance), gradients(1.0, beta * variance)
    assert plain.abs().max() > 1e-3
    torch.testing.assert_close(heavy, beta * plain, rtol=1e-5, atol=1e-10)


# ------------------------------------------------------------------------------------------------- the closed-form σ


@pytest.fixture(scope="module")
def curved():
    """Points near a curve, in D dimensions of unequal noise."""
    generator = torch.Generator().manual_seed(0)
    t = torch.rand(200, 1, generator=generator, dtype=torch.float64)
    noise = torch.randn(200, D, generator=generator, dtype=torch.float64)
    return torch.cat([t, t.square(), t.sin(), 1 - t, t, t], 1) + 0.1 * torch.arange(1, D + 1) / D * noise


@pytest.mark.parametrize("scale", ["shared", "per_dim"])
def test_optimal_sigma_is_where_the_elbo_has_no_slope(scale, curved):
    """At the draws by which it was set; and every other σ is worse."""
    vae = VAE(L, D, Gaussian(scale), (8,)).double()
    tuned = vae.with_optimal_scale(curved, num_particles=4, seed=2)
    raw = tuned.decoder.head.raw_variance

    def elbo():
        with seeded(2):
            z = tuned.encoder(curved).sample((4,))
        return tuned.decoder(z).log_prob(curved).mean()  # the KL knows nothing of σ

    (slope,) = torch.autograd.grad(elbo(), raw)
    assert slope.abs().max() < 1e-10
    best = elbo().item()
    for step in (-0.05, 0.05):
        for index in range(len(raw)):
            with torch.no_grad():
                raw[index] += step
                assert elbo().item() < best - 1e-7
                raw[index] -= step


def test_optimal_sigma_leaves_all_else_and_the_model_itself(curved):
    vae = VAE(L, D, Gaussian("shared"), (8,)).double()
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    tuned = vae.with_optimal_scale(curved)
    assert all((value == before[name]).all() for name, value in vae.state_dict().items())
    changed = [name for name, value in tuned.state_dict().items() if (value != before[name]).any()]
    assert changed == ["model.decoder.head.raw_variance"]
    assert (evaluate.elbo(tuned, curved, 20) - evaluate.elbo(vae, curved, 20)).mean() > 0


def test_optimal_sigma_is_at_least_the_floor():
    vae = VAE(L, D, Gaussian("shared", floor=0.01), hidden=()).double()
    for parameter in vae.decoder.parameters():
        nn.init.zeros_(parameter)
    variance = vae.with_optimal_scale(torch.zeros(5, D)).decoder(torch.zeros(L).double()).variance
    assert ((variance >= 0.01) & (variance < 0.01 * (1 + 1e-5))).all()


def test_optimal_sigma_of_a_decoder_that_ignores_z_is_the_mean_squared_error(curved):
    vae = VAE(L, D, Gaussian("per_dim", floor=1e-9), hidden=()).double()
    nn.init.zeros_(vae.decoder.head.loc.weight)
    errors = (curved - vae.decoder.head.loc.bias.detach()).square().mean(0)
    z = torch.zeros(L, dtype=torch.float64)
    torch.testing.assert_close(vae.with_optimal_scale(curved).decoder(z).variance, errors, rtol=1e-9, atol=0)


@pytest.mark.parametrize("likelihood", [Gaussian(0.5), Gaussian("decoder"), Bernoulli()], ids=str)
def test_other_likelihoods_have_no_closed_form_sigma(likelihood):
    with pytest.raises(ValueError, match=r"`likelihood` must be Gaussian\(\"shared\"\) or .*, got \{'kind'"):
        VAE(L, D, likelihood, (8,)).with_optimal_scale(torch.zeros(3, D))
    with pytest.raises(
        ValueError, match=r"`likelihood` must be Gaussian\(\"shared\"\) or .*, got a decoder of your own"
    ):
        VAE(L, encoder=Encoder(), decoder=Decoder()).with_optimal_scale(torch.zeros(3, 1, 2, 3))


# ------------------------------------------------------------------------------------------------------------- contract


@pytest.mark.parametrize("shape", [(D,), (1, 2, 3)], ids=str)
@pytest.mark.parametrize("likelihood", [Bernoulli(), Gaussian("per_dim")], ids=str)
def test_data_may_have_any_shape(shape, likelihood):
    vae = VAE(L, shape, likelihood, hidden=(8,))
    assert vae.data_shape == shape
    assert vae.sample(4)[0].shape == (4, *shape)
    assert vae.encoder(torch.zeros(4, *shape)).event_shape == (L,)


def test_support_is_that_of_the_likelihood():
    assert VAE(L, D, Bernoulli(), hidden=(8,)).support == "boolean"
    assert VAE(L, D, Gaussian(), hidden=(8,)).support == "real"
    assert VAE(L, D, ContinuousBernoulli(), hidden=(8,)).support == "real"
    assert VAE(L, D, DiscretizedLogistic(17), hidden=(8,)).support == "integer"
    assert [VAE(L, D, each, (8,)).is_density for each in (Bernoulli(), CrossEntropyLoss())] == [True, False]
    assert VAE(L, encoder=Encoder(), decoder=Decoder()).support == "real"


def test_decoder_has_the_hidden_layers_in_reverse_order():
    vae = VAE(L, D, hidden=(8, 7), activation="tanh")
    widths = [(layer.in_features, layer.out_features) for layer in vae.encoder.body if isinstance(layer, nn.Linear)]
    reverse = [(layer.in_features, layer.out_features) for layer in vae.decoder.body if isinstance(layer, nn.Linear)]
    assert (widths, reverse) == ([(D, 8), (8, 7)], [(L, 7), (7, 8)])
    assert isinstance(vae.encoder.body[1], nn.Tanh)
    assert isinstance(vae.decoder.body[1], nn.Tanh)


def test_without_hidden_layers_the_vae_is_linear():
    vae = VAE(L, D, hidden=()).double()
    z = torch.randn(4, L, dtype=torch.float64)
    f = lambda z: vae.decoder(z).mean  # noqa: E731
    torch.testing.assert_close(f(z[:2]) + f(z[2:]), f(z[:2] + z[2:]) + f(torch.zeros_like(z[:2])))


@pytest.mark.parametrize("own", ["encoder", "decoder", "both"])
def test_modules_of_ones_own_are_used_and_kept(own):
    encoder, decoder = Encoder(), Decoder()
    modules = {"encoder": encoder, "decoder": decoder}
    given = modules if own == "both" else {own: modules[own]}
    vae = VAE(L, None if own == "both" else (1, 2, 3), hidden=(8,), **given)
    before = {name: [p.clone() for p in module.parameters()] for name, module in given.items()}
    vae.initialize(torch.randn(10, 1, 2, 3))
    assert vae.data_shape == (1, 2, 3)
    assert vae.config is None
    for name, module in given.items():
        assert getattr(vae, name) is module
        assert all((p == q).all() for p, q in zip(module.parameters(), before[name], strict=True))


def test_a_decoder_without_parameters_serves():
    class Identity(nn.Module):
        def forward(self, z):
            return dist.Normal(z, 1.0).to_event(1)

    vae = VAE(L, encoder=Identity(), decoder=Identity())
    assert vae.as_input(torch.zeros(3, L, dtype=torch.float64)).dtype == torch.float32
    assert vae.num_free_parameters == 0


def test_start_is_drawn_afresh_and_its_output_is_the_mean_of_the_data():
    vae, x = VAE(L, D, Gaussian("per_dim"), hidden=(8,)).double(), torch.randn(200, D, dtype=torch.float64) + 3
    before = vae.encoder.loc.weight.clone()
    vae.initialize(x)
    assert (vae.encoder.loc.weight != before).all()
    output = vae.decoder.head(torch.zeros(8, dtype=torch.float64))
    torch.testing.assert_close(output.mean, x.mean(0))
    torch.testing.assert_close(output.variance, x.var(0, correction=0))


def test_num_free_parameters_are_the_decoders():
    vae = VAE(L, D, Gaussian("shared"), hidden=(8,))
    assert vae.num_free_parameters == (L * 8 + 8) + (8 * D + D) + 1


def test_config_builds_the_same_model_again():
    vae = VAE(L, (1, 2, 3), Gaussian("decoder", floor=0.01), hidden=(8, 7), activation="elu")
    config = dict(vae.config)
    kinds = {"Bernoulli": Bernoulli, "Gaussian": Gaussian}
    likelihood = dict(config.pop("likelihood"))
    config["data_shape"] = tuple(config["data_shape"])
    again = VAE(**config, likelihood=kinds[likelihood.pop("kind")](**likelihood))
    again.load_state_dict(vae.state_dict())
    z = torch.randn(4, L)
    assert again.config == vae.config
    assert (again.decoder(z).variance == vae.decoder(z).variance).all()
    assert str(again.encoder) == str(vae.encoder)


def test_building_leaves_a_decoder_of_ones_own_in_its_mode():
    decoder = Decoder().train()
    VAE(L, (1, 2, 3), decoder=decoder)
    assert decoder.training
    VAE(L, (1, 2, 3), decoder=decoder.eval())
    assert not decoder.training


@pytest.mark.usefixtures("stock_pyro")
def test_guide_needs_data(vae):
    with pytest.raises(ValueError, match=r"`x` must be given to an amortized guide, got None"):
        vae.guide()


class Returns(nn.Module):
    """A decoder that returns what it is told."""

    def __init__(self, output):
        super().__init__()
        self.output = output

    def forward(self, z):
        return self.output(z)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"latent_dim": 0}, r"`latent_dim` must be a whole number of at least 1, got 0"),
        ({"latent_dim": "2"}, r"`latent_dim` must be a whole number of at least 1, got '2'"),
        ({"activation": "swish"}, '`activation` must be "relu", "tanh", .* got .swish.'),
        ({"data_shape": None}, r"`data_shape` must be given unless both `encoder` and `decoder` are, got None"),
        (
            {"data_shape": None, "decoder": Decoder()},
            r"`data_shape` must be given unless both `encoder` and `decoder` are",
        ),
        (
            {"likelihood": Gaussian(), "decoder": Decoder()},
            r"`likelihood` must be left out when `decoder` is given",
        ),
        (
            {"decoder": Decoder()},
            r"`decoder` must return a distribution of event shape \(6,\), got \(1, 2, 3\)",
        ),
        (
            {"decoder": Decoder(event_dims=1)},
            r"`decoder` must return a distribution of batch shape \(2,\) for two z, got \(2, 1, 2\); .*to_event",
        ),
        (
            {"decoder": Returns(lambda z: z)},
            r"`decoder` must return a distribution over x, got Tensor",
        ),
        (
            {"data_shape": (1, 2, 3), "encoder": WideEncoder()},
            r"`encoder` must return a distribution of event shape \(2,\), `latent_dim` numbers, got \(3,\)",
        ),
        (
            {"data_shape": (1, 2, 3), "encoder": JointEncoder()},
            r"`encoder` must return a distribution of batch shape \(2,\) for two x, got \(\); .*latent dimensions",
        ),
        (
            {"data_shape": (1, 2, 3), "encoder": Returns(lambda x: dist.Normal(x.flatten(1)[:, :2], 1.0))},
            r"`encoder` must return a distribution of batch shape \(2,\) for two x, got \(2, 2\); declare the latent",
        ),
        (
            {"data_shape": (1, 2, 3), "encoder": Returns(lambda x: x)},
            r"`encoder` must return a distribution over z, got Tensor",
        ),
        ({"posterior": "lowrank"}, '`posterior` must be "diag" or "full", got .lowrank.'),
        ({"num_classes": 0}, r"`num_classes` must be a whole number of at least 1, or None, got 0"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        VAE(**{"latent_dim": L, "data_shape": (D,), **arguments})


@pytest.mark.parametrize(
    ("likelihood", "values", "words"),
    [
        (
            ContinuousBernoulli(),
            [-0.1, 1.0],
            r"Interval\(lower_bound=0.0, upper_bound=1.0\), got values in \[-0.1, 1\]",
        ),
        (CrossEntropyLoss(), [0.0, 1.5], r"Interval\(lower_bound=0.0, upper_bound=1.0\), got values in \[0, 1.5\]"),
        (DiscretizedLogistic(17), [0.0, 0.5 / 16], r"the 17 levels 0, 1/16, …, 1, got values in \[0, 0.03125\]"),
    ],
    ids=["ContinuousBernoulli", "CrossEntropyLoss", "DiscretizedLogistic"],
)
def test_values_outside_the_support_of_the_likelihood_are_refused(likelihood, values, words):
    vae = VAE(1, 2, likelihood, hidden=(4,))
    with pytest.raises(ValueError, match=rf"`x` must hold only values of the likelihood's support, {words}; rescale"):
        vae.as_input(torch.tensor([values]))


@pytest.mark.parametrize(
    "likelihood",
    [ContinuousBernoulli(), CrossEntropyLoss(), DiscretizedLogistic(17)],
    ids=lambda each: type(each).__name__,
)
@pytest.mark.parametrize("network", ["mlp", "conv"])
def test_svi_fits_grey_values(likelihood, network):
    grey = (torch.rand(1, 1, 4, 4) * torch.rand(40, 1, 1, 1) * 16).round() / 16  # one picture, dim or bright
    hidden = (8,) if network == "mlp" else (4,)
    result = fit.svi(
        VAE(L, (1, 4, 4), likelihood, hidden, network=network), grey, num_epochs=20, batch_size=10, lr=2e-2
    )
    assert result.trace[-1] > result.trace[0]


def test_a_covariance_for_every_datum_is_decoded_in_smaller_chunks(monkeypatch):
    """So that its memory is bounded as that of a mean is; the weights are the same."""
    vae, x = VAE(L, D, FullGaussian(), (8,)).double(), torch.randn(7, D, dtype=torch.float64)
    expected = evaluate.log_weights(vae, x, 5)
    sizes = []
    vae.decoder.register_forward_hook(lambda module, args, output: sizes.append(output.batch_shape.numel()))
    monkeypatch.setattr("pyrovae.evaluate.likelihood.tiles.DECODED_FLOATS", 3 * D * D)
    torch.testing.assert_close(evaluate.log_weights(vae, x, 5), expected)
    assert max(size for size in sizes if size != len(x)) == 3  # the look at the plates is on the data alone


def test_the_optimal_scale_is_the_same_under_inference_mode():
    x, vae = torch.randn(20, 3), VAE(1, (3,), Gaussian("shared"), hidden=(4,))
    with torch.inference_mode():
        inside = vae.with_optimal_scale(x).state_dict()
    assert all(torch.equal(each, inside[name]) for name, each in vae.with_optimal_scale(x).state_dict().items())
