"""Events: what they start, which wait takes which, and that no kill changes it."""

import asyncio
from dataclasses import dataclass
from typing import Any, TypedDict

import msgspec
import pytest

from perdure import (
    App,
    EventTimeout,
    Status,
    Worker,
    constant,
    event,
    patched,
    sleep,
    step,
    wait_for_event,
)
from perdure.errors import (
    DefinitionError,
    EventConflict,
    InvalidTransition,
    InvalidValue,
    NotInRun,
    RunDeclined,
    RunFailed,
    RunNotFound,
    UsageError,
)
from perdure.model.events import Publish, TakeEvent
from tests.engine.places import Halt, Place, eventually, finished, half_way


@dataclass(frozen=True)
class Placed:
    """An order was placed."""

    order_id: str
    cents: int


@dataclass(frozen=True)
class Packed:
    """An order was packed."""

    order_id: str
    box: str = "small"


@event("order.paid")
class Paid(msgspec.Struct, frozen=True):
    """An order was paid."""

    cents: int


class Note(TypedDict):
    """Something was noted."""

    text: str


def nothing(app: App) -> None:
    """Declare nothing: a client without the workflows' code."""


# --- what an event starts ------------------------------------------------------------------------


async def test_a_publisher_needs_no_code(place: Place):
    """One run for each workflow that was registered, with the event as its argument."""

    def define(app: App) -> None:
        @app.workflow(on=Placed, tags=("orders",))
        async def fulfil(order: Placed) -> str:
            return f"{order.order_id} for {order.cents}"

        @app.job(on=[Placed, Packed])
        async def count(seen: dict[str, Any], by: int = 1) -> str:
            return f"{sorted(seen)} {by}"

        @app.workflow(on=Packed)
        async def other(packed: Packed) -> None: ...

    async with place.life(define):
        pass
    async with place.client(nothing) as client:
        published = await client.app.publish(Placed("o1", 499), key="o1", id="e1")
        names = [(await run.history()).name for run in await published.runs()]
        assert sorted(names) == ["count", "fulfil"]
        assert {(await run.history()).caused_by for run in await published.runs()} == {"event:e1"}
        assert [(one.type, one.name) for one in await client.app.listeners()] == [
            ("Packed", "count"),
            ("Packed", "other"),
            ("Placed", "count"),
            ("Placed", "fulfil"),
        ]
    async with place.life(define) as life:
        results = {run.id: await run.result("5s") for run in await published_runs(life.app, "e1")}
        assert sorted(results.values()) == ["['cents', 'order_id'] 1", "o1 for 499"]


async def published_runs(app: App, event_id: str) -> list[Any]:
    """Return the runs that an event has started, by publishing it again."""
    [entry] = [one for one in await app.events() if one.id == event_id]
    again = await app.publish(entry.value, type=entry.type, key=entry.key, id=event_id)
    return await again.runs()


async def test_a_run_may_not_want_its_event(place: Place):
    """Its body does not begin; a predicate that fails fails its own run and no other."""
    begun: list[str] = []

    def define(app: App) -> None:
        @app.workflow(on=Placed, where=lambda order: order.cents > 100)
        async def large(order: Placed) -> str:
            begun.append("large")
            return order.order_id

        @app.workflow(on=Placed, where=lambda order: order.nothing)
        async def broken(order: Placed) -> None:
            begun.append("broken")

        @app.workflow(on=Placed)
        async def every(order: Placed) -> str:
            return order.order_id

    async with place.life(define) as life:
        small = await (await life.app.publish(Placed("o1", 5))).runs()
        by_name = {(await run.history()).name: run for run in small}
        with pytest.raises(RunDeclined, match="did not want the event"):
            await by_name["large"].result("5s")
        assert (await by_name["large"].history()).reason == "declined"
        assert await by_name["large"].status() is Status.COMPLETED
        with pytest.raises(RunFailed, match="nothing"):
            await by_name["broken"].result("5s")
        assert await by_name["every"].result("5s") == "o1"
        assert begun == []
        large = await (await life.app.publish(Placed("o2", 500))).runs()
        by_name = {(await run.history()).name: run for run in large}
        assert await by_name["large"].result("5s") == "o2"
    assert begun == ["large"]


async def test_whoever_waits_already_is_told_that_a_run_declined(place: Place):
    """By word of mouth in its process, before any read of the store."""

    def define(app: App) -> Any:
        @app.workflow(on=Placed, where=lambda order: False)
        async def large(order: Placed) -> str:
            return order.order_id

        return large

    async with place.life(define):
        pass  # the listener is registered
    async with place.client(define) as client:
        [run] = await (await client.app.publish(Placed("o1", 5))).runs()
        waiting = asyncio.ensure_future(run.result("5s"))
        await eventually(lambda: client.app.engine.watcher._listeners)
        async with Worker(client.app):
            with pytest.raises(RunDeclined):
                await waiting


