"""The durable calls of a body: a step, a child started, a child's result.

Each is made in two moments. :class:`~perdure._engine.scope.Call` fixes the identity when the call
is made; the coroutines here carry it out when it is awaited: a recorded outcome is replayed,
anything else is executed, committed, and only then returned.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import msgspec

from perdure._engine import scope as scopes
from perdure._engine import telling
from perdure._engine.journal import Moment, moment_of
from perdure._engine.scope import Call, Scope
from perdure._engine.unawaited import reads_as
from perdure._engine.waits import until
from perdure.codec import Schema, schema
from perdure.codec.failures import decode_error, error_summary, replayed_error
from perdure.errors import (
    InvalidValue,
    Leave,
    Mismatch,
    NotInRun,
    PerdureError,
    StepInterrupted,
    StepTimeout,
)
from perdure.model.records import (
    Checkpoint,
    Micros,
    StepKey,
    StepKind,
    StepOutcome,
    WaitKind,
)
from perdure.model.transitions import SaveCheckpoint

if TYPE_CHECKING:
    from perdure._engine.activation import Activation
    from perdure._engine.definition import StepSpec

T = TypeVar("T")

_text_schema: Schema[str] = schema(str)


class FailedTry(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """One failed attempt of a step, as the history shows it."""

    number: int
    started_at: Micros
    ended_at: Micros
    error_type: str
    message: str


_log_encoder = msgspec.json.Encoder()
_log_decoder = msgspec.json.Decoder(list[FailedTry])


def decode_log(data: bytes | None) -> list[FailedTry]:
    """Return the failed attempts that a checkpoint's log holds, oldest first."""
    return _log_decoder.decode(data) if data else []


def here(call: Call) -> Scope:
    """Return the scope of the code that awaits a call.

    Raises:
        NotInRun: the call was carried out of its run.
    """
    scope = scopes.current()
    if scope is None or scope.activation is not call.scope.activation:
        raise NotInRun(f"{call} was made in one run and awaited outside of it; await it there")
    return scope


# --- steps -----------------------------------------------------------------------------------


