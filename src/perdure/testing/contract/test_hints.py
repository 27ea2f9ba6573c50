"""listen: a hint to other store objects on the same data when something may interest them."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
import pytest_asyncio

from perdure.model.progress import SetProgress
from perdure.model.streams import WriteStream
from perdure.model.transitions import CancelRun, Claim, RetireWorker, RetryRun, Settle
from perdure.model.versions import PinRun
from perdure.store import Store
from perdure.testing.contract.desk import DONE, FAIL, SECOND, Desk, fresh_token
from perdure.testing.contract.fixtures import MakeStore

PATIENCE = 10.0


@pytest_asyncio.fixture
async def other(make_store: MakeStore, store: Store) -> Store:
    """A second store object on the same data."""
    return await make_store()


Prepare = Callable[[Desk], Awaitable[object]]


async def _created(desk: Desk) -> None:
    await desk.create("r")


async def _settled(desk: Desk) -> object:
    grant = await desk.start()
    return Settle(grant, DONE)


async def _cancelled_running(desk: Desk) -> object:
    await desk.start()
    return CancelRun("r", "q")


async def _cancelled_waiting(desk: Desk) -> object:
    await desk.create("r", delay=SECOND)
    return CancelRun("r", "q")


async def _retried(desk: Desk) -> object:
    await desk.end("r", FAIL)
    return RetryRun("r", "q")


async def _streamed(desk: Desk) -> object:
    grant = await desk.start()
    return WriteStream(grant, "lines", b"", "", 0, b"1", 0)


async def _said(desk: Desk) -> object:
    return SetProgress(await desk.start(), b"1")


async def _retired(desk: Desk) -> object:
    await desk.start()
    return RetireWorker("w")


async def _pinned(desk: Desk) -> object:
    await desk.create("r", pin="2")
    return PinRun("r", "q", None)


async def test_a_create_hints(desk: Desk, other: Store):
    """A run that becomes claimable is told to whoever listens."""
    heard = asyncio.Event()
    stop = other.listen(heard.set)
    await desk.create("r")
    await asyncio.wait_for(heard.wait(), PATIENCE)
    stop()


@pytest.mark.parametrize(
    "prepare",
    [
        _settled,
        _cancelled_running,
        _cancelled_waiting,
        _retried,
        _retired,
        _pinned,
        _streamed,
        _said,
    ],
)
async def test_what_may_interest_others_hints(desk: Desk, other: Store, prepare: Prepare):
    """A settle, a cancel, a retry, a worker that gives back, a pin, an item of a stream."""
    await desk.worker()
    transition = await prepare(desk)
    heard = asyncio.Event()
    stop = other.listen(heard.set)
    await desk.do(transition)  # type: ignore[arg-type]
    await asyncio.wait_for(heard.wait(), PATIENCE)
    stop()


async def test_every_listener_is_called(desk: Desk, make_store: MakeStore):
    """Several store objects, and several listeners of one, all hear."""
    first, second = await make_store(), await make_store()
    heard = [asyncio.Event() for _ in range(3)]
    stops = [
        first.listen(heard[0].set),
        first.listen(heard[1].set),
        second.listen(heard[2].set),
    ]
    await desk.create("r")
    for event in heard:
        await asyncio.wait_for(event.wait(), PATIENCE)
    for stop in stops:
        stop()


async def test_a_listener_that_ended_is_not_called(desk: Desk, other: Store, make_store: MakeStore):
    """After `stop` the callback is silent, and stopping twice is harmless."""
    calls: list[str] = []
    heard = asyncio.Event()
    stop = other.listen(lambda: calls.append("stopped"))
    stop()
    stop()
    still = (await make_store()).listen(heard.set)
    await desk.create("r")
    await asyncio.wait_for(heard.wait(), PATIENCE)
    still()
    assert calls == []


async def test_callbacks_run_in_the_loop_that_listens(desk: Desk, other: Store):
    """The callback may touch the loop's objects: it runs in the loop where `listen` was called."""
    loop = asyncio.get_running_loop()
    ran_in: asyncio.Future[asyncio.AbstractEventLoop] = loop.create_future()

    def callback() -> None:
        if not ran_in.done():
            ran_in.set_result(asyncio.get_running_loop())

    stop = other.listen(callback)
    side = desk.store.side()

    async def elsewhere() -> None:
        await side.open()
        try:
            await Desk(side, desk.clock).create("r")
        finally:
            await side.close()

    await asyncio.to_thread(asyncio.run, elsewhere())
    assert await asyncio.wait_for(ran_in, PATIENCE) is loop
    stop()


async def test_losing_every_hint_loses_nothing(desk: Desk, other: Store):
    """Whoever does not listen finds the same runs by claiming."""
    await desk.worker()
    await desk.create("r")
    [claimed] = await other.apply([Claim("w", fresh_token(), ("d",), ("default",), 1)])
    assert [given.run.run_id for given in claimed.runs] == ["r"]
