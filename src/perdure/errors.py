"""Every error that Perdure raises, as one tree.

Nothing here does I/O and nothing here imports another module of the package, so that every layer
may raise from it. The private signals that stop a body from inside are at the end: they derive
from ``BaseException`` (through ``asyncio.CancelledError``), so that ``except Exception`` in a
user's body never swallows a suspension.

PerdureError
├── DefinitionError             a definition is wrong; raised while declaring it
│   ├── DuplicateName           two definitions of one app share a name
│   └── Unresolved              an annotation names a class that does not exist
├── UsageError                  a call is wrong whatever the data is
│   ├── NotInRun                a durable verb was called where no run is executing
│   └── AppNotReady             the app has no store, is closed, or was configured too late
├── InvalidDuration             a text is no duration
├── InvalidSchedule             a text is no cron expression, interval or time zone
├── InvalidValue                a value does not fit its type or cannot be represented
│   └── PayloadTooLarge         an encoded value is over the limit
├── UnknownDefinition           no definition of that name in this app
├── RunNotFound                 no run of that id in this namespace
├── RunConflict                 an id or unique_key is taken by a run made from other values
├── EventConflict               an event's id is taken by another event
├── ScheduleNotFound            no schedule of that key in this namespace
├── CursorExpired               what followed on a position or a cursor is gone
├── InvalidTransition           the run's status does not allow this verb
├── ResultTimeout               the run did not finish within the caller's patience
├── RunUnsuccessful             awaiting a result found no result
│   ├── RunFailed               the run ended failed
│   ├── RunCancelled            the run ended cancelled
│   └── RunDeclined             the run did not want the event that started it
├── StepFailed                  a step failed with an exception that cannot be rebuilt here
├── StepTimeout                 a step ran longer than its timeout
├── EventTimeout                no event came in time
├── NonRetryable                raised by user code: do not try again
├── RetryAfter                  raised by user code: try again after this delay
├── StepInterrupted             a step that is made at most once was started; its end is unknown
├── Mismatch                    a replay does not fit the record
├── SwallowedSuspension         a body went on after it was told to leave
└── StoreError                  the store could not do it
    ├── NotApplied              certainly not applied; trying again is safe
    │   ├── StoreBusy           another writer held the store for too long
    │   ├── StoreFull           no space left; nothing was lost, writing resumes with space
    │   └── StoreReadOnly       the file or its directory cannot be written
    ├── OutcomeUnknown          the answer was lost; the same batch may be applied again
    ├── StoreCorrupt            the data is damaged; refused, never recreated
    ├── SchemaTooNew            written by a newer version of Perdure
    └── StoreClosed             used after close, or in a forked child
"""

from __future__ import annotations

import asyncio
from typing import Any

LONGEST_SHOWN = 80
"""Characters of a value that a message shows."""


class PerdureError(Exception):
    """Base of every error of this package. ``code`` names its page in the documentation."""

    code = "P000"

    def __reduce__(self) -> tuple[Any, ...]:
        """Be copied as it is, whatever arguments its class takes: process pools pickle errors."""
        return _copied, (type(self), self.args, self.__dict__)


def _copied(kind: type[PerdureError], args: tuple[Any, ...], state: dict[str, Any]) -> PerdureError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class DefinitionError(PerdureError):
    """A workflow, job or step is declared wrongly."""

    code = "P100"


class DuplicateName(DefinitionError):
    """Two definitions of one app share a name; the message names both places."""

    code = "P101"


class Unresolved(DefinitionError):
    """An annotation names something that does not exist, or not yet."""

    code = "P102"


class UsageError(PerdureError):
    """A call that is wrong whatever the data is."""

    code = "P110"


class NotInRun(UsageError):
    """A verb that only means something inside a run was called outside of one."""

    code = "P111"


class AppNotReady(UsageError):
    """The app has no store for this verb, is closed, or was configured after its first use."""

    code = "P112"


class InvalidDuration(PerdureError, ValueError):
    """A text or number that is no duration."""

    code = "P120"


class InvalidValue(PerdureError, ValueError):
    """A value that does not fit its declared type or that the codec cannot represent.

    ``path`` is the place inside the value, as in ``$.items[3].price``.
    """

    code = "P121"

    def __init__(self, message: str, *, path: str = "$") -> None:
        super().__init__(message)
        self.path = path


class PayloadTooLarge(InvalidValue):
    """An encoded value is larger than the limit of its app."""

    code = "P122"


class InvalidSchedule(PerdureError, ValueError):
    """A cron expression, an interval or a time zone that is none."""

    code = "P123"


class UnknownDefinition(PerdureError, LookupError):
    """No workflow or job of that name is registered in this app."""

    code = "P130"


class RunNotFound(PerdureError, LookupError):
    """No run of that id exists in this namespace (or its retention has ended)."""

    code = "P131"


class RunConflict(PerdureError):
    """The id or unique_key is taken by a run of another definition or other input."""

    code = "P132"

    def __init__(self, message: str, *, run_id: str) -> None:
        super().__init__(message)
        self.run_id = run_id


class EventConflict(PerdureError):
    """The id of an event is taken by one of another type, key or payload."""

    code = "P135"

    def __init__(self, message: str, *, event_id: str) -> None:
        super().__init__(message)
        self.event_id = event_id


