"""The layers: imports go down only, in no circle; `fit` and `evaluate` know neither each other nor a concrete model.

An import counts wherever it stands: in a function, and for types only, too.
"""

import ast
import inspect
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from importlib.util import resolve_name
from pathlib import Path

import pytest

from pyrovae import models

PACKAGE = Path(__file__).parents[1] / "pyrovae"
FILES = sorted(PACKAGE.rglob("*.py"))
LOOSE = {"__init__.py", "__main__.py", "py.typed"}
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


def concrete_models() -> set[type]:
    """Every model that `pyrovae.models` exports and that can be built."""
    return {
        each
        for each in vars(models).values()
        if inspect.isclass(each)
        and issubclass(each, models.LatentVariableModel)
        and each is not models.LatentVariableModel
        and not inspect.isabstract(each)
    }


CONCRETE = {model.__name__ for model in concrete_models()}
CONCRETE_MODULES = {model.__module__ for model in concrete_models()}


def module_name(path: Path) -> str:
    return ".".join(("pyrovae", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")


MODULES = {module_name(path): path for path in FILES}


def import_statements(tree: ast.AST, package: str) -> Iterator[tuple[str, str]]:
    """The dotted, absolute name of every import of pyrovae, and the name that it gets; those by a string included."""
    for node in ast.walk(tree):
        names: list[tuple[str, str]] = []
        match node:
            case ast.Import():
                names = [(alias.name, alias.asname or alias.name) for alias in node.names]
            case ast.ImportFrom():
                base = resolve_name("." * node.level + (node.module or ""), package)
                names = [(f"{base}.{alias.name}", alias.asname or alias.name) for alias in node.names]
            case ast.Call(func=ast.Attribute(attr="import_module"), args=[ast.Constant(value=str(name))]):
                names = [(name, "")]
        yield from (each for each in names if each[0].split(".")[0] == "pyrovae")


def imported(source: str, package: str) -> Iterator[str]:
    """Every pyrovae module or name that the code imports, dotted and absolute."""
    return (name for name, _ in import_statements(ast.parse(source), package))


def package_of(name: str) -> str:
    return name if MODULES[name].stem == "__init__" else name.rpartition(".")[0]


def defining_module(name: str) -> str:
    """The module of a dotted name; what a package re-exports belongs to the module that the package has it from."""
    if name in MODULES:
        return name
    base, _, last = name.rpartition(".")
    while base not in MODULES:
        base, _, last = base.rpartition(".")
    if MODULES[base].stem == "__init__":
        given = {given: name for name, given in import_statements(ast.parse(MODULES[base].read_text()), base)}
        if last in given:
            return defining_module(given[last])
    return base


def import_graph() -> dict[str, set[str]]:
    """The modules that each module imports."""
    return {name: {defining_module(each) for each in imports_of(path)} - {name} for name, path in MODULES.items()}


def cycle(graph: dict[str, set[str]]) -> list[str]:
    """A circle in the graph, if there is one."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def unit(name: str) -> str:
    """The row of the table for a dotted name: what `pyrovae` itself re-exports belongs to its `__init__`."""
    child = name.partition(".")[2].partition(".")[0]
    inside = child and ((PACKAGE / child).is_dir() or (PACKAGE / f"{child}.py").is_file())
    return child if inside else "__init__"


def imports_of(path: Path) -> set[str]:
    return set(imported(path.read_text(), package_of(module_name(path))))


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


def test_no_module_imports_itself_by_a_detour():
    assert cycle(import_graph()) == []


def test_every_room_has_a_level_and_nothing_else_stands_in_the_root():
    names = {path.name for path in PACKAGE.iterdir()} - {"__pycache__"}
    rooms = {name for name in names if (PACKAGE / name).is_dir()}
    assert rooms <= LEVEL.keys()
    assert names - rooms <= LOOSE


def test_the_models_are_those_that_the_package_exports():
    assert {"BernoulliMixture", "FactorAnalysis", "GaussianMixture", "PPCA", "PPCAMixture", "VAE"} <= CONCRETE
    assert not CONCRETE & {"LatentVariableModel", "TractableModel"}
    assert {"pyrovae.models.gmm", "pyrovae.models.vae"} <= CONCRETE_MODULES


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
        ("fit", "if TYPE_CHECKING:\n    from pyrovae.evaluate import elbo", False),
        ("models", "importlib.import_module('pyrovae.plots')", False),
        ("plots", "from pyrovae.io import save", False),
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
        ("from pyrovae.models import FactorAnalysis", True),
        ("model.BernoulliMixture", True),
        ("isinstance(model, models.VAE)", True),
        ("type(model).__name__ == 'VAE'", True),
        ('"""A VAE, say."""\nfrom pyrovae.models.base import LatentVariableModel', False),
    ],
)
def test_the_rule_on_names(source, named):
    assert names_concrete_model(source, "pyrovae.fit") == named


def test_a_name_belongs_to_the_module_that_defines_it():
    assert defining_module("pyrovae.fit.em.em") == "pyrovae.fit.em"
    assert defining_module("pyrovae.fit.FitResult") == "pyrovae.fit.result"
    assert defining_module("pyrovae.PPCA.fit") == "pyrovae.models.ppca"
    assert defining_module("pyrovae.__version__") == "pyrovae"
    assert defining_module("pyrovae.fit") == "pyrovae.fit"


def test_a_circle_is_found():
    assert cycle({"a": {"b"}, "b": {"c"}, "c": set()}) == []
    assert set(cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}})) == {"b", "c"}