async def test_a_predicate_is_not_asked_of_runs_that_were_called(place: Place):
    """Whoever enqueues wants the run."""

    def define(app: App) -> Any:
        @app.workflow(on=Placed, where=lambda order: False)
        async def fulfil(order: Placed) -> str:
            return order.order_id

        return fulfil

    async with place.life(define) as life:
        assert await (await life.flow.enqueue(Placed("o1", 1))).result("5s") == "o1"


async def test_publishing_the_same_again_starts_nothing(place: Place):
    """An id makes it one event; another event of the id is an error."""

    def define(app: App) -> None:
        @app.workflow(on=Placed)
        async def fulfil(order: Placed) -> None: ...

    async with place.life(define) as life:
        first = await life.app.publish(Placed("o1", 1), id="e")
        again = await life.app.publish(Placed("o1", 1), id="e")
        assert [run.id for run in await first.runs()] == [run.id for run in await again.runs()]
        with pytest.raises(EventConflict, match="belongs to another event") as caught:
            await life.app.publish(Placed("o1", 2), id="e")
        assert caught.value.event_id == "e"
        assert len(await life.app.events()) == 1


async def test_an_event_that_nobody_hears_is_kept(place: Place):
    """And can be looked at; a TypedDict and a name say the type themselves."""
    async with place.client(nothing) as client:
        await client.app.publish(Paid(5), key="k")
        await client.app.publish(Note(text="x"), type=Note)
        await client.app.publish({"any": [1]}, type="free")
        entries = await client.app.events()
        assert [(one.type, one.key, one.value) for one in entries] == [
            ("free", None, {"any": [1]}),
            ("Note", None, {"text": "x"}),
            ("order.paid", "k", {"cents": 5}),
        ]
        assert [one.type for one in await client.app.events(type=Paid)] == ["order.paid"]
        assert [one.type for one in await client.app.events(before=entries[1])] == ["order.paid"]
        with pytest.raises(UsageError, match="or its name as a text, got <class 'dict'>"):
            await client.app.publish({"any": 1})
        with pytest.raises(InvalidValue, match=r"\$\.text"):
            await client.app.publish({"text": 1}, type=Note)


async def test_unlisten_ends_it(place: Place):
    """Until a worker that still has it starts again."""

    def define(app: App) -> Any:
        @app.workflow(on=[Placed, Packed])
        async def fulfil(event: Placed | Packed) -> None: ...

        return fulfil

    async with place.life(define) as life:
        await life.app.unlisten(life.flow, type=Packed)
        assert [one.type for one in await life.app.listeners()] == ["Placed"]
        await life.app.unlisten("fulfil")
        assert await (await life.app.publish(Placed("o1", 1))).runs() == []
    async with place.life(define) as life:
        assert len(await life.app.listeners()) == 2


async def test_a_body_publishes_once_however_often_it_replays(place: Place):
    """A kill at each commit of it, before and after it is applied, starts one run."""

    def define(app: App) -> Any:
        @app.workflow
        async def place_order(order_id: str) -> str:
            published = await app.publish(Placed(order_id, 1))
            return published.id

        @app.workflow(on=Placed)
        async def fulfil(order: Placed) -> None: ...

        return place_order

    for number in (1, 2):
        for applied in (True, False):
            seen = 0

            def doom(batch: Any, number: int = number) -> bool:
                nonlocal seen
                seen += any(
                    isinstance(one, Publish) or getattr(one, "kind", "") == "publish"
                    for one in batch
                )
                return seen == number

            async with place.life(define) as life:
                life.store.doom = doom
                life.store.doomed_batch_is_applied = applied
                run = await life.flow.enqueue(f"{number} {applied}")
                await asyncio.wait_for(life.store.died.wait(), 5)
                await life.kill()
            async with place.life(define) as life:
                event_id = await life.get(run).result("5s")
                assert len(await published_runs(life.app, event_id)) == 1
    async with place.client(nothing) as client:
        assert len(await client.app.events(limit=1000)) == 4


# --- waiting -------------------------------------------------------------------------------------


