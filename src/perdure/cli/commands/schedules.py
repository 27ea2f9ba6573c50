"""``perdure schedules``: which schedules there are."""

from __future__ import annotations

import click

from perdure.cli._describe import schedule_fields
from perdure.cli._failures import ExitCode
from perdure.cli._meanings import perform
from perdure.cli._output import as_json, table
from perdure.cli._places import opened, place_of_store, place_options, settings_of


@click.command("schedules", short_help="List schedules.")
@place_options
@click.option("--json", "in_json", is_flag=True, help="Print one JSON list.")
@click.pass_context
def command(context: click.Context, /, *, app: str | None, url: str | None, in_json: bool) -> int:
    """List the schedules of a store, by key: what they start, when, and when next."""
    place = place_of_store(settings_of(context, app=app, url=url))

    async def work() -> int:
        async with opened(place) as opened_app:
            told = [schedule_fields(one) for one in await opened_app.schedules()]
        if in_json:
            click.echo(as_json(told))
        elif not told:
            click.echo("no schedules")
        else:
            rows = [
                (
                    one["key"],
                    one["name"],
                    one["when"],
                    one["missed"],
                    "paused" if one["paused_at"] else one["next_at"] or "never",
                    one["last_at"] or "-",
                )
                for one in told
            ]
            click.echo(table(("KEY", "NAME", "WHEN", "MISSED", "NEXT", "LAST"), rows))
        return ExitCode.OK

    return perform(work)
