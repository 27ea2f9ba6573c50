"""The clock's numbers and the thread port, on real threads that are told when to end."""

import asyncio
import threading
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.clock import (
    Clock,
    SystemClock,
    SystemThreads,
    Threads,
    to_datetime,
    to_micros_instant,
)
from perdure.errors import InvalidValue

PATIENCE = 30


def test_the_system_clock_is_a_clock():
    """The real clock counts microseconds since the epoch and never runs backwards."""
    clock: Clock = SystemClock()
    assert clock.now() > to_micros_instant(datetime(2024, 1, 1, tzinfo=UTC))
    assert clock.monotonic() <= clock.monotonic()


async def test_sleeping_no_time_yields():
    """A sleep of zero or less lets others run once."""
    ran = []
    task = asyncio.ensure_future(asyncio.sleep(0, ran.append(1)))
    await SystemClock().sleep(-5)
    await task
    assert ran == [1]


@given(st.datetimes(timezones=st.just(UTC)))
def test_instants_convert_both_ways(instant):
    """A datetime and its microseconds are the same instant."""
    assert to_datetime(to_micros_instant(instant)) == instant


def test_an_instant_of_another_zone_is_the_same_instant():
    """The offset of an aware datetime is taken into account."""
    there = datetime(2026, 1, 1, 2, tzinfo=timezone(timedelta(hours=2)))
    assert to_micros_instant(there) == to_micros_instant(datetime(2026, 1, 1, tzinfo=UTC))


@pytest.mark.parametrize(
    "bad, why",
    [
        (datetime(2026, 1, 1), "naive 2026-01-01T00:00:00"),  # noqa: DTZ001 -- the case
        ("2026-01-01", "<str>"),
        (None, "<NoneType>"),
        (0, "<int>"),
    ],
)
def test_what_names_no_instant_is_refused(bad, why):
    """A naive datetime or another type is refused with what was got."""
    with pytest.raises(InvalidValue, match=why):
        to_micros_instant(bad)


@pytest.mark.parametrize("micros", [2**63, -(2**63), 10**30])
def test_instants_outside_of_the_calendar_are_refused(micros):
    """A number that is no date in years 1 to 9999 is refused."""
    with pytest.raises(InvalidValue, match="years 1 to 9999"):
        to_datetime(micros)


def test_a_thread_runs_its_coroutine_on_a_loop_of_its_own():
    """The coroutine runs in another thread, under the name that was given."""
    threads: Threads = SystemThreads()
    seen = []

    async def main():
        seen.append((threading.current_thread().name, asyncio.get_running_loop().is_running()))

    thread = threads.start("perdure-test", main)
    assert thread.join(PATIENCE)
    assert not thread.is_alive()
    assert thread.name == "perdure-test"
    assert seen == [("perdure-test", True)]


def test_call_soon_reaches_the_loop_from_outside():
    """Another thread can wake the coroutine; after its end the call says that it came too late."""
    stop = asyncio.Event()

    async def main():
        await stop.wait()

    thread = SystemThreads().start("perdure-test", main)
    assert thread.is_alive()
    assert not thread.join(0)
    assert thread.call_soon(stop.set)
    assert thread.join(PATIENCE)
    assert not thread.call_soon(stop.set)


def test_call_soon_passes_arguments():
    """Arguments after the callback reach it."""
    stop: list[asyncio.Future] = []
    started = threading.Event()

    async def main():
        stop.append(asyncio.get_running_loop().create_future())
        started.set()
        await stop[0]

    thread = SystemThreads().start("perdure-test", main)
    assert started.wait(PATIENCE)
    assert thread.call_soon(stop[0].set_result, None)
    assert thread.join(PATIENCE)


def test_an_exception_ends_the_thread_and_is_reported(monkeypatch):
    """What a coroutine raises goes to threading.excepthook, not into silence."""
    reported = []
    monkeypatch.setattr(threading, "excepthook", lambda args: reported.append(args.exc_value))

    async def main():
        raise ValueError("broken")

    assert SystemThreads().start("perdure-test", main).join(PATIENCE)
    assert [str(error) for error in reported] == ["broken"]
