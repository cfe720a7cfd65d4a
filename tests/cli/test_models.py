"""`fit`, `evaluate` and `sample`: one model into a file, and out of it its numbers and what it generates."""

import functools
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from pyrovae import cli, data, evaluate, fit
from pyrovae.data.provenance import Provenance
from pyrovae.evaluate.likelihood import annealed
from pyrovae.io import model_file
from pyrovae.scoreboard import results_folder

NUM_DATA, SIDE = 60, 8
FITS = {  # MODEL, DATA and options; small, so that each takes a moment
    "gmm": ("gmm", "table.csv", "--components 2 --covariance diag --floor 0.1 --restarts 2"),
    "gaussian": ("gmm", "table.csv", "--components 1 --transform none"),
    "ppca": ("ppca", "table.csv", "--latent-dim 1"),
    "fa": ("fa", "table.csv", "--latent-dim 1 --how svi --epochs 2 --batch-size 10 --lr 0.01"),
    "ppca-mixture": ("ppca-mixture", "table.csv", "--components 2 --latent-dim 1"),
    "bernoulli-mixture": ("bernoulli-mixture", "images.npz", "--observations binary --components 2"),
    "vae": ("vae", "table.csv", "--latent-dim 2 --hidden 8 --epochs 3 --scale decoder --patience 2"),
    "conv": (
        "vae",
        "images.npz",
        "--observations integer --network conv --hidden 4 --conditional --latent-dim 2 --epochs 1",
    ),
    "resampled": (
        "vae",
        "images.npz",
        "--observations binary --resample --objective dreg --particles 3 --latent-dim 2 --hidden --epochs 2",
    ),
    "grey": ("vae", "images.npz", "--latent-dim 2 --hidden 4 --epochs 1 --transform logit"),
}


def write_data(folder):
    """A table of three columns with words as labels, and grey images with numbers as labels."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(NUM_DATA, 3)) * [1, 10, 100] + [0, 0, 50]
    rows = [",".join(map(str, [*row, "even" if i % 2 else "odd"])) for i, row in enumerate(x.tolist())]
    (folder / "table.csv").write_text("\n".join(["a,b,c,label", *rows]) + "\n")
    images = generator.integers(0, 256, size=(NUM_DATA, SIDE, SIDE), dtype=np.uint8)
    np.savez(folder / "images.npz", x=images, labels=np.arange(NUM_DATA) % 3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Data, and a model of every kind; the tests below only read."""
    folder = tmp_path_factory.mktemp("models")
    write_data(folder)
    return folder


@pytest.fixture(scope="module")
def fitted(folder):
    """A function that fits a model of FITS once, and gives its file."""

    def file(name):
        path = folder / f"{name}.pt"
        if not path.exists():
            kind, source, options = FITS[name]
            words = ["fit", kind, str(folder / source), *options.split(), "--quiet", "--out", str(path)]
            assert cli.main(words) == 0
        return path

    return file


@pytest.fixture(autouse=True)
def few_pictures(request, monkeypatch):
    """No pictures in reports, which take longer than all else, but where a test asks for them."""
    if "all_pictures" not in request.fixturenames:
        monkeypatch.setattr(results_folder, "pictures", lambda board: {})


@pytest.fixture
def all_pictures():
    """The report is whole."""


def run(capsys, *words):
    """What a command printed that did what was asked."""
    capsys.readouterr()
    status = cli.main([str(word) for word in words])
    out, err = capsys.readouterr()
    assert status == 0, err
    return out


def refused(capsys, *words):
    """The sentence on standard error of a command that must end with 2."""
    capsys.readouterr()
    assert cli.main([str(word) for word in words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    assert err.count("\n") == 1
    assert err.startswith("pyrovae: error: ")
    return err


def result_of(path, tmp_path, capsys, *options):
    """What evaluate writes as JSON."""
    out = tmp_path / "result.json"
    run(capsys, "evaluate", path, "--quiet", "--out", out, *options)
    return json.loads(out.read_text(encoding="utf-8"))


def held_out(folder, name, split="test"):
    """The data of a model, loaded without the command."""
    _, source, options = FITS[name]
    given = re.search(r"--observations (\w+)", options)
    transform = re.search(r"--transform (\w+)", options)
    name = transform[1] if transform else "standardize" if source.endswith(".csv") else "none"
    dataset = data.load(
        str(folder / source),
        observations=given and given[1],
        transform=None if name == "none" else name,
        dtype=torch.float64,
    )
    return getattr(dataset, split)


# ----------------------------------------------------------------------------------------------------------------- fit


@pytest.mark.parametrize("name", FITS)
def test_a_model_of_every_kind_is_fitted_and_written(name, fitted):
    model = model_file.load(fitted(name))
    expected = {"gaussian": "GaussianMixture", "gmm": "GaussianMixture", "ppca": "PPCA", "fa": "FactorAnalysis"}
    expected |= {"ppca-mixture": "PPCAMixture", "bernoulli-mixture": "BernoulliMixture"}
    assert type(model).__name__ == expected.get(name, "VAE")
    assert not [file for file in os.listdir(fitted(name).parent) if file.startswith(".")]


def test_the_summary_is_one_paragraph_with_what_was_kept(folder, tmp_path, capsys):
    words = ["vae", folder / "table.csv", "--latent-dim", 1, "--hidden", 4, "--epochs", 2, "--out", tmp_path / "m.pt"]
    out = run(capsys, "fit", *words, "--quiet")
    paragraph = " ".join(out.split())
    assert out.count("\n\n") == 0
    for said in (
        r"^vae fitted to table.csv, as given: SVI, ELBO -?\d+\.\d{3} nats per datum of the validation data;",
        r"kept: best on validation, epoch \d of 2",
        r"Validation log p\(x\): -\d+\.\d{3} ± \d+\.\d{3} nats per datum \(bound, 100 particles\)",
        r"Written to .*m\.pt\.$",
    ):
        assert re.search(said, paragraph)


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ("vae --latent-dim 1 --hidden 4 --epochs 2", "valid"),
        ("ppca --latent-dim 1", "train"),
        ("fa --latent-dim 1", "train"),
    ],
)
def test_a_fit_tells_of_both_parts_of_the_data_in_their_own_units(words, part, folder, tmp_path, capsys):
    """The columns have deviations of 1, 10 and 100: a standardised density is log 1,000 higher."""
    kind, *options = words.split()
    out = run(capsys, "fit", kind, folder / "table.csv", *options, "--quiet", "--out", tmp_path / "m.pt")
    told = float(re.search(r"(?:ELBO|log p\(x\)) (-?[\d.]+) nats per datum of the", " ".join(out.split()))[1])
    data_seen = held_out(folder, "ppca", part)
    model = model_file.load(tmp_path / "m.pt")
    likelihood = evaluate.log_likelihood(model, data_seen, 500)
    in_units = (likelihood.values.double() + data_seen.log_abs_det).mean().item()
    assert in_units < -9
    assert "standardized" not in out
    if likelihood.method == "exact":
        assert told == pytest.approx(in_units, abs=1e-3)
    else:
        assert in_units - 3 < told < in_units + 0.5  # an ELBO of one draw a datum, of an untrained network


