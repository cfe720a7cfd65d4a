"""Stochastic variational inference: bounds it may not pass, what it keeps, and what it leaves alone."""

import copy
import math
import sys
from pathlib import Path

import pyro
import pytest
import torch
from pyro.infer import RenyiELBO, Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO
from torch import nn

import pyrovae
from pyrovae import PPCA, VAE, Bernoulli, Execution, Gaussian, GaussianMixture, evaluate, fit
from pyrovae.data import Observations, Space
from pyrovae.fit.loss import first_run
from pyrovae.models.networks import CategoricalEncoder, LinearGaussianEncoder

D = 4


def linear_ppca(floor=1e-3):
    """PPCA with a learned q of the family of its posteriors: a linear variational autoencoder."""
    return PPCA(2, D, floor, encoder=LinearGaussianEncoder(D, 2, torch.float64))


def correlated(num_data=100):
    x = torch.randn(num_data, D, dtype=torch.float64) @ torch.randn(D, D, dtype=torch.float64)
    return x / x.std(0)


def small_vae(likelihood=None):
    return VAE(2, D, likelihood, hidden=(8,)).double()


MODELS = {
    "mixture": lambda: GaussianMixture(3, D, floor=0.01),
    "amortized mixture": lambda: GaussianMixture(3, D, floor=0.01, encoder=CategoricalEncoder((D,), 3).double()),
    "PPCA": lambda: PPCA(2, D, floor=0.01),
    "linear PPCA": linear_ppca,
    "VAE": small_vae,
}


@pytest.fixture(params=MODELS)
def model(request):
    return MODELS[request.param]()


@pytest.fixture
def x():
    return correlated()


# --------------------------------------------------------------------------------------------------------- inequalities


@pytest.mark.parametrize("make", [linear_ppca, lambda: PPCA(2, D, floor=1e-3)], ids=["learned q", "exact q"])
def test_ppca_by_svi_comes_near_its_global_maximum_and_never_passes_it(make, x):
    best = fit.closed_form(make(), x).model.score(x)
    result = fit.svi(make(), x, num_epochs=100, batch_size=50, lr=0.05)
    assert best - 0.1 < result.model.score(x) <= best + 1e-12


def test_a_mixture_by_svi_is_no_better_than_em_from_there(x):
    result = fit.svi(GaussianMixture(2, D, floor=0.01), x, num_epochs=50, batch_size=50, lr=0.05)
    polished = fit.em(result.model, x, warm_start=True)
    assert polished.trace[0].item() == pytest.approx(result.model.score(x), rel=1e-12)
    assert polished.trace[-1] - polished.trace[0] < 0.5


def test_a_linear_vae_is_never_better_than_ppca(x):
    """With a linear decoder and one σ the VAE is PPCA, whose maximum no parameters pass.

    Its likelihood is known too, Normal(b, WWᵀ + σ²I), and importance weights must find it.
    """
    floor = 1e-3
    best = fit.closed_form(PPCA(2, D, floor), x).model.score(x)
    vae = VAE(2, D, Gaussian("shared", floor), hidden=()).double()
    fitted = fit.svi(vae, x, num_epochs=150, batch_size=50, lr=0.05).model
    head = fitted.decoder.head
    noise = head(torch.zeros(2, dtype=torch.float64)).variance.diag()
    covariance = head.loc.weight @ head.loc.weight.T + noise
    exact = torch.distributions.MultivariateNormal(head.loc.bias, covariance).log_prob(x).mean().item()
    assert best - 0.1 < exact <= best + 1e-12
    estimate = evaluate.log_likelihood(fitted, x, num_particles=1000)
    standard_error = estimate.standard_error.square().sum().sqrt().item() / len(x)
    assert abs(estimate.mean - exact) <= 5 * standard_error
    assert estimate.mean <= best + 5 * standard_error


def test_the_elbo_is_below_the_likelihood_it_bounds(x):
    """The noise of the kept ELBO, from one draw a datum: the standard error over data of the log weights."""
    result = fit.svi(linear_ppca(), x, valid=x, num_epochs=30, lr=0.05)
    log_weights = evaluate.log_weights(result.model, x, 200)
    standard_error = log_weights.std(0).square().sum().sqrt().item() / len(x)
    assert result.elbo <= result.model.score(x) + 5 * standard_error


# ----------------------------------------------------------------------------------------------------------- identities