def packer(halt: Halt | None = None, **options: Any) -> Any:
    """Return what declares a workflow that waits for its order to be packed."""

    def define(app: App) -> Any:
        @app.workflow
        async def fulfil(order_id: str) -> str:
            await step("begin", len, order_id)
            if halt is not None:
                await halt()
            try:
                packed = await wait_for_event(Packed, key=order_id, **options)
            except EventTimeout:
                return "late"
            return packed.box

        return fulfil

    return define


async def test_an_event_may_come_at_any_time(place: Place):
    """Before the run starts, before the wait, during it, and after it was suspended."""
    async with place.client(packer()) as client:
        early = await client.flow.enqueue("early")
        await client.app.publish(Packed("early", "red"), key="early")
        assert await client.app.publish(Packed("never"), key="other")
    halt = Halt()
    async with place.life(packer(halt)) as life:
        before = await life.flow.enqueue("before")
        await halt.reached.wait()
        await life.app.publish(Packed("before", "blue"), key="before")
        await life.kill()
    halt.is_open = True
    async with place.life(packer(halt)) as life:
        assert await life.get(early).result("5s") == "red"
        assert await life.get(before).result("5s") == "blue"
        later = await life.flow.enqueue("later")
        await life.reaches(later, "waiting", "event")
        await life.app.publish(Packed("later", "green"), key="later")
        assert await later.result("5s") == "green"


async def test_an_event_of_another_process_ends_a_wait(place: Place):
    """The run had left its worker; the store wakes it and the worker hears of it."""
    async with place.life(packer()) as life, place.client(nothing) as client:
        run = await life.flow.enqueue("o1")
        await life.reaches(run, "waiting", "event")
        await client.app.publish(Packed("o1", "red"), key="o1")
        assert await run.result("5s") == "red"


async def test_a_wait_times_out_and_stays_so(place: Place):
    """A replay meets the timeout again, though an event came since."""
    halt = Halt()
    met: list[str] = []

    def define(app: App) -> Any:
        @app.workflow
        async def fulfil() -> str:
            try:
                await wait_for_event(Packed, timeout="30ms")
            except EventTimeout as error:
                met.append(str(error))
            await halt()
            return (await wait_for_event(Packed)).box

        return fulfil

    run = await half_way(place, define, halt)
    async with place.life(define) as life:
        await life.app.publish(Packed("o1", "red"))
        assert await life.get(run).result("5s") == "red"
    assert len(met) >= 2
    assert set(met) == {"no event 'Packed' came in time for step 'Packed'"}


async def test_a_kill_changes_no_deadline(place: Place):
    """What the second life asks for is the time that was recorded in the first."""
    async with place.life(packer(timeout="1h")) as life:
        run = await life.flow.enqueue("o1")
        history = await life.reaches(run, "waiting", "event")
        await life.kill()
    async with place.life(packer(timeout="2h")) as life:
        await life.app.publish(Packed("o2"), key="o2")
        assert (await life.get(run).history()).due_at == history.due_at
        await life.get(run).send_event(Packed("o1", "red"), key="o1")
        assert await life.get(run).result("5s") == "red"


@pytest.mark.parametrize("applied", [True, False], ids=["after", "before"])
async def test_an_event_that_is_taken_at_a_kill_is_taken_once(place: Place, applied: bool):
    """The second event feeds the second wait, whether or not the first taking was recorded."""

    def define(app: App) -> Any:
        @app.workflow
        async def fulfil() -> list[str]:
            return [(await wait_for_event(Packed)).box for _ in range(2)]

        return fulfil

    async with place.client(define) as client:
        run = await client.flow.enqueue()
        await client.app.publish(Packed("o1", "red"))
        await client.app.publish(Packed("o1", "blue"))
    async with place.life(define) as life:
        life.store.doom = lambda batch: any(isinstance(one, TakeEvent) for one in batch)
        life.store.doomed_batch_is_applied = applied
        await asyncio.wait_for(life.store.died.wait(), 5)
        await life.kill()
    assert await finished(place, define, run) == ["red", "blue"]


async def test_the_first_of_several_waits_wins(place: Place):
    """The loser takes nothing: the next wait of its type has its event. Replays agree."""
    halt = Halt()

    def define(app: App) -> Any:
        @app.workflow
        async def fulfil() -> list[Any]:
            packed = asyncio.ensure_future(wait_for_event(Packed))
            paid = asyncio.ensure_future(wait_for_event(Paid))
            done, left = await asyncio.wait({packed, paid}, return_when=asyncio.FIRST_COMPLETED)
            for task in left:
                task.cancel()
            await asyncio.wait(left)
            await halt()
            won = [type(task.result()).__name__ for task in done]
            return [*won, (await wait_for_event(Packed, name="second")).box]

        return fulfil

    async with place.life(define) as life:
        run = await life.flow.enqueue()
        await life.reaches(run, "waiting", "event")
        await run.send_event(Paid(5))
        await halt.reached.wait()
        await eventually(lambda: is_given_up(run, "Packed"))
        await run.send_event(Packed("o1", "red"))
        await life.kill()
    halt.is_open = True
    assert await finished(place, define, run) == ["Paid", "red"]


