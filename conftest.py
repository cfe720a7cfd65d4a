"""What tests and doctests share: the folder of real data, the seed, and the check that each leaves the world alone."""

import os
from collections.abc import Iterator
from pathlib import Path

import pyro
import pytest
import torch


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of real data; tests that need it are skipped where there is none."""
    if not (folder := os.environ.get("PYROVAE_DATA")):
        pytest.skip("PYROVAE_DATA is not set; point it at the folder with the real data")
    assert Path(folder).is_dir(), f"PYROVAE_DATA names {folder}, which is not a folder"
    return Path(folder)


@pytest.fixture(autouse=True)
def world_unchanged() -> Iterator[None]:
    """Fail a test that leaves another default dtype, or anything in Pyro's global param store."""
    yield
    dtype, sites = torch.get_default_dtype(), sorted(pyro.get_param_store().keys())
    torch.set_default_dtype(torch.float32)
    pyro.clear_param_store()  # the next test is not to blame
    assert dtype is torch.float32, f"the test left {dtype} as the default dtype"
    assert not sites, f"the test left {sites} in the param store; work inside pyro.get_param_store().scope()"


def seed() -> None:
    torch.manual_seed(int(os.environ.get("PYROVAE_TEST_SEED", "0")))


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    """Every test starts from the same random state; PYROVAE_TEST_SEED chooses another."""
    seed()


def pytest_fixture_setup(fixturedef: pytest.FixtureDef[object]) -> None:
    """So does what several tests share, whatever ran before it."""
    if fixturedef.scope != "function":
        seed()


@pytest.fixture
def stock_pyro() -> Iterator[None]:
    """Room for the parameters that Pyro itself registers; without it, a test fails that leaves any."""
    with pyro.get_param_store().scope():
        yield