@pytest.mark.parametrize("make", [MODELS["mixture"], MODELS["PPCA"]], ids=["z summed over", "z from its posterior"])
def test_with_an_exact_guide_svi_ascends_log_prob_itself(make, x):
    """One step of plain gradient ascent on all data, by hand and by SVI: no noise is left in value or gradient."""
    model = make()
    model.initialize(x)
    by_hand = model.copy()
    by_hand.log_prob(x).mean().backward()
    with torch.no_grad():
        for parameter in by_hand.model.parameters():
            parameter.add_(0.1 * parameter.grad)
    options = {"schedule": "constant", "optimizer": torch.optim.SGD, "lr": 0.1, "warm_start": True}
    result = fit.svi(model, x, num_epochs=1, batch_size=len(x), **options)
    assert result.trace.item() == pytest.approx(model.score(x), rel=1e-12)
    for name, parameter in by_hand.named_parameters():
        torch.testing.assert_close(result.model.state_dict()[name], parameter.detach(), rtol=1e-9, atol=1e-12)


def test_a_trace_entry_is_the_mean_over_all_data_with_a_short_last_batch():
    """At learning rate ~0, and with enumeration in place of draws, every epoch's mean is log p(x) of the start."""
    x, gmm = correlated(23), GaussianMixture(3, D, floor=0.01)
    gmm.initialize(x)
    result = fit.svi(gmm, x, valid=x[:7], num_epochs=3, batch_size=10, lr=1e-15, warm_start=True)
    torch.testing.assert_close(result.trace, torch.full((3,), gmm.score(x), dtype=torch.float64), rtol=1e-9, atol=0)
    assert result.valid_trace[0].item() == pytest.approx(gmm.score(x[:7]), rel=1e-9)
    assert result.elbo == result.valid_trace.max().item()


class Recorder(Trace_ELBO):
    """Keeps the batches of the training steps: the loss is not taken on them in evaluation mode."""

    def __init__(self):
        super().__init__()
        self.batches = []

    def differentiable_loss(self, model, guide, batch):
        if model.training:
            self.batches.append(batch.clone())
        return super().differentiable_loss(model, guide, batch)


def test_every_datum_is_seen_once_an_epoch_in_fresh_order():
    x, elbo = torch.arange(10.0, dtype=torch.float64)[:, None].expand(10, D), Recorder()
    fit.svi(small_vae(), x, num_epochs=2, batch_size=4, elbo=elbo)
    assert [len(batch) for batch in elbo.batches] == [4, 4, 2] * 2
    first, second = (torch.cat(elbo.batches[i : i + 3])[:, 0].tolist() for i in (0, 3))
    assert sorted(first) == sorted(second) == x[:, 0].tolist()
    assert first != second


# ------------------------------------------------------------------------------------------------------- what it leaves
# alone


def test_the_caller_keeps_model_data_random_state_and_param_store(model, x):
    before, x_before, state = copy.deepcopy(model.state_dict()), x.clone(), torch.get_rng_state()
    result = fit.svi(model, x, valid=x[:10], num_epochs=2)
    assert all((value == before[name]).all() for name, value in model.state_dict().items())
    assert (x == x_before).all()
    assert (torch.get_rng_state() == state).all()
    assert not pyro.get_param_store().keys()
    assert model.training
    assert not result.model.training


@pytest.mark.usefixtures("stock_pyro")
def test_parameters_of_others_in_the_store_stay(x):
    pyro.param("theirs", torch.ones(3))
    fit.svi(small_vae(), x, num_epochs=1)
    assert list(pyro.get_param_store().keys()) == ["theirs"]


def test_a_seed_gives_one_fit_bit_for_bit_and_another_seed_another(model, x):
    first, second, other = (fit.svi(model, x, num_epochs=2, seed=seed) for seed in (1, 1, 2))
    parameters = [result.model.state_dict() for result in (first, second, other)]
    assert all((value == parameters[1][name]).all() for name, value in parameters[0].items())
    assert any((value != parameters[2][name]).any() for name, value in parameters[0].items())
    again = first.refit(2)
    assert all((value == parameters[2][name]).all() for name, value in again.model.state_dict().items())


def test_validation_moves_no_training_draw(x):
    """The validation of an epoch has draws of its own, so that it does not change the fit."""
    bare, watched = (fit.svi(small_vae(), x, valid=valid, num_epochs=3) for valid in (None, x))
    assert bare.trace.tolist() == watched.trace.tolist()


# -------------------------------------------------------------------------------------------------------------- what it
# keeps