def test_progress_is_on_standard_error(folder, tmp_path, capsys):
    assert cli.main(["fit", "ppca", str(folder / "table.csv"), "--latent-dim", "1", "--out", f"{tmp_path}/m.pt"]) == 0
    first, second, *_ = capsys.readouterr().err.splitlines()
    assert first == "table.csv: 60 rows, 3 columns: 'a', 'b', 'c'; labels from 'label'"
    assert second.startswith("table.csv: 36 train, 12 validation, 12 test, D = 3; view: standardized")


@pytest.mark.parametrize("name", ["gmm", "gaussian", "bernoulli-mixture"])
def test_the_validation_likelihood_of_the_summary_is_that_of_evaluate(name, fitted, folder, tmp_path, capsys):
    kind, source, options = FITS[name]
    out = run(capsys, "fit", kind, folder / source, *options.split(), "--quiet", "--out", tmp_path / "again.pt")
    said = float(re.search(r"Validation log p\(x\):\s(-?\d+\.\d+)", " ".join(out.split()))[1])
    found = result_of(fitted(name), tmp_path, capsys, "--split", "valid")
    assert said == pytest.approx(found["values"]["log_likelihood"], abs=6e-4)


class Stop(ValueError):
    """Ends a fit that is only looked at."""


@pytest.fixture
def seen(monkeypatch):
    """What the fit was called with; none is run."""
    seen = {}

    def record(how):
        def start(model, train, **options):
            seen.update(options, how=how, model=model, train=train)
            raise Stop("enough")

        return start

    for how in ("closed_form", "em", "svi"):
        monkeypatch.setattr(fit, how, record(how))
    return seen


def look(seen, folder, tmp_path, words, source="table.csv"):
    kind, *options = words.split()
    assert cli.main(["fit", kind, str(folder / source), *options, "--quiet", "--out", str(tmp_path / "model.pt")]) == 2
    assert seen, "no fit was started"
    assert not os.listdir(tmp_path)
    return seen


@pytest.mark.parametrize(
    ("words", "how"),
    [
        ("ppca --latent-dim 1", "closed_form"),
        ("gmm --components 1", "closed_form"),
        ("gmm --components 2", "em"),
        ("fa --latent-dim 1", "em"),
        ("ppca-mixture --components 2 --latent-dim 1", "em"),
        ("vae", "svi"),
        ("ppca --latent-dim 1 --how em", "em"),
        ("gmm --components 2 --how svi", "svi"),
    ],
)
def test_the_best_way_to_fit_is_taken_unless_told_otherwise(words, how, seen, folder, tmp_path):
    assert look(seen, folder, tmp_path, words)["how"] == how


def test_options_of_the_model_reach_it(seen, folder, tmp_path):
    words = (
        "vae --latent-dim 5 --hidden 7 6 --activation tanh --posterior full --conditional --scale per_dim --floor 0.25"
    )
    config = look(seen, folder, tmp_path, words)["model"].config
    assert config == {
        "latent_dim": 5,
        "data_shape": [3],
        "likelihood": {"kind": "Gaussian", "scale": "per_dim", "floor": 0.25, "bounded": False},
        "hidden": [7, 6],
        "activation": "tanh",
        "network": "mlp",
        "posterior": "full",
        "num_classes": 2,
    }


@pytest.mark.parametrize(
    ("options", "likelihood"),
    [
        ("--likelihood gaussian --scale 0.5", ("Gaussian", {"scale": 0.5})),
        ("--likelihood low-rank-gaussian", ("LowRankGaussian", {"rank": 5})),
        ("--likelihood full-gaussian --floor 0.1", ("FullGaussian", {"floor": 0.1})),
        ("--likelihood continuous-bernoulli", ("ContinuousBernoulli", {})),
        ("--observations binary", ("Bernoulli", {})),
        ("--observations integer", ("DiscretizedLogistic", {"levels": 256, "scale": "decoder"})),
        ("", ("Gaussian", {"scale": "shared"})),
    ],
)
def test_likelihoods_have_names_and_suit_the_observations(options, likelihood, seen, folder, tmp_path):
    kind, values = likelihood
    config = look(seen, folder, tmp_path, f"vae {options}", "images.npz")["model"].config["likelihood"]
    assert config["kind"] == kind
    assert values.items() <= config.items()


