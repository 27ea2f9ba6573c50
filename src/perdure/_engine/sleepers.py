"""Bodies that wait in ``asyncio.sleep``, and the warning about it.

Outside of a step such a wait is not recorded: it holds the worker's slot, keeps the body in memory,
and begins again with every replay. Nothing is replaced in asyncio to see it: now and then the
worker looks at what its bodies' tasks are blocked in, which costs calls nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from perdure._engine.calls import perform
from perdure.telemetry import Log

if TYPE_CHECKING:
    from perdure._engine.activation import Activation

log = Log("perdure.run")

LOOK_EVERY = 0.5
"""Seconds between looks, however often the worker polls."""

_SLEEP = asyncio.sleep.__code__
_STEP = perform.__code__


class Sleep(NamedTuple):
    """A body's wait in ``asyncio.sleep``: its seconds, and the file and line of the call."""

    seconds: float
    place: str


class Sleepers:
    """Looks for sleeping bodies, and warns once a definition."""

    def __init__(self) -> None:
        self._warned: set[str] = set()
        self._next = 0.0

    def look(self, activations: Iterable[Activation], now: float) -> None:
        """Warn of bodies that are asleep.

        Args:
            activations: the runs that the worker holds.
            now: seconds of the loop's clock.
        """
        if now < self._next:
            return
        self._next = now + LOOK_EVERY
        for activation in activations:
            name = activation.definition.name
            if name in self._warned:
                continue
            sleep = asleep(activation)
            if sleep is not None:
                self._warned.add(name)
                log.warning(
                    "body waits in asyncio.sleep: it holds a slot meanwhile, and waits again with "
                    "every replay; write `await perdure.sleep(…)`, which is recorded and holds "
                    "nothing",
                    definition=name,
                    seconds=sleep.seconds,
                    place=sleep.place,
                )


def asleep(activation: Activation) -> Sleep | None:
    """Return in which ``asyncio.sleep`` a body waits, if it does in one of its tasks."""
    for task in activation.of_the_body():
        sleep = _sleep_in(task.get_coro(), activation.definition.place)
        if sleep is not None:
            return sleep
    return None


def _sleep_in(awaiting: Any, place: str) -> Sleep | None:
    """Follow what awaits what, from a task's coroutine down to a sleep that is no step's."""
    while awaiting is not None:
        code, frame = getattr(awaiting, "cr_code", None), getattr(awaiting, "cr_frame", None)
        if code is None or frame is None or code is _STEP:
            return None
        if code is _SLEEP:
            seconds = frame.f_locals["delay"]
            return Sleep(seconds, place) if seconds > 0 else None
        place = f"{code.co_filename}:{frame.f_lineno}"
        awaiting = awaiting.cr_await
    return None
