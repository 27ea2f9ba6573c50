"""The public surface used once, as users write it; pyright and mypy, both strict, prove it.

``assert_type`` does nothing at run time: what counts is that the checkers agree, and that the
lines marked as errors are errors (an unneeded ignore is one, too). What is called rightly is also
executed.

One thing mypy cannot do: where the signature of a body with a context holds an explicit ``Any``, it
takes the overloads of the decorator for ambiguous and the definition for ``Any``; write ``object``.
"""

from __future__ import annotations

import ast
import asyncio
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, TypedDict, assert_type

import msgspec
from pydantic import BaseModel, Field

import perdure
from perdure import (
    App,
    Backoff,
    BulkResult,
    Change,
    ChangeKind,
    Context,
    CurrentStep,
    Debounce,
    Declared,
    Event,
    EventTimeout,
    NonRetryable,
    PerdureError,
    Queue,
    Rate,
    Retention,
    RetryAfter,
    RetryPolicy,
    Run,
    Scheduler,
    Selection,
    Status,
    Step,
    Stream,
    StreamItem,
    Values,
    Worker,
    Workflow,
    __version__,
    block_on,
    carry,
    compensate,
    constant,
    current_step,
    event,
    exponential,
    gather,
    job,
    linear,
    now,
    patched,
    progress,
    random,
    sleep,
    sleep_until,
    step,
    stream,
    telemetry,
    uuid,
    wait_for_event,
    workflow,
)
from perdure.change import StepChange, SubscriberEntry
from perdure.errors import RunFailed, UsageError
from perdure.handle import EventEntry, ListenerEntry, VersionEntry, WorkerEntry
from perdure.model.records import Count, WaitKind
from perdure.model.retention import Pruned
from perdure.model.streams import StreamEntry
from perdure.queue import QueueEntry
from perdure.schedule import FireEntry, ScheduleEntry, ScheduleHandle

# --- what apps are made of ------------------------------------------------------------------------


class Greeter(Protocol):
    """What a body asks for: no more than it needs."""

    @property
    def greeting(self) -> str:
        """What to say."""
        ...


@dataclass(frozen=True)
class Services:
    """What bodies share."""

    greeting: str = "Hello"
    factor: int = 2


class Nothing:
    """Services that greet nobody."""


class RequestMeta(TypedDict):
    """What each call says of its request."""

    request_id: str


@dataclass
class Tenant:
    """What each call says of its request, as a class."""

    id: int = 0


async def make() -> Services:
    """Make them in the loop."""
    return Services()


async def lend() -> AsyncIterator[Services]:
    """Make them and clean up."""
    yield Services()


def lend_at_once() -> Iterator[Services]:
    """Make them and clean up, without the loop."""
    yield Services()


@asynccontextmanager
async def around() -> AsyncGenerator[Services, None]:
    """Make them and clean up, as a context manager."""
    yield Services()


app = App("memory://", services=Services())
ticks = stream("ticks", int)
others: list[App[Services]] = [
    App(services=make),
    App(services=lend, services_scope="process"),
    App(services=lend_at_once),
    App(services=around),
    App(services=Services),
    App(services=lambda: Services(factor=3)),
]
plain = App("memory://")
typed = App("memory://", services=make, meta=RequestMeta)
tenants = App(meta=Tenant)
poor = App(services=Nothing())

app.configure(
    workflow={"max_attempts": 2, "backoff": constant("1s"), "retry_on": (OSError,)},
    job={"queue": "jobs", "priority": 3, "timeout": "5m", "retention": "7d"},
    payload_limit=1 << 21,
    event_retention="60d",
)

# --- values ---------------------------------------------------------------------------------------


class Card(BaseModel):
    """A pydantic model."""

    kind: Literal["card"] = "card"
    number: str


class Cash(BaseModel):
    """Another one."""

    kind: Literal["cash"] = "cash"
    coins: int


Payment = Annotated[Card | Cash, Field(discriminator="kind")]


@dataclass
class Line:
    """A dataclass."""

    item: str
    price: Decimal


class Address(TypedDict):
    """A typed dictionary."""

    street: str


class Parcel(msgspec.Struct, tag=True):
    """A struct of a tagged union."""

    grams: int


class Letter(msgspec.Struct, tag=True):
    """The other one."""

    pages: int


@dataclass
class Order:
    """All of them."""

    lines: list[Line]
    to: Address
    what: Parcel | Letter
    at: datetime


@event("order.paid")
@dataclass(frozen=True)
class Paid:
    """An order was paid."""

    cents: int


