"""``perdure queues``: which queues there are."""

from __future__ import annotations

import click

from perdure.cli._describe import queue_fields
from perdure.cli._failures import ExitCode
from perdure.cli._meanings import perform
from perdure.cli._output import as_json, table
from perdure.cli._places import opened, place_of_store, place_options, settings_of


@click.command("queues", short_help="List queues, their limits and what is in them.")
@place_options
@click.option("--json", "in_json", is_flag=True, help="Print one JSON list.")
@click.pass_context
def command(context: click.Context, /, *, app: str | None, url: str | None, in_json: bool) -> int:
    """List the queues of a store that have limits, are paused or have runs."""
    place = place_of_store(settings_of(context, app=app, url=url))

    async def work() -> int:
        async with opened(place) as opened_app:
            told = [queue_fields(one) for one in await opened_app.queues()]
        if in_json:
            click.echo(as_json(told))
        elif not told:
            click.echo("no queues")
        else:
            rows = [
                (
                    one["name"],
                    "paused" if one["paused_at"] else "-",
                    *(str(one[status]) for status in ("queued", "running", "waiting")),
                    str(one["concurrency"] or "-"),
                    str(one["concurrency_per_key"] or "-"),
                    one["rate"] or "-",
                    one["rate_per_key"] or "-",
                )
                for one in told
            ]
            head = ("QUEUE", "PAUSED", "QUEUED", "RUNNING", "WAITING", "SLOTS", "A KEY", "RATE")
            click.echo(table((*head, "A KEY"), rows))
        return ExitCode.OK

    return perform(work)
