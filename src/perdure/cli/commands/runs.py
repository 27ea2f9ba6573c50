"""``perdure runs``: the list."""

from __future__ import annotations

from typing import Any, Final

import click
from msgspec.structs import replace

from perdure.cli._describe import run_fields
from perdure.cli._failures import ExitCode, Failure
from perdure.cli._filters import filter_options, query_of
from perdure.cli._meanings import perform
from perdure.cli._output import as_json, escape, status_text, table
from perdure.cli._places import opened, place_of_store, place_options, settings_of
from perdure.clock import to_datetime
from perdure.duration import format_micros
from perdure.model.records import Micros, RunQuery, RunRecord
from perdure.store import Store

PAGE: Final = 1_000


@click.command("runs", short_help="List runs, newest first.")
@place_options
@filter_options
@click.option(
    "--limit", type=click.IntRange(1), default=20, show_default=True, help="At most so many."
)
@click.option("--json", "in_json", is_flag=True, help="Print one JSON list.")
@click.option("--jsonl", "in_lines", is_flag=True, help="Print a line of JSON a run.")
@click.pass_context
def command(
    context: click.Context,
    /,
    *,
    app: str | None,
    url: str | None,
    limit: int,
    in_json: bool,
    in_lines: bool,
    **filters: Any,
) -> int:
    r"""List runs, newest first. Every option narrows; --status and --name may come several times.

    \b
    perdure runs --status failed --since 1d
    perdure runs --name fulfil --text vip --json
    """
    if in_json and in_lines:
        raise Failure(
            ExitCode.USAGE,
            "--json and --jsonl exclude each other",
            why="the one prints a list, the other a line a run",
            do="give one of them",
        )
    place = place_of_store(settings_of(context, app=app, url=url))

    async def work() -> int:
        async with opened(place) as opened_app:
            store = opened_app.engine.store
            now = await store.now()
            query = await query_of(opened_app, filters)
            runs = await _listed(store, query, limit)
            if not runs:
                await _hint(store, query.definitions)
            _print(runs, now, in_json=in_json, in_lines=in_lines, limit=limit)
        return ExitCode.OK

    return perform(work)


async def _hint(store: Store, names: tuple[str, ...]) -> None:
    """Say which names there are runs of, where there is none of those that were asked for."""
    there = {count.definition or "": None for count in await store.counts(by_definition=True)}
    if names and there and there.keys().isdisjoint(names):
        click.echo(f"there are runs of {', '.join(map(escape, there))}", err=True)


async def _listed(store: Store, query: RunQuery, limit: int) -> list[RunRecord]:
    """Return so many runs, page by page; what is written meanwhile makes none come twice."""
    found: list[RunRecord] = []
    before: int | None = None
    while len(found) < limit:
        size = min(PAGE, limit - len(found))
        page = await store.list_runs(replace(query, limit=size, before=before))
        found += page
        if len(page) < size:
            break
        before = page[-1].seq
    return found


def _print(
    runs: list[RunRecord], now: Micros, *, in_json: bool, in_lines: bool, limit: int
) -> None:
    if in_json:
        click.echo(as_json([run_fields(run) for run in runs]))
    elif in_lines:
        for run in runs:
            click.echo(as_json(run_fields(run)))
    elif not runs:
        click.echo("no runs")
    else:
        click.echo(table(("ID", "NAME", "STATUS", "WHY", "CREATED", "TOOK"), _rows(runs, now)))
        if len(runs) == limit:
            click.echo(f"the newest {limit}; --limit {limit * 5} shows more", err=True)


def _rows(runs: list[RunRecord], now: Micros) -> list[tuple[str, ...]]:
    return [
        (
            run.run_id,
            run.definition,
            status_text(run.status),
            run.reason or run.waiting_for or "",
            to_datetime(run.created_at).strftime("%Y-%m-%d %H:%M:%SZ"),
            _took(run, now),
        )
        for run in runs
    ]


def _took(run: RunRecord, now: Micros) -> str:
    if run.started_at is None:
        return ""
    end = now if run.finished_at is None else run.finished_at
    return format_micros(max(0, end - run.started_at) // 1_000 * 1_000)
