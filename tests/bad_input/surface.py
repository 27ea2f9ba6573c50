"""What the public API takes, found by looking at it: callables, their parameters and options.

Nothing here is a list of names: what `perdure.__all__` reaches is walked, so that an addition has
rows in the table or a reason in `EXEMPT`, or the test fails.
"""

import enum
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any, get_overloads

import perdure

NO_PARAMETER = ""
"""Stands for the parameters of a callable that has none."""


def surface() -> dict[str, tuple[str, ...]]:
    """Return the parameters of each public callable by its name, such as `App.workflow`."""
    return {name: parameters(call) or (NO_PARAMETER,) for name, call in public_callables()}


def public_callables() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Yield functions, constructors, and methods, inherited ones included."""
    for name in perdure.__all__:
        thing = getattr(perdure, name)
        if isinstance(thing, type):
            if not issubclass(thing, enum.Enum):
                yield name, thing
            yield from methods(name, thing)
        elif inspect.isfunction(thing):
            yield name, thing
        elif callable(thing):  # an object of ours that is called, such as `step`
            yield name, type(thing).__call__
            yield from (each for each in methods(name, type(thing)) if each[0] != name)


def methods(name: str, owner: type) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Yield the public methods that a class has from this package, and its call."""
    for attribute in sorted(set(dir(owner))):
        found = inspect.getattr_static(owner, attribute)
        function = getattr(found, "__func__", found)
        if not inspect.isfunction(function) or not function.__module__.startswith("perdure"):
            continue
        if attribute == "__call__":
            yield f"{name}()" if name[0].isupper() else name, function
        elif not attribute.startswith("_"):
            yield f"{name}.{attribute}", function


def parameters(call: Callable[..., Any]) -> tuple[str, ...]:
    """Return the names of what a call takes, options in a typed dictionary or overload included."""
    found: dict[str, None] = {}
    for variant in get_overloads(call) or [call]:
        for parameter in signature(variant).parameters.values():
            if parameter.name not in ("self", "cls"):
                found.update(dict.fromkeys(options_of(variant, parameter) or (parameter.name,)))
    return tuple(found)


def signature(call: Callable[..., Any]) -> inspect.Signature:
    """Return the signature; that of an exception without a constructor takes anything."""
    try:
        return inspect.signature(call)
    except ValueError:
        return inspect.signature(lambda *args: args)


def options_of(call: Callable[..., Any], parameter: inspect.Parameter) -> tuple[str, ...]:
    """Return the keys of `**options: Unpack[Settings]`."""
    unpacked = re.fullmatch(r"Unpack\[(\w+)(?:\[.*\])?\]", str(parameter.annotation))
    if unpacked is None:
        return ()
    return tuple(getattr(sys.modules[call.__module__], unpacked[1]).__annotations__)
