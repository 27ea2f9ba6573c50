"""One claimed run in this process: its journal, branches, waits, and how it is told to leave.

An activation begins with a claim and ends with a settle. In between its body runs in one root
task, whose branches make durable calls (:mod:`perdure._engine.calls`). The activation counts what
executes and what waits; when nothing can move without the store, it is idle and the body is
suspended: the leaving mark is set, the wake conditions are committed, and the body is unwound.
While the mark stands every durable call raises :class:`~perdure.errors.Leave` and records nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context, copy_context
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from perdure._engine import scope as scopes
from perdure._engine import telling
from perdure._engine.calls import check_fit
from perdure._engine.committer import RETRY_DELAYS
from perdure._engine.deadlines import Deadline
from perdure._engine.journal import Journal, Moment
from perdure._engine.progress import Progress
from perdure._engine.scope import Branch, Call, Scope, context_of
from perdure._engine.turns import Turns
from perdure._engine.waits import DurableWait, Hold, awaited_children, end_of
from perdure.errors import (
    Leave,
    Mismatch,
    NotApplied,
    OutcomeUnknown,
    PerdureError,
    UsageError,
)
from perdure.model.lineage import seed_of
from perdure.model.progress import SetProgress
from perdure.model.records import Control, Ending, Grant, Micros, Wait, WaitKind
from perdure.model.streams import WriteStream
from perdure.model.transitions import (
    ClaimedRun,
    Conflict,
    SaveCheckpoint,
    Saved,
    Suspended,
)

if TYPE_CHECKING:
    from perdure._engine.definition import Definition
    from perdure._engine.executor import Executor
    from perdure._engine.undoing import Compensation

T = TypeVar("T")

IDLE_GRACE = 0.02
"""Seconds a body must be idle before it is suspended: shorter waits are cheaper in memory."""

REPLAY_OF_A_WAIT = 0.000_05
"""Seconds that a replay takes, about, until it is again in one of many waits: a task or two, and
their turns. A body stays idle for as long as it would take to come back, if that is longer than
IDLE_GRACE: so it never costs more than twice what it would if it were known when the next wait is
over. Of 10,000 children that end within a minute one ends every 6 ms."""

GRACE_LIMIT = 0.5
"""Seconds for which a body that waits is kept in its slot at most."""

UNWIND_LIMIT = 5.0
"""Seconds a body may take to leave before it is reported as swallowing its suspension."""

REPLAY_WORTH_COALESCING = 0.002
"""Seconds of replay from which on a parent's wake-ups by its children are coalesced."""

COALESCE_LIMIT: Micros = 500_000
"""The longest that a parent's wake-up is held back to be joined by others."""

ASK_AGAIN = 0.001
"""Seconds at least between two questions for the same event: the store's clock alone decides when a
wait is over, and may have been set back since it was heard."""

UNDOING = "~undo/"
"""What the paths of the steps that undo something begin with; no step's name may."""


class Leaving(StrEnum):
    """Why a body must leave its worker."""

    SUSPENDED = "suspended"
    RELEASED = "released"
    PAUSED = "paused"
    CANCELLED = "cancelled"
    LOST = "lost"
    TIMEOUT = "timeout"
    MISMATCH = "mismatch"
    CONTINUED = "continued"
    ENDED = "ended"


_ENDING = frozenset({Control.CANCEL, Control.COMPENSATE, Control.RESTART})
"""What an operator may ask of a run that stops its body for good."""

_DESPITE_AN_OUTCOME = frozenset({Leaving.CANCELLED, Leaving.LOST})


def _awaits(task: asyncio.Future[Any]) -> bool:
    """Tell whether a task awaits a future that is not done; how is not said by every task."""
    waiter = getattr(task, "_fut_waiter", None)
    return not task.done() and waiter is not None and not waiter.done()


def _look_at(future: asyncio.Future[Any]) -> None:
    """Keep asyncio from complaining: whoever writes next meets the same failure."""
    if not future.cancelled():
        future.exception()


