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
    result = fit.svi(vae, x, valid=valid, num_epochs=150, lr=0.01, schedule="constant")
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
        r"the loss is not finite at step 3: parameter 'model\.decoder\.head\.loc\.bias' is not; lower `lr` = 0\.001"
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
        ({"num_epochs": 0}, r"`num_epochs` must be a whole number of at least 1, got 0"),
        ({"batch_size": 0}, r"`batch_size` must be a whole number of at least 1, got 0"),
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
