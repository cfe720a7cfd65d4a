"""Tune a VAE of the digits with Optuna: its sizes, its likelihood, its learning rate and its batches.

    python docs/examples/tune.py --trials 50 --study digits.db

The ELBO on validation data is what is maximised, trials that lag behind are pruned, and the study is a file: the same
command goes on where it was stopped.  The first trial is what pyrovae does by default.  docs/how_to/tune.md says why.

Reference:
    Akiba et al. (2019), Optuna: a next-generation hyperparameter optimization framework.
"""

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import Trial, TrialState

from pyrovae import VAE, Gaussian, GaussianMixture, data, evaluate, fit

DEFAULT = {"latent_dim": 8, "scale": "decoder", "num_layers": 2, "width": 256, "lr": 3e-3, "batch_size": 64}
STEPS = 1700  # of every trial, as many as the default takes on these data
REPORTS = 10  # times in a trial that it may be pruned


def suggested(trial: Trial) -> dict[str, Any]:
    """The parameters of a trial: the space that is searched."""
    return {
        "latent_dim": trial.suggest_int("latent_dim", 2, 32, log=True),
        "scale": trial.suggest_categorical("scale", ["shared", "per_dim", "decoder"]),
        "num_layers": trial.suggest_int("num_layers", 1, 3),
        "width": trial.suggest_int("width", 64, 512, log=True),
        "lr": trial.suggest_float("lr", 3e-4, 1e-2, log=True),
        "batch_size": trial.suggest_categorical("batch_size", [32, 64, 128, 256]),
    }


def fitted(parameters: dict[str, Any], digits: data.DataSet, steps: int, trial: Trial | None = None) -> fit.FitResult:
    """The fit with these parameters; one that is given a trial may be pruned."""
    vae = VAE(
        parameters["latent_dim"],
        digits.train.data_shape,
        Gaussian(parameters["scale"]),
        hidden=[parameters["width"]] * parameters["num_layers"],
    )
    num_epochs = math.ceil(steps / math.ceil(len(digits.train) / parameters["batch_size"]))
    options = {name: parameters[name] for name in ("lr", "batch_size")}
    callback = None if trial is None else pruner(trial, digits.valid, num_epochs)
    return fit.svi(vae, digits.train, valid=digits.valid, num_steps=steps, callback=callback, **options)


def pruner(trial: Trial, valid: data.Observations, num_epochs: int) -> Callable[[int, VAE], None]:
    """Reports the ELBO after each tenth of a fit, and ends it there if other trials were better by then.

    Tenths, not epochs: an epoch of small batches has more steps.
    """

    def report(epoch: int, model: VAE) -> None:
        tenth = epoch * REPORTS // num_epochs
        if tenth > (epoch - 1) * REPORTS // num_epochs:
            trial.report(evaluate.elbo(model, valid, 10).mean().item(), tenth)
            if trial.should_prune():
                raise optuna.TrialPruned

    return report


def study_of(file: Path) -> optuna.Study:
    """The study in a file, as far as it has come, or a new one whose first trial is the default."""
    study = optuna.create_study(
        storage=f"sqlite:///{file}",
        study_name="digits",
        direction="maximize",
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=2),
    )
    study.sampler = optuna.samplers.TPESampler(seed=len(study.trials))  # so that going on draws new parameters
    if not study.trials:
        study.enqueue_trial(DEFAULT)
    return study


def tune(study: optuna.Study, digits: data.DataSet, num_trials: int, steps: int = STEPS) -> None:
    """Run trials until the study has so many."""
    missing = num_trials - sum(trial.state.is_finished() for trial in study.trials)
    if missing > 0:
        study.optimize(
            lambda trial: fitted(suggested(trial), digits, steps, trial).elbo,
            n_trials=missing,
            catch=fit.DivergenceError,
        )


def report(study: optuna.Study, digits: data.DataSet, steps: int) -> None:
    """The best trial beside the default and beside one Gaussian; the test data are looked at here alone."""
    pruned = sum(trial.state == TrialState.PRUNED for trial in study.trials)
    print(f"{len(study.trials)} trials, {pruned} of them pruned; the best: {study.best_params}")
    print(f"ELBO on validation data: {study.best_value:.2f}, the default's {study.trials[0].value:.2f}")
    gaussian = GaussianMixture(1, digits.train.data_shape)
    models = {
        "best": fitted(study.best_params, digits, steps).model,
        "default": fitted(DEFAULT, digits, steps).model,
        "one Gaussian": fit.closed_form(gaussian, digits.train).model,
    }
    for name, model in models.items():
        print(f"log p of test data, {name}: {evaluate.log_likelihood(model, digits.test).mean:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=50, help="of the study in all, those made before included")
    parser.add_argument("--study", type=Path, default=Path("digits.db"), metavar="FILE", help="made if it is not there")
    parser.add_argument("--steps", type=int, default=STEPS, help="of every trial")
    options = parser.parse_args()
    digits, study = data.load("digits"), study_of(options.study)
    tune(study, digits, options.trials, options.steps)
    report(study, digits, options.steps)


if __name__ == "__main__":
    main()
