"""How each public entry is called with a row's value, everything else being right."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import perdure
from perdure import App, Backoff, Retention, RetryPolicy, Run, Worker, carry, gather, step
from perdure.errors import AppNotReady
from perdure.model.records import RunQuery
from perdure.store import Store
from tests.bad_input.table import Row
from tests.bad_input.values import NO_TYPED, Fresh, Order, Typed


async def work(value: Any = None) -> Any:
    """Do nothing."""
    return value


async def flow(value: Any) -> Any:
    """Be the body of what a row declares."""
    return value


def thaw(value: Any) -> Any:
    """Return a row's value with whatever must be made anew made."""
    if isinstance(value, Fresh):
        return value.make()
    if type(value) in (tuple, list):
        return type(value)(thaw(item) for item in value)
    if type(value) is dict:
        return {key: thaw(item) for key, item in value.items()}
    return value


class Desk:
    """An app on a store that holds some runs, none of which is executing.

    Attributes:
        order: a definition with typed parameters.
        anything: one that takes any value.
        declared: such a one that was declared without an app.
        run: a waiting run.
    """

    run: Run[Any]

    def __init__(self, store: Store | None = None) -> None:
        self.app = App(store)
        self.order = self.app.workflow(name="order")(_order)
        self.anything = self.app.workflow(name="anything")(_anything)
        self.declared = perdure.workflow(name="declared")(_anything)
        self.app.include(self.declared)
        annotations = {str(each): each for each in (*(row[0] for row in NO_TYPED), "Nowhere")}
        self._typed = {text: self._taking(text, each) for text, each in annotations.items()}

    def _taking(self, name: str, annotation: Any) -> Any:
        async def body(value: Any) -> None: ...

        body.__annotations__["value"] = annotation
        return self.app.workflow(name=f"takes {name}")(body)

    def typed(self, annotation: Any) -> Any:
        """Return the definition that takes such a value."""
        return self._typed[str(annotation)]

    async def open(self) -> None:
        """Connect, and create a run of each kind."""
        await self.app.connect()
        self.run = await self.anything.delay("1h", 1)
        await self.anything.options(id="taken", unique_key="taken").enqueue(1)
        await (await self.anything.options(id="cancelled").enqueue(1)).cancel()

    async def snapshot(self) -> Any:
        """Return everything that a bad input must not change."""
        store, registry = self.app.engine.store, self.app.engine.registry
        runs = await store.list_runs(RunQuery(limit=1000))
        return (
            [await store.history(run.run_id) for run in runs],
            await store.workers(),
            {one.name: (one.version, list(one.earlier)) for one in registry},
            dict(registry._steps),
        )


async def _order(order: Order, *, note: str = "") -> None: ...


async def _anything(value: Any) -> Any:
    return value


Call = Callable[[Desk, Row], Any]


def declare(decorator: str) -> Call:
    """Return how a decorator is called with an option, or with a function."""

    def call(desk: Desk, row: Row) -> Any:
        decorate = getattr(desk.app if row.entry.startswith("App.") else perdure, decorator)
        value = thaw(row.value)
        if row.parameter == "function":
            return decorate(value)
        return decorate(**{row.parameter: value})(work if decorator == "step" else flow)

    return call


def _step(_: Desk, row: Row) -> Any:
    value = thaw(row.value)
    match row.parameter:
        case "function":
            return step(value)
        case "args":
            return step("inline", *value)
        case "kwargs":
            return step(work, **value)
        case "name" if not isinstance(value, str):
            return step(value, work)
        case "name":
            step(name="fine")(work)
            return step(value, work)
        case option:
            return step(**{option: value})(work)


def _step_sync(_: Desk, row: Row) -> Any:
    given = {"name": "inline", "function": print, row.parameter: thaw(row.value)}
    return step.sync(given["name"], given["function"])


async def _connect(desk: Desk, row: Row) -> None:
    await App().connect()


async def _start(desk: Desk, row: Row) -> None:
    if row.value != "twice":
        await Worker(desk.app, only=row.value).start()
        return
    worker = Worker(App("memory://"))
    async with worker:
        await worker.start()


def called(verb: str, *first: Any, of: str = "anything") -> Call:
    """Return how a verb of a definition of the desk is called."""

    def call(desk: Desk, row: Row) -> Any:
        value = thaw(row.value)
        match row.parameter:
            case "args" if isinstance(value, Typed):
                return getattr(desk.typed(value.annotation), verb)(*first, value.value)
            case "args":
                return getattr(getattr(desk, of), verb)(*first, value)
            case "kwargs":
                return getattr(getattr(desk, of), verb)(*first, value=value)
            case "args kwargs":
                args, kwargs = value
                return getattr(desk.order, verb)(*first, *args, **kwargs)
            case "delay":
                return getattr(desk, of).delay(value, 1)
        raise AssertionError(row)

    return call


