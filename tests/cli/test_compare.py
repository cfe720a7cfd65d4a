"""The command, and `compare`: what it prints and writes, and one sentence for what cannot be done."""

import json
import os
import re
import tempfile
import warnings
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch

from pyrovae import cli, data, fit
from pyrovae.cli import options as shared
from pyrovae.scoreboard import candidates, results_folder

NUM_DATA, D = 60, 3
NAMES = [
    *("--latent-dim", "--components", "--epochs", "--particles", "--seeds", "--out"),
    *("--method", "--chains", "--temperatures"),
    *("--observations", "--transform", "--max-images", "--threads", "--device", "--seed", "--quiet"),
]


def write_table(path, change=None):
    """A table of three columns and words as labels; ``change`` is done to its numbers first."""
    x = np.random.default_rng(0).normal(size=(NUM_DATA, D)) * [1, 10, 100]
    if change is not None:
        change(x)
    rows = [",".join(map(str, [*row, "even" if i % 2 else "odd"])) for i, row in enumerate(x.tolist())]
    path.write_text("\n".join(["a,b,c,label", *rows]) + "\n")
    return str(path)


def set_to(value):
    return lambda x: x.__setitem__((7, 1), value)


@pytest.fixture
def table(tmp_path):
    (tmp_path / "in").mkdir()
    return write_table(tmp_path / "in" / "table.csv")


