"""open, close, side, hold, departed: a store object from first use to last."""

import pytest

from perdure.errors import StoreClosed
from perdure.model.records import RunQuery
from perdure.model.transitions import Created, CreateRun, Heartbeat
from perdure.store import Capabilities, Store
from perdure.testing.contract.desk import DONE, Desk, child, register
from perdure.testing.contract.fixtures import MakeStore


async def test_a_store_declares_what_it_can_do(store: Store):
    """The capabilities are a plain value with one of the three durabilities."""
    capabilities = store.capabilities
    assert isinstance(capabilities, Capabilities)
    assert capabilities.name
    assert capabilities.durability in {"process", "kill", "power"}


async def test_opening_and_closing_twice_is_harmless(make_store: MakeStore, desk: Desk):
    """The second time nothing happens, and what was stored is there."""
    await desk.create("r")
    other = await make_store()
    await other.open()
    assert await other.get("r") is not None
    await other.close()
    await other.close()
    assert (await desk.run()).run_id == "r"


async def test_closing_before_opening_is_harmless(store: Store):
    """A store that was never opened has nothing to release."""
    await store.side().close()


async def test_a_closed_store_refuses_every_use(make_store: MakeStore):
    """Writes and reads raise StoreClosed instead of answering from nowhere."""
    store = await make_store()
    await store.close()
    with pytest.raises(StoreClosed):
        await store.apply([Heartbeat("w")])
    with pytest.raises(StoreClosed):
        await store.get("r")
    with pytest.raises(StoreClosed):
        await store.history("r")
    with pytest.raises(StoreClosed):
        await store.endings(["r"])
    with pytest.raises(StoreClosed):
        await store.list_runs(RunQuery())
    with pytest.raises(StoreClosed):
        await store.counts()
    with pytest.raises(StoreClosed):
        await store.damage()
    with pytest.raises(StoreClosed):
        await store.workers()


async def test_what_one_object_wrote_another_reads(make_store: MakeStore, desk: Desk):
    """Every object on the same data sees what was acknowledged, at once."""
    other = await make_store()
    await desk.worker()
    await desk.suspend(await desk.start("parent"), child("child"))
    await desk.end("child", DONE)
    for run_id in ("parent", "child"):
        assert await other.history(run_id) == await desk.history(run_id)
    assert await other.workers() == await desk.store.workers()


async def test_a_side_store_is_on_the_same_data(desk: Desk):
    """It is opened and closed on its own and shares namespace and clock."""
    side = desk.store.side()
    await side.open()
    try:
        assert await side.apply([CreateRun("r", "d", b"1", 7)]) == [Created("r")]
        assert await side.now() == await desk.store.now()
        assert (await desk.run()).run_id == "r"
    finally:
        await side.close()
    assert (await desk.run()).run_id == "r"


async def test_a_worker_that_is_held_has_not_departed(make_store: MakeStore, desk: Desk):
    """While its sign of life is held no store object calls it dead."""
    other = await make_store()
    await desk.apply(register("w"), register("v"))
    release = desk.store.hold("w")
    assert desk.store.departed(["w"]) == set()
    assert other.departed(["w"]) == set()
    assert desk.store.departed([]) == set()
    release()
    release()


async def test_a_worker_whose_sign_was_given_up_has_departed(make_store: MakeStore, desk: Desk):
    """Where the store can know it, a released worker is named, and only it."""
    if not desk.store.capabilities.knows_departed:
        assert desk.store.departed(["w", "v"]) == set()
        pytest.skip("the store does not know who departed")
    other = await make_store()
    desk.store.hold("w")()
    release = desk.store.hold("v")
    assert other.departed(["w", "v"]) == {"w"}
    release()
