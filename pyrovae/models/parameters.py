"""What a program takes by ``pyro.param``: in Pyro's store until a fit takes it into the model, which then holds it.

Pyro finds such a parameter by name, in one store for the whole process.  A fitted model is one of its own: it trains,
copies and saves what it holds, and another model that uses the same names never touches it.
"""

import weakref
from typing import Any

import pyro
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.distributions import transform_to


class Parameters(nn.Module):
    """The parameters that a program takes by ``pyro.param`` and holds, unconstrained, each under its name.

    Attributes:
        constraints: By name; a parameter that comes from a file has none before the program has said it.
        elsewhere: Names of those that the program has taken from Pyro's store.
        complete: Whether a fit has taken in all, and another cannot be trained any more.
    """

    def __init__(self) -> None:
        super().__init__()
        self.constraints: dict[str, Any] = {}
        self.elsewhere: list[str] = []
        self.complete = False

    def forget(self) -> None:
        """Hold nothing, so that the next fit starts from what the program or Pyro's store gives."""
        self._parameters.clear()

    def value(self, name: str, constraint: Any) -> Tensor | None:
        """The constrained value of one that is held; else None.

        Args:
            name: Of the parameter.
            constraint: The one that the program says; None where it says the name alone.

        Raises:
            ValueError: If it is trained no more, or nobody has said its constraint.
        """
        unconstrained = self._parameters.get(_key(name))
        if unconstrained is None:
            if self.complete and self.training:
                raise ValueError(
                    f"`pyro.param` must make each parameter in the first run of a fit, got {name!r} later; make it "
                    "in every run of the program."
                )
            self.elsewhere += [name] * (name not in self.elsewhere)
            return None
        if constraint is None and name not in self.constraints:
            raise ValueError(
                f"`pyro.param` must be given a start and the constraint of {name!r} where it is first used, got its "
                "name alone."
            )
        value: Any = transform_to(self.constraints.setdefault(name, constraint))(unconstrained)
        value = value.view_as(value) if value is unconstrained else value  # the next line would mark the parameter
        value.unconstrained = weakref.ref(unconstrained)  # where SVI looks for it
        return value

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        for key, value in state_dict.items():
            if key.startswith(prefix):
                self._parameters.setdefault(key.removeprefix(prefix), nn.Parameter(value.clone()))
        super()._load_from_state_dict(state_dict, prefix, *args)


class Held(Messenger):
    """Answers ``pyro.param`` from the parameters that a program holds.

    Args:
        parameters: Those.
    """

    def __init__(self, parameters: Parameters) -> None:
        super().__init__()
        self.parameters = parameters

    def _pyro_param(self, msg: Any) -> None:
        name, (_, *start) = msg["name"], msg["args"]
        own = start[0] if start else pyro.get_param_store()._params.get(name)
        if msg["value"] is None and not isinstance(own, nn.Parameter):  # which a module holds
            msg["value"] = self.parameters.value(name, msg["kwargs"]["constraint"] if start else None)


def hold(model: nn.Module) -> None:
    """Take into a model what its programs have taken from Pyro's store; what several take is one parameter."""
    store, held = pyro.get_param_store(), dict[str, Any]()
    state = taken(model)
    for prefix, each in parameters_of(model):
        for name in each.elsewhere:
            if (key := _key(name, prefix)) in state:
                each._parameters[_key(name)] = nn.Parameter(state[key].clone())
                each.constraints[name] = store._constraints[name]
        each.elsewhere, each.complete = [], True
        for key, parameter in each._parameters.items():
            each._parameters[key] = held.setdefault(key, parameter)


def taken(model: nn.Module) -> dict[str, Tensor]:
    """What programs have taken from Pyro's store and is there, unconstrained, by its name in the state of the model."""
    store = pyro.get_param_store()._params
    return {
        _key(name, prefix): store[name].detach()
        for prefix, each in parameters_of(model)
        for name in each.elsewhere
        if name in store
    }


def parameters_of(model: nn.Module) -> list[tuple[str, Parameters]]:
    """Those of all programs in a model, each with its own name."""
    return [(f"{name}.", each) for name, each in model.named_modules() if isinstance(each, Parameters)]


def _key(name: str, prefix: str = "") -> str:
    """A name without the dots that mean submodules to torch."""
    return prefix + name.replace(".", "/")
