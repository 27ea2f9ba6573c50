"""The bad-input table: what is given to which public parameter, and the error that says so.

A row is frozen data. How an entry is called with it stands in `entries.py`.
"""

import math
from dataclasses import dataclass
from typing import Any

from perdure import App, Debounce
from perdure.defaults import PAYLOAD_LIMIT
from perdure.errors import (
    AppNotReady,
    CursorExpired,
    DefinitionError,
    DuplicateName,
    InvalidDuration,
    InvalidSchedule,
    InvalidTransition,
    InvalidValue,
    NotInRun,
    PayloadTooLarge,
    PerdureError,
    RunConflict,
    RunNotFound,
    UnknownDefinition,
    Unresolved,
    UsageError,
)
from tests.bad_input.surface import NO_PARAMETER
from tests.bad_input.values import (
    AT_THE_LIMIT,
    NO_ATTEMPTS,
    NO_BACKOFFS,
    NO_COUNTS,
    NO_DURATIONS,
    NO_FUNCTIONS,
    NO_INSTANTS,
    NO_NAMES,
    NO_ORDERS,
    NO_PAYLOADS,
    NO_RETRY_ONS,
    NO_TYPED,
    UNSHOWN,
    Fresh,
    Order,
    Typed,
    both_declared,
    declared_alone,
    declared_asking,
    declared_order,
    forgotten,
    generate,
    named,
)


@dataclass(frozen=True)
class Row:
    """One bad input.

    Attributes:
        entry: the public callable, as `surface.py` names it.
        parameter: what the value is given for.
        value: the bad value.
        error: the exact class of the error.
        says: a part of its message.
        path: its path inside of the value, where it is an InvalidValue of a payload.
    """

    entry: str
    parameter: str
    value: Any
    error: type[PerdureError]
    says: str
    path: str | None = None


def each(
    entries: dict[str, str], values: tuple[tuple[Any, str], ...], error: type[PerdureError]
) -> list[Row]:
    """Return a row for each of the values at each of the parameters; `"a b"` names two."""
    return [
        Row(entry, parameter, value, error, says)
        for entry, parameters in entries.items()
        for parameter in parameters.split()
        for value, says in values
    ]


TOO_LARGE = "the input of 'anything' is 1,048,577 bytes encoded, the limit is 1,048,576"
BODIES = ("App.workflow", "App.job", "workflow", "job")
DECLARED = (*BODIES, "App.step", "step")
OPTIONS = ("Workflow.options", "Declared.options")

