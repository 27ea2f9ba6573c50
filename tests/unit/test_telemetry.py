"""Listeners and log lines by themselves: what they refuse, how they are delivered and written."""

import asyncio
import io
import json
import logging
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest

from perdure import App, NonRetryable, Worker, constant, errors, step, telemetry
from perdure.errors import UsageError
from perdure.stores.memory import MemoryStore
from perdure.telemetry import Hooks, Log, RunReleased, WorkerLost, _delivery, configure_logging

AT = datetime(2026, 1, 1, tzinfo=UTC)
PATIENCE = 10.0


def lost(worker_id: str = "w") -> WorkerLost:
    """Return a small record."""
    return WorkerLost(at=AT, worker_id=worker_id)


def released(run_id: str) -> RunReleased:
    """Return a small record of a run."""
    return RunReleased(
        at=AT, run_id=run_id, name="f", queue="q", attempt=1, worker_id="w", parent_id=None
    )


@pytest.fixture
async def hooks() -> Any:
    """Hooks that deliver on the test's loop."""
    made = Hooks()
    made.open()
    yield made
    await made.close()


# --- listening -------------------------------------------------------------------------------


def test_every_kind_is_exported_and_described():
    """Each kind that can be told is a name of `perdure.telemetry` with a sentence about it."""
    assert len(telemetry.KINDS) == len(set(telemetry.KINDS)) == 26
    for kind in telemetry.KINDS:
        assert getattr(telemetry, kind.__name__) is kind
        assert kind.__doc__


@pytest.mark.parametrize(
    "kind, message",
    [
        ("run:failed", "such as telemetry.RunFailed, got 'run:failed'"),
        (errors.RunFailed, "perdure.telemetry.RunFailed is another class than"),
        (dict, "takes a class derived from perdure.telemetry.Hook"),
    ],
)
def test_what_is_no_hook_is_refused(kind: Any, message: str):
    """The message says what to write; an error's class of the same name is told apart."""
    with pytest.raises(UsageError, match=message):
        App().on(kind)


def test_a_definition_has_no_worker():
    """Listening to a worker at a workflow names the app's verb."""
    app = App()

    @app.workflow
    async def order() -> None: ...

    with pytest.raises(UsageError, match=r"listened to with app\.on"):
        order.on(WorkerLost)  # type: ignore[type-var]


@pytest.mark.parametrize("function", [lambda: None, lambda one, two: None], ids=["none", "two"])
def test_a_listener_takes_the_record(function: Any):
    """One that cannot be called with it is refused where it is declared."""
    with pytest.raises(UsageError, match="must take the record as its one argument"):
        App().on(WorkerLost)(function)


def test_a_listener_is_callable():
    """Anything else is refused where it is declared."""
    with pytest.raises(UsageError, match="a listener is a function"):
        App().on(WorkerLost)(3)  # type: ignore[arg-type]


async def test_kinds_are_those_listened_to(hooks: Hooks):
    """A base class stands for all that derive from it; `off` takes them out again."""
    assert hooks.kinds == frozenset()
    steps = hooks.on(telemetry.StepHook)(lambda hook: None)
    hooks.on(telemetry.StepFailed)(lambda hook: None)
    assert len(hooks.kinds) == 5
    steps.off()
    assert hooks.kinds == {telemetry.StepFailed}


class Callee:
    """A callable object with a coroutine method."""

    def __init__(self) -> None:
        self.heard: list[tuple[object, int]] = []

    async def __call__(self, hook: object) -> None:
        self.heard.append((hook, threading.get_ident()))