def test_options_of_svi_reach_it(seen, folder, tmp_path):
    look(seen, folder, tmp_path, "vae --epochs 7 --batch-size 9 --lr 0.5 --patience 3 --restarts 2 --seed 4")
    expected = {"num_epochs": 7, "batch_size": 9, "lr": 0.5, "patience": 3, "num_restarts": 2, "seed": 4}
    assert expected.items() <= seen.items()
    assert look(seen, folder, tmp_path, "vae --steps 70")["num_steps"] == 70
    assert seen["elbo"] is None
    assert len(seen["valid"]) == 12


def test_options_of_em_reach_it(seen, folder, tmp_path):
    look(seen, folder, tmp_path, "fa --latent-dim 1 --restarts 3 --seed 4")
    assert {"num_restarts": 3, "seed": 4}.items() <= seen.items()
    assert not {"accelerate", "tolerance"} & set(seen)  # one recipe: fit.em's own


@pytest.mark.parametrize(
    ("options", "cls", "values"),
    [
        ("--beta 4", fit.BetaELBO, {"beta": 4.0}),
        ("--warmup 10", fit.BetaELBO, {"beta": fit.LinearWarmup(10, 1.0)}),
        ("--warmup 10 --beta 2", fit.BetaELBO, {"beta": fit.LinearWarmup(10, 2.0)}),
        ("--objective iw", fit.ImportanceWeightedELBO, {"num_particles": 5, "gradient": "reparametrised"}),
        (
            "--objective dreg --particles 7",
            fit.ImportanceWeightedELBO,
            {"num_particles": 7, "gradient": "doubly_reparametrised"},
        ),
    ],
)
def test_objectives(options, cls, values, seen, folder, tmp_path):
    elbo = look(seen, folder, tmp_path, f"vae {options}")["elbo"]
    assert type(elbo) is cls
    assert {name: getattr(elbo, name) for name in values} == values


def test_the_weight_of_kl_is_an_option_of_the_closed_form_too(seen, folder, tmp_path):
    assert look(seen, folder, tmp_path, "ppca --latent-dim 1 --beta 4")["beta"] == 4.0


def test_dynamic_binarization_is_for_training_alone(seen, folder, tmp_path):
    look(seen, folder, tmp_path, "vae --observations binary --resample", "images.npz")
    assert (seen["train"].resample, seen["valid"].resample) == (True, False)


# ------------------------------------------------------------------------------------------------------------ evaluate


@pytest.mark.parametrize("name", ["gmm", "gaussian", "ppca", "fa", "ppca-mixture", "bernoulli-mixture"])
def test_exact_likelihoods_are_those_of_the_model_in_the_space_of_the_data(name, fitted, folder, tmp_path, capsys):
    test, model = held_out(folder, name), model_file.load(fitted(name))
    expected = model.log_prob(test).detach() + test.log_abs_det
    found = result_of(fitted(name), tmp_path, capsys)
    assert (found["how"], found["split"], found["num_data"]) == ("exact", "test", 12)
    assert found["values"]["log_likelihood"] == pytest.approx(expected.mean().item(), rel=1e-12)
    assert found["standard_errors"]["log_likelihood"] == pytest.approx(expected.std().item() / 12**0.5, rel=1e-12)


@pytest.mark.parametrize("name", ["vae", "conv", "resampled", "grey"])
def test_bounds_are_those_of_importance_sampling(name, fitted, folder, tmp_path, capsys):
    test, model = held_out(folder, name), model_file.load(fitted(name))
    likelihood = evaluate.log_likelihood(model, test, 30, seed=3)
    expected = (likelihood.values.double() + test.log_abs_det).mean().item()
    found = result_of(fitted(name), tmp_path, capsys, "--particles", 30, "--seed", 3)
    assert (found["how"], found["num_particles"], found["conditional"]) == ("bound", 30, name == "conv")
    assert found["values"]["log_likelihood"] == pytest.approx(expected, rel=1e-5)  # float32 at another rounding of x
    assert found["values"]["k_hat_share"] == pytest.approx(likelihood.k_hat_share)
    terms = found["values"]
    assert terms["elbo"] == pytest.approx(terms["reconstruction"] - terms["kl"], rel=1e-12)
    report = evaluate.latent_report(evaluate.encode(model, test))
    assert terms["num_active"] == report.num_active
    assert found["kl_per_unit"] == pytest.approx(report.kl.tolist(), rel=1e-4)


def test_bits_per_dimension_of_integers_are_their_own(fitted, tmp_path, capsys):
    values = result_of(fitted("conv"), tmp_path, capsys, "--particles", 5)["values"]
    assert values["bits_per_dim"] == pytest.approx(-values["log_likelihood"] / (SIDE**2 * math.log(2)))


