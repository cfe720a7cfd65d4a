"""EM on Dask and on Spark, by the scripts of docs/examples, with workers on this machine: the fit of one process."""

import ast
import importlib.util
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from pyrovae import FactorAnalysis, GaussianMixture, fit

pytestmark = pytest.mark.filterwarnings("ignore::pyrovae.fit.FitWarning")
ROOT = Path(__file__).parents[1]
D = 5
SIZES = (300, 0, 1, 499)
OPTIONS = {"max_iterations": 3, "tolerance": 1e-12, "accelerate": False}


def example(name):
    specification = importlib.util.spec_from_file_location(name, ROOT / "docs" / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def cut(x):
    return [x[end - size : end] for size, end in zip(SIZES, np.cumsum(SIZES), strict=True)]


@pytest.fixture(scope="module")
def x():
    generator = np.random.default_rng(int(torch.randint(2**31, ())))
    return generator.normal(size=(sum(SIZES), D)) + 2 * generator.integers(0, 2, (sum(SIZES), 1))


def assert_same(found, expected, tolerance=1e-10):
    torch.testing.assert_close(found.trace, expected.trace, rtol=tolerance, atol=tolerance)
    for value, other in zip(found.model.parameters(), expected.model.parameters(), strict=True):
        torch.testing.assert_close(value, other, rtol=tolerance, atol=tolerance)


def dying_in_the_third_call(data, folder):
    """The same parts; the first worker that is at work in the third call ends there."""
    over, calls = data.over, []

    def dies(function):
        calls.append(function)
        marker = folder / str(len(calls))

        def once(number, part):
            if marker.name == "3" and len(part) and not marker.exists():
                marker.touch()
                os._exit(1)
            return function(number, part)

        return over(once)

    data.over = dies
    return data


@pytest.mark.parametrize("name", ["fit_on_dask", "fit_on_spark"])
def test_the_page_is_python_and_names_what_there_is(name):
    blocks = (ROOT / "docs" / "how_to" / f"{name}.md").read_text().split("```python\n")[1:]
    nodes = [node for block in blocks for node in ast.walk(ast.parse(block.partition("```")[0]))]
    named = {
        (each.value.id, each.attr) for each in nodes if isinstance(each, ast.Attribute) and hasattr(each.value, "id")
    }
    assert all(hasattr(fit, attribute) for owner, attribute in named if owner == "fit")
    assert ("fit", "Parts") in named


# ------------------------------------------------------------------------------------------------- Dask


@pytest.fixture(scope="module")
def on_dask():
    pytest.importorskip("dask.distributed", reason="dask is not installed; pip install pyrovae[dask]")
    return example("fit_on_dask")


@pytest.fixture(scope="module")
def client(on_dask):
    cluster = on_dask.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None)
    with cluster, on_dask.Client(cluster) as client:
        yield client


@pytest.fixture
def files(x, client, tmp_path):
    paths = [tmp_path / f"{number}.npy" for number in range(len(SIZES))]
    for path, part in zip(paths, cut(x), strict=True):
        np.save(path, part)
    return client.map(np.load, paths)


def test_dask_gives_the_fit_of_one_process(on_dask, client, files, x):
    """Data, start and restarts by default; a part is empty, another a single datum."""
    data, model = on_dask.parts_of(client, files), GaussianMixture(2, D)
    assert_same(fit.em(model, data, num_restarts=2, **OPTIONS), fit.em(model, x, num_restarts=2, **OPTIONS))


def test_a_worker_that_dies_changes_no_bit_on_dask(on_dask, client, files, tmp_path):
    expected = fit.em(GaussianMixture(2, D), on_dask.parts_of(client, files), **OPTIONS)
    data = dying_in_the_third_call(on_dask.parts_of(client, files), tmp_path)
    found = fit.em(GaussianMixture(2, D), data, **OPTIONS)
    assert (tmp_path / "3").exists()  # which the worker made before it died
    assert torch.equal(found.trace, expected.trace)
    assert all(map(torch.equal, found.model.parameters(), expected.model.parameters()))