def test_the_last_parameters_are_kept_without_validation(x):
    result = fit.svi(small_vae(), x, num_epochs=3)
    assert (result.kept, result.valid_trace, result.converged) == ("last, epoch 3", None, None)
    assert result.elbo == result.trace[-1].item()
    assert len(result.trace) == 3


def test_the_best_parameters_on_validation_are_kept():
    """Twenty data, four dimensions and a large network: the ELBO on others rises, then falls."""
    x, valid = correlated(20), correlated(200)
    vae = VAE(2, D, Gaussian("decoder", floor=1e-4), hidden=(64,)).double()
    result = fit.svi(vae, x, valid=valid, num_epochs=150, lr=0.01, schedule="constant", patience=150)
    best = result.valid_trace.argmax().item()
    assert best < 149
    assert result.elbo == result.valid_trace.max().item()
    assert result.kept == f"best on validation, epoch {best + 1} of 150"
    until_then = fit.svi(vae, x, valid=valid, num_epochs=best + 1, lr=0.01, schedule="constant")
    assert all(
        (value == until_then.model.state_dict()[name]).all() for name, value in result.model.state_dict().items()
    )


def test_patience_stops_after_so_many_epochs_without_gain():
    x, valid = correlated(20), correlated(200)
    vae = VAE(2, D, Gaussian("decoder", floor=1e-4), hidden=(64,)).double()
    result = fit.svi(vae, x, valid=valid, num_epochs=500, lr=0.01, schedule="constant", patience=4)
    assert len(result.trace) == len(result.valid_trace) < 500
    assert len(result.trace) == result.valid_trace.argmax().item() + 1 + 4


def test_result_says_what_it_is(x):
    space = Space("lengths in mm", "real")
    result = fit.svi(small_vae(), Observations(x, space=space), num_epochs=1)
    assert (result.method, result.objective, result.space) == ("SVI", "ELBO", space)
    assert repr(result).startswith("FitResult(VAE by SVI: ELBO ")


# -------------------------------------------------------------------------------------------------------------- options


def test_warm_start_begins_at_the_model_given_and_else_at_the_data(x):
    gmm = GaussianMixture(3, D, floor=0.01)
    with torch.no_grad():
        gmm.means.normal_()
    warm, cold = (fit.svi(gmm, x, num_epochs=1, lr=1e-15, warm_start=warm) for warm in (True, False))
    assert warm.trace.item() == pytest.approx(gmm.score(x), rel=1e-9)
    assert cold.trace.item() > warm.trace.item() + 0.1


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("constant", [1.0] * 10),
        ("cosine", [(1 + math.cos(math.pi * step / 10)) / 2 for step in range(10)]),
        ("one_cycle", [0.04, 0.52, *(4e-6 + (1 - 4e-6) * (1 + math.cos(math.pi * step / 7)) / 2 for step in range(8))]),
    ],
)
def test_schedules_set_the_rate_of_every_step(schedule, rates, x):
    """One cycle, as torch says: from 1/25 up in the first 30 %, and by a cosine down to 1/25 of 1e-4."""
    seen = []

    def optimizer(parameters, lr):
        adam = torch.optim.Adam(parameters, lr=lr)
        adam.register_step_pre_hook(lambda self, *_: seen.append(self.param_groups[0]["lr"] / 0.01))
        return adam

    fit.svi(small_vae(), x, num_epochs=2, batch_size=20, lr=0.01, schedule=schedule, optimizer=optimizer)
    assert seen == pytest.approx(rates, abs=1e-9)


def test_a_schedule_of_ones_own_is_stepped_after_every_batch(x):
    steps = []

    def schedule(optimizer, num_steps):
        assert num_steps == 6
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: steps.append(step) or 1.0)

    fit.svi(small_vae(), x, num_epochs=2, batch_size=40, schedule=schedule)
    assert steps == [0, 1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    "optimizer", [torch.optim.SGD, torch.optim.AdamW, lambda p, lr: torch.optim.Adam(p, lr, (0.5, 0.9))]
)
def test_optimizers_of_torch_serve(optimizer, x):
    result = fit.svi(small_vae(), x, num_epochs=3, optimizer=optimizer)
    assert result.trace.isfinite().all()


@pytest.mark.parametrize("elbo", [Trace_ELBO(num_particles=3), TraceMeanField_ELBO()])
def test_elbos_of_pyro_serve(elbo, x):
    vae = small_vae()
    default, chosen = fit.svi(vae, x, num_epochs=2), fit.svi(vae, x, num_epochs=2, elbo=elbo)
    assert chosen.trace.isfinite().all()
    assert chosen.trace.tolist() != default.trace.tolist()