def test_the_table_says_what_each_number_is(fitted, capsys):
    out = run(capsys, "evaluate", fitted("conv"), "--particles", 100, "--quiet")
    assert out.startswith("conv: VAE, 12 test data, images.npz, integers v as v/255\n")
    for said in (
        r"log p\(x\|y\), nats \(bound, 100 particles\) +-[\d,.]+ +\d+\.\d{4}\n",
        r"bits per dimension +\d+\.\d{4}\n",
        r"ELBO, nats +-",
        r"KL\(q ‖ prior\), nats +\d",
        r"share of data with Pareto k̂ > 0\.50 +\d+\.\d\d%\n",
        r"active units of 2 +\d\n",
        r"of its s.e., by particles +(\d\.\d{4}|k̂)\n",
        r"parameters of p\(x\) +[\d,]+\n",
        r"\nA lower bound of log p\(x\|y\) in expectation, by 100 importance weights a datum\.$",
    ):
        assert re.search(said, out), said
    exact = run(capsys, "evaluate", fitted("ppca"), "--quiet")
    assert re.search(r"log p\(x\), nats \(exact\) +-\d+\.\d{4} +\d+\.\d{4}\n", exact)
    assert "Pareto" not in exact
    assert "bits" not in exact  # of a table, which has no levels


def test_floors_are_told_of(fitted, folder, tmp_path, capsys):
    found = result_of(fitted("gmm"), tmp_path, capsys)
    report = evaluate.degeneracy_report(model_file.load(fitted("gmm")), held_out(folder, "gmm"))
    assert found["values"]["share_of_dimensions_at_floor"] == report.share_of_dimensions
    assert found["values"]["change_under_higher_floor"] == pytest.approx(report.change)
    assert found["standard_errors"]["change_under_higher_floor"] == pytest.approx(report.change_standard_error)
    assert not any("floor" in key for key in result_of(fitted("bernoulli-mixture"), tmp_path, capsys)["values"])


