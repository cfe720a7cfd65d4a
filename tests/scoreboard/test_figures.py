"""How a figure is written, wherever it stands, and that every place shows the same."""

import json
import math
import re

import pytest
import torch

from pyrovae import PPCA, VAE, GaussianMixture, compare
from pyrovae.data import Observations, Space
from pyrovae.scoreboard.evaluation import evaluate_model
from pyrovae.scoreboard.figures import Figure, aligned
from pyrovae.scoreboard.report import to_html

D = 3


@pytest.mark.parametrize(
    ("value", "unit", "decimals", "text"),
    [
        (-1316.456, "nats", 2, "-1,316.46"),
        (-0.0001, "nats", 2, "0.00"),
        (float("-inf"), "nats", 2, "-inf"),
        (0.5, "change", 2, "+0.50"),
        (-0.5, "change", 3, "-0.500"),
        (2.4434, "bits", 2, "2.443"),
        (2.44344, "bits", 4, "2.4434"),
        (0.1234, "share", 2, "12%"),
        (0.1234, "share", 4, "12.34%"),
        (0.004, "share", 2, "<1%"),
        (0.004, "share", 3, "0.4%"),
        (0.0, "share", 2, "0%"),
        (0.00026, "variance", 4, "0.00026"),
        (12.34, "seconds", 4, "12.3"),
        (100992, "count", 2, "100,992"),
        (None, "nats", 2, ""),
    ],
)
def test_each_unit_is_written_in_one_way(value, unit, decimals, text):
    assert Figure("name", "meaning", value, unit=unit).text(decimals) == text


def test_an_error_is_written_like_its_figure():
    assert Figure("name", "meaning", 1.0, 0.25).error_text(3) == "0.250"
    assert Figure("name", "meaning", 1.0).error_text() == ""


def test_lines_of_a_table_are_of_one_length():
    lines = aligned([["", "value", ""], ["log p(x)", "-1.25", "0.50"], ["KL", "1,316.25", ""]])
    assert {len(line) for line in lines} == {len(lines[0])}
    assert lines[2] == "KL        1,316.25      "


@pytest.fixture(scope="module")
def data():
    x = torch.randn(30, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return Observations(x, space=Space("toy", "real"))


@pytest.fixture(scope="module")
def models():
    torch.manual_seed(0)
    tight = GaussianMixture(1, (D,), "diag", floor=2.0)
    with torch.no_grad():
        tight.model.covariance_factor.zero_()
    return {"VAE": VAE(2, (D,), hidden=(4,)).double(), "PPCA": PPCA(1, (D,)), "tight": tight}


def test_table_report_and_record_show_the_same_figures(models, data):
    board = compare(models, data, num_particles=50)
    text, page = str(board), to_html(board, {})
    for row in board.rows:
        for name in ("log_likelihood", "kl", "reconstruction"):
            assert row.figures[name].text() in text
        assert f"<td>{row.figures['log_likelihood'].text(3)}</td>" in page
        assert f"<td>{row.figures['change_under_higher_floor'].text(3)}</td>" in page
        record = row.record()
        shared = record.keys() & row.figures.keys() - {"difference", "k_hat_share", *_parts(row)}
        assert all(same(record[name], row.figures[name].value) for name in shared)


def same(one, other):
    """Equal, both None, or both not available."""
    return one == other or (math.isnan(one) and math.isnan(other))


def _parts(row):
    """The parts of an error, which an exact row shows nowhere."""
    return ("monte_carlo_standard_error", "data_standard_error") if row.kind == "exact" else ()


@pytest.mark.parametrize("name", ["VAE", "PPCA", "tight"])
def test_an_evaluation_has_the_figures_of_the_row_and_json_holds_them(name, models, data):
    row = compare(models, data, num_particles=50).rows
    (row,) = [each for each in row if each.name == name]
    found = evaluate_model(name, models[name], data, data, num_particles=50)
    plain = json.loads(json.dumps(found.to_plain()))
    for figure in found.figures:
        assert plain["values"][figure.name] == (None if math.isnan(figure.value) else figure.value)
        assert figure.meaning
        if figure.name in row.figures:
            assert same(figure.value, row.figures[figure.name].value)
    assert plain["standard_errors"]["change_under_higher_floor"] == row.degeneracy.change_standard_error
    assert not re.search(r"given [xyz]", " ".join(figure.meaning for figure in found.figures))
