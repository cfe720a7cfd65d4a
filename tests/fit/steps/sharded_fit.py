"""Run by torchrun in test_sharded.py: the fits of this process, written to a file of its own."""

import os
import sys
import warnings
from pathlib import Path

import pyro.distributions as dist
import torch
from torch import nn

from pyrovae import VAE, AISOptions, Bernoulli, Execution, evaluate, fit
from pyrovae.data import Observations

D, N = 6, 90  # a dozen steps of batches of 32, 32 and 26


class WithRunningMeans(nn.Module):
    """A decoder whose layers keep a record of the data that they have seen."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Linear(8, D))

    def forward(self, z):
        return dist.Bernoulli(logits=self.body(z)).to_event(1)


def vae():
    return VAE(2, D, Bernoulli(), hidden=(8,))


def vae_with_running_means():
    return VAE(2, D, encoder=vae().encoder, decoder=WithRunningMeans())


CASES = {
    "interpreted": (vae, None, {"compile": False}),
    "graph": (vae, None, {"compile": "graph"}),
    "three shards": (vae, None, {"num_shards": 3, "compile": False}),
    "schedule of its own": (vae, fit.BetaELBO(fit.LinearWarmup(8)), {"compile": "graph"}),
    "running means": (vae_with_running_means, None, {"compile": "graph"}),
}
STARTS = {"graph": {"num_restarts": 3}, "three shards": {"num_epochs": None, "num_steps": 5}}


def grey():
    """Probabilities, of which every batch is a fresh sample."""
    return (
        torch.rand(N, D, generator=torch.Generator().manual_seed(0))
        * torch.tensor([1.0, 0.2])[torch.arange(N) % 2, None]
    )


def fits(distributed):
    """Parameters and traces of every case."""
    result = {}
    for name, (build, elbo, how) in CASES.items():
        with torch.random.fork_rng():
            torch.manual_seed(0 if not distributed else int(os.environ["RANK"]))  # nobody's state is to matter
            start = build()
        options = {"elbo": elbo, "num_epochs": 4, "batch_size": 32, "lr": 0.01, **STARTS.get(name, {})}
        execution = Execution(**{"num_shards": 2, "distributed": distributed, **how})
        valid = (grey()[:40] > 0.3).float()
        data = Observations(grey(), resample=True)
        fitted = fit.svi(start, data, valid=valid, **options, execution=execution)
        result[name] = {**fitted.model.state_dict(), "trace": fitted.trace, "valid": fitted.valid_trace}
        result[name] |= {"starts": torch.tensor(fitted.restarts)}
    return result


def evaluations(distributed):
    """What is said of the same data, in more blocks than there are processes, and in fewer."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model, x = vae(), grey().round()
    execution, options = Execution(distributed=distributed), AISOptions(num_temperatures=5, num_chains=4)
    found = [evaluate.log_likelihood(model, x, num, execution=execution) for num in (2**11, 10)]
    found.append(evaluate.ais(model, x, options, execution=execution))
    names = ("values", "standard_error", "ess", "k_hat")
    results = [{name: getattr(each, name) for name in names} for each in found]
    results.append({"weights": evaluate.log_weights(model, x, 2**11, execution=execution)})
    results.append(vars(evaluate.elbo_terms(model, x, 2**11, execution=execution)))
    both = evaluate.sandwich(model, 5, options, execution=execution)
    results.append({"lower": both.lower.values, "upper": both.upper.values})
    return results


def error_of_all():
    """What each process raises where only the first meets a loss that is not finite."""

    class Diverging(WithRunningMeans):
        def forward(self, z):
            off = float("nan") if os.environ["RANK"] == "0" else 0.0
            return dist.Bernoulli(logits=self.body(z) + off, validate_args=False).to_event(1)

    try:
        model = VAE(2, D, encoder=vae().encoder, decoder=Diverging())
        fit.svi(model, grey().round(), num_epochs=1, execution=Execution(distributed=True))
    except fit.DivergenceError as error:
        return str(error)


if __name__ == "__main__":
    torch.distributed.init_process_group("gloo")
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", "Encountered NaN")  # which Pyro says before the loss is looked at
    found = {"fits": fits(distributed=True), "evaluations": evaluations(distributed=True), "error": error_of_all()}
    torch.save(found, Path(sys.argv[1]) / f"{os.environ['RANK']}.pt")
    torch.distributed.destroy_process_group()