def test_a_bound_by_annealing_and_the_gaps_below_it(fitted, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(annealed, "PILOT_TRANSITIONS", 1)
    monkeypatch.setattr(annealed, "PILOT_WARM_UP", 1)
    monkeypatch.setattr(
        evaluate, "elbo_gap", functools.partial(evaluate.elbo_gap, search=evaluate.SearchOptions(max_steps=20))
    )
    words = ["--method", "ais", "--chains", 3, "--temperatures", 5, "--seed", 1, "--gaps", "diag"]
    found = result_of(fitted("vae"), tmp_path, capsys, *words)
    model, test = model_file.load(fitted("vae")), held_out(folder, "vae")
    estimate = evaluate.ais(model, test, evaluate.AISOptions(num_chains=3, num_temperatures=5), seed=1)
    gap = evaluate.elbo_gap(model, test, "diag", log_prob=estimate, seed=1)
    values = found["values"]
    assert values["log_likelihood"] == pytest.approx((estimate.values + test.log_abs_det).mean().item())
    assert values["approximation_gap"] == pytest.approx(gap.approximation_gap.mean().item(), rel=1e-3)
    assert values["amortization_gap"] == pytest.approx(gap.amortization_gap.mean().item(), rel=1e-3)
    assert (
        found["meaning"] == "A lower bound of log p(x) in expectation, by 3 annealed chains of 5 temperatures a datum."
    )
    assert {"log_likelihood", "approximation_gap", "amortization_gap"} <= set(found["standard_errors"])


@pytest.mark.parametrize("name", ["gmm", "gaussian", "ppca", "fa", "ppca-mixture", "bernoulli-mixture", "vae"])
def test_everything_that_one_command_prints_is_in_one_space(name, fitted, monkeypatch, capsys):
    """The ledger begins at the headline, and its gaps are the figures, sign and all; whatever the model."""
    monkeypatch.setattr(
        evaluate, "elbo_gap", functools.partial(evaluate.elbo_gap, search=evaluate.SearchOptions(max_steps=5))
    )
    out = run(capsys, "evaluate", fitted(name), "--gaps", "diag", "--particles", 50, "--quiet")
    table, ledger = (numbers_in(part) for part in out.split("\nELBO gap, "))
    headline = next(value for meaning, value in table.items() if meaning.startswith("log p(x), nats"))
    assert ledger["log p(x)"] == pytest.approx(headline, abs=2e-4)
    assert ledger["− approximation gap"] == table["approximation gap, diag q, nats"]
    assert ledger["− amortization gap"] == table["amortization gap, nats"]
    gap = table["approximation gap, diag q, nats"] + table["amortization gap, nats"]
    assert ledger["= ELBO"] == pytest.approx(headline - gap, abs=3e-4)
    if name not in ("fa", "vae"):  # whose q is the posterior
        assert table["ELBO, nats"] == pytest.approx(ledger["= ELBO"], abs=2e-4)


def numbers_in(text):
    """The first number of every line, by what stands before it."""
    found = re.findall(r"^(\S.*?) {2,}(-?[\d,]+\.\d+)", text, re.MULTILINE)
    return {name: float(value.replace(",", "")) for name, value in found}


def test_a_headline_below_its_own_best_elbo_is_called_too_low(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(annealed, "PILOT_TRANSITIONS", 1)
    monkeypatch.setattr(annealed, "PILOT_WARM_UP", 1)
    sizes = ["--latent-dim", 2, "--hidden", 8, "--epochs", 60, "--batch-size", 12]
    words = ["vae", folder / "table.csv", *sizes, "--lr", 0.01, "--scale", 0.2, "--quiet"]
    run(capsys, "fit", *words, "--out", tmp_path / "sharp.pt")
    words = ["--method", "ais", "--chains", 2, "--temperatures", 1, "--gaps", "diag", "--quiet"]
    out = run(capsys, "evaluate", tmp_path / "sharp.pt", *words)
    assert re.search(
        r"\nlog p\(x\) as given lies \d+\.\d{3} nats below the ELBO of the best diag q, a lower bound", out
    )
    assert re.search(
        r"\nThe bound lies \d+\.\d{3} nats below the ELBO, which is a lower bound too; take more temp", out
    )
    assert re.search(r"share of data with Pareto k̂ > 0\.00 +not available\n", out)
    assert "nan" not in out


def test_what_z_holds(fitted, folder, tmp_path, capsys):
    values = result_of(fitted("vae"), tmp_path, capsys, "--latents", "--seed", 2)["values"]
    model = model_file.load(fitted("vae"))
    information = evaluate.latent_information(model, held_out(folder, "vae"), seed=2)
    collapse = evaluate.collapse_report(model, held_out(folder, "vae", "train"))
    assert values["mutual_information"] == pytest.approx(information.mutual_information, rel=1e-4)
    assert values["marginal_kl"] == pytest.approx(information.marginal_kl, rel=1e-4)
    assert values["linear_num_active"] == collapse.linear.num_active
    discrete = result_of(fitted("gmm"), tmp_path, capsys, "--latents")["values"]
    assert discrete["mutual_information"] > 0
    assert "linear_num_active" not in discrete


@pytest.mark.usefixtures("all_pictures")
@pytest.mark.parametrize("name", ["vae", "conv"])
def test_the_report_names_and_shows_the_worst_data(name, folder, fitted, tmp_path, capsys):
    found = result_of(fitted(name), tmp_path, capsys, "--particles", 50)
    page = (tmp_path / "result.html").read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>")
    assert len(found["worst_k_hat"]) == 10
    named, worst = r'alt="datum (\d+)"', found["worst_k_hat"]
    if name == "vae":  # of a table, whose rows have numbers
        named, worst = r'<th scope="row">row (\d+) of the file</th>', held_out(folder, name).rows[worst].tolist()
    assert [int(number) for number in re.findall(named, page)] == worst
    assert page.count("data:image/png") == 3 + 10 * (name == "conv")


def test_parts_of_the_data_are_told_apart(fitted, folder, tmp_path, capsys):
    model = model_file.load(fitted("ppca"))
    for split in ("train", "valid"):
        part = held_out(folder, "ppca", split)
        expected = (model.log_prob(part) + part.log_abs_det).mean().item()
        found = result_of(fitted("ppca"), tmp_path, capsys, "--split", split)
        assert found["values"]["log_likelihood"] == pytest.approx(expected, rel=1e-12)


def test_a_file_of_data_may_move(fitted, folder, tmp_path, capsys):
    (tmp_path / "table.csv").write_bytes((folder / "table.csv").read_bytes())
    moved = result_of(fitted("ppca"), tmp_path, capsys)
    (tmp_path / "result.json").unlink()
    found = tmp_path / "result.json"
    run(capsys, "evaluate", fitted("ppca"), tmp_path / "table.csv", "--quiet", "--out", found)
    assert json.loads(found.read_text()) == moved


def test_a_new_process_gives_the_same_result_to_the_last_bit(fitted, tmp_path, capsys):
    here = result_of(fitted("vae"), tmp_path, capsys, "--particles", 20)
    there = tmp_path / "there.json"
    words = ["evaluate", str(fitted("vae")), "--particles", "20", "--quiet", "--out", str(there)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-m", "pyrovae", *words], capture_output=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert json.loads(there.read_text(encoding="utf-8")) == here


# -------------------------------------------------------------------------------------------------------------- sample


def arrays(path):
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


@pytest.mark.parametrize("name", FITS)
def test_samples_are_those_of_the_model_in_the_space_of_the_data(name, fitted, folder, tmp_path, capsys):
    model = model_file.load(fitted(name))
    transform = held_out(folder, name).space.transform
    shape = (1, SIDE, SIDE) if "images" in FITS[name][1] else (3,)
    for option, key, generate in (((), "samples", model.sample), (("--means",), "means", model.sample_means)):
        out = run(capsys, "sample", fitted(name), "--number", 7, "--seed", 5, *option, "--out", tmp_path / "x.npz")
        found = arrays(tmp_path / "x.npz")
        x, z = generate(7, seed=5)
        expected = transform.inv(x.double().flatten(1)).reshape(7, *shape)
        assert set(found) == {"pyrovae_space", key, "z"} | ({"labels"} if name == "conv" else set())
        np.testing.assert_allclose(found[key], expected.numpy(), rtol=1e-6, atol=1e-9)
        np.testing.assert_array_equal(found["z"], z.numpy())
        assert ("no samples" in out) == (key == "means")


def test_classes_are_taken_in_turn_or_as_asked(fitted, tmp_path, capsys):
    out = tmp_path / "x.npz"
    run(capsys, "sample", fitted("conv"), "--number", 5, "--out", out)
    assert arrays(out)["labels"].tolist() == [0, 1, 2, 0, 1]
    run(capsys, "sample", fitted("conv"), "--number", 4, "--label", 2, "--out", out)
    found = arrays(out)
    assert found["labels"].tolist() == [2, 2, 2, 2]
    x, _ = model_file.load(fitted("conv")).sample(4, labels=2, seed=0)
    np.testing.assert_allclose(found["samples"].reshape(4, -1), x.numpy().reshape(4, -1), rtol=1e-6)


@pytest.mark.parametrize(("option", "stem"), [([], "sample"), (["--means"], "mean")])
def test_a_table_names_what_it_holds(option, stem, fitted, tmp_path, capsys):
    out = tmp_path / "x.csv"
    run(capsys, "sample", fitted("gaussian"), "--number", 400, *option, "--out", out)
    table = pd.read_csv(out)
    assert list(table) == [f"pyrovae_{stem}", "a", "b", "c"]
    table = table.set_index(f"pyrovae_{stem}")
    if stem == "sample":
        fitted_to = model_file.load(fitted("gaussian")).covariances[0].diag().sqrt().detach().numpy()
        np.testing.assert_allclose(table.std(), fitted_to, rtol=5 / math.sqrt(2 * 400))  # five standard errors


def test_pictures_say_whether_they_are_means(fitted, tmp_path, capsys):
    from PIL import Image

    titles = {}
    for option in ((), ("--means",)):
        out = tmp_path / "x.png"
        run(capsys, "sample", fitted("grey"), "--number", 9, *option, "--out", out)
        with Image.open(out) as image:
            titles[option] = image.info["Title"]
            assert min(image.size) > 200
    assert "ancestral samples x ~ p(x|z)" in titles[()]
    assert "means E[x|z], not samples" in titles["--means",]


def test_a_picture_of_classes_has_a_column_for_each(fitted, tmp_path, capsys, monkeypatch):
    from pyrovae.scoreboard import generated

    rows = []
    original = generated.image_rows
    monkeypatch.setattr(generated, "image_rows", lambda given, *rest: rows.extend(given) or original(given, *rest))
    run(capsys, "sample", fitted("conv"), "--number", 7, "--out", tmp_path / "x.png")
    assert [len(row.x) for row in rows] == [3, 3, 1]


# ------------------------------------------------------------------------------------------- what cannot be done: fit


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("gmm --likelihood gaussian", "`--likelihood` must be left out for gmm, which takes `--components`"),
        ("gmm --conditional", "`--conditional` must be left out for gmm"),
        ("ppca --components 3", "`--components` must be left out for ppca"),
        ("ppca --epochs 3", "`--epochs` must be left out where ppca is fitted by closed-form, which takes `--beta`"),
        ("gmm --batch-size 3", "`--batch-size` must be left out where gmm is fitted by em, which takes `--restarts`"),
        ("ppca --restarts 3", "`--restarts` must be left out where ppca is fitted by closed-form"),
        ("vae --epochs 3 --steps 70", "`--steps` must be left out where `--epochs` is given, got 70 and 3; give one."),
        ("gmm --how svi --beta 3", "`--beta` must be left out where gmm is fitted by svi"),
        ("vae --how em", "`--how` must be one of svi for vae, got em"),
        ("gmm --how closed-form --components 2", "`--components` must be 1 for a closed form, got 2"),
        ("vae --particles 5", "`--particles` must be left out for `--objective` elbo"),
        ("vae --objective iw --beta 2", "`--beta` must be left out for `--objective` iw"),
        ("vae --objective dreg --warmup 2", "`--warmup` must be left out for `--objective` dreg"),
        ("ppca --latent-dim 3", r"`--latent-dim` must be a whole number from 0 to 2, got 3"),
        ("fa --latent-dim 3", r"`--latent-dim` must be a whole number from 0 to 2, got 3"),
        ("ppca-mixture --latent-dim 3", r"`--latent-dim` must be a whole number from 1 to 2, got 3"),
        ("gmm --components 37", "`--components` must be at most the number of training data, 36, got 37"),
        ("vae --network conv", '`--network` "conv" needs images'),
        ("vae --likelihood bernoulli", "`DATA` must be boolean for the bernoulli likelihood, got real values"),
        ("bernoulli-mixture", "`DATA` must be boolean for bernoulli-mixture, got real values"),
        ("vae --likelihood full-gaussian --scale shared", "`--scale` must be left out for the full-gaussian"),
        ("vae --likelihood continuous-bernoulli", "`DATA` must hold only values of the likelihood's support"),
        ("vae --resample", "`--resample` must be False unless observations='binary' binarizes grey values"),
        ("vae --observations integer", "`--observations` must not be 'integer' for 'table.csv'"),
        ("vae --device abacus", "`--device` must be a device of this machine, got 'abacus'"),
        ("vae --max-images 9", "`--max-images` must be None for .*, got 9"),
    ],
)
def test_what_cannot_be_fitted(words, message, folder, tmp_path, capsys):
    kind, *options = words.split()
    said = refused(capsys, "fit", kind, folder / "table.csv", *options, "--quiet", "--out", tmp_path / "model.pt")
    assert re.search(message, said)
    assert not os.listdir(tmp_path)


def test_conditional_without_labels(tmp_path, capsys):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(20, 3)))
    words = ["vae", tmp_path / "x.npy", "--conditional", "--out", tmp_path / "model.pt", "--quiet"]
    assert "`--conditional` needs labels, and x.npy has none" in refused(capsys, "fit", *words)