# --- definitions ----------------------------------------------------------------------------------


@app.step(max_attempts=5, timeout="30s", backoff=linear("1s", cap="1m"), retry_on=OSError)
async def charge(order_id: str, cents: int) -> str:
    """Return a receipt."""
    return f"{order_id}:{cents}"


@app.step
def weigh(order_id: str) -> float:
    """Return kilograms."""
    return float(len(order_id))


@step
async def notify(order_id: str) -> None:
    """Tell somebody."""
    if not order_id:
        raise NonRetryable("there is nobody to tell")
    if order_id == "later":
        raise RetryAfter("1m")


@app.step(at_most_once=True)
async def pay(order_id: str) -> str:
    """Return the key that the bank is given."""
    here = assert_type(current_step(), CurrentStep)
    assert_type((here.run_id, here.path, here.attempt), tuple[str | None, str, int])
    return here.idempotency_key + order_id


class Scale:
    """A class with a step, and with calls that become steps."""

    def __init__(self, factor: int) -> None:
        self.factor = factor

    def __call__(self, grams: int) -> int:
        """Weigh."""
        return grams * self.factor

    async def read(self, grams: int) -> int:
        """Weigh later."""
        return grams + self.factor


async def put_back(order_id: str) -> None:
    """Put back what a cancelled run has taken."""


@app.workflow(
    max_attempts=3,
    queue="slow",
    priority=1,
    version="1",
    tags=("orders",),
    on_cancel=put_back,
    retention=Retention(completed="7d", failed=timedelta(days=90), cancelled="forever", keep=1_000),
)
async def fulfil(order_id: str, *, cents: int = 1) -> str:
    """Charge and tell."""
    receipt = assert_type(await charge(order_id, cents), str)
    assert_type(compensate(notify, receipt), None)
    assert_type(compensate("undo", charge, receipt, cents=1), None)
    assert_type(await step("weigh", weigh, order_id), float)
    assert_type(await step("upper", str.upper, receipt), str)
    assert_type(await step("number", int, "3"), int)
    assert_type(await step("line", Line, "tea", Decimal(2)), Line)
    assert_type(await step("scale", Scale(2), 500), int)
    assert_type(await step("read", Scale(2).read, grams=500), int)
    assert_type(await step("part", partial(charge.function, cents=3), order_id), str)
    assert_type(await step.options(max_attempts=1)("notify", notify, order_id), None)
    assert_type(await step.options(at_most_once=True)("pay", pay, order_id), str)
    child = assert_type(await greet.enqueue(order_id), Run[str])
    assert_type(await child.result(), str)
    assert_type(await gather(child, await greet.enqueue("b")), list[str])
    assert_type(await greet.run("c"), str)
    assert_type(await hello.enqueue("d"), Run[str])
    await asyncio.to_thread(carry(lambda: None))
    assert_type(await sleep("1ms"), None)
    assert_type(await sleep_until(now()), None)
    assert_type(patched("weigh first"), bool)
    assert_type(progress(0.5), None)
    assert_type(ticks, Stream[int])
    assert_type(ticks.write(1), None)
    entry = StreamEntry(1, 0, 0, b"1")
    assert_type(ticks.item("1-1", entry), StreamItem[int])
    assert_type(ticks.close(), None)
    assert_type(stream("anything"), Stream[Any])
    return f"{receipt} {now().isoformat()} {uuid()} {random().random()}"


@app.workflow(on=[Paid, "order.refunded"], where=lambda paid: paid.cents > 0)
async def book(paid: Paid) -> str:
    """Wait for what follows."""
    published = assert_type(await app.publish(paid, key="k", id="e", type=Paid), Event)
    for run in assert_type(await published.runs(), list[Run[Any]]):
        assert_type(await run.send_event(paid, key="k", id="e", type="paid"), None)
    with suppress(EventTimeout):
        assert_type(await wait_for_event(Paid, key="k", timeout="1s", name="paid"), Paid)
    assert_type(await wait_for_event("Paid"), Any)
    return "booked"


@app.job
async def greet(ctx: Context[Greeter], name: str) -> str:
    """Greet; the context is no argument of a call."""
    assert_type(ctx.meta, Values)
    return f"{ctx.services.greeting}, {name} {ctx.run_id} {ctx.attempt}"


def by_number(order_id: str, number: int) -> str | int:
    """Return a key."""
    return f"{order_id}-{number}" if number else 0