async def _enqueue_many(desk: Desk, row: Row) -> Any:
    value = thaw(row.value)
    if row.parameter == "args kwargs":
        value, definition = [value], desk.order
    else:
        definition = desk.anything
    [error] = await definition.enqueue_many(value)
    raise error


def options(of: str) -> Call:
    """Return how a definition of the desk is started with an option."""
    other = 2  # not what "taken" was started with

    def call(desk: Desk, row: Row) -> Any:
        return getattr(desk, of).options(**{row.parameter: thaw(row.value)}).enqueue(other)

    return call


def _refuse_call(of: str) -> Call:
    def call(desk: Desk, row: Row) -> Any:
        definition = getattr(desk, of)
        return definition(*row.value) if row.parameter == "_" else definition(**row.value)

    return call


def _configure(desk: Desk, row: Row) -> None:
    app = desk.app if row.error is AppNotReady else App()
    app.configure(**{row.parameter: thaw(row.value)})


def _sleep(_: Desk, row: Row) -> Any:
    if row.parameter == "duration":
        return perdure.sleep(thaw(row.value))
    return perdure.sleep("1s", name=thaw(row.value))


def _sleep_until(_: Desk, row: Row) -> Any:
    if row.parameter == "instant":
        return perdure.sleep_until(thaw(row.value))
    return perdure.sleep_until(datetime.now(UTC), name=thaw(row.value))


def _on_run(verb: str) -> Call:
    def call(desk: Desk, row: Row) -> Any:
        if row.value == "waiting":
            return getattr(desk.run, verb)()
        return getattr(desk.app.get(row.value), verb)()

    return call


def _on_run_with(verb: str) -> Call:
    def call(desk: Desk, row: Row) -> Any:
        if row.value == "nobody":
            return getattr(desk.app.get("nobody"), verb)()
        return getattr(desk.run, verb)(**{row.parameter: thaw(row.value)})

    return call


def _selected(verb: str) -> Call:
    return lambda desk, row: getattr(desk.app.select(name=row.value), verb)()


def _constructed(make: Callable[..., Any]) -> Call:
    return lambda _desk, row: make(**{row.parameter: thaw(row.value)})


def _with_event(verb: Callable[..., Any], row: Row) -> Any:
    """Publish or send something that is right but for the row."""
    if row.parameter == "event":
        return verb(thaw(row.value))
    return verb({"n": 1}, **{"type": "happened", row.parameter: thaw(row.value)})


def _send_event(desk: Desk, row: Row) -> Any:
    if not row.parameter:
        return desk.app.get(row.value).send_event({}, type="happened")
    return _with_event(desk.run.send_event, row)


def _unlisten(desk: Desk, row: Row) -> Any:
    if row.parameter == "name":
        return desk.app.unlisten(thaw(row.value))
    return desk.app.unlisten("anything", type=row.value)


def _wait_for_event(_: Desk, row: Row) -> Any:
    if row.parameter in {"event", ""}:
        return perdure.wait_for_event(thaw(row.value))
    return perdure.wait_for_event("happened", **{row.parameter: thaw(row.value)})


def _schedule(of: str) -> Call:
    def call(desk: Desk, row: Row) -> Any:
        verb = getattr(desk, of).schedule
        if row.parameter == "when":
            return verb(thaw(row.value), 1)
        if row.parameter == "kwargs":
            return verb("@daily", **thaw(row.value))
        return verb("@daily", *(row.value if isinstance(row.value, tuple) else (thaw(row.value),)))

    return call


def _queue(desk: Desk, row: Row) -> Any:
    if row.parameter == "name":
        return desk.app.queue(thaw(row.value))
    return desk.app.queue("mail", **{row.parameter: thaw(row.value)})


async def _changes(desk: Desk, row: Row) -> Any:
    return [change async for change in desk.app.changes(**{row.parameter: thaw(row.value)})]


async def _subscribe(desk: Desk, row: Row) -> Any:
    if row.parameter == "subscriber":
        return await anext(desk.app.subscribe(thaw(row.value)))
    return await anext(desk.app.subscribe("billing", **{row.parameter: thaw(row.value)}))