def test_integers_have_no_density(folder, tmp_path, capsys):
    words = ["gmm", folder / "images.npz", "--observations", "integer", "--out", tmp_path / "model.pt", "--quiet"]
    assert "`DATA` must be real for gmm, got integer values" in refused(capsys, "fit", *words)


def test_a_resampled_file_must_have_grey_values(tmp_path, capsys):
    np.save(tmp_path / "bits.npy", np.random.default_rng(0).integers(0, 2, size=(20, 3), dtype=np.uint8))
    words = ["vae", tmp_path / "bits.npy", "--resample", "--out", tmp_path / "model.pt", "--quiet"]
    assert "`--resample` must be False unless observations='binary'" in refused(capsys, "fit", *words)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("command", ["fit", "evaluate", "sample"])
def test_a_gpu_that_is_not_there(command, fitted, tmp_path, capsys):
    words = {
        "fit": ["ppca", "digits", "--out", tmp_path / "model.pt"],
        "evaluate": [fitted("ppca")],
        "sample": [fitted("ppca"), "--out", tmp_path / "x.csv"],
    }[command]
    said = refused(capsys, command, *words, "--device", "cuda", "--quiet")
    assert "`--device` must be a device of this machine, got 'cuda'" in said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--floor", "0"], "argument --floor: must be a positive number, got '0'"),
        (["--lr", "nan"], "argument --lr: must be a positive number, got 'nan'"),
        (["--scale", "per-dim"], "argument --scale: must be a positive number, got 'per-dim'"),
        (["--hidden", "2.5"], "argument --hidden: must be a whole number of at least 1"),
        (["--likelihood", "cauchy"], "argument --likelihood: invalid choice: 'cauchy'"),
        ([], "the following arguments are required: --out"),
    ],
)
def test_a_mistyped_option(options, message, tmp_path, capsys):
    out = ["--out", str(tmp_path / "model.pt")] if options else []
    with pytest.raises(SystemExit) as end:
        cli.main(["fit", "vae", "digits", *options, *out])
    assert end.value.code == 2
    assert message in capsys.readouterr().err


