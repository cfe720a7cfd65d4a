"""EM in several processes gives the fit of one."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pyrovae import PPCA, Execution, fit
from pyrovae.engine.processes import ProcessGroup

SCRIPT = Path(__file__).with_name("distributed_fit.py")


@pytest.fixture(scope="module")
def alone():
    specification = importlib.util.spec_from_file_location("distributed_fit", SCRIPT)
    script = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(script)
    return script.fits(distributed=False)


@pytest.mark.filterwarnings("ignore::pyrovae.fit.FitWarning")
@pytest.mark.parametrize("number", [2, 4])
def test_processes_give_the_fit_of_one(number, alone, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={number}"]
    run = subprocess.run(
        [*command, str(SCRIPT), str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert run.returncode == 0, run.stderr
    for rank in range(number):
        result = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert result.keys() == alone.keys()
        for name, expected in alone.items():
            for key, value in expected.items():
                message = f"{name}, {key}, process {rank}"
                torch.testing.assert_close(result[name][key], value, rtol=1e-8, atol=1e-8, msg=message)


def test_processes_that_nobody_started_are_refused():
    message = r"`distributed` needs an initialised process group, got none; run under torchrun"
    with pytest.raises(ValueError, match=message):
        fit.em(PPCA(1, 3), torch.zeros(5, 3), execution=Execution(distributed=True))


def test_there_is_a_datum_for_every_process():
    with pytest.raises(ValueError, match=r"`data` must hold at least one datum for each of 4 processes, got 3"):
        fit.sources.open_source(PPCA(1, 3), torch.zeros(3, 3), group=ProcessGroup(0, 4))
