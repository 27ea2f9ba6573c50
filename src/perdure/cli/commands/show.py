"""``perdure show``: everything recorded of one run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

import click

from perdure.cli._describe import history_fields
from perdure.cli._failures import ExitCode
from perdure.cli._ids import resolve_id
from perdure.cli._meanings import perform
from perdure.cli._output import as_json, escape, fields, status_text, table
from perdure.cli._places import opened, place_of_store, place_options, settings_of
from perdure.duration import format_micros
from perdure.errors import RunNotFound

MOST_TEXT: Final = 2_000
"""Characters of a payload that are shown to people."""


@click.command("show", short_help="Show a run with its attempts and steps.")
@click.argument("id", metavar="ID")
@place_options
@click.option("--json", "in_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def command(
    context: click.Context, /, *, id: str, app: str | None, url: str | None, in_json: bool
) -> int:
    """Show a run: how it stands, its input and result, its attempts, steps and waits.

    ID may be the beginning of an id, as long as no other run's begins so.
    """
    place = place_of_store(settings_of(context, app=app, url=url))

    async def work() -> int:
        async with opened(place) as opened_app:
            engine = opened_app.engine
            store = engine.store
            run_id = await resolve_id(store, id)
            history = await store.history(run_id)
            if history is None:
                raise RunNotFound(f"run {run_id!r} was removed just now: its retention has ended")
            told = history_fields(history, engine)
        click.echo(as_json(told) if in_json else "\n\n".join(_sections(told)))
        return ExitCode.OK

    return perform(work)


def _sections(told: dict[str, Any]) -> Iterator[str]:
    yield _head(told)
    if told["error"] is not None:
        yield _error(told["error"])
    if told["attempts"]:
        yield "attempts before this one\n" + table(
            ("  NUMBER", "OUTCOME", "ENDED", "ERROR"),
            (
                (f"  {one['number']}", one["outcome"], one["ended_at"], one["error"])
                for one in told["attempts"]
            ),
        )
    if told["steps"]:
        yield "steps\n" + table(
            ("  PATH", "KIND", "OUTCOME", "TRIES", "TOOK", "SIZE", "ERROR"),
            ((f"  {step['path']}", *_cells(step)) for step in told["steps"]),
        )
    if told["waits"]:
        yield "waits\n" + table(
            ("  KIND", "KEY", "UNTIL"),
            ((f"  {wait['kind']}", wait["key"], wait["due_at"] or "") for wait in told["waits"]),
        )
    if told["streams"]:
        yield "streams\n" + table(
            ("  NAME", "ITEMS", "SIZE"),
            (
                (f"  {one['name']}", f"{one['items']:,}", f"{one['size']:,}")
                for one in told["streams"]
            ),
        )


def _head(told: dict[str, Any]) -> str:
    status = status_text(told["status"])
    if told["waiting_for"]:
        status += f" for {told['waiting_for']}"
    if told["reason"]:
        status += f", reason {told['reason']}"
    rows: list[tuple[str, str | None]] = [
        ("run", told["id"]),
        ("definition", told["definition"]),
        ("status", status),
        ("version", _code(told)),
        ("attempt", str(told["attempt"])),
        ("generation", str(told["generation"]) if told["generation"] else None),
        ("continued", f"{told['continued']} times" if told["continued"] else None),
        ("crashes", str(told["crashes"]) if told["crashes"] else None),
        ("progress", _value(told["progress"])),
        ("queue", f"{told['queue']}, priority {told['priority']}"),
        ("unique_key", told["unique_key"]),
        ("tags", ", ".join(told["tags"]) or None),
        ("parent", _parent(told)),
        ("caused by", told["caused_by"]),
        ("worker", told["worker_id"]),
        ("created", told["created_at"]),
        ("due", told["due_at"]),
        ("started", told["started_at"]),
        ("finished", told["finished_at"]),
        ("input", _value(told["input"])),
        ("meta", _value(told["meta"])),
        ("result", None if told["status"] != "completed" else _value(told["result"], none="null")),
        ("orphans", ", ".join(told["orphans"]) or None),
    ]
    return fields(rows)


def _parent(told: dict[str, Any]) -> str | None:
    attached = told["on_parent_close"] != "abandon"
    return f"{told['parent_id']}, ends with it" if attached else told["parent_id"]


def _code(told: dict[str, Any]) -> str | None:
    return f"{told['version']}, pinned" if told["pinned"] else told["version"] or None


def _value(value: Any, none: str | None = None) -> str | None:
    if value is None:
        return none
    text = json.dumps(value, ensure_ascii=False)
    if len(text) <= MOST_TEXT:
        return text
    return f"{text[:MOST_TEXT]}… of {len(text):,} characters; --json prints all"


def _error(error: dict[str, Any]) -> str:
    lines = [f"error\n  {escape(error['type'])}: {escape(error['message'])}"]
    return "\n".join([*lines, *(f"    at {escape(frame)}" for frame in error["frames"])])


def _cells(step: dict[str, Any]) -> tuple[str, ...]:
    return (
        step["kind"],
        step["outcome"],
        str(step["tries"]),
        format_micros(round(step["seconds"] * 1_000) * 1_000),
        f"{step['size']:,}",
        step["error"] or "",
    )
