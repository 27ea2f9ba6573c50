"""``perdure prune``: remove ended runs."""

from __future__ import annotations

import click

from perdure.cli._failures import ExitCode
from perdure.cli._meanings import perform
from perdure.cli._output import as_json
from perdure.cli._places import opened, place_of_store, place_options, settings_of
from perdure.model.records import TERMINAL, Status


@click.command("prune", short_help="Remove ended runs whose retention is over, or older ones.")
@place_options
@click.option(
    "--older-than", metavar="TIME", help='Instead of their retention: that ended "7d" ago or more.'
)
@click.option(
    "-s",
    "--status",
    "statuses",
    multiple=True,
    type=click.Choice([str(status) for status in Status if status in TERMINAL]),
    help="How they ended.",
)
@click.option("-n", "--name", "names", multiple=True, help="Of their workflow or job.")
@click.option("--dry-run", is_flag=True, help="Count what would be removed, and remove nothing.")
@click.option("--json", "in_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def command(
    context: click.Context,
    /,
    *,
    app: str | None,
    url: str | None,
    older_than: str | None,
    statuses: tuple[str, ...],
    names: tuple[str, ...],
    dry_run: bool,
    in_json: bool,
) -> int:
    r"""Remove ended runs with everything kept of them; workers do it by themselves each minute.

    A run that has not ended is never removed, nor one that another may still ask for.

    \b
    perdure prune --dry-run
    perdure prune --older-than 7d --status completed --name send_mail
    """
    place = place_of_store(settings_of(context, app=app, url=url))

    async def work() -> int:
        async with opened(place) as opened_app:
            found = await opened_app.prune(
                older_than=older_than, status=statuses, name=names, dry_run=dry_run
            )
        if in_json:
            told = {"runs": found.runs, "events": found.events, "dry_run": dry_run}
            click.echo(as_json(told))
        else:
            verb = "would remove" if dry_run else "removed"
            click.echo(f"{verb} {_many(found.runs, 'run')} and {_many(found.events, 'event')}")
        return ExitCode.OK

    return perform(work)


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"
