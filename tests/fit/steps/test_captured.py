"""Captured steps: at shared noise they give what the plain loop gives, and what is not static is refused."""

import copy
import math
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO
from torch import nn

from pyrovae import PPCA, VAE, Bernoulli, BernoulliMixture, Execution, Gaussian, GaussianMixture, fit
from pyrovae.data import Observations
from pyrovae.engine.capture import compiler_found
from pyrovae.fit import CompiledELBO, CompiledLoss, NotStatic
from pyrovae.fit.steps import backends
from pyrovae.models.guides import AmortizedGuide
from pyrovae.models.networks import CategoricalEncoder, LinearGaussianEncoder

D, N = 4, 60
needs_compiler = pytest.mark.skipif(not compiler_found(), reason="Inductor needs a C++ compiler")


@pytest.fixture
def x():
    return torch.randn(N, D, dtype=torch.float64) @ torch.randn(D, D, dtype=torch.float64)


def amortized():
    return CategoricalEncoder((D,), 3).double()


class WithLayersOfTwoModes(nn.Module):
    """A decoder that does something else in training: dropout, and normalisation that keeps a record."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, D)).double()

    def forward(self, z, y=None):
        z = z if y is None else z + y[:, None]
        return dist.Normal(self.body(z), 1.0).to_event(1)


def decoder_of_two_modes():
    return VAE(2, D, hidden=(8,), decoder=WithLayersOfTwoModes(), encoder=VAE(2, D, hidden=(8,)).double().encoder)


binary = {
    "conditional VAE": lambda: VAE(2, D, Bernoulli(), hidden=(8,), num_classes=3).double(),
    "Bernoulli mixture": lambda: BernoulliMixture(3, D),
    "amortized Bernoulli mixture": lambda: BernoulliMixture(3, D, encoder=amortized()),
}
real = {
    "VAE": lambda: VAE(2, D, Gaussian("decoder"), hidden=(8,)).double(),
    "VAE, full q": lambda: VAE(2, D, hidden=(8,), posterior="full").double(),
    "PPCA": lambda: PPCA(2, D),
    "PPCA, learned q": lambda: PPCA(2, D, encoder=LinearGaussianEncoder(D, 2, torch.float64)),
    "mixture": lambda: GaussianMixture(3, D, floor=0.01),
    "amortized mixture": lambda: GaussianMixture(3, D, floor=0.01, encoder=amortized()),
    "layers of two modes": decoder_of_two_modes,
}


def data_for(name, x):
    return Observations((x > 0).double(), labels=torch.arange(N) % 3) if name in binary else x


def two_fits(model, data, compile="graph", **options):
    """The plain fit and the captured one."""
    options = {"num_epochs": 34, "batch_size": 20, "lr": 0.01, **options}
    return [fit.svi(model, data, **options, execution=Execution(compile=way)) for way in (False, compile)]


def assert_equal_fits(plain, captured, rtol):
    torch.testing.assert_close(captured.trace, plain.trace, rtol=rtol, atol=0)
    for name, value in plain.model.state_dict().items():
        other = captured.model.state_dict()[name]
        torch.testing.assert_close(other, value, rtol=rtol, atol=rtol * value.abs().max().item())


# --------------------------------------------------------------------------------------------- the same at shared noise


@pytest.mark.parametrize("name", [*real, *binary])
def test_a_captured_fit_is_the_plain_one_at_shared_noise(name, x):
    model = {**real, **binary}[name]()
    before = copy.deepcopy(model.state_dict())
    plain, captured = two_fits(model, data_for(name, x))
    assert len(plain.trace) * 3 > 100
    assert_equal_fits(plain, captured, rtol=1e-7)
    assert plain.trace[-1] > plain.trace[0]  # they learn
    assert all((value == before[key]).all() for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    "elbo",
    [
        Trace_ELBO(num_particles=2),
        Trace_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1),
        TraceMeanField_ELBO(),
        fit.BetaELBO(4.0),
        fit.BetaELBO(fit.LinearWarmup(30, 2.0)),
        fit.BetaELBO(fit.LinearWarmup(30, 2.0), TraceMeanField_ELBO()),
        fit.ImportanceWeightedELBO(3),
        fit.ImportanceWeightedELBO(3, gradient="doubly_reparametrised"),
    ],
    ids=lambda elbo: type(elbo).__name__,
)
def test_so_it_is_with_every_objective(elbo, x):
    plain, captured = two_fits(real["VAE"](), x, elbo=elbo, num_epochs=7)
    assert_equal_fits(plain, captured, rtol=1e-7)


def test_the_weight_of_a_warm_up_is_that_of_the_step(x):
    """Else the warm-up would stay where it was captured, and end like a weight that does not grow."""
    grows, stays = (fit.BetaELBO(fit.LinearWarmup(steps, 5.0)) for steps in (40, 4000))
    options = {"num_epochs": 15, "batch_size": 20, "execution": Execution(compile="graph")}
    grown, stayed = (fit.svi(real["VAE"](), x, elbo=elbo, **options).trace for elbo in (grows, stays))
    assert grown[-1] < stayed[-1] - 0.1


def test_a_warm_up_with_an_enumerated_guide(x):
    elbo = fit.BetaELBO(fit.LinearWarmup(20, 2.0), TraceEnum_ELBO(max_plate_nesting=1))
    assert_equal_fits(*two_fits(real["amortized mixture"](), x, elbo=elbo, num_epochs=10), rtol=1e-7)


def test_data_are_binarized_afresh_at_every_step(x):
    grey = Observations(x.sigmoid(), resample=True)
    plain, captured = two_fits(VAE(2, D, Bernoulli(), hidden=(8,)).double(), grey, num_epochs=10, valid=grey)
    assert_equal_fits(plain, captured, rtol=1e-7)
    torch.testing.assert_close(captured.valid_trace, plain.valid_trace, rtol=1e-7, atol=0)


@pytest.mark.parametrize("capturing_pays_after", [5, 1000], ids=["both sizes captured", "the short one interpreted"])
def test_a_short_last_batch(capturing_pays_after, x, monkeypatch):
    monkeypatch.setattr(backends, "STEPS_TO_CAPTURE", capturing_pays_after)
    assert_equal_fits(*two_fits(real["VAE"](), x[:47], num_epochs=10), rtol=1e-7)


def test_schedule_optimizer_validation_and_one_batch_of_all(x):
    options = {"schedule": "one_cycle", "optimizer": torch.optim.AdamW, "valid": x[:10], "patience": 50}
    plain, captured = two_fits(real["VAE"](), x, **options, batch_size=1000)
    assert_equal_fits(plain, captured, rtol=1e-7)
    assert captured.kept == plain.kept


def test_two_models_in_one_process_do_not_touch_one_another(x):
    first, second = real["VAE"](), real["mixture"]()
    alone = fit.svi(first, x, num_epochs=10, batch_size=20, execution=Execution(compile="graph"))
    fit.svi(second, x, num_epochs=10, batch_size=20, execution=Execution(compile="graph"))
    again = fit.svi(first, x, num_epochs=10, batch_size=20, execution=Execution(compile="graph"))
    assert alone.trace.tolist() == again.trace.tolist()
    assert not pyro.get_param_store().keys()


@needs_compiler
def test_what_inductor_compiles_is_the_plain_fit_as_well(x):
    """Labels, buffers that a step changes, draws of two kinds, and a weight that differs from step to step."""
    encoder = VAE(2, D, hidden=(8,), num_classes=3).double().encoder
    model = VAE(2, D, num_classes=3, encoder=encoder, decoder=WithLayersOfTwoModes())
    elbo = fit.BetaELBO(fit.LinearWarmup(30, 2.0))
    plain, captured = two_fits(model, data_for("conditional VAE", x), compile="inductor", elbo=elbo)
    assert_equal_fits(plain, captured, rtol=1e-5)


# -------------------------------------------------------------------------------------------- programs of anybody's own


def linear_regression(x, y):
    weight = pyro.sample("weight", dist.Normal(torch.zeros(3), 1.0).to_event(1))
    noise = pyro.param("noise", torch.tensor(1.0), constraint=dist.constraints.positive)
    with pyro.plate("data", 100, subsample_size=len(x)):
        pyro.sample("y", dist.Normal(x @ weight, noise), obs=y)


def its_guide(x, y):
    loc = pyro.param("loc", torch.zeros(3))
    scale = pyro.param("scale", torch.full((3,), 0.1), constraint=dist.constraints.positive)
    pyro.sample("weight", dist.Normal(loc, scale).to_event(1))


def trained(loss_and_gradients, parameters, num_steps=50):
    optimizer = torch.optim.Adam(parameters, lr=0.05)
    torch.manual_seed(1)
    losses = []
    for _ in range(num_steps):
        batch = torch.randn(20, 3)
        losses.append(loss_and_gradients(batch, batch.sum(1)))
        optimizer.step()
    return torch.tensor(losses)


@pytest.mark.usefixtures("stock_pyro")
def test_programs_with_pyro_param_and_a_scaled_plate():
    def plainly(*batch):
        for each in leaves:
            each.grad = None
        loss = Trace_ELBO().differentiable_loss(linear_regression, its_guide, *batch)
        loss.backward()
        return loss.item()

    x = torch.randn(20, 3)
    with pyro.get_param_store().scope():
        Trace_ELBO().loss(linear_regression, its_guide, x, x.sum(1))
        leaves = [each.unconstrained() for each in pyro.get_param_store().values()]
        plain = trained(plainly, leaves)
    with pyro.get_param_store().scope():
        compiled = CompiledELBO(linear_regression, its_guide)
        captured = trained(lambda *batch: compiled(*batch).item(), compiled.parameters(x, x.sum(1)))
    assert len(leaves) == 3
    torch.testing.assert_close(captured, plain, rtol=1e-5, atol=0)
    assert captured[-10:].mean() < captured[:10].mean() / 2


@pytest.mark.usefixtures("stock_pyro")
def test_an_autoguide_and_a_score_function_gradient(x):
    def model(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0].float())

    def guide(x):
        loc = pyro.param("loc", torch.tensor(0.5))
        pyro.sample("z", dist.testing.fakes.NonreparameterizedNormal(loc, torch.tensor(0.3)))

    for each in (guide, pyro.infer.autoguide.AutoNormal(model)):
        compiled = CompiledELBO(model, each)
        (*_, leaf) = compiled.parameters(x)
        for seed in range(5):
            torch.manual_seed(seed)
            loss = compiled(x)
            torch.manual_seed(seed)
            expected = Trace_ELBO().differentiable_loss(model, each, x)
            torch.testing.assert_close(loss, expected.detach(), rtol=1e-6, atol=0)
            torch.testing.assert_close(leaf.grad, torch.autograd.grad(expected, leaf)[0], rtol=1e-5, atol=1e-6)


def test_draws_are_fresh_and_follow_the_seed(x):
    vae = real["VAE"]()
    compiled = CompiledELBO(vae.model, vae.guide)
    with pyro.get_param_store().scope():
        for _ in range(3):
            compiled(x)
        first, second = compiled(x), compiled(x)
        torch.manual_seed(3)
        one = compiled(x)
        torch.manual_seed(3)
        other = compiled(x)
        torch.manual_seed(3)
        plain = Trace_ELBO().differentiable_loss(vae.model, vae.guide, x).detach()
    assert first != second
    assert one == other
    torch.testing.assert_close(one, plain, rtol=1e-12, atol=0)


def test_a_cost_without_probability_does_not_count():
    """q(z|x) is zero where log q is minus infinity, and 0 · ∞ is no number."""
    logits = nn.Parameter(torch.tensor([0.0, 1.0]))
    closed = torch.tensor([0.0, -math.inf])

    class Guide(nn.Module):
        def forward(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Categorical(logits=logits + closed), infer={"enumerate": "parallel"})

    class Model(nn.Module):
        def forward(self, x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Categorical(logits=torch.zeros(2)))
                pyro.sample("x", dist.Normal(z.float() * logits[0], 1.0), obs=x)

    values = torch.randn(5)
    guide, model = Guide(), Model()
    model.logits = logits
    elbo = TraceEnum_ELBO(max_plate_nesting=1)
    compiled = CompiledELBO(model, guide, elbo)
    for _ in range(5):
        loss = compiled(values)
    expected = elbo.differentiable_loss(model, guide, values)
    assert loss.isfinite()
    torch.testing.assert_close(loss, expected.detach())
    torch.testing.assert_close(logits.grad, torch.autograd.grad(expected, logits)[0])


# ------------------------------------------------------------------------------------------------------ what is refused


class Branching(nn.Module):
    """A decoder that looks at z."""

    def __init__(self):
        super().__init__()
        self.loc = nn.Linear(2, D, dtype=torch.float64)

    def forward(self, z):
        loc = self.loc(z) if z.sum() > 0 else -self.loc(z)
        return dist.Normal(loc, 1.0).to_event(1)


class Counting(Branching):
    """A decoder that does something else after some calls."""

    calls = 0

    def forward(self, z):
        self.calls += 1
        return dist.Normal(self.loc(z) * self.calls, 1.0).to_event(1)


def with_decoder(decoder):
    encoder = VAE(2, D, hidden=(8,)).double().encoder
    return VAE(2, D, encoder=encoder, decoder=decoder)


@pytest.mark.parametrize(
    ("decoder", "reason"),
    [
        (Branching, r"it branches on the value of a tensor at .*test_captured\.py:\d+, in forward; `compile=False`"),
        (Counting, r"every call of it changes `VAE.model.decoder.calls`"),
    ],
)
def test_a_model_that_is_not_static_is_interpreted_and_the_reason_said(decoder, reason, x):
    model = with_decoder(decoder())
    plain = fit.svi(model, x, num_epochs=5, batch_size=20, execution=Execution(compile=False))
    with pytest.warns(fit.FitWarning, match=reason):
        captured = fit.svi(model, x, num_epochs=5, batch_size=20, execution=Execution(compile="graph"))
    assert_equal_fits(plain, captured, rtol=1e-12)


def test_on_its_own_it_is_refused_and_nothing_has_changed(x):
    model = with_decoder(Branching())
    compiled = CompiledELBO(model.model, model.guide)
    with pyro.get_param_store().scope():
        compiled(x)
        compiled(x)
        before = torch.get_rng_state()
        with pytest.raises(NotStatic, match="branches on the value"):
            compiled(x)
    assert (torch.get_rng_state() == before).all()


def test_a_shape_that_changes_is_refused():
    parameter = nn.Parameter(torch.ones(()))

    def function(x):
        return [parameter * x[x > 0].sum()]

    loss = CompiledLoss(function, [parameter])
    loss(torch.ones(3))
    loss(torch.ones(3))
    with pytest.raises(NotStatic, match="`index`, which gives a tensor whose shape depends on values"):
        loss(torch.ones(3))


def test_a_parameter_that_is_not_reached_has_no_gradient():
    used, unused = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    loss = CompiledLoss(lambda x: [(used * x).sum()], [used, unused])
    for _ in range(5):
        loss(torch.full((2,), 3.0))
    assert used.grad.tolist() == [3.0, 3.0]
    assert unused.grad is None


def test_a_captured_fit_that_diverges_names_step_and_offender(x):
    with pytest.raises(fit.DivergenceError, match=r"not finite at step \d+: .* is not; lower `lr` = 1e\+200"):
        fit.svi(real["VAE"](), x, batch_size=10, lr=1e200, schedule="constant", execution=Execution(compile="graph"))
    steps = []
    for way in (False, "graph"):
        with pytest.raises(fit.DivergenceError, match=r"not finite at step \d+") as caught:
            fit.svi(real["mixture"](), x, lr=1e200, num_epochs=20, execution=Execution(compile=way))
        steps.append(str(caught.value).partition(":")[0])
    assert steps[0] == steps[1]


# ----------------------------------------------------------------------------------------------------------- the choice


def test_what_is_chosen_by_itself(monkeypatch):
    cpu, cuda = torch.device("cpu"), torch.device("cuda")

    class Own(Trace_ELBO):
        pass

    monkeypatch.setattr(backends, "compiler_found", lambda: True)
    assert backends.choose(Execution(), cpu, 299, Trace_ELBO()) is False
    assert backends.choose(Execution(), cpu, 300, Trace_ELBO()) == "graph"
    assert backends.choose(Execution(), cpu, 10_000, TraceEnum_ELBO()) == "inductor"
    assert backends.choose(Execution(), cuda, 300, fit.BetaELBO(2.0)) == "cuda_graph"
    assert backends.choose(Execution(), cpu, 10_000, Own()) is False
    monkeypatch.setattr(backends, "compiler_found", lambda: False)
    assert backends.choose(Execution(), cpu, 10_000, Trace_ELBO()) == "graph"


def test_by_itself_a_long_fit_is_captured(x, monkeypatch):
    monkeypatch.setattr(backends, "STEPS_TO_CAPTURE", 10)
    with pytest.warns(fit.FitWarning, match="cannot be captured as a graph, so Pyro interprets the model"):
        fit.svi(with_decoder(Branching()), x, num_epochs=5, batch_size=20)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit.svi(real["VAE"](), x, num_epochs=5, batch_size=20)


def test_without_a_compiler_inductor_gives_way_to_the_graph(x, monkeypatch):
    def fails(self, inputs):
        raise RuntimeError("no compiler\nand more")

    monkeypatch.setattr("pyrovae.engine.capture.Graph.compiled", fails)
    with pytest.warns(
        fit.FitWarning, match=r"could not compile the graph \(RuntimeError: no compiler\); the graph serv"
    ):
        captured = fit.svi(real["VAE"](), x, num_epochs=5, batch_size=20, execution=Execution(compile="inductor"))
    plain = fit.svi(real["VAE"](), x, num_epochs=5, batch_size=20, execution=Execution(compile=False))
    assert len(captured.trace) == len(plain.trace)


@pytest.mark.parametrize(
    ("compile", "message"),
    [
        ("jit", '`compile` must be "auto", "graph", "inductor", "cuda_graph" or False, got .jit.'),
        ("cuda_graph", r"`compile='cuda_graph'` needs a CUDA device, got 'cpu'"),
    ],
)
def test_ways_that_are_not_to_be_had_are_refused(compile, message, x):
    with pytest.raises(ValueError, match=message):
        fit.svi(real["VAE"](), x, execution=Execution(compile=compile))


def test_arguments_of_the_compiled_elbo_are_checked(x):
    vae = real["VAE"]()
    with pytest.raises(ValueError, match=r'`backend` must be "graph" or "inductor", got .jit.'):
        CompiledELBO(vae.model, vae.guide, backend="jit")
    with pytest.raises(TypeError, match=r"`elbo` must be a Pyro ELBO with a differentiable_loss, got int"):
        CompiledELBO(vae.model, vae.guide, 3)
    with pytest.raises(TypeError, match=r"`args` must be tensors, got int"):
        CompiledELBO(vae.model, vae.guide)(x, 3)


@pytest.mark.filterwarnings("ignore:.* was not registered in the param store")
def test_frozen_parameters_stay(x):
    vae = real["VAE"]()
    for parameter in vae.decoder.parameters():
        parameter.requires_grad_(False)
    frozen = copy.deepcopy(vae.decoder.state_dict())
    plain, captured = two_fits(vae, x, warm_start=True, num_epochs=8)
    assert_equal_fits(plain, captured, rtol=1e-7)
    assert all((value == frozen[name]).all() for name, value in captured.model.decoder.state_dict().items())
    assert isinstance(captured.model.guide, AmortizedGuide)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("schedule", ["cosine", "one_cycle"])  # the second changes Adam's momentum as well
@pytest.mark.parametrize("name", ["VAE", "conditional VAE", "layers of two modes"])
def test_a_cuda_graph_is_the_plain_fit(name, schedule, x):
    model = {**real, **binary}[name]()
    options = {"device": "cuda", "schedule": schedule, "elbo": fit.BetaELBO(fit.LinearWarmup(30, 2.0))}
    assert_equal_fits(*two_fits(model, data_for(name, x), compile="cuda_graph", **options), rtol=1e-5)
