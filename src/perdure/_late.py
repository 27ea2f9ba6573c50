"""Modules that are loaded when something of them is first used: declaring an app needs none.

It needs neither what executes and stores runs, nor what only a message or a cron expression does.
These modules are named once for each layer: here, in ``_engine/late.py`` and ``_runtime/late.py``.
What is loaded with an app imports none of them itself and writes ``late.calls.perform(…)``, which
costs 13 ns more. Connecting an app loads all that the engine has, so that no call waits for it.

It saves 19 ms of ``from perdure import App``: that takes 57, of which asyncio and msgspec are 43.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import difflib
    import json

    from perdure import cron

__all__ = ["MODULES", "cron", "difflib", "json", "load"]

MODULES: Final = {"cron": "perdure.cron", "difflib": "difflib", "json": "json"}
"""Where each is at home: the imports above, for the interpreter."""


def load(into: dict[str, Any], modules: Mapping[str, str], name: str) -> ModuleType:
    """Load a module for the namespace that was asked for it, which is not asked again.

    Args:
        into: the namespace.
        modules: the full name of each module that it has to offer.
        name: the one that was asked for.

    Raises:
        AttributeError: it offers none of that name.
    """
    if name not in modules:
        raise AttributeError(f"module {into['__name__']!r} has no attribute {name!r}")
    found = into[name] = importlib.import_module(modules[name])
    return found


if not TYPE_CHECKING:

    def __getattr__(name: str) -> ModuleType:
        return load(globals(), MODULES, name)
