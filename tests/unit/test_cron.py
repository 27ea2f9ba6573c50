"""Cron expressions and intervals: what is refused, and which instants they name in any zone."""

import functools
import zoneinfo
from datetime import UTC, datetime, timedelta

import pytest

from perdure.cron import ALIASES, Cron, Every
from perdure.errors import InvalidSchedule

MINUTE = 60


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp()) * 1_000_000


def named(cron: Cron, start: str, count: int) -> list[str]:
    instants = []
    instant = at(start)
    for _ in range(count):
        instant = cron.next_after(instant)
        shown = datetime.fromtimestamp(instant / 1_000_000, zoneinfo.ZoneInfo(cron.timezone))
        instants.append(shown.isoformat(timespec="minutes"))
    return instants


@pytest.mark.parametrize(
    "expression",
    ["", " ", "* * * *", "* * * * * * *", "60 * * * *", "0 24 * * *", "0 0 0 * *", "0 0 32 * *",
     "0 0 * 13 *", "0 0 * * 8", "*/0 * * * *", "a * * * *", "1- * * * *", "5-1 * * * *",
     "0 0 30 2 *", "@often", "@", "0 0 * * mon#6", "\x00 * * * *", "٣ * * * *",
     "0 0 * * *; drop", "1," * 200,
     "0 0 L/2,* * L", None, 5],
)  # fmt: skip
def test_refused(expression):
    """What is no expression, or names a day that never comes, is refused where it is given."""
    with pytest.raises(InvalidSchedule):
        Cron(expression)


@pytest.mark.parametrize(
    "zone", ["", "Europe/Wien", "../../etc/passwd", "/etc/localtime", "\0", "x" * 5000, "+02:00"]
)
def test_zones_refused(zone):
    """Only names of zones are zones."""
    with pytest.raises(InvalidSchedule):
        Cron("@daily", zone)


@pytest.mark.parametrize("interval", ["", "5", "0s", "999ms", "-5m", timedelta(0), None])
def test_intervals_refused(interval):
    """An interval is a duration of a second or more."""
    with pytest.raises(InvalidSchedule):
        Every(interval)


def test_intervals():
    """The instants of an interval are multiples of it, and later than the one given."""
    every = Every("5m")
    assert every.next_after(at("2026-01-01T00:00+00:00")) == at("2026-01-01T00:05+00:00")
    assert every.next_after(at("2026-01-01T00:04:59+00:00")) == at("2026-01-01T00:05+00:00")


@pytest.mark.parametrize("alias", ALIASES)
def test_aliases(alias):
    """An alias names what its five fields name."""
    start = at("2026-11-26T10:10+00:00")
    assert Cron(alias).next_after(start) == Cron(ALIASES[alias]).next_after(start)


def test_either_day():
    """A day that fits one of two restricted day fields fits; with a star both must fit."""
    assert named(Cron("0 0 13 * fri"), "2026-11-01T00:00+00:00", 3) == [
        "2026-11-06T00:00+00:00",
        "2026-11-13T00:00+00:00",
        "2026-11-20T00:00+00:00",
    ]
    assert named(Cron("0 0 */13 * fri"), "2026-11-01T00:00+00:00", 2) == [
        "2026-11-27T00:00+00:00",
        "2027-01-01T00:00+00:00",
    ]
    assert named(Cron("0 0 * * 7"), "2026-11-26T00:00+00:00", 1) == ["2026-11-29T00:00+00:00"]


def test_the_long_day():
    """A time that the clock shows twice is one instant; every so often is twice as often."""
    assert named(Cron("30 2 * * *", "Europe/Vienna"), "2026-10-24T12:00+02:00", 2) == [
        "2026-10-25T02:30+02:00",
        "2026-10-26T02:30+01:00",
    ]
    assert named(Cron("*/30 2 * * *", "Europe/Vienna"), "2026-10-24T12:00+02:00", 4) == [
        "2026-10-25T02:00+02:00",
        "2026-10-25T02:30+02:00",
        "2026-10-25T02:00+01:00",
        "2026-10-25T02:30+01:00",
    ]


def test_the_short_day():
    """Times that the clock skips are one instant right after; every so often is left out."""
    assert named(Cron("15,45 2 * * *", "Europe/Vienna"), "2026-03-28T12:00+01:00", 2) == [
        "2026-03-29T03:00+02:00",
        "2026-03-30T02:15+02:00",
    ]
    assert named(Cron("*/30 2 * * *", "Europe/Vienna"), "2026-03-28T12:00+01:00", 1) == [
        "2026-03-30T02:00+02:00"
    ]


# --- against an oracle that looks at every minute ------------------------------------------------

