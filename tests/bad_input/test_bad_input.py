"""Bad input is refused where it is given: the exact class, what is wrong and where, and no trace.

`table.py` holds the rows; every public callable and parameter has some, or a reason in `EXEMPT`.
"""

import inspect
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import pytest_asyncio

from perdure import App, Context, Worker, step
from perdure.errors import InvalidValue, PerdureError, RunFailed
from tests.bad_input.entries import CALLS, Desk, inside
from tests.bad_input.surface import surface
from tests.bad_input.table import EXEMPT, INSIDE, ROWS, Row
from tests.bad_input.values import NAMES, PAYLOADS, forget
from tests.engine.places import PLACES

BOTH = ("App.runs", "App.get", "Run", "Worker", "Workflow", "gather")
"""Entries that come near a store: their rows run on each."""


def cases(rows: list[Row]) -> list[Any]:
    """Return each row with each store that it concerns, under a name of its own."""
    found: list[Any] = []
    numbers: Counter[str] = Counter()
    for row in rows:
        title = f"{row.entry}-{row.parameter or 'call'}".replace(" ", "+")
        numbers[title] += 1
        stores = PLACES if row.entry.startswith(BOTH) else ("memory",)
        name = f"{title}-{numbers[title]}"
        found.extend(pytest.param(store, row, id=f"{name}-{store}") for store in stores)
    return found


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What builds a store of each kind on data of this module."""
    return {name: make(tmp_path_factory.mktemp(name)) for name, make in PLACES.items()}


class Desks:
    """The desk of each store, opened when first asked for."""

    def __init__(self, stores: dict[str, Any]) -> None:
        self._stores = stores
        self._open: dict[str, Desk] = {}

    async def at(self, store: str) -> Desk:
        """Return the desk on that store."""
        if store not in self._open:
            desk = self._open[store] = Desk(self._stores[store]())
            await desk.open()
        return self._open[store]

    async def close(self) -> None:
        """Close every desk."""
        for desk in self._open.values():
            await desk.app.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def desks(stores: dict[str, Any]) -> AsyncIterator[Desks]:
    """The desks of this module: whatever is refused leaves them as they are."""
    desks = Desks(stores)
    yield desks
    await desks.close()


@pytest.fixture(autouse=True)
def no_complaints() -> Iterator[None]:
    """Calls that a row leaves unawaited are closed."""
    yield
    forget()


# --- the table ----------------------------------------------------------------------------------


def test_every_public_parameter_has_rows_or_a_reason():
    """A callable or parameter that is added to the API must appear in the table."""
    covered = {
        (row.entry, parameter)
        for row in (*ROWS, *INSIDE)
        for parameter in row.parameter.split() or [""]
    }
    missing = [
        f"{entry}({parameter})"
        for entry, parameters in surface().items()
        for parameter in parameters
        if (entry, parameter) not in covered
        and (entry, parameter) not in EXEMPT
        and (entry, "*") not in EXEMPT
    ]
    assert not missing


def test_no_exemption_is_stale():
    """What is exempt from the table exists."""
    known = surface()
    stale = [
        f"{entry}({parameter})"
        for entry, parameter in EXEMPT
        if entry not in known or (parameter != "*" and parameter not in known[entry])
    ]
    assert not stale


def test_the_table_is_as_long_as_promised():
    """There are at least 150 rows, and none stands there twice."""
    assert len(ROWS) + len(INSIDE) >= 150


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("store, row", cases(ROWS))
async def test_refused(desks: Desks, store: str, row: Row):
    """The error is of that very class, says what is wrong and where, and nothing has changed."""
    desk = await desks.at(store)
    before = await desk.snapshot()
    with pytest.raises(PerdureError) as caught:
        await called(CALLS[row.entry], desk, row)
    check(caught.value, row)
    assert await desk.snapshot() == before


@pytest.mark.parametrize("store, row", cases(INSIDE))
async def test_refused_inside_a_body(tmp_path: Path, store: str, row: Row):
    """In a body the error is the same, and ends the run; nothing is recorded as its success."""
    desk = Desk(PLACES[store](tmp_path)())
    act = inside(desk, row)
    caught: list[Exception] = []

    @desk.app.workflow
    async def body() -> Any:
        try:
            answer = act()
            return await answer if inspect.isawaitable(answer) else answer
        except Exception as error:
            caught.append(error)
            raise

    await desk.open()
    before = await desk.snapshot()
    async with Worker(desk.app, only=["body"]):
        run = await body.enqueue()
        with pytest.raises(RunFailed) as failed:
            await run.result(timeout="10s")
        assert "ok" not in {recorded.outcome for recorded in (await run.history()).steps}
    error = failed.value.__cause__
    assert error is not None
    check(error, row)
    assert all(type(seen) is row.error for seen in caught)
    after = await desk.snapshot()
    assert [history for history in after[0] if history.run.run_id != run.id] == before[0]
    await desk.app.close()


async def called(call: Any, desk: Desk, row: Row) -> None:
    """Call an entry, and await what it returns if that can be awaited."""
    answer = call(desk, row)
    if inspect.isawaitable(answer):
        await answer


def check(error: BaseException, row: Row) -> None:
    """Compare an error with what its row says."""
    assert type(error) is row.error, f"{type(error).__qualname__}: {error}"
    assert row.says in str(error)
    if row.path is not None:
        assert isinstance(error, InvalidValue)
        assert error.path.startswith(row.path)
        assert error.path == row.path or "circular" in row.says
        if " at $" in str(error):
            assert f" at {row.path}" in str(error)


# --- what is odd, and allowed -------------------------------------------------------------------

both_stores = pytest.mark.parametrize("store", PLACES)


@both_stores
async def test_hostile_names_come_back_as_they_are(tmp_path: Path, store: str):
    """Quotes, markup, paths, marks of direction: names like any other, and none is another."""
    app = App(PLACES[store](tmp_path)())

    async def body(ctx: Context[None], value: str) -> list[str]:
        return [value, *ctx.meta, *ctx.meta.values()]

    flows = {name: app.workflow(name=name)(body) for name in NAMES}
    async with app, Worker(app, queues=NAMES):
        for name, flow in flows.items():
            options: Any = {"id": name, "unique_key": name, "queue": name, "tags": (name,)}
            run = await flow.options(**options, meta={name: name}).enqueue(name)
            assert run.id == name
        for name in NAMES:
            assert await app.get(name).result(timeout="10s") == [name, name, name]
            [found] = await app.runs(name=name)
            record = await app.engine.store.get(found.id)
            assert record is not None
            assert (record.run_id, record.definition, record.queue) == (name, name, name)
            assert (record.unique_key, record.tags) == (name, (name,))
        assert len(await app.runs()) == len(NAMES)


@both_stores
async def test_hostile_step_names_come_back_as_they_are(tmp_path: Path, store: str):
    """A step's name is kept as it is, and no two of them meet."""
    names = [name for name in NAMES if "/" not in name]
    app = App(PLACES[store](tmp_path)())

    @app.workflow
    async def body() -> list[str]:
        return [await step(name, str.upper, name) for name in names]

    async with app, Worker(app):
        run = await body.enqueue()
        assert await run.result(timeout="10s") == [name.upper() for name in names]
        assert [recorded.path for recorded in (await run.history()).steps] == names


