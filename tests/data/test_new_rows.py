"""New rows beside the training data: what looks like other units is said, and what does not is not."""

import warnings

import pytest
import torch

from pyrovae.data import Observations
from pyrovae.data.new_rows import NewRowsWarning, warn_off_range
from pyrovae.data.observations import named

LOW, HIGH = torch.tensor([0.0, 500.0], dtype=torch.float64), torch.tensor([1.0, 1500.0], dtype=torch.float64)


def rows(*values):
    """Rows of two columns, from that of the file with number 7 on."""
    x = torch.tensor(values, dtype=torch.float64)
    return x, Observations(x, names=("share", "mass"), rows=torch.arange(7, 7 + len(x)))


@pytest.mark.parametrize(
    "values",
    [
        [[0.5, 1000.0]],
        [[0.0, 500.0], [1.9, 2400.0]],  # outside, by less than the range is wide
        [[0.5, torch.nan], [torch.nan, 800.0]],
        [[0.5, 1000.0]] * 9,  # too few rows to say that they do not spread
    ],
)
def test_rows_like_the_training_data_are_taken_without_a_word(values):
    x, data = rows(*values)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_off_range(x, LOW, HIGH, data)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([[0.5, 1000.0], [2.5, 900.0]], r"'share' from 0 to 1 \(1 of 2 rows outside, row 8 of the file by most, 2.5\)"),
        ([[0.5, 1.0], [0.6, 1.5]], r"'mass' from 500 to 1500 \(2 of 2 rows outside, row 7 of the file by most, 1\)"),
        ([[0.5, 1000.0 + n / 10] for n in range(10)], r"'mass' from 500 to 1500 \(all rows within 0.9\)"),
        ([[0.5, -torch.inf], [0.4, 900.0]], r"'mass'"),
    ],
)
def test_other_units_are_said_with_the_column_and_the_row(values, said):
    x, data = rows(*values)
    with pytest.warns(NewRowsWarning, match=said):
        warn_off_range(x, LOW, HIGH, data)


def test_lines_of_fits_call_columns_by_name():
    data = rows([0.0, 0.0])[1]
    assert named("the noise of dimension 1 is at the floor", data) == "the noise of 'mass' is at the floor"
    assert named("dimension 1", data.x) == "dimension 1"
    assert (data.column(0), data.datum(0), data.column_names) == ("'share'", "row 7 of the file", ["share", "mass"])
    assert Observations(data.x).column_names == ["x[0]", "x[1]"]


def test_a_subset_keeps_its_rows():
    data = rows([0.0, 1.0], [2.0, 3.0], [4.0, 5.0])[1]
    assert data[torch.tensor([2, 0])].rows.tolist() == [9, 7]
    assert data[1:].to(torch.float32).names == ("share", "mass")
