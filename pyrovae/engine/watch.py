"""What Python code can read besides its inputs, so that a graph of what it did once is not replayed when that changes.

A graph of tensor operations takes tensors by reference, and everything else as it was.  :class:`PythonState` writes
down that everything: the attributes of modules and of the objects that they hold, which tensor stands where, and what
code in reach names in closures, among globals and on classes.  Code of libraries is taken to keep no such state.
"""

import builtins
import collections
import dis
import enum
import functools
import random
import sys
from collections.abc import Hashable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from types import BuiltinFunctionType, CodeType, EllipsisType, FunctionType, MethodType, ModuleType, NoneType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

PLAIN = (NoneType, bool, int, str, bytes, range, EllipsisType, enum.Enum, torch.Size, torch.dtype, torch.layout)
BY_REPR = (float, complex, slice, np.generic, np.dtype, torch.device)  # a NaN is not equal to itself
OUTSIDE = {"time", "datetime", "os", "socket", "subprocess", "secrets", "uuid"}  # what they give comes from the world
READERS = (open, input, eval, exec, globals)  # what they give may come from anywhere
ABSENT = object()
KINDS = {
    **dict.fromkeys(("LOAD_GLOBAL", "LOAD_NAME", "STORE_GLOBAL"), "GLOBAL"),
    **dict.fromkeys(("LOAD_ATTR", "LOAD_METHOD", "STORE_ATTR", "LOAD_SUPER_ATTR", "IMPORT_FROM"), "ATTR"),
    "IMPORT_NAME": "IMPORT",
}
FROM_THE_START = vars(nn.Module()).keys()  # attributes of every module, of which most are empty
MOST_PLACES = 100_000  # to be watched in reasonable time


