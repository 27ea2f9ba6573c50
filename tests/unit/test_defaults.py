"""Defaults: one table, read here; above it the app's word, the definition's, the call's."""

import asyncio
import inspect
from datetime import timedelta
from typing import Any

import pytest

from perdure import App, Backoff, Worker, constant, defaults, exponential
from perdure.duration import to_timedelta
from perdure.errors import (
    AppNotReady,
    DefinitionError,
    InvalidDuration,
    PayloadTooLarge,
    RunFailed,
    UsageError,
)
from perdure.step import StepOptions
from perdure.workflow import Workflow


async def body() -> None:
    """Do nothing."""


def test_the_table_says_what_is_promised():
    """The figures of the table are those of the documentation."""
    assert {
        name: value for name, value in vars(defaults).items() if name.isupper() and len(name) > 1
    } == {
        "WORKFLOW_MAX_ATTEMPTS": 1,
        "JOB_MAX_ATTEMPTS": 3,
        "STEP_MAX_ATTEMPTS": 3,
        "STEP_TIMEOUT": "1h",
        "JOB_TIMEOUT": "1h",
        "CONCURRENCY": 100,
        "STEP_THREADS": 32,
        "QUEUE": "default",
        "PRIORITY": 0,
        "LEASE": "15s",
        "HEARTBEAT": "5s",
        "POLL": "1s",
        "GRACE": "25s",
        "CRASH_CAP": 10,
        "RETENTION": "30d",
        "DECLINED_RETENTION": "1d",
        "EVENT_RETENTION": "30d",
        "CHANGES_KEPT": "7d",
        "MOST_CHANGES": 1_000_000,
        "ON_PARENT_CLOSE": "abandon",
        "PAYLOAD_LIMIT": 1 << 20,
        "PROGRESS_LIMIT": 1 << 10,
        "OF_DEFINITIONS": {
            "workflow": {
                "max_attempts": 1,
                "timeout": None,
                "queue": "default",
                "priority": 0,
                "retention": "30d",
            },
            "job": {
                "max_attempts": 3,
                "timeout": "1h",
                "queue": "default",
                "priority": 0,
                "retention": "30d",
            },
        },
    }


def test_the_table_is_what_holds():
    """Workflows, jobs, steps, workers and apps of which nothing is said are as the table says."""
    app = App("memory://")
    for kind, made in (("workflow", app.workflow(body)), ("job", app.job(name="job")(body))):
        table = defaults.OF_DEFINITIONS[kind]
        definition = made.definition
        timeout = None if definition.timeout is None else timedelta(seconds=definition.timeout)
        assert definition.policy.max_attempts == table["max_attempts"]
        assert timeout == (table["timeout"] and to_timedelta(table["timeout"]))
        assert (definition.queue, definition.priority) == (table["queue"], table["priority"])
        assert definition.policy.backoff == Backoff() == exponential()
    spec = StepOptions().spec(body, "step")
    assert spec.policy.max_attempts == defaults.STEP_MAX_ATTEMPTS
    assert timedelta(seconds=spec.timeout or 0) == to_timedelta(defaults.STEP_TIMEOUT)
    assert app.engine.payload_limit == defaults.PAYLOAD_LIMIT
    taken = inspect.signature(Worker).parameters
    for name in ("concurrency", "lease", "heartbeat", "poll", "grace", "crash_cap"):
        assert taken[name].default == getattr(defaults, name.upper())


def test_back_off_is_as_documented():
    """Exponential from 1 s, factor 2, cap 1 h, jitter 10 %."""
    backoff = Backoff()
    assert backoff == Backoff("exponential", timedelta(seconds=1), 2.0, timedelta(hours=1), 0.1)


def of(made: Workflow[..., Any]) -> tuple[Any, ...]:
    """Return what can be configured of a definition."""
    definition = made.definition
    policy = definition.policy
    return (
        policy.max_attempts,
        policy.backoff,
        policy.retry_on,
        definition.timeout,
        definition.queue,
        definition.priority,
    )


