"""What the errors of Perdure mean for whoever typed a command: an exit code and what to do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from typing import Any, Final

from perdure.cli._failures import ExitCode, Failure
from perdure.errors import (
    AppNotReady,
    CursorExpired,
    DefinitionError,
    EventConflict,
    InvalidDuration,
    InvalidSchedule,
    InvalidTransition,
    InvalidValue,
    PerdureError,
    ResultTimeout,
    RunConflict,
    RunNotFound,
    RunUnsuccessful,
    ScheduleNotFound,
    SchemaTooNew,
    StoreBusy,
    StoreCorrupt,
    StoreError,
    StoreFull,
    StoreReadOnly,
    UnknownDefinition,
    UsageError,
)

Meaning = tuple[ExitCode, str, str]
"""Exit code, what went wrong, what to do."""

MEANINGS: Final[dict[type[PerdureError], Meaning]] = {
    UnknownDefinition: (
        ExitCode.NOT_FOUND,
        "there is no such workflow or job",
        "name one of the app's definitions",
    ),
    RunNotFound: (ExitCode.NOT_FOUND, "there is no such run", "perdure runs"),
    RunConflict: (
        ExitCode.REFUSED,
        "the id or unique_key is taken",
        "choose another, or start it with the same arguments",
    ),
    ScheduleNotFound: (
        ExitCode.NOT_FOUND,
        "there is no such schedule",
        "perdure schedules",
    ),
    InvalidSchedule: (
        ExitCode.USAGE,
        "that is no time for a schedule",
        "mend it as the message says",
    ),
    EventConflict: (
        ExitCode.REFUSED,
        "the event's id is taken by another event",
        "choose another, or send it with the same values",
    ),
    CursorExpired: (
        ExitCode.NOT_FOUND,
        "what came after that position is gone",
        "read from the beginning: leave --after out",
    ),
    InvalidTransition: (
        ExitCode.REFUSED,
        "the run does not allow that as it is",
        "perdure show ID says how it is",
    ),
    ResultTimeout: (
        ExitCode.TIMED_OUT,
        "the run has not ended in time",
        "wait longer, or see how it is with perdure show ID",
    ),
    RunUnsuccessful: (
        ExitCode.RUN_FAILED,
        "the run ended without a result",
        "perdure show ID tells more; perdure retry ID tries it again",
    ),
    AppNotReady: (
        ExitCode.USAGE,
        "the app cannot be used so",
        'give it a store: App("sqlite:///…")',
    ),
    DefinitionError: (ExitCode.USAGE, "a definition of the app is wrong", "mend it"),
    InvalidDuration: (ExitCode.USAGE, "that is no duration", 'write "10s", "5m" or "1h30m"'),
    InvalidValue: (ExitCode.USAGE, "an argument does not fit", "give the arguments it takes"),
    UsageError: (ExitCode.USAGE, "that cannot be done so", "see --help"),
    StoreBusy: (ExitCode.UNREACHABLE, "the store is busy", "try again in a moment"),
    StoreFull: (ExitCode.UNREACHABLE, "the store has no space left", "make room and try again"),
    StoreReadOnly: (
        ExitCode.UNREACHABLE,
        "the store cannot be written",
        "let this user write the file and its directory, or name another",
    ),
    StoreCorrupt: (
        ExitCode.UNREACHABLE,
        "the store is damaged, or none of ours",
        "perdure doctor; restore a backup, or name another place",
    ),
    SchemaTooNew: (ExitCode.UNREACHABLE, "the store is too new", "upgrade Perdure"),
    StoreError: (ExitCode.UNREACHABLE, "the store cannot be used", "see that it is there and up"),
    PerdureError: (ExitCode.REFUSED, "that is refused", "see the message"),
}
"""The first class that fits counts: subclasses stand before their base."""


def meaning_of(error: PerdureError, run_id: str | None = None) -> Failure:
    """Return an error of Perdure as the failure of a command.

    Args:
        error: what was raised.
        run_id: whose error it is, if that is known.
    """
    exit_code, what, do = next(
        meaning for cls, meaning in MEANINGS.items() if isinstance(error, cls)
    )
    details = {"code": error.code}
    run_id = getattr(error, "run_id", run_id)
    if run_id is not None:
        do = do.replace(" ID", f" {run_id}")
        details["run_id"] = run_id
    return Failure(exit_code, what, why=str(error), do=do, details=details)


@contextmanager
def translated() -> Generator[None, None, None]:
    """Turn errors of Perdure into failures of the command.

    Raises:
        Failure: instead of any PerdureError.
    """
    try:
        yield
    except PerdureError as error:
        raise meaning_of(error) from error


def perform(work: Callable[[], Coroutine[Any, Any, int]]) -> int:
    """Run a command's work in a loop of its own and return its exit code.

    Raises:
        Failure: it cannot be done.
    """
    with translated():
        return asyncio.run(work())