ROWS: list[Row] = [
    # names, ids, keys, queues, tags
    *each(
        {
            **dict.fromkeys(BODIES, "name queue version"),
            **dict.fromkeys(OPTIONS, "id unique_key queue limit_key"),
            "App.step": "name was",
            "step": "was",
            "step.sync": "name",
            "App.get": "run_id",
            "Declared.get": "run_id",
            "Workflow.get": "run_id",
            "App.queue": "name",
            "App.runs": "queue unique_key limit_key tag text id_prefix version parent before",
            "App.select": "queue unique_key limit_key tag text id_prefix version parent",
            "Workflow.earlier": "version",
            "Declared.earlier": "version",
            "Run.pin": "version",
            "Run.restart": "pin",
            "Run.fork": "pin",
            "Selection.pin": "version",
            "sleep": "name",
            "sleep_until": "name",
        },
        NO_NAMES,
        InvalidValue,
    ),
    *each(
        {
            "App.publish": "key id",
            "Run.send_event": "key id",
            "App.events": "key run before",
            "App.unlisten": "name",
            "wait_for_event": "key name",
            "event": "name",
        },
        NO_NAMES[:8],
        InvalidValue,
    ),
    *[
        Row(entry, parameter, value, UsageError, "an event's type is its class")
        for entry, parameter in (
            ("App.publish", "type"),
            ("App.publish", "event"),
            ("Run.send_event", "type"),
            ("Run.send_event", "event"),
            ("App.events", "type"),
            ("App.unlisten", "type"),
            ("wait_for_event", "event"),
        )
        for value in ((42, {"n": 1}) if parameter == "event" else (42, dict, object, ["t"]))
    ],
    *[
        Row(entry, "type", "", InvalidValue, "an event's type must not be empty")
        for entry in ("App.publish", "Run.send_event", "App.events", "App.unlisten")
    ],
    Row("App.publish", "event", Fresh(forgotten), UsageError, "did you forget `await`?"),
    # limits of queues
    *[
        Row(entry, parameter, value, UsageError, f"{parameter} must be a whole number from 1 to")
        for entry, parameter in (
            ("App.queue", "concurrency"),
            ("App.queue", "concurrency_per_key"),
            ("Queue.set_limits", "concurrency"),
            ("Queue.set_limits", "concurrency_per_key"),
            ("Rate", "limit"),
            ("Rate", "burst"),
        )
        for value in (0, -1, 1_000_001, True, 1.0, "5")
    ],
    *[
        Row(entry, parameter, value, UsageError, f"{parameter} must be a Rate such as")
        for entry in ("App.queue", "Queue.set_limits")
        for parameter in ("rate", "rate_per_key")
        for value in (5, "5/1m", (5, "1m"), True)
    ],
    *each({"Rate": "per"}, NO_DURATIONS, InvalidDuration),
    # retention
    *each(
        {
            **dict.fromkeys((*BODIES, *OPTIONS), "retention"),
            "App.configure": "event_retention",
            "App.prune": "older_than",
            "Retention": "completed failed cancelled declined",
        },
        [row for row in NO_DURATIONS if row[0] is not None],
        InvalidDuration,
    ),
    *[
        Row("Retention", "keep", value, UsageError, "keep must be a whole number from 1 to")
        for value in (0, -1, 1_000_000_001, True, 1.0, "5")
    ],
    *[
        Row("App.prune", "dry_run", value, UsageError, "dry_run is true or false, got")
        for value in (1, None, "yes")
    ],
    Row("App.prune", "status", "faild", UsageError, "did you mean 'failed'?"),
    Row("App.prune", "status", ["failed", "running"], UsageError, "only ended runs are pruned"),
    Row("App.prune", "name", "order_", UnknownDefinition, "did you mean 'order'?"),
    *each({"App.prune": "name"}, NO_NAMES[:8], InvalidValue),
    Row("Rate", "per", "0s", UsageError, "per must be longer than nothing"),
    *each({"App.schedule": "key"}, NO_NAMES[:8], InvalidValue),
    *each(dict.fromkeys(OPTIONS, "schedule_key"), NO_NAMES[:8], InvalidValue),
    *[
        Row(entry, "when", value, error, says)
        for entry in ("Workflow.schedule", "Declared.schedule")
        for value, error, says in (
            ("61 * * * *", InvalidSchedule, "is no cron expression: Bad minute"),
            ("0 0 31 2 *", InvalidSchedule, "is no cron expression"),
            ("@often", InvalidSchedule, "there are @yearly"),
            ("0s", InvalidSchedule, "shorter than a second"),
            (5, InvalidSchedule, "needs a unit"),
            (None, InvalidSchedule, "either cron=… or every=…"),
        )
    ],
    *[
        Row(entry, "missed", value, UsageError, "missed is 'skip', 'once' or 'all'")
        for entry in (*OPTIONS, *BODIES)
        for value in ("never", None, 1)
    ],
    *[
        Row(entry, parameter, value, error, says)
        for entry in BODIES
        for parameter, value, error, says in (
            ("cron", "* *", InvalidSchedule, "is no cron expression"),
            ("cron", 5, InvalidSchedule, "a cron expression is a text"),
            ("every", "0s", InvalidSchedule, "shorter than a second"),
            ("every", 5, InvalidSchedule, "needs a unit"),
            ("timezone", "UTC", DefinitionError, "belong to a schedule"),
            ("schedule_key", "x", DefinitionError, "belong to a schedule"),
        )
    ],
    *[
        Row(entry, parameter, value, InvalidValue, says, path)
        for entry in ("Workflow.schedule", "Declared.schedule")
        for parameter, value, says, path in (
            ("args", (), "is missing 'value'", "$.value"),
            ("args", Fresh(forgotten), "did you forget `await`?", "$.value"),
            ("kwargs", {"valu": 1}, "did you mean 'value'?", "$.valu"),
        )
    ],
    *[
        Row("Scheduler", "app", value, UsageError, "Scheduler takes an App, got")
        for value in (None, "shop", 42)
    ],
    *[
        Row("Worker", "scheduler", value, UsageError, "scheduler is true or false, got")
        for value in (1, None, "no")
    ],
    Row("App.events", "limit", 0, UsageError, "from 1 to 1000, got 0"),
    Row("App.events", "before", "nothing", UsageError, "there is no event 'nothing'"),
    Row("Run.send_event", NO_PARAMETER, "nobody", RunNotFound, "there is no run 'nobody'"),
    Row("Run.send_event", NO_PARAMETER, "cancelled", InvalidTransition, "it is cancelled"),
    Row("wait_for_event", NO_PARAMETER, "happened", NotInRun, "on behalf of a run"),
    Row("wait_for_event", "timeout", 10, InvalidDuration, "timeout: "),
    *[
        Row(entry, parameter, value, DefinitionError, says)
        for entry in BODIES
        for parameter, value, says in (
            ("on", 42, "on=: an event's type is its class"),
            ("on", [], "on=[] listens to nothing"),
            ("on", ["a", "a"], "names a type of events twice: a, a"),
            ("where", 42, "is a plain function of an event"),
            ("where", len, "chooses among events; say which: on="),
            ("on_cancel", 42, "is made of a function, got 42"),
            ("on_cancel", Fresh(forgotten), "the coroutine of a call"),
        )
    ],
    *[
        Row("App.runs", "name", value, InvalidValue, says)
        for value, says in NO_NAMES
        if not isinstance(value, list)
    ],
    *[Row("App.runs", "name", [value], InvalidValue, says) for value, says in NO_NAMES],
    *[
        Row(entry, parameter, value, InvalidValue, says)
        for entry, parameter in (
            ("App.runs", "created_after"),
            ("App.runs", "created_before"),
            ("App.select", "created_after"),
            ("App.select", "created_before"),
            ("sleep_until", "instant"),
        )
        for value, says in NO_INSTANTS
        if value is not None or entry == "sleep_until"
    ],
    *[
        Row("App.counts", parameter, value, UsageError, f"{parameter} is true or false, got")
        for parameter in ("by_definition", "by_queue")
        for value in (1, None, "yes")
    ],
    *[
        Row(entry, "at_most_once", value, DefinitionError, "is true or false, got")
        for entry in ("App.step", "step", "step.options")
        for value in (1, None, "yes")
    ],
    *each(
        {
            "App.changes": "name run",
            "App.subscribe": "subscriber name",
            "App.unsubscribe": "subscriber",
        },
        NO_NAMES[:8],
        InvalidValue,
    ),
    *[
        Row(entry, parameter, value, error, says)
        for entry in ("App.changes", "App.subscribe")
        for parameter, value, error, says in (
            ("after", 42, UsageError, "takes a change or its position, got 42"),
            ("after", "yesterday", InvalidValue, "is no position of a change"),
            ("after", "", InvalidValue, "is no position of a change"),
            ("after", f"0-{2**63}", InvalidValue, "is no position of a change"),
            ("after", "abc-1-2-3", CursorExpired, "is gone"),
            ("kind", "complete", UsageError, "did you mean 'completed'?"),
            ("kind", 7, UsageError, "there is no kind 7; there are created"),
            ("kind", ["failed", "zzz"], UsageError, "there is no kind 'zzz'"),
            ("name", "order_", UnknownDefinition, "did you mean 'order'?"),
        )
    ],
    *[
        Row("App.changes", "follow", value, UsageError, "follow is true or false, got")
        for value in (1, None, "yes")
    ],
    Row("App.runs", "before", "nobody", RunNotFound, "there is no run 'nobody' here"),
    *each({"step": "name", "patched": "name"}, NO_NAMES[:8], InvalidValue),
    *[
        Row(entry, parameter, [value], InvalidValue, says)
        for entry, parameter in (
            *((entry, "tags") for entry in (*BODIES, *OPTIONS)),
            ("Worker", "queues"),
            ("Worker", "only"),
        )
        for value, says in NO_NAMES
    ],
    *[
        Row(entry, parameter, value, DefinitionError, 'may not contain "/" nor begin with "~"')
        for entry, parameter in (
            ("App.step", "name"),
            ("App.step", "was"),
            ("step", "name"),
            ("step", "was"),
            ("step.sync", "name"),
            ("patched", "name"),
        )
        for value in ("a/b", "~0", "../../x")
    ],
    *[Row("step", "name", value, UsageError, "write @step") for value in (7, b"x", None.__class__)],
    # lengths of time
    *each(
        {
            **dict.fromkeys((*DECLARED, *OPTIONS), "timeout"),
            **dict.fromkeys((*BODIES, *OPTIONS), "unique_for"),
            "Debounce": "delay max_wait",
            "Declared.delay": "delay",
            "step.options": "timeout",
            "Workflow.delay": "delay",
            "Run.result": "timeout",
            "Worker": "lease heartbeat poll grace",
            "Worker.stop": "grace",
            "sleep": "duration",
        },
        NO_DURATIONS,
        InvalidDuration,
    ),
    *each(
        {
            "Backoff": "initial cap",
            "constant": "delay",
            "linear": "initial cap",
            "exponential": "initial cap",
        },
        NO_DURATIONS,
        DefinitionError,
    ),
    Row("Worker", "lease", "14s", UsageError, "at least three times heartbeat"),
    Row("Worker", "heartbeat", "0s", UsageError, "at least three times heartbeat"),
    Row("Worker", "poll", "0s", UsageError, "longer than nothing"),
    *[Row(entry, "timeout", 10, InvalidDuration, "timeout of 'flow': ") for entry in BODIES],
    Row("Workflow.options", "timeout", 10, InvalidDuration, "timeout of 'anything': "),
    Row("Declared.options", "timeout", 10, InvalidDuration, "timeout of 'declared': "),
    Row("App.step", "timeout", 10, InvalidDuration, "timeout of step 'work': "),
    Row("Worker", "grace", 10, InvalidDuration, "grace: "),
    Row("Run.result", "timeout", 10, InvalidDuration, "timeout: "),
    # attempts, back-off, which errors
    *each(dict.fromkeys((*DECLARED, "step.options"), "max_attempts"), NO_ATTEMPTS, DefinitionError),
    *each(dict.fromkeys(OPTIONS, "max_attempts"), NO_ATTEMPTS, DefinitionError),
    *[
        Row(entry, "backoff", value, UsageError, f"it must be constant(…), {kinds}, got {says}")
        for entry in OPTIONS
        for kinds in ["linear(…) or exponential(…)"]
        for value, says in (
            ("1s", "'1s'"),
            (10, "10"),
            (ValueError, "<class 'ValueError'>"),
            (named, "<function named"),
            *UNSHOWN,
        )
    ],
    *each({"RetryPolicy": "max_attempts"}, NO_ATTEMPTS, DefinitionError),
    *each(
        dict.fromkeys((*DECLARED, "step.options", "RetryPolicy"), "backoff"),
        NO_BACKOFFS,
        DefinitionError,
    ),
    *each(
        dict.fromkeys((*DECLARED, "step.options", "RetryPolicy"), "retry_on"),
        NO_RETRY_ONS,
        DefinitionError,
    ),
    *[
        Row("Backoff", "kind", value, DefinitionError, f"must be one of {KINDS}, got {value!r}")
        for KINDS in ["('constant', 'linear', 'exponential')"]
        for value in ("", "Linear", None, 3)
    ],
    *[
        Row(entry, "factor", value, DefinitionError, f"from 1 to 1000000, got {value!r}")
        for entry in ("Backoff", "exponential")
        for value in (0.5, math.nan, math.inf, 10**7, "2", True, None)
    ],
    *[
        Row(entry, "jitter", value, DefinitionError, f"from 0 to 1, got {value!r}")
        for entry in ("Backoff", "constant", "linear", "exponential")
        for value in (-0.1, 1.1, math.nan, "0.1", False, None)
    ],
    # what cannot be printed
    *each(
        dict.fromkeys((*DECLARED, "step.options"), "max_attempts backoff retry_on")
        | {
            "Backoff": "kind factor jitter",
            "RetryPolicy": "max_attempts backoff retry_on",
            "constant": "jitter",
            "linear": "jitter",
            "exponential": "factor jitter",
            "App.step": "function max_attempts backoff retry_on",
        },
        UNSHOWN,
        DefinitionError,
    ),
    *each(dict.fromkeys(BODIES, "function"), UNSHOWN, DefinitionError),
    *each(
        {
            **dict.fromkeys(BODIES, "priority description tags"),
            **dict.fromkeys(OPTIONS, "priority tags meta"),
            "App": "ports store services_scope",
            "App.configure": "workflow job payload_limit",
            "App.include": "given",
            "App.runs": "status reason limit",
            "App.select": "status reason",
            "Declared.on": "app",
            "Worker": "app crash_cap concurrency",
            "step.sync": "function",
        },
        UNSHOWN[:1],
        UsageError,
    ),
    *each(
        {
            **dict.fromkeys(OPTIONS, "meta priority"),
            "App.runs": "limit",
            "Worker": "queues only",
        },
        UNSHOWN[1:2],
        UsageError,
    ),
    # priorities, descriptions, tags
    *[
        Row(entry, "priority", value, UsageError, f"whole number of 32 bits, got {value!r}")
        for entry in (*BODIES, *OPTIONS)
        for value in (2**31, -(2**31) - 1, "1", 1.0, True)
    ],
    *[
        Row(entry, "description", value, UsageError, f"must be a text, got {value!r}")
        for entry in BODIES
        for value in (7, b"x", ["x"])
    ],
    *[
        Row(entry, "tags", value, UsageError, "tags are a tuple of texts")
        for entry in (*BODIES, *OPTIONS)
        for value in ("nightly", {"nightly"}, None, 7)
    ],
    # functions
    *each(dict.fromkeys(BODIES, "function"), NO_FUNCTIONS, DefinitionError),
    *each({"App.step": "function"}, NO_FUNCTIONS, DefinitionError),
    *each({"step": "function"}, NO_FUNCTIONS[2:], DefinitionError),
    Row(
        "App.workflow",
        "function",
        int,
        DefinitionError,
        "made of a plain function, got <class 'int'>",
    ),
    Row("App.workflow", "function", max, DefinitionError, "has no signature to read"),
    Row("App.step", "function", Fresh(declared_alone), DefinitionError, "made of a plain function"),
    Row("App.job", "function", Fresh(declared_alone), DefinitionError, "made of a plain function"),
    Row("step", "args", (42,), UsageError, "step('inline', …) takes a function, got 42"),
    Row(
        "step", "args", (Fresh(forgotten),), UsageError, "pass the function and its arguments apart"
    ),
    Row("step", "args", (generate,), DefinitionError, "generator function generate"),
    Row("step", "args", (), UsageError, "step('inline') needs the function to call as well"),
    Row("step", "kwargs", {"retries": 3}, UsageError, "write @step"),
    Row("step.sync", "function", 42, UsageError, "step('inline', …) takes a function, got 42"),
    Row("step.sync", "function", Fresh(forgotten), UsageError, "was given a coroutine"),
    Row("step.sync", "function", generate, DefinitionError, "generator function generate"),
    Row("carry", "function", 42, UsageError, "carry takes the function that a thread runs"),
    Row(
        "carry",
        "function",
        Fresh(forgotten),
        UsageError,
        "got <coroutine>; pass the function itself",
    ),
    # options that do not exist
    *[
        Row(entry, option, 3, DefinitionError, says)
        for entry in DECLARED
        for option, says in (
            ("retries", "did you mean 'max_attempts'?"),
            ("max_attempt", "did you mean 'max_attempts'?"),
            ("time_out", "did you mean 'timeout'?"),
            ("zzz", "there is no option 'zzz'; there are "),
        )
    ],
    # apps
    *[
        Row("App", "store", value, UsageError, "is a URL such as")
        for value in (42, b"sqlite:///x.db", object(), ["memory://"], Fresh(forgotten))
    ],
    *[
        Row("App", "store", url, UsageError, says)
        for url, says in (
            ("", "no store answers to ''"),
            ("memory", "no store answers to 'memory'"),
            ("shop.db", "no store answers to 'shop.db'"),
            ("mysql://shop", "this version knows memory://, sqlite://"),
            ("sqlite:///", "names no file"),
            ("sqlite://shop.db", "names no file"),
            ("sqlite:///:memory:", "needs a file"),
            ("sqlite:///a%00b.db", "a path holds no NUL"),
            ("sqlite:///\ud800.db", "a path holds no NUL and no lone surrogate"),
            ("sqlite:///a.db?synchronous=off", 'must be "full" or "normal"'),
            ("sqlite:///a.db?sync=full", "takes ?namespace=… and ?synchronous=…, got sync"),
            ("memory://?x=1", "takes nothing but ?namespace=…, got 'x'"),
            ("memory://[", "is no URL of a store"),
        )
    ],
    *[
        Row("App", "store", f"{scheme}?namespace={value}", InvalidValue, f"namespace {says}")
        for scheme in ("memory://", "sqlite:///a.db")
        for value, says in (("", "must not be empty"), ("a%00b", "must not contain control"))
    ],
    Row("App", "ports", 42, UsageError, "ports are given as Ports(…), got 42"),
    *[
        Row("App", "services_scope", value, UsageError, f'is "run" or "process", got {value!r}')
        for value in ("", "Run", "forever", 7, ["run"], True)
    ],
    *[
        Row("App", "services_scope", value, UsageError, "these services are no factory")
        for value in ("run", "process")
    ],
    *[
        Row("App", "meta", value, DefinitionError, f"a TypedDict, {others}, got {says}")
        for others in ["a dataclass, a pydantic model or a msgspec struct"]
        for value, says in (
            (None, "None"),
            (42, "42"),
            ("RequestMeta", "'RequestMeta'"),
            (int, "<class 'int'>"),
            ({"tenant": str}, "{'tenant': <class 'str'>}"),
            (Order("o", []), "Order(id='o'"),
            (Fresh(forgotten), "<coroutine object"),
            *UNSHOWN,
        )
    ],
    *[
        Row("App.configure", kind, value, UsageError, f'such as {kind}={{"max_attempts": 3}}, got')
        for kind in ("workflow", "job")
        for value in (42, "queue", ["queue"], [], named, {1: 2}, Fresh(forgotten))
    ],
    *[
        Row("App.configure", kind, {option: value}, error, says)
        for kind in ("workflow", "job")
        for option, value, error, says in (
            ("retries", 3, DefinitionError, "did you mean 'max_attempts'?"),
            ("name", "x", DefinitionError, "there is no option 'name'"),
            ("tags", ("x",), DefinitionError, "there is no option 'tags'"),
            ("max_attempts", 0, DefinitionError, "got 0"),
            ("backoff", "1s", DefinitionError, "backoff must be a Backoff"),
            ("retry_on", int, DefinitionError, "retry_on must be"),
            ("timeout", 10, InvalidDuration, f"timeout of 'every {kind}': "),
            ("queue", "", InvalidValue, "must not be empty"),
            ("priority", "1", UsageError, "whole number of 32 bits, got '1'"),
        )
    ],
    *[
        Row("App.configure", "payload_limit", value, UsageError, f"number of bytes, got {value!r}")
        for value in (0, -1, "1", 1.5, True, [1])
    ],
    Row("App.configure", "job", {"max_attempts": 3}, AppNotReady, "its defaults are settled"),
    *[
        Row("App.include", "given", value, UsageError, f"include(…) takes modules and {says}")
        for value, says in (
            (42, "what @workflow, @job and @step of perdure made, got 42"),
            ("perdure", "what @workflow, @job and @step of perdure made, got 'perdure'"),
            (b"perdure", "what @workflow, @job and @step of perdure made, got b'perdure'"),
            (None, "what @workflow, @job and @step of perdure made, got None"),
            (named, "what @workflow, @job and @step of perdure made, got <function"),
            ([42], "what @workflow, @job and @step of perdure made, got 42"),
            (Fresh(forgotten), "what @workflow, @job and @step of perdure made, got <coroutine"),
        )
    ],
    Row("App.include", "given", Fresh(declared_order), DuplicateName, "are named 'order'"),
    Row("App.include", "given", Fresh(declared_asking), DefinitionError, "asks for services"),
    Row("App.include", "given", Fresh(both_declared), DuplicateName, "are named 'order'"),
    *[
        Row(
            "Declared.on", "app", value, UsageError, "declared.on(app) says which app is meant, got"
        )
        for value in (None, 42, "app", named, RunConflict, Fresh(forgotten))
    ],
    Row("Declared.on", "app", Fresh(App), AppNotReady, "write app.include(…) before"),
    Row("App.connect", NO_PARAMETER, "no store", AppNotReady, "this app has no store"),
    *[
        Row("App.runs", "limit", value, UsageError, "a whole number from 1 to 1000, got")
        for value in (0, 1001, -1, "10", 1.5, True, None)
    ],
    Row("App.runs", "status", "faild", UsageError, "did you mean 'failed'?"),
    Row("App.runs", "status", "zzz", UsageError, "there are queued, running"),
    Row("App.runs", "status", 7, UsageError, "there is no status 7"),
    Row("App.runs", "status", ["faild"], UsageError, "did you mean 'failed'?"),
    Row("App.runs", "reason", "crashed", UsageError, "did you mean 'crash'?"),
    Row("App.runs", "reason", 7, UsageError, "there is no reason 7; there are error"),
    Row("App.runs", "name", "order_", UnknownDefinition, "did you mean 'order'?"),
    Row("App.runs", "name", "zzz", UnknownDefinition, "no workflow or job named 'zzz'"),
    *[
        Row("App.override", parameter, value, UsageError, says)
        for parameter, value, says in (
            ("store", "nosuch://x", "no store answers to"),
            ("store", 42, "an app's store is a URL"),
            ("ports", 42, "ports are given as Ports(…)"),
        )
    ],
    # workers
    *[
        Row("Worker", "app", value, UsageError, "Worker takes an App, got")
        for value in (None, "app", 42, named)
    ],
    *each({"Worker": "concurrency crash_cap"}, NO_COUNTS, UsageError),
    *[
        Row("Worker", parameter, value, UsageError, says)
        for parameter in ("queues", "only")
        for value, says in (
            ("default", f"{parameter} is a list of names: write [\"default\"], got 'default'"),
            (b"default", f"{parameter} is a list of names"),
            (42, f"{parameter} is a list of names"),
            ([], f"{parameter} is an empty list"),
        )
    ],
    Row("Worker.start", NO_PARAMETER, ["ordr"], UnknownDefinition, "did you mean 'order'?"),
    Row("Worker.start", NO_PARAMETER, ["zzz"], UnknownDefinition, "no workflow or job named 'zzz'"),
    Row("Worker.start", NO_PARAMETER, "twice", UsageError, "this worker runs already"),
    Row("Worker.run_once", NO_PARAMETER, ["ordr"], UnknownDefinition, "did you mean 'order'?"),
    # calls of a definition
    *[
        Row(f"{made}.{verb}", parameter, value, InvalidValue, says, f"$.value{path}")
        for made in ("Workflow", "Declared")
        for verb in ("enqueue", "run", "delay")
        for parameter in ("args", "kwargs")
        for value, path, says in NO_PAYLOADS
    ],
    *[
        Row(f"Workflow.{verb}", "args kwargs", (args, kwargs), InvalidValue, says, path)
        for verb in ("enqueue", "run", "delay", "enqueue_many")
        for args, kwargs, path, says in NO_ORDERS
    ],
    *[
        Row(f"Workflow.{verb}", "args", AT_THE_LIMIT + "x", PayloadTooLarge, TOO_LARGE)
        for verb in ("enqueue", "delay")
    ],
    Row(
        "Workflow.enqueue_many", "calls", [((AT_THE_LIMIT + "x",), {})], PayloadTooLarge, TOO_LARGE
    ),
    Row(
        "Workflow.options",
        "meta",
        {"a": AT_THE_LIMIT + "12345"},
        PayloadTooLarge,
        "meta is 1,048,577",
    ),
    *[
        Row(
            f"Workflow.{verb}",
            "args",
            Typed(annotation, value),
            InvalidValue,
            says,
            f"$.value{path}",
        )
        for verb in ("enqueue", "run", "delay")
        for annotation, value, path, says in NO_TYPED
    ],
    *[
        Row(f"Workflow.{verb}", "args", Typed("Nowhere", 1), Unresolved, "'Nowhere' is not defined")
        for verb in ("enqueue", "run", "delay")
    ],
    *[
        Row(f"{made}.enqueue_many", "calls", value, UsageError, "takes an iterable of calls")
        for made in ("Workflow", "Declared")
        for value in (42, None, "calls", b"calls", named)
    ],
    *[
        Row("Workflow.enqueue_many", "calls", [value], InvalidValue, "is a pair", "$[0]")
        for value in (1, (), ((1,),), (1, {}), ((1,), 2), "ab", None, {"value": 1})
    ],
    *[
        Row(entry, "meta", value, UsageError, "meta is a mapping of names to values")
        for entry in OPTIONS
        for value in (7, "meta", [("a", 1)], Fresh(forgotten))
    ],
    *[
        Row("Workflow.options", "meta", {"key": value}, InvalidValue, says, f"$.key{path}")
        for value, path, says in NO_PAYLOADS
        if not isinstance(value, Fresh)
    ],
    Row("Workflow.options", "meta", {1: 2}, InvalidValue, "meta got <int>", "$<key>"),
    *[
        Row(entry, "id", "taken", RunConflict, "id 'taken' belongs to a run of another")
        for entry in OPTIONS
    ],
    Row("Workflow.options", "unique_key", "taken", RunConflict, "unique_key 'taken' belongs to"),
    *[
        Row(entry, parameter, value, UsageError, says)
        for entry in OPTIONS
        for parameter, value, says in (
            ("on_conflict", "ignore", "on_conflict is 'raise', 'skip' or 'replace', got 'ignore'"),
            ("on_conflict", 7, "on_conflict is 'raise', 'skip' or 'replace', got 7"),
            ("on_conflict", "raise", "on_conflict= says what a unique_key means"),
            ("on_conflict", "skip", "on_conflict= says what a unique_key means"),
            ("on_conflict", "replace", "on_conflict= says what a unique_key means"),
            ("unique_for", "1m", "unique_for= says what a unique_key means"),
            ("unique_for", "0s", "unique_for must be longer than nothing, got '0s'"),
            ("debounce", "10s", "debounce is a Debounce such as"),
            ("debounce", named, "debounce is a Debounce such as"),
            ("debounce", Debounce("1s"), "debounce= says what a unique_key means"),
            ("on_parent_close", "stop", "on_parent_close is 'abandon', 'cancel' or 'wait', got"),
            ("on_parent_close", 7, "on_parent_close is 'abandon', 'cancel' or 'wait', got 7"),
            ("on_parent_close", "wait", "there is no such body here"),
            ("on_parent_close", "abandon", "there is no such body here"),
        )
    ],
    *[
        Row(entry, parameter, value, UsageError, says)
        for entry in BODIES
        for parameter, value, says in (
            ("on_conflict", "ignore", "on_conflict is 'raise', 'skip' or 'replace', got 'ignore'"),
            ("unique_for", "0s", "unique_for must be longer than nothing, got '0s'"),
            ("debounce", "10s", "debounce is a Debounce such as"),
            ("on_parent_close", "stop", "on_parent_close is 'abandon', 'cancel' or 'wait', got"),
        )
    ],
    *[
        Row(entry, parameter, value, DefinitionError, f"{parameter}= of 'flow' {says}")
        for entry in BODIES
        for parameter in ("unique_key", "limit_key")
        for value, says in (
            ("nobody", "names an argument of its body, which has none called 'nobody'"),
            (7, "is the name of an argument, or a plain function"),
            (str, "is the name of an argument, or a plain function"),
            (Fresh(generate), "is the name of an argument, or a plain function"),
        )
    ],
    *[
        Row(f"{of}.continue_as_new", "args", 1, NotInRun, "it was called outside of one")
        for of in ("Workflow", "Declared")
    ],
    *[
        Row(f"{of}.continue_as_new", "kwargs", object(), InvalidValue, "", "$.value")
        for of in ("Workflow", "Declared")
    ],
    Row("Run.progress", NO_PARAMETER, "nobody", RunNotFound, "there is no run 'nobody' here"),
    Row("progress", "value", object(), InvalidValue, ""),
    Row("progress", "value", "x" * 1_023, PayloadTooLarge, "1,025 bytes encoded, the limit is"),
    Row("Run.stream", "stream", "nobody", RunNotFound, "there is no run 'nobody' here"),
    Row("Run.stream", "stream", 7, UsageError, "or its name; got 7"),
    Row("Run.stream", "stream", "", InvalidValue, "must not be empty"),
    Row("Run.stream", "after", 7, UsageError, "takes an item or its cursor, got 7"),
    Row("Run.stream", "after", "x", InvalidValue, "is no cursor of a stream"),
    Row("Run.stream", "after", f"1-{2**63}", InvalidValue, "is no cursor of a stream"),
    Row("Run.stream", "after", "999999-1", CursorExpired, "is of another run"),
    Row("Run.stream", "follow", "no", UsageError, "follow is true or false, got 'no'"),
    Row("Stream.write", "value", "no number", InvalidValue, "the item written to stream 's'"),
    Row("stream", "type", named, DefinitionError, ""),
    *each({"stream": "name"}, NO_NAMES[:8], InvalidValue),
    Row("Debounce", "delay", "0s", UsageError, "delay must be longer than nothing, got '0s'"),
    Row("Debounce", "max_wait", "1ms", UsageError, "max_wait must be no shorter than delay"),
    Row("Workflow()", "_", (1,), UsageError, "anything(…) could mean two things"),
    Row("Declared()", "_", (1,), UsageError, "declared(…) could mean two things"),
    Row("Declared()", "__", {"value": 1}, UsageError, "await declared.enqueue(…)"),
    Row("Workflow()", "__", {"value": 1}, UsageError, "await anything.enqueue(…)"),
    # runs
    *[
        Row(f"Run.{verb}", parameter, "nobody", RunNotFound, "there is no run 'nobody' here")
        for verb, parameter in (
            ("status", NO_PARAMETER),
            ("history", NO_PARAMETER),
            ("why", NO_PARAMETER),
            ("retry", NO_PARAMETER),
            ("result", "timeout"),
            ("cancel", "wait"),
            ("pause", "wait"),
            ("resume", NO_PARAMETER),
            ("restart", "from_step"),
            ("fork", "from_step"),
            ("cancel", "compensate"),
            ("pin", "version"),
        )
    ],
    *[
        Row(f"Run.{verb}", parameter, value, UsageError, says)
        for verb in ("restart", "fork")
        for parameter, value, says in (
            ("from_step", 7, "takes a step or its path as the history shows it, got 7"),
            ("from_step", "nothing", "no step 'nothing' is recorded in run"),
            ("occurrence", 0, "counts the calls of a step from 1, got 0"),
            ("occurrence", True, "counts the calls of a step from 1, got True"),
            ("occurrence", 2, "says which call of from_step="),
        )
    ],
    Row("Run.cancel", "compensate", "yes", UsageError, "compensate is true or false, got 'yes'"),
    Row("Selection.cancel", "compensate", "anythin", UnknownDefinition, "anything"),
    *[
        Row("block_on", "call", value, UsageError, "block_on takes a durable call, such as")
        for value in (None, 7, "enqueue", named)
    ],
    Row("compensate", "function", 7, UsageError, "compensate takes a step or a function"),
    Row("compensate", "function", None, UsageError, "compensate takes a step or a function"),
    Row("compensate", "name", "a/b", DefinitionError, 'may not contain "/"'),
    Row("compensate", "args", 1, NotInRun, "compensate() undoes what a body did"),
    Row("compensate", "kwargs", 1, NotInRun, "compensate() undoes what a body did"),
    Row("Run.fork", "input", [("value", 1)], UsageError, "input= takes a mapping"),
    Row("Run.fork", "input", {"valeu": 1}, InvalidValue, "has no parameter 'valeu'", "$.valeu"),
    Row("Run.fork", "results", ["a"], UsageError, "results= takes a mapping"),
    Row("Run.fork", "results", {7: 1}, UsageError, "takes a step or its path"),
    Row("Run.fork", "results", {"nothing": 1}, UsageError, "no step 'nothing' is recorded"),
    Row("Run.fork", "id", "", InvalidValue, "run id"),
    Row("Run.fork", "id", 7, InvalidValue, "run id"),
    Row("Run.fork", "id", "taken", RunConflict, "id 'taken' belongs to another run"),
    *[
        Row(f"Selection.{verb}", NO_PARAMETER, "anythin", UnknownDefinition, "anything")
        for verb in ("count", "cancel", "pause", "resume", "retry", "restart")
    ],
    *[
        Row(entry, "pinned", value, UsageError, "pinned is true or false, got")
        for entry in BODIES
        for value in (1, None, "yes")
    ],
    *[Row(entry, "pinned", True, DefinitionError, "needs version=…") for entry in BODIES],
    Row("App.select", "statsu", "failed", UsageError, "did you mean status=?"),
    Row("App.select", "status", "broken", UsageError, "there is no status 'broken'"),
    Row("App.select", "limit", 5, UsageError, "has no filter 'limit'"),
    Row("App.select", "name", "", InvalidValue, "name"),
    Row("Run.resume", NO_PARAMETER, "waiting", InvalidTransition, "cannot resume run"),
    Row("Run.pause", "wait", "cancelled", InvalidTransition, "it is cancelled"),
    *[
        Row(entry, "kind", value, UsageError, "on(…) takes")
        for entry in ("App.on", "Workflow.on")
        for value in (None, 42, "RunFailed", RunConflict, named)
    ],
    Row("Run.retry", NO_PARAMETER, "waiting", InvalidTransition, "cannot retry run"),
    Row("Run.cancel", "wait", "cancelled", InvalidTransition, "it is cancelled"),
    *[
        Row("gather", "runs", (value,), UsageError, says)
        for value, says in (
            (42, "gather joins runs (what enqueue returns), got <int>"),
            ("id", "got <str>"),
            ([], "got <list>; write gather(*runs)"),
            (Fresh(forgotten), "got a coroutine; write `gather(await job.enqueue(…), …)`"),
        )
    ],
    # verbs that mean something inside a run only
    *[
        Row(verb, NO_PARAMETER, None, NotInRun, f"{verb}() derives its value from a run")
        for verb in ("now", "uuid", "random")
    ],
]
"""What is refused outside of a body."""


