"""Fit a Gaussian mixture on Spark, to a DataFrame of which every worker holds partitions: the fit of one process.

    python docs/examples/fit_on_spark.py                                # made-up data, two workers on this machine
    python docs/examples/fit_on_spark.py data.parquet --components 5
    python docs/examples/fit_on_spark.py data.parquet --master spark://host:7077

docs/how_to/fit_on_spark.md says why it is written as it is.
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from pyspark import RDD
from pyspark.sql import DataFrame, SparkSession

from pyrovae import GaussianMixture, fit


def parts_of(held: RDD, *, weighted: bool = False) -> fit.Parts:
    """What ``fit.em`` takes, for data that workers hold.

    Args:
        held: One array in each partition, or one pair of data and weights.
        weighted: Whether they are pairs.
    """

    def over(function: Callable[[int, Any], Any]) -> list[Any]:
        return held.mapPartitionsWithIndex(lambda number, part: [function(number, *part)]).collect()

    return fit.Parts(over, weighted=weighted)


def arrays_of(frame: DataFrame, weight: str | None = None) -> RDD:
    """Every partition of a DataFrame of numbers as one array, in the workers' memory; null becomes NaN.

    With the name of a column that says what each row counts for, as a pair of data and weights.
    """
    columns = [name for name in frame.columns if name != weight]
    order = columns if weight is None else [*columns, weight]

    def array(rows: Iterable[Any]) -> list[Any]:
        table = np.array(list(rows), dtype=float).reshape(-1, len(order))
        return [table if weight is None else (table[:, :-1], table[:, -1])]

    return frame.select(order).rdd.mapPartitions(array).cache()


def session(master: str) -> SparkSession:
    """A session whose workers run this Python, which has pyrovae."""
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    quiet = {"spark.ui.enabled": "false", "spark.ui.showConsoleProgress": "false", "spark.log.level": "ERROR"}
    return SparkSession.builder.master(master).config(map=quiet).getOrCreate()


def fitted(frame: DataFrame, num_components: int) -> fit.FitResult:
    """The fit of a mixture."""
    data = parts_of(arrays_of(frame))
    return fit.em(GaussianMixture(num_components, data.shape[1:]), data)


def made_up() -> np.ndarray:
    """Three clusters in five dimensions."""
    generator = np.random.default_rng(0)
    return (generator.normal(size=(3, 5)) * 3)[generator.integers(3, size=9000)] + generator.normal(size=(9000, 5))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", help="a Parquet file, or a folder of them, of numbers alone")
    parser.add_argument("--components", type=int, default=3)
    parser.add_argument("--master", default="local[2,2]", help="of a cluster; left out, two workers on this machine")
    options = parser.parse_args()
    spark = session(options.master)
    if options.file:
        print(fitted(spark.read.parquet(options.file), options.components))
    else:
        x = made_up()
        on_spark = fitted(spark.createDataFrame(x.tolist(), list("abcde")), options.components)
        print(on_spark)
        here = fit.em(GaussianMixture(options.components, 5), x)
        print(f"log p(x) apart from one process by {abs(on_spark.trace[-1] - here.trace[-1]):.1e} nats")
    spark.stop()


if __name__ == "__main__":
    main()
