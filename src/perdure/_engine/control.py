"""An operator's words to runs: put to the store, and told in this process."""

from __future__ import annotations

from typing import Final, TypeAlias

from perdure._engine import telling
from perdure._engine.engine import Engine
from perdure.model.records import Control, Ending, Status
from perdure.model.transitions import (
    CancelRun,
    Controlled,
    Missing,
    PauseRun,
    Refused,
    RestartRun,
    ResumeRun,
    RetryRun,
)
from perdure.model.versions import PinRun

Operation: TypeAlias = CancelRun | PauseRun | ResumeRun | RetryRun | RestartRun | PinRun

VERBS: Final[dict[type, str]] = {
    CancelRun: "cancel",
    PauseRun: "pause",
    ResumeRun: "resume",
    RetryRun: "retry",
    RestartRun: "restart",
    PinRun: "pin",
}

_CONTROLS: Final[dict[type, Control]] = {
    CancelRun: Control.CANCEL,
    PauseRun: Control.PAUSE,
    ResumeRun: Control.NONE,
    RestartRun: Control.RESTART,
}


async def operate(engine: Engine, asked: Operation) -> Controlled | Refused | Missing:
    """Ask something of a run, and return what the store answers.

    Those in this process who would otherwise hear of it with the next poll are told at once.
    """
    answer = await engine.committer.submit(asked)
    if isinstance(answer, Controlled):
        _tell(engine, asked, answer.status)
        if answer.status in {Status.CANCELLED, Status.PAUSED}:
            await telling.stopped(engine, [asked.run_id])
        if answer.closed:
            await telling.closed(engine, answer.closed)
    return answer


def _tell(engine: Engine, asked: Operation, status: Status) -> None:
    control = _CONTROLS.get(type(asked))
    if isinstance(asked, CancelRun) and asked.compensate:
        control = Control.COMPENSATE
    if status is Status.RUNNING and control is not None:
        for hear in engine.controlled:
            hear(asked.run_id, control)
    elif status is Status.CANCELLED and isinstance(asked, CancelRun):
        engine.watcher.announce(Ending(asked.run_id, status, None, None, None))
