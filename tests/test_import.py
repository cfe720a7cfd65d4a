"""Importing pyrovae changes no global of torch, Pyro or Python; heavy libraries wait until they are used."""

import json
import subprocess
import sys

import pytest

CODE = """
import json, logging, random, sys, warnings
import numpy, pyro, torch

def world():
    loggers = {name: logging.getLogger(name) for name in ("", *logging.root.manager.loggerDict)}
    return {
        "default dtype": str(torch.get_default_dtype()),
        "default device": str(torch.get_default_device()),
        "torch random state": hash(bytes(torch.get_rng_state().tolist())),
        "numpy random state": hash(str(numpy.random.get_state(legacy=False)["state"]["key"].tolist())),
        "python random state": hash(random.getstate()),
        "gradients": torch.is_grad_enabled(),
        "threads": torch.get_num_threads(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "matmul precision": torch.get_float32_matmul_precision(),
        "CUDA initialised": torch.cuda.is_initialized(),
        "Pyro settings": {name: str(value) for name, value in pyro.settings.get().items()},
        "torch.distributions validation": torch.distributions.Distribution._validate_args,
        "param store": sorted(pyro.get_param_store().keys()),
        "warnings filters": [str(entry) for entry in warnings.filters],
        "logging level": logging.root.level,
        "logging handlers": {name: str(logger.handlers) for name, logger in loggers.items() if logger.handlers},
    }

before = world()
import pyrovae
print(json.dumps({"before": before, "after": world(), "modules": sorted(sys.modules)}))
"""


@pytest.fixture(scope="module")
def imported():
    done = subprocess.run([sys.executable, "-c", CODE], check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def test_import_changes_no_global(imported):
    assert imported["after"] == imported["before"]


@pytest.mark.parametrize("module", ["matplotlib.pyplot", "arviz", "sklearn", "pandas", "torchvision", "IPython"])
def test_import_leaves_heavy_libraries_for_later(imported, module):
    assert module not in imported["modules"]