def _is_on(loop: asyncio.AbstractEventLoop) -> bool:
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False


class Activation:
    """A run between its claim and its settle."""

    __slots__ = (
        "_activity",
        "_awake",
        "_began",
        "_branch",
        "_bridges",
        "_executing",
        "_failed",
        "_halted",
        "_idle_timer",
        "_is_apart",
        "_joins",
        "_loop",
        "_of_children",
        "_pausing",
        "_progress",
        "_replayed_in",
        "_stamp",
        "_tasks",
        "_threads",
        "_turns",
        "_waits",
        "attaches",
        "children",
        "closed",
        "compensations",
        "deadline",
        "decided",
        "definition",
        "endings",
        "engine",
        "executor",
        "grant",
        "hooks",
        "journal",
        "leaving",
        "mismatch",
        "next_input",
        "root",
        "run",
        "words",
        "written",
    )

    def __init__(self, executor: Executor, definition: Definition, claimed: ClaimedRun) -> None:
        run = claimed.run
        self.executor = executor
        self.engine = executor.engine
        self.hooks = executor.engine.hooks  # at hand: it is asked for at every step
        self.definition = definition
        self.run = run
        self.grant = Grant(run.run_id, run.epoch, run.grant)
        self.journal = Journal(claimed.checkpoints)
        self.endings: dict[str, Ending] = {}
        self.children: set[str] = set()
        self.attaches = run.attaches
        self.leaving: Leaving | None = None
        self._pausing: asyncio.Event | None = None  # set when it is taken back
        self.words = 0  # heard so far that ask for a pause
        self.mismatch: Mismatch | None = None
        self.compensations: list[Compensation] = []
        self._progress: Progress | None = None
        self.next_input: bytes | None = None  # where it continues as new
        self.written: dict[tuple[str, bytes], int] = {}
        self.closed: set[str] = set()
        self.decided: tuple[BaseException, Micros | None] | None = None
        self._halted: asyncio.Future[None] | None = None  # while nothing new may be done
        self._is_apart = False  # the body has gone, and durable calls of it are refused
        self.root: asyncio.Future[Any] | None = None
        self.deadline: Deadline | None = None
        self._loop = executor.loop
        self._branch = Branch(None)
        self._tasks: dict[asyncio.Future[Any], Branch] = {}
        self._failed: list[asyncio.Future[Any]] = []
        self._threads: set[Branch] = set()
        self._bridges: set[asyncio.Future[Any]] = set()
        self._waits: set[DurableWait] = set()
        self._of_children: dict[str, list[DurableWait]] = {}  # those among them, by child
        # The body's tasks that may be doing something: of ten thousand that wait for children or
        # for their turn few have to be looked at each time that one has ended or is given a turn.
        self._awake: set[asyncio.Future[Any]] = set()
        self._executing = 0
        self._activity = 0
        self._idle_timer: asyncio.TimerHandle | None = None
        self._joins = 0
        self._turns: Turns | None = None
        self._stamp: Micros = 0
        self._began = self._loop.time()
        self._replayed_in: float | None = None if self.journal.recorded else 0.0
        for ending in claimed.endings:
            self.endings[ending.run_id] = ending
        for mark in claimed.marks:
            self.written[mark.stream, mark.scope] = mark.written
            if mark.closed:
                self.closed.add(mark.stream)

    # --- beginning and ending ------------------------------------------------------------------

    def begin(self, body: Callable[[], Coroutine[Any, Any, Any]]) -> asyncio.Task[Any]:
        """Start the body's root task; one that is cancelled at once does not begin the body."""
        scope = Scope(self, self._branch, "", self._began_at(), b"")
        name = self.run.run_id
        task = asyncio.Task(
            self._to_the_end(body), loop=self._loop, name=name, context=context_of(scope)
        )
        self._branch.task = task
        self.root = task
        self._awake.add(task)
        return task

    async def _to_the_end(self, body: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """Carry out the body, and let it be over only with the children that it waits for."""
        try:
            result = await body()
            failed = self.uncollected() if self.leaving is None else None
            if failed is not None:
                raise failed
        except Exception as error:
            await self._children_over(error)
            raise
        await self._children_over(None)
        return result

    async def _children_over(self, failure: BaseException | None) -> None:
        """Wait durably for the children that say so; nothing else of the body goes on meanwhile.

        Who they are is asked of the store, so it is the same for those that a step has started, or
        an earlier generation, which this replay does not start. A failure after which there is
        another attempt is no end: that goes on with the children.
        """
        if not self.attaches or self.leaving is not None or self.run.undoing:
            return
        if failure is not None and self.executor.next_attempt(self, failure) is not None:
            return
        self.begin_work()
        try:
            self._is_apart = True
            await self._cancel(self._branches_left)
            living = await self.ask(
                lambda: awaited_children(self.engine.store, self.run.run_id), "the end of the body"
            )
        finally:
            self.end_work()
        join = self.next_join()
        waits = [self._begin_wait(self._branch, end_of(run_id, join)) for run_id in living]
        for wait in waits:
            await self._over(wait)

    def _began_at(self) -> Micros:
        """Return the time from which the body counts, before it has consumed any record."""
        run, origin = self.run, self.journal.origin
        return run.started_at or run.created_at if origin is None else origin.started_at

    # --- replaying it and no more ----------------------------------------------------------------

    def begin_replay(
        self, body: Coroutine[Any, Any, Any]
    ) -> tuple[asyncio.Task[Any], asyncio.Future[None]]:
        """Let the body go as far as it gets without doing anything that is not recorded.

        Returns:
            The body's task, and what is done when the body can go no further.
        """
        self._halted = self._loop.create_future()
        # Not by the loop's factory: it is no branch of the body, but the body.
        task = asyncio.Task(body, loop=self._loop, context=copy_context())
        self._branch.task = task
        self._tasks[task] = self._branch
        self._awake.add(task)
        task.add_done_callback(self._task_done)
        return task, self._halted

    async def end_replay(self) -> None:
        """Stop the body, which does nothing durable any more; wait until nothing of it is left."""
        self._is_apart = True
        self._halted = None
        await self._cancel(self._branches_left)
        for wait in list(self._waits):
            self._forget(wait)
        self._hush()
        self._failed.clear()
        self.journal.expect_nothing()
        if isinstance(self.root, asyncio.Task):
            self._branch.task = self.root

    def scope_apart(self, path: str, digest: bytes) -> Scope:
        """Return a scope for calls that are not the body's."""
        self._is_apart = True
        return Scope(self, self._branch, path, self._began_at(), digest)

    async def _halt(self, call: object) -> None:
        """Keep a call that is not recorded where it is, until the body is stopped.

        Raises:
            Mismatch: another call is recorded in its place; the run is paused.
        """
        if isinstance(call, Call) and call.record is None:
            check_fit(call, self)
        scope = scopes.current()
        branch = self._branch if scope is None else scope.branch
        condition = Wait(WaitKind.RETRY, str(call), None, self.next_join())
        await self.wait(branch, condition)

    def _refuses(self, call: object) -> bool:
        """Tell whether a call is the body's, which has gone."""
        return isinstance(call, Call) and self._is_gone(call.path)

    def _is_gone(self, path: str) -> bool:
        """Tell whether the code of a path is the body's, which has gone."""
        return self._is_apart and not path.startswith(UNDOING)

    # --- being told to leave -------------------------------------------------------------------

    @property
    def seed(self) -> str:
        """What the values that the body derives are drawn from."""
        origin = self.journal.origin
        if origin is None or origin.value is None:
            return seed_of(self.run.run_id, self.run.generation)
        return origin.value.decode()

    def leave(self, why: Leaving) -> None:
        """Tell the body to leave: set the mark and cancel the root. Later calls change nothing."""
        root_done = self.root is not None and self.root.done()
        if self.leaving is None and root_done and why not in _DESPITE_AN_OUTCOME:
            return  # it has ended by itself, and its outcome is about to be settled
        if self.leaving is None:
            self.leaving = why
        self._stop_idling()
        if self.root is not None and not self.root.done():
            self.root.cancel()

    def continue_as_new(self, data: bytes, branch: Branch) -> None:
        """Tell the body to leave, because its run goes on with another input; from any thread.

        Args:
            data: the input of the next generation.
            branch: the flow of control that says so. It leaves by itself: a cancellation would hit
                what it awaits on its way out.
        """
        if self.leaving is None and self._halted is None:
            self.next_input = data
            self.leaving = Leaving.CONTINUED
            if _is_on(self._loop):
                self._leave_as_new(branch)
            else:
                self._loop.call_soon_threadsafe(self._leave_as_new, branch)

    def _leave_as_new(self, branch: Branch) -> None:
        self._stop_idling()
        if branch is not self._branch and self.root is not None and not self.root.done():
            self.root.cancel()

    async def unwind(self) -> bool:
        """Wait until nothing of the body is left; return whether it left in time.

        The root has been cancelled, so gather and TaskGroup passed it on; whatever is left is
        cancelled now, and again while it lasts.
        """
        return await self._cancel(self.left)

    async def _cancel(self, tasks: Callable[[], list[asyncio.Future[Any]]]) -> bool:
        """Cancel tasks for as long as some are left; return whether they left in time."""
        limit = self._loop.time() + UNWIND_LIMIT
        while left := tasks():
            for task in left:
                task.cancel()
            remaining = limit - self._loop.time()
            if remaining <= 0:
                return False
            await asyncio.wait(left, timeout=min(remaining, 1.0))
        return True

    def left(self) -> list[asyncio.Future[Any]]:
        """Return the body's tasks that are not done: the root first, then its branches."""
        tasks = self._branches_left()
        if self.root is not None and not self.root.done():
            tasks.insert(0, self.root)
        return tasks

    def _branches_left(self) -> list[asyncio.Future[Any]]:
        return [task for task in (*self._tasks, *self._bridges) if not task.done()]

    def of_the_body(self) -> list[asyncio.Task[Any]]:
        """Return the live tasks whose code is the body's, not a step's."""
        branches = [self._branch, *self._tasks.values()]
        tasks = [branch.task for branch in branches if not branch.in_step]
        return [task for task in tasks if task is not None and not task.done()]

    def close(self) -> None:
        """Forget everything that could fire later; threads left over record nothing more."""
        if self.leaving is None:
            self.leaving = Leaving.ENDED
        self._stop_idling()
        if self._turns is not None:
            self._turns.close()
        if self._progress is not None:
            self._progress.close()
        if self.deadline is not None:
            self.deadline.cancel()
        for wait in list(self._waits):
            self._forget(wait)
        self._hush()

    def _hush(self) -> None:
        """Keep asyncio from complaining about errors that the body did not collect in this pass.

        The verdict has looked at them, or a replay will raise them again.
        """
        for task in self._failed:
            task.exception()

    def uncollected(self) -> BaseException | None:
        """Return the error of a task that failed and that nobody awaited, if there is one.

        It counts as collected by that.
        """
        for task in self._failed:
            # asyncio clears this flag when somebody retrieves the exception.
            if getattr(task, "_log_traceback", False):
                return task.exception()
        return None

    def failures(self) -> list[BaseException]:
        """Return the errors of the body's tasks that failed, collected or not."""
        errors = (task.exception() for task in self._failed)
        return [error for error in errors if error is not None]

    # --- branches --------------------------------------------------------------------------------

    def adopt(self, branch: Branch, task: asyncio.Future[Any]) -> None:
        """Take in a task that the body started."""
        if isinstance(task, asyncio.Task):
            branch.task = task
        if branch.parent is not None:
            branch.parent.children += 1
        self._tasks[task] = branch
        self._awake.add(task)
        self._activity += 1
        task.add_done_callback(self._task_done)

    def _task_done(self, task: asyncio.Future[Any]) -> None:
        branch = self._tasks.pop(task)
        self._awake.discard(task)
        if branch.parent is not None:
            branch.parent.children -= 1
        if not task.cancelled() and getattr(task, "_log_traceback", False):
            self._failed.append(task)
            if self.leaving is not None:
                self._hush()
        self._activity += 1
        self.consider_idle()

    def thread_began(self, branch: Branch) -> None:
        """A carried thread begins; called in that thread."""
        self._tell(self._thread_began, branch)

    def thread_ended(self, branch: Branch) -> None:
        """A carried thread has ended; called in that thread."""
        self._tell(self._thread_ended, branch)

    def _tell(self, callback: Callable[[Branch], None], branch: Branch) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, branch)
        except RuntimeError:
            # The thread outlived its run's loop: nobody is left to be told.
            if not self._loop.is_closed():
                raise

    def _thread_began(self, branch: Branch) -> None:
        self._threads.add(branch)
        if branch.parent is not None:
            branch.parent.children += 1
        self._activity += 1

    def _thread_ended(self, branch: Branch) -> None:
        self._threads.discard(branch)
        if branch.parent is not None:
            branch.parent.children -= 1
        self._activity += 1
        self.consider_idle()

    def bridge(self, call: Coroutine[Any, Any, Any], context: Context) -> asyncio.Task[Any]:
        """Carry out a durable call that a thread of the body waits for; called on the loop."""
        task = asyncio.Task(call, loop=self._loop, context=context)
        self._bridges.add(task)
        task.add_done_callback(self._bridges.discard)
        return task

    # --- turns -----------------------------------------------------------------------------------

    @property
    def has_branches(self) -> bool:
        """Whether the body has more than one flow of control now."""
        return bool(self._tasks) or bool(self._threads)

    async def turn(self, branch: Branch, moment: Moment) -> None:
        """Wait until an outcome of this moment may be given to a branch."""
        turns = self._turns
        if turns is None:
            turns = self._turns = Turns(
                self._loop, self.journal, self._rests, self._stirs, self._at_rest
            )
        await turns.take(branch, moment)

    def _stirs(self) -> bool:
        """Tell whether a branch is doing something by itself, rather than waiting for others."""
        return (
            self._branch.stirs()
            or any(branch.stirs() for branch in self._tasks.values())
            or any(branch.stirs() for branch in self._threads)
        )

    def stamp(self) -> Micros:
        """Return the time of an outcome: that of the store, and later than the last one's.

        Replays go by these times, and what is known of the store's time steps back a little with
        every answer that was long under way.
        """
        self._stamp = max(self.engine.store_now(), self._stamp + 1)
        return self._stamp

    def _at_rest(self) -> bool:
        """Tell whether each of the body's tasks awaits something that is not there yet."""
        return all(_awaits(task) for task in self._awake)

    # --- work ------------------------------------------------------------------------------------

    async def check(self, call: object, *, in_step: bool = False) -> None:
        """Return when the body may do durable work.

        Args:
            call: what it is about to do, for messages.
            in_step: it belongs to a step that executes, which a pause lets finish.

        Raises:
            Leave: the body has been told to leave.
        """
        if self.leaving is not None:
            # One that catches this and tries again for ever must not take the loop with it.
            await asyncio.sleep(0)
            raise Leave(f"{call} was called while the run leaves its worker ({self.leaving})")
        if self._halted is not None:
            await self._halt(call)
        if self._refuses(call):
            await asyncio.sleep(0)
            raise Leave(f"{call} was called by a body that has been stopped, to undo what it did")
        if self._pausing is not None and not in_step:
            await self._pausing.wait()  # what executes is let finish; then the body leaves
            await self.check(call)

    def begin_work(self) -> None:
        """Something executes for the body that is no wait."""
        self._executing += 1
        if self._replayed_in is None:
            self._replayed_in = self._loop.time() - self._began

    def end_work(self) -> None:
        """It has ended."""
        self._executing -= 1
        self._activity += 1
        self._leave_if_paused()
        if self._waits:
            self.consider_idle()

    def heard(self, control: Control) -> None:
        """Follow the operator's word, as of an answer of the store or told in this process."""
        if control in _ENDING:
            self.leave(Leaving.CANCELLED)
        elif control is Control.PAUSE:
            self.words += 1
            if self._pausing is None:
                self._pausing = asyncio.Event()
            self._leave_if_paused()
        elif self._pausing is not None:  # resumed before it came about
            self._pausing.set()
            self._pausing = None

    def _leave_if_paused(self) -> None:
        """Leave for a pause when the steps that execute have been recorded."""
        if self._pausing is not None and not self._executing:
            self.leave(Leaving.PAUSED)

    async def ask(
        self, read: Callable[[], Awaitable[T]], call: object, *, in_step: bool = False
    ) -> T:
        """Return what the store says, however long it cannot: that is no error of the body.

        Args:
            read: asks it.
            call: for what, for messages.
            in_step: it belongs to a step that executes.

        Raises:
            Leave: the body must leave its worker.
        """
        tries = 0
        while True:
            try:
                return await read()
            except (NotApplied, OutcomeUnknown):
                await self.engine.clock.sleep(RETRY_DELAYS[min(tries, len(RETRY_DELAYS) - 1)])
                tries += 1
            await self.check(call, in_step=in_step)

    async def save(self, checkpoint: SaveCheckpoint) -> Saved:
        """Commit a checkpoint and hear what the operator wants.

        Raises:
            Leave: the run is no longer ours, or is to be cancelled.
        """
        words = self.words
        answer = await self.engine.committer.submit(checkpoint, patient=True)
        if isinstance(answer, Saved):
            if self.hooks.of_steps:
                telling.saved(self, checkpoint, answer)
            self.obey(answer.control, words)
        elif isinstance(answer, Conflict):
            raise PerdureError(
                f"{answer.path!r} of run {self.run.run_id} has a final outcome already, which its "
                "replay did not find; please report this with the run's history"
            )
        else:
            self.lost()
        return answer

    def obey(self, control: Control, words: int) -> None:
        """Follow the operator's word, as of the answer to what the body has waited for.

        Args:
            control: the word of the answer.
            words: how many had been heard when the question was asked. An answer that says nothing
                takes back no pause that was heard after that, by the heartbeat: it may be older.

        Raises:
            Leave: the run is to be cancelled or restarted.
        """
        if control or (self._pausing is not None and words == self.words):
            self.heard(control)
            if control in _ENDING:
                raise Leave("the run is being cancelled, or restarted")

    def lost(self) -> NoReturn:
        """Leave: a write was refused, because another claim or nobody holds the run.

        Raises:
            Leave: always.
        """
        self.leave(Leaving.LOST)
        raise Leave("the run is no longer held by this worker")

    def record_soon(self, what: SaveCheckpoint | WriteStream, path: str) -> bool:
        """Commit what nobody waits for, before anything that is recorded later; from any thread.

        A body that is leaving, or that has gone and is undone, records nothing more.

        Args:
            what: to commit.
            path: of the code that records it.

        Returns:
            Whether it will be committed.
        """
        if self.leaving is not None or self._halted is not None or self._is_gone(path):
            return False
        self.executor.soon.append((self, what))
        if _is_on(self._loop):
            self.executor.submit_soon()
        else:
            self._loop.call_soon_threadsafe(self.executor.submit_soon)
        return True

    def say(self, data: bytes, path: str) -> None:
        """Take note of how far the run says it is; from any thread.

        Args:
            data: what it says.
            path: of the code that says it.
        """
        if self.leaving is None and self._halted is None and not self._is_gone(path):
            if _is_on(self._loop):
                self._say(data)
            else:
                self._loop.call_soon_threadsafe(self._say, data)

    def _say(self, data: bytes) -> None:
        if self._progress is None:
            self._progress = Progress(self, self._loop)
        self._progress.say(data)

    def write_progress(self) -> None:
        """Write what the run has said last, before its claim ends."""
        if self._progress is not None:
            self._progress.write()
            self._progress.close()

    def submit(self, what: SaveCheckpoint | WriteStream | SetProgress) -> None:
        """Put what nobody waits for into the next batch; on the loop."""
        if isinstance(what, SaveCheckpoint):
            self.engine.committer.submit(what, patient=True).add_done_callback(_look_at)
        else:
            self.engine.committer.submit(what, patient=True).add_done_callback(_look_at)

    def mismatched(self, error: Mismatch) -> Mismatch:
        """Note that the replay does not fit: the run is paused whatever its body makes of it.

        The body must leave, or its `except Exception` would go on with real work.
        """
        if self.mismatch is None:
            self.mismatch = error
        self.leave(Leaving.MISMATCH)
        return error

    # --- waits -----------------------------------------------------------------------------------

    def next_join(self) -> int:
        """Return a number for waits that wake the run only together."""
        self._joins += 1
        return self._joins

    async def wait(self, branch: Branch, condition: Wait) -> Ending | None:
        """Block until a durable condition is fulfilled.

        Returns:
            The ending of the awaited run; None for a time.

        Raises:
            Leave: the body is suspended instead, or told to leave otherwise.
        """
        if self.leaving is not None:
            await self.check("a wait")
        ended = self.endings.get(condition.key) if condition.kind is WaitKind.CHILD else None
        if ended is not None:
            return ended
        return await self._over(self._begin_wait(branch, condition))

    def _begin_wait(self, branch: Branch, condition: Wait) -> DurableWait:
        """Block a branch by a durable condition."""
        wait = DurableWait(condition, self._loop, branch)
        self._waits.add(wait)
        branch.waits += 1
        if condition.due_at is not None:
            remaining = max(0, condition.due_at - self.engine.store_now()) / 1e6
            if condition.kind is WaitKind.EVENT:
                remaining = max(remaining, ASK_AGAIN)
            wait.timer = self._loop.call_later(remaining, self._elapsed, wait)
        if condition.kind is WaitKind.CHILD:
            self._of_children.setdefault(condition.key, []).append(wait)
            self.engine.watcher.watch(condition.key, self._awaited_ended)
        elif condition.kind is WaitKind.EVENT:
            self.engine.arrivals.watch(self._event_came)
        if self._replayed_in is None:
            self._replayed_in = self._loop.time() - self._began
        self.consider_idle()
        return wait

    async def _over(self, wait: DurableWait) -> Ending | None:
        """Wait until a wait is over.

        Raises:
            Leave: the body is suspended instead, or told to leave otherwise.
        """
        self._rests(wait.future)
        try:
            return await wait.future
        except asyncio.CancelledError:
            self._forget(wait)
            if self.leaving is not None:
                raise Leave(f"suspended in a wait for {wait.condition.kind}") from None
            raise

    def _rests(self, hold: Hold[Any]) -> None:
        """The current task is about to await something."""
        task = asyncio.current_task()
        if task in self._awake and not hold.done():
            self._awake.remove(task)
            hold.when_over = partial(self._wake, task)

    def _wake(self, task: asyncio.Future[Any]) -> None:
        """A task that awaited something is about to go on."""
        self._awake.add(task)

    def _elapsed(self, wait: DurableWait) -> None:
        self._fulfil(wait, None)

    def _awaited_ended(self, ending: Ending) -> None:
        self.endings[ending.run_id] = ending
        for wait in list(self._of_children.get(ending.run_id, ())):
            self._fulfil(wait, ending)

    def _event_came(self) -> None:
        """Let whoever waits for an event ask again."""
        for wait in [wait for wait in self._waits if wait.condition.kind is WaitKind.EVENT]:
            self._fulfil(wait, None)

    def _fulfil(self, wait: DurableWait, ending: Ending | None) -> None:
        # A body that is leaving stays where it is: the store will tell it again.
        if self.leaving is None and wait in self._waits:
            self._forget(wait)
            if not wait.future.done():
                wait.future.set_result(ending)

    def _forget(self, wait: DurableWait) -> None:
        if wait in self._waits:
            self._waits.discard(wait)
            wait.branch.waits -= 1
            self._activity += 1
            if wait.timer is not None:
                wait.timer.cancel()
            kind = wait.condition.kind
            if kind is WaitKind.CHILD:
                self._forget_child(wait)
                self.engine.watcher.unwatch(wait.condition.key, self._awaited_ended)
            elif kind is WaitKind.EVENT and not self._waits_for_events():
                self.engine.arrivals.unwatch(self._event_came)

    def _forget_child(self, wait: DurableWait) -> None:
        waits = self._of_children[wait.condition.key]
        waits.remove(wait)
        if not waits:
            del self._of_children[wait.condition.key]

    def _waits_for_events(self) -> bool:
        return any(wait.condition.kind is WaitKind.EVENT for wait in self._waits)

    # --- idleness --------------------------------------------------------------------------------

    def consider_idle(self) -> None:
        """Look a little later whether the body is idle, if it may be."""
        if self._turns is not None:
            self._turns.look()
        if (
            self._idle_timer is None
            and self._waits
            and not self._executing
            and self.leaving is None
        ):
            self._idle_timer = self._loop.call_later(self._grace(), self._look, self._activity)

    def _grace(self) -> float:
        """Return for how many seconds the body must be idle before it is suspended."""
        replay = max(self._replayed_in or 0.0, len(self._waits) * REPLAY_OF_A_WAIT)
        return max(IDLE_GRACE, min(replay, GRACE_LIMIT))

    def _look(self, activity: int) -> None:
        self._idle_timer = None
        if activity != self._activity:
            self.consider_idle()
        elif not self.idle():
            return
        elif self._halted is not None:
            if not self._halted.done():
                self._halted.set_result(None)
        elif not self._refuse_timeouts():
            self.executor.suspend(self, self.suspension())

    def idle(self) -> bool:
        """Tell whether nothing of the body can move until a durable wait ends."""
        return (
            self.leaving is None
            and not self._executing
            and bool(self._waits)
            and not any(not branch.waits for branch in self._threads)
            and self._branch.blocked()
            and all(branch.blocked() for branch in self._tasks.values())
        )

    def _refuse_timeouts(self) -> bool:
        """Fail the waits that are inside an ``asyncio.timeout``; tell whether there were any.

        Its clock would stop at the suspension and start afresh with every replay. There is no
        public way to ask a task for its timeouts: they are found among the loop's timers, where
        the loop has such a list; this is looked at once a suspension.
        """
        timed: set[object] = set()
        for handle in getattr(self._loop, "_scheduled", ()):
            owner = getattr(getattr(handle, "_callback", None), "__self__", None)
            if isinstance(owner, asyncio.Timeout) and not handle.cancelled():
                timed.add(getattr(owner, "_task", None))
        refused = [wait for wait in self._waits if wait.branch.within(timed)]
        for wait in refused:
            self._forget(wait)
            if not wait.future.done():
                wait.future.set_exception(
                    UsageError(
                        f"a durable wait for {wait.condition.kind} is inside asyncio.timeout(…), "
                        "whose time would start again with every replay; use the timeout= of the "
                        "wait or of the step instead"
                    )
                )
        return bool(refused)

    def suspension(self) -> Suspended:
        """Return the verdict that suspends the body in its present waits."""
        waits = sorted(
            (wait.condition for wait in self._waits),
            key=lambda condition: (condition.join, condition.key),
        )
        replay = self._replayed_in or 0.0
        coalesce = 0
        if replay >= REPLAY_WORTH_COALESCING:
            coalesce = min(int(replay * 5e6), COALESCE_LIMIT)
        return Suspended(tuple(waits), coalesce)

    def _stop_idling(self) -> None:
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None
