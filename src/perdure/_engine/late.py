"""What executes and stores runs, loaded when an app connects; see :mod:`perdure._late`."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Final

from perdure._late import load

if TYPE_CHECKING:
    from perdure import telemetry, url
    from perdure._engine import (
        adrift,
        arrivals,
        calls,
        children,
        committer,
        continuing,
        control,
        events,
        forks,
        news,
        patches,
        progress,
        sending,
        services,
        streams,
        telling,
        undoing,
        watcher,
    )
    from perdure.codec import failures
    from perdure.model import events as model_events
    from perdure.model import lifecycle, schedules, transitions, versions
    from perdure.model import streams as model_streams

__all__ = [
    "MODULES",
    "adrift",
    "arrivals",
    "calls",
    "children",
    "committer",
    "continuing",
    "control",
    "events",
    "failures",
    "forks",
    "lifecycle",
    "load_all",
    "model_events",
    "model_streams",
    "news",
    "patches",
    "progress",
    "schedules",
    "sending",
    "services",
    "streams",
    "telemetry",
    "telling",
    "transitions",
    "undoing",
    "url",
    "versions",
    "watcher",
]

MODULES: Final = {
    "adrift": "perdure._engine.adrift",
    "arrivals": "perdure._engine.arrivals",
    "calls": "perdure._engine.calls",
    "children": "perdure._engine.children",
    "committer": "perdure._engine.committer",
    "continuing": "perdure._engine.continuing",
    "control": "perdure._engine.control",
    "events": "perdure._engine.events",
    "failures": "perdure.codec.failures",
    "forks": "perdure._engine.forks",
    "lifecycle": "perdure.model.lifecycle",
    "model_events": "perdure.model.events",
    "model_streams": "perdure.model.streams",
    "news": "perdure._engine.news",
    "patches": "perdure._engine.patches",
    "progress": "perdure._engine.progress",
    "schedules": "perdure.model.schedules",
    "sending": "perdure._engine.sending",
    "services": "perdure._engine.services",
    "streams": "perdure._engine.streams",
    "telemetry": "perdure.telemetry",
    "telling": "perdure._engine.telling",
    "transitions": "perdure.model.transitions",
    "undoing": "perdure._engine.undoing",
    "url": "perdure.url",
    "versions": "perdure.model.versions",
    "watcher": "perdure._engine.watcher",
}
"""Where each is at home: the imports above, for the interpreter."""


def load_all() -> None:
    """Load what is not loaded yet, so that no call waits for it."""
    for name in MODULES:
        load(globals(), MODULES, name)


if not TYPE_CHECKING:

    def __getattr__(name: str) -> ModuleType:
        return load(globals(), MODULES, name)