async def test_where_each_sort_of_listener_runs(hooks: Hooks):
    """`async def`, partials and callable objects of it on the loop, `def` in a thread."""
    callee, other = Callee(), Callee()
    threads: list[int] = []
    hooks.on(WorkerLost)(callee)
    hooks.on(WorkerLost)(partial(other))
    hooks.on(WorkerLost)(lambda hook: threads.append(threading.get_ident()))
    third = Callee()
    hooks.on(WorkerLost)(lambda hook: third(hook))  # noqa: PLW0108 -- a `def` with a coroutine
    hooks.tell(lost())
    await hooks.close()
    here = threading.get_ident()
    for called in (callee, other, third):
        assert called.heard == [(lost(), here)]
    assert threads != [here]
    assert len(threads) == 1


# --- delivering ------------------------------------------------------------------------------


async def test_too_many_waiting_records_drop_the_newest(
    hooks: Hooks, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """What is delivered stays in order and without gaps; what is dropped is counted and logged."""
    monkeypatch.setattr(_delivery, "BACKLOG", 3)
    heard: list[str] = []
    may_go_on = asyncio.Event()

    async def listen(hook: WorkerLost) -> None:
        await may_go_on.wait()
        heard.append(hook.worker_id)

    hooks.on(WorkerLost)(listen)
    for number in range(5):
        hooks.tell(lost(str(number)))
    may_go_on.set()
    await hooks.close()
    assert sorted(heard) == ["0", "1", "2"]
    assert hooks.dropped == 2
    [record] = caplog.records
    assert record.getMessage() == (
        "hooks dropped; too many wait for slow listeners kind=WorkerLost dropped=1 waiting=3"
    )


async def test_slow_listeners_of_many_runs_leave_some_for_others(
    hooks: Hooks, monkeypatch: pytest.MonkeyPatch
):
    """As many lanes as may be are with their listeners at once, the rest wait their turn."""
    monkeypatch.setattr(_delivery, "AT_ONCE", 2)
    at_once = most = 0
    heard: list[str] = []

    async def listen(hook: RunReleased) -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0)
        at_once -= 1
        heard.append(hook.run_id)

    hooks.on(RunReleased)(listen)
    for _ in range(2):
        for number in range(6):
            hooks.tell(released(str(number)))
    await hooks.close()
    assert most == 2
    assert sorted(heard) == sorted([str(number) for number in range(6)] * 2)


async def test_a_burst_after_a_rest_is_delivered(hooks: Hooks, monkeypatch: pytest.MonkeyPatch):
    """A record told in the moment when the last deliverer ends is not forgotten."""
    monkeypatch.setattr(_delivery, "AT_ONCE", 1)
    heard: list[str] = []
    full = asyncio.Event()

    async def listen(hook: RunReleased) -> None:
        heard.append(hook.run_id)
        if len(heard) < 100:
            asyncio.get_running_loop().call_soon(hooks.tell, released(str(len(heard))))
        else:
            full.set()

    hooks.on(RunReleased)(listen)
    hooks.tell(released("0"))
    await asyncio.wait_for(full.wait(), PATIENCE)
    assert heard == [str(number) for number in range(100)]


async def test_closing_gives_listeners_a_limit(hooks: Hooks, caplog: pytest.LogCaptureFixture):
    """One that hangs is cancelled then, and the log says how much was not delivered."""
    cancelled = asyncio.Event()

    async def hang(hook: WorkerLost) -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            cancelled.set()

    hooks.on(WorkerLost)(hang)
    hooks.tell(lost())
    hooks.tell(lost())
    await hooks.close(limit=0.01)
    assert cancelled.is_set()
    assert [record.getMessage() for record in caplog.records] == [
        "the app closes before its listeners are done undelivered=2"
    ]


async def test_what_is_told_to_closed_hooks_is_gone(hooks: Hooks):
    """Nothing is kept for a later opening."""
    heard: list[object] = []
    hooks.on(WorkerLost)(heard.append)
    await hooks.close()
    hooks.tell(lost("before"))
    hooks.open()
    hooks.tell(lost("after"))
    await hooks.close()
    assert heard == [lost("after")]


