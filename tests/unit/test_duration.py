"""Durations: what is accepted, what is refused, and that text and number agree exactly."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.duration import format_micros, to_micros, to_timedelta
from perdure.errors import InvalidDuration

SECOND = 1_000_000
LONGEST = 365_250 * 86_400 * SECOND


@pytest.mark.parametrize(
    "text, micros",
    [
        ("10m", 600 * SECOND),
        ("1h30m", 5_400 * SECOND),
        (" 1h 30m ", 5_400 * SECOND),
        ("1.5s", 1_500_000),
        ("1,5s", 1_500_000),
        ("250ms", 250_000),
        ("0.001ms", 1),
        ("3 days", 3 * 86_400 * SECOND),
        ("1 week 1 hour 2minutes 1 second 1ms", 608_521_001_000),
        ("2w", 14 * 86_400 * SECOND),
        ("1d2h3m4s5ms", 93_784_005_000),
        ("0s", 0),
        ("PT10M", 600 * SECOND),
        ("P1DT2H", 93_600 * SECOND),
        ("P2W", 14 * 86_400 * SECOND),
        ("PT0.000001S", 1),
        (timedelta(seconds=3), 3 * SECOND),
        (timedelta(0), 0),
    ],
)
def test_accepted(text, micros):
    """A duration's microseconds are exact, whichever way it is written."""
    assert to_micros(text) == micros
    assert to_timedelta(text) == timedelta(microseconds=micros)


@pytest.mark.parametrize(
    "bad",
    [
        "",
        " ",
        "10",
        "s",
        "ten minutes",
        "10 min",
        "3 dayss",
        "1 milliseconds",
        "10M",
        "1h 1h",
        "30m1h",
        "-5s",
        "5s-",
        "1e3s",
        "nan",
        "inf",
        "∞s",
        "\u0661s",  # a digit, but not one of ours
        "1.s",
        ".5s",
        "1..5s",
        "0.0001ms",
        "P",
        "PT",
        "P1DT",
        "P1Y",
        "P1M",
        "P1Y2M3D",
        "pt10m",
        "PT-1S",
        "9" * 40 + "s",
        "1" * 10_000 + "s",
        "366000d",
        "5s\x00",
        "\ud800",
        pytest.param(timedelta(seconds=-1), id="negative timedelta"),
        pytest.param(timedelta.max, id="longest timedelta"),
        10,
        1.5,
        0,
        pytest.param(10**400, id="big int"),
        pytest.param(10**5_000, id="unprintable int"),
        float("nan"),
        float("inf"),
        True,
        None,
        b"10s",
        ["10s"],
    ],
    ids=lambda bad: repr(bad)[:20],
)
def test_refused(bad):
    """What is no duration is refused, and the message shows how to write one."""
    with pytest.raises(InvalidDuration, match="timedelta"):
        to_micros(bad)


def test_a_bare_number_says_that_a_unit_is_missing():
    """A number without a unit is the classic mistake and gets its own message."""
    with pytest.raises(InvalidDuration, match='needs a unit, got the bare number 10; write "10s"'):
        to_timedelta(10)


def test_calendar_units_are_refused_with_the_reason():
    """Years and months have no fixed length, and the message says so."""
    with pytest.raises(InvalidDuration, match="no fixed length"):
        to_micros("P1M")


@pytest.mark.parametrize(
    "micros, text",
    [
        (0, "0s"),
        (5_400 * SECOND, "1h 30m"),
        (2_500_000, "2.5s"),
        (250_000, "250ms"),
        (1, "0.001ms"),
        (90_061 * SECOND, "1d 1h 1m 1s"),
        (-SECOND, "-1s"),
    ],
)
def test_format(micros, text):
    """Microseconds are shown in the largest units that fit."""
    assert format_micros(micros) == text


@given(st.integers(0, LONGEST))
def test_format_parses_back(micros):
    """The text of a duration is that duration."""
    assert to_micros(format_micros(micros)) == micros