@app.job(limit_key="order_id", unique_key=by_number, on_conflict="skip", on_parent_close="cancel")
async def once(order_id: str, number: int) -> str:
    """Have keys that follow from the arguments."""
    return f"{order_id}-{number}"


@app.job(unique_key="order_id", debounce=Debounce("1s"), unique_for=None)
async def quietly(order_id: str) -> None:
    """Start when no call comes any more."""


@app.job(name="sum", queue="numbers", backoff=exponential("1s", factor=3))
def add(a: int, b: int = 1) -> int:
    """Add, in a thread."""
    return a + step.sync("double", lambda: 0)


@app.workflow(description="Everything that can be stored.")
async def store(order: Order, payment: Payment) -> Order:
    """Hand the order back."""
    assert_type(payment, Card | Cash)
    return order


@app.workflow(timeout=None)
def scaled(ctx: Context[Services], number: int) -> int:
    """Ask for the class itself."""
    return number * ctx.services.factor


@app.workflow
def blocking(name: str) -> str:
    """Start a child and await it, in a body written with def."""
    run = assert_type(block_on(hello.enqueue(name)), Run[str])
    assert_type(block_on(gather(run)), list[str])
    return assert_type(block_on(run.result()), str)


@plain.job
async def trace(ctx: Context) -> str:
    """Ask for no services at all."""
    assert_type(ctx.services, object)
    return str(ctx.meta["request_id"])


@typed.job
async def trace_typed(ctx: Context[Greeter, RequestMeta]) -> str:
    """Ask for the meta as the app says it."""
    return assert_type(ctx.meta["request_id"], str)


@typed.job
async def trace_loosely(ctx: Context[Greeter]) -> str:
    """Ask for the meta as names and values, which a TypedDict is, too."""
    return str(ctx.meta.get("request_id", "none")) + str(dict(ctx.meta))


@tenants.job(max_attempts=1)
async def bill(ctx: Context[None, Tenant], cents: int) -> int:
    """Ask for a meta that is a class."""
    return ctx.meta.id + cents


# --- definitions without an app -------------------------------------------------------------------


@job
async def hello(ctx: Context[Greeter], name: str) -> str:
    """Greet in whatever app."""
    return f"{ctx.services.greeting}, {name}"


@workflow(max_attempts=2)
async def shout(text: str, *, times: int = 1) -> str:
    """Need nothing."""
    return text.upper() * times


@workflow
def half(number: int) -> float:
    """Need nothing, in a thread."""
    return number / 2


app.include(hello, shout, [half], notify)
typed.include(shout, sys.modules["perdure.workflow"])


# --- calls ----------------------------------------------------------------------------------------


