"""Latents of any name and number: what samples, encodes, decodes and criticises takes them by site.

The yardstick is a linear-Gaussian chain, z2 → z1 → x, whose every figure has a closed form.
"""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import transforms
from torch import nn

from pyrovae import VAE, compare, data, evaluate, fit, plots
from pyrovae.evaluate import AISOptions
from pyrovae.models.base import LatentVariableModel, Program

A, B, NOISE = 0.8, torch.tensor([[1.0, 0.5, -0.5, 0.0], [0.0, 1.0, 0.5, -1.0]], dtype=torch.float64), 0.6
D, STAY = 4, (1 - A**2) ** 0.5
EYE = torch.eye(D, dtype=torch.float64)


def normal(loc, scale):
    return dist.Normal(loc, scale).to_event(1)


class Chain(Program):
    """top ~ Normal(0, I₂); low ~ Normal(A top, (1 − A²)I); seen ~ Normal(low B, σ²I)."""

    def forward(self, x=None, *, num_data=1):
        with pyro.plate("data", num_data if x is None else len(x), dim=-1):
            top = pyro.sample("top", normal(torch.zeros(2, dtype=torch.float64), 1.0))
            low = pyro.sample("low", normal(A * top, STAY))
            pyro.sample("seen", normal(low @ B, NOISE), obs=x)


class ExactChain(Program):
    """The posterior, from the bottom up: low ~ p(low|x), then top ~ p(top|low), which depends on the draw of low."""

    def forward(self, x=None, *, num_data=1):
        with pyro.plate("data", len(x), dim=-1):
            mean, covariance = posterior_of_low(x)
            low = pyro.sample("low", dist.MultivariateNormal(mean, covariance))
            pyro.sample("top", normal(A * low, STAY))


def posterior_of_low(x):
    covariance = torch.linalg.inv(torch.eye(2, dtype=torch.float64) + B @ B.T / NOISE**2)
    return x @ B.T @ covariance / NOISE**2, covariance


class Hierarchy(LatentVariableModel):
    data_shape = (D,)

    def __init__(self):
        super().__init__()
        self.register_buffer("like", torch.zeros((), dtype=torch.float64))
        self.model, self.guide = Chain(), ExactChain()


@pytest.fixture
def model():
    return Hierarchy()


@pytest.fixture
def x():
    return torch.randn(30, D, dtype=torch.float64)


def test_samples_come_by_site_and_in_law(model):
    num_samples = 20_000
    x, z = model.sample(num_samples, seed=1)
    assert {name: value.shape for name, value in z.items()} == {"top": (num_samples, 2), "low": (num_samples, 2)}
    covariance = torch.cat([z["top"], z["low"], x], 1).T.cov()
    root = torch.zeros(2 + 2 + D, 2 + 2 + D, dtype=torch.float64)  # of independent noises
    root[:2, :2] = torch.eye(2)
    root[2:4, :2], root[2:4, 2:4] = A * torch.eye(2), STAY * torch.eye(2)
    root[4:, :4], root[4:, 4:] = B.T @ root[2:4, :4], NOISE * EYE
    expected = root @ root.T
    error = ((expected.diagonal().outer(expected.diagonal()) + expected.square()) / num_samples).sqrt()
    assert ((covariance - expected).abs() < 5 * error).all()
    means, same = model.sample_means(num_samples, seed=1)
    assert all(torch.equal(same[name], z[name]) for name in z)
    torch.testing.assert_close(means, z["low"] @ B)


def test_weights_under_the_exact_guide_are_constant(model, x):
    z, log_w = evaluate.draws(model, x, 7)
    assert {name: value.shape for name, value in z.items()} == {"low": (7, 30, 2), "top": (7, 30, 2)}
    marginal = torch.distributions.MultivariateNormal(torch.zeros(D).double(), B.T @ B + NOISE**2 * EYE)
    torch.testing.assert_close(log_w, marginal.log_prob(x).expand(7, -1), rtol=0, atol=1e-10)


