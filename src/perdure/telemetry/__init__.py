"""What Perdure says about itself: hooks and logs. Spans and metrics will stand beside them.

- ``_hooks``: what a hook is told, a record a kind.
- ``_delivery``: how records reach listeners: in order per run, after the commit, at most once.
- ``_logs``: the library's loggers, silent until ``configure_logging`` or a handler of your own.
- ``_lines``: what the log says of runs and steps, as one more listener.

Nothing here knows the engine, which says what happened (``perdure._engine.telling``).
"""

from __future__ import annotations

from ._delivery import Hooks, Listener, On
from ._hooks import (
    KINDS,
    AppError,
    AppHook,
    AppReady,
    Hook,
    LeaderElected,
    LeaderHook,
    LeaderLost,
    OfRun,
    RunCancelled,
    RunCompleted,
    RunContinued,
    RunFailed,
    RunHook,
    RunPaused,
    RunReleased,
    RunResumed,
    RunRetryScheduled,
    RunsRescued,
    RunStarted,
    RunSuspended,
    ScheduleHook,
    ScheduleMissed,
    ScheduleTriggered,
    StepCancelled,
    StepCompleted,
    StepFailed,
    StepHook,
    StepRetryScheduled,
    StepStarted,
    WorkerError,
    WorkerHook,
    WorkerLost,
    WorkerReady,
    WorkerStopped,
)
from ._lines import log_hooks
from ._logs import Format, JsonFormatter, Level, Log, TextFormatter, configure_logging

__all__ = [
    "KINDS",
    "AppError",
    "AppHook",
    "AppReady",
    "Format",
    "Hook",
    "Hooks",
    "JsonFormatter",
    "LeaderElected",
    "LeaderHook",
    "LeaderLost",
    "Level",
    "Listener",
    "Log",
    "OfRun",
    "On",
    "RunCancelled",
    "RunCompleted",
    "RunContinued",
    "RunFailed",
    "RunHook",
    "RunPaused",
    "RunReleased",
    "RunResumed",
    "RunRetryScheduled",
    "RunStarted",
    "RunSuspended",
    "RunsRescued",
    "ScheduleHook",
    "ScheduleMissed",
    "ScheduleTriggered",
    "StepCancelled",
    "StepCompleted",
    "StepFailed",
    "StepHook",
    "StepRetryScheduled",
    "StepStarted",
    "TextFormatter",
    "WorkerError",
    "WorkerHook",
    "WorkerLost",
    "WorkerReady",
    "WorkerStopped",
    "configure_logging",
    "log_hooks",
]