async def is_given_up(run: Any, path: str) -> bool:
    """Tell whether a wait is recorded as given up."""
    steps = (await run.history()).steps
    return (path, "cancelled") in {(each.path, each.outcome) for each in steps}


async def test_a_gather_takes_each_event_once(place: Place):
    """Ten waits of one type are fed by ten events, also across a kill."""
    halt = Halt()

    def define(app: App) -> Any:
        @app.workflow
        async def fulfil() -> list[str]:
            found = await asyncio.gather(*(wait_for_event(Packed) for _ in range(10)))
            await halt()
            return [packed.box for packed in found]

        return fulfil

    async with place.life(define) as life:
        run = await life.flow.enqueue()
        for number in range(10):
            await life.app.publish(Packed("o", str(number)))
        await halt.reached.wait()
        await life.kill()
    halt.is_open = True
    assert sorted(await finished(place, define, run)) == [str(number) for number in range(10)]


async def test_a_busy_body_hears_of_its_event(place: Place):
    """Another branch holds it in memory: it is told here, by this process and by others."""
    release = asyncio.Event()

    def define(app: App) -> Any:
        @app.workflow
        async def fulfil() -> list[Any]:
            busy = asyncio.ensure_future(step("busy", release.wait))
            first = await wait_for_event(Packed, name="first")
            second = await wait_for_event(Packed, name="second")
            release.set()
            await busy
            return [first.box, second.box]

        return fulfil

    async with place.life(define) as life, place.client(nothing) as client:
        run = await life.flow.enqueue()
        await eventually(lambda: has_step(run, "first", "pending"))
        await life.app.publish(Packed("o", "own"))
        await eventually(lambda: has_step(run, "second", "pending"))
        await client.app.publish(Packed("o", "other"))
        assert await run.result("5s") == ["own", "other"]


async def has_step(run: Any, path: str, outcome: str) -> bool:
    """Tell whether a step stands so."""
    steps = (await run.history()).steps
    return (path, outcome) in {(each.path, each.outcome) for each in steps}


async def test_the_event_that_started_a_run_is_not_waited_for(place: Place):
    """The next one of its type is."""

    def define(app: App) -> None:
        @app.workflow(on=Placed)
        async def pair(order: Placed) -> list[str]:
            await app.unlisten("pair")
            return [order.order_id, (await wait_for_event(Placed)).order_id]

    async with place.life(define) as life:
        [run] = await (await life.app.publish(Placed("o1", 1))).runs()
        await life.reaches(run, "waiting", "event")
        await life.app.publish(Placed("o2", 1))
        assert await run.result("5s") == ["o1", "o2"]


async def test_an_event_is_sent_to_one_run(place: Place):
    """Others that wait for its type hear nothing; a body sends it once; an ended run refuses."""

    def define(app: App) -> Any:
        @app.workflow
        async def wait() -> str:
            return (await wait_for_event(Packed)).box

        @app.workflow
        async def tell(run_id: str) -> None:
            await app.get(run_id).send_event(Packed("o", "told"))

        app.tell = tell  # type: ignore[attr-defined]
        return wait

    async with place.life(define) as life:
        first, second = await life.flow.enqueue(), await life.flow.enqueue()
        await life.reaches(first, "waiting", "event")
        await life.reaches(second, "waiting", "event")
        await (await life.app.tell.enqueue(second.id)).result("5s")
        assert await second.result("5s") == "told"
        assert await first.status() is Status.WAITING
        assert [one.run for one in await life.app.events(run=second)] == [second.id]
        with pytest.raises(InvalidTransition, match="an event: it is completed"):
            await second.send_event(Packed("o"))
        with pytest.raises(RunNotFound):
            await life.app.get("nobody").send_event(Packed("o"))
        with pytest.raises(RunFailed, match="it is completed"):
            await (await life.app.tell.enqueue(second.id)).result("5s")


async def test_a_body_in_a_thread_waits_too(place: Place):
    """A `def` body blocks in its thread while the event is not there."""

    def define(app: App) -> Any:
        @app.workflow
        def fulfil() -> str:
            packed: Any = wait_for_event(Packed)
            return str(packed.box)

        return fulfil

    async with place.life(define) as life:
        run = await life.flow.enqueue()
        await eventually(lambda: has_step(run, "Packed", "pending"))
        await life.app.publish(Packed("o", "red"))
        assert await run.result("5s") == "red"