INSIDE: list[Row] = [
    # arguments of a step: what is used up by its first attempt
    *[
        Row(entry, parameter, value, InvalidValue, says, path)
        for entry, parameter, path in (
            ("Step()", "args", "$.value"),
            ("Step()", "kwargs", "$.value"),
            ("step", "args", "$[0]"),
            ("step", "kwargs", "$.value"),
        )
        for value, says in (
            (Fresh(forgotten), "did you forget `await`?"),
            (Fresh(generate), "is used up by reading it once"),
            (Fresh(lambda: [forgotten()]), "did you forget `await`?"),
        )
    ],
    Row("Step()", "args", (), InvalidValue, "is missing 'value'", "$.value"),
    Row("Step()", "kwargs", {"valu": 1}, InvalidValue, "did you mean 'value'?", "$.valu"),
    # results: of a step, of a body, of a body run inside another
    *[
        Row(entry, "result", value, InvalidValue, says, f"${path}")
        for entry in ("Step()", "step", "Workflow", "Workflow.run")
        for value, path, says in NO_PAYLOADS
    ],
    *[
        Row(entry, "result", "x" * PAYLOAD_LIMIT, PayloadTooLarge, f"{what} is 1,048,578 bytes")
        for entry, what in (
            ("Step()", "the result of step 'returns'"),
            ("step", "the result of step 'inline'"),
            ("Workflow", "the result of 'body'"),
            ("Workflow.run", "the result of 'inner'"),
        )
    ],
    # what is started in a body
    *[
        Row("Workflow.enqueue", "args", value, InvalidValue, says, f"$.value{path}")
        for value, path, says in NO_PAYLOADS[:8]
    ],
    Row("Workflow.enqueue_many", "calls", 42, UsageError, "takes an iterable of calls"),
    Row("Run.result", "timeout", "1s", UsageError, "is for callers outside"),
    Row("Run.result", "run", "nobody", RunNotFound, "there is no run 'nobody' here"),
    Row("gather", "runs", (42,), UsageError, "gather joins runs"),
    Row("step.sync", "name", "inline", NotInRun, "on the event loop's thread"),
    Row("current_step", NO_PARAMETER, None, NotInRun, "is for the code of a step"),
]
"""What is refused inside a body."""


