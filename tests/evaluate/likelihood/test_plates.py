"""Masks, scales and plates of a program in every evaluator of log p(x), against closed forms."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.nn import PyroSample

from pyrovae import AISOptions, evaluate
from pyrovae.evaluate.likelihood import annealed
from pyrovae.models import LatentVariableModel, Program

N, D = 4, 3


@pytest.fixture(autouse=True)
def short_pilot(monkeypatch):
    monkeypatch.setattr(annealed, "PILOT_TRANSITIONS", 10)
    monkeypatch.setattr(annealed, "PILOT_WARM_UP", 5)


ONE = torch.ones((), dtype=torch.float64)


class Written(Program):
    def __init__(self, body):
        super().__init__()
        self.body = body

    def forward(self, x=None, *, num_data=1):
        return self.body(x)


class Model(LatentVariableModel):
    """A model whose two programs are functions of x."""

    data_shape = (D,)

    def __init__(self, p, q):
        super().__init__()
        self.model, self.guide = Written(p), Written(q)


def data(x, **options):
    return pyro.plate("data", len(x), dim=-1, **options)


def prior(x):
    """z ~ Normal(0, 1)."""
    with data(x):
        return pyro.sample("z", dist.Normal(0 * ONE, 1))


def near(z, scale=1.0):
    """Normal(z, σ) in D dimensions."""
    return dist.Normal(z[..., None].expand(*z.shape, D), scale)


def masked_rows(x):
    with data(x):
        z = pyro.sample("z", dist.Normal(0 * ONE, 1))
        with poutine.mask(mask=x[:, 0] > -50):
            pyro.sample("x", near(z).to_event(1), obs=x)


def masked_numbers(x):
    with data(x):
        z = pyro.sample("z", dist.Normal(0 * ONE, 1))
        pyro.sample("x", near(z).mask(x > -50).to_event(1), obs=x)


def masked_pixels(x):
    with pyro.plate("data", len(x), dim=-2):
        z = pyro.sample("z", dist.Normal(0 * ONE, 1))
        with pyro.plate("pixels", D, dim=-1), poutine.mask(mask=x > -50):
            pyro.sample("x", dist.Normal(z, 1), obs=x)


def masked_columns(x):
    with data(x):
        z = pyro.sample("z", dist.Normal(0 * ONE, 1))
        with pyro.plate("pixels", D, dim=-2), poutine.mask(mask=x.T > -50):
            pyro.sample("x", dist.Normal(z, 1), obs=x.T)


def prior_of_images(x):
    with pyro.plate("data", len(x), dim=-2):
        pyro.sample("z", dist.Normal(0 * ONE, 1))


def observed():
    """Two data whole, one in part, and one not at all."""
    x = torch.randn(N, D, dtype=torch.float64)
    x[2, 1:], x[3] = -99, -99
    return x


def log_p(x, rows=False):
    """log p of the observed numbers, Normal(0, 1 + 1ᵀ) of them; or of rows that are observed whole, by their first."""
    values = []
    for each in x:
        seen = each[each > -50] if not rows else each[: D * bool(each[0] > -50)]
        covariance = torch.eye(len(seen), dtype=x.dtype) + 1
        values.append(dist.MultivariateNormal(0 * seen, covariance).log_prob(seen) if len(seen) else 0 * ONE)
    return torch.stack(values)


MASKED = [(masked_rows, prior), (masked_numbers, prior), (masked_pixels, prior_of_images), (masked_columns, prior)]


@pytest.mark.parametrize(("p", "q"), MASKED, ids=lambda each: each.__name__)
def test_what_is_masked_does_not_count(p, q):
    x = observed()
    if p is masked_rows:
        x[2] = torch.randn(D, dtype=torch.float64)
    model, expected = Model(p, q), log_p(x, rows=p is masked_rows)
    found = evaluate.quadrature(model, x)
    torch.testing.assert_close(found.values, expected, rtol=0, atol=1e-6)
    likelihood = evaluate.log_likelihood(model, x, 5000)
    assert ((likelihood.values - expected).abs() <= 6 * likelihood.standard_error + 1e-10).all()
    chains = evaluate.ais(model, x, AISOptions(100, 10))
    assert ((chains.values - expected).abs() <= 6 * chains.standard_error + 1e-10).all()
    assert likelihood.values[3].item() == 0
    assert chains.values[3].abs().item() < 1e-10


def test_a_latent_that_is_masked_in_model_and_guide_does_not_count():
    def p(x):
        with data(x):
            with poutine.mask(mask=x[:, 0] > -50):
                z = pyro.sample("z", dist.Normal(0 * ONE, 1))
            pyro.sample("x", near(z.where(x[:, 0] > -50, 0 * ONE)).to_event(1), obs=x)

    def q(x):
        seen = x[:, 0] > -50
        mean = (x.sum(1) / (1 + D)).where(seen, 7 * ONE)  # whatever it is where nobody looks
        with data(x), poutine.mask(mask=seen):
            pyro.sample("z", dist.Normal(mean, (1 + D) ** -0.5))

    x = torch.randn(N, D, dtype=torch.float64)
    x[3] = -99
    expected = log_p(x, rows=True)
    expected[3] = dist.Normal(0 * ONE, 1).log_prob(x[3]).sum()
    torch.testing.assert_close(evaluate.log_weights(Model(p, q), x, 5), expected.expand(5, N), rtol=0, atol=1e-10)
    with pytest.raises(ValueError, match="`model` must have latents without a mask for this gap, got one at 'z'"):
        evaluate.elbo_gap(Model(p, vector_guide), x, log_prob=expected)


def vector_guide(x):
    with data(x):
        pyro.sample("z", dist.Normal(x[:, :1], 1).to_event(1))


def drawn_indices(x):
    return pyro.plate("data", 1000, subsample_size=len(x), dim=-1)


def given_indices(x):
    return pyro.plate("data", 1000, subsample=torch.arange(len(x)), dim=-1)


def by_another_name(x):
    return pyro.plate("patients", 1000, subsample_size=len(x), dim=-1)


@pytest.mark.parametrize("plate", [drawn_indices, given_indices, by_another_name])
def test_a_plate_that_stands_for_more_data_scales_no_figure_for_one(plate):
    def p(x):
        with plate(x):
            z = pyro.sample("z", dist.Normal(0 * ONE, 1))
            pyro.sample("x", near(z).to_event(1), obs=x)

    def q(x):
        with plate(x):
            pyro.sample("z", dist.Normal(x.sum(1) / (1 + D), (1 + D) ** -0.5))

    x = torch.randn(N, D, dtype=torch.float64)
    model, expected = Model(p, q), log_p(x)
    torch.testing.assert_close(evaluate.log_weights(model, x, 5), expected.expand(5, N), rtol=0, atol=1e-10)
    torch.testing.assert_close(evaluate.elbo(model, x, 5), expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(evaluate.quadrature(model, x).values, expected, rtol=0, atol=1e-6)


def test_the_size_of_a_tile_changes_no_draw_where_pyro_draws_indices():
    def p(x):
        with data(x, subsample_size=len(x)) if len(x) == 50 else pyro.plate("data", 50, len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(0 * ONE, 1))
            pyro.sample("x", near(z).to_event(1), obs=x)

    x = torch.randn(N, D, dtype=torch.float64)
    tiled, whole = (evaluate.ais(Model(p, prior), x, AISOptions(4, 3), chunk_size=size).values for size in (3, None))
    torch.testing.assert_close(tiled, whole, rtol=1e-9, atol=0)


def test_a_program_that_leaves_data_out_is_refused_with_what_to_do():
    def p(x):
        with pyro.plate("data", len(x), subsample_size=2, dim=-1) as some:
            z = pyro.sample("z", dist.Normal(0 * ONE, 1))
            pyro.sample("x", near(z).to_event(1), obs=x[some])

    def q(x):
        with pyro.plate("data", len(x), subsample_size=2, dim=-1):
            pyro.sample("z", dist.Normal(0 * ONE, 1))

    x = torch.randn(N, D, dtype=torch.float64)
    for evaluator in (evaluate.log_weights, evaluate.elbo, evaluate.ais, evaluate.quadrature):
        with pytest.raises(ValueError, match=r"`model` must have all data in its plate 'data'.* write plate\('data'"):
            evaluator(Model(p, q), x)


def whole(x):
    with data(x):
        z = pyro.sample("z", dist.Normal(0 * ONE, 1))
        pyro.sample("x", near(z).to_event(1), obs=x)


@pytest.mark.parametrize("scale", [0.5, 2 * ONE])
@pytest.mark.parametrize("place", ["model", "guide"])
def test_a_scale_is_counted_in_the_elbo_and_is_no_likelihood(scale, place):
    x = torch.randn(N, D, dtype=torch.float64)
    scaled = poutine.scale(scale=scale)
    model = Model(*(scaled(each) if where == place else each for where, each in (("model", whole), ("guide", prior))))
    terms, plain = evaluate.elbo_terms(model, x, 3), evaluate.elbo_terms(Model(whole, prior), x, 3)
    log_p, log_q = plain.reconstruction, -plain.kl * 0  # q is the prior, so that log p(z) − log q(z) is zero
    if place == "model":
        torch.testing.assert_close(terms.reconstruction, log_p * scale, rtol=0, atol=1e-10)
    else:
        torch.testing.assert_close(terms.reconstruction, log_p, rtol=0, atol=1e-10)
    assert (terms.kl - log_q).abs().min() > 1e-3
    refused = "`model` must have no scaled site for log p\\(x\\), got a scale at '[xz]'"
    for method in ("importance", "ais") if place == "model" else ("importance",):
        with pytest.raises(ValueError, match=refused):
            evaluate.log_likelihood(model, x, 10, method)
    one = Model(poutine.scale(scale=ONE)(whole), prior)  # as at the end of a warm-up
    assert evaluate.log_likelihood(one, x, 10).values.isfinite().all()


def test_batch_dimensions_outside_of_all_plates_are_refused():
    """As stock Pyro refuses them; here they would be summed twice where their size is that of the particles."""

    def p(x):
        with pyro.plate("data", len(x), dim=-2), pyro.plate("pixels", D, dim=-1):
            z = pyro.sample("z", dist.Normal(0 * ONE, 1))
            with pyro.plate("looks", 2, dim=-3):
                looks = pyro.sample("looks_at", dist.Normal(z, 1))
            pyro.sample("x", dist.Normal(z + looks.sum(-3), 1), obs=x)

    def q(x):
        with pyro.plate("data", len(x), dim=-2), pyro.plate("pixels", D, dim=-1):
            pyro.sample("z", dist.Normal(0 * ONE, 1))
            with pyro.plate("looks", 2, dim=-3):
                pyro.sample("looks_at", dist.Normal(0 * ONE, 1))

    with pytest.raises(
        ValueError, match=r"every site inside the plate over data, got site 'x'.* in the event by to_event"
    ):
        evaluate.log_weights(Model(p, q), torch.zeros(N, D, dtype=torch.float64), 2)


def test_a_global_latent_is_refused_for_one_datum_too():
    def p(x):
        theta = pyro.sample("theta", dist.Normal(0 * ONE, 1))
        with data(x):
            pyro.sample("x", near(theta + 0 * x[:, 0]).to_event(1), obs=x)

    def q(x):
        pyro.sample("theta", dist.Normal(0 * ONE, 1))

    x = torch.zeros(1, D, dtype=torch.float64)
    for evaluator in (evaluate.log_weights, evaluate.ais):
        with pytest.raises(
            ValueError, match="`model` must have every site inside the plate over data, got site 'theta'"
        ):
            evaluator(Model(p, q), x)


def test_weights_that_are_random_are_refused():
    class Random(Written):
        def __init__(self):
            super().__init__(None)
            self.w = PyroSample(dist.Normal(torch.zeros(D, dtype=torch.float64), 1).to_event(1))

        def forward(self, x=None, *, num_data=1):
            plate = data(x)
            with plate:
                z = pyro.sample("z", dist.Normal(0 * ONE, 1))
            w = self.w
            with plate:
                pyro.sample("x", dist.Normal(z[..., None] * w, 1).to_event(1), obs=x)

    model, x = Model(None, prior), torch.zeros(N, D, dtype=torch.float64)
    model.model = Random()
    for evaluator in (evaluate.log_weights, evaluate.ais):
        with pytest.raises(
            ValueError, match="`model` must have every site inside the plate over data, got site 'Random"
        ):
            evaluator(model, x)


def test_a_factor_of_the_guide_is_part_of_q():
    """q is the prior; its factor is taken off every weight, and off the start of an annealed chain."""

    def q(x):
        with data(x):
            z = pyro.sample("z", dist.Normal(0 * ONE, 1))
            pyro.factor("f", 0.5 + 0 * z, has_rsample=True)

    x = torch.randn(N, D, dtype=torch.float64)
    found, plain = (evaluate.log_weights(Model(whole, each), x, 5) for each in (q, prior))
    torch.testing.assert_close(found, plain - 0.5, rtol=0, atol=1e-12)
    start = AISOptions(2, 1, start="guide")
    found, plain = (evaluate.ais(Model(whole, each), x, start).values for each in (q, prior))
    torch.testing.assert_close(found, plain - 0.5, rtol=0, atol=1e-12)
    assert not math.isclose(plain[0].item(), 0)


def point(x):
    with data(x):
        pyro.sample("z", dist.Delta(x.sum(-1) / (D + 1)))


def with_another(x):
    with data(x):
        u = pyro.sample("u", dist.Normal(0 * ONE, 1), infer={"is_auxiliary": True})
        pyro.sample("z", dist.Normal(u, 1))


def with_its_component(x):
    with data(x):
        k = pyro.sample("k", dist.Bernoulli(0.5 * ONE), infer={"is_auxiliary": True})
        pyro.sample("z", dist.Normal(k, 1))


def masked_alone(x):
    with data(x), poutine.mask(mask=x[:, 0] > 0):
        pyro.sample("z", dist.Normal(0 * ONE, 1))


def whole_coin(x):
    with data(x):
        z = pyro.sample("z", dist.Bernoulli(0.5 * ONE))
        pyro.sample("x", near(z).to_event(1), obs=x)


def relaxed(x):
    with data(x):
        pyro.sample("z", dist.RelaxedBernoulliStraightThrough(ONE, 0.5 * ONE))


NO_WEIGHTS = [(whole, point, "z"), (whole, with_another, "u"), (whole, with_its_component, "k")]
NO_WEIGHTS += [(whole, masked_alone, "z"), (whole_coin, relaxed, "z")]


@pytest.mark.parametrize(("p", "q", "site"), NO_WEIGHTS, ids=lambda each: getattr(each, "__name__", each))
def test_a_guide_of_other_latents_or_of_another_kind_has_no_likelihood(p, q, site):
    """Of a point, say, p(x, z) is as large as its prior is narrow, and no bound of p(x)."""
    x = torch.randn(N, D, dtype=torch.float64)
    with pytest.raises(ValueError, match=f"`guide` must have a density of the latents of .*, got site '{site}'"):
        evaluate.log_likelihood(Model(p, q), x, 10)
    assert evaluate.elbo(Model(p, q), x, 10).isfinite().all()  # as Pyro counts it


def test_a_point_serves_a_discrete_latent_and_what_follows_from_one_draw_of_all():
    x = torch.randn(N, D, dtype=torch.float64)

    def sure(x):
        with data(x):
            pyro.sample("z", dist.Delta(0 * x[:, 0]))

    known = math.log(0.5) + near(0 * x[:, 0]).to_event(1).log_prob(x)
    torch.testing.assert_close(evaluate.log_likelihood(Model(whole_coin, sure), x, 10).values, known)

    def automatic(x):  # the posterior, as 2 times a draw of another site
        with data(x):
            half = dist.Normal(x.sum(-1) / (D + 1) / 2, (D + 1) ** -0.5 / 2)
            u = pyro.sample("all", half, infer={"is_auxiliary": True})
            pyro.sample("z", dist.Delta(2 * u, log_density=torch.full_like(u, -math.log(2))))

    torch.testing.assert_close(evaluate.log_likelihood(Model(whole, automatic), x, 10).values, log_p(x))


def test_what_is_no_program_is_refused_by_name():
    def methods(x=None, *, num_data=1):
        return whole(x)

    model, x = Model(whole, prior), torch.randn(N, D, dtype=torch.float64)
    for use in (evaluate.log_likelihood, evaluate.ais, evaluate.encode):
        with pytest.raises(TypeError, match=r"`guide` must be a pyrovae\.models\.Program, got function"):
            use(model, x, guide=methods)
        given = type("Given", (Model,), {"guide": methods})(whole, prior)
        del given.guide
        with pytest.raises(TypeError, match=r"`model\.guide` must be a pyrovae\.models\.Program, got method"):
            use(given, x)