def test_enumeration_is_chosen_by_itself(model, x):
    assert isinstance(first_run(model, x[:2]), TraceEnum_ELBO) is isinstance(model, GaussianMixture)
    chosen = TraceEnum_ELBO(max_plate_nesting=1) if isinstance(model, GaussianMixture) else Trace_ELBO()
    default, explicit = fit.svi(model, x, num_epochs=2), fit.svi(model, x, num_epochs=2, elbo=chosen)
    assert default.trace.tolist() == explicit.trace.tolist()


def test_resampled_observations_are_drawn_afresh_for_every_batch():
    grey, elbo = Observations(torch.full((50, D), 0.5, dtype=torch.float64), resample=True), Recorder()
    fit.svi(small_vae(Bernoulli()), grey, valid=grey, num_epochs=3, batch_size=50, elbo=elbo)
    assert all(set(batch.unique().tolist()) == {0.0, 1.0} for batch in elbo.batches)
    assert len({tuple(sorted(map(tuple, batch.tolist()))) for batch in elbo.batches}) == 3  # not the order alone


def test_models_train_in_their_own_type_on_data_of_any(x):
    single = VAE(2, D, hidden=(8,))
    result = fit.svi(single, x, valid=x, num_epochs=1, device="cpu")
    assert {p.dtype for p in result.model.parameters()} == {torch.float32}
    double = fit.svi(small_vae(), x.float(), num_epochs=1)
    assert {p.dtype for p in double.model.parameters()} == {torch.float64}


def test_layers_that_differ_in_training_train_and_are_evaluated_as_they_should():
    class Decoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.loc, self.modes = nn.Linear(2, D), []
            self.dropout = nn.Dropout(0.5)

        def forward(self, z):
            self.modes.append(self.training)
            return pyro.distributions.Normal(self.dropout(self.loc(z)), 1.0).to_event(1)

    x = torch.randn(10, D)
    result = fit.svi(VAE(2, D, hidden=(8,), decoder=Decoder()), x, valid=x, num_epochs=2)
    assert True in result.model.decoder.modes
    assert not result.model.decoder.modes[-1]  # validation comes last


# ----------------------------------------------------------------------------------------------------------- divergence


@pytest.mark.parametrize("batch_size", [8, 100], ids=["many batches", "one batch"])
@pytest.mark.parametrize("validated", [False, True])
def test_a_fit_that_diverges_stops_and_names_step_and_site(batch_size, validated, x):
    message = (
        r"the loss is not finite at step \d+: (the log-density of site '[xz]'|parameter '.*') is not; lower `lr` = 1e"
    )
    with pytest.raises(fit.DivergenceError, match=message) as caught:
        fit.svi(small_vae(), x, valid=x if validated else None, batch_size=batch_size, lr=1e200, schedule="constant")
    assert caught.value.last_good is None  # it never came to the end of an epoch


def test_a_mixture_that_diverges_is_stopped_as_well(x):
    with pytest.raises(fit.DivergenceError, match=r"the loss is not finite at step \d+"):
        fit.svi(GaussianMixture(3, D), x, lr=1e200, num_epochs=20)


class Poison(Trace_ELBO):
    """Puts a NaN into a parameter at the given call."""

    def __init__(self, call):
        super().__init__()
        self.calls_left = call

    def differentiable_loss(self, model, guide, batch):
        self.calls_left -= 1
        if self.calls_left == 0:
            nn.init.constant_(model.decoder.head.loc.bias, math.nan)
        return super().differentiable_loss(model, guide, batch)


@pytest.mark.parametrize("validated", [False, True])
def test_divergence_names_the_parameter_and_carries_the_last_good_result(validated, x):
    valid = x if validated else None
    good = fit.svi(small_vae(), x, valid=valid, num_epochs=2, batch_size=100, schedule="constant")
    message = (
        r"the loss is not finite at step 3: parameter 'model\.decoder\.head\.loc\.bias' is not; lower `lr` = 0\.006"
    )
    calls = 2 * (3 if validated else 2) + 1  # an epoch of one batch: its step, the check of it, the validation
    with pytest.raises(fit.DivergenceError, match=message) as caught:
        fit.svi(small_vae(), x, valid=valid, num_epochs=9, batch_size=100, schedule="constant", elbo=Poison(call=calls))
    last_good = caught.value.last_good
    assert all((value == last_good.model.state_dict()[name]).all() for name, value in good.model.state_dict().items())
    assert last_good.kept == "epoch 2, before the loss left the finite numbers"
    assert last_good.elbo == good.elbo
    assert not last_good.model.training
    assert last_good.trace.tolist() == good.trace.tolist()