class PythonState:
    """The Python state in reach of some objects, as it is now.

    Args:
        *roots: Modules, functions and other objects.

    Attributes:
        values: What stands at each place, by the name of the place.
        unknown: Where code in reach reads what cannot be watched, in words.

    Example:
        >>> module = nn.Linear(1, 1)
        >>> module.noise = 0.1
        >>> before = PythonState(module)
        >>> module.noise = 0.2
        >>> list(PythonState(module).changed_from(before))
        ['Linear.noise']
    """

    def __init__(self, *roots: object) -> None:
        self.values: dict[str, Any] = {}
        self.unknown: list[str] = []
        self._names: dict[Any, str] = {}
        self._alive: list[object] = []  # so that no other object gets the number of one that was seen
        self._keys: dict[tuple[str, str], list[Hashable]] = {}  # what is of one kind and name
        self._named: set[str] = set()  # attributes that code in reach names
        self._homes: dict[Any, set[str]] = {}  # classes and modules of the caller's own, and what else is read of them
        try:
            for root in roots:
                self._visit(type(root).__name__, root)
            while self._visit_members():
                pass
        except RecursionError:
            self.unknown.append("there is more state in reach than can be watched")

    def changed_from(self, earlier: "PythonState", read: Iterable[Tensor] = ()) -> Iterator[str]:
        """The places where something else stood earlier.

        A tensor in the place of another is a change only where the other is among those that were read: what is
        overwritten before it is read, a cache, is no state.
        """
        numbers = {id(each) for each in read}
        for place in {**self.values, **earlier.values}:
            now, then = self.values.get(place, ABSENT), earlier.values.get(place, ABSENT)
            if isinstance(now, Tensor) and isinstance(then, Tensor):
                if now is not then and id(then) in numbers:
                    yield place
            elif now is not then and (isinstance(now, Tensor) or isinstance(then, Tensor) or now != then):
                yield place

    def _visit(self, place: str, value: Any) -> None:
        if isinstance(value, PLAIN):
            self.values[place] = value
        elif isinstance(value, BY_REPR):
            self.values[place] = repr(value)
        elif id(value) in self._names:
            self.values[place] = ("the same as", self._names[id(value)])
        elif len(self.values) > MOST_PLACES:
            raise RecursionError
        else:
            self._names[id(value)] = place
            self._alive.append(value)
            self._visit_new(place, value)

    def _visit_new(self, place: str, value: Any) -> None:
        """A value that has an identity, and was not met yet."""
        match value:
            case Tensor():
                self.values[place] = value
            case nn.Module():
                self._visit_module(place, value)
            case dict():
                self._visit_all(place, value, value.items())
            case list() | tuple() | collections.deque():
                self._visit_all(place, value, enumerate(value))
            case set() | frozenset():
                self.values[place] = (type(value), sorted(map(repr, value)))
            case FunctionType():
                self.values[place] = id(value)
                self._visit_function(value)
            case MethodType() | BuiltinFunctionType():
                self._visit(f"{place}.__self__", value.__self__)
                self._visit(place, getattr(value, "__func__", value.__name__))
            case type():
                self.values[place] = id(value)
                self._add_class(value, {"__init__"})
            case ModuleType():
                self.values[place] = id(value)
                if not _of_library(value.__name__):
                    self._homes.setdefault(value, set())
            case np.ndarray():
                self.values[place] = (value.shape, value.dtype.str, hash(value.tobytes()))
            case torch.Generator():
                self.values[place] = bytes(value.get_state().tolist())
            case _:
                self._visit_object(place, value)

    def _visit_all(self, place: str, value: Any, items: Iterable[tuple[Any, Any]]) -> None:
        self.values[place] = (type(value), len(value))
        for key, each in items:
            self._visit(f"{place}[{key!r}]", each)

    def _visit_module(self, place: str, module: nn.Module) -> None:
        self.values[place] = type(module)
        for name, value in vars(module).items():
            if name in ("_parameters", "_buffers"):
                for key, each in value.items():
                    self._alive.append(each)
                    self.values[f"{place}.{key}"] = id(each)
                    self._visit(f"hooks of {place}.{key}", getattr(each, "_backward_hooks", None))
            elif name == "_modules":
                for key, each in value.items():
                    self._visit(f"{place}.{key}", each)
            elif name != "training" and (name not in FROM_THE_START or value):  # modes are watched by themselves
                self._visit(f"{place}.{name}", value)
        self._add_class(type(module))

    def _visit_object(self, place: str, value: Any) -> None:
        """Any other object, by what it would be pickled as."""
        parts = _parts_of(value)
        self.values[place] = id(value) if parts is None else type(value)
        if parts is None:
            parts = _attributes_of(value)
        if parts is None and type(value).__module__ not in ("_thread", "torch"):  # a lock, a module in TorchScript
            self.unknown.append(f"`{place}` is a {type(value).__name__}, which does not show its state")
        for name, each in (parts or {}).items():
            self._visit(f"{place}.{name}", each)
        self._add_class(type(value))

    def _add_class(self, cls: type, read: Iterable[str] = ()) -> None:
        """Of a class, what code names is watched, and what Python or a library calls without a name in reach."""
        for base in (each for each in cls.__mro__ if not _of_library(each.__module__)):
            called = {each for each in vars(base) if each.startswith("__") or _is_override(base, each)}
            self._homes.setdefault(base, called - {"__init__", "_abc_impl"}).update(read)

    def _visit_members(self) -> bool:
        """What is read of classes and modules; whether there was any that had not been visited."""
        before = len(self.values)
        for home, read in list(self._homes.items()):
            for name in sorted(vars(home).keys() & (read | self._named)):
                member, place = vars(home)[name], self._place_of("member", f"{home.__name__}.{name}", home)
                member = getattr(member, "fget", None) or getattr(member, "__func__", member)
                if place not in self.values and (isinstance(member, FunctionType) or not name.startswith("__")):
                    self._visit_named(place, member, home.__name__)
        return len(self.values) > before

    def _visit_function(self, function: FunctionType) -> None:
        """Cells of its closure, attributes and, where it is the caller's own, defaults and what its code names."""
        name = self._place_of("function", function.__qualname__.replace(".<locals>", ""), id(function))
        for variable, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            with suppress(ValueError):  # of a cell that is empty still
                if variable != "__class__":  # for super()
                    self._visit_named(f"{variable} in {name}", cell.cell_contents, name)
        self._visit(f"attributes of {name}", vars(function))
        if _of_library(function.__globals__.get("__name__")):
            return
        self._visit(f"defaults of {name}", [function.__defaults__, function.__kwdefaults__])
        read, attributes, imported = _names_in(function.__code__)
        self._named |= attributes
        for each in sorted(read):
            value = function.__globals__.get(each, getattr(builtins, each, ABSENT))
            self._visit_named(self._place_of("global", each, id(function.__globals__)), value, name)
        for each in sorted(imported):
            self._visit_named(each, sys.modules.get(each, ABSENT), name)

    def _visit_named(self, place: str, value: Any, reader: str) -> None:
        """What code names, or why that cannot be watched."""
        home = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
        if str(home).partition(".")[0] in OUTSIDE or any(value is each for each in READERS):
            self.unknown.append(f"{reader} reads `{place}`, which comes from outside")
        else:
            self._visit(place, value)

    def _place_of(self, kind: str, name: str, key: Hashable) -> str:
        """A name of its own for each of the things that go by the same."""
        keys = self._keys.setdefault((kind, name), [])
        if key not in keys:
            keys.append(key)
        number = keys.index(key)
        return f"{name} ({number + 1})" if number else name


