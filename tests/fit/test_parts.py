"""Data in parts give the fit of one array, whatever order they come back in; what is wrong with a part is said."""

import importlib.util
import pickle
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from pyrovae import PPCA, Execution, FactorAnalysis, GaussianMixture, fit
from pyrovae.fit.defaults import em_options

pytestmark = pytest.mark.filterwarnings("ignore::pyrovae.fit.FitWarning")
D = 4
CUTS = ((0, 50), (50, 50), (50, 51), (51, 103))  # unequal parts, one of them empty
OPTIONS = {"max_iterations": 8, "tolerance": 1e-12, "accelerate": False}


def load(name):
    specification = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


shared = load("distributed_fit")  # the same models and data as in several processes


def there(function, number, part):
    """Called as in another process: everything by way of a pickle."""
    function, number, part = pickle.loads(pickle.dumps((function, number, part)))
    return pickle.loads(pickle.dumps(function(number, part)))


def parts_of(pieces, shuffle=lambda answers: answers, **options):
    return fit.Parts(lambda function: shuffle([there(function, i, piece) for i, piece in enumerate(pieces)]), **options)


def cut(x):
    return [x[begin:end] for begin, end in CUTS]


@pytest.fixture
def x():
    return torch.randn(103, D, dtype=torch.float64) + 4 * (torch.arange(103) % 2)[:, None]


def assert_same(result, expected, tolerance=1e-10):
    torch.testing.assert_close(result.trace, expected.trace, rtol=tolerance, atol=tolerance)
    for value, other in zip(result.model.parameters(), expected.model.parameters(), strict=True):
        torch.testing.assert_close(value, other, rtol=tolerance, atol=tolerance)


# ------------------------------------------------------------------------------------------------- the same fit


@pytest.mark.parametrize("name", shared.MODELS)
def test_parts_give_the_fit_of_one_array(name):
    """From the same start, at every model; missing values are in one part alone or in all."""
    x, model = shared.data_for(name).numpy(), shared.MODELS[name]()
    assert_same(fit.em(model, parts_of(cut(x)), **OPTIONS), fit.em(model, x, **OPTIONS))


def test_the_order_in_which_parts_come_back_changes_no_bit(x):
    generator = random.Random(0)
    orders = [list, lambda a: a[::-1], lambda a: generator.sample(a, len(a)), lambda a: (each for each in a)]
    fits = [fit.em(GaussianMixture(2, D), parts_of(cut(x), order), **OPTIONS) for order in orders]
    for each in fits[1:]:
        assert torch.equal(each.trace, fits[0].trace)
        assert all(map(torch.equal, each.model.parameters(), fits[0].model.parameters()))


@pytest.mark.parametrize("memory_budget", [1_000_000, 8_000])  # the second starts from 15 of the data
def test_a_fit_starts_from_the_rows_of_an_array(memory_budget, x):
    options = {**OPTIONS, "num_restarts": 2, "execution": Execution(memory_budget=memory_budget)}
    model = GaussianMixture(2, D)
    assert_same(fit.em(model, parts_of(cut(x)), **options), fit.em(model, x.numpy(), **options))


def test_a_fit_goes_on_from_parameters(x):
    model = GaussianMixture(2, D, floor=1e-3)
    model.initialize(x[:30])
    options = {**OPTIONS, "warm_start": True}
    assert_same(fit.em(model, parts_of(cut(x)), **options), fit.em(model, x, **options))


def test_accelerated_fits_end_where_those_of_an_array_do(x):
    model = FactorAnalysis(1, D)
    found, expected = (fit.em(model, data, tolerance=1e-10) for data in (parts_of(cut(x)), x.numpy()))
    assert found.trace[-1] == pytest.approx(expected.trace[-1].item(), abs=1e-8)


