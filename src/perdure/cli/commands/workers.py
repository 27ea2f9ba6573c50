"""``perdure workers``: which workers there are, and which of them leads."""

from __future__ import annotations

import click

from perdure.cli._describe import worker_fields
from perdure.cli._failures import ExitCode
from perdure.cli._meanings import perform
from perdure.cli._output import as_json, table
from perdure.cli._places import opened, place_of_store, place_options, settings_of


@click.command("workers", short_help="List workers, and which of them leads.")
@place_options
@click.option("--json", "in_json", is_flag=True, help="Print one JSON list.")
@click.pass_context
def command(context: click.Context, /, *, app: str | None, url: str | None, in_json: bool) -> int:
    """List the workers of a store, in the order in which they joined.

    A scheduler alone is one without slots. One that died is listed until another finds out.
    """
    place = place_of_store(settings_of(context, app=app, url=url))

    async def work() -> int:
        async with opened(place) as opened_app:
            told = [worker_fields(one) for one in await opened_app.workers()]
        if in_json:
            click.echo(as_json(told))
        elif not told:
            click.echo("no workers")
        else:
            rows = [
                (
                    one["id"],
                    one["host"],
                    str(one["pid"]),
                    ", ".join(one["queues"]) or "-",
                    str(one["slots"]),
                    "yes" if one["leads"] else "-",
                    one["beat_at"],
                )
                for one in told
            ]
            heads = ("ID", "HOST", "PID", "QUEUES", "SLOTS", "LEADS", "LAST SIGN OF LIFE")
            click.echo(table(heads, rows))
        return ExitCode.OK

    return perform(work)