EXEMPT: dict[tuple[str, str], str] = {
    ("App", "services"): "any object is services",
    ("App.override", "services"): "any object is services",
    ("App.workers", NO_PARAMETER): "it takes nothing, and there may be none",
    ("App.close", NO_PARAMETER): "closing one that is not open is harmless",
    ("App.position", NO_PARAMETER): "it takes nothing, and there may be no change",
    ("App.subscribers", NO_PARAMETER): "it takes nothing, and there may be none",
    ("Stream", "*"): "made by stream()",
    ("Stream.close", NO_PARAMETER): "it takes nothing, and outside of a run it does nothing",
    ("Stream.item", "*"): "for the layers beside; what it is given was stored",
    ("StreamItem", "*"): "a record that Run.stream makes",
    ("Change", "*"): "a record that App.changes makes",
    ("App.versions", NO_PARAMETER): "it takes nothing, and there may be none",
    ("App.queues", NO_PARAMETER): "it takes nothing, and there may be none",
    ("Selection", "*"): "made by App.select",
    ("step.spec_of", "*"): "for the layers beside; what it is given was checked",
    ("BulkResult", "*"): "a record that the verbs of a selection make",
    ("Queue", "*"): "made by App.queue",
    ("Queue.get", NO_PARAMETER): "it takes nothing, and there may be none",
    ("Queue.pause", NO_PARAMETER): "it takes nothing, and any queue may be paused",
    ("Queue.resume", NO_PARAMETER): "it takes nothing, and any queue may be resumed",
    ("App.schedules", NO_PARAMETER): "it takes nothing, and there may be none",
    **{
        (entry, "timezone"): "checked when it is used; tests/engine/test_schedules.py"
        for entry in OPTIONS
    },
    ("App.listeners", NO_PARAMETER): "it takes nothing, and there may be none",
    ("Event", "*"): "made by App.publish",
    ("Event.runs", NO_PARAMETER): "it takes nothing, and there may be none",
    ("EventTimeout", "*"): "an exception takes anything",
    ("CurrentStep", "*"): "a record that current_step makes",
    ("Context", "*"): "a record that the engine makes for a body",
    ("Declared", "*"): "made by the decorators",
    ("Declared.bound_to", "*"): "called by App.include",
    ("Values", "*"): "a protocol; what a mapping does is its own",
    ("Values.get", "*"): "a protocol; what a mapping does is its own",
    ("Values.keys", "*"): "a protocol; what a mapping does is its own",
    ("PerdureError", "*"): "an exception takes anything",
    ("NonRetryable", "*"): "an exception takes anything",
    ("RetryAfter", "delay"): "checked when it is used; tests/unit/test_retry.py",
    ("RetryAfter", "message"): "an exception takes anything",
    ("Backoff.delay", "*"): "called by the engine",
    ("RetryPolicy.decide", "*"): "called by the engine",
    ("Run", "*"): "made by enqueue and App.get",
    ("Run.result_call", "*"): "called by the engine",
    ("Run.unwrap", "*"): "called by the engine",
    ("Step", "*"): "made by the decorators",
    ("Workflow", "*"): "made by the decorators",
    ("step.make", "*"): "the common part of step() and step.sync()",
    ("step.sync", "args"): "the user's function judges its own arguments outside of a run",
    ("step.sync", "kwargs"): "the user's function judges its own arguments outside of a run",
    **{
        (f"Worker.{called}", "*"): "called by the committer, the store or the heart"
        for called in (
            "claim_answered",
            "claim_failed",
            "controlled",
            "look",
            "lost",
            "miscounted",
            "next_claim",
            "rescue",
            "stalled",
        )
    },
}
"""What has no rows, with the reason; `*` stands for all parameters."""
