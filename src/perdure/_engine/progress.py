"""Progress of one run in this process: the last word, written now and then.

What a body says while it replays what is recorded was said before, and is left out. What is said
within a moment after a write waits for the next one, of which only the last word is part; the last
of all is written before the claim ends.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from perdure.model.progress import SetProgress

if TYPE_CHECKING:
    from perdure._engine.activation import Activation
    from perdure._engine.scope import Scope

PAUSE: Final = 0.5
"""Seconds between two writes of one run."""


def say(scope: Scope, data: bytes) -> None:
    """Let a run say how far it is; from any thread."""
    activation = scope.activation
    if scope.in_step or not activation.journal.replaying:
        activation.say(data, scope.path)


class Progress:
    """What a run has said, and what of it is written."""

    __slots__ = ("_activation", "_loop", "_said", "_timer")

    def __init__(self, activation: Activation, loop: asyncio.AbstractEventLoop) -> None:
        self._activation = activation
        self._loop = loop
        self._said: bytes | None = None
        self._timer: asyncio.TimerHandle | None = None

    def say(self, data: bytes) -> None:
        """Write it, at once where nothing was written just now."""
        self._said = data
        if self._timer is None:
            self._again()

    def _again(self) -> None:
        self._timer = None
        if self._said is not None:
            self.write()
            self._timer = self._loop.call_later(PAUSE, self._again)

    def write(self) -> None:
        """Write what was said last, unless that is written."""
        said, self._said = self._said, None
        if said is not None:
            self._activation.submit(SetProgress(self._activation.grant, said))

    def close(self) -> None:
        """Write no more."""
        self._said = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
