"""The services that a handle asks for an answer, loaded at its first question.

See :mod:`perdure._late`.
"""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Final

from perdure._late import load

if TYPE_CHECKING:
    from perdure import change, streaming
    from perdure._runtime import pruner, queries, scheduler, why

__all__ = ["MODULES", "change", "pruner", "queries", "scheduler", "streaming", "why"]

MODULES: Final = {
    "change": "perdure.change",
    "pruner": "perdure._runtime.pruner",
    "queries": "perdure._runtime.queries",
    "scheduler": "perdure._runtime.scheduler",
    "streaming": "perdure.streaming",
    "why": "perdure._runtime.why",
}
"""Where each is at home: the imports above, for the interpreter."""

if not TYPE_CHECKING:

    def __getattr__(name: str) -> ModuleType:
        return load(globals(), MODULES, name)
