"""Streams: what a body and its steps give out while they execute, each item once.

An item is the k-th of its stream in its scope, as calls are counted; what the claim says to be
written already is not written again. It is recorded in the order of writing and without being
waited for: what is recorded after it finds it, and where a kill loses it, it has lost everything
after it, too.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Final

from perdure.errors import RunNotFound, UsageError
from perdure.model.streams import StreamEntry, WriteStream, check_cursor, cursor_of, read_cursor

if TYPE_CHECKING:
    from perdure._engine.engine import Engine
    from perdure._engine.scope import Scope

PAGE: Final = 100
"""Items that are read at once, at most."""

FINGERPRINT: Final = b"perdure.stream\0\0"
"""Counts items apart from the calls of their scope."""


def write(scope: Scope, stream: str, value: bytes | None) -> None:
    """Write an item to a stream of the run, or close it, unless that was done.

    Args:
        scope: whose code writes.
        stream: its name.
        value: encoded; None to close it.

    Raises:
        UsageError: the stream is closed.
    """
    with scope.activation.executor.writing:
        _write(scope, stream, value)


def _write(scope: Scope, stream: str, value: bytes | None) -> None:
    activation = scope.activation
    asked = (stream, FINGERPRINT)
    k = scope.ordinals.get(asked, 0)
    scope.ordinals[asked] = k + 1
    place = (stream, scope.digest)
    if k < activation.written.get(place, 0):
        return
    if stream in activation.closed:
        if value is None:
            return
        raise UsageError(
            f"stream {stream!r} of run {activation.run.run_id} is closed; write before close(), "
            "or to another stream"
        )
    at = activation.stamp()
    path = scope.path
    entry = WriteStream(activation.grant, stream, scope.digest, path, k, value, at)
    if activation.record_soon(entry, path):
        activation.written[place] = k + 1
        if value is None:
            activation.closed.add(stream)


async def read(
    engine: Engine, run_id: str, name: str, cursor: str | None, *, follow: bool
) -> AsyncGenerator[tuple[str, StreamEntry], None]:
    """Yield the items of a stream behind a cursor, each with the cursor behind it.

    It ends where the stream is closed or the run has ended; without ``follow`` where there is no
    more.

    Raises:
        RunNotFound: there is no such run.
        CursorExpired: the cursor is of another one.
    """
    engine.check_loop()
    number = 0 if cursor is None else read_cursor(cursor)[1]
    with engine.news.following():
        while True:
            heard = engine.news.heard
            page = await engine.store.stream(run_id, name, number, PAGE)
            if page is None:
                raise RunNotFound(f"there is no run {run_id!r} here, or its retention has ended")
            if cursor is not None:
                check_cursor(cursor, page)
                cursor = None
            is_closed = False
            for entry in page.entries:
                number = entry.number
                is_closed = entry.value is None
                if not is_closed:
                    yield cursor_of(page.run_seq, number), entry
            if number >= page.last:
                if is_closed or page.ended or not follow:
                    return
                await engine.news.after(heard)