def test_a_guide_whose_later_site_depends_on_an_earlier_one_is_encoded_over_its_draws(model, x):
    encoding = evaluate.encode(model, data.Observations(x, labels=torch.zeros(30, dtype=torch.long)))
    mean, covariance = posterior_of_low(x)
    torch.testing.assert_close(encoding["low"].mean, mean)
    torch.testing.assert_close(encoding.variance["low"], covariance.diagonal().expand(30, -1))
    spread = A * covariance.diagonal().sqrt()  # of the mean of top from run to run, of which there are 100
    assert ((encoding["top"].mean - A * mean).abs() < 5 * spread / 10).all()
    variance = STAY**2 + spread**2
    assert ((encoding["top"].variance - variance).abs() < 6 * spread**2 * math.sqrt(2 / 99) + spread**2 / 100).all()
    assert (len(encoding), encoding.latent_dim, len(encoding[:5]), encoding[:5].mean["top"].shape) == (30, 4, 5, (5, 2))
    again = evaluate.encode(model, x)
    assert torch.equal(again.mean["top"], encoding.mean["top"])
    report = evaluate.latent_report(encoding)
    assert list(report.units) == ["low[0]", "low[1]", "top[0]", "top[1]"]
    assert "top[1]" in str(report)
    assert report.num_active == 4


def test_decoding_takes_dicts_of_any_leading_shape(model):
    z = {"low": torch.randn(3, 5, 2), "top": torch.randn(3, 5, 2)}
    torch.testing.assert_close(evaluate.decode_means(model, z), z["low"].double() @ B)
    assert (evaluate.decode_deviations(model, z) == NOISE).all()
    noise = (evaluate.decode_samples(model, {name: torch.zeros(5000, 2) for name in z}) / NOISE).square().mean()
    assert abs(noise - 1) < 5 * math.sqrt(2 / (5000 * D))


@pytest.mark.parametrize(
    ("z", "message"),
    [
        (torch.zeros(3, 2), r"`z` must hold a tensor for each of the latent sites \['top', 'low'\], got a tensor"),
        ({"low": torch.zeros(3, 2)}, r"latent sites \['top', 'low'\], got \['low'\]"),
        ({"low": torch.zeros(3, 2), "top": torch.zeros(3, 1)}, r"`z` must have shape \(..., 2\), got \(3, 1\)"),
        ({"low": torch.zeros(3, 2), "top": torch.zeros(4, 2)}, r"`z` must hold as many values of every site"),
    ],
)
def test_decoding_refuses_other_latents(model, z, message):
    with pytest.raises(ValueError, match=message):
        evaluate.decode_means(model, z)


def test_reconstructions_are_by_the_mean_and_by_one_joint_draw(model, x):
    mean, covariance = posterior_of_low(x)
    torch.testing.assert_close(evaluate.reconstruct_means(model, x), mean @ B)
    repeated = x[:1].expand(4000, -1)
    drawn = evaluate.reconstruct_samples(model, repeated, seed=2)
    whitened = torch.linalg.solve_triangular(
        torch.linalg.cholesky(B.T @ covariance @ B + NOISE**2 * EYE), (drawn - mean[:1] @ B).T, upper=False
    )
    assert abs(whitened.square().mean() - 1) < 5 * math.sqrt(2 / whitened.numel())


def test_the_exact_guide_is_calibrated_at_every_site_and_a_narrow_one_is_not(model):
    found = evaluate.simulation_based_calibration(model, 400, 19)
    assert found.ranks.shape == (400, 4)
    assert found.p_value > 1e-4
    assert list(found.units) == ["top[0]", "top[1]", "low[0]", "low[1]"]
    assert "low[1]" in str(found)

    class Narrow(ExactChain):
        def forward(self, x=None, *, num_data=1):
            with pyro.plate("data", len(x), dim=-1):
                low = pyro.sample("low", normal(posterior_of_low(x)[0], 0.05))
                pyro.sample("top", normal(A * low, STAY))

    assert evaluate.simulation_based_calibration(model, 400, 19, guide=Narrow()).p_values[2:].max() < 1e-6