def test_errors_that_are_no_divergence_are_left_as_they_are(x):
    class Wrong(Trace_ELBO):
        def differentiable_loss(self, model, guide, batch):
            raise ValueError("of the caller's own making")

    with pytest.raises(ValueError, match="of the caller's own making"):
        fit.svi(small_vae(), x, elbo=Wrong())


# ------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_epochs": 0}, r"`num_epochs` must be a whole number of at least 1, or None, got 0"),
        ({"batch_size": 0}, r"`batch_size` must be a whole number of at least 1, or None, got 0"),
        ({"lr": 0.0}, r"`lr` must be a positive number, got 0"),
        ({"lr": math.nan}, r"`lr` must be a positive number, got nan"),
        (
            {"schedule": "linear"},
            '`schedule` must be "constant", "cosine", "one_cycle" or a function, got .li',
        ),
        ({"patience": 3}, r"`patience` needs `valid`"),
        ({"valid": torch.zeros(5, 3)}, r"`valid` must have shape \(N, 4\), got \(5, 3\)"),
    ],
)
def test_options_out_of_range_are_refused(options, message, x):
    with pytest.raises(ValueError, match=message):
        fit.svi(small_vae(), x, **options)


def test_an_elbo_without_a_differentiable_loss_is_refused(x):
    with pytest.raises(TypeError, match=r"`elbo` must be a Pyro ELBO with a differentiable_loss, got RenyiELBO"):
        fit.svi(small_vae(), x, elbo=RenyiELBO(num_particles=2))


def test_data_that_do_not_fit_are_refused(x):
    with pytest.raises(ValueError, match=r"`data` must hold only 0 and 1 for a Bernoulli likelihood"):
        fit.svi(small_vae(Bernoulli()), x)
    with pytest.raises(ValueError, match=r"`data` must be finite"):
        fit.svi(small_vae(), x.fill_(math.nan))


def test_a_callback_sees_every_epoch_and_changes_nothing():
    x, seen = torch.randn(20, 2), []

    def callback(epoch, model):
        torch.rand(3)  # draws of its own
        seen.append((epoch, model.training, model.decoder.head.loc.bias[0].item()))

    vae = VAE(latent_dim=1, data_shape=(2,), hidden=(4,))
    with_callback, without = (fit.svi(vae, x, num_epochs=3, batch_size=5, callback=each) for each in (callback, None))
    assert [(epoch, training) for epoch, training, _ in seen] == [(1, False), (2, False), (3, False)]
    assert len({bias for _, _, bias in seen}) == 3  # the parameters of that epoch
    assert torch.equal(with_callback.trace, without.trace)


# ------------------------------------------------------------------------------------------------------ how deep it is


PACKAGE = str(Path(pyrovae.__file__).parent)


class CountsFrames(Trace_ELBO):
    """Notes the package's own functions between the caller and the ELBO; comprehensions do not count."""

    functions: tuple[str, ...] = ()

    def differentiable_loss(self, model, guide, batch):
        frames, frame = [], sys._getframe(1)
        while frame is not None:
            if frame.f_code.co_filename.startswith(PACKAGE) and "comp>" not in frame.f_code.co_name:
                frames.append(frame.f_code.co_name)
            frame = frame.f_back
        if model.training:
            type(self).functions = tuple(reversed(frames))
        return super().differentiable_loss(model, guide, batch)


@pytest.mark.parametrize("compile", [False, "auto"])
def test_a_reader_passes_few_frames_from_the_call_to_the_elbo(compile, x):
    fit.svi(small_vae(), x, num_epochs=1, elbo=CountsFrames(), execution=Execution(compile=compile))
    assert "svi" in CountsFrames.functions
    assert len(CountsFrames.functions) <= 6, CountsFrames.functions


# --------------------------------------------------------------------------------------- what a caller may hand over


def parameters_of(result):
    return {name: each.detach().clone() for name, each in result.model.named_parameters()}


class NormalEncoder(nn.Module):
    """q(z|x) from a body of the caller's own that gives means and log-scales of two latents."""

    def __init__(self, body):
        super().__init__()
        self.body = body

    def forward(self, x):
        loc, log_scale = self.body(x).chunk(2, -1)
        return pyro.distributions.Normal(loc, log_scale.clamp(-5, 5).exp()).to_event(1)