def test_an_app_s_word_stands_between_the_table_and_a_definition_s():
    """configure holds for definitions before and after it, where they do not say otherwise."""
    app = App()
    before = app.job(body)
    own = app.job(name="own", max_attempts=7, timeout=None, queue="mine", priority=-1)(body)
    app.configure(
        job={
            "max_attempts": 2,
            "backoff": constant("5s"),
            "retry_on": OSError,
            "timeout": "2m",
            "queue": "jobs",
            "priority": 4,
        }
    )
    app.configure(job={"priority": 5})
    after = app.job(name="after")(body)
    workflow = app.workflow(name="workflow")(body)
    assert of(before) == of(after) == (2, constant("5s"), OSError, 120.0, "jobs", 5)
    assert of(own) == (7, constant("5s"), OSError, None, "mine", -1)
    assert of(workflow) == (1, Backoff(), None, None, "default", 0)


@pytest.mark.parametrize(
    "wrong, error, message",
    [
        ({"job": {"retries": 3}}, DefinitionError, "did you mean 'max_attempts'"),
        ({"workflow": {"timeout": "soon"}}, InvalidDuration, "soon"),
        ({"workflow": {"priority": "high"}}, UsageError, "whole number"),
        ({"job": {"max_attempts": 0}, "payload_limit": 9}, DefinitionError, "max_attempts"),
        ({"payload_limit": 0}, UsageError, "payload_limit"),
    ],
    ids=lambda value: "" if isinstance(value, type) else str(value)[:30],
)
def test_a_wrong_default_is_refused_and_changes_nothing(
    wrong: dict[str, Any], error: type[Exception], message: str
):
    """It is an error of configure, whether or not there is a definition yet."""
    app = App()
    made = app.job(body)
    with pytest.raises(error, match=message):
        app.configure(**{"workflow": {"max_attempts": 5}, **wrong})
    assert of(made)[0] == 3
    assert of(app.workflow(name="later")(body))[0] == 1
    assert app.engine.payload_limit == defaults.PAYLOAD_LIMIT


async def test_defaults_are_settled_once_the_app_is_used():
    """Connected once, or having run something, an app cannot be configured any more."""
    connected, ran = App("memory://"), App()
    flow = ran.workflow(body)
    await connected.connect()
    await connected.close()
    await flow.run()
    for app in (connected, ran):
        with pytest.raises(AppNotReady, match=r"call configure\(…\) before"):
            app.configure(job={"max_attempts": 2})


async def test_the_payload_limit_can_be_configured():
    """A payload over the app's own limit is refused, naming it."""
    app = App("memory://")

    @app.workflow
    async def flow(text: str) -> None: ...

    app.configure(payload_limit=20)
    async with app:
        await flow.enqueue("short")
        with pytest.raises(PayloadTooLarge, match="the limit is 20"):
            await flow.enqueue("much too long for this app")


async def test_a_call_s_word_is_the_last():
    """max_attempts, backoff, timeout, queue and priority of one call hold for its run alone."""
    app = App("memory://")

    @app.job(max_attempts=1, timeout="1h", queue="slow", priority=9)
    async def flow() -> None:
        raise ConnectionError

    async with app, Worker(app, queues=["fast"]):
        run = await flow.options(
            max_attempts=3, backoff=constant("2ms"), queue="fast", priority=1
        ).enqueue()
        with pytest.raises(RunFailed):
            await run.result(timeout="5s")
        history = await run.history()
    assert (history.attempt, history.queue, history.priority) == (3, "fast", 1)
    [first, second] = history.attempts
    assert second.ended_at - first.ended_at < timedelta(seconds=1)
    assert of(flow)[0] == 1


async def test_a_call_s_timeout_is_the_run_s():
    """A call may give its run less time than the definition does."""
    app = App("memory://")

    @app.workflow
    async def flow() -> None:
        await asyncio.Event().wait()

    async with app, Worker(app):
        run = await flow.options(timeout="30ms").enqueue()
        with pytest.raises(RunFailed, match=r"longer than its timeout of 0\.03 s") as caught:
            await run.result(timeout="5s")
    assert caught.value.reason == "timeout"


def test_a_call_s_back_off_is_no_function():
    """It is stored with the run, and a function cannot be."""
    wrong: Any = lambda *_: "1s"  # noqa: E731
    with pytest.raises(UsageError, match=r"constant\(…\)"):
        App().workflow(body).options(backoff=wrong)
    with pytest.raises(InvalidDuration):
        App().workflow(body).options(timeout="soon")