async def test_a_listener_may_close_the_app():
    """It does not wait for itself."""
    app = App(MemoryStore())
    closed = asyncio.Event()

    @app.on(telemetry.AppReady)
    async def close(ready: telemetry.AppReady) -> None:
        await app.close()
        closed.set()

    await app.connect()
    await asyncio.wait_for(closed.wait(), PATIENCE)


async def test_a_busy_store_tells_of_its_errors():
    """With how many there were in a row, and again when it goes on."""

    class Busy(MemoryStore):
        async def apply(self, batch: Any) -> Any:
            raise errors.StoreBusy("told to refuse")

    app = App(Busy())
    told: list[telemetry.AppError] = []
    app.on(telemetry.AppError)(told.append)

    @app.workflow
    async def order() -> None: ...

    async with app:
        for _ in range(3):
            with pytest.raises(errors.StoreBusy):
                await order.enqueue()
    assert [error.failures for error in told] == [1]
    assert told[0].error.message == "told to refuse"


# --- logging ---------------------------------------------------------------------------------


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """Where the log is written to, for the length of a test."""
    stream = io.StringIO()
    yield stream
    configure_logging("error", stream=stream)()


def test_the_library_is_silent_until_configured(capfd: pytest.CaptureFixture[str]):
    """Without a handler not even an error is printed, which Python does by itself otherwise."""
    logger = logging.getLogger("perdure")
    propagate, logger.propagate = logger.propagate, False
    try:
        Log("perdure.worker").error("something went wrong", worker_id="w")
        assert not Log("perdure.worker").is_heard_at(logging.ERROR)
    finally:
        logger.propagate = propagate
    assert capfd.readouterr() == ("", "")


def test_text_is_a_fact_with_key_values(written: io.StringIO):
    """Values that hold spaces or quotes are quoted."""
    configure_logging("warning", stream=written)
    Log("perdure.worker").warning("lease lost", worker_id="w1", error='a "b" c', runs=3)
    time, _, rest = written.getvalue().partition(" ")
    assert datetime.fromisoformat(time).tzinfo is UTC
    assert rest == 'WARNING  perdure.worker: lease lost worker_id=w1 error="a \\"b\\" c" runs=3\n'


def test_json_is_an_object_a_line_with_the_fields(written: io.StringIO):
    """The fact stands by itself, so that lines can be counted by it."""
    configure_logging("warning", "json", stream=written)
    Log("perdure.worker").warning("lease lost", worker_id="w1", error=ValueError("no"), runs=3)
    line = json.loads(written.getvalue())
    assert datetime.fromisoformat(line.pop("at")).tzinfo is UTC
    assert line == {
        "level": "warning",
        "logger": "perdure.worker",
        "fact": "lease lost",
        "worker_id": "w1",
        "error": "no",
        "runs": 3,
    }


class Unspeakable:
    """A value that cannot be shown."""

    def __str__(self) -> str:
        raise RuntimeError("no")


def test_json_loses_no_line_for_a_field(written: io.StringIO, capsys: pytest.CaptureFixture[str]):
    """What JSON cannot hold is written as its text, the fields beside it as they are."""
    configure_logging("warning", "json", stream=written)
    cycle: list[Any] = []
    cycle.append(cycle)
    extra = {
        "keys": {(1, 2): 3},
        "nan": float("nan"),
        "deep": {"x": [float("inf")]},
        "cycle": cycle,
        "odd": Unspeakable(),
        "fine": {"a": [1, None]},
    }
    logging.getLogger("perdure.worker").warning("odd fields", extra=extra)
    Log("perdure.worker").warning("odd fields", **extra)
    assert capsys.readouterr().err == ""

    def refuse(text: str) -> None:
        raise AssertionError(text)

    for text in written.getvalue().splitlines():
        line = json.loads(text, parse_constant=refuse)
        assert line["fact"].startswith("odd fields")
        assert (line["keys"], line["nan"], line["deep"]) == ("{(1, 2): 3}", "nan", "{'x': [inf]}")
        assert line["cycle"] == "[[...]]"
        assert line["odd"] == "<Unspeakable that cannot be shown: RuntimeError>"
        assert line["fine"] == {"a": [1, None]}
    assert len(written.getvalue().splitlines()) == 2


