"""The log's lines on what hooks tell: a line a change of a run, at debug one an attempt of a step.

They are a listener like any other, so they come in order, after the commit. They cost nothing where
nobody has configured logging, or its level leaves them out, by the time the app connects. What goes
wrong with apps and workers is logged where it is met, with or without hooks.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeAlias

from perdure.telemetry._delivery import Hooks
from perdure.telemetry._hooks import (
    Hook,
    OfRun,
    RunCancelled,
    RunCompleted,
    RunContinued,
    RunFailed,
    RunPaused,
    RunReleased,
    RunResumed,
    RunRetryScheduled,
    RunStarted,
    RunSuspended,
    StepCancelled,
    StepCompleted,
    StepFailed,
    StepHook,
    StepRetryScheduled,
    StepStarted,
    WorkerHook,
    WorkerReady,
    WorkerStopped,
)
from perdure.telemetry._logs import Log

Fields: TypeAlias = dict[str, object]

LINES: dict[type[Hook], tuple[int, str]] = {
    WorkerReady: (logging.INFO, "worker ready"),
    WorkerStopped: (logging.INFO, "worker stopped"),
    RunStarted: (logging.INFO, "run started"),
    RunResumed: (logging.INFO, "run resumed"),
    RunSuspended: (logging.INFO, "run suspended"),
    RunReleased: (logging.INFO, "run released"),
    RunContinued: (logging.INFO, "run continued as new"),
    RunPaused: (logging.WARNING, "run paused"),
    RunCompleted: (logging.INFO, "run completed"),
    RunFailed: (logging.WARNING, "run failed"),
    RunRetryScheduled: (logging.INFO, "run retry scheduled"),
    RunCancelled: (logging.INFO, "run cancelled"),
    StepStarted: (logging.DEBUG, "step started"),
    StepCompleted: (logging.DEBUG, "step completed"),
    StepFailed: (logging.DEBUG, "step failed"),
    StepRetryScheduled: (logging.DEBUG, "step retry scheduled"),
    StepCancelled: (logging.DEBUG, "step cancelled"),
}
"""Level and fact of each kind that has a line."""

log = Log("perdure.lifecycle")


def log_hooks(hooks: Hooks) -> Callable[[], None]:
    """Listen, for the log, to what its level lets through now; return what ends it."""
    listeners = [
        hooks.on(kind)(_write) for kind, (level, _) in LINES.items() if log.is_heard_at(level)
    ]

    def off() -> None:
        for listener in listeners:
            listener.off()

    return off


async def _write(hook: Hook) -> None:
    level, fact = LINES[type(hook)]
    log.write(level, fact, _fields(hook))


def _fields(hook: Hook) -> Fields:
    fields: Fields = {}
    if isinstance(hook, OfRun):
        fields = {"run_id": hook.run_id, "definition": hook.name, "attempt": hook.attempt}
        if hook.worker_id is not None:
            fields["worker_id"] = hook.worker_id
    if isinstance(hook, WorkerHook):
        fields["worker_id"] = hook.worker_id
    if isinstance(hook, StepHook):
        fields |= {"step": hook.step, "step_attempt": hook.step_attempt}
    return fields | _own_fields(hook)


def _own_fields(hook: Hook) -> Fields:
    match hook:
        case RunFailed():
            error = f"{hook.error.type}: {hook.error.message}"
            return {"reason": hook.reason, "error": error, "will_retry": hook.will_retry}
        case StepFailed():
            # Below WARNING without its message, which is the user's text.
            return {"error": hook.error.type, "will_retry": hook.will_retry}
        case RunPaused():
            return {"reason": hook.reason, "step": hook.step}
        case RunSuspended():
            return {"waiting_for": ",".join(hook.waiting_for)}
        case RunRetryScheduled() | StepRetryScheduled():
            return {"delay": f"{hook.delay.total_seconds():.3f}s"}
        case RunCompleted() | RunCancelled() | StepCompleted() | StepCancelled():
            return {"duration": f"{hook.duration.total_seconds():.3f}s"}
        case WorkerReady():
            return {"queues": ",".join(hook.queues), "slots": hook.slots}
        case _:
            return {}