@pytest.fixture
def no_fits(monkeypatch):
    """A fit that starts is a failure: what is wrong is to be said before."""

    def start(*args, **kwargs):
        raise AssertionError("a fit was started")

    for how in ("closed_form", "em", "svi"):
        monkeypatch.setattr(fit, how, start)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One whole run, which the tests below only look at: how it ended, what it printed, and its folder."""
    folder = tmp_path_factory.mktemp("run")
    small = ["--epochs", "2", "--components", "2", "--latent-dim", "1", "--particles", "20", "--quiet"]
    arguments = ["compare", write_table(folder / "table.csv"), *small, "--out", str(folder / "out")]
    original = fit.svi
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as err:
        patch.setattr(fit, "svi", lambda *a, **options: original(*a, **{**options, "num_epochs": 2}))
        status = cli.main(arguments)
    return status, out.getvalue(), err.getvalue(), folder / "out"


# -------------------------------------------------------------------------------------------------------- a whole run


def test_a_run_that_did_what_was_asked_returns_0(finished):
    assert finished[0] == 0


def test_the_table_is_printed(finished):
    text = finished[1]
    rows = ["Gaussian, closed form", "GMM-2", "PPCA-1, EM", "PPCA-1, SVI", "VAE-1, one σ, SVI", "VAE-1, σ(z), SVI"]
    assert all(
        word in text for word in [*rows, "log p(x)", "exact", "bound", "table.csv, as given", "20 importance weights"]
    )


def test_it_says_what_was_chosen_and_where_the_files_are(finished):
    _, text, _, out = finished
    assert "Chosen on validation data, floors in units of what the models see:\n  Gaussian: floor " in text
    assert f"Written to {out}" in text


def test_quiet_means_the_result_only(finished):
    assert finished[2] == ""


def test_the_folder_is_written(finished):
    out = finished[3]
    assert {"report.html", "scoreboard.json", "scoreboard.csv", "scoreboard.png", "models", "arviz"} <= set(
        os.listdir(out)
    )
    assert len(os.listdir(out / "models")) == len(os.listdir(out / "arviz")) == 8


def test_the_report_says_what_was_chosen(finished):
    page = (finished[3] / "report.html").read_text(encoding="utf-8")
    assert "<h2>Chosen on validation data, floors in units of what the models see</h2><pre>Gaussian: floor " in page


@pytest.mark.parametrize("name", ["PPCA-1, EM", "VAE-1, one σ, SVI"])
def test_a_model_in_the_folder_is_evaluated_to_its_row(name, finished, tmp_path):
    out, result = finished[3], tmp_path / "result.json"
    model = out / "models" / f"{results_folder.slug(name)}.pt"
    with redirect_stdout(StringIO()):
        assert cli.main(["evaluate", str(model), "--particles", "20", "--quiet", "--out", str(result)]) == 0
    rows = json.loads((out / "scoreboard.json").read_text(encoding="utf-8"))["rows"]
    row = next(row for row in rows if row["name"] == name)
    values = json.loads(result.read_text(encoding="utf-8"))["values"]
    assert values["log_likelihood"] == pytest.approx(row["mean"], rel=1e-9)
    assert values["num_free_parameters"] == row["num_free_parameters"]


def test_binary_digits_and_progress_on_standard_error(monkeypatch, capsys):
    original = fit.svi
    monkeypatch.setattr(fit, "svi", lambda *a, **options: original(*a, **{**options, "num_epochs": 1}))
    assert cli.main(["compare", "digits", "--observations", "binary", "--particles", "5", "--latent-dim", "2"]) == 0
    out, err = capsys.readouterr()
    assert "VAE-2, SVI" in out
    assert "digits, binarized by Bernoulli(v/16)" in out
    assert err.startswith("digits: 1,079 train, 359 validation, 359 test, D = 64; view: as it is\n")


def test_a_fit_that_did_not_converge_is_noted_once(monkeypatch, capsys):
    def warn(options):
        for _ in range(2):
            warnings.warn("EM did not converge within `max_iterations` = 3", fit.ConvergenceWarning, stacklevel=1)

    monkeypatch.setattr("pyrovae.cli.compare.run", warn)
    assert cli.main(["compare"]) == 0
    assert capsys.readouterr().err == "pyrovae: note: EM did not converge within `max_iterations` = 3\n"


# ------------------------------------------------------------------------------------------------------------- options


@pytest.mark.parametrize("option", [*NAMES, "DATA"])
def test_help_names_every_option(option, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["compare", "--help"])
    assert end.value.code == 0
    assert re.search(rf"(^|\s){option}\b", capsys.readouterr().out)


def test_every_option_has_a_line_of_help():
    commands = next(a for a in cli.build_parser()._actions if a.dest == "command").choices
    assert all(action.help for command in commands.values() for action in command._actions)


def test_version(capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["--version"])
    assert end.value.code == 0
    assert re.fullmatch(r"pyrovae \d+\.\d+\.\d+\n", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("name", "options", "transform"),
    [
        ("table.csv", [], "standardize"),
        ("TABLE.CSV", [], "standardize"),
        ("table.csv", ["--transform", "none"], None),
        ("table.csv", ["--transform", "logit"], "logit"),
        ("table.csv", ["--observations", "binary"], None),
        ("array.npy", [], None),
        ("digits", [], None),
    ],
)
def test_tables_are_standardised_unless_told_otherwise(name, options, transform, monkeypatch):
    seen = {}
    monkeypatch.setattr(data, "load", lambda name, **arguments: seen.update(arguments))
    shared.load(cli.build_parser().parse_args(["compare", name, *options]), dtype=torch.float64)
    assert seen["transform"] == transform


# ----------------------------------------------------------------------------------- what cannot be done, in a sentence


def refused(arguments, capsys):
    """The sentence on standard error of a run that must end with 2."""
    assert cli.main(["compare", *arguments, "--quiet"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    assert err.count("\n") == 1
    assert err.startswith("pyrovae: error: ")
    return err


@pytest.mark.usefixtures("no_fits")
@pytest.mark.filterwarnings("ignore:.* is constant")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            set_to(np.nan),
            "`--missing` must be 'nan' or 'drop' for 'bad.csv', which lacks values in 1 of 60 rows: b (1)",
        ),
        (set_to(np.inf), "`DATA` must hold finite numbers, got inf in row 8 of 'b'"),
        (lambda x: x.fill(3.0), "`DATA` must hold training data that differ"),
    ],
    ids=["NaN", "infinity", "constant"],
)
def test_bad_numbers(change, message, tmp_path, capsys):
    path = write_table(tmp_path / "bad.csv", change)
    assert message in refused([path, "--out", str(tmp_path / "out")], capsys)
    assert os.listdir(tmp_path) == ["bad.csv"]


@pytest.mark.usefixtures("no_fits")
@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("bad.csv", b"a,b\n1,2\n1,2,3\n", "`DATA` must be a table with rows of one length"),
        ("bad.csv", b"a,b\n1,2\nhello,3\n", "`DATA` must be a table of numbers, got 'hello' in row 2 of 'a'"),
        ("bad.csv", b"a,b\n1,2\n3,4\n", "`DATA` must hold at least 5 data"),
        ("bad.csv", b"", "`DATA` must be a table of numbers, got an empty file"),
        ("bad.csv", b"\xff\xfe\x00", "`DATA` must be a text file in UTF-8"),
        ("bad.npy", b"no array", "`DATA` must lead to an .npy file"),
        ("bad.npz", b"no arrays", "`DATA` must lead to an .npz file"),
        ("bad.xls", b"1,2\n", "`DATA` must be one of digits, .* or a path to a .csv, .tsv or .txt table"),
    ],
    ids=["ragged", "words", "two rows", "empty", "bytes", "npy", "npz", "txt"],
)
def test_unreadable_files(file, content, message, tmp_path, capsys):
    (tmp_path / file).write_bytes(content)
    assert re.search(message, refused([str(tmp_path / file), "--out", str(tmp_path / "out")], capsys))
    assert os.listdir(tmp_path) == [file]


@pytest.mark.usefixtures("no_fits")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense"], "`DATA` must be one of digits, mnist, .* got 'nonsense'"),
        (["nothing.csv"], "`DATA` must be a file that exists, got 'nothing.csv'"),
        (["digits", "--components", "2000"], "`--components` must be at most the number of training data, 1,079"),
        (["digits", "--latent-dim", "64"], "`--latent-dim` must be below the number of dimensions, 64, got 64"),
        (
            ["digits", "--observations", "binary", "--components", "2000"],
            "`--components` must be at most the number of training data, 1,079",
        ),
        (["digits", "--observations", "binary", "--transform", "logit"], "`--transform` must be None for binary"),
        (["digits", "--device", "abacus"], "`--device` must be a device of this machine, got 'abacus'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_options_that_do_not_fit_the_data(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert re.search(message, refused([*arguments, "--out", "out"], capsys))
    assert os.listdir(tmp_path) == []


@pytest.mark.usefixtures("no_fits")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--components", "37"], "`--components` must be at most the number of training data, 36, got 37"),
        (["--latent-dim", "3"], "`--latent-dim` must be below the number of dimensions, 3, got 3"),
        (["--observations", "binary"], r"`--observations` must be 'continuous' for values outside \[0, 1\]"),
        (["--transform", "logit"], r"`--transform` must be .* for values outside \[0, 1\]"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_options_that_do_not_fit_the_table(table, options, message, capsys):
    assert re.search(message, refused([table, *options], capsys))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.usefixtures("no_fits")
def test_a_gpu_that_is_not_there(table, capsys):
    assert "`--device` must be a device of this machine, got 'cuda'" in refused([table, "--device", "cuda"], capsys)


@pytest.mark.usefixtures("no_fits")
@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("in/table.csv", "`--out` must be a folder, got .* which is a file"),
        ("in/table.csv/out", "`--out` must be a folder that can be written"),
        ("in", "`--out` must be new, empty or earlier output, .* which holds other files"),
    ],
)
def test_a_folder_that_cannot_be_written(table, out, message, tmp_path, capsys):
    before = Path(table).read_text()
    assert re.search(message, refused([table, "--out", str(tmp_path / out)], capsys))
    assert os.listdir(tmp_path) == ["in"]
    assert Path(table).read_text() == before


@pytest.mark.usefixtures("no_fits")
def test_a_folder_without_permission(table, tmp_path, monkeypatch, capsys):
    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryDirectory", refuse)
    assert "`--out` must be a folder that can be written" in refused([table, "--out", str(tmp_path / "out")], capsys)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--components", "0"], "argument --components: must be a whole number of at least 1, got '0'"),
        (["--epochs", "-1"], "argument --epochs: must be a whole number of at least 1, got '-1'"),
        (["--particles", "1e3"], "argument --particles: must be a whole number of at least 1, got '1e3'"),
        (["--seeds", "²"], "argument --seeds: must be a whole number of at least 1, got '²'"),
        (["--seed", str(10**30)], "argument --seed: must be a whole number from 0 to"),
        (["--observations", "grey"], "argument --observations: invalid choice: 'grey'"),
        (["--nonsense"], "unrecognized arguments: --nonsense"),
    ],
    ids=" ".join,
)
def test_a_mistyped_option(options, message, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["compare", "digits", *options])
    assert end.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (MemoryError(), 2, "error: there is not enough memory"),
        (torch.OutOfMemoryError("CUDA"), 2, "error: there is not enough memory"),
        (fit.DivergenceError("the loss is not finite\nat step 3", None), 2, "error: the loss is not finite at step 3"),
        (OSError(28, "No space left on device", "out"), 2, "error: [Errno 28] No space left on device"),
        (KeyboardInterrupt(), 130, "stopped; nothing was written"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_what_goes_wrong_later_is_one_line_too(error, status, message, monkeypatch, capsys):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr("pyrovae.cli.compare.standard_fits", fail)
    assert cli.main(["compare", "--quiet"]) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"pyrovae: {message}")
    assert err.count("\n") == 1


def test_the_library_and_the_command_mean_the_same_options():
    """Every argument of the suite that the command offers under another name is called by that name in messages."""
    for argument in ("latent_dim", "num_components", "num_epochs"):
        assert argument in candidates.standard_fits.__kwdefaults__
        assert shared.flag(argument).startswith("--")