@reads_as("a durable step without `await`")
async def perform(call: Call, spec: StepSpec, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Carry out a step: replay its recorded outcome, or execute, commit and return it.

    Raises:
        Exception: what the step raised, the same class and message now and on every replay.
        StepTimeout: its last attempt took too long.
        Mismatch: the record at its place is of another call; the run is paused.
        Leave: the body must leave its worker.
    """
    record = call.record
    if record is not None and record.outcome is not StepOutcome.PENDING:
        return await replay(call, record, spec.result)
    scope = here(call)
    activation = scope.activation
    await activation.check(call, in_step=call.scope.in_step)
    if record is None:
        check_fit(call, activation)
    execution = _Execution(call, spec, scope)
    return await (execution.once if spec.at_most_once else execution.run)(args, kwargs)


async def replay(call: Call, record: Checkpoint, result: Schema[Any]) -> Any:
    """Return or raise what is recorded, when it is its turn."""
    if record.outcome is StepOutcome.CANCELLED:
        await _until_given_up(call)
    await give(call, moment_of(record), record)
    if record.outcome is StepOutcome.OK:
        return result.decode(record.value or b"null")
    error = decode_error(record.value or b"null")
    mark(error, (call.key,))
    raise error


def give_up(call: Call, record: Callable[[], SaveCheckpoint]) -> None:
    """Record without waiting that the body cancelled a call, unless the body is leaving.

    Nothing of it is kept inside a step, whose next attempt executes it anew.
    """
    activation = call.scope.activation
    if activation.leaving is None and not call.scope.in_step:
        save = record()
        activation.journal.given_up.append(call.key)
        committed = activation.engine.committer.submit(save, patient=True)
        committed.add_done_callback(look_at)
        if activation.hooks.of_steps:
            telling.when_saved(activation, save, committed)


async def is_over(call: Call) -> bool:
    """Replay a wait that was over, in its turn; tell whether it was. One given up waits so."""
    record = call.record
    if record is None or record.outcome is StepOutcome.PENDING:
        return False
    if record.outcome is StepOutcome.CANCELLED:
        await _until_given_up(call)
    await give(call, moment_of(record), record)
    return True


async def _until_given_up(call: Call) -> NoReturn:
    """Do nothing until the body gives the call up, as it did when that was recorded."""
    await call.scope.activation.check(call, in_step=call.scope.in_step)
    await asyncio.get_running_loop().create_future()
    raise AssertionError("nobody sets this future")


async def commit(call: Call, save: SaveCheckpoint) -> None:
    """Commit a final outcome; return when it is its turn to be given to the body.

    Raises:
        Leave: the run is no longer ours, or is to be cancelled.
    """
    await call.scope.activation.save(save)
    await give(call, (save.grant.epoch, save.ended_at))


async def give(call: Call, moment: Moment, record: Checkpoint | None = None) -> None:
    """Let an outcome wait for its turn, and note its time for the code that is given it.

    What happens in a step is nothing that a replay repeats, so there the order is free.

    Args:
        call: whose outcome it is.
        moment: when it was recorded.
        record: where it was found, on a replay.
    """
    scope = here(call)
    if record is not None:
        scope.activation.journal.asked(record)
    if scope.activation.has_branches and not call.scope.in_step:
        await scope.activation.turn(scope.branch, moment)
    scope.newest = max(scope.newest, moment[1])


def mark(error: BaseException, keys: tuple[StepKey, ...]) -> None:
    """Note on an error the steps whose recorded failure it is."""
    try:
        error.__perdure_steps__ = keys  # type: ignore[attr-defined]
    except AttributeError:
        return


def culprits(error: BaseException | None, seen: set[int] | None = None) -> list[StepKey]:
    """Return the steps whose recorded failure is in an error, its causes or its group."""
    seen = set() if seen is None else seen
    if error is None or id(error) in seen:
        return []
    seen.add(id(error))
    found: list[StepKey] = [*getattr(error, "__perdure_steps__", ())]
    if isinstance(error, BaseExceptionGroup):
        for member in error.exceptions:  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
            found.extend(culprits(member, seen))  # pyright: ignore[reportUnknownArgumentType]
    found.extend(culprits(error.__cause__, seen))
    found.extend(culprits(error.__context__, seen))
    return list(dict.fromkeys(found))


def check_fit(call: Call, activation: Activation) -> None:
    """Pause the run where the record at the place of a call that is new work is of another one.

    Raises:
        Mismatch: it is.
    """
    journal = activation.journal
    if not journal.replaying or call.scope.in_step:
        return
    displaced = journal.displaced(call.scope.digest, call.path, call.position)
    if displaced is None:
        return
    recorded = f"{displaced.key.path}({displaced.text})"
    raise activation.mismatched(
        Mismatch(
            f"step {call.path!r} of workflow {activation.definition.name!r} does not fit what is "
            f"recorded in run {activation.run.run_id}: call {call.position + 1} of that name was "
            f"{recorded} at {displaced.site}, the code now asks for {call} at {call.site}; the "
            "run is paused until a worker with code that fits appears",
            step=call.path,
            recorded=recorded,
            asked=str(call),
        )
    )


class _Execution:
    """The attempts of one step in this process."""

    __slots__ = (
        "activation",
        "call",
        "engine",
        "log",
        "scope",
        "spec",
        "started_at",
        "thread",
        "tries",
    )

    def __init__(self, call: Call, spec: StepSpec, scope: Scope) -> None:
        self.call = call
        self.spec = spec
        self.scope = scope
        self.activation = scope.activation
        self.engine = scope.activation.engine
        record = call.record
        self.tries = 0 if record is None else record.tries
        self.log = None if record is None else record.log
        self.started_at = 0
        self.thread: asyncio.Future[Any] | None = None

    async def run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        record = self.call.record
        if record is not None and (record.due_at or 0) > self.engine.store_now():
            await self._wait(record.due_at or 0)
        while True:
            due_at, outcome = await self._attempt(args, kwargs)
            if due_at is None:
                return outcome
            await self._wait(due_at)
            await self.activation.check(self.call, in_step=self.call.scope.in_step)

    async def once(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Record the start, then make the only attempt; what was started before has failed.

        Any record means a start, also one that a retry of the run or of the step around has
        reopened.
        """
        record = self.call.record
        if record is not None:
            await self._failed_before(record)
        self.activation.begin_work()
        try:
            await self._open(self._checkpoint(StepOutcome.PENDING, None, delay=0))
        finally:
            self.activation.end_work()
        return (await self._attempt(args, kwargs))[1]

    async def _open(self, save: SaveCheckpoint) -> None:
        """Record what leaves the call open, so that the next attempt of a step around finds it."""
        await self.activation.save(save)
        if self.call.scope.in_step and self.spec.at_most_once:
            self.activation.journal.remember(_recorded(save))

    async def _failed_before(self, record: Checkpoint) -> NoReturn:
        """Record and raise how an earlier start ended: with its error, or nobody knows."""
        path, run_id = self.call.path, self.activation.run.run_id
        error: BaseException = StepInterrupted(
            f"step {path!r} of run {run_id} was started and what became of it is not known; it is "
            "at_most_once and not started again. Find out whether it took effect, and catch "
            "StepInterrupted in the body to go on either way"
        )
        if record.value is not None:
            error = decode_error(record.value)
        assert isinstance(error, Exception), "nothing else is recorded"
        self.started_at, self.tries, self.log = record.started_at, 1, None
        self.activation.begin_work()
        try:
            await self._failed(error, None)
        finally:
            self.activation.end_work()
        raise AssertionError("a step without another attempt raises its error")

    async def _wait(self, due_at: Micros) -> None:
        """Wait for the next attempt."""
        join = self.activation.next_join()
        condition = until(WaitKind.RETRY, self.call.path, due_at, join)
        try:
            await self.activation.wait(self.scope.branch, condition)
        except asyncio.CancelledError:
            self._given_up()
            raise

    async def _attempt(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Micros | None, Any]:
        """Make one attempt; return when the next is due, or None and the result."""
        activation = self.activation
        activation.begin_work()
        self.tries += 1
        self.started_at = self.engine.store_now()
        if self.activation.hooks.of_steps:
            telling.step_started(activation, self.call.path, self.tries)
        try:
            asked = _cancellations()
            try:
                value = await self._invoke(args, kwargs)
            except asyncio.CancelledError as error:
                if _cancellations() == asked and activation.leaving is None:
                    failure = PerdureError(
                        f"step {self.call.path!r} raised CancelledError, and nobody had cancelled "
                        "it; something that it awaited was cancelled elsewhere"
                    )
                    failure.__cause__ = error
                    return await self._failed(failure, self._delay_after(failure)), None
                self._given_up()
                raise
            except Exception as error:  # noqa: BLE001 -- recorded, and raised again
                return await self._failed(error, self._delay_after(error)), None
            try:
                data, seen = self.spec.result.round_trip(value)
                self.engine.within_limit(data, f"the result of step {self.call.path!r}")
            except InvalidValue as wrong:
                unfit = _by_name(wrong, f"step {self.call.path!r}")
                # The same code would return the same thing again.
                return await self._failed(unfit, None), None
            await self._save(StepOutcome.OK, data)
            return None, seen
        finally:
            activation.end_work()

    async def _invoke(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        spec = self.spec
        inner = self.scope.inside_step(self.call, self.tries)
        token = scopes.enter(inner)
        try:
            if spec.is_async:
                awaitable = spec.function(*args, **kwargs)
                if spec.timeout is None:
                    return await awaitable
                return await _within(spec.timeout, awaitable, self.call)
            return await self._in_thread(args, kwargs)
        finally:
            scopes.leave(token)

    async def _in_thread(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a `def`, after the thread of an attempt that took too long has ended."""
        spec = self.spec
        if self.thread is not None:
            await asyncio.wait([self.thread])
        self.thread = in_pool(self.engine.pool, spec.function, args, kwargs)
        waiting = asyncio.shield(self.thread)
        self.thread.add_done_callback(look_at)
        value = await (
            waiting if spec.timeout is None else _within(spec.timeout, waiting, self.call)
        )
        # `lambda: fetch(1)` is a def whose result is a coroutine; it belongs on the loop.
        return await value if inspect.isawaitable(value) else value

    def _given_up(self) -> None:
        give_up(self.call, lambda: self._checkpoint(StepOutcome.CANCELLED, None))

    def _delay_after(self, error: Exception) -> Micros | None:
        return self.spec.policy.decide(error, self.tries, self.engine.rng)

    async def _failed(self, error: Exception, delay: Micros | None) -> Micros | None:
        """Record a failed attempt; return when the next is due, or raise what is final."""
        data, seen = replayed_error(error)
        self._note(data)
        if delay is None and self.call.scope.in_step:
            # Final for this attempt of the step around it, which may be tried again and then
            # asks anew: only what succeeded in it is kept.
            again = self._checkpoint(StepOutcome.PENDING, data, delay=0)
            await self._open(msgspec.structs.replace(again, tries=0))
            raise seen
        if delay is None:
            late = isinstance(error, StepTimeout)
            try:
                await self._save(StepOutcome.TIMEOUT if late else StepOutcome.ERROR, data)
            except asyncio.CancelledError:
                # It fails unseen: nothing that the body raises leads back to it.
                self.activation.journal.given_up.append(self.call.key)
                raise
            mark(seen, (self.call.key,))
            raise seen
        saved = await self.activation.save(self._checkpoint(StepOutcome.PENDING, data, delay=delay))
        if saved.due_at is None:
            return self.engine.store_now() + delay
        # What is waited for here is the delay, however far the store's clock has jumped meanwhile.
        self.engine.heard_store_time(saved.due_at - delay)
        return saved.due_at

    def _note(self, data: bytes) -> None:
        summary = error_summary(data)
        failed = FailedTry(
            self.tries,
            self.started_at,
            self.engine.store_now(),
            summary.type,
            summary.message[:500],
        )
        self.log = _log_encoder.encode([*decode_log(self.log), failed])

    async def _save(self, outcome: StepOutcome, data: bytes | None) -> None:
        checkpoint = self._checkpoint(outcome, data)
        await commit(self.call, checkpoint)
        if self.call.scope.in_step and outcome is StepOutcome.OK:
            self.activation.journal.remember(_recorded(checkpoint))

    def _checkpoint(
        self, outcome: StepOutcome, data: bytes | None, *, delay: Micros | None = None
    ) -> SaveCheckpoint:
        call = self.call
        return SaveCheckpoint(
            self.activation.grant,
            call.key,
            call.position,
            call.kind,
            outcome,
            data,
            self.tries,
            self.log,
            delay,
            self.started_at,
            self.activation.stamp(),
            call.site,
            call.text,
        )


def _by_name(error: InvalidValue, what: str) -> InvalidValue:
    """Return the error of a result with the name of what returned it, if it is not in there."""
    if what in str(error):
        return error
    return InvalidValue(f"{what} {error}", path=error.path)


def _recorded(save: SaveCheckpoint) -> Checkpoint:
    """Return the record that the store makes of it, but for when a next attempt is due."""
    return Checkpoint(
        key=save.key,
        position=save.position,
        kind=save.kind,
        outcome=save.outcome,
        value=save.value,
        tries=save.tries,
        log=save.log,
        due_at=None,
        started_at=save.started_at,
        ended_at=save.ended_at,
        site=save.site,
        text=save.text,
        epoch=save.grant.epoch,
    )


def look_at(future: asyncio.Future[Any]) -> None:
    """Keep asyncio from complaining: whoever writes next meets the same failure."""
    if not future.cancelled():
        future.exception()


async def _within(seconds: float, awaitable: Any, call: Call) -> Any:
    """Await with a limit.

    Raises:
        StepTimeout: it took longer. Cancellation by anyone else stays a cancellation.
    """
    task = asyncio.current_task()
    assert task is not None, "a step is awaited in a task"
    late = False

    def expire() -> None:
        nonlocal late
        late = True
        task.cancel()

    before = task.cancelling()
    deadline = call.scope.activation.engine.deadlines.after(seconds, expire)
    try:
        result = await awaitable
    except asyncio.CancelledError:
        if not late or task.uncancel() > before:
            raise
    except Exception:
        if not late:
            raise
        task.uncancel()
    else:
        if not late:
            return result
        # It swallowed the cancellation: what it made of it came too late all the same.
        task.uncancel()
    finally:
        deadline.cancel()
    raise StepTimeout(f"step {call.path!r} took longer than its timeout of {seconds:g} s")


def _cancellations() -> int:
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()


def in_pool(
    pool: ThreadPoolExecutor,
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> asyncio.Future[Any]:
    """Call a function in a thread of a pool, in the running code's context."""
    context = copy_context()
    loop = asyncio.get_running_loop()
    return loop.run_in_executor(pool, lambda: context.run(function, *args, **kwargs))


@reads_as("run(…) without `await`")
async def perform_inline(
    call: Call, body: Callable[[], Coroutine[Any, Any, Any]], result: Schema[Any]
) -> Any:
    """Run another definition's body as part of this one, here and now.

    Its durable calls are recorded in a scope of their own and its result once; unlike in a step,
    it may wait durably, because whatever it has done so far is recorded.
    """
    record = call.record
    if record is not None and record.outcome is not StepOutcome.PENDING:
        return await replay(call, record, result)
    scope = here(call)
    activation = scope.activation
    await activation.check(call, in_step=call.scope.in_step)
    if record is None:
        check_fit(call, activation)
    started_at = activation.engine.store_now()
    if activation.hooks.of_steps:
        telling.step_started(activation, call.path, 1)
    token = scopes.enter(scope.inside_body(call))
    failure: Exception | None = None
    failed_by: list[StepKey] = []
    try:
        data, seen = result.round_trip(await body(), verb=f"{call.path!r} returned")
        activation.engine.within_limit(data, f"the result of {call.path!r}")
    except Exception as error:  # noqa: BLE001 -- recorded, and raised again below
        data, replayed = replayed_error(error)
        failure = seen = replayed  # type: ignore[assignment]
        failed_by = culprits(error)
    finally:
        scopes.leave(token)
    ended_at = activation.stamp()
    activation.begin_work()
    try:
        await commit(
            call,
            SaveCheckpoint(
                activation.grant,
                call.key,
                call.position,
                call.kind,
                StepOutcome.OK if failure is None else StepOutcome.ERROR,
                data,
                started_at=started_at,
                ended_at=ended_at,
                site=call.site,
                text=call.text,
            ),
        )
    finally:
        activation.end_work()
    if failure is not None:
        mark(failure, (call.key, *failed_by))
        raise failure
    return seen


@reads_as("sleep(…) without `await`")
async def sleep(call: Call, delay: Micros) -> None:
    """Wait durably until a time that is recorded before the wait begins.

    What is recorded stands: a replay waits for the rest of it, whatever length the code asks for
    by then.

    Args:
        call: the durable call.
        delay: from now; counted by the store's clock from the moment of recording.
    """
    if await is_over(call):
        return
    recorded, scope = call.record, here(call)
    activation = scope.activation
    await activation.check(call, in_step=call.scope.in_step)
    if recorded is not None and recorded.tries == 0:  # given up by an attempt that failed
        recorded = None
    started_at = activation.engine.store_now() if recorded is None else recorded.started_at
    try:
        if recorded is None:  # cancelled while this is being recorded, it is given up like any
            due_at = await _begin_sleep(call, delay, started_at)
        else:
            due_at = recorded.due_at or 0
        condition = until(WaitKind.SLEEP, call.path, due_at, activation.next_join())
        await activation.wait(scope.branch, condition)
    except asyncio.CancelledError:
        give_up(call, lambda: _slept(call, StepOutcome.CANCELLED, started_at))
        raise
    activation.begin_work()
    try:
        await commit(call, _slept(call, StepOutcome.OK, started_at))
    finally:
        activation.end_work()


async def _begin_sleep(call: Call, delay: Micros, started_at: Micros) -> Micros:
    """Record when a sleep ends; return it."""
    activation = call.scope.activation
    activation.begin_work()
    try:
        begun = _slept(call, StepOutcome.PENDING, started_at)
        saved = await activation.save(msgspec.structs.replace(begun, delay=delay))
    finally:
        activation.end_work()
    if saved.due_at is None:
        return started_at + delay
    activation.engine.heard_store_time(saved.due_at - delay)
    return saved.due_at


def _slept(call: Call, outcome: StepOutcome, started_at: Micros) -> SaveCheckpoint:
    """Return the checkpoint of a sleep."""
    activation = call.scope.activation
    return SaveCheckpoint(
        activation.grant,
        call.key,
        call.position,
        StepKind.SLEEP,
        outcome,
        None,
        started_at=started_at,
        ended_at=activation.stamp(),
        site=call.site,
        text=call.text,
    )


def block_on(activation: Activation, call: Coroutine[Any, Any, T]) -> T:
    """Carry out a durable call for a thread of the body, and block until it is done.

    Raises:
        NotInRun: called on the event loop's thread, which must not block.
        Leave: the body must leave its worker.
    """
    if on_a_loop():
        call.close()
        raise NotInRun(
            "a blocking durable call was made on the event loop's thread; in an `async def` body "
            'write `await step("name", function, …)`, or declare the step with `async def`'
        )
    done: concurrent.futures.Future[T] = concurrent.futures.Future()
    context = copy_context()

    def begin() -> None:
        task = activation.bridge(call, context)
        task.add_done_callback(lambda task: _pass_on(task, done))

    activation.executor.loop.call_soon_threadsafe(begin)
    try:
        return done.result()
    except concurrent.futures.CancelledError:
        raise Leave("the run leaves its worker") from None


def _pass_on(task: asyncio.Future[T], done: concurrent.futures.Future[T]) -> None:
    if task.cancelled():
        done.cancel()
    elif (error := task.exception()) is not None:
        done.set_exception(error)
    else:
        done.set_result(task.result())


def on_a_loop() -> bool:
    """Tell whether the running code is an event loop's."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