def test_tables_weights_and_missing_values_on_dask(on_dask, client, x):
    weight = np.linspace(0.1, 3, len(x))
    holes = np.where(np.arange(x.size).reshape(x.shape) % 7 == 3, np.nan, x)
    pairs = [(pd.DataFrame(rows, columns=list("abcde")), w) for rows, w in zip(cut(holes), cut(weight), strict=True)]
    held = client.map(lambda number: pairs[number], range(len(pairs)))
    model = FactorAnalysis(1, D, missing="nan")
    found = fit.em(model, on_dask.parts_of(client, held, weighted=True), **OPTIONS)
    assert_same(found, fit.em(model, holes, sample_weight=torch.from_numpy(weight), **OPTIONS))


def test_what_is_wrong_is_said_in_one_sentence_on_dask(on_dask, client, x):
    narrow = client.map(lambda number: x[number::2, : 5 - number], range(2))
    with pytest.raises(ValueError, match=r"`part 1 of data` must have shape \(N, 5\), as part 0 has, got \(N, 4\)"):
        fit.em(GaussianMixture(2, D), on_dask.parts_of(client, narrow))
    swapped = client.map(lambda number: pd.DataFrame(x, columns=list(["abcde", "abced"][number])), range(2))
    with pytest.raises(ValueError, match=r"`part 1 of data` must have the columns of part 0, got 'e' in place of 'd'"):
        fit.em(GaussianMixture(2, D), on_dask.parts_of(client, swapped))
    holes = client.map(lambda number: np.where(x > 9 - 9 * number, np.nan, x), range(2))
    with pytest.raises(ValueError, match=r"`part [01] of data\[sample\]` must be finite, got NaN") as caught:
        fit.em(GaussianMixture(2, D), on_dask.parts_of(client, holes))
    assert "\n" not in str(caught.value)


def test_the_script_fits_files_on_dask(on_dask, client, tmp_path):
    paths = on_dask.made_up(tmp_path)
    whole = np.concatenate([np.load(path) for path in paths])
    assert_same(on_dask.fitted(client, paths, 3), fit.em(GaussianMixture(3, D), whole))


# ------------------------------------------------------------------------------------------------- Spark


@pytest.fixture(scope="module")
def on_spark():
    pytest.importorskip("pyspark", reason="pyspark is not installed; pip install pyrovae[spark]")
    if not (os.environ.get("JAVA_HOME") or shutil.which("java")):
        pytest.skip("Spark needs Java 17 or newer, and there is no java on the path")
    return example("fit_on_spark")


@pytest.fixture(scope="module")
def spark(on_spark):
    session = on_spark.session("local[2,2]")
    yield session
    session.stop()


def test_spark_gives_the_fit_of_one_process(on_spark, spark, x, tmp_path):
    """A worker dies in the third call, a value is missing, and weights count; a partition is empty."""
    weight = np.linspace(0.1, 3, len(x))
    holes = np.where(np.arange(x.size).reshape(x.shape) % 7 == 3, np.nan, x)
    rows = [[None if value != value else value for value in row] for row in np.column_stack([holes, weight]).tolist()]
    frame = spark.createDataFrame(spark.sparkContext.parallelize(rows[:2], 3), [*"abcde", "w"])
    frame = frame.union(spark.createDataFrame(rows[2:], [*"abcde", "w"]))
    data = dying_in_the_third_call(on_spark.parts_of(on_spark.arrays_of(frame, "w"), weighted=True), tmp_path)
    model = FactorAnalysis(1, D, missing="nan")
    found = fit.em(model, data, **OPTIONS)
    assert (tmp_path / "3").exists()
    assert 0 in [kind.count for kind in data.kinds]
    assert_same(found, fit.em(model, holes, sample_weight=torch.from_numpy(weight), **OPTIONS))


def test_what_is_wrong_is_said_in_one_sentence_on_spark(on_spark, spark):
    frame = spark.createDataFrame([(1.0, 2.0), (3.0, None)], ["a", "b"])
    with pytest.raises(ValueError, match=r"`part \d of data\[sample\]` must be finite, got NaN") as caught:
        fit.em(GaussianMixture(1, 2), on_spark.parts_of(on_spark.arrays_of(frame)))
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"`data` must have shape \(N, 3\) in every part, got \(N, 2\)"):
        fit.em(GaussianMixture(1, 3), on_spark.parts_of(on_spark.arrays_of(frame)))


def test_the_script_fits_a_table_on_spark(on_spark, spark):
    x = on_spark.made_up()
    frame = spark.createDataFrame(x.tolist(), list("abcde"))
    assert_same(on_spark.fitted(frame, 3), fit.em(GaussianMixture(3, D), x))
