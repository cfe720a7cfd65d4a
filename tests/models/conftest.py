"""Every test here starts from the same random state; those that run stock Pyro ask for a store of their own."""

from collections.abc import Iterator

import pyro
import pytest
import torch


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def stock_pyro() -> Iterator[None]:
    """Room for the parameters that Pyro itself registers; without it, a test fails that leaves any."""
    with pyro.get_param_store().scope():
        yield
