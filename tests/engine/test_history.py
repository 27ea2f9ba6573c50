"""The history of a run: everything recorded of it, as values, in one read."""

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from perdure import App, Status, constant, step
from perdure.codec import schema
from perdure.errors import RunFailed, RunNotFound
from perdure.handle import RunHistory, readable
from perdure.model.records import History
from tests.engine.places import Place


@dataclass
class Order:
    """What a flow of these tests takes and returns."""

    id: str
    at: datetime


def readable_of(record: Any, life: Any) -> RunHistory[Any]:
    """Return the history of a run of which nothing but this record is kept."""
    return readable(History(record, (), (), (), ()), life.app.engine, schema(str))


AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


async def test_a_completed_run_has_its_values(place: Place):
    """Input, meta and result come back typed; what the call said stands beside them."""

    def define(app: App) -> Any:
        @app.workflow(version="v7")
        async def flow(order: Order, *more: int, fast: bool = False, **rest: str) -> Order:
            return order

        return flow

    async with place.life(define) as life:
        chosen = life.flow.options(
            id="order-1", unique_key="o1", priority=2, tags=("nightly",), meta={"tenant": (1, 2)}
        )
        run = await chosen.enqueue(Order("o1", AT), 1, 2, fast=True, note="x")
        assert await run.result(timeout="5s") == Order("o1", AT)
        found = await run.history()
    assert found.input == {"order": Order("o1", AT), "more": (1, 2), "fast": True, "note": "x"}
    assert found.meta == {"tenant": (1, 2)}
    assert found.result == Order("o1", AT)
    assert (found.id, found.name, found.status) == ("order-1", "flow", Status.COMPLETED)
    assert (found.unique_key, found.queue, found.priority) == ("o1", "default", 2)
    assert (found.tags, found.version, found.parent) == (("nightly",), "v7", None)
    assert (found.error, found.error_type, found.reason) == (None, None, None)
    assert found.started_at is not None
    assert found.finished_at is not None
    assert found.created_at <= found.started_at <= found.finished_at <= found.updated_at


async def test_a_failed_run_has_its_error_and_attempts(place: Place):
    """The error by class and message, and each attempt before the last."""

    def define(app: App) -> Any:
        @app.workflow(max_attempts=2, backoff=constant("2ms"))
        async def flow() -> None:
            raise LookupError("no such order")

        return flow

    async with place.life(define) as life:
        run = await life.flow.enqueue()
        with pytest.raises(RunFailed):
            await run.result(timeout="5s")
        found = await run.history()
    assert (found.status, found.reason, found.attempt) == (Status.FAILED, "error", 2)
    assert (found.error, found.error_type) == ("LookupError: no such order", "LookupError")
    assert [attempt.number for attempt in found.attempts] == [1]
    assert found.result is None


async def test_a_delayed_run_says_what_it_waits_for(place: Place):
    """A run that has not begun has its due time and its input, and no result."""

    def define(app: App) -> Any:
        @app.workflow
        async def flow(number: int = 3) -> None: ...

        return flow

    async with place.client(define) as client:
        run = await client.flow.delay("1h")
        found = await run.history()
    assert (found.status, found.waiting_for) == (Status.WAITING, "delay")
    assert found.due_at == found.created_at + timedelta(hours=1)
    assert found.input == {}
    assert (found.started_at, found.result, found.steps, found.current) == (None, None, (), ())


async def test_current_are_the_steps_that_are_not_over(place: Place):
    """A step whose next attempt is due is current; one that is done is not."""

    async def unsteady() -> None:
        raise ConnectionError

    def define(app: App) -> Any:
        @app.workflow
        async def flow() -> None:
            await step("done", str.upper, "a")
            await step.options(backoff=constant("1h"))("again", unsteady)

        return flow

    async with place.life(define) as life:
        run = await life.flow.enqueue()
        found = await life.reaches(run, "waiting", "retry")
    assert [record.path for record in found.steps] == ["done", "again"]
    assert [record.path for record in found.current] == ["again"]


async def test_a_child_names_its_parent(place: Place):
    """The run that a body starts has the body's run as its parent."""
    children: list[Any] = []

    def define(app: App) -> Any:
        @app.workflow
        async def child() -> None: ...

        @app.workflow
        async def flow() -> None:
            children.append(await child.enqueue())

        return flow

    async with place.life(define) as life:
        run = await life.flow.enqueue()
        await run.result(timeout="5s")
        assert (await children[0].history()).parent == run.id


async def test_what_the_code_no_longer_fits_is_shown_as_it_is_stored(place: Place):
    """Without the definition, or with another signature, there is still something to look at."""

    def version(annotation: Any) -> Any:
        def define(app: App) -> Any:
            async def flow(value: Any) -> Any: ...

            flow.__annotations__["value"] = annotation
            return app.workflow(flow)

        return define

    async with place.client(version(str)) as client:
        run = await client.flow.options(meta={"a": 1}).enqueue("text")
    async with place.client(version(int)) as client:
        found = await client.get(run).history()
        assert (found.input, found.meta) == ({"value": "text"}, {"a": 1})
    async with place.client(lambda app: None) as client:
        found = await client.app.get(run.id).history()
        assert (found.name, found.input) == ("flow", {"value": "text"})


@pytest.mark.parametrize("data", [b"\0", b"\xff", b'{"value": "cut'])
async def test_what_is_damaged_is_shown_as_it_is(place: Place, data: bytes):
    """Bytes that are no JSON do not keep the rest of the history from being looked at."""

    def define(app: App) -> Any:
        @app.workflow
        async def flow(value: str) -> str:
            return value

        return flow

    async with place.client(define) as client:
        run = await client.flow.options(meta={"a": 1}).enqueue("text")
        record = await client.store.get(run.id)
        stored = msgspec.structs.replace(record, input=data, meta=data, result=data)
        found = readable_of(stored, client)
    assert (found.name, found.input, found.meta, found.result) == ("flow", data, data, data)


async def test_the_history_of_a_run_that_is_not_there(place: Place):
    """There is none; it is no empty history."""
    async with place.client(lambda app: None) as client:
        with pytest.raises(RunNotFound):
            await asyncio.wait_for(client.app.get("nobody").history(), 5)
