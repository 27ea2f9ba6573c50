"""Reading the change feed through an app: filters, following, named subscribers."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import datetime, timedelta
from typing import Any

import pytest

from perdure import App, Change, ChangeKind, constant, sleep, step
from perdure import change as changes_of_apps
from perdure.errors import AppNotReady, CursorExpired, InvalidValue, UnknownDefinition, UsageError
from perdure.model.changes import MoveSubscriber
from tests.engine.places import PATIENCE, Place, eventually


def define(app: App) -> Any:
    """Two definitions: a job of one step, and one that fails."""

    @app.workflow
    async def fulfil(order: int) -> int:
        return await step("pay", pay, order)

    @app.workflow
    async def refuse() -> None:
        raise ValueError("no")

    app.refuse = refuse  # type: ignore[attr-defined]
    return fulfil


async def pay(order: int) -> int:
    """Take the money."""
    return order


async def all_of(found: AsyncIterator[Change]) -> list[Change]:
    """Return every change."""
    return [change async for change in found]


async def take(found: AsyncIterator[Change], count: int) -> list[Change]:
    """Return the next so many changes."""
    async with asyncio.timeout(PATIENCE):
        return [await anext(found) for _ in range(count)]


async def test_what_happened_to_a_run(place: Place):
    """Everything from its creation to its end, with the step that it recorded."""
    async with place.life(define) as life:
        run = await life.flow.enqueue(1)
        await run.result()
        await (await life.flow.enqueue(2)).result()
        found = await all_of(life.app.changes(run=run))
        assert [change.kind for change in found] == ["created", "claimed", "step", "completed"]
        assert {(change.run_id, change.name, change.queue) for change in found} == {
            (run.id, "fulfil", "default")
        }
        assert [change.status for change in found] == ["queued", "running", "running", "completed"]
        recorded = found[2].step
        assert recorded is not None
        assert (recorded.path, recorded.kind, recorded.outcome, recorded.tries) == (
            "pay",
            "step",
            "ok",
            1,
        )
        now = datetime.now(found[0].at.tzinfo)  # one for all: the loop takes time
        ages = [now - change.at for change in found]
        assert timedelta(minutes=1) > ages[0] >= ages[-1]
        assert await all_of(life.app.changes(run=run.id)) == found


async def test_changes_are_chosen(place: Place):
    """By definition and by kind; several are alternatives."""
    async with place.life(define) as life:
        await (await life.flow.enqueue(1)).result()
        failed = await life.app.refuse.enqueue()
        await eventually(lambda: _has_failed(failed))
        app = life.app
        assert {change.name for change in await all_of(app.changes(name="refuse"))} == {"refuse"}
        assert len(await all_of(app.changes(name=["refuse", "fulfil"]))) == 7
        ends = await all_of(app.changes(kind=["completed", ChangeKind.FAILED]))
        assert [(change.name, change.kind, change.reason) for change in ends] == [
            ("fulfil", "completed", None),
            ("refuse", "failed", "error"),
        ]
        assert await all_of(app.changes(name="refuse", kind="step")) == []


async def _has_failed(run: Any) -> bool:
    return (await run.status()) == "failed"


async def test_one_reads_on(place: Place):
    """From a change, or from its position; from the end nothing follows."""
    async with place.life(define) as life:
        for number in range(60):
            await life.flow.enqueue(number)
        await (await life.flow.enqueue(60)).result()
        found = await all_of(life.app.changes())
        assert len(found) > 150, "more than a page"
        assert await all_of(life.app.changes(after=found[120])) == found[121:]
        assert await all_of(life.app.changes(after=found[120].position)) == found[121:]
        assert await all_of(life.app.changes(after=await life.app.position())) == []


async def test_one_follows_what_this_process_does(place: Place, monkeypatch: pytest.MonkeyPatch):
    """Without waiting for the poll."""
    monkeypatch.setattr("perdure._engine.news.POLL", 3_600.0)
    async with (
        place.life(define) as life,
        aclosing(life.app.changes(follow=True, kind="completed")) as following,
    ):
        for number in range(3):
            run = await life.flow.enqueue(number)
            [change] = await take(following, 1)
            assert change.run_id == run.id


async def test_one_follows_what_others_do(place: Place):
    """By hint or by poll."""
    async with (
        place.life(define) as life,
        place.client(define) as client,
        aclosing(client.app.changes(follow=True)) as following,
    ):
        run = await life.flow.enqueue(1)
        found = await take(following, 4)
        assert [change.kind for change in found] == ["created", "claimed", "step", "completed"]
        assert {change.run_id for change in found} == {run.id}


async def test_a_retry_says_when(place: Place):
    """A change of a run that waits says for what and until when."""

    def define(app: App) -> Any:
        @app.workflow(max_attempts=2, backoff=constant("1h"))
        async def flaky() -> None:
            raise ValueError("again")

        return flaky

    async with place.life(define) as life:
        run = await life.flow.enqueue()
        await life.reaches(run, "waiting", "retry")
        [change] = await all_of(life.app.changes(kind="retry_scheduled"))
        assert (change.status, change.waiting_for, change.attempt) == ("waiting", "retry", 2)
        assert change.due_at is not None
        assert timedelta(minutes=50) < change.due_at - change.at < timedelta(minutes=70)


async def test_what_is_asked_for_is_checked(place: Place):
    """At the call, or where it must be looked up while it is read."""
    async with place.client(define) as client:
        app = client.app
        with pytest.raises(UsageError, match="did you mean 'completed'"):
            app.changes(kind="complete")
        with pytest.raises(InvalidValue, match="no position"):
            app.changes(after="yesterday")
        with pytest.raises(UnknownDefinition, match="fulfil"):
            await all_of(app.changes(name="fulfill"))
        with pytest.raises(CursorExpired):
            await all_of(app.changes(after="abc-1-2-3"))
    with pytest.raises(AppNotReady):
        await all_of(App().changes())


# --- subscribers ---------------------------------------------------------------------------------


async def test_a_subscriber_goes_on_where_it_was(place: Place):
    """What the loop went on from is acknowledged; the one in whose midst it ended is not."""
    async with place.life(define) as life:
        for number in range(4):
            await (await life.flow.enqueue(number)).result()
        whole = await all_of(life.app.changes(kind="completed"))
        assert await life.app.subscribers() == []
        async with aclosing(life.app.subscribe("billing", kind="completed")) as first:
            assert await take(first, 3) == whole[:3]
        [kept] = await life.app.subscribers()
        assert kept.name == "billing"
    async with place.client(define) as client:
        async with aclosing(client.app.subscribe("billing", kind="completed")) as second:
            assert await take(second, 2) == whole[2:]
        async with aclosing(client.app.subscribe("audit", kind="completed")) as other:
            assert await take(other, 4) == whole


async def test_an_error_in_the_loop_is_no_acknowledgement(place: Place):
    """The change that it had to do with is given again."""
    async with place.life(define) as life:
        await (await life.flow.enqueue(1)).result()

        async def fail() -> None:
            async with aclosing(life.app.subscribe("billing")) as found:
                async for change in found:
                    if change.kind == "claimed":
                        raise ValueError("cannot")

        with pytest.raises(ValueError, match="cannot"):
            await fail()
        async with aclosing(life.app.subscribe("billing")) as again:
            assert [change.kind for change in await take(again, 3)] == [
                "claimed",
                "step",
                "completed",
            ]


async def test_a_new_subscriber_begins_where_it_says(place: Place):
    """At the end, for what is to come: also what came before it first read anything."""
    async with place.life(define) as life:
        await (await life.flow.enqueue(1)).result()
        end = await life.app.position()
        async with aclosing(life.app.subscribe("billing", after=end)) as found:
            reading = asyncio.ensure_future(anext(found))
            await eventually(life.app.subscribers)
            reading.cancel()
            await asyncio.wait([reading])
        run = await life.flow.enqueue(2)
        async with aclosing(life.app.subscribe("billing")) as found:
            [change] = await take(found, 1)
            assert (change.run_id, change.kind) == (run.id, "created")


async def test_what_is_acknowledged_is_kept_once_a_second(
    place: Place, monkeypatch: pytest.MonkeyPatch
):
    """And not only when a page is over or the loop is left."""
    monkeypatch.setattr(changes_of_apps, "KEEP_AFTER", 0.0)
    async with place.life(define) as life:
        await (await life.flow.enqueue(1)).result()
        async with aclosing(life.app.subscribe("billing")) as found:
            first, _ = await take(found, 2)
            [kept] = await life.app.subscribers()
            assert kept.position == first.position


async def test_of_two_readers_the_slower_goes_on_from_where_the_other_is(
    place: Place, monkeypatch: pytest.MonkeyPatch
):
    """Nothing is skipped, and what the other has acknowledged is not done again for long."""
    monkeypatch.setattr(changes_of_apps, "KEEP_AFTER", 0.0)
    async with place.life(define) as life:
        for number in range(3):
            await (await life.flow.enqueue(number)).result()
        whole = await all_of(life.app.changes())
        async with (
            aclosing(life.app.subscribe("billing")) as slow,
            aclosing(life.app.subscribe("billing")) as quick,
        ):
            assert await take(slow, 1) == whole[:1]
            assert await take(quick, 6) == whole[:6]
            assert await take(slow, 2) == whole[5:7]


async def test_a_subscriber_is_removed(place: Place):
    """Whoever reads under that name is told; the next one begins anew."""
    async with place.life(define) as life:
        await (await life.flow.enqueue(1)).result()
        async with aclosing(life.app.subscribe("billing", kind="created")) as found:
            await take(found, 1)
            await life.app.engine.committer.submit(MoveSubscriber("other", None, "a-1"))
        async with aclosing(
            life.app.subscribe("billing", after=await life.app.position())
        ) as found:
            reading = asyncio.ensure_future(anext(found))
            await eventually(lambda: _is_there(life.app, "billing"))
            assert await life.app.unsubscribe("billing")
            assert not await life.app.unsubscribe("billing")
            await life.flow.enqueue(2)
            await asyncio.wait([reading], timeout=PATIENCE)
            assert reading.result().kind == "created"
            with pytest.raises(UsageError, match="was removed"):
                await take(found, 200)


async def _is_there(app: App, name: str) -> bool:
    return name in {one.name for one in await app.subscribers()}


async def test_a_follower_of_an_app_that_closes(place: Place):
    """Ends, with nothing left that listens."""
    async with place.life(define) as life:
        following = life.app.changes(follow=True)
        await life.flow.enqueue(1)
        await take(following, 1)
        await following.aclose()
        assert life.app.engine.news._stop_listening is None


async def test_sleep_and_wake_are_told(place: Place):
    """A body that sleeps is suspended and woken."""

    def define(app: App) -> Any:
        @app.workflow
        async def nap() -> None:
            await sleep("50ms")

        return nap

    async with place.life(define, poll="20ms") as life:
        run = await life.flow.enqueue()
        await run.result()
        kinds = [change.kind for change in await all_of(life.app.changes(run=run))]
        assert [kind for kind in kinds if kind != "step"] == [
            "created",
            "claimed",
            "suspended",
            "woken",
            "claimed",
            "completed",
        ]