@pytest.mark.parametrize("kind", [torch.Tensor, np.asarray, pd.Series])
def test_weights_count_over_all_parts(kind, x):
    """On one scale: a part whose data count for little does; one may count for nothing."""
    weight = torch.rand(103, dtype=torch.float64) * torch.linspace(0.01, 30, 103)
    weight[50] = 0.0  # all of a part
    pieces = [(data, kind(w.numpy())) for data, w in zip(cut(x), cut(weight), strict=True)]
    expected = fit.em(GaussianMixture(2, D), x, sample_weight=weight, **OPTIONS)
    kind = 1e-6 if kind is torch.Tensor else 1e-10  # the first is of float32
    assert_same(fit.em(GaussianMixture(2, D), parts_of(pieces, weighted=True), **OPTIONS), expected, kind)


def test_a_value_is_missing_from_one_part_alone(x):
    x[80, 1] = torch.nan
    for model in (FactorAnalysis(1, D, missing="nan"), GaussianMixture(2, D, missing="nan")):
        assert_same(fit.em(model, parts_of(cut(x)), **OPTIONS), fit.em(model, x.numpy(), **OPTIONS))


def test_defaults_are_those_of_an_array(x):
    big = fit.Parts(lambda function: map(function, range(2), 2 * [np.broadcast_to(0.0, (600_000, D))]))
    assert big.shape == (1_200_000, D)
    for data, tolerance in ((big, 1e-3), (parts_of(cut(x)), 1e-6)):
        assert em_options(PPCA(1, D), data)["tolerance"] == tolerance


@pytest.mark.parametrize(
    "form",
    [
        lambda x: x,
        lambda x: x.numpy(),
        lambda x: np.asfortranarray(x.numpy()),
        lambda x: x.numpy().astype(">f8"),
        lambda x: x.numpy().astype(object),
        lambda x: x.tolist(),
        lambda x: [tuple(row) for row in x.tolist()],
        lambda x: pd.DataFrame(x.numpy(), columns=list("abcd")),
        lambda x: pd.DataFrame(x.numpy()).astype("Float64"),
    ],
)
def test_a_part_may_have_any_form(form, x):
    pieces = [form(each) for each in cut(x)]
    assert_same(fit.em(GaussianMixture(2, D), parts_of(pieces), **OPTIONS), fit.em(GaussianMixture(2, D), x, **OPTIONS))


def test_an_empty_table_has_no_types(x):
    pieces = [pd.DataFrame(columns=list("abcd")), pd.DataFrame(x.numpy(), columns=list("abcd")), []]
    assert_same(fit.em(GaussianMixture(2, D), parts_of(pieces), **OPTIONS), fit.em(GaussianMixture(2, D), x, **OPTIONS))


def test_what_is_masked_is_missing(x):
    x[[3, 60], 1] = torch.nan
    model = GaussianMixture(2, D, missing="nan")
    expected = fit.em(model, x, **OPTIONS)
    filled = np.ma.masked_invalid(x.numpy())
    nullable = pd.DataFrame(x.numpy()).astype("Float64")
    rows = [[None if value != value else value for value in row] for row in x.tolist()]
    for data in (filled, nullable, rows):
        assert_same(fit.em(model, parts_of(cut(data)), **OPTIONS), expected)


def test_integers_are_taken_as_numbers():
    x = np.random.default_rng(0).integers(0, 9, (103, D))
    expected = fit.em(GaussianMixture(2, D), x.astype(float), **OPTIONS)
    for data in (x, x.astype(np.uint8), pd.DataFrame(x), pd.DataFrame(x).astype("Int16"), x.astype(np.float32)):
        assert_same(fit.em(GaussianMixture(2, D), parts_of(cut(data)), **OPTIONS), expected)


# ------------------------------------------------------------------------------------------------- on the worker