@pytest.mark.parametrize("latents", ["posterior", "prior"])
def test_replicated_data_and_the_bounds_take_all_sites(model, latents):
    x, _ = model.sample(300, seed=5)
    check = evaluate.posterior_predictive_check(model, x, num_replicates=40, latents=latents)
    assert min(check.p_values.values()) > 1e-3
    assert evaluate.sandwich(model, 5, AISOptions(num_temperatures=10, num_chains=4)).upper.values.shape == (5,)


def test_what_serves_one_latent_says_so(model, x):
    with pytest.raises(ValueError, match=r"`model` must have one latent site, got \['top', 'low'\]"):
        evaluate.latent_information(model, x)
    with pytest.raises(
        ValueError, match=r"`model` must have one latent site beside a linear model, got \['low', 'top'\]"
    ):
        evaluate.collapse_report(model, x)
    with pytest.raises(
        ValueError, match=r"must have a continuous z of at least 2 units, got the sites \['top', 'low'\]"
    ):
        evaluate.manifold_means(model)


def test_compare_saves_pictures_and_arviz_data_of_all_sites(model, x, tmp_path):
    board = compare({"chain": model}, data.Observations(x), num_particles=5)
    found = board.to_inference_data(num_draws=6)["chain"]
    assert found.posterior["top"].dims == ("chain", "draw", "datum", "top_latent")
    assert set(found.observed_data) == {"seen"}
    board.save(tmp_path / "out")
    titles = [axes.get_title().split("\n")[0] for axes in plots.latents({"chain": model}, x).axes]
    assert titles == ["chain, low", "chain, top"]
    labels = torch.arange(30) % 3
    assert evaluate.downstream(evaluate.encode(model, data.Observations(x, labels=labels))).num_data == 30


# ----------------------------------------------------------------------------------------------------------- one latent


class Renamed(Program):
    """c ~ prior; y ~ Normal(c, 1): names, plates and kinds of one's own."""

    def __init__(self, guide, plate="data", kind="scalar"):
        super().__init__()
        self.guide, self.plate, self.kind = guide, plate, kind

    def forward(self, x=None, *, num_data=1):
        with pyro.plate(self.plate, num_data if x is None else len(x), dim=-1):
            zero = torch.zeros((), dtype=torch.float64)
            if self.kind == "scalar":
                c = pyro.sample("c", dist.Normal(x.mean(1) if self.guide else zero, 0.5))[..., None]
            else:
                c = pyro.sample("c", normal(x if self.guide else zero.expand(D), 0.5))
            if not self.guide:
                pyro.deterministic("twice", 2 * c)
                pyro.sample("y", normal(c + torch.zeros(D), 1.0), obs=x)


class OneSite(Hierarchy):
    def __init__(self, *arguments):
        super().__init__()
        self.model, self.guide = Renamed(False, *arguments), Renamed(True, *arguments)


@pytest.mark.parametrize("plate", ["data", "rows"])
@pytest.mark.parametrize(("kind", "shape"), [("scalar", ()), ("vector", (D,))])
def test_a_single_latent_has_any_name_and_comes_as_a_tensor(plate, kind, shape, x):
    model = OneSite(plate, kind)
    _, z = model.sample(6)
    assert z.shape == (6, *shape)
    means = evaluate.decode_means(model, z)
    torch.testing.assert_close(means, (z if kind == "vector" else z[:, None]).expand(6, D))
    torch.testing.assert_close(evaluate.decode_means(model, {"c": z}), means)
    assert torch.equal(evaluate.encode(model, x).mean, x if kind == "vector" else x.mean(1, keepdim=True))
    assert evaluate.draws(model, x, 3)[0].shape == (3, 30, *shape)
    assert evaluate.reconstruct_means(model, x).shape == x.shape
    assert evaluate.simulation_based_calibration(model, 100, 19).ranks.shape == (100, max(1, sum(shape)))