def _rate(_: Desk, row: Row) -> Any:
    return perdure.Rate(**{"limit": 1, "per": "1m", row.parameter: thaw(row.value)})


async def _read_stream(desk: Desk, row: Row) -> Any:
    run = desk.app.get("nobody") if row.value == "nobody" else desk.run
    asked: dict[str, Any] = {"stream": "lines", "follow": False}
    if row.value != "nobody":
        asked[row.parameter] = thaw(row.value)
    return [item async for item in run.stream(asked.pop("stream"), **asked)]


def _compensate(_: Desk, row: Row) -> Any:
    match row.parameter:
        case "args":
            return perdure.compensate(work, row.value)
        case "kwargs":
            return perdure.compensate(work, value=row.value)
        case "name":
            return perdure.compensate(row.value, work)
        case _:
            return perdure.compensate(row.value)


CALLS: dict[str, Call] = {
    "App": _constructed(App),
    "App.connect": _connect,
    "App.counts": lambda desk, row: desk.app.counts(**{row.parameter: thaw(row.value)}),
    "App.prune": lambda desk, row: desk.app.prune(**{row.parameter: thaw(row.value)}),
    "App.changes": _changes,
    "App.subscribe": _subscribe,
    "App.unsubscribe": lambda desk, row: desk.app.unsubscribe(thaw(row.value)),
    "App.queue": _queue,
    "Queue.set_limits": lambda desk, row: desk.app.queue("mail").set_limits(
        **{row.parameter: thaw(row.value)}
    ),
    "Rate": _rate,
    "Debounce": lambda _, row: perdure.Debounce(**{"delay": "1s", row.parameter: thaw(row.value)}),
    "Retention": _constructed(Retention),
    "App.schedule": lambda desk, row: desk.app.schedule(thaw(row.value)),
    "Workflow.schedule": _schedule("anything"),
    "Declared.schedule": _schedule("declared"),
    "App.events": lambda desk, row: desk.app.events(**{row.parameter: thaw(row.value)}),
    "App.publish": lambda desk, row: _with_event(desk.app.publish, row),
    "App.unlisten": _unlisten,
    "App.get": lambda desk, row: desk.app.get(thaw(row.value)),
    "App.on": lambda desk, row: desk.app.on(row.value),
    "App.override": lambda _, row: App().override(**{row.parameter: row.value}).__enter__(),
    "App.runs": lambda desk, row: desk.app.runs(**{row.parameter: thaw(row.value)}),
    "App.select": lambda desk, row: desk.app.select(**{row.parameter: thaw(row.value)}),
    **{
        f"Selection.{verb}": _selected(verb)
        for verb in ("count", "cancel", "pause", "resume", "retry", "restart")
    },
    "Selection.pin": lambda desk, row: desk.app.select(name="anything").pin(thaw(row.value)),
    "Workflow.earlier": lambda desk, row: desk.anything.earlier(thaw(row.value)),
    "Declared.earlier": lambda desk, row: desk.declared.earlier(thaw(row.value)),
    "App.workflow": declare("workflow"),
    "App.job": declare("job"),
    "App.step": declare("step"),
    "App.configure": _configure,
    "App.include": lambda desk, row: desk.app.include(thaw(row.value)),
    "Backoff": _constructed(Backoff),
    "Declared()": _refuse_call("declared"),
    "Declared.continue_as_new": called("continue_as_new", of="declared"),
    "Declared.delay": called("delay", "1h", of="declared"),
    "Declared.enqueue": called("enqueue", of="declared"),
    "Declared.enqueue_many": lambda desk, row: desk.declared.enqueue_many(thaw(row.value)),
    "Declared.get": lambda desk, row: desk.declared.get(thaw(row.value)),
    "Declared.on": lambda desk, row: desk.declared.on(thaw(row.value)),
    "Declared.options": options("declared"),
    "Declared.run": called("run", of="declared"),
    "RetryPolicy": _constructed(RetryPolicy),
    "Run.cancel": lambda desk, row: (
        desk.run.cancel(compensate=row.value)
        if row.parameter == "compensate" and row.value != "nobody"
        else _on_run("cancel")(desk, row)
    ),
    "Run.history": _on_run("history"),
    "Run.pause": _on_run("pause"),
    "Run.pin": lambda desk, row: desk.app.get(
        "nobody" if row.value == "nobody" else desk.run.id
    ).pin(thaw(row.value)),
    "Run.restart": _on_run_with("restart"),
    "Run.fork": _on_run_with("fork"),
    "Run.resume": _on_run("resume"),
    "Run.result": lambda desk, row: (
        _on_run("result")(desk, row)
        if row.value == "nobody"
        else desk.run.result(timeout=thaw(row.value))
    ),
    "Run.retry": _on_run("retry"),
    "Run.send_event": _send_event,
    "Run.status": _on_run("status"),
    "Run.progress": _on_run("progress"),
    "Run.stream": _read_stream,
    "Stream.close": lambda *_: perdure.stream("s").close(),
    "Stream.write": lambda _, row: perdure.stream("s", int).write(row.value),
    "Run.why": _on_run("why"),
    "Scheduler": lambda _, row: perdure.Scheduler(row.value),
    "Worker": lambda desk, row: Worker(**{"app": desk.app, row.parameter: thaw(row.value)}),
    "Worker.run_once": lambda desk, row: Worker(desk.app, only=row.value).run_once(),
    "Worker.start": _start,
    "Worker.stop": lambda desk, row: Worker(desk.app).stop(thaw(row.value)),
    "Workflow()": _refuse_call("anything"),
    "Workflow.continue_as_new": called("continue_as_new"),
    "Workflow.delay": called("delay", "1h"),
    "Workflow.enqueue": called("enqueue"),
    "Workflow.enqueue_many": _enqueue_many,
    "Workflow.on": lambda desk, row: desk.anything.on(row.value),
    "Workflow.get": lambda desk, row: desk.anything.get(thaw(row.value)),
    "Workflow.options": options("anything"),
    "Workflow.run": called("run"),
    "carry": lambda _, row: carry(thaw(row.value)),
    "block_on": lambda _, row: perdure.block_on(thaw(row.value)),
    "compensate": _compensate,
    "constant": _constructed(perdure.constant),
    "current_step": lambda *_: perdure.current_step(),
    "event": lambda _, row: perdure.event(thaw(row.value)),
    "exponential": _constructed(perdure.exponential),
    "job": declare("job"),
    "gather": lambda _, row: gather(*thaw(row.value)),
    "linear": _constructed(perdure.linear),
    "now": lambda *_: perdure.now(),
    "patched": lambda _, row: perdure.patched(row.value),
    "progress": lambda _, row: perdure.progress(thaw(row.value)),
    "random": lambda *_: perdure.random(),
    "sleep": _sleep,
    "sleep_until": _sleep_until,
    "step": _step,
    "step.options": lambda _, row: step.options(**{row.parameter: thaw(row.value)})("inline", work),
    "step.sync": _step_sync,
    "stream": lambda _, row: perdure.stream(
        *(("s", row.value) if row.parameter == "type" else (row.value,))
    ),
    "wait_for_event": _wait_for_event,
    "workflow": declare("workflow"),
    "uuid": lambda *_: perdure.uuid(),
}
"""By entry; a coroutine that is returned is awaited."""


