"""What the memory store offers beyond the contract: data that several stores share."""

import asyncio

from perdure.model.keys import Throttle
from perdure.model.transitions import Created, CreateRun, Exists
from perdure.stores.memory import MemoryData, MemoryStore
from perdure.testing.contract.desk import START, Desk, ManualClock


async def _open(data: MemoryData | None = None, **fields) -> MemoryStore:
    store = MemoryStore(data=data, **fields)
    await store.open()
    return store


async def test_stores_without_shared_data_are_apart():
    """Each MemoryStore has data of its own unless it is given some."""
    first, second = await _open(), await _open()
    await first.apply([CreateRun("r", "d", b"", 1)])
    assert await second.get("r") is None


async def test_data_outlive_every_store_on_them():
    """A simulated process that dies and comes again finds what was acknowledged."""
    data = MemoryData()
    store = await _open(data)
    await store.apply([CreateRun("r", "d", b"", 1)])
    await store.close()
    assert await (await _open(data)).get("r") is not None


async def test_the_clock_is_that_of_the_data_unless_a_store_names_one():
    """One machine has one clock; a store may be given another to test skew."""
    data = MemoryData(ManualClock())
    assert await (await _open(data)).now() == START
    ahead = ManualClock()
    ahead.advance(5)
    store = await _open(data, clock=ahead)
    assert await store.now() == START + 5
    assert store.side().data is data
    side = store.side()
    await side.open()
    assert await side.now() == START + 5


async def test_nobody_is_known_to_have_departed_unless_told():
    """Data with a set of the dead make the store say so, and only of those asked about."""
    store = await _open()
    assert not store.capabilities.knows_departed
    assert store.departed(["w"]) == set()
    data = MemoryData(departed=set())
    store = await _open(data)
    assert store.capabilities.knows_departed
    data.departed.add("w")
    data.departed.add("x")
    assert store.departed(["v", "w"]) == {"w"}


async def test_a_hint_to_a_loop_that_is_gone_is_dropped():
    """A listener whose thread ended without stopping harms nobody's write."""
    data = MemoryData()

    async def listen_and_leave() -> None:
        (await _open(data)).listen(lambda: None)

    await asyncio.to_thread(asyncio.run, listen_and_leave())
    desk = Desk(await _open(data), ManualClock())
    assert await desk.do(CreateRun("r", "d", b"", 1)) == Created("r")


async def test_nothing_is_kept_of_what_is_over():
    """Ended runs leave no entry in the lists of waiters, keys and held runs."""
    data = MemoryData(ManualClock())
    desk = Desk(await _open(data), data.clock)
    await desk.worker()
    for n in range(3):
        await desk.create(f"r{n}", unique_key=f"u{n}")
        await desk.settle(await desk.claim_one(f"r{n}"))
    space = data.spaces["default"]
    assert space.unique == {}
    assert space._waiters == {}
    assert space.workers["w"].held == {}


async def test_windows_and_inputs_that_are_over_go():
    """With each new one some that have ended; those that have not stay."""
    data = MemoryData(ManualClock())
    desk = Desk(await _open(data), data.clock)
    for n in range(40):
        rule = Throttle(1_000 if n % 2 else 10**12)
        await desk.create(f"r{n}", unique_key=f"u{n}", key_rule=rule)
    space = data.spaces["default"]
    assert len(space.windows) == 40
    desk.clock.advance(1_000)
    for n, expected in enumerate((25, 22, 23)):
        await desk.create(f"s{n}", unique_key=f"v{n}", key_rule=Throttle(10**12))
        assert len(space.windows) == expected


async def test_a_window_that_is_opened_anew_is_not_ended_by_the_old_one():
    """Its old end comes while it is kept, and what is over goes then."""
    data = MemoryData(ManualClock())
    desk = Desk(await _open(data), data.clock)
    for n in range(20):
        await desk.create(f"r{n}", unique_key="u", key_rule=Throttle(n + 1))
        await desk.cancel(f"r{n}")
        desk.clock.advance(n + 1)
    await desk.create("last", unique_key="u", key_rule=Throttle(1_000))
    await desk.cancel("last")
    await desk.create("other", unique_key="v", key_rule=Throttle(1))
    again = CreateRun("again", "d", b'"in"', 1, unique_key="u", key_rule=Throttle(1))
    assert await desk.do(again) == Exists("last", same=True)
