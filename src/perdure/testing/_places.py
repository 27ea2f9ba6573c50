"""Where in the code a thing stands, so that another process can import it."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from types import ModuleType
from typing import Any, Final, TypedDict

from perdure.errors import UsageError

MAIN: Final = "__perdure_main__"
"""What the main script is called where it is imported, so that its ``__main__`` part rests."""


class Place(TypedDict):
    """A module, its file and a name in it; the name is empty for the module alone."""

    module: str
    file: str
    name: str


def place_of(thing: object, what: str) -> Place:
    """Return where a thing stands that is a global of some imported module.

    Args:
        thing: looked for by identity.
        what: how a message calls it.

    Raises:
        UsageError: it is no module's global.
    """
    for module in list(sys.modules.values()):
        for name, value in list(getattr(module, "__dict__", {}).items()):
            if value is thing:
                return _place(module, name)
    raise UsageError(
        f"{what} is no global of a module, so a process of its own cannot import it; declare it at "
        "the top of a module, or crash on memory"
    )


def module_of(function: Any, what: str) -> Place:
    """Return the module in which a function is declared.

    Raises:
        UsageError: it is declared inside of another function.
    """
    inner = inspect.unwrap(function)
    if "<locals>" in getattr(inner, "__qualname__", "<locals>"):
        raise UsageError(
            f"{what} is declared inside of a function, so a process of its own cannot import it; "
            "declare it at the top of a module, or crash on memory"
        )
    return _place(sys.modules[inner.__module__], "")


def _place(module: ModuleType, name: str) -> Place:
    return Place(module=module.__name__, file=getattr(module, "__file__", None) or "", name=name)


def find(place: Place) -> Any:
    """Import what stands at a place; pytest may have imported its module under any name."""
    module = _imported(place)
    return getattr(module, place["name"]) if place["name"] else module


def _imported(place: Place) -> ModuleType:
    name = MAIN if place["module"] == "__main__" else place["module"]
    if name in sys.modules:
        return sys.modules[name]
    if name != MAIN and _is_found(place):
        return importlib.import_module(name)
    spec = importlib.util.spec_from_file_location(name, place["file"])
    assert spec is not None, place
    assert spec.loader is not None, place
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _is_found(place: Place) -> bool:
    try:
        spec = importlib.util.find_spec(place["module"])
    except (ImportError, ValueError):
        return False
    return spec is not None and (not place["file"] or spec.origin == place["file"])
