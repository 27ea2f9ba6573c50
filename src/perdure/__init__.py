"""Work that must finish: durable workflows and typed background jobs on one engine.

The names are loaded when the first of them is asked for, so that ``perdure --version``, or a
module that names the package only for a type checker, does not pay for the engine.
"""

import importlib
import sys
from types import ModuleType

from perdure._version import __version__

TYPE_CHECKING = False  # what `typing` says too, whose import would cost a fifth of all
if TYPE_CHECKING:
    from perdure._engine.scope import carry
    from perdure._runtime.scheduler import Scheduler
    from perdure._runtime.worker import Worker
    from perdure.app import App
    from perdure.change import Change
    from perdure.context import Context, Values
    from perdure.declare import Declared, job, workflow
    from perdure.errors import EventTimeout, NonRetryable, PerdureError, RetryAfter
    from perdure.event import event
    from perdure.handle import Event, Run
    from perdure.model.changes import ChangeKind
    from perdure.model.records import Status
    from perdure.queue import Queue, Rate
    from perdure.retention import Retention
    from perdure.retry import Backoff, RetryPolicy, constant, exponential, linear
    from perdure.selection import BulkResult, Selection
    from perdure.step import (
        CurrentStep,
        Step,
        block_on,
        compensate,
        current_step,
        gather,
        now,
        patched,
        progress,
        random,
        sleep,
        sleep_until,
        step,
        uuid,
        wait_for_event,
    )
    from perdure.streaming import Stream, StreamItem, stream
    from perdure.unique import Debounce
    from perdure.workflow import Workflow

__all__ = [
    "App",
    "Backoff",
    "BulkResult",
    "Change",
    "ChangeKind",
    "Context",
    "CurrentStep",
    "Debounce",
    "Declared",
    "Event",
    "EventTimeout",
    "NonRetryable",
    "PerdureError",
    "Queue",
    "Rate",
    "Retention",
    "RetryAfter",
    "RetryPolicy",
    "Run",
    "Scheduler",
    "Selection",
    "Status",
    "Step",
    "Stream",
    "StreamItem",
    "Values",
    "Worker",
    "Workflow",
    "__version__",
    "block_on",
    "carry",
    "compensate",
    "constant",
    "current_step",
    "event",
    "exponential",
    "gather",
    "job",
    "linear",
    "now",
    "patched",
    "progress",
    "random",
    "sleep",
    "sleep_until",
    "step",
    "stream",
    "uuid",
    "wait_for_event",
    "workflow",
]

_HOMES = {
    "_engine.scope": ("carry",),
    "_runtime.scheduler": ("Scheduler",),
    "_runtime.worker": ("Worker",),
    "app": ("App",),
    "change": ("Change",),
    "context": ("Context", "Values"),
    "declare": ("Declared", "job", "workflow"),
    "errors": ("EventTimeout", "NonRetryable", "PerdureError", "RetryAfter"),
    "event": ("event",),
    "handle": ("Event", "Run"),
    "model.changes": ("ChangeKind",),
    "model.records": ("Status",),
    "queue": ("Queue", "Rate"),
    "retention": ("Retention",),
    "retry": ("Backoff", "RetryPolicy", "constant", "exponential", "linear"),
    "selection": ("BulkResult", "Selection"),
    "step": (
        "CurrentStep",
        "Step",
        "block_on",
        "compensate",
        "current_step",
        "gather",
        "now",
        "patched",
        "progress",
        "random",
        "sleep",
        "sleep_until",
        "step",
        "uuid",
        "wait_for_event",
    ),
    "streaming": ("Stream", "StreamItem", "stream"),
    "unique": ("Debounce",),
    "workflow": ("Workflow",),
}
"""Where each name is at home: the imports above, for the interpreter."""


class _Package(ModuleType):
    """The package. Importing a submodule of a public name (``step``) does not hide that name."""

    def __getattr__(self, name: str) -> object:
        for home, names in _HOMES.items():
            if name in names:
                found = getattr(importlib.import_module(f"perdure.{home}"), name)
                super().__setattr__(name, found)
                return found
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in __all__ and isinstance(value, ModuleType)):
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *__all__})


sys.modules[__name__].__class__ = _Package
