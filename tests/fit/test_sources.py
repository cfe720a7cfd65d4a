"""Data from anywhere give one fit: tensors, arrays in memory and in files, batches; within the memory that is given."""

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from pyrovae import PPCA, BernoulliMixture, Execution, GaussianMixture, fit
from pyrovae.data import Observations

pytestmark = pytest.mark.filterwarnings("ignore::pyrovae.fit.FitWarning")
D = 3


@pytest.fixture
def x():
    return torch.randn(101, D, dtype=torch.float64) + 4 * (torch.arange(101) % 2)[:, None]


@pytest.fixture
def started(x):
    model = GaussianMixture(2, D, floor=1e-3)
    model.initialize(x[:20])
    return model


def within(memory_budget):
    return {"execution": Execution(memory_budget=memory_budget)}


def mapped(x, folder, kind="load"):
    np.save(folder / "x.npy", x.numpy())
    if kind == "load":
        return np.load(folder / "x.npy", mmap_mode="r")
    x.numpy().tofile(folder / "x.bin")
    return np.memmap(folder / "x.bin", dtype=x.numpy().dtype, mode=kind, shape=tuple(x.shape))


SOURCES = {
    "observations": lambda x, _: Observations(x),
    "array": lambda x, _: x.numpy(),
    "array of other layout": lambda x, _: np.asfortranarray(x.numpy()),
    "np.load": mapped,
    "read-only np.memmap": lambda x, folder: mapped(x, folder, "r"),
    "writable np.memmap": lambda x, folder: mapped(x, folder, "r+"),
    "copy-on-write np.memmap": lambda x, folder: mapped(x, folder, "c"),
    "tensors": lambda x, _: list(x.split(17)),
    "arrays of a file": lambda x, folder: [mapped(x, folder)[:50], mapped(x, folder)[50:]],
    "DataLoader": lambda x, _: DataLoader(TensorDataset(x, torch.arange(len(x))), batch_size=10),
}


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("options", [{}, {"chunk_size": 7}, within(20_000)])
def test_every_source_gives_the_fit_of_the_tensor(kind, options, x, started, tmp_path):
    expected = fit.em(started, x, warm_start=True, max_iterations=8, tolerance=1e-12)
    before = x.clone()
    result = fit.em(started, SOURCES[kind](x, tmp_path), warm_start=True, max_iterations=8, tolerance=1e-12, **options)
    torch.testing.assert_close(result.trace, expected.trace, rtol=1e-10, atol=1e-10)
    for value, other in zip(result.model.parameters(), expected.model.parameters(), strict=True):
        torch.testing.assert_close(value, other, rtol=1e-10, atol=1e-10)
    assert torch.equal(x, before)


@pytest.mark.parametrize("memory_budget", [None, 1_000_000, 8_000])  # the last starts from 20 of the data
def test_every_source_of_rows_has_the_same_start(memory_budget, x, tmp_path):
    options = {**within(memory_budget), "max_iterations": 4}
    model = GaussianMixture(2, D, floor=1e-3)
    expected = fit.em(model, x, **options)
    for kind in ("observations", "array", "np.load"):
        result = fit.em(model, SOURCES[kind](x, tmp_path), **options)
        torch.testing.assert_close(result.trace, expected.trace, rtol=1e-12, atol=1e-12)
    whole = fit.em(model, x, max_iterations=4)
    assert torch.equal(whole.trace, expected.trace) == (memory_budget != 8_000)


