"""Many runs at once: those that match, counted, looped over, or asked something together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, TypedDict

import msgspec
from msgspec.structs import replace

from perdure import _late
from perdure._engine import late
from perdure._engine import scope as scopes
from perdure._engine.engine import Engine
from perdure._runtime import late as late_services
from perdure.errors import UsageError
from perdure.handle import Run, run_of
from perdure.ids import check_id
from perdure.model.records import RunQuery, RunRecord, Status

if TYPE_CHECKING:
    from perdure._engine.control import Operation

PAGE: Final = 1_000


class Filters(TypedDict, total=False):
    """Which runs are meant; every one narrows. They are those of :meth:`perdure.App.runs`."""

    status: Status | str | Iterable[Status | str]
    name: str | Iterable[str]
    reason: str | None
    queue: str | None
    unique_key: str | None
    limit_key: str | None
    tag: str | None
    parent: Run[Any] | str | None
    created_after: datetime | None
    created_before: datetime | None
    text: str | None
    id_prefix: str | None
    version: str | None


def refuse_unknown_filters(given: Iterable[str]) -> None:
    """Refuse a filter that there is not, with one that is written alike.

    Raises:
        UsageError: there is one.
    """
    for name in given:
        if name not in Filters.__annotations__:
            close = _late.difflib.get_close_matches(name, Filters.__annotations__, 1)
            hint = f"did you mean {close[0]}=?" if close else "it takes those of app.runs(…)"
            raise UsageError(f"app.select(…) has no filter {name!r}; {hint}")


class BulkResult(msgspec.Struct, frozen=True):
    """What became of asking many runs for something.

    Attributes:
        done: the ids of the runs that it was accepted for.
        refused: of those whose status does not allow it, or did not when it came to them.
    """

    done: tuple[str, ...]
    refused: tuple[str, ...]


class Selection:
    """The runs that match some filters, whenever they are asked for.

    Nothing is read before that. What is asked of many is asked of each by itself: each stands or
    falls alone, is written down in its audit under one request, and is done at most once. Runs that
    are created meanwhile are left alone.

    Example::

        stuck = app.select(status="failed", name="charge", reason="timeout")
        print(await stuck.count())
        bulk = await stuck.retry()
    """

    def __init__(self, engine: Engine, query: RunQuery) -> None:
        self._engine = engine
        self._query = query

    def __aiter__(self) -> AsyncIterator[Run[Any]]:
        """Loop over them, newest first; what is written meanwhile makes none come twice."""
        return self._runs()

    async def _runs(self) -> AsyncIterator[Run[Any]]:
        async for page in self._pages():
            for record in page:
                yield run_of(record, self._engine)

    async def count(self) -> int:
        """Return how many there are now.

        Raises:
            UnknownDefinition: neither has this app a definition of that name, nor is there a run.
        """
        await self._check("count")
        return await self._engine.store.count_runs(self._query)

    async def cancel(self, *, compensate: bool = False) -> BulkResult:
        """Ask each to end without a result, as :meth:`perdure.Run.cancel` does.

        Args:
            compensate: execute what their bodies have registered to undo what they did, first.
        """
        make = late.transitions.CancelRun
        return await self._each("cancel", lambda run, request: make(run, request, compensate))

    async def pause(self) -> BulkResult:
        """Let each do nothing more until it is resumed, as :meth:`perdure.Run.pause` does."""
        return await self._each("pause", late.transitions.PauseRun)

    async def resume(self) -> BulkResult:
        """Let each that is paused go on, as :meth:`perdure.Run.resume` does."""
        return await self._each("resume", late.transitions.ResumeRun)

    async def retry(self) -> BulkResult:
        """Try each that failed or was cancelled again, as :meth:`perdure.Run.retry` does."""
        return await self._each("retry", late.transitions.RetryRun)

    async def pin(self, version: str | None) -> BulkResult:
        """Have each go on with one version alone, or with any, as :meth:`perdure.Run.pin` does.

        Args:
            version: which; None for any.
        """
        chosen = None if version is None else check_id(version, "version")
        make = late.versions.PinRun
        return await self._each("pin", lambda run, request: make(run, request, chosen))

    async def restart(self) -> BulkResult:
        """Let each begin again from its start, as :meth:`perdure.Run.restart` does."""
        return await self._each("restart", late.transitions.RestartRun)

    async def _each(self, verb: str, make: Callable[[str, str], Operation]) -> BulkResult:
        done: list[str] = []
        refused: list[str] = []
        request = self._engine.ids.run_id()
        async for page in self._pages(verb):
            asked = [make(record.run_id, request) for record in page]
            answers = await asyncio.gather(
                *(late.control.operate(self._engine, one) for one in asked)
            )
            for one, answer in zip(asked, answers, strict=True):
                if isinstance(answer, late.transitions.Controlled):
                    done.append(one.run_id)
                elif isinstance(answer, late.transitions.Refused):
                    refused.append(one.run_id)
        return BulkResult(tuple(done), tuple(refused))

    async def _pages(self, verb: str = "loop over them") -> AsyncIterator[list[RunRecord]]:
        await self._check(verb)
        before: int | None = None
        while True:
            query = replace(self._query, limit=PAGE, before=before)
            page = await self._engine.store.list_runs(query)
            if page:
                yield page
                before = page[-1].seq
            if len(page) < PAGE:
                return

    async def _check(self, verb: str) -> None:
        scope = scopes.current()
        if scope is not None and not scope.in_step and scope.activation.engine is self._engine:
            raise UsageError(
                f"a selection of runs was told to {verb} in a body, whose replay would find "
                "others; do it in a step"
            )
        self._engine.check_loop()
        await late_services.queries.check_known(
            self._query, self._engine.registry, self._engine.store
        )