def test_a_field_called_as_one_of_ours_is_kept(written: io.StringIO):
    """Beside ours, with its name made longer."""
    configure_logging("warning", "json", stream=written)
    extra = {"level": 9, "at": "noon", "traceback": "mine"}
    try:
        raise ValueError("no")
    except ValueError:
        logging.getLogger("perdure.worker").exception("taken", extra=extra)
    line = json.loads(written.getvalue())
    assert (line["level"], line["level_"], line["at_"]) == ("error", 9, "noon")
    assert line["traceback"].endswith("ValueError: no")
    assert line["traceback_"] == "mine"


def test_text_shows_what_cannot_be_shown(written: io.StringIO):
    """The line is not lost for a value whose __str__ fails."""
    configure_logging("warning", stream=written)
    Log("perdure.worker").warning("odd", value=Unspeakable())
    assert "Unspeakable that cannot be shown" in written.getvalue()


HOSTILE = "a\n2026 ERROR forged\r\x1b[2J\x9b\u2028\u202e\ud800b"


@pytest.mark.parametrize("format", ["text", "json"])
def test_control_characters_are_escaped(format: Any, written: io.StringIO):
    """Nothing in a value, a fact or an exception begins a line of its own or moves the cursor."""
    configure_logging("warning", format, stream=written)
    log = Log("perdure.worker")
    fact = f"fact {HOSTILE}"
    log.warning(fact, value=HOSTILE)
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        log.exception("failed")
    text = written.getvalue()
    assert all(character >= " " or character == "\n" for character in text)
    assert not set(text) & {"\x7f", "\x9b", "\u2028", "\u202e", "\ud800"}
    lines = text.splitlines()
    starts = [line for line in lines if not line.startswith("    ")]
    assert len(starts) == 2
    assert not any(line.startswith("2026 ERROR") for line in lines)


def test_tracebacks_stand_below_their_line(written: io.StringIO):
    """Indented in text, one field in JSON."""
    formats: tuple[telemetry.Format, ...] = ("text", "json")
    for one in formats:
        configure_logging("warning", one, stream=written)
        try:
            raise ValueError("no")
        except ValueError:
            Log("perdure.run").exception("run could not be started", run_id="r")
    first, *below, last = written.getvalue().splitlines()
    assert first.endswith("ERROR    perdure.run: run could not be started run_id=r")
    assert below[0] == "    Traceback (most recent call last):"
    assert below[-1] == "    ValueError: no"
    assert json.loads(last)["traceback"].endswith("ValueError: no")


def test_a_line_names_its_caller(caplog: pytest.LogCaptureFixture):
    """Handlers of your own see the place that logged, and the fields as attributes."""
    Log("perdure.worker").warning("one", worker_id="w")
    [record] = caplog.records
    assert record.funcName == "test_a_line_names_its_caller"
    assert record.worker_id == "w"  # type: ignore[attr-defined]


def test_configuring_again_replaces_and_undoing_restores(written: io.StringIO):
    """No line is written twice, and what was before is again."""
    logger = logging.getLogger("perdure")
    before = (logger.level, logger.propagate, list(logger.handlers))
    configure_logging("info", stream=written)
    undo = configure_logging("error", stream=written)
    Log("perdure.worker").warning("not at this level")
    Log("perdure.worker").error("once")
    assert written.getvalue().count("\n") == 1
    undo()
    undo()
    assert (logger.level, logger.propagate, list(logger.handlers)) == before