def test_the_start_is_drawn_from_all_of_the_data(monkeypatch):
    """From 1000 ordered rows, 20 are drawn, one of every 50; a row is drawn as often as any other."""
    x = torch.arange(1000, dtype=torch.float64).repeat(2, 1).T.contiguous()
    seen = []
    monkeypatch.setattr(PPCA, "initialize", lambda self, x, weight: seen.append(x[:, 0].clone()))
    for seed in range(3):
        fit.em(PPCA(1, 2), x.numpy(), seed=seed, max_iterations=1, **within(20 * 16 * 8 * 2))
    for drawn in seen:
        assert (drawn // 50).tolist() == list(range(20))
    assert len({tuple(drawn.tolist()) for drawn in seen}) == 3


def test_rows_of_a_file_are_picked_in_windows(x, tmp_path, monkeypatch):
    monkeypatch.setattr("pyrovae.fit.sources.WINDOW_BYTES", 10 * D * 8)
    options = {**within(8_000), "max_iterations": 2}
    model = GaussianMixture(2, D, floor=1e-3)
    picked, expected = fit.em(model, mapped(x, tmp_path), **options), fit.em(model, x, **options)
    torch.testing.assert_close(picked.trace, expected.trace, rtol=1e-12, atol=1e-12)


def test_batches_start_from_a_reservoir_of_all_of_them(monkeypatch):
    """Every datum is among the 20 of 100 with probability 1/5, whatever its batch: 5 standard errors over 400 seeds."""
    x, number = torch.arange(100, dtype=torch.float64).repeat(2, 1).T.contiguous(), 400
    counts = torch.zeros(100)
    monkeypatch.setattr(
        PPCA, "initialize", lambda self, x, weight: counts.index_add_(0, x[:, 0].long(), torch.ones(20))
    )
    source = fit.sources.open_source(PPCA(1, 2), list(x.split(7)), memory_budget=20 * 16 * 8 * 2)
    for _ in range(number):
        start, weight = source.start()
        assert weight is None
        assert len(start.unique(dim=0)) == 20
        counts += torch.bincount(start[:, 0].long(), minlength=100)
    assert ((counts / number - 0.2).abs() < 5 * math.sqrt(0.2 * 0.8 / number)).all()


def test_weights_go_with_the_rows_of_an_array(x, started, tmp_path):
    weight = torch.rand(101)
    options = {"sample_weight": weight, "warm_start": True, "max_iterations": 5}
    expected = fit.em(started, x, **options).trace
    for data in (x, mapped(x, tmp_path)):
        trace = fit.em(started, data, chunk_size=9, **options).trace
        torch.testing.assert_close(trace, expected, rtol=1e-12, atol=1e-12)


def test_integers_in_arrays_are_taken_as_numbers_but_not_in_tensors():
    binary = np.random.default_rng(0).integers(0, 2, (60, D)).astype(np.uint8)
    model, options = BernoulliMixture(2, D), {"max_iterations": 3}
    expected = fit.em(model, torch.from_numpy(binary).double(), **options).trace
    assert torch.equal(fit.em(model, binary, **options).trace, expected)
    torch.testing.assert_close(fit.em(model, [binary[:30], binary[30:]], **options).trace, expected)
    with pytest.raises(TypeError, match=r"`data` must be of a floating-point type, got torch.uint8; convert it with"):
        fit.em(model, torch.from_numpy(binary))
    with pytest.raises(TypeError, match=r"`batch 0 of data` must be of a floating-point type, got torch.uint8"):
        fit.em(model, [torch.from_numpy(binary)])


def test_missing_values_may_come_from_a_file(x, tmp_path):
    x[::3, 1] = math.nan
    model = PPCA(1, D, missing="nan")
    options = {"max_iterations": 5, "accelerate": False}
    expected = fit.em(model, x, **options).trace
    torch.testing.assert_close(fit.em(model, mapped(x, tmp_path), **options, chunk_size=20).trace, expected)


class Endless:
    """An iterable that gives nothing."""

    def __iter__(self):
        return iter(())


@pytest.mark.parametrize(
    ("make", "options", "error", "message"),
    [
        (lambda x: x, within(100), ValueError, r"`memory_budget` must be at least the 384 bytes .*got 100"),
        (lambda x: x, within(383), ValueError, r"`memory_budget` must be at least the 384 bytes that one"),
        (lambda x: x.numpy(), within(400), ValueError, r"`num_components` .* 1, got 2; .*`memory_budget`"),
        (lambda x: (row for row in x.split(9)), {}, TypeError, r"`data` must be .* got generator; a generator ends"),
        (lambda x: 3, {}, TypeError, r"`data` must be Observations, a tensor, an array or an iterable .* got int"),
        (lambda x: [], {}, ValueError, r"`data` must give at least one batch in every pass, got none"),
        (lambda x: Endless(), {"warm_start": True}, ValueError, r"`data` must give at least one batch in every pass"),
        (lambda x: x[:0].numpy(), {}, ValueError, r"`data` must hold at least one datum, got shape \(0, 3\)"),
        (lambda x: x[:, :2].numpy(), {}, ValueError, r"`data\[0:1\]` must have shape \(N, 3\), got \(1, 2\)"),
        (lambda x: [x, x[:, :2]], {}, ValueError, r"`batch 1 of data` must have shape \(N, 3\), got \(101, 2\)"),
        (lambda x: ["abc"], {}, TypeError, r"`batch 0 of data` must be Observations, a torch.Tensor, .* got str"),
        (
            lambda x: list(x.split(9)),
            {"sample_weight": torch.ones(101)},
            ValueError,
            r"`sample_weight` needs data with",
        ),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_sentence(make, options, error, message, x):
    with pytest.raises(error, match=message) as caught:
        fit.em(GaussianMixture(2, D), make(x), **options)
    assert "\n" not in str(caught.value)


def test_a_value_that_is_not_finite_is_found_where_it_is(x, started):
    x[70, 1] = math.nan
    message = r"`data\[60:80\]` must be finite, got NaN or infinity in 1 of 20 data, first in row 10"
    with pytest.raises(ValueError, match=message):
        fit.em(started, x.numpy(), warm_start=True, chunk_size=20)
    with pytest.raises(ValueError, match=r"`batch 3 of data` must be finite, .* first in row 10"):
        fit.em(started, list(x.split(20)), warm_start=True)
    with pytest.raises(ValueError, match=r"`data` must be finite, .* first in row 70"):
        fit.em(started, x)


BUDGET = 48 * 2**20
SCRIPT = """
import re, sys
from pathlib import Path
import numpy as np, torch
from pyrovae import Execution, GaussianMixture, fit
import warnings; warnings.simplefilter("ignore")
path, within, shape = sys.argv[1], Execution(memory_budget=int(sys.argv[2])), (3 * 2**18, 32)
peak = lambda: 1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
model = GaussianMixture(2, shape[1], "diag", floor=1e-3)
fit.em(model, np.random.default_rng(0).normal(size=(5000, shape[1])), max_iterations=3, execution=within)
x = np.memmap(path, dtype=np.float64, mode="r", shape=shape)
Path("/proc/self/clear_refs").write_text("5")  # the peak begins again at what is resident now
before = peak()
result = fit.em(model, x, max_iterations=2, execution=within)
grown = peak() - before
whole = fit.em(model, torch.from_numpy(np.array(x)), max_iterations=2, execution=within)
assert peak() - before >= x.nbytes, "what the test measures does not grow with what is in memory"
difference = max((a - b).abs().max().item() for a, b in zip(result.model.parameters(), whole.model.parameters()))
print(x.nbytes, grown, difference)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak of memory is read from /proc")
def test_a_file_of_four_times_the_budget_is_fitted_within_it(tmp_path):
    """192 MiB on disk, 48 MiB allowed: the resident set of the process never grows by more.

    The peak is that of this address space; ``ru_maxrss`` would begin at that of the process that started it.
    """
    generator = np.random.default_rng(0)
    with open(tmp_path / "x.bin", "wb") as file:
        for _ in range(3):
            (generator.normal(size=(2**18, 32)) + 5 * generator.integers(0, 4, (2**18, 1))).tofile(file)
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "x.bin"), str(BUDGET)]
    run = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert run.returncode == 0, run.stderr
    on_disk, grown, difference = map(float, run.stdout.split())
    assert on_disk == 4 * BUDGET
    assert grown <= BUDGET
    assert difference < 1e-10
