"""Batches in shards: in one process or in several they give the same fit; and data in blocks the same values."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pyrovae import VAE, Execution, GaussianMixture, fit
from pyrovae.engine.processes import ProcessGroup
from pyrovae.fit.steps.sharded import Shards

SCRIPT = Path(__file__).with_name("sharded_fit.py")


@pytest.fixture(scope="module")
def script():
    specification = importlib.util.spec_from_file_location("parallel_fit", SCRIPT)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def group(tmp_path_factory):
    """What two processes found."""
    folder = tmp_path_factory.mktemp("processes")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    run = subprocess.run(
        [*command, str(SCRIPT), str(folder)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert run.returncode == 0, run.stderr
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def test_two_processes_give_the_fit_of_one(script, group):
    alone = script.fits(distributed=False)
    for rank, found in enumerate(group):
        assert found["fits"].keys() == alone.keys()
        for name, expected in alone.items():
            for key, value in expected.items():
                message = f"{name}, {key}, process {rank}"
                torch.testing.assert_close(found["fits"][name][key], value, rtol=1e-5, atol=1e-6, msg=message)


def test_two_processes_give_the_values_of_one(script, group):
    alone = script.evaluations(distributed=False)
    for found in group:
        for expected, each in zip(alone, found["evaluations"], strict=True):
            for name, value in expected.items():
                torch.testing.assert_close(each[name], value, rtol=1e-5, atol=1e-6, equal_nan=True, msg=name)


def test_a_loss_that_is_not_finite_in_one_process_ends_all(group):
    for found in group:
        assert found["error"].startswith("the loss is not finite at step 1: ")


def test_without_draws_any_number_of_shards_gives_one_fit():
    x = torch.randn(50, 3, dtype=torch.float64)
    options = {"num_epochs": 3, "batch_size": 16, "lr": 0.01, "schedule": "constant"}
    one, *others = (
        fit.svi(GaussianMixture(2, 3, floor=0.01), x, **options, execution=Execution(num_shards=n)) for n in (1, 2, 5)
    )
    for other in others:
        torch.testing.assert_close(other.trace, one.trace, rtol=1e-9, atol=0)


def test_each_part_of_each_batch_has_draws_of_its_own():
    index = torch.arange(7)
    noise = []

    def draw(part):
        noise.append(torch.rand(3))
        return [noise[-1].sum()]

    state = torch.get_rng_state()
    shards = Shards(3, ProcessGroup(), seed=0)
    means = [shards.mean(draw, index, [torch.zeros(())])[0] for _ in range(2)]
    assert torch.equal(torch.get_rng_state(), state)
    assert len(torch.stack(noise).unique()) == 18
    torch.testing.assert_close(means[0], (3 * noise[0].sum() + 2 * noise[1].sum() + 2 * noise[2].sum()) / 7)
    here = [Shards(3, ProcessGroup(rank, 2), seed=0) for rank in range(2)]
    parts = [each.mean(draw, index, [torch.zeros(())])[0] for each in here]
    torch.testing.assert_close(sum(parts), means[0])  # the same draws, wherever a part is


def test_what_parts_change_is_averaged():
    average, count, limit = torch.ones(2), torch.tensor(4), torch.tensor(torch.inf)

    def update(part):
        average.mul_(0.5).add_(part.float().mean())
        count.add_(1)
        return [part.float().mean()]

    shards = Shards(3, ProcessGroup(), 0, [average, count, limit])
    mean = shards.mean(update, torch.arange(6), [torch.zeros(())])[0]
    assert (mean, count, limit) == (2.5, 5, torch.inf)
    torch.testing.assert_close(average, torch.full((2,), 3.0))


def test_a_part_may_be_empty():
    parts = [Shards(4, ProcessGroup(rank, 2), 0).own(torch.arange(3)) for rank in range(2)]
    assert [[(number, part.tolist()) for number, part in own] for own in parts] == [[(0, [0]), (2, [2])], [(1, [1])]]


def test_a_batch_has_data_for_every_shard():
    message = r"`num_shards` must be from 1, the number of processes, to `batch_size` = 8, got 9\."
    with pytest.raises(ValueError, match=message):
        fit.svi(VAE(1, 3), torch.zeros(5, 3), batch_size=8, execution=Execution(num_shards=9))


def test_processes_that_nobody_started_are_refused():
    with pytest.raises(ValueError, match=r"`distributed` needs an initialised process group, got none; run under"):
        fit.svi(VAE(1, 3), torch.zeros(5, 3), execution=Execution(distributed=True))
