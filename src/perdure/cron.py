"""When something recurs: cron expressions in a time zone, and plain intervals.

Values only: which instant of a recurrence has been fired is a matter of the store. The fields of an
expression and the days they name are read by ``cronsim``; which instants a wall clock's times are,
on the days on which it is put forward or back, is decided here.

The rule for those days is that of Vixie's cron. A ``*`` at the start of the minute or the hour, or
a field for seconds, asks for *every so often*: each instant at which the wall clock shows a fitting
time, twice where it shows it twice, never where it skips it. Anything else asks for *that time of
the day*: once where the clock shows it twice (the first), and right after the skipped stretch where
the clock never shows it; several times within one skipped stretch are one instant.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from .clock import to_datetime, to_micros_instant
from .duration import format_micros, to_micros
from .errors import InvalidDuration, InvalidSchedule

__all__ = ["Cron", "Every"]

ALIASES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_FIELDS = ("second", "minute", "hour", "day of the month", "month", "day of the week")
_LONGEST = 256
_WRITTEN = re.compile(r"[0-9A-Za-z*/,#\- ]+")
_DAY = timedelta(days=1)
_SECOND = timedelta(seconds=1)
# No instant of a recurrence is later: what fires then would not be a date everywhere any more.
_LAST = datetime(9000, 1, 1, tzinfo=UTC)
_SHORTEST_INTERVAL = 1_000_000


class Cron:
    """The instants that a cron expression names in a time zone.

    Args:
        expression: five fields (minute, hour, day of the month, month, day of the week), six with
            the seconds in front, or one of ``@yearly @annually @monthly @weekly @daily @midnight
            @hourly``. A field is ``*``, a number, a name (``mon``, ``jan``), a range ``a-b``, a
            list ``a,b``, with a step ``/n``; Sunday is 0 or 7; ``L`` is a month's last day, ``LW``
            its last one from Monday to Friday, ``5L`` its last Friday, ``5#2`` its second. If
            neither day field begins with ``*``, a day that fits one of them fits.
        timezone: an IANA name, such as ``"Europe/Vienna"``.

    Raises:
        InvalidSchedule: it is no expression, names no instant, or there is no such zone.
    """

    __slots__ = ("_at_times_of_day", "_fields", "_zone", "expression", "timezone")

    def __init__(self, expression: str, timezone: str = "UTC") -> None:
        self.expression = _tidy(expression)
        self.timezone = timezone
        self._zone = _zone(timezone)
        self._fields = ALIASES.get(self.expression.lower(), self.expression)
        fields = self._fields.split()
        self._at_times_of_day = len(fields) == 5 and "*" not in {fields[0][0], fields[1][0]}
        _check(self.expression, self._fields)

    def __repr__(self) -> str:
        """Show how to make another."""
        return f"Cron({self.expression!r}, {self.timezone!r})"

    def next_after(self, instant: int) -> int | None:
        """Return the first instant later than one; None where none is left.

        Args:
            instant: microseconds since the epoch, as is what is returned.
        """
        after = to_datetime(instant)
        found = self._time_of_day(after) if self._at_times_of_day else self._every(after)
        return None if found is None else to_micros_instant(found)

    def _time_of_day(self, after: datetime) -> datetime | None:
        for shown in _walk(self._fields, self._shown(after)):
            at = _exact(shown, self._zone)
            if at > after:
                return at
        return None

    def _every(self, after: datetime) -> datetime | None:
        """Search one stretch of a constant offset from UTC after the other."""
        while True:
            offset = self._offset(after)
            shown = next(_walk(self._fields, (after + offset).replace(tzinfo=None)), None)
            if shown is None:
                return None
            at = shown.replace(tzinfo=UTC) - offset
            changed = self._change(after, at)
            if changed is None:
                return at
            # The clock is changed on the way: what fits may come earlier or later than thought.
            # cronsim looks at whole seconds later than the one given, hence the second before.
            fits_at_once = next(_walk(self._fields, self._shown(changed) - _SECOND), None)
            if fits_at_once == self._shown(changed):
                return changed
            after = changed

    def _shown(self, instant: datetime) -> datetime:
        return instant.astimezone(self._zone).replace(tzinfo=None)

    def _offset(self, instant: datetime) -> timedelta:
        return instant.astimezone(self._zone).utcoffset() or timedelta(0)

    def _change(self, after: datetime, until: datetime) -> datetime | None:
        """Return the first instant in (after, until] at which the offset from UTC changes."""
        if self._zone.key == "UTC":
            return None
        while after < until:
            # No zone has changed its clock twice within a day.
            end = min(after + _DAY, until)
            if self._offset(end) != self._offset(after):
                return _first_with(self._zone, self._offset(after), after, end)
            after = end
        return None


class Every:
    """The instants an interval apart, counted from the epoch so that every process agrees.

    Args:
        interval: a duration of at least a second, such as ``"5m"``.

    Raises:
        InvalidSchedule: it is no duration, or shorter.
    """

    __slots__ = ("expression", "interval", "timezone")

    def __init__(self, interval: str | timedelta) -> None:
        try:
            self.interval = to_micros(interval)
        except InvalidDuration as error:
            raise InvalidSchedule(f"no interval: {error}") from error
        if self.interval < _SHORTEST_INTERVAL:
            raise InvalidSchedule(f"the interval {interval!r} is shorter than a second")
        self.expression = f"every {format_micros(self.interval)}"
        self.timezone = "UTC"

    def __repr__(self) -> str:
        """Show how to make another."""
        return f"Every({self.expression.removeprefix('every ')!r})"

    def next_after(self, instant: int) -> int | None:
        """Return the first instant later than one, both in microseconds since the epoch."""
        found = (instant // self.interval + 1) * self.interval
        return found if found <= to_micros_instant(_LAST) else None


def _tidy(expression: str) -> str:
    if not isinstance(expression, str):  # pyright: ignore[reportUnnecessaryIsInstance]  # of users
        raise InvalidSchedule(
            f'a cron expression is a text such as "0 8 * * *", not {expression!r:.80}'
        )
    tidy = " ".join(expression.split())
    if not tidy or len(tidy) > _LONGEST:
        raise InvalidSchedule(
            f'a cron expression has 1 to {_LONGEST} characters, as "0 8 * * *" has;'
            f" got {expression!r:.80}"
        )
    if tidy.startswith("@") and tidy.lower() not in ALIASES:
        raise InvalidSchedule(f"no alias {tidy!r}; there are {', '.join(ALIASES)}")
    return tidy


def _check(expression: str, fields: str) -> None:
    """Refuse what cronsim cannot read, and what names no instant at all."""
    count = len(fields.split())
    if count not in {5, 6} or not _WRITTEN.fullmatch(fields):
        raise InvalidSchedule(
            f"{expression!r} is no cron expression: it has five fields"
            f" ({', '.join(_FIELDS[1:])}), or six with the {_FIELDS[0]} in front,"
            ' as in "0 8 * * mon-fri"'
        )
    try:
        never = next(_walk(fields, datetime(2000, 1, 1)), None) is None  # noqa: DTZ001  # any wall clock
    except (CronSimError, ValueError, AssertionError, RecursionError) as error:
        raise InvalidSchedule(f"{expression!r} is no cron expression: {error}") from error
    if never:
        raise InvalidSchedule(f"{expression!r} names a day that never comes")


def _walk(fields: str, shown: datetime) -> Iterator[datetime]:
    """Yield the wall clock's times that fit, later than one, for as long as there are any."""
    try:
        for found in CronSim(fields, shown):
            if found.year >= _LAST.year:
                return
            yield found
    except OverflowError:
        return


@lru_cache(maxsize=1024)
def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError, TypeError, AttributeError) as error:
        raise InvalidSchedule(
            f'no time zone {name!r:.80}: give an IANA name, such as "Europe/Vienna"'
            " (where the system has no time zone data, as on Windows, install tzdata)"
        ) from error


def _exact(shown: datetime, zone: ZoneInfo) -> datetime:
    """Return the first instant at which the clock shows a time, or the end of what it skips."""
    at = shown.replace(tzinfo=zone).astimezone(UTC)
    if at.astimezone(zone).replace(tzinfo=None) == shown:
        return at
    before = (at - _DAY).astimezone(zone).utcoffset() or timedelta(0)
    return _first_with(zone, before, at - _DAY, at)


def _first_with(zone: ZoneInfo, offset: timedelta, after: datetime, until: datetime) -> datetime:
    """Return the first second in (after, until] at which the offset is another."""
    low = int(after.timestamp())
    high = int(until.timestamp())
    while high - low > 1:
        middle = (low + high) // 2
        shown = datetime.fromtimestamp(middle, zone)
        low, high = (middle, high) if shown.utcoffset() == offset else (low, middle)
    return datetime.fromtimestamp(high, UTC)