def vae_with(body):
    return VAE(2, D, hidden=(8,), encoder=NormalEncoder(body)).double()


def fixed_rate_schedule(optimizer, num_steps):
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)


def of_other_parameters(parameters, lr):
    return torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=lr)


@pytest.mark.parametrize(
    ("optimizer", "given"),
    [
        (torch.optim.Adam([nn.Parameter(torch.zeros(1))]), "one of the class Adam"),
        (pyro.optim.Adam({"lr": 0.01}), "one of the class PyroOptim"),
        (pyro.optim.Adam, "Adam"),
        (torch.optim.LBFGS, "one that makes LBFGS"),
        (lambda parameters, lr: None, "one that makes NoneType"),
        (lambda parameters: torch.optim.SGD(parameters), "<lambda>"),
        ("adam", "'adam'"),
    ],
)
def test_what_makes_no_optimizer_is_refused(optimizer, given, x):
    message = rf"`optimizer` must be called as optimizer\(parameters, lr=lr\) and make .*, got {given}; pass a class"
    with pytest.raises(TypeError, match=message):
        fit.svi(small_vae(), x, optimizer=optimizer)


@pytest.mark.parametrize(
    ("schedule", "given"),
    [
        (lambda optimizer, num_steps: torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer), "ReduceLROnPlateau"),
        (lambda optimizer, num_steps: None, "NoneType"),
        (lambda optimizer, num_steps: optimizer.param_groups[0]["lr"], "float"),
    ],
)
def test_what_makes_no_schedule_is_refused(schedule, given, x):
    with pytest.raises(TypeError, match=rf"`schedule` must make a torch scheduler .* without a value, got {given}"):
        fit.svi(small_vae(), x, schedule=schedule)


def test_an_optimizer_and_a_schedule_of_something_else_are_refused(x):
    """They would train nothing, or change no rate, in silence."""
    with pytest.raises(ValueError, match=r"`optimizer` must be of the parameters that it is called with"):
        fit.svi(small_vae(), x, optimizer=of_other_parameters)
    other = fixed_rate_schedule(of_other_parameters([], 0.1), 1)
    with pytest.raises(ValueError, match=r"`schedule` must be of the optimizer that it is called with"):
        fit.svi(small_vae(), x, schedule=lambda optimizer, num_steps: other)


@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceEnum_ELBO])
def test_the_class_of_an_elbo_is_refused(elbo, x):
    with pytest.raises(TypeError, match=rf"`elbo` must be a Pyro ELBO .*, got the class {elbo.__name__}; use e.g."):
        fit.svi(small_vae(), x, elbo=elbo)


def test_a_callback_that_cannot_be_called_is_refused(x):
    with pytest.raises(TypeError, match=r"`callback` must be a function of the epoch and the model, got int"):
        fit.svi(small_vae(), x, callback=3)


@pytest.mark.parametrize("schedule", ["constant", "one_cycle", "cosine"])
def test_groups_of_parameters_keep_the_ratio_of_their_rates(schedule, x):
    rates = []

    def grouped(parameters, lr):
        groups = [{"params": parameters[:2], "lr": lr}, {"params": parameters[2:], "lr": lr / 10}]
        optimizer = torch.optim.Adam(groups)
        optimizer.register_step_pre_hook(lambda self, *_: rates.append([each["lr"] for each in self.param_groups]))
        return optimizer

    fit.svi(small_vae(), x, num_epochs=2, batch_size=20, optimizer=grouped, schedule=schedule)
    assert [low / high for high, low in rates] == pytest.approx([0.1] * 10)


def test_a_rate_that_a_callback_sets_holds(x):
    """SGD with a rate of 0 from the second epoch on: the parameters stay."""
    made, seen = [], []

    def sgd(parameters, lr):
        made.append(torch.optim.SGD(parameters, lr=lr))
        return made[-1]

    def stop(epoch, model):
        made[-1].param_groups[0]["lr"] = 0.0
        seen.append(nn.utils.parameters_to_vector(model.parameters()).clone())

    fit.svi(small_vae(), x, num_epochs=3, batch_size=20, optimizer=sgd, schedule="constant", callback=stop)
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(seen[0], seen[2])