class Watched:
    """The Python state in reach of some objects, looked at again and again.

    Args:
        *roots: Modules, functions and other objects.

    Attributes:
        state: As it was at the last look.
        changed: The places that had changed at the last look.
        reason: The first place of the last change that was counted.
        read: Tensors that graphs have read.
        version: How often it was seen to have changed; a graph that is older is out of date.
    """

    def __init__(self, *roots: object) -> None:
        self.roots = roots
        self.state = PythonState(*roots)
        self.changed: list[str] = []
        self.reason = ""
        self.read: list[Tensor] = []
        self.version = 0

    def look(self) -> None:
        """Look again."""
        now = PythonState(*self.roots)
        self.changed = list(now.changed_from(self.state, self.read))
        self.state = now

    def settle(self) -> None:
        """Look again, and count a change."""
        self.look()
        if self.changed:
            self.version, self.reason = self.version + 1, self.changed[0]


def random_state() -> tuple[Any, ...]:
    """The random states of Python and NumPy, which a graph neither reads nor moves on."""
    state: Any = np.random.get_state(legacy=True)  # noqa: NPY002 (the state that programs draw from)
    return random.getstate(), state[1].tobytes(), *state[2:]


def _parts_of(value: Any) -> dict[str, Any] | None:
    """What an object would be pickled as, by name; None where it cannot be."""
    try:
        reduced = value.__reduce_ex__(4)
    except Exception:  # whatever an object's own code can meet
        return None
    if isinstance(reduced, str):  # the name of a global object, such as a function behind a cache
        return {"__wrapped__": (_attributes_of(value) or {}).get("__wrapped__")}
    rest: list[Any] = [*reduced[1:], None]
    arguments, state, *items = rest
    own = state if isinstance(state, dict) else {"state": state}
    arguments = [each for each in arguments if each is not type(value)]
    return {**own, "arguments": arguments, "items": [list(each) for each in items if each is not None]}


def _attributes_of(value: Any) -> dict[str, Any] | None:
    """The attributes of an object; None where it has no place for them."""
    try:
        return vars(value)
    except Exception:  # whatever an object's own code can meet
        return None


def _is_override(cls: type, name: str) -> bool:
    """Whether a class gives a member of a library's another content."""
    return any(name in vars(each) for each in cls.__mro__[1:] if each is not object and _of_library(each.__module__))


@functools.cache
def _of_library(module: object) -> bool:
    """Whether code of this module is a library's, which keeps no state but that of its objects."""
    root = str(module).partition(".")[0]
    file = getattr(sys.modules.get(root), "__file__", None) or ""
    return (
        root in sys.stdlib_module_names
        or root == "pyrovae"
        or not {"site-packages", "dist-packages"}.isdisjoint(Path(file).parts)
    )


@functools.lru_cache(maxsize=4096)
def _names_in(code: CodeType) -> tuple[set[str], set[str], set[str]]:
    """The globals, attributes (``getattr``'s, too) and modules that code names, also in functions within it."""
    names: dict[str, set[str]] = {"GLOBAL": set(), "ATTR": set(), "IMPORT": set()}
    for each in dis.get_instructions(code):
        if kind := KINDS.get(each.opname):
            names[kind].add(each.argval)
    names["ATTR"] |= {each for each in code.co_consts if isinstance(each, str) and each.isidentifier()}
    for inner in (each for each in code.co_consts if isinstance(each, CodeType)):
        for own, others in zip(names.values(), _names_in(inner), strict=True):
            own |= others
    return names["GLOBAL"], names["ATTR"], names["IMPORT"]
