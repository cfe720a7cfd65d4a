"""A path with a table alone: wine with `;` as the separator, fitted, scored, sampled and evaluated, by name."""

import json
import re

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import norm
from sklearn.datasets import load_wine

from pyrovae import cli, data

NUM_OLD = 140  # rows of the first file; the others are new


def run(capsys, *words):
    """What a command that did what was asked said on standard output and on standard error."""
    capsys.readouterr()
    status = cli.main([str(word) for word in words])
    out, err = capsys.readouterr()
    assert status == 0, err
    return out, err


@pytest.fixture(scope="module")
def wine():
    """178 wines in a random order, class in words."""
    frame = load_wine(as_frame=True).frame.sample(frac=1, random_state=0, ignore_index=True)
    frame["class"] = np.array(["barolo", "grignolino", "barbera"])[frame.pop("target")]
    return frame


@pytest.fixture(scope="module")
def folder(wine, tmp_path_factory):
    """The file of the fit, and new rows with an id, other columns first, and missing cells; and the fitted models."""
    folder = tmp_path_factory.mktemp("wine")
    wine[:NUM_OLD].to_csv(folder / "wine.csv", sep=";", index=False)
    new = wine[NUM_OLD:].reset_index(drop=True)
    new.loc[1, "ash"] = new.loc[3, "hue"] = new.loc[3, "proline"] = np.nan
    new.insert(0, "id", [f"P{number:04d}" for number in range(len(new))])
    new[["id", "class", *sorted(new.columns.drop(["id", "class"]))]].to_csv(folder / "new.csv", sep=";", index=False)
    for kind, *options in (
        ("gmm", "--components", "1", "--covariance", "diag"),
        ("ppca", "--latent-dim", "2"),
        ("vae", "--latent-dim", "2", "--hidden", "4", "--epochs", "1"),
    ):
        words = ["fit", kind, str(folder / "wine.csv"), *options, "--quiet", "--out", str(folder / f"{kind}.pt")]
        assert cli.main(words) == 0
    return folder


def test_new_rows_are_scored_by_name_in_the_units_of_the_file(folder, wine, capsys):
    """One Gaussian of independent columns: log p of a row is the sum over its observed cells, which scipy gives."""
    out = folder / "scores.csv"
    _, err = run(capsys, "score", folder / "gmm.pt", folder / "new.csv", "--out", out)
    found, new = pd.read_csv(out), pd.read_csv(folder / "new.csv", sep=";")
    features = wine.columns.drop("class")
    train = pd.DataFrame(data.load(folder / "wine.csv", dtype=torch.float64).train.x.numpy(), columns=features)
    terms = norm(train.mean(), train.std(ddof=0)).logpdf(new[features])
    np.testing.assert_allclose(found["log_p"], np.nansum(terms, 1), rtol=1e-9)
    assert found["row"].tolist() == list(range(1, 1 + len(new)))
    assert found["num_missing"].tolist() == [0, 1, 0, 2, *[0] * (len(new) - 4)]
    assert found["imputed_ash"].notna().tolist() == [False, True, *[False] * (len(new) - 2)]
    assert found.loc[1, "imputed_ash"] == pytest.approx(train["ash"].mean(), rel=1e-9)
    assert "no columns 'id', 'class', which are left out" in err
    assert "Values are missing in 2 of 38 rows" in err


def test_without_out_the_scores_are_the_only_output(folder, wine, capsys):
    wine[NUM_OLD:].to_csv(folder / "whole.csv", index=False)
    out, _ = run(capsys, "score", folder / "ppca.pt", folder / "whole.csv")
    lines = out.splitlines()
    assert lines[0] == "row,log_p,z[0],z[1]"
    assert len(lines) == 1 + 38


def test_a_bound_has_its_error_and_json_its_sentences(folder, wine, capsys):
    wine[NUM_OLD:].to_csv(folder / "whole.csv", index=False)
    out = folder / "scores.json"
    run(capsys, "score", folder / "vae.pt", folder / "whole.csv", "--particles", 20, "--quiet", "--out", out)
    found = json.loads(out.read_text(encoding="utf-8"))
    assert list(found["rows"][0]) == ["row", "log_p_bound", "log_p_bound_se", "z[0]", "z[1]"]
    assert found["sentences"][0].startswith("log_p_bound: a lower bound of log p(x) in expectation")


def test_other_units_are_said(folder, wine, capsys):
    new = wine[NUM_OLD:].assign(proline=lambda frame: frame["proline"] / 1000)
    new.to_csv(folder / "units.csv", index=False)
    _, err = run(capsys, "score", folder / "gmm.pt", folder / "units.csv", "--quiet")
    assert re.search(r"note: new rows do not look like the training data, with 'proline' from .* in other units", err)
    assert "alcohol" not in err


def test_a_row_alone_can_be_scored(folder, wine, capsys):
    wine[NUM_OLD : NUM_OLD + 1].to_csv(folder / "one.csv", index=False)
    out, _ = run(capsys, "score", folder / "gmm.pt", folder / "one.csv")
    assert len(out.splitlines()) == 2


def test_a_column_that_is_not_there_is_named(folder, wine, capsys):
    wine.drop(columns="hue").to_csv(folder / "less.csv", index=False)
    assert cli.main(["score", str(folder / "gmm.pt"), str(folder / "less.csv")]) == 2
    assert re.search(r"`DATA` must have the columns .* without 'hue'", capsys.readouterr().err)


def test_a_vae_refuses_missing_cells_and_says_where(folder, capsys):
    assert cli.main(["score", str(folder / "vae.pt"), str(folder / "new.csv")]) == 2
    err = capsys.readouterr().err
    assert "must have no missing values for a VAE, got some in 2 of 38 data, first in row 2 of the file" in err


def test_samples_have_the_columns_of_the_data_and_can_be_scored(folder, wine, capsys):
    out = folder / "samples.csv"
    run(capsys, "sample", folder / "ppca.pt", "--number", 5, "--out", out)
    assert list(pd.read_csv(out)) == ["pyrovae_sample", *wine.columns.drop("class")]
    scores, err = run(capsys, "score", folder / "ppca.pt", out)
    assert len(scores.splitlines()) == 6
    assert "'pyrovae_sample', which are left out" in err


def test_a_report_calls_columns_and_rows_by_their_names(folder, wine, capsys):
    """A VAE's worst data stand in it by the row of the file, under the names of the columns."""
    out = folder / "vae.json"
    run(capsys, "evaluate", folder / "vae.pt", "--particles", 100, "--quiet", "--out", out)
    page = out.with_suffix(".html").read_text(encoding="utf-8")
    for name in wine.columns.drop("class"):
        assert f'<th scope="col">{name}</th>' in page
    rows = [int(row) for row in re.findall(r'<th scope="row">row (\d+) of the file</th>', page)]
    alcohol = [
        float(cell) for cell in re.findall(r"row \d+ of the file</th>(?:<td>[^<]*</td>){3}<td>([^<]*)</td>", page)
    ]
    assert len(rows) == 10
    assert alcohol == pytest.approx(wine["alcohol"][[row - 1 for row in rows]].tolist(), rel=1e-3)
    assert "x[0]" not in page


def test_new_rows_are_evaluated(folder, wine, capsys):
    wine[NUM_OLD - 10 :].to_csv(folder / "some.csv", index=False)
    out, _ = run(capsys, "evaluate", folder / "gmm.pt", folder / "some.csv", "--quiet")
    assert out.startswith("gmm: GaussianMixture, 48 new data")
    assert re.search(r"\b\d of the 48 rows are training data", out)
