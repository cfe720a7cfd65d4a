"""The output folder: everything in it, whole or not at all, and nothing of anybody else's touched."""

import base64
import json
import os
import tempfile

import pandas as pd
import pytest
import torch

from pyrovae import PPCA, VAE, GaussianMixture, compare, fit, plots
from pyrovae.data import Observations, Space
from pyrovae.io import model_file
from pyrovae.scoreboard import results_folder

D = 4
PICTURES = ("scoreboard.png", "training.png", "samples.png", "latents.png")
NAMES = {"PPCA-1": "PPCA-1", "a mixture": "a-mixture", "VAE, σ(z)": "VAE-σ-z"}


@pytest.fixture(scope="module")
def board():
    x = torch.randn(40, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    data = Observations(x, torch.arange(40) % 3, Space("toy", "real"))
    fits = {
        "PPCA-1": fit.closed_form(PPCA(1, (D,)), data[:25]),
        "a mixture": fit.em(GaussianMixture(2, (D,), "diag", floor=0.1), data[:25], tolerance=1e-2),
        "VAE, σ(z)": fit.svi(VAE(2, (D,), hidden=(4,)).double(), data[:25], num_epochs=2),
    }
    return compare(fits, data[25:], num_particles=20)


@pytest.fixture(scope="module")
def folder(board, tmp_path_factory):
    """One folder written in full, which the tests below only read."""
    return board.save(tmp_path_factory.mktemp("output") / "new" / "results")


@pytest.fixture
def tiny(board):
    """A scoreboard that is quick to write."""
    return compare({"PPCA-1": board.models["PPCA-1"]}, board.data)


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ------------------------------------------------------------------------------------------------------------- content


def test_the_folder_is_complete(folder):
    models, arviz = (
        {f"{where}/{name}.{ext}" for name in NAMES.values()} for where, ext in (("models", "pt"), ("arviz", "nc"))
    )
    assert set(contents(folder)) == {"report.html", "scoreboard.json", "scoreboard.csv", *PICTURES, *models, *arviz}


def test_nothing_else_is_left_beside_it(folder):
    assert os.listdir(folder.parent) == ["results"]


def test_the_tables_hold_the_rows(folder, board):
    content = json.loads((folder / "scoreboard.json").read_text(encoding="utf-8"))
    assert (content["space"], content["num_data"], content["units"]) == ("toy", 15, "nats per datum")
    table = pd.read_csv(folder / "scoreboard.csv")
    for rows in (content["rows"], table.to_dict("records")):
        assert [row["name"] for row in rows] == [row.name for row in board.rows]
        assert [row["mean"] for row in rows] == pytest.approx([row.mean for row in board.rows], rel=1e-9)


@pytest.mark.parametrize("picture", PICTURES)
def test_pictures_are_png_files_of_a_size_to_read(folder, picture):
    content = (folder / picture).read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    assert content.endswith(b"IEND\xaeB`\x82")
    width, height = (int.from_bytes(content[start : start + 4], "big") for start in (16, 20))
    assert 600 <= width <= 3000
    assert 150 <= height <= 4000


def test_the_report_holds_every_picture(folder):
    page = (folder / "report.html").read_text(encoding="utf-8")
    for picture in PICTURES:
        assert base64.b64encode((folder / picture).read_bytes()).decode() in page


@pytest.mark.parametrize(("name", "file"), NAMES.items())
def test_the_models_are_those_of_the_scoreboard(folder, board, name, file):
    again = model_file.load(folder / "models" / f"{file}.pt")
    row = next(row for row in board.rows if row.name == name)
    assert (compare({name: again}, board.data, num_particles=20).rows[0].log_prob == row.log_prob).all()


def test_models_without_fits_have_no_training_curves(tiny, tmp_path):
    assert not (tiny.save(tmp_path / "out") / "training.png").exists()


def test_every_row_has_files_of_its_own(tiny, board, tmp_path):
    models = dict.fromkeys(("PPCA 1", "PPCA-1", "ppca-1", "?", "σ" * 200, ".."), board.models["PPCA-1"])
    out = compare(models, board.data).save(tmp_path / "out")
    assert len(list((out / "models").iterdir())) == len(list((out / "arviz").iterdir())) == len(models)


# ------------------------------------------------------------------------------------------------- whole or not at all


@pytest.fixture(params=["plots.samples", "model_file.save", "arviz.to_netcdf"])
def broken(request, monkeypatch):
    """Something fails half-way."""

    def fail(*args, **kwargs):
        raise RuntimeError("half-way")

    monkeypatch.setattr(f"pyrovae.scoreboard.results_folder.{request.param}", fail)


@pytest.mark.usefixtures("broken")
def test_a_failure_leaves_nothing(tiny, tmp_path):
    with pytest.raises(RuntimeError, match="half-way"):
        tiny.save(tmp_path / "out")
    assert os.listdir(tmp_path) == []


def test_a_failure_leaves_earlier_output_as_it_was(tiny, tmp_path, monkeypatch):
    out = tiny.save(tmp_path / "out")
    before = contents(out)

    def fail(*args, **kwargs):
        raise RuntimeError("half-way")

    monkeypatch.setattr(plots, "latents", fail)
    with pytest.raises(RuntimeError, match="half-way"):
        tiny.save(out)
    assert contents(out) == before
    assert os.listdir(tmp_path) == ["out"]


def test_earlier_output_is_replaced(tiny, board, tmp_path):
    out = compare({"a mixture": board.models["a mixture"]}, board.data).save(tmp_path / "out")
    tiny.save(out)
    assert os.listdir(out / "models") == ["PPCA-1.pt"]
    assert os.listdir(tmp_path) == ["out"]


def test_an_empty_folder_is_taken(tiny, tmp_path):
    (tmp_path / "out").mkdir()
    assert (tiny.save(tmp_path / "out") / "scoreboard.json").is_file()


# ------------------------------------------------------------------------------------------------------------- refusals


def test_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match=r"`folder` must be a folder, got .* which is a file"):
        results_folder.check_folder(tmp_path / "file")


def test_a_folder_of_other_files_is_refused_and_left_alone(tiny, tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(ValueError, match=r"`folder` must be new, empty or earlier output, .* holds other files"):
        tiny.save(tmp_path)
    assert os.listdir(tmp_path) == ["thesis.tex"]


def test_a_place_under_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(PermissionError, match=r"`folder` must be a folder that can be written, got .*file/out"):
        results_folder.check_folder(tmp_path / "file" / "out")


def test_a_place_without_permission_is_refused(tmp_path, monkeypatch):
    """The tests may run as root, whom no permission stops, so the refusal is the system's by name only."""

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryDirectory", refuse)
    with pytest.raises(PermissionError, match=r"`folder` must be a folder that can be written.*\(Permission denied\)"):
        results_folder.check_folder(tmp_path / "out")


def test_the_check_makes_nothing(tmp_path):
    assert results_folder.check_folder(tmp_path / "a" / "b") == (tmp_path / "a" / "b").resolve()
    assert os.listdir(tmp_path) == []