# ----------------------------------------------------------------------------- what cannot be done: evaluate and sample


class Malicious:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return open, (self.target, "w")


@pytest.mark.parametrize("command", ["evaluate", "sample"])
def test_a_file_that_is_no_model(command, tmp_path, capsys):
    touched, path, out = tmp_path / "touched", tmp_path / "model.pt", tmp_path / "x.csv"
    end = ["--out", out] if command == "sample" else []
    contents = {
        "code": {"format": model_file.FORMAT, "model": "PPCA", "config": {}, "state": Malicious(str(touched))},
        "weights": {"layer.weight": torch.zeros(2)},
        "sizes": {"format": model_file.FORMAT, "model": "PPCA", "config": {}, "state": {}},
    }
    for content in contents.values():
        torch.save(content, path)
        assert refused(capsys, command, path, "--quiet", *end).startswith("pyrovae: error: `FILE` ")
    assert os.listdir(tmp_path) == ["model.pt"]
    path.write_text("not at all")
    assert "`FILE` must be a file written by pyrovae.save" in refused(capsys, command, path, "--quiet", *end)
    path.unlink()
    assert "which is no file" in refused(capsys, command, path, "--quiet", *end)


@pytest.mark.parametrize("description", [None, {}, {"data": {}}, {"data": {"space": 3}}, [1]])
def test_a_model_that_does_not_say_where_it_comes_from(description, fitted, tmp_path, capsys):
    path = model_file.save(model_file.load(fitted("ppca")), tmp_path / "m.pt", description=description)
    for words in (["evaluate", path], ["score", path, "x.csv"], ["sample", path, "--out", tmp_path / "x.csv"]):
        said = refused(capsys, *words, "--quiet")
        assert "`FILE` must be a model that says which data it was fitted to" in said
    assert os.listdir(tmp_path) == ["m.pt"]


def test_other_columns_are_refused(fitted, folder, tmp_path, capsys):
    said = refused(capsys, "evaluate", fitted("ppca"), folder / "images.npz", "--quiet")
    assert "`DATA` must lead to data of the kind that the model was fitted to, 'table.csv, as given'" in said
    pd.read_csv(folder / "table.csv")[["a", "c"]].to_csv(tmp_path / "table.csv", index=False)
    said = refused(capsys, "evaluate", fitted("ppca"), tmp_path / "table.csv", "--quiet")
    assert re.search(r"`DATA` must have the columns that the model was fitted to, got .*table.csv' without 'b'", said)
    said = refused(capsys, "evaluate", fitted("ppca"), tmp_path / "nowhere" / "table.csv", "--quiet")
    assert "`DATA` must be a file that exists" in said


def test_other_rows_are_new_data_that_know_what_was_seen_in_training(fitted, folder, tmp_path, capsys):
    """All rows of a shorter file, the training data among them said; a part asked for of such a file is refused."""
    table = pd.read_csv(folder / "table.csv")[:-3]
    table[["c", "b", "a"]].to_csv(tmp_path / "other.csv", index=False)
    out = tmp_path / "result.json"
    said = run(capsys, "evaluate", fitted("ppca"), tmp_path / "other.csv", "--quiet", "--out", out)
    whole = data.load(folder / "table.csv", dtype=torch.float64)
    train = {tuple(row) for row in whole.train.x.tolist()}
    known = sum(tuple(row) in train for row in table[["a", "b", "c"]].to_numpy().tolist())
    assert f"{known} of the 57 rows are training data" in said
    model, space = model_file.load(fitted("ppca")), held_out(folder, "ppca").space
    x = torch.as_tensor(table[["a", "b", "c"]].to_numpy())
    rows = data.Observations(x, space=whole.train.space).in_space(space)
    expected = (model.log_prob(rows) + rows.log_abs_det).mean().item()
    found = json.loads(out.read_text(encoding="utf-8"))
    assert (found["split"], found["num_data"]) == ("new", 57)
    assert found["values"]["log_likelihood"] == pytest.approx(expected, rel=1e-12)
    said = refused(capsys, "evaluate", fitted("ppca"), tmp_path / "other.csv", "--split", "train", "--quiet")
    assert "`--split` must be left out for" in said


