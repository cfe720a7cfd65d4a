"""Threads take turns: each piece of work gives what it gives alone, and the world is afterwards as it was."""

import sys
import threading
import warnings
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack
from multiprocessing import get_context

import pyro
import pytest
import torch
from pyro import distributions as dist
from torch import nn

from pyrovae import PPCA, VAE, AISOptions, GaussianMixture, compare, evaluate, fit
from pyrovae.data import Observations
from pyrovae.engine.isolation import alone, evaluating, quiet
from pyrovae.engine.seeding import seeded

D = 4
PATIENCE = 60.0  # seconds that a thread is waited for, before a test fails rather than hangs


class Encoder(nn.Module):
    """With all that depends on a mode: running means, and noise in training."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.noise = nn.Linear(D, 8), nn.BatchNorm1d(8), nn.Dropout(0.5)
        self.last = nn.Linear(8, 4)

    def forward(self, x):
        loc, log_scale = self.last(self.noise(self.norm(self.first(x)))).chunk(2, -1)
        return dist.Normal(loc, log_scale.exp()).to_event(1)


def data():
    return torch.randn(40, D, generator=torch.Generator().manual_seed(0))


def models():
    torch.manual_seed(0)
    gmm = GaussianMixture(2, (D,), floor=0.1)
    gmm.initialize(data().double())
    return {"vae": VAE(2, (D,), hidden=(8,)), "own": VAE(2, (D,), encoder=Encoder(), hidden=(8,)), "gmm": gmm}


FEW_STEPS = evaluate.SearchOptions(max_steps=5)
SVI = {"num_epochs": 2, "batch_size": 20, "progress": False}
WORK = {
    "svi": lambda m, x: fit.svi(m["vae"], x, **SVI).trace,
    "svi of a module of one's own": lambda m, x: fit.svi(m["own"], x, warm_start=True, **SVI).trace,
    "em": lambda m, x: fit.em(m["gmm"], x, warm_start=True, tolerance=1e-2).trace,
    "closed form": lambda m, x: fit.closed_form(PPCA(2, (D,)), x).trace,
    "importance weights": lambda m, x: evaluate.log_likelihood(m["own"], x, num_particles=20).values,
    "exact": lambda m, x: evaluate.log_likelihood(m["gmm"], x).values,
    "annealing": lambda m, x: evaluate.ais(m["vae"], x[:3], AISOptions(4, 5, num_leapfrog=1)).values,
    "best Gaussians": lambda m, x: evaluate.elbo_gap(m["vae"], x[:3], log_prob=x[:3, 0], search=FEW_STEPS).best_elbo,
    "elbo": lambda m, x: evaluate.elbo(m["own"], x, num_particles=2),
    "encode": lambda m, x: evaluate.encode(m["own"], x).mean,
    "reconstruct": lambda m, x: evaluate.reconstruct_samples(m["own"], x),
    "sample": lambda m, x: m["own"].sample(5)[0],
    "compare": lambda m, x: compare({"vae": m["vae"], "gmm": m["gmm"]}, x, num_particles=20).rows[0].log_prob,
    "binarize": lambda m, x: Observations(x.sigmoid(), resample=True).fixed(3).x,
}


def world(m):
    """What all threads have in common."""
    return (
        torch.get_rng_state().tolist(),
        torch.distributions.Distribution._validate_args,
        torch.is_grad_enabled(),
        list(warnings.filters),
        sorted(pyro.get_param_store().keys()),
        [(each.training, len(each._buffers)) for model in m.values() for each in model.modules()],
        [each.tolist() for model in m.values() for each in model.state_dict().values()],
    )


# ---------------------------------------------------------------------------------------------------------- threads


def test_work_in_threads_gives_the_numbers_of_one_by_one():
    m, x = models(), data()
    one_by_one = {name: work(m, x) for name, work in WORK.items()}
    before, interval = world(m), sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(3) as pool:
            running = [(name, pool.submit(work, m, x)) for name, work in 2 * list(WORK.items())]
            found = [(name, each.result(PATIENCE)) for name, each in running]
    finally:
        sys.setswitchinterval(interval)
    assert [name for name, value in found if not torch.equal(value, one_by_one[name])] == []
    assert world(m) == before


def overlapping(first, second):
    """Two blocks as two threads enter and leave them: the first, the second, out of the first, out of the second.

    What excludes the second from the first block lets it in when that is left.
    """
    inside, entered, leave = threading.Event(), threading.Event(), threading.Event()

    def other():
        inside.wait(PATIENCE)
        with second():
            entered.set()
            leave.wait(PATIENCE)

    thread = threading.Thread(target=other)
    thread.start()
    with first():
        inside.set()
        entered.wait(0.2)  # it enters now, or when this block is left
    leave.set()
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_a_model_that_two_threads_evaluate_gets_its_mode_back():
    vae = models()["own"]
    overlapping(lambda: evaluating(vae), lambda: evaluating(vae))
    assert all(each.training for each in vae.modules())


def test_two_threads_that_silence_warnings_leave_the_filters():
    before = list(warnings.filters)
    overlapping(quiet, quiet)
    assert list(warnings.filters) == before


@pytest.mark.parametrize("kind", [GaussianMixture, PPCA])
def test_a_model_that_two_threads_score_forgets_what_it_derived(kind):
    """What is derived from the parameters is kept while they do not change, and no longer."""
    x = data().double()
    model = kind(2, (D,), floor=0.1)
    model.initialize(x)
    overlapping(model.unchanged, model.unchanged)
    with model.unchanged():
        before = model.log_prob(x)
        with ThreadPoolExecutor(1) as pool:
            copied = pool.submit(model.copy).result(PATIENCE)
    for each in (model, copied):
        with torch.no_grad():
            for parameter in each.parameters():
                parameter.add_(0.5)
    fresh = model.copy()
    assert not torch.allclose(before, model.log_prob(x))
    assert torch.equal(model.log_prob(x), fresh.log_prob(x))
    assert torch.equal(copied.log_prob(x), fresh.log_prob(x))


def test_a_generator_that_is_left_half_way_keeps_nobody_out():
    m, x = models(), data()
    held = evaluate.latents.encoding.posteriors(m["own"], x)
    next(held)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(WORK["elbo"], m, x).result(PATIENCE)
    held.close()


# ------------------------------------------------------------------------------------------------- whatever happens


def interrupted(*_):
    raise KeyboardInterrupt


def failing(*_):
    raise LookupError("the caller's own")


def undefined(_, model):
    with torch.no_grad():
        next(model.parameters()).fill_(torch.nan)


@pytest.mark.parametrize(
    ("callback", "error"),
    [(interrupted, KeyboardInterrupt), (failing, LookupError), (undefined, fit.DivergenceError)],
)
def test_a_fit_that_ends_early_leaves_the_world_as_it_was(callback, error):
    m = models()
    before = world(m)
    with pytest.raises(error):
        fit.svi(m["own"], data(), callback=callback, **SVI)
    assert world(m) == before


@pytest.mark.parametrize("block", [alone, quiet, lambda: seeded(1), lambda: evaluating(nn.Dropout())])
def test_a_block_that_fails_lets_the_next_thread_in(block):
    with pytest.raises(KeyboardInterrupt), block():
        raise KeyboardInterrupt
    with ThreadPoolExecutor(1) as pool:
        pool.submit(lambda: ExitStack().enter_context(block())).result(PATIENCE)


@pytest.mark.parametrize("name", WORK)
@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_switches_of_autograd_change_no_number(mode, name):
    m, x = models(), data()
    expected = WORK[name](m, x)
    with mode():
        gradients = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        assert torch.equal(WORK[name](m, x.clone()), expected)
        assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled()) == gradients


def test_what_is_fitted_in_inference_mode_can_be_fitted_on():
    x = data()
    with torch.inference_mode():
        results = [fit.svi(models()["vae"], x, valid=x.clone(), **SVI), fit.em(GaussianMixture(2, (D,), floor=0.1), x)]
    for result in results:
        assert fit.svi(result.model, x, **SVI).trace.isfinite().all()


def test_a_model_that_was_built_in_inference_mode_is_evaluated_there_and_elsewhere():
    x = data()
    with torch.inference_mode():
        m = models()
        before = [id(each) for each in (*m["own"].parameters(), *m["own"].buffers())]
        inside = {name: WORK[name](m, x) for name in ("elbo", "annealing", "best Gaussians", "encode", "sample")}
    for name, value in inside.items():
        assert torch.equal(WORK[name](m, x), value), name
        assert torch.equal(WORK[name](models(), x), value), name
    assert [id(each) for each in (*m["own"].parameters(), *m["own"].buffers())] == before


# ---------------------------------------------------------------------------------------------------------- processes


def test_a_pool_of_processes_takes_models_and_returns_results():
    m, x = models(), data()
    result = fit.svi(m["vae"], x, **SVI)
    board = compare({"VAE": result, "mixture": m["gmm"]}, x, num_particles=20)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        fits = pool.submit(fit.svi, m["vae"], x, **SVI)
        boards = pool.submit(compare, {"VAE": result, "mixture": m["gmm"]}, x, num_particles=20)
        fails = pool.submit(fit.svi, m["vae"], x, lr=1e30, schedule="constant", **SVI)
        torch.testing.assert_close(fits.result(PATIENCE).trace, result.trace)
        for row, other in zip(boards.result(PATIENCE).rows, board.rows, strict=True):
            assert row.name == other.name
            torch.testing.assert_close(row.log_prob, other.log_prob)
        with pytest.raises(fit.DivergenceError, match=r"the loss is not finite at step \d"):
            fails.result(PATIENCE)


@pytest.mark.parametrize("name", ["svi", "importance weights", "elbo", "encode", "sample", "annealing"])
def test_handlers_of_the_caller_reach_no_work_of_ours(name):
    """Else a scale would multiply, and a plate of the name "data" would be one too many."""
    m, x = models(), data()
    expected = WORK[name](m, x)
    with pyro.poutine.trace() as traced, pyro.poutine.scale(scale=10.0), pyro.plate("data", 7):
        found = WORK[name](m, x)
        pyro.sample("own", pyro.distributions.Normal(0.0, 1.0))
    assert torch.equal(found, expected)
    assert set(traced.trace.nodes) >= {"own"}
    assert traced.trace.nodes["own"]["scale"] == 10.0
    assert not {"x", "z"} & set(traced.trace.nodes)
