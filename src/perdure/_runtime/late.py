"""The services that a handle asks for an answer, loaded at its first question.

See :mod:`perdure._late`.
"""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Final

from perdure._late import load

if TYPE_CHECKING:
    from perdure import change, streaming
    from perdure._runtime import firer, pruner, queries, why, why_schedule

__all__ = ["MODULES", "change", "firer", "pruner", "queries", "streaming", "why", "why_schedule"]

MODULES: Final = {
    "change": "perdure.change",
    "firer": "perdure._runtime.firer",
    "pruner": "perdure._runtime.pruner",
    "queries": "perdure._runtime.queries",
    "streaming": "perdure.streaming",
    "why": "perdure._runtime.why",
    "why_schedule": "perdure._runtime.why_schedule",
}
"""Where each is at home: the imports above, for the interpreter."""

if not TYPE_CHECKING:

    def __getattr__(name: str) -> ModuleType:
        return load(globals(), MODULES, name)