class ScheduleNotFound(PerdureError, LookupError):
    """There is no schedule of this key in this namespace."""

    code = "P136"


class CursorExpired(PerdureError, LookupError):
    """What follows on this position is not, or no longer, what followed on it.

    Changes were removed because of their age or number, or the database is another one, or it was
    put back to an earlier time. A stream's cursor is of another run.
    """

    code = "P137"


class InvalidTransition(PerdureError):
    """The run's status does not allow this verb."""

    code = "P133"


class ResultTimeout(PerdureError, TimeoutError):
    """The run did not end within the time the caller was willing to wait. The run goes on."""

    code = "P134"


class RunUnsuccessful(PerdureError):
    """Base of what awaiting a result raises when the run ended without one."""

    code = "P140"

    def __init__(self, message: str, *, run_id: str) -> None:
        super().__init__(message)
        self.run_id = run_id


class RunFailed(RunUnsuccessful):
    """The run ended ``failed``.

    ``error_type`` is the class name of what it raised, ``reason`` is ``error``, ``crash``,
    ``invalid_input`` or ``timeout``.
    """

    code = "P141"

    def __init__(self, message: str, *, run_id: str, error_type: str, reason: str) -> None:
        super().__init__(message, run_id=run_id)
        self.error_type = error_type
        self.reason = reason


class RunCancelled(RunUnsuccessful):
    """The run ended ``cancelled``."""

    code = "P142"


class RunDeclined(RunUnsuccessful):
    """The run ended ``completed`` without its body: it did not want the event that started it."""

    code = "P143"


class StepFailed(PerdureError):
    """A step failed with an exception whose class cannot be rebuilt from its record.

    It stands in for the original on the first pass and on every replay alike, so that a body
    sees the same thing each time. ``error_type`` is the original's qualified class name.
    """

    code = "P150"

    def __init__(self, message: str, *, error_type: str = "") -> None:
        super().__init__(message)
        self.error_type = error_type


class StepTimeout(PerdureError, TimeoutError):
    """A step's attempt ran longer than its timeout."""

    code = "P151"


class NonRetryable(PerdureError):
    """Raise it (or a subclass) from a step or body to end at once, whatever attempts are left."""

    code = "P152"


class RetryAfter(PerdureError):
    """Raise it to choose the delay before the next attempt yourself.

    Args:
        delay: a duration as everywhere: ``"10m"``, a ``timedelta``, ISO 8601.
        message: what to record; a text of its own is made when left out.
    """

    code = "P153"

    def __init__(self, delay: Any, message: str | None = None) -> None:
        super().__init__(message or f"asked to be tried again after {delay}")
        self.delay = delay


class EventTimeout(PerdureError, TimeoutError):
    """A wait for an event was over before one came."""

    code = "P155"


class StepInterrupted(PerdureError):
    """A step that is made at most once was started, and nobody knows whether it took effect.

    Its worker died, stopped or lost the run while the step executed, or the body gave it up.
    """

    code = "P154"


class Mismatch(PerdureError):
    """A replay asked for something else than what is recorded at that place.

    The run is paused, nothing of it is lost, and it resumes when a worker with code that fits
    appears. ``step`` is the step's path, ``recorded`` and ``asked`` are the two calls as text.
    """

    code = "P160"

    def __init__(self, message: str, *, step: str, recorded: str, asked: str) -> None:
        super().__init__(message)
        self.step = step
        self.recorded = recorded
        self.asked = asked


class SwallowedSuspension(PerdureError):
    """A body returned, raised or stayed after it was told to leave its worker."""

    code = "P161"


class StoreError(PerdureError):
    """Base of everything a store raises that is no domain outcome."""

    code = "P200"


class NotApplied(StoreError):
    """The store did not apply the batch; trying again is safe and may succeed."""

    code = "P201"


class StoreBusy(NotApplied):
    """Another writer held the store for longer than the patience of this call."""

    code = "P202"


class StoreFull(NotApplied):
    """No space is left for the store. Nothing was lost; work resumes when space is given."""

    code = "P203"


class StoreReadOnly(NotApplied):
    """The store's file or directory cannot be written."""

    code = "P204"


class OutcomeUnknown(StoreError):
    """Whether the batch was applied is not known; applying the same batch again tells."""

    code = "P205"


class StoreCorrupt(StoreError):
    """The stored data is damaged. It is left as it is: repair or restore it."""

    code = "P206"


class SchemaTooNew(StoreError):
    """The data was written by a newer version of Perdure than this one."""

    code = "P207"


class StoreClosed(StoreError):
    """The store was used after it was closed, or in a child process made by fork."""

    code = "P208"


class Leave(asyncio.CancelledError):
    """Private signal: the body must leave its worker now; nothing more is recorded."""


def shown(value: object) -> str:
    """Return a short text of a value for a message, whatever the value is.

    Its ``repr`` where that has at most 80 characters; what cannot be printed (an int of more digits
    than Python writes, a user's ``__repr__`` that raises) is named by its class.
    """
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 -- user code, inside of our own error's message
        return f"<{type(value).__name__}>"
    return text if len(text) <= LONGEST_SHOWN else text[:LONGEST_SHOWN] + "..."
