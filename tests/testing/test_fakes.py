"""Steps replaced for a test."""

import asyncio

import pytest

from perdure.errors import RunFailed, UsageError
from perdure.testing import Kit, UnusedFake
from tests.testing import shop
from tests.testing.shop import Order


async def test_a_decorated_step_is_replaced():
    """By the step itself or by its name; its calls are noted, its function is not executed."""
    for charge in (shop.charge, "charge"):
        async with Kit(shop.app) as kit:
            fake = kit.fake(charge, lambda order_id, cents: f"{cents} for nothing")
            assert (await kit.run(shop.fulfil, Order("o1", 5))).startswith("5 for nothing")
            assert fake.calls == [(("o1", 5), {})]


async def test_an_inline_step_is_replaced():
    """Async for a `def`, and it is no more executed in a thread."""

    async def elsewhere(order_id: str) -> str:
        await asyncio.sleep(0)
        return f"{order_id} elsewhere"

    async with Kit(shop.app) as kit:
        kit.fake("reserve", elsewhere)
        assert "o1 elsewhere" in await kit.run(shop.fulfil, Order("o1", 5))


async def test_a_fake_is_recorded_like_the_step():
    """Its result passes the step's codec: what does not fit the annotation is refused."""
    async with Kit(shop.app) as kit:
        kit.fake(shop.charge, lambda order_id, cents: 5)
        with pytest.raises(RunFailed, match="InvalidValue"):
            await kit.run(shop.fulfil, Order("o1", 5))


async def test_a_failure_is_retried_by_the_steps_policy():
    """The first executions fail, then the step does what it does."""
    async with Kit(shop.app) as kit:
        failing = kit.fail(shop.charge, ConnectionError("away"), times=4)
        run = await shop.fulfil.enqueue(Order("o1", 5))
        await kit.finish()
        assert await run.result() == "paid 5, reserved, 2 boxes"
        assert len(failing.calls) == 5
        assert (await run.history()).steps[0].failed[0].error == "ConnectionError: away"


async def test_a_failure_without_end():
    """All attempts fail, and the run with them."""
    async with Kit(shop.app) as kit:
        kit.fail("reserve", OSError)
        with pytest.raises(RunFailed, match="OSError"):
            await kit.run(shop.fulfil, Order("o1", 5))


async def test_a_failure_before_a_fake():
    """After the failures it is the fake's turn."""
    async with Kit(shop.app) as kit:
        kit.fake("reserve", lambda order_id: "faked")
        kit.fail("reserve", OSError("once"), times=1)
        assert "faked" in await kit.run(shop.fulfil, Order("o1", 5))


async def test_fakes_end_with_their_kit():
    """The next kit executes the step itself."""
    async with Kit(shop.app) as kit:
        kit.fake(shop.charge, lambda order_id, cents: "fake")
    async with Kit(shop.app) as kit:
        assert "paid 5" in await kit.run(shop.fulfil, Order("o1", 5))


async def test_a_step_outside_of_a_run_is_not_replaced():
    """There it is an ordinary function."""
    async with Kit(shop.app) as kit:
        kit.fake(shop.charge, lambda order_id, cents: "fake")
        assert await shop.charge("o1", 5) == "paid 5"


@pytest.mark.parametrize(
    "wrong, right", [("chrage", "charge"), ("reserv", "reserve"), ("flod", "fold")]
)
async def test_an_unknown_step_is_refused(wrong, right):
    """Decorated steps and the texts that the bodies' code holds are known; one is suggested."""
    async with Kit(shop.app) as kit:
        with pytest.raises(UsageError, match=f"no step named '{wrong}'.*did you mean '{right}'"):
            kit.fake(wrong, print)


async def test_a_computed_name_is_checked_at_the_end():
    """It is said that it is computed; if no step had it, the test fails and names those it had."""
    async with Kit(shop.app) as kit:
        kit.fake("fetch-7", lambda order_id: "faked", computed=True)
        assert await kit.run(shop.computed, 7) == "faked"
    with pytest.raises(UnusedFake, match=r"no step named 'fetch-8' was called.*fetch-7"):
        async with Kit(shop.app) as kit:
            kit.fake("fetch-8", lambda order_id: "faked", computed=True)
            await kit.run(shop.computed, 7)


async def test_a_number_of_times_is_checked():
    """None is all, and zero is none at all."""
    async with Kit(shop.app) as kit:
        with pytest.raises(UsageError, match="above 0"):
            kit.fail("reserve", OSError, times=0)
