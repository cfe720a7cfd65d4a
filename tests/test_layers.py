"""The layers: imports go down only, and `fit` and `evaluate` know neither each other nor a concrete model."""

import ast
from collections.abc import Iterator
from importlib.util import resolve_name
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "pyrovae"
FILES = sorted(PACKAGE.rglob("*.py"))
LEVEL = {
    "engine": 0,
    "data": 1,
    "models": 2,
    "fit": 3,
    "evaluate": 3,
    "plots": 4,
    "io": 4,
    "scoreboard": 5,
    "sklearn": 5,
    "__init__": 5.5,  # the public face, which re-exports the levels below; only the command stands above it
    "cli": 6,
    "__main__": 7,
}
CONCRETE = {"GaussianMixture", "PPCA", "VAE"}
CONCRETE_MODULES = {"pyrovae.models.gmm", "pyrovae.models.ppca", "pyrovae.models.vae"}


def module_name(path: Path) -> str:
    return ".".join(("pyrovae", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")


def imported(source: str, package: str) -> Iterator[str]:
    """Every pyrovae module or name that the code imports when it runs, dotted and absolute, wherever it does."""
    tree = ast.parse(source)
    for_types = [n for n in ast.walk(tree) if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"]
    skipped = {inner for block in for_types for inner in ast.walk(block)}
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), package)
            names = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] == "pyrovae")


def unit(name: str) -> str:
    """The row of the table for a dotted name: what `pyrovae` itself re-exports belongs to its `__init__`."""
    child = name.partition(".")[2].partition(".")[0]
    inside = child and ((PACKAGE / child).is_dir() or (PACKAGE / f"{child}.py").is_file())
    return child if inside else "__init__"


def imports_of(path: Path) -> set[str]:
    name = module_name(path)
    return set(imported(path.read_text(), name if path.stem == "__init__" else name.rpartition(".")[0]))


def goes_down(upper: str, lower: str) -> bool:
    return upper == lower or LEVEL[lower] < LEVEL[upper]


def names_concrete_model(source: str, package: str) -> bool:
    """Whether real code, docstrings and comments aside, names one of the models."""
    names: set[object] = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.alias(name=name) | ast.Constant(value=name):
                names.add(name)
    modules = {".".join(name.split(".")[:3]) for name in imported(source, package)}
    return bool(names & CONCRETE or modules & CONCRETE_MODULES)


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_imports_go_down(path):
    upper = unit(module_name(path))
    assert upper in LEVEL, f"pyrovae/{upper} has no level yet: place it in the table LEVEL of tests/test_layers.py"
    if upper == "__init__":
        return
    upward = {name for name in imports_of(path) if not goes_down(upper, unit(name))}
    assert not upward, f"{module_name(path)} (level {LEVEL[upper]}) imports {sorted(upward)}; imports go down only"


@pytest.mark.parametrize("folder", ["fit", "evaluate"])
def test_fit_and_evaluate_name_no_concrete_model(folder):
    files = (PACKAGE / folder).rglob("*.py")
    assert not [path.name for path in files if names_concrete_model(path.read_text(), f"pyrovae.{folder}")]


def test_no_module_knows_where_this_project_keeps_its_data():
    assert not [path.name for path in FILES if "../shared" in path.read_text()]


@pytest.mark.parametrize(
    ("upper", "source", "allowed"),
    [
        ("fit", "from pyrovae.evaluate import elbo", False),
        ("fit", "def f():\n    from .. import evaluate", False),
        ("fit", "from pyrovae import VAE", False),
        ("fit", "import pyrovae", False),
        ("fit", "from pyrovae import data", True),
        ("fit", "from . import em", True),
        ("fit", "import pyro", True),
        ("data", "from pyrovae.models import base", False),
        ("cli", "from pyrovae import VAE", True),
    ],
)
def test_the_rule_itself(upper, source, allowed):
    package = "pyrovae" if upper == "cli" else f"pyrovae.{upper}"
    assert all(goes_down(upper, unit(name)) for name in imported(source, package)) == allowed


@pytest.mark.parametrize(
    ("source", "named"),
    [
        ("from pyrovae.models import PPCA", True),
        ("from pyrovae.models.vae import Anything", True),
        ("isinstance(model, models.VAE)", True),
        ("type(model).__name__ == 'VAE'", True),
        ('"""A VAE, say."""\nfrom pyrovae.models.base import LatentVariableModel', False),
    ],
)
def test_the_rule_on_names(source, named):
    assert names_concrete_model(source, "pyrovae.fit") == named