async def calls() -> None:
    """Call everything rightly."""
    durable: Step[[str], float] = weigh
    greeting: Workflow[[str], str] = hello.on(app)
    declared: Declared[..., str] = shout
    run = assert_type(await fulfil.enqueue("o1", cents=5), Run[str])
    assert_type(await run.status(), Status)
    assert_type(await run.result(timeout="1m"), str)
    history = await run.history()
    assert_type(history.result, str | None)
    assert_type(history.input["order_id"], Any)
    await assert_type(await fulfil.delay("10m", "o1"), Run[str]).cancel()
    chosen = fulfil.options(
        id="order-7",
        unique_key="o7",
        queue="default",
        priority=1,
        meta={"request_id": "r1"},
        tags=("nightly",),
        max_attempts=2,
        backoff=Backoff("constant"),
        timeout="1m",
    )
    assert_type(await (await chosen.enqueue("o1")).result(timeout="1m"), str)
    assert_type(await add.enqueue(1, b=2), Run[int])
    assert_type(await add.enqueue_many([((1,), {"b": 2})]), list[Run[int] | PerdureError])
    assert_type(await scaled.run(1), int)
    assert_type(await greet.enqueue("Ada"), Run[str])
    assert_type(await greeting.run("Ada"), str)
    assert_type(await hello.enqueue("Ada"), Run[str])
    assert_type(await shout.on(app).options(id="s").enqueue("a", times=2), Run[str])
    assert_type(await shout.delay("1s", "a", times=2), Run[str])
    assert_type(await half.run(3), float)
    order = Order([Line("tea", Decimal("1.50"))], {"street": "High"}, Letter(2), now_utc())
    assert_type(await store.run(order, Cash(coins=1)), Order)
    assert await (await store.enqueue(order, Card(number="1"))).result(timeout="1m") == order
    assert_type(await bill.options(meta=Tenant(4)).run(1), int)
    assert_type(await trace_typed.options(meta=RequestMeta(request_id="r")).run(), str)
    assert_type(await charge("o1", 5), str)
    assert_type(weigh("o1"), float)
    assert_type(await app.get(run.id).result(), Any)
    assert_type(await fulfil.get(run.id).result(), str)
    assert_type(await trace_loosely.options(meta={"request_id": "r"}).run(), str)
    assert_type(await app.runs(status=Status.FAILED, name="fulfil", limit=10), list[Run[Any]])
    assert_type(await app.counts(by_definition=True), list[Count])
    assert_type(await app.workers(), list[WorkerEntry])
    version = assert_type(await app.versions(), list[VersionEntry])[0]
    assert_type((version.name, version.version), tuple[str, str])
    assert_type((version.pinned, version.workers), tuple[int, tuple[str, ...]])
    pruned = assert_type(await app.prune(), Pruned)
    assert_type((pruned.runs, pruned.events), tuple[int, int])
    await app.prune(older_than=timedelta(days=7), status=Status.FAILED, name="fulfil", dry_run=True)
    await hello.options(retention="forever").enqueue("Ada")
    end = assert_type(await app.position(), str)
    async for change in app.changes(after=end, name="fulfil", kind=ChangeKind.FAILED, follow=False):
        assert_type(change, Change)
        assert_type((change.kind, change.status, change.at), tuple[ChangeKind, Status, datetime])
        assert_type(change.step, StepChange | None)
        assert_type((change.attempt, change.epoch, change.reason), tuple[int, int, str | None])
        assert_type(change.waiting_for, WaitKind | None)
        assert_type(change.due_at, datetime | None)
    billing = app.subscribe("billing", after=end, kind=["completed", "failed"])
    await assert_type(billing, AsyncGenerator[Change, None]).aclose()
    assert_type(await app.subscribers(), list[SubscriberEntry])
    assert_type(await app.unsubscribe("billing"), bool)
    assert_type(await app.events(type=Paid, key="k", run="r", limit=5), list[EventEntry])
    assert_type(await app.schedules(), list[ScheduleEntry])
    mail = assert_type(
        app.queue(
            "mail",
            concurrency=2,
            rate=Rate(100, "1m", burst=10),
            concurrency_per_key=1,
            rate_per_key=Rate(1, timedelta(seconds=1)),
        ),
        Queue,
    )
    assert_type(await app.queues(), list[QueueEntry])
    assert_type(await mail.get(), QueueEntry)
    kept = Retention(completed="7d", declined=None, keep=5)
    assert_type(kept.completed, timedelta | str | None)
    assert_type(
        (kept.failed, kept.cancelled), tuple[timedelta | str | None, timedelta | str | None]
    )
    assert_type((kept.declined, kept.keep), tuple[timedelta | str | None, int | None])
    rate = Rate(5, per="1s")
    assert_type((rate.limit, rate.per, rate.burst), tuple[int, timedelta | str, int])
    await mail.set_limits(concurrency=5)
    await mail.pause()
    await mail.resume()
    assert_type(await hello.options(limit_key="k").enqueue("Ada"), Run[str])
    assert_type(await once.enqueue("o1", 1), Run[str])
    newest = hello.options(unique_key="k", on_conflict="replace")
    assert_type(await newest.enqueue("Ada"), Run[str])
    rarely = hello.options(unique_key="k", unique_for=timedelta(minutes=1), on_conflict="skip")
    assert_type(await rarely.delay("1s", "Ada"), Run[str])
    assert_type(await blocking.run("Ada"), str)
    with suppress(UsageError):  # outside of a body
        assert_type(await hello.options(on_parent_close="wait").enqueue("Ada"), Run[str])
    quiet = Debounce("10s", max_wait="1m")
    assert_type((quiet.delay, quiet.max_wait), tuple[timedelta | str, timedelta | str | None])
    assert_type(await hello.options(unique_key="k", debounce=quiet).enqueue("Ada"), Run[str])
    calls = hello.options(timezone="UTC", missed="all", schedule_key="k")
    daily = assert_type(await calls.schedule("@daily", "Ada"), ScheduleHandle)
    assert_type(await daily.get(), ScheduleEntry)
    assert_type((await daily.why()).sentence, str)
    assert_type([one.leads for one in await app.workers()], list[bool])
    async with Scheduler(app) as scheduler:
        assert_type(scheduler, Scheduler)
    assert_type(await daily.fires(), list[FireEntry])
    assert_type(await app.schedule(daily.key).next(2), list[datetime])
    assert_type(await daily.trigger(), Run[Any])
    first = datetime(2020, 1, 1, tzinfo=UTC)
    assert_type(await daily.backfill(first, first + timedelta(days=1)), list[Run[Any]])
    await daily.pause()
    await daily.resume()
    await daily.remove()
    assert_type(await app.listeners(), list[ListenerEntry])
    assert_type(await app.unlisten("book", type=Paid), None)
    assert_type((await run.why()).sentence, str)
    assert_type(await retried(greet), Status)
    assert (fulfil.name, durable.name, declared.name) == ("fulfil", "weigh", "shout")
    assert RetryPolicy(3, backoff=constant("1s")).max_attempts == int(__version__ != "") + 2


