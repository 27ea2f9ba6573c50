"""``perdure migrate``: the schema of a store, created or verified."""

from __future__ import annotations

import click

from perdure.cli._failures import ExitCode
from perdure.cli._meanings import perform
from perdure.cli._output import as_json, escape
from perdure.cli._places import place_of_store, place_options, settings_of


@click.command("migrate", short_help="Create or verify the schema of a store.")
@place_options
@click.option("--plan", "only_plan", is_flag=True, help="Say what it would do and do nothing.")
@click.option("--json", "in_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def command(
    context: click.Context, /, *, app: str | None, url: str | None, only_plan: bool, in_json: bool
) -> int:
    """Create the schema of a store where it is missing, verify it where it is there.

    Workers and callers do the same when they open a store; this does it ahead of them.
    """
    place = place_of_store(settings_of(context, app=app, url=url))

    async def work() -> int:
        plan = await place.app.engine.store.plan()
        if not only_plan:
            async with place.app:
                pass
        if in_json:
            click.echo(as_json({"store": place.name, "plan": plan, "done": not only_plan}))
            return ExitCode.OK
        for sentence in plan:
            click.echo(f"{'would' if only_plan else 'did'}: {escape(sentence)}")
        if not plan:
            click.echo(f"nothing to do: the store at {escape(place.name)} is ready")
        return ExitCode.OK

    return perform(work)