# --- inside a body ------------------------------------------------------------------------------

Body = Callable[[], Any]


def inside(desk: Desk, row: Row) -> Body:
    """Return what a body does for a row of `INSIDE`; it may be a coroutine function."""
    if row.parameter == "result":
        return _returning(desk, row)
    declared = desk.app.step(name="declared")(_anything)
    match row.entry, row.parameter:
        case "Step()", "args":
            given = row.value if isinstance(row.value, tuple) else (row.value,)
            return lambda: declared(*thaw(given))
        case "Step()", "kwargs":
            named = row.value if isinstance(row.value, dict) else {"value": row.value}
            return lambda: declared(**thaw(named))
        case "step", "args":
            return lambda: step("inline", work, thaw(row.value))
        case "step", "kwargs":
            return lambda: step("inline", work, value=thaw(row.value))
        case "Run.result", "timeout":
            return lambda: desk.run.result(timeout=row.value)
        case "Run.result", _:
            return lambda: desk.app.get(row.value).result()
        case _:
            return lambda: CALLS[row.entry](desk, row)


def _returning(desk: Desk, row: Row) -> Body:
    """Return a body to whose steps, or to whose own result, the row's value belongs."""

    async def returns() -> Any:
        await asyncio.sleep(0)
        return thaw(row.value)

    match row.entry:
        case "Step()":
            return desk.app.step(name="returns", max_attempts=1)(returns)
        case "step":
            return lambda: step.options(max_attempts=1)("inline", returns)
        case "Workflow.run":
            return desk.app.workflow(name="inner")(returns).run
        case _:
            return returns
