"""``perdure versions``: which versions of the code runs need, and who has them."""

from __future__ import annotations

import click

from perdure.cli._failures import ExitCode
from perdure.cli._meanings import perform
from perdure.cli._output import as_json, table
from perdure.cli._places import opened, place_of_store, place_options, settings_of


@click.command("versions", short_help="List versions of the code, their runs and workers.")
@place_options
@click.option("-n", "--name", "names", multiple=True, help="Only of this workflow or job.")
@click.option("--json", "in_json", is_flag=True, help="Print one JSON list.")
@click.pass_context
def command(
    context: click.Context,
    /,
    *,
    app: str | None,
    url: str | None,
    names: tuple[str, ...],
    in_json: bool,
) -> int:
    """List the versions of definitions that live runs are pinned to or registered workers have.

    A version to which no run is pinned is needed by none: its code may go.
    """
    place = place_of_store(settings_of(context, app=app, url=url))

    async def work() -> int:
        async with opened(place) as opened_app:
            found = [one for one in await opened_app.versions() if not names or one.name in names]
        if in_json:
            click.echo(
                as_json(
                    [
                        {
                            "name": one.name,
                            "version": one.version,
                            "pinned": one.pinned,
                            "workers": one.workers,
                        }
                        for one in found
                    ]
                )
            )
        elif not found:
            click.echo("no versions")
        else:
            rows = [
                (one.name, one.version, f"{one.pinned:,}", ", ".join(one.workers) or "-")
                for one in found
            ]
            click.echo(table(("NAME", "VERSION", "PINNED", "WORKERS"), rows))
        return ExitCode.OK

    return perform(work)
