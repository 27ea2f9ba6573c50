"""From a claimed run to its verdict.

A claimed run is started as one task; when the task ends, what it left behind becomes a verdict,
the verdict a settle, and the settle's answer is announced. Every way out of a body passes through
:meth:`Executor._ended`, and every claim ends with exactly one settle unless it was lost.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from perdure._engine import telling, undoing
from perdure._engine.activation import Activation, Leaving
from perdure._engine.calls import culprits, in_pool
from perdure._engine.committer import refuses_the_value
from perdure._engine.context import call_options, make_context
from perdure._engine.definition import Definition, StepSpec, refuse_a_call
from perdure._engine.services import Held
from perdure.codec.failures import encode_error
from perdure.context import Context
from perdure.errors import (
    InvalidValue,
    PerdureError,
    StepTimeout,
    SwallowedSuspension,
)
from perdure.model.records import TERMINAL, Control, Ending, Micros, ParentClose, RunRecord
from perdure.model.streams import WriteStream
from perdure.model.transitions import (
    CancelledByWorker,
    ClaimedRun,
    Completed,
    Continued,
    Failed,
    Fenced,
    Mismatched,
    Released,
    Retrying,
    SaveCheckpoint,
    Settle,
    Settled,
    Suspended,
    Undone,
    Verdict,
)
from perdure.telemetry import Log

if TYPE_CHECKING:
    from perdure._engine.engine import Engine

log = Log("perdure.run")

Left: TypeAlias = Callable[[], None]


class Executor:
    """Executes the runs that one worker holds.

    Args:
        engine: of the app.
        left: called when a body has ended or been suspended: its slot is free. The settle is on
            its way then, in the batch that may carry the next claim.
    """

    def __init__(self, engine: Engine, left: Left) -> None:
        self.engine = engine
        self.loop = asyncio.get_running_loop()
        self.active: dict[str, Activation] = {}
        self.writing = threading.Lock()  # counting and recording go together, in whatever thread
        self.soon: deque[tuple[Activation, SaveCheckpoint | WriteStream]] = deque()
        self._left = left
        self._leaving: set[asyncio.Task[None]] = set()
        self._held: dict[Activation, Held] = {}

    # --- starting ------------------------------------------------------------------------------

    def start(self, claimed: ClaimedRun) -> None:
        """Begin to execute a run that was just claimed."""
        run = claimed.run
        definition = self.engine.registry.executing(run)
        activation = Activation(self, definition, claimed)
        self.active[run.run_id] = activation
        if self.engine.hooks.kinds:
            telling.claimed(activation)
        try:
            args, kwargs = definition.arguments.decode(run.input)
            asks = definition.injects or bool(run.undoing)
            meta = self.engine.meta.decode(run.meta) if asks else None
        except InvalidValue as error:
            self._settle(activation, self._failed(error, "invalid_input"))
            return
        except Exception as error:
            # An annotation that cannot be resolved, say: no fault of the input, and no reason to
            # keep the other runs of this claim from starting.
            log.exception("run could not be started", **_fields(activation))
            self._settle(activation, self._failed(error, "error"))
            return
        if not (run.undoing or self._wants(activation, definition, args, kwargs)):
            return
        undoes = bool(run.undoing)
        begin = self._undo if undoes else self._body
        root = activation.begin(partial(begin, activation, meta, args, kwargs))
        root.add_done_callback(lambda _: self._ended(activation))
        timeout = None if undoes else _timeout(activation)
        if timeout is not None:
            activation.deadline = self.engine.deadlines.after(
                timeout, partial(activation.leave, Leaving.TIMEOUT)
            )

    def _wants(
        self,
        activation: Activation,
        definition: Definition,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> bool:
        """Tell whether a run wants the event that started it; settle it where it does not."""
        cause, where = activation.run.caused_by, definition.where
        is_first = not activation.run.continued  # else the input is no event any more
        if where is None or not is_first or cause is None or not cause.startswith("event:"):
            return True
        event = args[0] if args else kwargs[definition.arguments.only() or ""]
        try:
            wanted = where(event)
        except Exception as error:  # noqa: BLE001 -- recorded as the run's
            self._settle(activation, self._after_failure(activation, error, "error"))
            return False
        if not wanted:
            self._settle(activation, Completed(b"null", declined=True))
        return bool(wanted)

    def _body(
        self, activation: Activation, meta: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Coroutine[Any, Any, Any]:
        definition = activation.definition
        if not definition.injects:
            if definition.is_async:
                body: Coroutine[Any, Any, Any] = definition.function(*args, **kwargs)
                return body
            return self._in_thread(definition, args, kwargs)
        return self._body_with_context(activation, meta, args, kwargs)

    async def _in_thread(
        self, definition: Definition, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        value = await in_pool(self.engine.body_pool, definition.function, args, kwargs)
        refuse_a_call(value, definition.name)
        return value

    async def _body_with_context(
        self, activation: Activation, meta: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        definition = activation.definition
        context = await self._context(activation, meta)
        args, kwargs = definition.arguments.inject(args, kwargs, context)
        if definition.is_async:
            return await definition.function(*args, **kwargs)
        return await self._in_thread(definition, args, kwargs)

    async def _context(self, activation: Activation, meta: Any) -> Context[Any, Any]:
        """Return what a body, or what undoes it, is handed; its services are made once."""
        definition = activation.definition
        held = self._held.get(activation)
        if held is None and definition.services is not None:
            held = await definition.services(f"run {activation.run.run_id} of {definition.name!r}")
            if held.has_clean_up:
                self._held[activation] = held
        return make_context(activation.run, None if held is None else held.value, meta)

    async def _undo(
        self, activation: Activation, meta: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Undone:
        """Undo what the run has done, in the place of its body."""
        spec = activation.definition.on_cancel
        on_cancel = None if spec is None else await self._on_cancel(activation, spec, meta, kwargs)
        body = partial(self._body, activation, meta, args, kwargs)
        return await undoing.undo(activation, body, on_cancel)

    async def _on_cancel(
        self, activation: Activation, spec: StepSpec, meta: Any, named: dict[str, Any]
    ) -> undoing.Compensation:
        """Return the call of what a definition has to do when a run of it is cancelled."""
        kwargs = {name: value for name, value in named.items() if name in spec.arguments.names}
        args: tuple[Any, ...] = ()
        if spec.arguments.injected:
            context = await self._context(activation, meta)
            args, kwargs = spec.arguments.inject((), kwargs, context)
        return undoing.Compensation(spec, args, kwargs, b"", "", activation.definition.place)

    def submit_soon(self) -> None:
        """Submit what code of bodies has recorded without waiting for it, in that order."""
        while self.soon:
            activation, what = self.soon.popleft()
            activation.submit(what)

    # --- ending --------------------------------------------------------------------------------

    def _ended(self, activation: Activation) -> None:
        """The root task is done: settle at once, or first wait until its branches are gone."""
        busy = activation.left() or activation in self._held
        if activation.leaving is None and not busy:
            self._settle(activation, self._verdict(activation))
        elif activation.leaving is not Leaving.SUSPENDED:
            self._spawn(self._leave(activation))

    async def _leave(self, activation: Activation) -> None:
        """Wait until nothing of the body is left, then settle."""
        in_time = await activation.unwind()
        await self._release(activation)
        why = activation.leaving
        if not in_time or (why is not None and _swallowed(activation)):
            self._report_swallowed(activation)
        if why is Leaving.LOST:
            activation.close()
            self._free(activation)
            log.warning("run lost by this worker; it goes on elsewhere", **_fields(activation))
            return
        self._settle(activation, self._verdict(activation))

    async def _release(self, activation: Activation) -> None:
        """Clean up the services of a body that has gone, whatever became of it."""
        held = self._held.pop(activation, None)
        root = activation.root
        if held is not None and root is not None:
            gone = asyncio.CancelledError() if not root.done() or root.cancelled() else None
            await held.release(gone or root.exception())

    def _report_swallowed(self, activation: Activation) -> None:
        error = SwallowedSuspension(
            f"the body of {activation.definition.name!r} (run {activation.run.run_id}) went on "
            f"after it was told to leave ({activation.leaving}); what it did then is not "
            "recorded. Let CancelledError pass: catch Exception, not BaseException, around "
            "durable calls"
        )
        log.error("body went on after it was told to leave", **_fields(activation), error=error)
        if self.engine.on_swallowed is not None:
            self.engine.on_swallowed(error)

    def _verdict(self, activation: Activation) -> Verdict:
        if activation.mismatch is not None:
            return Mismatched(encode_error(activation.mismatch), activation.definition.version)
        match activation.leaving:
            case Leaving.CANCELLED:
                return CancelledByWorker()
            case Leaving.CONTINUED:
                assert activation.next_input is not None
                return Continued(activation.next_input)
            case (
                Leaving.RELEASED
                | Leaving.PAUSED
                | Leaving.SUSPENDED
                | Leaving.LOST
                | Leaving.MISMATCH
                | Leaving.ENDED
            ):
                return Released()
            case Leaving.TIMEOUT:
                return self._after_failure(
                    activation,
                    StepTimeout(
                        f"{activation.definition.name!r} took longer than its timeout of "
                        f"{_timeout(activation):g} s"
                    ),
                    "timeout",
                )
            case None if activation.run.undoing:
                return self._undone(activation)
            case None:
                return self._outcome(activation)

    def _outcome(self, activation: Activation) -> Verdict:
        root = activation.root
        assert root is not None
        if root.cancelled():
            error: BaseException = PerdureError(
                "the body was cancelled from inside: it let a CancelledError out that nobody "
                "outside had asked for"
            )
        else:
            raised = root.exception() or activation.uncollected()
            if raised is None:
                return self._completed(activation, root.result())
            error = raised
        return self._after_failure(activation, error, "error")

    def _undone(self, activation: Activation) -> Verdict:
        root = activation.root
        assert root is not None
        if not root.cancelled() and isinstance(error := root.exception(), Exception):
            return self._failed(error, "compensation")  # the services could not be made, say
        return Released() if root.cancelled() else cast("Undone", root.result())

    def _completed(self, activation: Activation, value: Any) -> Verdict:
        definition = activation.definition
        try:
            data = definition.result.encode(value, verb=f"{definition.name!r} returned")
            self.engine.within_limit(data, f"the result of {definition.name!r}")
        except InvalidValue as error:
            return self._failed(error, "error", compensates=bool(activation.compensations))
        orphans = activation.journal.orphans()
        if orphans:
            log.warning(
                "run ended with recorded steps that its code did not ask for",
                **_fields(activation),
                steps=",".join(record.key.path for record in orphans),
            )
        return Completed(data, tuple(record.key for record in orphans))

    def _after_failure(self, activation: Activation, error: BaseException, reason: str) -> Verdict:
        delay = self.next_attempt(activation, error)
        # gather raises one error of several: what failed beside it has ended this attempt, too. And
        # the next attempt may not give up what this one did, when what failed does not again.
        failed = [key for each in (error, *activation.failures()) for key in culprits(each)]
        reopened = tuple(dict.fromkeys([*failed, *activation.journal.given_up]))
        if delay is None:
            compensates = bool(activation.compensations)
            return Failed(encode_error(error), reason, reopened, compensates)
        return Retrying(encode_error(error), delay, reopened)

    def next_attempt(self, activation: Activation, error: BaseException) -> Micros | None:
        """Return when a body that failed is tried again, in microseconds; None for never.

        The policy, which may be the user's code, is asked once of each error.
        """
        if activation.decided is None or activation.decided[0] is not error:
            run = activation.run
            policy = call_options(run).policy(activation.definition.policy)
            delay = policy.decide(error, run.attempt, self.engine.rng)
            activation.decided = error, delay
        return activation.decided[1]

    def _failed(self, error: Exception, reason: str, *, compensates: bool = False) -> Failed:
        return Failed(encode_error(error), reason, compensates=compensates)

    # --- settling ------------------------------------------------------------------------------

    def _settle(self, activation: Activation, verdict: Verdict) -> None:
        activation.write_progress()
        activation.close()
        self._free(activation)
        settled = self._submit(activation, verdict)
        settled.add_done_callback(lambda future: self._settled(activation, verdict, future))

    def _submit(self, activation: Activation, verdict: Verdict) -> asyncio.Future[Settled | Fenced]:
        cleans = activation.definition.on_cancel is not None
        settled = self.engine.committer.submit(
            Settle(activation.grant, verdict, cleans), patient=True
        )
        if self.engine.hooks.kinds:
            telling.when_settled(activation, verdict, settled)
        return settled

    def _free(self, activation: Activation) -> None:
        run_id = activation.run.run_id
        if self.active.get(run_id) is activation:  # else it was claimed again while this one left
            del self.active[run_id]
        self._left()

    def _settled(
        self, activation: Activation, verdict: Verdict, future: asyncio.Future[Settled | Fenced]
    ) -> None:
        run = activation.run
        if future.cancelled():
            return
        failure = future.exception()
        if failure is not None:
            self._not_settled(activation, verdict, failure)
            return
        answer = future.result()
        if isinstance(answer, Fenced):
            log.warning("end of run refused; it is held elsewhere", **_fields(activation))
        elif answer.status in TERMINAL:
            self.announce(activation, _ending(run, answer, verdict))
            if activation.attaches:
                self._cancel_attached(run)
        if isinstance(answer, Settled) and answer.closed:
            self._spawn(telling.closed(self.engine, answer.closed))

    def _cancel_attached(self, parent: RunRecord) -> None:
        """Tell at once those children here that the store has cancelled with their parent."""
        for child in list(self.active.values()):
            attached = child.run.on_parent_close is not ParentClose.ABANDON
            if attached and child.run.parent_id == parent.run_id:
                child.heard(Control.CANCEL)

    def _not_settled(
        self, activation: Activation, verdict: Verdict, failure: BaseException
    ) -> None:
        """The store cannot take this verdict: say so in its place.

        Where it can take nothing at all (it was busy until the worker stopped) nothing is said:
        the claim is left to a rescuer, and the body to a replay.
        """
        log.error("run could not be settled", **_fields(activation), error=failure)
        if refuses_the_value(failure) and not isinstance(verdict, Failed):
            second = Failed(encode_error(failure), "error")
            future = self._submit(activation, second)
            future.add_done_callback(lambda done: self._settled(activation, second, done))

    def announce(self, activation: Activation, ending: Ending) -> None:
        """Tell whoever waits in this process, also a parent that has not begun to wait yet."""
        parent = activation.run.parent_id
        if parent is not None:
            waiting = self.active.get(parent)
            if waiting is not None:
                waiting.endings[ending.run_id] = ending
        self.engine.watcher.announce(ending)

    # --- suspending and stopping ---------------------------------------------------------------

    def suspend(self, activation: Activation, verdict: Suspended) -> None:
        """Take an idle body out of memory: mark, commit its wake conditions, unwind."""
        activation.leaving = Leaving.SUSPENDED
        activation.write_progress()
        self._spawn(self._suspend(activation, verdict))

    async def _suspend(self, activation: Activation, verdict: Suspended) -> None:
        settled = self._submit(activation, verdict)
        settled.add_done_callback(lambda future: self._settled(activation, verdict, future))
        # Until it is committed the body stays as it is, unless it must leave before: the store
        # may be out of reach, and a stop cannot wait for it.
        assert activation.root is not None
        await asyncio.wait([settled, activation.root], return_when=asyncio.FIRST_COMPLETED)
        activation.close()
        activation.leave(Leaving.SUSPENDED)
        in_time = await activation.unwind()
        if not in_time or _swallowed(activation):
            self._report_swallowed(activation)
        await self._release(activation)
        self._free(activation)

    async def empty(self) -> None:
        """Wait until no body is executing and none is leaving."""
        while self.active or self._leaving:
            waiting: list[asyncio.Future[Any]] = list(self._leaving)
            for activation in self.active.values():
                waiting.extend(activation.left())
            if waiting:
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.sleep(0)

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.Task(coroutine, loop=self.loop)
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)


def _fields(activation: Activation) -> dict[str, str | None]:
    """Return what every line of the log says of a run."""
    run = activation.run
    return {"run_id": run.run_id, "definition": run.definition, "worker_id": run.worker_id}


def _timeout(activation: Activation) -> float | None:
    """Return how many seconds an attempt may take: the call's word, else the definition's."""
    chosen = call_options(activation.run).timeout
    return activation.definition.timeout if chosen is None else chosen


def _swallowed(activation: Activation) -> bool:
    """Tell whether a body that was told to leave ended otherwise than by leaving."""
    root = activation.root
    if root is None or not root.done() or root.cancelled():
        return False
    raised = root.exception()
    # A mismatch told the body with an Exception, which it may well have caught.
    return activation.leaving is not Leaving.MISMATCH and (
        activation.leaving is Leaving.SUSPENDED or raised is None
    )


def _ending(run: RunRecord, answer: Settled, verdict: Verdict) -> Ending:
    run_id = run.run_id
    match verdict:
        case Undone() if answer.status == "failed":
            if verdict.culprits:
                return Ending(run_id, answer.status, None, verdict.error, "compensation")
            return Ending(run_id, answer.status, None, run.error, run.reason or "error")
        case Completed() if answer.status == "completed":
            reason = "declined" if verdict.declined else None
            return Ending(run_id, answer.status, verdict.result, None, reason)
        case Failed() if answer.status == "failed":
            return Ending(run_id, answer.status, None, verdict.error, verdict.reason)
        case _:
            return Ending(run_id, answer.status, None, None, None)