async def test_a_retry_of_the_run_waits_anew(place: Place):
    """A timeout that ended an attempt is no verdict on the next."""

    def define(app: App) -> Any:
        @app.workflow(max_attempts=2, backoff=constant("1ms"))
        async def fulfil() -> str:
            return (await wait_for_event(Packed, timeout="50ms")).box

        return fulfil

    async with place.life(define) as life:
        run = await life.flow.enqueue()
        await eventually(lambda: is_in_attempt(run, 2))
        await life.app.publish(Packed("o", "red"))
        assert await run.result("5s") == "red"


async def is_in_attempt(run: Any, number: int) -> bool:
    """Tell whether the run is in this attempt."""
    return (await run.history()).attempt == number


async def test_sleeps_patches_and_events_go_together(place: Place):
    """A body that uses all of them replays as it was."""
    halt = Halt()

    def define(app: App) -> Any:
        @app.workflow
        async def fulfil() -> list[Any]:
            new = patched("new")
            await sleep("1ms")
            packed = await wait_for_event(Packed)
            await halt()
            return [new, packed.box, (await wait_for_event(Paid)).cents]

        return fulfil

    async with place.life(define) as life:
        run = await life.flow.enqueue()
        await life.app.publish(Packed("o", "red"))
        await life.app.publish(Paid(3))
        await halt.reached.wait()
        await life.kill()
    halt.is_open = True
    assert await finished(place, define, run) == [True, "red", 3]


# --- mistakes ------------------------------------------------------------------------------------


async def test_a_wait_in_a_step_is_refused(place: Place):
    """The next attempt of the step would wait for another event."""

    async def inside() -> Any:
        return await wait_for_event(Packed)

    def define(app: App) -> Any:
        @app.workflow
        async def flow() -> str:
            try:
                await step.options(max_attempts=1)("inside", inside)
            except UsageError as error:
                return str(error)
            return ""

        return flow

    async with place.life(define) as life:
        assert "stands in a step" in await (await life.flow.enqueue()).result("5s")


async def test_a_wait_inside_a_timeout_is_refused(place: Place):
    """It names the timeout that a wait has."""

    def define(app: App) -> Any:
        @app.workflow
        async def flow() -> str:
            try:
                async with asyncio.timeout(60):
                    await wait_for_event(Packed)
            except UsageError as error:
                return str(error)
            return ""

        return flow

    async with place.life(define) as life:
        assert "timeout= of the wait" in await (await life.flow.enqueue()).result("5s")


def test_what_listens_takes_one_event():
    """Said where it is declared, and where a worker would start it."""
    app = App("memory://")
    with pytest.raises(DefinitionError, match="on=: an event's type is its class"):
        app.workflow(on=str)(len)
    with pytest.raises(DefinitionError, match=r"on=\[\] listens to nothing"):
        app.workflow(on=[])(len)
    with pytest.raises(DefinitionError, match="names a type of events twice: Packed, Packed"):
        app.workflow(on=[Packed, "Packed"])(len)
    with pytest.raises(DefinitionError, match="chooses among events; say which: on="):
        app.workflow(where=bool)(len)
    with pytest.raises(DefinitionError, match="where= of 'flow' is a plain function"):

        @app.workflow(on=Packed, where=asyncio.sleep)
        async def flow(packed: Packed) -> None: ...


async def test_a_worker_refuses_a_body_that_takes_no_event(place: Place):
    """Before anything is registered."""

    def define(app: App) -> None:
        @app.workflow(on=Packed)
        async def flow(first: Packed, second: int) -> None: ...

    life = place.life(define)
    await life.app.connect()
    with pytest.raises(DefinitionError, match="its body takes one argument, the event"):
        await life.worker.start()  # type: ignore[union-attr]
    await life.app.close()


def test_outside_of_a_run_there_is_nothing_to_wait_with():
    """It is the run that the event would belong to."""
    with pytest.raises(NotInRun, match="waits for an event on behalf of a run"):
        wait_for_event(Packed)


def test_a_class_says_its_own_name():
    """A subclass is another event; the name is checked where it is given."""

    class Late(Paid):
        """Paid late."""

    assert event("x")(Late) is Late
    with pytest.raises(UsageError, match="names a class"):
        event("x")(len)  # type: ignore[type-var]
    with pytest.raises(InvalidValue, match="an event's name must not be empty"):
        event("")