def now_utc() -> datetime:
    """Return an instant."""
    return datetime.fromtimestamp(0, UTC)


def continued(definition: Workflow[[str], str], declaration: Declared[[str], str]) -> str:
    """End a body's generation: the arguments are those of the body, and nothing is returned."""
    if declaration.name == "again":
        declaration.continue_as_new("again")
    definition.continue_as_new("again")


async def retried(definition: Workflow[[str], str]) -> Status:
    """Pause a run and resume it, cancel it, try it again and give it up."""
    run = await definition.delay("1h", "again")
    assert_type(await run.pause(wait=True), Status)
    assert_type(await run.resume(), Status)
    assert_type(await run.cancel(), Status)
    assert_type(await run.retry(), Status)
    assert_type(await run.restart(), Status)
    return await run.cancel(wait=True)


async def forked(run: Run[str]) -> Run[str]:
    """Restart and fork from a step."""
    assert_type(await run.restart(from_step="again", occurrence=2), Status)
    assert_type(await run.restart(from_step=charge, pin="1"), Status)
    assert_type(await run.pin("2"), Status)
    assert_type(await run.pin(None), Status)
    assert_type(await run.fork(pin="2"), Run[str])
    assert_type(await run.cancel(compensate=True, wait=True), Status)
    assert_type(await run.fork(results={charge: "paid", "other": 3}, id="fork"), Run[str])
    return await run.fork(from_step=charge, input={"subject": "x"})


@app.workflow(version="2", pinned=True)
async def pinned(order_id: str) -> str:
    """Go on with the code with which it began."""
    return order_id


@pinned.earlier("1")
async def pinned_1(order_id: str) -> int:
    """Be the code that it was before."""
    return len(order_id)


async def kept() -> int:
    """Call the code of an earlier version, which is the function that it was."""
    assert_type(await (await pinned.enqueue("o1")).result(), str)
    return assert_type(await pinned_1("o1"), int)


async def many() -> BulkResult:
    """Select runs, and ask something of all of them."""
    failed = app.select(status="failed", name=["fulfil"], created_after=now_utc())
    assert_type(failed, Selection)
    assert_type(await failed.count(), int)
    async for run in failed:
        assert_type(run.id, str)
    undone = await failed.cancel(compensate=True)
    assert_type(await app.get("r").progress(), Any)
    async for item in app.get("r").stream(ticks, after="1-2", follow=False):
        assert_type(item, StreamItem[int])
        assert_type(item.value, int)
        assert_type(item.cursor, str)
        assert_type(item.at, datetime)
        assert_type(item.generation, int)
        async for other in app.get("r").stream("anything", after=item):
            assert_type(other.value, Any)
    for bulk in (await failed.pause(), await failed.resume(), undone):
        assert_type(bulk.done, tuple[str, ...])
        assert_type(bulk.refused, tuple[str, ...])
    await failed.restart()
    assert_type(await app.select(version="1").pin("2"), BulkResult)
    return await failed.retry()


@app.on(telemetry.RunFailed)
async def alert(failed: telemetry.RunFailed) -> str:
    """Say what failed."""
    assert_type(failed.will_retry, bool)
    return failed.error.message


@fulfil.on(telemetry.StepHook)
def every(hook: telemetry.Hook) -> None:
    """Take more than it is told."""


async def listeners(failed: telemetry.RunFailed) -> None:
    """Call listeners, and stop them."""
    assert_type(await alert(failed), str)
    assert_type(alert.off(), None)
    heard: list[telemetry.RunStarted] = []
    app.on(telemetry.RunStarted)(heard.append).off()
    app.on(telemetry.RunStarted)(lambda started: assert_type(started.queued, timedelta))


