"""How long a fit by SVI runs, and from which start: steps in place of epochs, early stopping, restarts."""

import math
import threading

import pyro.distributions as dist
import pytest
import torch
from pyro.infer import TraceEnum_ELBO

from pyrovae import PPCA, VAE, Execution, Gaussian, GaussianMixture, fit
from pyrovae.fit import steps

D, N, BATCH = 4, 90, 20
PER_EPOCH = 5
WAYS = {
    "interpreted": {"compile": False},
    "graph": {"compile": "graph"},
    "shards": {"num_shards": 2},
    "streamed": {"memory_budget": 2 * 2 * BATCH * D * 8},  # two chunks of two batches each
}


def correlated(num_data=N):
    x = torch.randn(num_data, D, dtype=torch.float64) @ torch.randn(D, D, dtype=torch.float64)
    return x / x.std(0)


def small_vae():
    return VAE(2, D, hidden=(8,)).double()


def overfitting_vae():
    return VAE(2, D, Gaussian("decoder", floor=1e-4), hidden=(64,)).double()


@pytest.fixture
def x():
    return correlated()


def fitted(model, x, **options):
    return fit.svi(model, x, **{"batch_size": BATCH, "lr": 0.01, "progress": False, **options})


def assert_same(first, second):
    assert torch.equal(first.trace, second.trace)
    pairs = zip(first.model.state_dict().values(), second.model.state_dict().values(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


# --------------------------------------------------------------------------------------------------------------- steps


class Recorder(TraceEnum_ELBO):
    """Keeps the batches of the steps."""

    def __init__(self):
        super().__init__(max_plate_nesting=1)
        self.batches = []

    def differentiable_loss(self, model, guide, batch):
        if model.training:
            self.batches.append(batch.clone())
        return super().differentiable_loss(model, guide, batch)


@pytest.mark.parametrize("num_steps", [1, 3, PER_EPOCH, 2 * PER_EPOCH + 3, 3 * PER_EPOCH - 1])
@pytest.mark.parametrize("how", [WAYS["interpreted"], WAYS["streamed"]], ids=["in memory", "streamed"])
def test_so_many_steps_are_taken_and_a_short_epoch_is_the_mean_of_what_it_saw(num_steps, how, x):
    """At learning rate ~0, and with enumeration in place of draws, that mean is log p of these data at the start."""
    gmm, elbo, lengths = GaussianMixture(3, D, floor=0.01), Recorder(), []
    gmm.initialize(x)

    def schedule(optimizer, num_steps):
        lengths.append(num_steps)
        return torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)

    options = {"lr": 1e-15, "schedule": schedule, "warm_start": True, "elbo": elbo, "execution": Execution(**how)}
    result = fitted(gmm, x, num_steps=num_steps, **options)
    assert (lengths, len(elbo.batches), result.num_steps) == ([num_steps], num_steps, num_steps)
    assert len(result.trace) == math.ceil(num_steps / PER_EPOCH)
    last = torch.cat(elbo.batches[PER_EPOCH * (len(result.trace) - 1) :])
    assert len(last.unique(dim=0)) == len(last)
    assert result.trace[-1].item() == pytest.approx(gmm.score(last), rel=1e-9)


@pytest.mark.parametrize("how", WAYS.values(), ids=WAYS)
def test_steps_of_whole_epochs_are_those_epochs_and_others_are_cut(how, x):
    """Up to the cut, at one rate, the longer fit and the shorter are the same."""
    vae, execution, before = small_vae(), Execution(**how), threading.active_count()
    options = {"schedule": "constant", "execution": execution}
    whole = fitted(vae, x, num_epochs=3, **options)
    assert_same(fitted(vae, x, num_steps=3 * PER_EPOCH, **options), whole)
    cut = fitted(vae, x, num_steps=2 * PER_EPOCH + 1, **options)
    assert torch.equal(cut.trace[:2], whole.trace[:2])
    assert (len(cut.trace), cut.num_steps, whole.num_steps) == (3, 2 * PER_EPOCH + 1, 3 * PER_EPOCH)
    assert threading.active_count() == before


def test_a_cut_fit_is_the_same_streamed(x):
    vae = small_vae()
    options = {"num_steps": 2 * PER_EPOCH + 3, "warm_start": True}
    assert_same(*(fitted(vae, x, execution=Execution(**WAYS[way]), **options) for way in ("interpreted", "streamed")))


class Encoder(torch.nn.Module):
    """q(z|x) with a number that no graph sees change within an epoch."""

    def __init__(self):
        super().__init__()
        self.body, self.level = torch.nn.Linear(D, 2), 0.1

    def forward(self, x):
        return dist.Normal(self.body(x), self.level).to_event(1)


def test_a_fit_that_goes_back_takes_so_many_steps_all_the_same(x):
    """A graph was out of date in the third epoch, whose steps are taken again."""
    models = []

    def schedule(optimizer, num_steps):
        def rate(step):
            if step == 2 * PER_EPOCH + 3:
                models[-1].encoder.level = 0.3
            return 1.0

        return torch.optim.lr_scheduler.LambdaLR(optimizer, rate)

    vae = VAE(2, D, hidden=(8,), encoder=Encoder()).double()
    options = {"schedule": schedule, "callback": lambda epoch, model: models.append(model)}
    with pytest.warns(fit.FitWarning, match="the graph of the loss was out of date after epoch 3"):
        result = fitted(vae, x, num_steps=3 * PER_EPOCH + 2, **options, execution=Execution(compile="graph"))
    assert (result.num_steps, len(result.trace)) == (3 * PER_EPOCH + 2, 4)


def test_the_way_of_computing_is_chosen_for_so_many_steps(x, monkeypatch):
    asked = []
    monkeypatch.setattr(steps, "choose", lambda execution, device, num_steps, elbo: asked.append(num_steps) or False)
    fitted(small_vae(), x, num_steps=3)
    fitted(small_vae(), x, num_epochs=2)
    assert asked == [3, 1, 2 * (PER_EPOCH - 1), 2]  # full batches, and short ones that end an epoch


# ------------------------------------------------------------------------------------------------------ early stopping


def test_a_fit_that_overfits_stops_by_itself_and_keeps_what_the_whole_one_keeps():
    """Twenty data and a large network: the ELBO on others has fallen for long when the epochs end."""
    x, valid, epochs = correlated(20), correlated(200), 300
    options = {"valid": valid, "num_epochs": epochs, "schedule": "constant"}
    stopped, whole = (fitted(overfitting_vae(), x, patience=patience, **options) for patience in (None, epochs))
    last = len(stopped.trace)
    best = stopped.valid_trace.argmax().item() + 1
    assert last == best + epochs // 2 < epochs
    assert stopped.kept == f"best on validation, epoch {best} of {last} (stopped early, {epochs} planned)"
    assert torch.equal(stopped.trace, whole.trace[:last])
    assert stopped.num_steps == last < whole.num_steps == epochs


def test_a_fit_goes_on_where_it_improves_or_where_there_is_nothing_to_stop_it_by(x):
    """Ten epochs are always waited for; without validation data no epoch is better than the last."""
    for options in ({"valid": x, "num_epochs": 10}, {"num_epochs": 40}):
        result = fitted(small_vae(), x, lr=1.0, **options)
        assert len(result.trace) == options["num_epochs"]
        assert "early" not in result.kept


# ------------------------------------------------------------------------------------------------------------- restarts


class Lucky(GaussianMixture):
    """A mixture that starts far from the data, except under the seeds that it is lucky with, which all see."""

    seeds: tuple[int, ...] = ()
    asked: tuple[int, ...] = ()

    def initialize(self, x, weight=None):
        super().initialize(x)
        Lucky.asked += (torch.initial_seed(),)
        if torch.initial_seed() not in Lucky.seeds:
            with torch.no_grad():
                self.model.means.add_(50.0)


@pytest.fixture
def start_seeds(x, monkeypatch):
    """The seeds of three starts, none of which is lucky as yet."""
    for name in ("seeds", "asked"):
        monkeypatch.setattr(Lucky, name, ())
    fitted(Lucky(3, D, floor=0.01), x, num_epochs=1, num_restarts=3)
    return Lucky.asked[:3]


@pytest.mark.parametrize("lucky", [0, 1, 2])
@pytest.mark.parametrize("with_valid", [True, False])
def test_the_best_start_is_trained_to_the_end(lucky, with_valid, x, start_seeds, monkeypatch):
    """A short run is a tenth of the epochs, and begins the run that is returned."""
    monkeypatch.setattr(Lucky, "seeds", (start_seeds[lucky],))
    valid, gmm = x[:30] if with_valid else None, Lucky(3, D, floor=0.01)
    options = {"valid": valid, "num_epochs": 30, "patience": 30 if with_valid else None}
    result = fitted(gmm, x, num_restarts=3, **options)
    judged = result.valid_trace if with_valid else result.trace
    assert len(result.restarts) == 3
    assert max(result.restarts) == result.restarts[lucky] == (judged[:3].max() if with_valid else judged[2])
    assert result.kept.endswith(f", start {lucky + 1} of 3")
    assert len(result.trace) == 30
    if lucky == 0:
        assert_same(result, fitted(gmm, x, **options))


class Diverging(Lucky):
    """Starts where log p(x) is minus infinity, but for the lucky seeds."""

    def initialize(self, x, weight=None):
        super().initialize(x, weight)
        if torch.initial_seed() not in Lucky.seeds:
            with torch.no_grad():
                self.model.means.fill_(1e200)


@pytest.mark.parametrize("lucky", [0, 1, 2])
def test_a_start_that_diverges_leaves_the_others(lucky, x, start_seeds, monkeypatch):
    monkeypatch.setattr(Lucky, "seeds", (start_seeds[lucky],))
    result = fitted(Diverging(3, D, floor=0.01), x, num_epochs=3, num_restarts=3, execution=Execution(compile=False))
    assert [math.isfinite(elbo) for elbo in result.restarts] == [start == lucky for start in range(3)]
    assert result.kept.endswith(f", start {lucky + 1} of 3")
    monkeypatch.setattr(Lucky, "seeds", ())
    with pytest.raises(fit.DivergenceError, match="at step 1"):
        fitted(Diverging(3, D, floor=0.01), x, num_epochs=3, num_restarts=3, execution=Execution(compile=False))


def test_restarts_are_the_same_for_a_seed_and_others_for_another(x):
    vae = small_vae()
    first, second, other = (fitted(vae, x, num_epochs=2, num_restarts=3, seed=seed) for seed in (1, 1, 2))
    assert first.restarts == second.restarts
    assert_same(first, second)
    assert not set(first.restarts) & set(other.restarts)
    assert len(set(first.restarts)) == 3
    assert_same(first, first.refit(1))


def test_equal_starts_give_the_first(x):
    """PPCA starts at the same place by every seed, and with all data in a batch and its exact posterior draws nothing
    that matters."""
    options = {"num_epochs": 2, "batch_size": N, "num_restarts": 3}
    result = fitted(PPCA(1, D, floor=0.01), x, **options, valid=x)
    assert result.kept.endswith("start 1 of 3")


@pytest.mark.parametrize("how", WAYS.values(), ids=WAYS)
def test_a_callback_sees_the_fit_that_is_returned_and_no_other(how, x):
    seen = []

    def callback(epoch, model):
        seen.append((epoch, torch.nn.utils.parameters_to_vector(model.parameters()).clone()))

    result = fitted(small_vae(), x, num_steps=22, num_restarts=3, callback=callback, execution=Execution(**how))
    assert [epoch for epoch, _ in seen] == [1, 2, 3, 4, 5]
    assert torch.equal(seen[-1][1], torch.nn.utils.parameters_to_vector(result.model.parameters()))
    assert (result.num_steps, len(result.restarts)) == (22, 3)


def test_a_schedule_of_the_elbo_begins_anew_at_every_start(x):
    """The weight of a warm-up counts steps."""
    warming = fit.BetaELBO(fit.LinearWarmup(8))
    vae, options = small_vae(), {"num_epochs": 3, "elbo": warming}
    result, plain = fitted(vae, x, num_restarts=2, **options), fitted(vae, x, **options)
    assert result.restarts[0] == plain.trace[0]


def test_restarts_leave_the_random_state(x):
    vae, state = small_vae(), torch.get_rng_state()
    fitted(vae, x, num_epochs=1, num_restarts=2)
    assert torch.equal(torch.get_rng_state(), state)


# ------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_steps": 0}, r"`num_steps` must be a whole number of at least 1, or None, got 0"),
        ({"num_restarts": 0}, r"`num_restarts` must be a whole number of at least 1, got 0"),
        ({"num_steps": 7, "num_epochs": 3}, r"`num_steps` must be left out where `num_epochs` is given, .*; give one"),
        ({"warm_start": True, "num_restarts": 2}, r"`num_restarts` must be 1 with `warm_start`.*got 2; leave one out"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, message, x):
    with pytest.raises(ValueError, match=message):
        fit.svi(small_vae(), x, **options)
