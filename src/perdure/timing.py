"""When a schedule has its instants, as it is stored: a cron expression in a zone, or an interval.

Which instants those are is the business of :mod:`perdure.cron`, which is loaded when the first of
them is asked for: what it stands on takes 4 ms to import.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from enum import StrEnum
from functools import lru_cache
from typing import TYPE_CHECKING

import msgspec

from perdure import _late as late
from perdure.duration import format_micros
from perdure.errors import InvalidSchedule

if TYPE_CHECKING:
    from perdure.cron import Cron, Every


class Timing(msgspec.Struct, frozen=True, gc=False):
    """When a schedule has its instants: a cron expression in a zone, or an interval.

    Args:
        cron: five or six fields; None for an interval.
        every: the interval in microseconds; None for a cron expression.
        timezone: an IANA name, for cron.
    """

    cron: str | None = None
    every: int | None = None
    timezone: str = "UTC"


class Missed(StrEnum):
    """What becomes of instants that passed while nobody fired them.

    ``skip``: nothing. ``once``: one run for the newest of them. ``all``: a run for each, up to a
    cap.
    """

    SKIP = "skip"
    ONCE = "once"
    ALL = "all"


def timing_of(cron: object, every: object, timezone: object) -> Timing:
    """Return when a schedule has its instants, checked.

    Args:
        cron: an expression or alias; None for an interval.
        every: an interval; None for a cron expression.
        timezone: an IANA name; None for UTC.

    Raises:
        InvalidSchedule: neither or both are given, or one of them is none.
    """
    if (cron is None) == (every is None):
        raise InvalidSchedule("a schedule has either cron=… or every=…")
    if every is not None:
        if timezone is not None:
            raise InvalidSchedule("an interval is the same in every time zone; leave timezone out")
        return Timing(every=late.cron.Every(every).interval)  # type: ignore[arg-type]  # it is checked there
    made = late.cron.Cron(cron, "UTC" if timezone is None else timezone)  # type: ignore[arg-type]  # likewise
    return Timing(cron=made.expression, timezone=made.timezone)


@lru_cache(maxsize=1_024)
def _recurrence(timing: Timing) -> Cron | Every:
    if timing.every is not None:
        return late.cron.Every(timedelta(microseconds=timing.every))
    assert timing.cron is not None, "a timing has one of the two"
    return late.cron.Cron(timing.cron, timing.timezone)


def instants(timing: Timing, after: int) -> Iterator[int]:
    """Yield the instants of a timing that come after one, until there are no more.

    Args:
        timing: checked.
        after: exclusive, in microseconds since the epoch, as all here.
    """
    recurrence = _recurrence(timing)
    found = recurrence.next_after(after)
    while found is not None:
        yield found
        found = recurrence.next_after(found)


def next_instant(timing: Timing, after: int) -> int | None:
    """Return the first instant after another one; None where there is none."""
    return _recurrence(timing).next_after(after)


def text_of(timing: Timing) -> str:
    """Return a timing as people write it."""
    if timing.every is not None:
        return f"every {format_micros(timing.every)}"
    zone = "" if timing.timezone == "UTC" else f" {timing.timezone}"
    return f"{timing.cron}{zone}"