def overridden() -> None:
    """Let an app stand on something else for a while."""
    with plain.override(store="memory://", services=Services()) as same:
        assert same is plain


async def mistakes() -> None:
    """Call things wrongly: each line is an error to both checkers."""
    await fulfil.enqueue()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await fulfil.enqueue(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await fulfil.enqueue("o", price=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await fulfil.run()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await fulfil.run(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await fulfil.run("o", price=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await fulfil.delay("1s")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await add.delay("1s", "a")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await add.delay("1s", 1, c=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await add.delay(1, 1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await hello.schedule("@daily", 1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await greet.options(id="x").enqueue()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await greet.options(id="x").enqueue(3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await greet.options(id="x").enqueue("a", b=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    greet.options(ident="x")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    app.job(limit_key=7)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    greet.options(on_conflict="ignore")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    greet.options(on_parent_close="stop")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    greet.options(debounce="10s")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    greet.options(priority="high")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await shout.enqueue(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await shout.on(app).run()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await store.run(Order, Cash(coins=1))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await charge("o1")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    app.on(telemetry.RunStarted)(alert)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    app.on(RunFailed)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
    fulfil.on(telemetry.WorkerReady)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
    await charge("o1", "5")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await charge("o1", 5, now=True)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await step("weigh", weigh)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    await step("weigh", weigh, 3)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    await step("weigh", weigh, "a", b=1)  # type: ignore[call-arg, arg-type]  # pyright: ignore[reportCallIssue]
    assert_type(await (await add.enqueue(1)).result(), str)  # type: ignore[assert-type]  # pyright: ignore[reportAssertTypeFailure]
    app.configure(job={"attempts": 3})  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    App(services=Services(), services_scope="process")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]


def misfits() -> None:
    """Give bodies to apps that lack what they ask for: an error where it is declared."""

    @plain.job  # type: ignore[deprecated]  # pyright: ignore[reportDeprecated]
    async def needs_services(ctx: Context[Greeter], name: str) -> None: ...

    @poor.job  # type: ignore[deprecated]  # pyright: ignore[reportDeprecated]
    async def needs_greeting(ctx: Context[Greeter], name: str) -> None: ...

    @app.job  # type: ignore[deprecated]  # pyright: ignore[reportDeprecated]
    def needs_meta(ctx: Context[Greeter, RequestMeta]) -> None: ...

    @poor.workflow(name="other")  # type: ignore[deprecated]
    async def with_options(ctx: Context[Greeter], name: str) -> None: ...

    with_options.enqueue("a")  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
    poor.include(hello)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    plain.include(shout, hello)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    tenants.include(shout)


# --- tests ----------------------------------------------------------------------------------------

MACHINERY = {
    *(
        "bound_to",
        "definition",
        "engine",
        "make",
        "result_call",
        "unwrap",
        "spec",
        "spec_of",
        "code",
        "delay",
        "decide",
    ),
    *("look", "next_claim", "claim_answered", "claim_failed", "controlled", "miscounted", "lost"),
    *("drop", "heard", "is_ticking", "lead", "tick"),
    *(
        "rescue",
        "stalled",
        "kind",
        "initial",
        "cap",
        "jitter",
        "factor",
        "retry_on",
        "keys",
        "backoff",
    ),
}
"""Public attributes for other layers of the package, and those of values."""


async def test_what_is_called_above_works() -> None:
    """What the checkers accept does what it says."""
    async with app, Worker(app, concurrency=10, queues=["default", "slow", "jobs", "numbers"]):
        await calls()
    async with plain:
        worker = Worker(plain)
        run = await trace.options(meta={"request_id": "r"}).enqueue()
        assert await worker.run_once() == 1
        assert await run.result() == "r"
        await worker.start()
        assert worker.state.value == "working"
        await worker.stop()
    await plain.connect()
    await plain.close()


def test_the_whole_surface_is_used() -> None:
    """Every public name of the package, and every public verb of its classes, stands above."""
    tree = ast.parse(Path(__file__).read_text("utf-8"))
    named = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    assert set(perdure.__all__) - named == set()
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    classes = [each for name in perdure.__all__ if isinstance(each := getattr(perdure, name), type)]
    verbs = {
        name
        for each in [*classes, type(step)]
        for base in each.__mro__
        if base.__module__.startswith("perdure.")
        for name in vars(base)
        if not name.startswith("_")
    }
    kinds = {*Status.__members__, *ChangeKind.__members__}
    assert verbs - used - MACHINERY - kinds == set()