def test_a_worker_uses_one_thread_and_leaves_torch_as_it_was(x, monkeypatch):
    seen, own = [], PPCA.expected_statistics
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    monkeypatch.setattr(torch, "set_num_threads", seen.append)
    model = PPCA(1, D)
    monkeypatch.setattr(
        PPCA,
        "expected_statistics",
        lambda self, *given: own(self, *given) if seen[-1] == 1 and not torch.is_grad_enabled() else None,
    )
    fit.em(model, fit.Parts(lambda function: map(function, range(1), [x])), max_iterations=1)
    assert seen[0::2] == [1] * (len(seen) // 2)
    assert seen[1::2] == [7] * (len(seen) // 2)


@pytest.mark.parametrize("name", shared.MODELS)
def test_workers_may_be_threads_of_this_process(name):
    """No worker waits for the fit, which waits for it; and the number of torch's threads stays."""
    x, model, before = shared.data_for(name), shared.MODELS[name](), torch.get_num_threads()
    with ThreadPoolExecutor(3) as pool:
        data = fit.Parts(lambda function: pool.map(function, range(len(CUTS)), cut(x), timeout=60))
        found = fit.em(model, data, **OPTIONS)
    assert torch.get_num_threads() == before
    assert_same(found, fit.em(model, x, **OPTIONS))


def failing(error):
    def fails(self, x, weight=None):
        raise error

    return fails


def test_an_error_of_linear_algebra_comes_back_whole(x, monkeypatch):
    """An accelerated fit that went too far out catches it, wherever it was raised."""
    monkeypatch.setattr(PPCA, "expected_statistics", failing(torch.linalg.LinAlgError("not positive-definite")))
    with pytest.raises(torch.linalg.LinAlgError, match="not positive-definite"):
        fit.em(PPCA(1, D), parts_of(cut(x)))


def test_a_fault_of_a_model_is_left_to_whoever_called_it(x, monkeypatch):
    """With its traceback, rather than as a value."""
    monkeypatch.setattr(PPCA, "expected_statistics", failing(TypeError("my own mistake")))
    with pytest.raises(TypeError, match="my own mistake") as caught:
        fit.em(PPCA(1, D), parts_of(cut(x)))
    assert "there" in [entry.name for entry in caught.traceback]


def test_a_result_can_be_pickled_and_refitted(x):
    data = parts_of(cut(x))
    result = fit.em(GaussianMixture(2, D), data, **OPTIONS)
    again = pickle.loads(pickle.dumps(result))
    assert torch.equal(again.refit(0, data).trace, result.trace)


# ------------------------------------------------------------------------------------------------- refused


def without(answers, number):
    return [answer for answer in answers if answer.number != number]


FRAMES = [pd.DataFrame(np.ones((3, D)), columns=list("abcd")) for _ in range(2)]
TEXT = FRAMES[0].assign(b=["1,5", "2", "3"])


@pytest.mark.parametrize(
    ("pieces", "options", "error", "message"),
    [
        ([], {}, ValueError, r"`over` must call the function for every part, numbered from 0, got nothing for part 0"),
        ([np.ones((0, D)), []], {}, ValueError, r"`data` must hold at least one datum, got none in 2 parts"),
        (
            [np.ones((3, D)), np.ones((5, 3))],
            {},
            ValueError,
            r"`part 1 of data` must have shape \(N, 4\), as part 0 has, got \(N, 3\); every part",
        ),
        ([np.ones((3, 5))], {}, ValueError, r"`data` must have shape \(N, 4\) in every part, got \(N, 5\); build"),
        ([np.ones(3)], {}, ValueError, r"`data` must have shape \(N, 4\) in every part, got \(N\)"),
        ([np.ones((3, D)), np.full((4, D), np.nan)], {}, ValueError, r"`part 1 of data.* finite, got NaN .* 4 of 4"),
        ([np.ones((3, D)), np.full((4, D), np.inf)], {}, ValueError, r"`part 1 of data.* finite, got .*infinity"),
        (
            [FRAMES[0], FRAMES[1][list("bacd")]],
            {},
            ValueError,
            r"`part 1 of data` must have the columns of part 0, got 'b' in place of 'a'; select them by name",
        ),
        ([FRAMES[0], np.ones((3, D))], {}, ValueError, r"must have the columns of part 0, got None in place of 'a'"),
        ([TEXT], {}, TypeError, r"`part 0 of data` must hold numbers, got \w+ in column 'b'; drop it, or convert"),
        ([FRAMES[0].astype({"c": "datetime64[ns]"})], {}, TypeError, r"got datetime64\[ns\] in column 'c'"),
        ([np.ones((3, D), dtype=complex)], {}, TypeError, r"`part 0 of data` must hold numbers, got complex128"),
        ([np.array(3 * [D * ["a"]])], {}, TypeError, r"`part 0 of data` must hold numbers, got <U1"),
        ([3 * [D * ["a"]]], {}, ValueError, r"`part 0 of data` must be numbers in rows of one length, .* 'a'"),
        ([[[1.0, 2.0], [1.0]]], {}, ValueError, r"`part 0 of data` must be numbers in rows of one length"),
        (
            [range(3)],
            {},
            TypeError,
            r"an array, a pandas table, a list of rows, .* got range; make it an array by np.array",
        ),
        ([None], {}, TypeError, r"`part 0 of data` must be .* an array, .* got NoneType"),
        (
            [(np.ones((3, D)), np.ones(3))],
            {},
            TypeError,
            r"`part 0 of data` must be data alone with weighted=False of fit.Parts, got a tuple of 2",
        ),
        ([np.ones((3, D))], {"weighted": True}, TypeError, r"must be a pair, data and .* weighted=True .* got ndarray"),
        ([(np.ones((3, D)),)], {"weighted": True}, TypeError, r"must be a pair, .* got a tuple of 1"),
        (
            [(np.ones((3, D)), np.ones(2))],
            {"weighted": True},
            ValueError,
            r"`weights of part 0 of data` must have shape \(3,\), one entry a datum, got \(2,\)",
        ),
        (
            [(np.ones((3, D)), np.array([1.0, -1.0, 1.0]))],
            {"weighted": True},
            ValueError,
            r"`weights of part 0 of data` must be finite and not negative, got values in \[-1, 1\]",
        ),
        ([(np.ones((3, D)), np.zeros(3))], {"weighted": True}, ValueError, r"weights with a positive sum, got 0 in"),
        ([np.ones((3, D))], {"shuffle": lambda a: None}, TypeError, r"`over` must return a list of .*, got NoneType"),
        (
            [np.ones((3, D))],
            {"shuffle": lambda a: [1]},
            TypeError,
            r"`over` must return a list of .*, got int",
        ),
        ([np.ones((3, D))] * 2, {"shuffle": lambda a: a + a}, ValueError, r"a number of its own, got 0 twice"),
        ([np.ones((3, D))] * 3, {"shuffle": lambda a: without(a, 1)}, ValueError, r"got nothing for part 1"),
    ],
)
def test_what_is_wrong_with_a_part_is_said_in_one_sentence(pieces, options, error, message):
    with pytest.raises(error, match=message) as caught:
        fit.em(PPCA(1, D), parts_of(pieces, **options))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("change", [lambda a: a[:-1], lambda a: a * 2])
def test_parts_that_change_between_calls_are_noticed(change):
    """One that is lost at the end is no part less."""
    parts = parts_of([np.ones((3, D)), np.ones((4, D))])
    assert parts.shape == (7, D)
    parts.over = parts_of(change([np.ones((3, D)), np.ones((4, D))])).over
    message = r"`over` must call .* got nothing for part 1|`part 2 of data` must be the same .* got 3 data"
    with pytest.raises(ValueError, match=message):
        fit.em(PPCA(1, D), parts)
    parts.over = parts_of([np.ones((3, D)), np.ones((5, D))]).over
    with pytest.raises(ValueError, match="`part 1 of data` must be the same at every call, got 5 data, which"):
        fit.em(PPCA(1, D), parts)


def test_weights_and_processes_of_other_data_are_refused(x):
    data = parts_of(cut(x))
    with pytest.raises(ValueError, match=r"`sample_weight` needs .* got parts; give them with .* weighted=True"):
        fit.em(PPCA(1, D), data, sample_weight=torch.ones(103))
    with pytest.raises(ValueError, match=r"`distributed` shares out rows among processes, but fit.Parts has workers"):
        fit.sources.open_source(PPCA(1, D), data, group=fit.em.__globals__["ProcessGroup"](0, 2, True))