EXPRESSIONS = {
    "*/5 * * * *": lambda t: t.minute % 5 == 0,
    "* * * * *": lambda t: True,
    "*/30 * * * *": lambda t: t.minute % 30 == 0,
    "*/30 5 * * *": lambda t: t.minute % 30 == 0 and t.hour == 5,
    "0 * * * *": lambda t: t.minute == 0,
    "15 * * * *": lambda t: t.minute == 15,
    "*/20 2 * * *": lambda t: t.minute % 20 == 0 and t.hour == 2,
    "* 3 * * *": lambda t: t.hour == 3,
    "45 */2 * * *": lambda t: t.minute == 45 and t.hour % 2 == 0,
    "*/10 0-4 * * *": lambda t: t.minute % 10 == 0 and t.hour <= 4,
    "30 2 * * *": lambda t: (t.hour, t.minute) == (2, 30),
    "0 0 * * *": lambda t: (t.hour, t.minute) == (0, 0),
    "30 1 * * *": lambda t: (t.hour, t.minute) == (1, 30),
    "0 3 * * *": lambda t: (t.hour, t.minute) == (3, 0),
    "15,45 2 * * *": lambda t: t.hour == 2 and t.minute in {15, 45},
    "10 0,1,2,3 * * *": lambda t: t.hour <= 3 and t.minute == 10,
    "0 2 * * sun": lambda t: (t.hour, t.minute, t.weekday()) == (2, 0, 6),
    "59 23 * * *": lambda t: (t.hour, t.minute) == (23, 59),
    "30 0 * * 7": lambda t: (t.hour, t.minute, t.weekday()) == (0, 30, 6),
    "0 12 * * *": lambda t: (t.hour, t.minute) == (12, 0),
}


def transitions(zone: zoneinfo.ZoneInfo) -> list[int]:
    """Return the minutes since the epoch, 2020 to 2037, at which the zone's offset changes."""
    found = []
    step = 12 * 60
    first = int(datetime(2020, 1, 1, tzinfo=UTC).timestamp()) // MINUTE
    last = int(datetime(2038, 1, 1, tzinfo=UTC).timestamp()) // MINUTE
    before = offset_at(first, zone)
    for minute in range(first + step, last, step):
        after = offset_at(minute, zone)
        if after != before:
            found.append(
                next(m for m in range(minute - step, minute + 1) if offset_at(m, zone) == after)
            )
            before = after
    return found


def offset_at(minute: int, zone: zoneinfo.ZoneInfo) -> timedelta:
    return datetime.fromtimestamp(minute * MINUTE, zone).utcoffset()


def oracle(expression: str, zone: zoneinfo.ZoneInfo, first: int, last: int) -> list[int]:
    """Look at each minute in turn, as somebody with a wall clock would."""
    fits = EXPRESSIONS[expression]
    minute_field, hour_field, *_ = expression.split()
    by_time_of_day = "*" not in minute_field[0] + hour_field[0]
    fired = []
    seen = datetime.fromtimestamp(first * MINUTE, zone).replace(tzinfo=None)
    for minute in range(first + 1, last + 1):
        shown = datetime.fromtimestamp(minute * MINUTE, zone).replace(tzinfo=None)
        if by_time_of_day:
            passed = seen + timedelta(minutes=1)
            is_due = False
            while passed <= shown:  # the minutes that the clock skips, and this one
                is_due = is_due or fits(passed)
                passed += timedelta(minutes=1)
            seen = max(seen, shown)  # a minute that is shown again has passed already
        else:
            is_due = fits(shown)
        if is_due:
            fired.append(minute)
    return fired


BEFORE, AFTER = 3 * MINUTE, 4 * MINUTE


@functools.cache
def changes() -> list[tuple[str, int]]:
    """Return a zone and a minute for each change of a clock; those that are alike count once."""
    alike = {}
    for name in sorted(zoneinfo.available_timezones()):
        zone = zoneinfo.ZoneInfo(name)
        for minute in transitions(zone):
            alike[minute, offset_at(minute - 1, zone), offset_at(minute, zone)] = name
    return [(name, minute) for (minute, *_), name in alike.items()]


DENSE = ("*/5 * * * *", "* * * * *")
"""Expressions that take as long as all others together; each of the others has their parts."""


@pytest.mark.parametrize(
    "expression",
    [pytest.param(one, marks=[pytest.mark.tier(2)] if one in DENSE else []) for one in EXPRESSIONS],
)
def test_every_change_of_every_zone(expression):
    """Around each change of each zone's clock, 2020 to 2037, an expression names what is due."""
    for name, minute in changes():
        first, last = minute - BEFORE, minute + AFTER
        cron = Cron(expression, name)
        found = []
        instant = first * MINUTE * 1_000_000
        while (instant := cron.next_after(instant)) <= last * MINUTE * 1_000_000:
            found.append(instant // 1_000_000 // MINUTE)
        assert found == oracle(expression, zoneinfo.ZoneInfo(name), first, last), (name, minute)