def test_the_same_data_under_another_name_are_split_as_they_were(fitted, folder, tmp_path, capsys):
    (tmp_path / "renamed.csv").write_bytes((folder / "table.csv").read_bytes())
    before = result_of(fitted("ppca"), tmp_path, capsys)
    out = tmp_path / "again.json"
    run(capsys, "evaluate", fitted("ppca"), tmp_path / "renamed.csv", "--quiet", "--out", out)
    assert json.loads(out.read_text(encoding="utf-8")) == before


def test_labels_must_be_classes_of_a_conditional_model(fitted, tmp_path, capsys):
    for name, message in (
        ("conv", "`--label` must be a class of the model, 0, …, 2, got 3"),
        ("vae", "`--label` must be left out for a model of p(x)"),
    ):
        said = refused(capsys, "sample", fitted(name), "--label", 3, "--quiet", "--out", tmp_path / "x.npz")
        assert message in said
    assert not os.listdir(tmp_path)


def test_only_images_are_pictures(fitted, tmp_path, capsys):
    said = refused(capsys, "sample", fitted("ppca"), "--out", tmp_path / "x.png")
    assert "`--out` must be a .npz or .csv file for data that are no images" in said
    assert not os.listdir(tmp_path)


# ----------------------------------------------------------------------------------------------------- where files go

OUT = {
    "fit": (["ppca", "table.csv", "--latent-dim", "1"], "model.pt"),
    "evaluate": (["ppca.pt"], "result.json"),
    "sample": (["conv.pt", "--number", "3"], "x.png"),
    "sample ": (["ppca.pt", "--number", "3"], "x.csv"),
    "sample  ": (["ppca.pt", "--number", "3"], "x.npz"),
    "score": (["ppca.pt", "table.csv"], "x.csv"),
    "score ": (["vae.pt", "table.csv", "--particles", "5"], "x.json"),
}


@pytest.mark.parametrize("command", OUT)
def test_earlier_output_is_replaced_and_no_other_file_is(command, fitted, folder, tmp_path, monkeypatch, capsys):
    fitted("ppca"), fitted("conv"), fitted("vae")
    monkeypatch.chdir(folder)
    words, name = OUT[command]
    out = tmp_path / name
    out.write_text("mine")
    arguments = [command.strip(), *words, "--quiet", "--out", out]
    assert "`--out` must be new or earlier output" in refused(capsys, *arguments)
    assert out.read_text() == "mine"
    out.unlink()
    run(capsys, *arguments)
    first = out.read_bytes()
    run(capsys, *arguments, "--seed", 1)
    assert len(first) > 10
    beside = ["result.html"] if command == "evaluate" else []
    assert sorted(os.listdir(tmp_path)) == [*beside, name]


def test_a_report_replaces_no_other_file(fitted, tmp_path, capsys):
    (tmp_path / "result.html").write_text("<p>mine</p>")
    said = refused(capsys, "evaluate", fitted("ppca"), "--quiet", "--out", tmp_path / "result.json")
    assert "`--out` must be new or earlier output, got" in said
    assert "result.html" in said
    assert os.listdir(tmp_path) == ["result.html"]


@pytest.mark.parametrize("command", OUT)
def test_a_file_goes_into_a_folder_that_exists(command, fitted, folder, tmp_path, monkeypatch, capsys):
    fitted("ppca"), fitted("conv"), fitted("vae")
    monkeypatch.chdir(folder)
    words, name = OUT[command]
    missing, directory = tmp_path / "nowhere" / name, tmp_path / name
    assert "there is no folder" in refused(capsys, command.strip(), *words, "--quiet", "--out", missing)
    directory.mkdir()
    assert "which is a folder" in refused(capsys, command.strip(), *words, "--quiet", "--out", directory)
    other = tmp_path / "other.txt"
    assert "`--out` must be a file with a name in" in refused(
        capsys, command.strip(), *words, "--quiet", "--out", other
    )
    assert os.listdir(tmp_path) == [name]


def test_nothing_is_left_of_a_fit_that_could_not_be_written(folder, tmp_path, monkeypatch, capsys):
    def full(content, file):
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    words = ["ppca", folder / "table.csv", "--latent-dim", 1, "--quiet", "--out", tmp_path / "model.pt"]
    assert "No space left on device" in refused(capsys, "fit", *words)
    assert not os.listdir(tmp_path)


# ---------------------------------------------------------------------------------------------------------- provenance


@pytest.mark.parametrize("transform", [None, "logit", "standardize"])
def test_a_provenance_brings_the_data_to_the_view_that_they_had(transform):
    digits = data.load("digits", transform=transform, dtype=torch.float64, seed=2)
    plain = json.loads(json.dumps(Provenance.of(digits, "digits", seed=2).to_plain()))
    again = Provenance.from_plain(plain).load()
    for part, before in zip(again, digits, strict=True):
        torch.testing.assert_close(part.x, before.x, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(part.log_abs_det, before.log_abs_det, rtol=1e-12, atol=1e-9)
        assert torch.equal(part.labels, before.labels)
        assert part.space == before.space


def test_a_transform_of_ones_own_has_no_provenance():
    digits = data.load("digits")
    own = data.DataSet("d", *(part.transformed(torch.distributions.ExpTransform(), "exp") for part in digits))
    with pytest.raises(ValueError, match=r"`space` must have a transform that data.load knows, got ExpTransform"):
        Provenance.of(own, "digits", seed=0).to_plain()