async def test_hostile_namespaces_do_not_meet(tmp_path: Path):
    """Whatever a namespace is called, it is one of its own in the same file."""
    for name in NAMES:
        url = f"sqlite:///{tmp_path}/perdure.db?namespace={quote(name)}"
        app = App(url)
        flow = app.workflow(name="flow")(Desk().anything.definition.function)
        async with app:
            assert await app.runs() == []
            assert (await flow.options(id="same").enqueue(name)).id == "same"


@both_stores
async def test_odd_payloads_come_back_as_they_are(tmp_path: Path, store: str):
    """What can be stored comes out as it went in, in value and type, through step and body."""
    app = App(PLACES[store](tmp_path)())

    @app.workflow
    async def body(value: Any) -> Any:
        return await step("same", _same, value)

    async with app, Worker(app):
        runs = [(value, await body.enqueue(value)) for value in PAYLOADS]
        for value, run in runs:
            result = await run.result(timeout="10s")
            assert (type(result), repr(result)) == (type(value), repr(value))


@both_stores
async def test_keys_do_not_meet_across_separators(tmp_path: Path, store: str):
    """A definition and a key are two things, however alike they read when put together."""
    app = App(PLACES[store](tmp_path)())

    async def body(value: int) -> None: ...

    flows = [app.workflow(name=name)(body) for name in ("a", "a:b", "a b", "a\u00a0b")]
    keys = ("b:c", "c", "b c", "b\u00a0c", ":b:c")
    async with app:
        runs = [
            await flow.options(unique_key=key).enqueue(number)
            for number, (flow, key) in enumerate(itertools.product(flows, keys))
        ]
        assert len({run.id for run in runs}) == len(flows) * len(keys)


def _same(value: Any) -> Any:
    return value