def test_a_rate_in_a_tensor_is_a_number(x):
    """A schedule would write into the caller's own."""
    rate, vae = torch.tensor(0.01), small_vae()
    given, plain = (fit.svi(vae, x, num_epochs=2, lr=lr) for lr in (rate, rate.item()))
    assert rate.item() == plain.refit.arguments["lr"]
    assert torch.equal(given.trace, plain.trace)


# ------------------------------------------------------------------------------------------------- frozen parameters


WAYS = [Execution(compile=False), Execution(compile="graph"), Execution(compile="graph", num_shards=2)]


@pytest.mark.parametrize("execution", WAYS, ids=["interpreted", "graph", "shards"])
@pytest.mark.parametrize("optimizer", [None, torch.optim.SGD], ids=["Adam", "SGD"])
def test_what_a_callback_freezes_stays_and_what_it_thaws_moves(execution, optimizer, x):
    """Momentum does not move it on, either; the rest is trained all along."""
    seen = []

    def callback(epoch, model):
        model.encoder.requires_grad_(epoch not in (3, 4))
        model.decoder.requires_grad_(epoch != 5)
        seen.append([nn.utils.parameters_to_vector(each.parameters()) for each in (model.encoder, model.decoder)])

    options = {"num_epochs": 8, "batch_size": 20, "schedule": "constant", "optimizer": optimizer}
    fit.svi(small_vae(), x, callback=callback, execution=execution, **options)
    for part, still in ((0, {3, 4}), (1, {5})):
        stayed = {epoch for epoch in range(1, 8) if torch.equal(seen[epoch - 1][part], seen[epoch][part])}
        assert stayed == still


def test_what_is_frozen_from_the_start_stays_until_it_is_thawed(x):
    vae = small_vae()
    vae.encoder.requires_grad_(False)
    frozen = fit.svi(vae, x, num_epochs=2, warm_start=True)
    thawed = fit.svi(vae, x, num_epochs=2, warm_start=True, callback=lambda _, model: model.requires_grad_(True))
    for name, before in vae.named_parameters():
        assert torch.equal(before, parameters_of(frozen)[name]) == name.startswith("guide.encoder"), name
        assert not torch.equal(before, parameters_of(thawed)[name]), name
    assert not any(each.requires_grad for each in frozen.model.encoder.parameters())


def test_a_model_with_nothing_to_train_is_refused(x):
    with pytest.raises(ValueError, match=r"`model` must have a parameter to be fitted, got none"):
        fit.svi(small_vae().requires_grad_(False), x)


def test_weights_that_two_layers_share_are_stepped_once(x):
    """As one parameter: a step of SGD moves them by their whole gradient, as autograd sums it."""
    first, second = nn.Linear(D, D), nn.Linear(D, D)
    second.weight = first.weight
    vae = vae_with(nn.Sequential(first, second))
    options = {"num_epochs": 1, "batch_size": len(x), "optimizer": torch.optim.SGD, "lr": 0.1}
    result = fit.svi(vae, x, warm_start=True, schedule="constant", elbo=TraceMeanField_ELBO(), **options)
    own = result.model.encoder.body
    assert own[0].weight is own[1].weight
    assert not torch.equal(own[0].weight, first.weight)
    assert len(list(result.model.parameters())) == len(list(vae.parameters()))


# ---------------------------------------------------------------------------------------- callbacks that change more


def test_a_callback_that_leaves_nan_ends_the_fit_even_after_the_last_epoch(x):
    def poison(epoch, model):
        if epoch == 3:
            nn.init.constant_(model.decoder.head.loc.bias, math.nan)

    good = fit.svi(small_vae(), x, num_epochs=3, schedule="constant")
    for valid in (None, x):
        message = r"`callback` left the parameter 'model\.decoder\.head\.loc\.bias' not finite after epoch 3"
        with pytest.raises(fit.DivergenceError, match=message) as caught:
            fit.svi(good.model, x, valid=valid, num_epochs=3, callback=poison)
        assert all(each.isfinite().all() for each in caught.value.last_good.model.parameters())
        assert caught.value.last_good.kept.startswith("epoch 2, before")


def test_a_callback_that_leaves_nan_in_a_buffer_ends_the_fit(x):
    model = small_vae()
    model.decoder.register_buffer("mask", torch.tensor([0.0, -math.inf]))  # as of attention
    with pytest.raises(fit.DivergenceError, match=r"`callback` left the buffer '.*mask' with NaN after epoch 2"):
        fit.svi(model, x, num_epochs=2, callback=lambda epoch, model: epoch == 2 and model.decoder.mask.fill_(math.nan))