def test_a_whole_process_logs_through_the_same_call(written: io.StringIO):
    """Each line once, the user's loggers too; undone, the root logger is as it was."""
    root = logging.getLogger()
    before = (root.level, list(root.handlers))
    configure_logging("debug", stream=io.StringIO())
    undo = configure_logging("info", "json", stream=written, whole_process=True)
    Log("perdure.worker").warning("ours")
    logging.getLogger("shop").info("theirs")
    logging.getLogger("shop").debug("not at this level")
    undo()
    lines = [json.loads(line) for line in written.getvalue().splitlines()]
    assert [(line["logger"], line["fact"]) for line in lines] == [
        ("perdure.worker", "ours"),
        ("shop", "theirs"),
    ]
    assert (root.level, list(root.handlers)) == before


@pytest.mark.parametrize("wrong", [("loud", "text"), ("info", "xml")])
def test_unknown_levels_and_formats_are_refused(wrong: Any):
    """The message names those that there are."""
    with pytest.raises(UsageError, match=r"one of .*; got '(loud|xml)'"):
        configure_logging(*wrong)


async def _one_of_each(app: App) -> None:
    """Run a workflow that retries a step, retries itself and fails for good."""
    tries: list[int] = []

    async def flaky(text: str) -> str:
        tries.append(1)
        if len(tries) == 1:
            raise RuntimeError("error-marker")
        return text

    @app.workflow(max_attempts=2, backoff=constant("1ms"))
    async def order(text: str) -> str:
        await step.options(backoff=constant("1ms"))("flaky", flaky, text)
        if len(tries) == 2:
            tries.append(1)
            raise ValueError("error-marker")
        raise NonRetryable("error-marker")

    async with app, Worker(app):
        with pytest.raises(errors.RunFailed):
            await (
                await order.options(meta={"key": "payload-marker"}).enqueue("payload-marker")
            ).result(timeout="10s")


async def test_payloads_are_at_no_level_and_messages_from_warning_on(written: io.StringIO):
    """Over a whole run with retries and a failure, at debug."""
    configure_logging("debug", "json", stream=written)
    await _one_of_each(App(MemoryStore()))
    text = written.getvalue()
    assert "payload-marker" not in text
    lines = [json.loads(line) for line in text.splitlines()]
    with_message = {line["level"] for line in lines if "error-marker" in json.dumps(line)}
    assert with_message == {"warning"}
    assert "step failed" in {line["fact"] for line in lines}


async def test_a_run_is_written_a_line_a_change(written: io.StringIO):
    """At info with its id, definition, attempt and worker; steps appear at debug only."""
    configure_logging("info", "json", stream=written)
    await _one_of_each(App(MemoryStore()))
    lines = [json.loads(line) for line in written.getvalue().splitlines()]
    facts = [line["fact"] for line in lines if not line["fact"].startswith("run suspended")]
    assert facts[:3] == ["app connected", "worker ready", "run started"]
    assert [fact for fact in facts if "failed" in fact or "retry" in fact] == [
        "run failed",
        "run retry scheduled",
        "run failed",
    ]
    assert facts[-1] == "worker stopped"
    of_run = [line for line in lines if line["fact"].startswith("run ")]
    assert len({line["run_id"] for line in of_run}) == 1
    assert {line["definition"] for line in of_run} == {"order"}
    assert len({line["worker_id"] for line in lines[1:]}) == 1
    last = of_run[-1]
    assert (last["reason"], last["will_retry"], last["attempt"]) == ("error", False, 2)
    assert last["error"] == "perdure.errors.NonRetryable: error-marker"


async def test_a_level_that_hears_nothing_costs_no_listener(written: io.StringIO):
    """Lines are a listener: where the level leaves them out, nobody listens."""
    undo = configure_logging("error", stream=written)
    app = App(MemoryStore())
    async with app:
        assert app.engine.hooks.kinds == frozenset()
    undo()
    configure_logging("warning", stream=written)
    async with app:
        assert app.engine.hooks.kinds == {telemetry.RunFailed, telemetry.RunPaused}
    assert app.engine.hooks.kinds == frozenset()
