"""``perdure subscribers``: who reads changes under a name."""

from __future__ import annotations

import click

from perdure.cli._describe import subscriber_fields
from perdure.cli._failures import ExitCode, Failure
from perdure.cli._meanings import perform
from perdure.cli._output import as_json, escape, table
from perdure.cli._places import opened, place_of_store, place_options, settings_of


@click.command("subscribers", short_help="List who reads changes under a name, or remove one.")
@place_options
@click.option("--remove", metavar="NAME", help="Forget this one instead.")
@click.option("--json", "in_json", is_flag=True, help="Print one JSON list.")
@click.pass_context
def command(
    context: click.Context,
    /,
    *,
    app: str | None,
    url: str | None,
    remove: str | None,
    in_json: bool,
) -> int:
    """List the named subscribers of a store: up to where and when each has read.

    With --remove forget one; whoever subscribes under that name next begins anew.
    """
    place = place_of_store(settings_of(context, app=app, url=url))

    async def work() -> int:
        async with opened(place) as opened_app:
            if remove is not None and not await opened_app.unsubscribe(remove):
                raise Failure(
                    ExitCode.NOT_FOUND,
                    f"there is no subscriber {remove!r}",
                    why="nobody has read changes of this store under that name",
                    do="perdure subscribers lists those there are",
                )
            told = [subscriber_fields(one) for one in await opened_app.subscribers()]
        if in_json:
            click.echo(as_json(told))
        elif remove is not None:
            click.echo(f"removed {escape(remove)}")
        elif not told:
            click.echo("no subscribers")
        else:
            rows = [(one["name"], one["position"], one["moved_at"]) for one in told]
            click.echo(table(("NAME", "POSITION", "MOVED"), rows))
        return ExitCode.OK

    return perform(work)
