"""The handle of a run: how it stands, its result, its history, and the operator's verbs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast, overload

import msgspec

from perdure._engine import late
from perdure._engine import scope as scopes
from perdure._engine.definition import StepSpec
from perdure._engine.engine import Engine
from perdure._engine.scope import Call, Scope, call_site
from perdure._engine.unawaited import reads_as
from perdure._runtime import late as late_services
from perdure.clock import to_datetime
from perdure.codec import Arguments, Schema, schema
from perdure.duration import Duration, named_micros
from perdure.errors import (
    DefinitionError,
    InvalidTransition,
    InvalidValue,
    ResultTimeout,
    RunCancelled,
    RunDeclined,
    RunFailed,
    RunNotFound,
    RunUnsuccessful,
    UsageError,
    shown,
)
from perdure.ids import check_id, derived_id
from perdure.model.records import (
    TERMINAL,
    Attempt,
    Checkpoint,
    Ending,
    History,
    Micros,
    RunQuery,
    RunRecord,
    Status,
    StepKey,
    StepKind,
    StepOutcome,
    WorkerRecord,
)
from perdure.retry import RetryPolicy

if TYPE_CHECKING:
    from perdure._engine.control import Operation
    from perdure._engine.forks import Decorated, Place
    from perdure._runtime.why import Why
    from perdure.model.events import EventRecord, ListenerRecord
    from perdure.streaming import Stream, StreamItem

R = TypeVar("R")
T = TypeVar("T")

_untyped: Schema[Mapping[str, Any]] = schema(dict[str, Any])

PAUSE_LOOK = 0.05
"""Seconds between looks at a run that is to be paused by another process."""


class StreamSummary(msgspec.Struct, frozen=True):
    """A stream of a run.

    Attributes:
        name: its own.
        items: how many were written, a close included.
        size: bytes of all of them.
    """

    name: str
    items: int
    size: int


class FailedAttempt(msgspec.Struct, frozen=True):
    """An attempt that did not succeed: of a step, or of a whole run."""

    number: int
    started_at: datetime | None
    ended_at: datetime
    outcome: str
    error: str


class StepHistory(msgspec.Struct, frozen=True):
    """One durable call as recorded.

    Attributes:
        path: ``charge``, ``parent/child``, ``~0/fetch`` (the body's first task).
        kind: ``step``, ``enqueue``, ``child`` or ``sleep``.
        outcome: ``ok``, ``error``, ``timeout``, ``cancelled`` or ``pending``.
        tries: attempts made so far.
        failed: the attempts that failed.
        due_at: when the next attempt is due, while ``pending``.
        arguments: the beginning of its arguments as text.
        site: file and line of the call.
        size: bytes of the recorded value.
        error: class and message of its last error.
        generation: of the run, in which it was recorded or which it was kept for.
    """

    path: str
    kind: str
    outcome: str
    tries: int
    failed: tuple[FailedAttempt, ...]
    started_at: datetime
    ended_at: datetime
    due_at: datetime | None
    arguments: str
    site: str
    size: int
    error: str | None
    generation: int


class RunHistory(msgspec.Struct, Generic[R], frozen=True):
    """Everything recorded of a run, as values.

    Attributes:
        name: of its definition.
        input: the arguments of its call by the names of the parameters. What was left at its
            default is not there. Where the definition is not in this app, or does not fit any more,
            the values are what JSON makes of them, and bytes where they are damaged; so are those
            of ``meta`` and ``result``.
        meta: what the call gave as ``meta``, as its body finds it.
        result: what the body returned, once ``completed``; None until then.
        attempt: the current or last attempt, counted from 1 in each generation.
        generation: how often it was restarted or continued as new.
        continued: how often it has continued as new.
        progress: what it has said last of how far it is.
        phase: ``compensating`` while it undoes what it has done, before it ends as failed or
            cancelled; None otherwise.
        attempts: the ended attempts and crashed claims before it.
        steps: of the present generation, in the order in which they were first recorded.
        earlier: the steps of the generations before it.
        streams: what it has given out, by the names of its streams.
        version: of the definition: that which it is pinned to, else that which it was created from.
        pinned: it goes on with that version alone.
        key_passed_to: the id of the run that its unique_key passed to before it had ended: one that
            replaced it, or that was debounced once it had started.
        parent: the id of the run whose body started it.
        on_parent_close: what becomes of it when that is over: ``abandon``, ``cancel`` or ``wait``.
        caused_by: what created it, where that was no call: ``event:<id>``,
            ``schedule:<key>@<instant>``, ``fork:<run id>``.
        orphans: paths of recorded steps that the code which completed the run did not ask for:
            they were renamed or removed while the run was in flight.
        waiting_for: ``delay``, ``retry``, ``sleep`` or ``child``, while ``waiting``.
        reason: why it is failed or paused.
        error: class and message of the last error.
        error_type: its class alone.
    """

    id: str
    name: str
    status: Status
    waiting_for: str | None
    input: Mapping[str, Any]
    meta: Any
    result: R | None
    attempt: int
    generation: int
    continued: int
    progress: Any
    phase: str | None
    crashes: int
    created_at: datetime
    updated_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    due_at: datetime | None
    reason: str | None
    error: str | None
    error_type: str | None
    attempts: tuple[FailedAttempt, ...]
    steps: tuple[StepHistory, ...]
    earlier: tuple[StepHistory, ...]
    streams: tuple[StreamSummary, ...]
    orphans: tuple[str, ...]
    queue: str
    priority: int
    tags: tuple[str, ...]
    version: str
    pinned: bool
    unique_key: str | None
    key_passed_to: str | None
    limit_key: str | None
    parent: str | None
    on_parent_close: str
    caused_by: str | None

    @property
    def current(self) -> tuple[StepHistory, ...]:
        """The steps that have begun and are not over: an attempt failed and another is due."""
        return tuple(step for step in self.steps if step.outcome == StepOutcome.PENDING)


class WorkerEntry(msgspec.Struct, frozen=True):
    """A worker as the store knows it.

    Attributes:
        definitions: name to version of what it serves.
        earlier: name to the earlier versions of it whose code it still has.
        slots: how many runs it executes at once.
        beat_at: when it last gave a sign of life.
        lease: how long its beat may stand still before other workers take its runs over.
        heartbeat: how often it gives a sign of life.
        leads: it fires schedules and prunes, for all.
    """

    id: str
    host: str
    pid: int
    definitions: dict[str, str]
    queues: tuple[str, ...]
    slots: int
    started_at: datetime
    beat_at: datetime
    lease: timedelta
    heartbeat: timedelta
    earlier: dict[str, tuple[str, ...]]
    leads: bool


class VersionEntry(msgspec.Struct, frozen=True):
    """A version of a definition, as far as runs need it and workers have it.

    Attributes:
        name: of the definition.
        version: of its code.
        pinned: how many runs that have not ended go on with it alone.
        workers: the ids of the registered workers that have it, as their present or an earlier one.
    """

    name: str
    version: str
    pinned: int
    workers: tuple[str, ...]


class EventEntry(msgspec.Struct, frozen=True):
    """An event as the store keeps it.

    Attributes:
        type: the name of its type.
        key: what waits may ask for.
        value: what JSON makes of it.
        at: when the store accepted it.
        run: the id of the run that it was sent to; None for one that was published to all.
    """

    id: str
    type: str
    key: str | None
    value: Any
    at: datetime
    run: str | None


class ListenerEntry(msgspec.Struct, frozen=True):
    """A definition that events of a type start.

    Attributes:
        type: the name of the events' type.
        name: of the definition.
        since: when it was first registered.
        announced_at: when a worker last said that it is there; after 7 days without, events do
            not start it any more.
    """

    type: str
    name: str
    since: datetime
    announced_at: datetime


class Event:
    """An event that was published: its id, and the runs that it has started."""

    __slots__ = ("_engine", "id")

    def __init__(self, id: str, engine: Engine) -> None:
        self.id = id
        self._engine = engine

    def __repr__(self) -> str:
        return f"<event {self.id}>"

    async def runs(self) -> list[Run[Any]]:
        """Return the runs that it has started, one for each workflow that listened, oldest first.

        Those whose ``where`` did not want it end completed with the reason ``declined``.
        """
        self._engine.check_loop()
        query = RunQuery(caused_by=late.model_events.cause_of(self.id), limit=1_000)
        found = await self._engine.store.list_runs(query)
        return [run_of(record, self._engine) for record in reversed(found)]


def run_of(record: RunRecord, engine: Engine) -> Run[Any]:
    """Return the handle of a run; its result is read as its definition says, if that is known."""
    definition = engine.registry.reading(record)
    return Run(record.run_id, engine, schema(Any) if definition is None else definition.result)


class Run(Generic[R]):
    """A durable run, wherever it is executed. Handles are cheap and hold nothing open."""

    __slots__ = ("_engine", "_result", "id")

    def __init__(self, id: str, engine: Engine, result: Schema[R]) -> None:
        self.id = id
        self._engine = engine
        self._result = result

    def __repr__(self) -> str:
        return f"<run {self.id}>"

    def status(self) -> Coroutine[Any, Any, Status]:
        """Return how the run stands now.

        Inside a body this is a durable call, as are the verbs below: what it answered is recorded,
        and a replay meets the same.

        Raises:
            RunNotFound: there is none of this id.
        """
        return self._durably("status", lambda _: self._status())

    async def _status(self) -> Status:
        return (await self._record()).status

    def result(self, timeout: Duration | None = None) -> Coroutine[Any, Any, R]:
        """Wait until the run has ended and return its result.

        Inside a body this is a durable wait: the body may leave its worker meanwhile, and the
        outcome is recorded.

        Args:
            timeout: how long to wait at most; None for as long as it takes.

        Raises:
            RunFailed, RunCancelled, RunDeclined: it ended without a result.
            ResultTimeout: it has not ended within ``timeout``; it goes on.
            RunNotFound: there is none of this id.
            UsageError: ``timeout`` inside a body.
        """
        scope = scopes.current()
        if scope is None or scope.activation.engine is not self._engine:
            return self._outside(
                None if timeout is None else named_micros(timeout, "timeout") / 1e6
            )
        if timeout is not None:
            raise UsageError(
                "result(timeout=…) is for callers outside; inside a body the wait is durable and "
                "lasts until the run has ended"
            )
        return self._inside(self.result_call(scope, call_site(2)), scope.activation.next_join())

    def cancel(
        self, *, compensate: bool = False, wait: bool = False
    ) -> Coroutine[Any, Any, Status]:
        """Ask the run to end without a result.

        A run that no worker holds is cancelled at once. One that is executing is told at its next
        step, and ends ``cancelled`` whatever its body does from then on. What its definition has to
        do then (``on_cancel``) is executed first, by a worker, if the run had begun. A second
        cancel changes nothing.

        Args:
            compensate: execute what its body has registered with :func:`perdure.compensate`, too.
            wait: return only when it has ended.

        Returns:
            The status after the request was accepted, or after ``wait``.

        Raises:
            InvalidTransition: it has ended already.
            RunNotFound: there is none of this id.
        """
        return self._durably(
            "cancel", lambda request: self._cancel(request, compensate=compensate, wait=wait)
        )

    async def _cancel(self, request: str, *, compensate: bool, wait: bool) -> Status:
        if not isinstance(compensate, bool):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise UsageError(f"compensate is true or false, got {shown(compensate)}")
        status = await self._control(late.transitions.CancelRun(self.id, request, compensate))
        if wait and status not in TERMINAL:
            return (await self._ending(None)).status
        return status

    def pause(self, *, wait: bool = False) -> Coroutine[Any, Any, Status]:
        """Let the run do nothing more until it is resumed.

        One that no worker holds is paused at once, and its timers stand still. One that is
        executing begins no more steps once its worker has heard of it; those that execute are let
        finish and recorded. It may still end, if nothing durable was left to do.

        Args:
            wait: return only when it is paused, or has ended.

        Returns:
            The status after the request was accepted, or after ``wait``.

        Raises:
            InvalidTransition: it has ended already.
            RunNotFound: there is none of this id.
        """
        return self._durably("pause", lambda request: self._pause(request, wait=wait))

    async def _pause(self, request: str, *, wait: bool) -> Status:
        status = await self._control(late.transitions.PauseRun(self.id, request))
        while wait and status is Status.RUNNING:
            await self._engine.clock.sleep(PAUSE_LOOK)
            status = await self._status()
        return status

    def resume(self) -> Coroutine[Any, Any, Status]:
        """Let a paused run go on where it was; what it waits for is later by the pause.

        A run that was paused by a mismatch is tried again by any worker that knows its definition.

        Raises:
            InvalidTransition: it is not paused.
            RunNotFound: there is none of this id.
        """
        return self._durably(
            "resume", lambda request: self._control(late.transitions.ResumeRun(self.id, request))
        )

    def retry(self) -> Coroutine[Any, Any, Status]:
        """Try a failed or cancelled run again; recorded steps that succeeded are not repeated.

        Raises:
            InvalidTransition: it has not ended so, or its unique_key is in use again.
            RunNotFound: there is none of this id.
        """
        return self._durably(
            "retry", lambda request: self._control(late.transitions.RetryRun(self.id, request))
        )

    def pin(self, version: str | None) -> Coroutine[Any, Any, Status]:
        """Have the run go on with one version of its definition alone, from its next claim on.

        It moves what was pinned to another version: to code that is mended, say, or away from one
        that is to be removed. What executes goes on with the code that it has. The record must fit
        the version, as everywhere: where it does not, the run is paused as a mismatch.

        Args:
            version: which; None for any, where a definition that is ``pinned`` pins the run anew
                when it takes it.

        Returns:
            The status that it has.

        Raises:
            RunNotFound: there is none of this id.
            InvalidValue: that is no version.
        """
        chosen = _version(version)
        return self._durably(
            "pin",
            lambda request: self._control(late.versions.PinRun(self.id, request, chosen)),
        )

    def restart(
        self,
        *,
        from_step: Decorated | str | None = None,
        occurrence: int = 1,
        pin: str | None = None,
    ) -> Coroutine[Any, Any, Status]:
        """Let the run begin again, whatever has become of it: from its start, or from a step.

        Its attempts are counted anew, its timers and waits are gone, and what it had failed with or
        returned is kept in its history alone. From a step: what was recorded before it stands, and
        the step and everything after it is done again. A run that is executing is told at its next
        step, and begins again when its body has left. Steps have other idempotency keys than
        before, children that it starts again are others; those that it has started go on.

        Args:
            from_step: a step, or its path as the history shows it; None for from the start.
            occurrence: which call of that path, counted from 1 in the order of recording.
            pin: the only version of the definition with which it goes on; None for any, whatever it
                was pinned to before.

        Returns:
            ``queued``, or ``running`` where it is executing.

        Raises:
            InvalidTransition: it is being cancelled, or its unique_key is in use again; or it is
                executing, and ``pin`` was said: pause it first.
            RunNotFound: there is none of this id.
            UsageError: that step is not recorded, or there are fewer calls of it.
        """
        asked = late.forks.Place.of(from_step, occurrence)
        chosen = _version(pin)
        return self._durably("restart", lambda request: self._restart(request, asked, chosen))

    async def _restart(self, request: str, asked: Place | None, pin: str | None) -> Status:
        step = None if asked is None else asked.find(await self._history()).key
        return await self._control(late.transitions.RestartRun(self.id, request, step, pin))

    async def fork(
        self,
        *,
        from_step: Decorated | str | None = None,
        occurrence: int = 1,
        input: Mapping[str, object] | None = None,
        results: Mapping[Any, object] | None = None,
        id: str | None = None,
        pin: str | None = None,
    ) -> Run[R]:
        """Start a new run of the same definition that goes on from what this one has recorded.

        This run is not changed, and may be in any status. The new one has its arguments, meta,
        options, queue, priority and tags, not its unique_key, its parent or its events, and says
        ``fork:<id>`` as what caused it. With neither ``from_step`` nor ``results`` it keeps
        nothing and begins at the start.

        Args:
            from_step: a step, or its path as the history shows it: what was recorded before it is
                kept.
            occurrence: which call of that path, counted from 1 in the order of recording.
            input: arguments by their names that are to be others.
            results: what steps are to have returned, by the step or by its path. For a path the
                value is one of JSON's, because what the step returns is not known then. Without
                ``from_step`` everything recorded up to the last of them is kept.
            id: of the new run; a new one by default.
            pin: the only version of the definition with which it goes on; None for any, whatever
                this run is pinned to.

        Raises:
            RunNotFound: there is none of this id.
            RunConflict: the new id belongs to another run.
            UsageError: a step is not recorded, not before ``from_step``, or recorded several times
                where one is to have another result; or inside a body, outside of its steps.
            InvalidValue: a value does not fit.

        Example::

            again = await run.fork(from_step="ship", results={charge: "payment-7"})
        """
        self._refuse_in_body("fork")
        place = late.forks.Place.of(from_step, occurrence)
        plan = late.forks.Fork.of(place, input, results, id, _version(pin))
        return self._again(await late.forks.fork(self._engine, await self._history(), plan))

    def _again(self, run_id: str) -> Run[R]:
        return Run(run_id, self._engine, self._result)

    def send_event(
        self,
        event: object,
        /,
        *,
        type: type[Any] | str | None = None,
        key: str | None = None,
        id: str | None = None,
    ) -> Coroutine[Any, Any, None]:
        """Send the run an event, which no other run hears of.

        It satisfies a wait that has begun or will begin, and is kept as long as the run. Inside a
        body this is a durable call: the event is sent once however often the body replays.

        Args:
            event: a value of a class of events.
            type: its class or the name of its type, where that is not the value's own class.
            key: what a wait may ask for.
            id: of the event: sending the same again changes nothing. A new one by default.

        Raises:
            InvalidTransition: the run has ended.
            RunNotFound: there is none of this id.
            EventConflict: the id is taken by another event.
            InvalidValue: the event cannot be encoded; nothing is sent.
            UsageError: it has no type.
        """
        return late.sending.send(
            self._engine, self.id, late.sending.Outgoing.of(event, type, key, id), call_site(2)
        )

    @overload
    def stream(
        self, stream: Stream[T], /, *, after: StreamItem[T] | str | None = None, follow: bool = True
    ) -> AsyncGenerator[StreamItem[T], None]: ...
    @overload
    def stream(
        self, stream: str, /, *, after: StreamItem[Any] | str | None = None, follow: bool = True
    ) -> AsyncGenerator[StreamItem[Any], None]: ...
    def stream(
        self,
        stream: Stream[Any] | str,
        /,
        *,
        after: StreamItem[Any] | str | None = None,
        follow: bool = True,
    ) -> AsyncGenerator[StreamItem[Any], None]:
        """Read what the run gives out, from any process, while it executes or later.

        It ends where the stream is closed or the run has ended. The items of all generations come
        in the order of writing; they are kept as long as the run.

        Args:
            stream: what :func:`perdure.stream` returned, or a name; then an item is what JSON makes
                of it.
            after: the item that was read last, or its cursor, which survives restarts of the run
                and of everybody; from the first by default.
            follow: wait for what comes; false to stop at the newest.

        Raises:
            RunNotFound: while reading: there is none of this id.
            CursorExpired: while reading: ``after`` is of another run, or of what a restored backup
                lost.
            InvalidValue: while reading: an item does not fit the type. Or a name or a cursor is
                none.
            UsageError: inside a body, outside of its steps; or an argument is wrong.

        Example::

            async for item in run.stream(lines, after=last_seen):
                print(item.value)
                last_seen = item.cursor
        """
        self._refuse_in_body("stream")
        streams = late_services.streaming
        asked, cursor = streams.stream_given(stream), streams.cursor_given(after)
        if type(follow) is not bool:
            raise UsageError(f"follow is true or false, got {shown(follow)}")
        return streams.read(self._engine, self.id, asked, cursor, follow=follow)

    async def progress(self) -> Any:
        """Return what the run has said last of how far it is; None for nothing.

        Raises:
            UsageError: inside a body, outside of its steps.
            RunNotFound: there is none of this id.
        """
        self._refuse_in_body("progress")
        return _lenient(schema(Any).decode, (await self._record()).progress or b"null")

    async def history(self) -> RunHistory[R]:
        """Return everything recorded of the run, in one read.

        Inside a body, look at it in a step: a replay would find another one.

        Raises:
            UsageError: inside a body, outside of its steps.
            RunNotFound: there is none of this id.
        """
        self._refuse_in_body("history")
        return readable(await self._history(), self._engine, self._result)

    async def why(self) -> Why:
        """Return why the run is not moving: a sentence, and the facts in it for programs.

        Raises:
            UsageError: inside a body, outside of its steps.
            RunNotFound: there is none of this id.

        Example::

            print(await run.why())  # run … waits: step 'charge' failed (…) and has attempt 3 at …
        """
        self._refuse_in_body("why")
        self._engine.check_loop()
        found = await late_services.why.why(self._engine.store, self.id)
        if found is None:
            raise self._missing()
        return found

    @property
    def engine(self) -> Engine:
        """The machinery of its app."""
        return self._engine

    # --- for the layers above and beside ---------------------------------------------------------

    def result_call(self, scope: Scope, site: str) -> Call:
        """Fix the identity of a durable wait for this run."""
        digest = blake2b(self.id.encode(), digest_size=16).digest()
        return Call(scope, StepKind.CHILD, "result", digest, self.id, site)

    def unwrap(self, ending: Ending, waits: tuple[StepKey, ...] = ()) -> R:
        """Return the result of an ending, or raise what stands in its place.

        Args:
            ending: how the run ended.
            waits: the durable waits that recorded it, and others that ended like it; a retry of
                the body asks them again.
        """
        if ending.reason == "declined":
            raise RunDeclined(
                f"run {self.id} did not want the event that started it, so it has no result",
                run_id=self.id,
            )
        if ending.status is Status.COMPLETED:
            return self._result.decode(ending.result or b"null")
        error: RunUnsuccessful
        if ending.status is Status.FAILED:
            error = self._failure(ending)
        else:
            error = RunCancelled(f"run {self.id} was cancelled", run_id=self.id)
        late.calls.mark(error, waits)
        raise error

    # --- stages ----------------------------------------------------------------------------------

    def _durably(
        self, verb: str, make: Callable[[str], Coroutine[Any, Any, Status]]
    ) -> Coroutine[Any, Any, Status]:
        """Ask for something here and now; in a body as a step, which asks the store once.

        Args:
            verb: the step's name.
            make: takes the id of the request, which is the same each time that the step is tried.
        """
        scope = scopes.current()
        if scope is None or scope.in_step or scope.activation.engine is not self._engine:
            return make(self._engine.ids.run_id())
        digest = blake2b(self.id.encode(), digest_size=16).digest()
        call = Call(scope, StepKind.STEP, verb, digest, self.id, call_site(3))
        run = scope.activation.run
        request = derived_id(run.run_id, str(run.generation), call.inner_digest().hex())

        async def ask() -> Status:
            return await make(request)

        return late.calls.perform(call, _verb_spec(verb, ask), (), {})

    def _refuse_in_body(self, verb: str) -> None:
        scope = scopes.current()
        if scope is not None and not scope.in_step and scope.activation.engine is self._engine:
            raise UsageError(
                f"run.{verb}() was called in a body, whose replay would find something else; look "
                f'in a step: await step("{verb}", look, run.id)'
            )

    @reads_as("result(…) without `await`")
    async def _inside(self, call: Call, join: int) -> R:
        return self.unwrap(await late.children.child_ending(call, self.id, join), (call.key,))

    @reads_as("result(…) without `await`")
    async def _outside(self, timeout: float | None) -> R:
        return self.unwrap(await self._ending(timeout))

    async def _ending(self, timeout: float | None) -> Ending:
        self._engine.check_loop()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Ending] = loop.create_future()

        def ended(ending: Ending) -> None:
            if not future.done():
                future.set_result(ending)

        watcher = self._engine.watcher
        watcher.watch(self.id, ended)
        try:
            run = await self._record()
            if run.status in TERMINAL:
                return Ending(run.run_id, run.status, run.result, run.error, run.reason)
            return await asyncio.wait_for(future, timeout)
        except TimeoutError:
            raise ResultTimeout(
                f"run {self.id} has not ended within {timeout:g} s; it goes on"
            ) from None
        finally:
            watcher.unwatch(self.id, ended)

    async def _control(self, asked: Operation) -> Status:
        self._engine.check_loop()
        answer = await late.control.operate(self._engine, asked)
        match answer:
            case late.transitions.Controlled():
                return answer.status
            case late.transitions.Refused():
                detail = f" ({answer.detail})" if answer.detail else ""
                verb = late.control.VERBS[type(asked)]
                raise InvalidTransition(
                    f"cannot {verb} run {self.id}: it is {answer.status}{detail}"
                )
            case _:
                raise self._missing()

    async def _history(self) -> History:
        self._engine.check_loop()
        found = await self._engine.store.history(self.id)
        if found is None:
            raise self._missing()
        return found

    async def _record(self) -> RunRecord:
        self._engine.check_loop()
        found = await self._engine.store.get(self.id)
        if found is None:
            raise self._missing()
        return found

    def _missing(self) -> RunNotFound:
        return RunNotFound(f"there is no run {self.id!r} here, or its retention has ended")

    def _failure(self, ending: Ending) -> RunFailed:
        data = ending.error or b"null"
        summary = late.failures.shown_error(data)
        failure = RunFailed(
            f"run {self.id} failed ({ending.reason}): {summary.type}: {summary.message}",
            run_id=self.id,
            error_type=summary.type,
            reason=ending.reason or "error",
        )
        with suppress(InvalidValue):  # a damaged record: the message says so
            failure.__cause__ = late.failures.decode_error(data)
        return failure


def _version(given: str | None) -> str | None:
    return None if given is None else check_id(given, "version")


def _verb_spec(verb: str, ask: Callable[[], Coroutine[Any, Any, Status]]) -> StepSpec:
    """Return how an operator's verb is executed as a step: once, for its answer is final."""
    return StepSpec(verb, ask, True, Arguments(ask), RetryPolicy(1), None)


def event_entry(record: EventRecord) -> EventEntry:
    """Return an event for people."""
    value = _lenient(schema(Any).decode, record.payload)
    return EventEntry(
        record.event_id, record.type, record.key, value, to_datetime(record.at), record.run_id
    )


def listener_entry(record: ListenerRecord) -> ListenerEntry:
    """Return a registered listener for people."""
    return ListenerEntry(
        record.listener.type,
        record.listener.definition,
        to_datetime(record.since),
        to_datetime(record.announced_at),
    )


def worker_entry(record: WorkerRecord, leader: str | None) -> WorkerEntry:
    """Return a registered worker for people; ``leader`` is the id of the one that leads."""
    return WorkerEntry(
        id=record.worker_id,
        host=record.host,
        pid=record.pid,
        definitions=record.definitions,
        queues=record.queues,
        slots=record.slots,
        started_at=to_datetime(record.started_at),
        beat_at=to_datetime(record.beat_at),
        lease=timedelta(microseconds=record.lease),
        heartbeat=timedelta(microseconds=record.heartbeat),
        earlier={
            name: tuple(version for one, version in record.earlier if one == name)
            for name, _ in record.earlier
        },
        leads=record.worker_id == leader,
    )


def readable(history: History, engine: Engine, result: Schema[R]) -> RunHistory[R]:
    """Return what a store keeps of a run, for people.

    Args:
        history: what the store keeps.
        engine: of the app whose definitions and meta say how its values are read.
        result: of the run's definition.
    """
    run = history.run
    steps = [_step(one) for one in history.checkpoints if one.kind is not StepKind.ORIGIN]
    error = None if run.error is None else late.failures.shown_error(run.error)
    return RunHistory(
        id=run.run_id,
        name=run.definition,
        status=run.status,
        waiting_for=run.waiting_for,
        input=_input(run, engine),
        meta=_lenient(engine.meta.decode, run.meta),
        result=None if run.result is None else _lenient(result.decode, run.result),
        attempt=run.attempt,
        generation=run.generation,
        continued=run.continued,
        progress=_lenient(schema(Any).decode, run.progress or b"null"),
        phase="compensating" if run.undoing and run.status not in TERMINAL else None,
        crashes=run.crashes,
        created_at=to_datetime(run.created_at),
        updated_at=to_datetime(run.updated_at),
        started_at=_instant(run.started_at),
        finished_at=_instant(run.finished_at),
        due_at=_instant(run.due_at),
        reason=run.reason,
        error=None if error is None else f"{error.type}: {error.message}",
        error_type=None if error is None else error.type,
        attempts=tuple(_attempt(attempt) for attempt in history.attempts),
        steps=tuple(step for step in steps if step.generation == run.generation),
        earlier=tuple(step for step in steps if step.generation < run.generation),
        streams=tuple(StreamSummary(one.name, one.entries, one.size) for one in history.streams),
        orphans=_orphans(run),
        queue=run.queue,
        priority=run.priority,
        tags=run.tags,
        version=run.code,
        pinned=run.pin is not None,
        unique_key=run.unique_key,
        key_passed_to=run.key_passed_to,
        limit_key=run.limit_key,
        parent=run.parent_id,
        on_parent_close=str(run.on_parent_close),
        caused_by=run.caused_by,
    )


def _input(run: RunRecord, engine: Engine) -> Mapping[str, Any]:
    definition = engine.registry.reading(run)
    decode = _untyped.decode if definition is None else definition.arguments.named
    return _lenient(decode, run.input)


def _lenient(decode: Callable[[Any], T], data: bytes | None) -> T:
    """Return what is stored, or what JSON makes of it where the code does not fit it any more.

    What is damaged is returned as it is: a history is what one looks at then.
    """
    try:
        return decode(data)
    except (InvalidValue, DefinitionError):
        pass
    try:
        return cast("T", msgspec.json.decode(data or b"null"))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return cast("T", data)


def _orphans(run: RunRecord) -> tuple[str, ...]:
    if run.status is not Status.COMPLETED:
        return ()
    return tuple(key.path for key in late.lifecycle.decode_keys(run.culprits))


def _attempt(attempt: Attempt) -> FailedAttempt:
    return FailedAttempt(
        attempt.number,
        _instant(attempt.claimed_at),
        to_datetime(attempt.ended_at),
        attempt.outcome,
        _text(attempt.error) or "",
    )


def _step(record: Checkpoint) -> StepHistory:
    failed = tuple(
        FailedAttempt(
            entry.number,
            to_datetime(entry.started_at),
            to_datetime(entry.ended_at),
            "error",
            f"{entry.error_type}: {entry.message}",
        )
        for entry in late.calls.decode_log(record.log)
    )
    is_error = record.outcome in ("error", "timeout", "pending")
    return StepHistory(
        path=record.key.path,
        kind=record.kind,
        outcome=record.outcome,
        tries=record.tries,
        failed=failed,
        started_at=to_datetime(record.started_at),
        ended_at=to_datetime(record.ended_at),
        due_at=_instant(record.due_at),
        arguments=record.text,
        site=record.site,
        size=len(record.value or b""),
        error=_text(record.value) if is_error and record.kind is not StepKind.CHILD else None,
        generation=record.generation,
    )


def _instant(micros: Micros | None) -> datetime | None:
    return None if micros is None else to_datetime(micros)


def _text(error: bytes | None) -> str | None:
    if error is None:
        return None
    summary = late.failures.shown_error(error)
    return f"{summary.type}: {summary.message}"
