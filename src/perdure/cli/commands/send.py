"""``perdure send``: publish an event, or send it to one run."""

from __future__ import annotations

import click

from perdure.cli._failures import ExitCode
from perdure.cli._ids import resolve_id
from perdure.cli._meanings import perform
from perdure.cli._output import as_json, escape
from perdure.cli._places import opened, place_of_store, place_options, settings_of
from perdure.cli._values import plain_values


@click.command("send", short_help="Publish an event, or send it to one run.")
@click.argument("event", metavar="EVENT")
@click.argument("values", metavar="KEY=VALUE...", nargs=-1)
@click.option("-k", "--key", metavar="KEY", help="What waits may ask for.")
@click.option("--to", "run", metavar="ID", help="The run to send it to; all are told otherwise.")
@click.option("--id", "event_id", metavar="ID", help="Of the event: the same again does nothing.")
@place_options
@click.option("--json", "in_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def command(
    context: click.Context,
    /,
    *,
    event: str,
    values: tuple[str, ...],
    key: str | None,
    run: str | None,
    event_id: str | None,
    app: str | None,
    url: str | None,
    in_json: bool,
) -> int:
    """Publish an event of this type, with these values; no code is needed.

    A VALUE is JSON where it is JSON, and a text otherwise. `--to` may be the beginning of an id.
    """
    place = place_of_store(settings_of(context, app=app, url=url))
    given = plain_values(values)

    async def work() -> int:
        async with opened(place) as opened_app:
            if run is not None:
                run_id = await resolve_id(opened_app.engine.store, run)
                to = opened_app.get(run_id)
                await to.send_event(given, type=event, key=key, id=event_id)
                click.echo(as_json({"to": run_id}) if in_json else f"sent to {escape(run_id)}")
                return ExitCode.OK
            published = await opened_app.publish(given, type=event, key=key, id=event_id)
            started = [one.id for one in await published.runs()]
        if in_json:
            click.echo(as_json({"id": published.id, "runs": started}))
        else:
            click.echo(f"published {escape(published.id)}, which started {len(started)} runs")
            for run_id in started:
                click.echo(f"  {escape(run_id)}")
        return ExitCode.OK

    return perform(work)
