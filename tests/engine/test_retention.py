"""Retention: what apps, definitions and calls say of it, and the pruner that acts by it."""

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from perdure import App, Retention, Run, step, wait_for_event
from perdure._runtime import pruner
from perdure.errors import (
    AppNotReady,
    DefinitionError,
    InvalidDuration,
    RunNotFound,
    UnknownDefinition,
    UsageError,
)
from perdure.model.records import TERMINAL, RunQuery
from perdure.model.retention import FOREVER, Pruned, PutRetentions
from perdure.model.retention import Retention as Stored
from tests.engine.places import Place, eventually

DAY = 86_400_000_000


async def body(name: str = "") -> str:
    """Return the name."""
    if name == "fail":
        raise ValueError(name)
    return name


@dataclass
class Go:
    """What a parent waits for."""


async def ended(run: Run[Any]) -> None:
    """Wait until a run has ended, well or not."""

    async def is_over() -> bool:
        return await run.status() in TERMINAL

    await eventually(is_over)


def of(made: Any) -> Stored:
    """Return what is kept of a definition."""
    found: Stored = made.definition.retention
    return found


def test_the_definition_s_word_stands_above_the_app_s():
    """What neither says is 30 days, and a day for those that were declined."""
    app = App()
    plain = app.job(body)
    own = app.workflow(name="own", retention=Retention(completed="7d", failed="90d", keep=9))(body)
    ever = app.job(name="ever", retention=None)(body)
    forever = app.job(name="forever", retention="forever")(body)
    assert of(plain) == Stored(30 * DAY, 30 * DAY, 30 * DAY, DAY)
    assert of(own) == Stored(7 * DAY, 90 * DAY, 30 * DAY, DAY, 9)
    assert of(ever) == of(forever) == Stored(None, None, None, DAY)
    app.configure(job={"retention": "12h"}, workflow={"retention": "60d"})
    assert of(plain) == Stored(DAY // 2, DAY // 2, DAY // 2, DAY // 2)
    assert of(app.workflow(name="late")(body)) == Stored(60 * DAY, 60 * DAY, 60 * DAY, DAY)
    assert of(own) == Stored(7 * DAY, 90 * DAY, 30 * DAY, DAY, 9)
    assert of(ever) == Stored(None, None, None, DAY)


def test_what_is_wrong_is_refused():
    """By name, where it is said."""
    app = App()
    with pytest.raises(InvalidDuration, match="retention of 'body'"):
        app.job(retention="soon")(body)
    with pytest.raises(InvalidDuration, match="failed"):
        Retention(failed="soon")
    with pytest.raises(UsageError, match="keep must be"):
        Retention(keep=0)
    with pytest.raises(InvalidDuration, match="event_retention"):
        app.configure(event_retention="soon")
    with pytest.raises(DefinitionError, match="did you mean 'retention'"):
        app.configure(job={"retentions": "1d"})  # type: ignore[typeddict-unknown-key]
    assert Retention(completed="1d", failed="forever").failed is None
    assert Retention().declined == timedelta(days=1)


async def test_workers_put_it_into_the_store(place: Place):
    """Each that starts; of the default nothing is kept."""

    def define(app: App) -> Any:
        app.job(name="plain")(body)
        return app.job(name="own", retention="7d")(body)

    async with place.life(define) as life:
        kept = await life.app.engine.committer.submit(PutRetentions(()))
    assert kept.retentions == (("own", Stored(7 * DAY, 7 * DAY, 7 * DAY, DAY)),)
    async with place.life(lambda app: app.job(name="own")(body)) as life:
        kept = await life.app.engine.committer.submit(PutRetentions(()))
    assert kept.retentions == ()


async def test_ended_runs_are_pruned(place: Place):
    """As their definition says, by how they ended; a call says otherwise for its run."""

    def define(app: App) -> Any:
        return app.job(
            name="job", max_attempts=1, retention=Retention(completed="0s", failed="90d")
        )(body)

    async with place.life(define) as life:
        job = life.flow
        done = await job.enqueue("done")
        kept = await job.options(retention="forever").enqueue("kept")
        failed = await job.enqueue("fail")
        brief = await job.options(retention="0s").enqueue("fail")
        for run in (done, kept, failed, brief):
            await ended(run)
        assert await life.app.prune(dry_run=True) == Pruned(runs=2)
        assert await life.app.prune() == Pruned(runs=2)
        assert {run.id for run in await life.app.runs()} == {kept.id, failed.id}
        with pytest.raises(RunNotFound):
            await done.status()
        stored = await life.app.engine.store.get(kept.id)
        assert stored is not None
        assert stored.retention == FOREVER


async def test_an_operator_prunes_what_is_older(place: Place):
    """By status and name, which must be those of ended runs and known."""

    def define(app: App) -> Any:
        app.job(name="other")(body)
        return app.job(name="job", max_attempts=1)(body)

    async with place.life(define) as life:
        for name in ("done", "fail"):
            run = await life.flow.enqueue(name)
            await ended(run)
        prune = life.app.prune
        assert await prune(older_than="1h") == Pruned()
        assert await prune(older_than="0s", name="other") == Pruned()
        assert await prune(older_than="0s", status="failed", dry_run=True) == Pruned(runs=1)
        assert await prune(older_than="0s", status="failed") == Pruned(runs=1)
        assert await prune(older_than="0s", status=["completed"], name="job") == Pruned(runs=1)
        with pytest.raises(UsageError, match="only ended runs"):
            await prune(status="running")
        with pytest.raises(UnknownDefinition):
            await prune(name="jbo")
        with pytest.raises(UsageError, match="dry_run"):
            await prune(dry_run=1)  # type: ignore[arg-type]


async def test_a_worker_prunes_by_itself(place: Place, monkeypatch: pytest.MonkeyPatch):
    """Batch by batch, at once while there is more; published events, too."""
    monkeypatch.setattr(pruner, "EVERY", 0.01)
    monkeypatch.setattr(pruner, "BATCH", 3)

    def define(app: App) -> Any:
        app.configure(event_retention="0s")
        return app.job(name="job", retention="0s")(body)

    async with place.life(define) as life:
        await life.app.publish("nobody hears", type="T")
        await asyncio.gather(*(life.flow.enqueue(str(number)) for number in range(20)))

        async def is_empty() -> bool:
            store = life.app.engine.store
            return not await store.list_runs(RunQuery(limit=1)) and not await life.app.events()

        await eventually(is_empty)


async def test_events_are_kept_for_thirty_days_by_default(place: Place):
    """Or as the app says, until it is in use."""
    async with place.life(lambda app: app.job(name="job")(body)) as life:
        await life.app.publish("nobody hears", type="T")
        assert await life.app.prune() == Pruned()
        assert life.app.engine.event_retention == 30 * DAY
        with pytest.raises(AppNotReady):
            life.app.configure(event_retention="1d")
    app = App()
    app.configure(event_retention="forever")
    assert app.engine.event_retention is None


async def test_a_paused_parent_finds_its_child_after_its_retention(place: Place):
    """The child ended, was over, and was looked at; the parent goes on as if it had been quick."""

    def define(app: App) -> Any:
        @app.job(retention="0s")
        async def child() -> str:
            return "of age"

        @app.workflow
        async def parent() -> str:
            run = await child.enqueue()
            await wait_for_event(Go)
            return await run.result()

        return parent

    async with place.life(define) as life:
        parent = await life.flow.enqueue()

        async def has_ended() -> Any:
            return await life.app.runs(name="child", status="completed")

        await eventually(has_ended)
        await parent.pause()
        for _ in range(2):
            assert (await life.app.prune()).runs == 0
            assert (await life.app.prune(older_than="0s", status="completed")).runs == 0
        await parent.resume()
        await parent.send_event(Go())
        assert await parent.result(timeout="10s") == "of age"


async def test_a_body_that_asks_for_a_pruned_run_is_told(place: Place):
    """A run that it did not start, and that is gone, is not there."""

    def define(app: App) -> Any:
        @app.job(retention="0s")
        async def other() -> str:
            return "gone"

        @app.workflow
        async def asks(run_id: str) -> str:
            try:
                return await other.get(run_id).result()
            except RunNotFound:
                return "told"

        asks.other = other  # type: ignore[attr-defined]
        return asks

    async with place.life(define) as life:
        run = await life.flow.other.enqueue()
        await run.result(timeout="10s")
        assert (await life.app.prune()).runs == 1
        asking = await life.flow.enqueue(run.id)
        assert await asking.result(timeout="10s") == "told"


@pytest.mark.parametrize("verb", ["restart", "fork"])
async def test_what_continues_a_completed_run_meets_that_a_child_is_gone(place: Place, verb: str):
    """It does not wait for ever for a child that the recorded part has started."""

    def define(app: App) -> Any:
        @app.job(retention="0s")
        async def child() -> str:
            return "grown"

        @app.workflow
        async def parent() -> str:
            run = await child.enqueue()
            await step("between", between)
            try:
                return await run.result()
            except RunNotFound:
                return "gone"

        async def between() -> None:
            return None

        return parent

    async with place.life(define) as life:
        first = await life.flow.enqueue()
        assert await first.result(timeout="10s") == "grown"
        assert (await life.app.prune()).runs == 1
        if verb == "restart":
            await first.restart(from_step="between")
            again = first
        else:
            again = await first.fork(from_step="between")
        assert await again.result(timeout="10s") == "gone"


async def test_an_id_is_free_after_its_retention(place: Place):
    """The same id and unique_key make a new run, which executes its steps anew."""
    calls: list[str] = []

    def define(app: App) -> Any:
        @app.job(retention="0s")
        async def job(name: str) -> str:
            return await step("work", work, name)

        async def work(name: str) -> str:
            calls.append(name)
            return name

        return job

    async with place.life(define) as life:
        for name in ("one", "two"):
            run = await life.flow.options(id="same", unique_key="u").enqueue(name)
            assert await run.result(timeout="10s") == name
            assert (await life.app.prune()).runs == 1
    assert calls == ["one", "two"]


async def test_the_pruner_goes_on_after_a_failure(
    place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """What it could not do now it does later, and says so."""
    monkeypatch.setattr(pruner, "EVERY", 0.01)
    failures = 2
    real = pruner.Pruner.tick

    async def tick(self: pruner.Pruner) -> Pruned:
        nonlocal failures
        if failures:
            failures -= 1
            raise OSError("no")
        return await real(self)

    monkeypatch.setattr(pruner.Pruner, "tick", tick)
    async with place.life(lambda app: app.job(name="job", retention="0s")(body)) as life:
        await life.flow.enqueue("x")

        async def is_empty() -> bool:
            return not await life.app.runs()

        await eventually(is_empty)
    assert failures == 0


async def test_a_stopped_worker_prunes_nothing(place: Place):
    """And nothing of its pruner is left on the loop."""
    async with place.life(lambda app: app.job(name="job")(body)) as life:
        leader = life.worker.leader  # type: ignore[union-attr]
        assert leader is not None
        await eventually(lambda: not leader.pruner.is_idle)
        await life.stop()
        assert leader.pruner.is_idle