class NestedPlates(Program):
    """One latent for each datum and pixel: the plate over data stands to the right of the other."""

    def __init__(self, guide):
        super().__init__()
        self.guide = guide

    def forward(self, x=None, *, num_data=1):
        with pyro.plate("data", num_data if x is None else len(x), dim=-1), pyro.plate("pixels", D, dim=-2):
            loc = x.T / 2 if self.guide else torch.zeros((), dtype=torch.float64)
            pixel = pyro.sample("pixel", dist.Normal(loc, 0.5**0.5 if self.guide else 1.0))
            if not self.guide:
                pyro.sample("x", dist.Normal(pixel, 1.0), obs=None if x is None else x.T)


def test_data_come_first_whatever_the_order_of_the_plates(x):
    model = Hierarchy()
    model.model, model.guide = NestedPlates(False), NestedPlates(True)
    drawn, z = model.sample(7)
    assert drawn.shape == z.shape == (7, D)
    torch.testing.assert_close(evaluate.encode(model, x).mean, x / 2)
    torch.testing.assert_close(evaluate.decode_means(model, x), x)
    torch.testing.assert_close(evaluate.reconstruct_means(model, x), x / 2)
    assert evaluate.simulation_based_calibration(model, 200, 19).p_value > 1e-4


class Shared(Program):
    """A weight that all data share, and a latent of each."""

    def __init__(self, guide, plate=None):
        super().__init__()
        self.guide, self.plate = guide, plate

    def forward(self, x=None, *, num_data=1):
        like = torch.zeros(D, dtype=torch.float64)
        if self.plate is None:
            weight = pyro.sample("weight", normal(like, 1.0))
        else:
            with pyro.plate(self.plate, D, dim=-1):
                weight = pyro.sample("weight", dist.Normal(like, 1.0))
        with pyro.plate("data", num_data if x is None else len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(like[0], 1.0))
            if not self.guide:
                pyro.sample("x", normal(z[..., None] * weight, 1.0), obs=x)


USES = {
    "sample": lambda model, x: model.sample(D),
    "encode": evaluate.encode,
    "decode": lambda model, x: evaluate.decode_means(model, {"z": x[:, 0], "weight": x}),
    "reconstruct": evaluate.reconstruct_samples,
    "calibration": lambda model, x: evaluate.simulation_based_calibration(model, 100, 19),
    "check": lambda model, x: evaluate.posterior_predictive_check(model, x, num_replicates=2),
    "information": evaluate.latent_information,
}


@pytest.mark.parametrize("plate", [None, "features"])
@pytest.mark.parametrize("use", USES)
def test_a_latent_that_all_data_share_is_refused_by_name(use, plate):
    model = Hierarchy()
    model.model, model.guide = Shared(False, plate), Shared(True, plate)
    with pytest.raises(ValueError, match=r"`model` must have every site inside the plate over data, got site 'weight'"):
        USES[use](model, torch.randn(D, D, dtype=torch.float64))  # as many data as features


class Observing(Program):
    def __init__(self, names):
        super().__init__()
        self.names = names

    def forward(self, x=None, *, num_data=1):
        with pyro.plate("data", num_data if x is None else len(x), dim=-1):
            z = pyro.sample("z", normal(torch.zeros(D, dtype=torch.float64), 1.0))
            for name in self.names:
                pyro.sample(name, normal(z, 1.0), obs=x)


@pytest.mark.parametrize("names", [(), ("left", "right")])
def test_programs_of_several_observed_sites_are_not_sampled(names):
    model = Hierarchy()
    model.model = Observing(names)
    with pytest.raises(ValueError, match=rf"`model` must observe one site .*got {list(names)}".replace("[", r"\[")):
        model.sample(3)


class Demanding(Observing):
    """A program that cannot do without data."""

    def forward(self, x=None, *, num_data=1):
        return super().forward(x[: len(x)])


