"""``perdure schedule``: the verbs on one schedule."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import click
import msgspec

from perdure.cli._describe import fire_fields
from perdure.cli._failures import ExitCode, Failure
from perdure.cli._meanings import perform
from perdure.cli._output import as_json, escape, table
from perdure.cli._places import opened, place_of_store, place_options, settings_of
from perdure.schedule import ScheduleHandle

Verb = Callable[[ScheduleHandle], Awaitable[dict[str, Any]]]
"""Does it, and returns what to tell; `text` is for people."""


@click.group("schedule", short_help="Look at, run, pause, resume, backfill or remove a schedule.")
def command() -> None:
    """Do something with one schedule, named by its key: `perdure schedules` lists them."""


def _do(context: click.Context, key: str, verb: Verb, options: dict[str, Any]) -> int:
    in_json = options.pop("in_json")
    place = place_of_store(settings_of(context, **options))

    async def work() -> int:
        async with opened(place) as opened_app:
            told = await verb(opened_app.schedule(key))
        text = told.pop("text")
        click.echo(as_json({"key": key, **told}) if in_json else text)
        return ExitCode.OK

    return perform(work)


def _options(function: Any) -> Any:
    in_json = click.option("--json", "in_json", is_flag=True, help="Print one JSON object.")
    key = click.argument("key", metavar="KEY")
    return key(place_options(in_json(click.pass_context(function))))


@command.command("next", short_help="Its next instants.")
@click.option("-n", "--count", default=5, show_default=True, type=click.IntRange(1, 1_000))
@_options
def next_(context: click.Context, /, *, key: str, count: int, **options: Any) -> int:
    """Print the next instants of a schedule."""

    async def verb(schedule: ScheduleHandle) -> dict[str, Any]:
        instants = [one.isoformat() for one in await schedule.next(count)]
        return {"next": instants, "text": "\n".join(instants) or "never"}

    return _do(context, key, verb, options)


@command.command("why", short_help="Why it does not fire.")
@_options
def why(context: click.Context, /, *, key: str, **options: Any) -> int:
    """Say in one sentence why a schedule does not fire, or nothing comes of it."""

    async def verb(schedule: ScheduleHandle) -> dict[str, Any]:
        found = await schedule.why()
        return {**msgspec.to_builtins(found), "text": escape(found.sentence)}

    return _do(context, key, verb, options)


@command.command("history", short_help="What became of its instants.")
@click.option("-n", "--limit", default=20, show_default=True, type=click.IntRange(1, 1_000))
@_options
def history(context: click.Context, /, *, key: str, limit: int, **options: Any) -> int:
    """Print what became of the instants of a schedule, newest first.

    Each was on time, late, caught up, missed or skipped; several in a row of the same fate are one
    line.
    """

    async def verb(schedule: ScheduleHandle) -> dict[str, Any]:
        await schedule.get()
        fires = [fire_fields(one) for one in await schedule.fires(limit)]
        rows = [
            (
                one["expected"],
                one["until"] if one["count"] > 1 else "-",
                f"{one['count']:,}",
                one["outcome"],
                one["at"],
                one["run"] or "-",
            )
            for one in fires
        ]
        heads = ("EXPECTED", "UNTIL", "COUNT", "OUTCOME", "AT", "RUN")
        return {"fires": fires, "text": table(heads, rows) if rows else "nothing yet"}

    return _do(context, key, verb, options)


@command.command("run", short_help="Start a run of it now.")
@_options
def run(context: click.Context, /, *, key: str, **options: Any) -> int:
    """Start a run of a schedule now, beside its instants."""

    async def verb(schedule: ScheduleHandle) -> dict[str, Any]:
        started = await schedule.trigger()
        return {"run": started.id, "text": escape(started.id)}

    return _do(context, key, verb, options)


@command.command("pause", short_help="Fire nothing until it is resumed.")
@_options
def pause(context: click.Context, /, *, key: str, **options: Any) -> int:
    """Let a schedule fire nothing until it is resumed."""

    async def verb(schedule: ScheduleHandle) -> dict[str, Any]:
        await schedule.pause()
        return {"text": f"paused {escape(key)}"}

    return _do(context, key, verb, options)


@command.command("resume", short_help="Fire again.")
@_options
def resume(context: click.Context, /, *, key: str, **options: Any) -> int:
    """Let a schedule fire again; what passed meanwhile is skipped."""

    async def verb(schedule: ScheduleHandle) -> dict[str, Any]:
        await schedule.resume()
        told = [one.isoformat() for one in await schedule.next(1)]
        return {"next": told, "text": f"resumed {escape(key)}, next {', '.join(told) or 'never'}"}

    return _do(context, key, verb, options)


@command.command("remove", short_help="Forget it.")
@_options
def remove(context: click.Context, /, *, key: str, **options: Any) -> int:
    """Forget a schedule; the runs that it has started stand."""

    async def verb(schedule: ScheduleHandle) -> dict[str, Any]:
        await schedule.get()
        await schedule.remove()
        return {"text": f"removed {escape(key)}"}

    return _do(context, key, verb, options)


@command.command("backfill", short_help="Start runs for instants that were not fired.")
@click.option("--start", required=True, metavar="TIME", help="From this instant on, in UTC.")
@click.option("--end", required=True, metavar="TIME", help="Before this instant, in UTC.")
@_options
def backfill(context: click.Context, /, *, key: str, start: str, end: str, **options: Any) -> int:
    """Start the runs of instants that were not fired; those that were are left alone."""
    first, last = _instant(start), _instant(end)

    async def verb(schedule: ScheduleHandle) -> dict[str, Any]:
        runs = [one.id for one in await schedule.backfill(first, last)]
        return {"runs": runs, "text": "\n".join(map(escape, runs)) or "no instants"}

    return _do(context, key, verb, options)


def _instant(text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise Failure(
            ExitCode.USAGE,
            f"{text!r} is no time",
            why=str(error),
            do="write it as 2026-05-01T08:00, in UTC, or with an offset",
        ) from error
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)