def replace_parameter(model):
    model.decoder.head.loc.bias = nn.Parameter(torch.zeros(D, dtype=torch.float64))


def replace_module(model):
    model.decoder.head.loc = nn.Linear(8, D).double()


@pytest.mark.parametrize("replace", [replace_parameter, replace_module])
def test_parameters_that_a_callback_replaces_are_refused(replace, x):
    """No optimizer knows the new ones: they would never be trained."""
    with pytest.raises(ValueError, match=r"`callback` must change parameters in place, got a new 'model.decoder.head"):
        fit.svi(small_vae(), x, callback=lambda epoch, model: replace(model))


def test_a_callback_may_fit_and_evaluate(x):
    def work(epoch, model):
        fit.svi(model, x, num_epochs=1)
        evaluate.log_likelihood(model, x, num_particles=10)
        fit.em(GaussianMixture(1, D), x)

    vae = small_vae()
    watched, plain = (fit.svi(vae, x, num_epochs=3, callback=callback) for callback in (work, None))
    assert torch.equal(watched.trace, plain.trace)


# ------------------------------------------------------------------------------------------------ modules and data


@pytest.mark.filterwarnings("ignore:.torch.jit")
@pytest.mark.parametrize("compile", [False, "graph"])
@pytest.mark.parametrize("script", [torch.jit.script, lambda module: torch.jit.trace(module, torch.zeros(2, D))])
def test_modules_in_torchscript_train_as_those_in_python(script, compile, x):
    options = {"num_epochs": 4, "batch_size": 20, "warm_start": True, "execution": Execution(compile=compile)}
    plain = vae_with(nn.Linear(D, 4))
    scripted = plain.copy()
    scripted.encoder.body = script(copy.deepcopy(plain.encoder.body).float()).double()
    results = [fit.svi(each, x, **options) for each in (plain, scripted)]
    torch.testing.assert_close(results[0].trace, results[1].trace)
    assert torch.equal(scripted.encoder.body.weight, plain.encoder.body.weight)  # the caller's stay
    assert not torch.equal(results[1].model.encoder.body.weight, scripted.encoder.body.weight)


@pytest.mark.parametrize(("num_data", "batch_size"), [(21, 20), (1, 128), (9, 4)])
@pytest.mark.parametrize("compile", [False, "graph"])
@pytest.mark.filterwarnings("ignore:`data` do not vary")
def test_a_batch_of_one_datum_under_batch_norm_is_named(num_data, batch_size, compile, x):
    vae = vae_with(nn.Sequential(nn.Linear(D, 8), nn.BatchNorm1d(8), nn.Linear(8, 4)))
    step = math.ceil(num_data / batch_size)
    message = rf"`batch_size` must leave no batch of 1 datum to a BatchNorm.* at step {step}; choose another"
    with pytest.raises(ValueError, match=message):
        fit.svi(vae, x[:num_data], batch_size=batch_size, execution=Execution(compile=compile))


def test_batch_norm_counts_the_batches_of_the_fit_and_no_others(x):
    vae = vae_with(nn.Sequential(nn.Linear(D, 8), nn.BatchNorm1d(8), nn.Linear(8, 4)))
    result = fit.svi(vae, x[:20], num_epochs=3, batch_size=10, execution=Execution(compile=False))
    assert result.model.encoder.body[1].num_batches_tracked == 6


@pytest.mark.parametrize("valid", [False, True])
@pytest.mark.filterwarnings("ignore:`data` do not vary")
def test_one_datum_is_fitted(valid, x):
    result = fit.svi(small_vae(), x[:1], valid=x[:1] if valid else None, num_epochs=2)
    assert math.isfinite(result.elbo)


def test_a_batch_larger_than_the_data_is_all_of_them(x):
    vae = small_vae()
    larger, equal = (fit.svi(vae, x, num_epochs=2, batch_size=size) for size in (10 * len(x), len(x)))
    assert torch.equal(larger.trace, equal.trace)


def test_parameters_of_several_types_train_together(x):
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(D, 4).double(), nn.Linear(4, 4)

        def forward(self, x):
            return self.last(self.first(x.double()).float())

    vae = VAE(2, D, hidden=(8,), encoder=NormalEncoder(Mixed()))
    before = {name: each.clone() for name, each in vae.named_parameters()}
    after = parameters_of(fit.svi(vae, x.float(), num_epochs=2, warm_start=True))
    assert all(after[name].dtype == each.dtype and not torch.equal(after[name], each) for name, each in before.items())
