"""The one module of the test kit that looks inside the engine and its worker.

Whether anything moves, where a body is, and how a process dies are questions that no user has and
that therefore have no public answer. Whoever changes the insides changes them here, too.
"""

# ruff: noqa: SLF001
# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import sys
import sysconfig
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import perdure
from perdure._engine import scope as scopes
from perdure._engine.activation import Activation, Leaving
from perdure._engine.executor import Executor
from perdure._runtime.worker import State, Worker
from perdure.model.records import Micros, StepKey

if TYPE_CHECKING:
    from perdure._engine.engine import Engine

_OURS = (str(Path(perdure.__file__).parent), sysconfig.get_path("stdlib"))

CANCELLATIONS = 20
"""How often an abandoned body is cancelled before its coroutines are closed over its head."""


# --- what moves ------------------------------------------------------------------------------


def activations(worker: Worker) -> list[Activation]:
    """Return the runs that the worker is executing."""
    if worker._state is State.STOPPED:
        return []
    return list(worker._executor.active.values())


def moves(worker: Worker) -> bool:
    """Tell whether anything of the worker moves, or is about to, without time moving."""
    committer = worker._engine.committer
    return (
        bool(committer._pending or committer._claim_wanted)
        or committer._wake is None  # it is writing
        or worker._claiming
        or (worker._more and worker._free > 0 and not worker._alone)
        or bool(worker._executor._leaving or worker._rescuing)
        or (worker.leader is not None and worker.leader.is_ticking)
        or any(not is_blocked(activation) for activation in activations(worker))
    )


def is_blocked(activation: Activation) -> bool:
    """Tell whether a body can move only when a time comes or another run ends.

    Unlike an idle one it may be inside of a step, whose waits do not make it leave its worker.
    """
    return (
        not activation.idle()
        and activation.leaving is None
        and not any(not branch.waits for branch in activation._threads)
        and activation._branch.blocked()
        and all(branch.blocked() for branch in activation._tasks.values())
    )


def hasten(worker: Worker, now: Micros) -> None:
    """Let what needs no time happen at once.

    Waits that are due end, and bodies that are idle are suspended without the pause that spares
    short waits the trip; in this order, or one that waits for a time that has come would leave
    and come back for ever.
    """
    elapse(worker, now)
    for activation in activations(worker):
        if activation.idle():
            activation._stop_idling()
            activation._look(activation._activity)


def progress(worker: Worker) -> object:
    """Return something that differs whenever a body of the worker has moved."""
    return worker.finished, tuple(
        (activation.grant, activation._activity, activation._executing)
        for activation in activations(worker)
    )


def is_awaited(engine: Engine) -> list[str]:
    """Return the ids of the runs whose end somebody in this process waits for."""
    return list(engine.watcher._listeners)


# --- waits in memory ---------------------------------------------------------------------------


def next_due(worker: Worker) -> Micros | None:
    """Return when the first wait in memory is due, or None."""
    return min(
        (
            wait.condition.due_at
            for activation in activations(worker)
            for wait in activation._waits
            if wait.condition.due_at is not None
        ),
        default=None,
    )


def elapse(worker: Worker, now: Micros) -> None:
    """End the waits in memory that are due."""
    for activation in activations(worker):
        for wait in list(activation._waits):
            if wait.condition.due_at is not None and wait.condition.due_at <= now:
                activation._elapsed(wait)


# --- steps -------------------------------------------------------------------------------------


def executing() -> tuple[str, StepKey] | None:
    """Return the run and identity of the step that is being executed; None outside of steps."""
    scope = scopes.current()
    if scope is None or scope._origin is None:
        return None
    return scope.activation.run.run_id, scope._origin.key


def block_branch() -> None:
    """Count the running code as blocked in a durable wait from now on."""
    scope = scopes.current()
    assert scope is not None, "only code of a body is blocked"
    scope.branch.waits += 1


# --- where a body is ---------------------------------------------------------------------------


def where(activation: Activation) -> str:
    """Return where the body is: ``file:line in function`` of each of its tasks' own code."""
    places = [place for task in activation.left() if (place := _place_of(task))]
    return ", ".join(dict.fromkeys(places or _places_of_threads())) or "code of a library"


def _place_of(task: asyncio.Future[Any]) -> str | None:
    if not isinstance(task, asyncio.Task):
        return None
    inner: list[str] = [_shown(frame) for frame in _frames(task.get_coro()) if _is_theirs(frame)]
    return inner[-1] if inner else None


def _frames(awaited: Any) -> Iterator[FrameType]:
    """Yield the frames of a coroutine and of what it awaits, outermost first."""
    while awaited is not None:
        for kind in ("cr", "gi", "ag"):
            frame = getattr(awaited, f"{kind}_frame", None)
            if frame is not None:
                yield frame
                awaited = getattr(awaited, "gi_yieldfrom" if kind == "gi" else f"{kind}_await")
                break
        else:
            return


def _is_theirs(frame: FrameType) -> bool:
    return not frame.f_code.co_filename.startswith(_OURS)


def _shown(frame: FrameType) -> str:
    return f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"


def _places_of_threads() -> list[str]:
    """Return where the threads of bodies and steps written with ``def`` are."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    places: list[str] = []
    for ident, frame in sys._current_frames().items():
        inner: FrameType | None = frame
        if names.get(ident, "").startswith("perdure-"):
            while inner is not None and not _is_theirs(inner):
                inner = inner.f_back
            if inner is not None:
                places.append(_shown(inner))
    return places


# --- dying -------------------------------------------------------------------------------------


async def abandon(worker: Worker) -> None:
    """End a worker as if its process had been killed, except that this process goes on.

    Its bodies are cancelled and can record nothing; nobody signs off. The store must be cut off
    already, or what is on its way to it will be written.
    """
    engine = worker._engine
    if worker._state is State.WORKING:
        worker._stop_looking()
    worker._state = State.LOST
    await drop_bodies(worker)
    for rescue in list(worker._rescuing.values()):
        rescue.cancel()
    await worker._heart.stop()
    await cut_off(engine)
    worker._state = State.STOPPED
    await worker._undo.aclose()


async def cut_off(engine: Engine) -> None:
    """Write nothing more."""
    committing, engine.committer._task = engine.committer._task, None
    if committing is not None:
        committing.cancel()
        await asyncio.wait([committing])
        engine.committer._wake = None


async def drop_bodies(worker: Worker) -> None:
    """End every body of a worker, whatever it does about it; nothing of them is recorded."""
    await drop_executor(worker._executor)


async def drop_executor(executor: Executor) -> None:
    """End every body of an executor, and whatever is on its way to a store that is cut off."""
    dropped = list(executor.active.values())
    for activation in dropped:
        activation._stop_idling()
        activation.leaving = Leaving.LOST

    def left() -> list[asyncio.Future[Any]]:
        tasks = [task for activation in dropped for task in activation.left()]
        return tasks + list(executor._leaving)

    cancelled = 0
    while (tasks := left()) and cancelled < 2 * CANCELLATIONS:
        cancelled += 1
        for task in tasks:
            if cancelled > CANCELLATIONS and isinstance(task, asyncio.Task):
                _close(task.get_coro())
            task.cancel()
        await asyncio.wait(tasks, timeout=0.05)
    for activation in dropped:
        activation.close()
    executor.active.clear()


def _close(coroutine: Any) -> None:
    """Close a coroutine that does not let itself be cancelled."""
    try:
        coroutine.close()
    except (RuntimeError, ValueError):
        return  # it ignores this, too, or is executing: it is cancelled again