class Partial(Observing):
    """A program that has another site where data are given: the values that are not observed."""

    def forward(self, x=None, *, num_data=1):
        with pyro.plate("data", num_data if x is None else len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=torch.float64), 1.0))
            seen = None if x is None else x[:, 0] > 0
            pyro.sample("x", dist.Normal(z, 1.0), obs=None if x is None else x[:, 0], obs_mask=seen)


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (Demanding, "`model` must make `num_data` data where x is None.*got .*NoneType"),
        (Partial, r"`model` must (have the same sites with data and without|observe one site)"),
    ],
)
def test_programs_that_make_no_data_say_so(program, message):
    model = Hierarchy()
    model.model = program(("x",))
    with pytest.raises(ValueError, match=message):
        model.sample(3)


# --------------------------------------------------------------------------------------------------------------- flows


class Flow(nn.Module):
    """q(z|x) = tanh of a Normal, and of another form by a spline: no mean in closed form."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.spline = transforms.Spline(2, count_bins=4)

    def forward(self, x):
        last = [transforms.TanhTransform()] if self.kind == "tanh" else [self.spline]
        return dist.TransformedDistribution(normal(x[:, :2] / 4, 0.2), last)


@pytest.mark.parametrize("kind", ["tanh", "spline"])
def test_a_guide_that_is_a_flow_is_encoded_by_draws(kind):
    torch.manual_seed(1)
    vae, x = VAE(2, (D,), hidden=(5,), encoder=Flow(kind)).double(), torch.randn(8, D, dtype=torch.float64)
    vae = fit.svi(vae, x, num_epochs=1, progress=False).model
    encoding = evaluate.encode(vae, x)
    with torch.no_grad():
        z = vae.encoder(x).sample((50_000,))
    spread = z.std(0)
    assert ((encoding.mean - z.mean(0)).abs() < 5 * spread * math.sqrt(1 / 1000 + 1 / 50_000)).all()
    kurtosis = ((z - z.mean(0)) / spread).pow(4).mean(0)
    error = spread**2 * ((kurtosis - 1) * (1 / 1000 + 1 / 50_000)).sqrt() + spread**2 / 1000
    assert ((encoding.variance - spread**2).abs() < 5 * error).all()
    assert torch.equal(evaluate.encode(vae, x).mean, encoding.mean)
    torch.testing.assert_close(evaluate.reconstruct_means(vae, x), evaluate.decode_means(vae, encoding.mean))
    assert evaluate.reconstruct_samples(vae, x).shape == x.shape
    assert evaluate.latent_information(vae, x).mean_kl > 0
    assert evaluate.simulation_based_calibration(vae, 100, 19).ranks.shape == (100, 2)
    assert vae.share_at_floor(x).shape == (8,)


@pytest.mark.parametrize(
    "flow", [lambda: transforms.Planar(2), lambda: transforms.neural_autoregressive(2, [4])], ids=["planar", "neural"]
)
def test_a_flow_that_has_no_inverse_has_weights_and_no_aggregate_posterior(flow):
    class Forward(nn.Module):
        def __init__(self):
            super().__init__()
            self.flow = flow().double()

        def forward(self, x):
            return dist.TransformedDistribution(normal(x[:, :2] / 4, 0.2), [self.flow])

    vae, x = VAE(2, (D,), hidden=(5,), encoder=Forward()).double(), torch.randn(8, D, dtype=torch.float64)
    assert evaluate.log_weights(vae, x, 3).isfinite().all()
    with pytest.raises(ValueError, match=r"`guide` must have a density at every z .*, got a flow whose inverse is not"):
        evaluate.latent_information(vae, x)


def test_a_likelihood_that_is_a_flow_is_sampled_and_has_no_mean():
    class Decoder(nn.Module):
        def forward(self, z):
            base = normal(z.repeat(1, 2), 1.0)
            return dist.TransformedDistribution(base, [transforms.TanhTransform()])

    vae = VAE(2, (D,), decoder=Decoder(), hidden=(5,))
    assert vae.sample(3)[0].abs().max() < 1
    for use in (vae.sample_means, lambda: evaluate.decode_means(vae, torch.zeros(2, 2))):
        with pytest.raises(ValueError, match=r"must have a p\(x\|z\) of known mean, got a TransformedDistribution"):
            use()
