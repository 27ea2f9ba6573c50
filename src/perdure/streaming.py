"""Streams: what a run gives out while it executes, for whoever reads it meanwhile or later."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

import msgspec

from perdure._engine import late
from perdure._engine import scope as scopes
from perdure._engine.engine import Engine
from perdure.clock import to_datetime
from perdure.codec import Schema, schema
from perdure.errors import UsageError, shown
from perdure.ids import check_id

if TYPE_CHECKING:
    from perdure.model.streams import StreamEntry

T = TypeVar("T")


class StreamItem(msgspec.Struct, Generic[T], frozen=True):
    """One item of a stream.

    Attributes:
        value: what was written.
        cursor: from which ``run.stream(…, after=…)`` reads on; only the store reads it.
        at: when it was written, aware UTC.
        generation: of the run, that wrote it; see ``RunHistory.generation``.
    """

    value: T
    cursor: str
    at: datetime
    generation: int


class Stream(Generic[T]):
    """A stream by its name and the type of its items, for who writes it and who reads it."""

    __slots__ = ("_items", "name")

    def __init__(self, name: str, items: Schema[T]) -> None:
        self.name = name
        self._items = items

    def __repr__(self) -> str:
        return f"<stream {self.name!r}>"

    def write(self, value: T, /) -> None:
        """Give out an item, once however often this code is executed again.

        It is called in a body or in a step, and waits for nothing: the item is recorded before
        anything that is recorded later, and in the order of writing. On a replay, in another
        attempt of a step and after a kill the same item is not given out twice: it is the k-th of
        this stream in the body, the branch or the step that writes it, and what was written there
        first stands. So a step that fails after three items and writes others when it is tried
        again is heard from the fourth on.

        Outside of any run, and where a body is run here and now, the value is checked and given to
        nobody, so that a step stays an ordinary function.

        Args:
            value: the item.

        Raises:
            InvalidValue: it does not fit the stream's type, or cannot be encoded.
            PayloadTooLarge: it is over the limit for payloads.
            UsageError: the stream was closed.
            NotInRun: called in a thread that the body started by itself.

        Example::

            lines = stream("lines", str)

            @app.step
            async def build(target: str) -> None:
                async for line in compile(target):
                    lines.write(line)
        """
        data = self._items.encode(value, verb=f"the item written to stream {self.name!r}")
        scope = self._scope("write")
        if scope is not None:
            what = f"the item written to stream {self.name!r}"
            scope.activation.engine.within_limit(data, what)
            late.streams.write(scope, self.name, data)

    def close(self) -> None:
        """Say that this was all: who reads the stream comes to its end.

        Closing it again changes nothing. A later generation of the run (it was restarted, or
        continued as new) may write on; who reads with the cursor of the last item finds that.

        Raises:
            NotInRun: called in a thread that the body started by itself.
        """
        scope = self._scope("close")
        if scope is not None:
            late.streams.write(scope, self.name, None)

    def _scope(self, verb: str) -> scopes.Scope | None:
        scope = scopes.current()
        if scope is None:
            late.adrift.check(f"{verb}() of stream {self.name!r}")
        return scope

    def item(self, cursor: str, entry: StreamEntry) -> StreamItem[T]:
        """Return what is stored as users see it."""
        value = self._items.decode(entry.value or b"null")
        return StreamItem(value, cursor, to_datetime(entry.at), entry.generation)


@overload
def stream(name: str, type: type[T], /) -> Stream[T]: ...
@overload
def stream(name: str, /) -> Stream[Any]: ...
def stream(name: str, type: Any = Any, /) -> Stream[Any]:
    """Return a stream, to be written in bodies and steps and read with ``run.stream(…)``.

    Each run has streams of its own, by their names. Nothing is stored until the first item.

    Args:
        name: of the stream.
        type: of its items: a pydantic model, a dataclass, ``str``, ``dict[str, int]`` and so on.
            Without one an item is whatever JSON can say.

    Raises:
        InvalidValue: it is no name.

    Example::

        tokens = stream("tokens", str)

        @app.workflow
        async def answer(question: str) -> str:
            ...
            tokens.write("Hel")

        async for item in run.stream(tokens):
            print(item.value, end="")
    """
    return Stream(check_id(name, "a stream's name"), schema(type))


def stream_given(given: Stream[T] | str) -> Stream[Any]:
    """Return the stream that somebody wants to read.

    Raises:
        UsageError: it is none.
    """
    if isinstance(given, str):
        return stream(given)
    if not isinstance(given, Stream):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise UsageError(f"a stream is what stream(…) returned, or its name; got {shown(given)}")
    return given


def cursor_given(given: object) -> str | None:
    """Return the cursor of an item, or the text itself.

    Raises:
        UsageError: it is neither.
        InvalidValue: the text is no cursor.
    """
    if isinstance(given, StreamItem):
        return str(given.cursor)
    if given is not None:
        if not isinstance(given, str):
            raise UsageError(f"after= takes an item or its cursor, got {shown(given)}")
        late.model_streams.read_cursor(given)
    return given


async def read(
    engine: Engine, run_id: str, stream: Stream[T], after: str | None, *, follow: bool
) -> AsyncGenerator[StreamItem[T], None]:
    """Yield the items of a stream of a run behind a cursor."""
    found = late.streams.read(engine, run_id, stream.name, after, follow=follow)
    try:
        async for cursor, entry in found:
            yield stream.item(cursor, entry)
    finally:
        await found.aclose()
