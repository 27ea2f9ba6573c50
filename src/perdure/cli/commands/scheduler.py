"""``perdure scheduler``: fire schedules until told to stop."""

from __future__ import annotations

import asyncio
import os

import click

from perdure import Scheduler
from perdure._platform import hear_stop_signals
from perdure._version import __version__
from perdure.cli._failures import ExitCode
from perdure.cli._meanings import perform
from perdure.cli._output import as_json, escape
from perdure.cli._places import opened, place_of_store, place_options, settings_of


@click.command("scheduler", short_help="Fire schedules, and execute nothing.")
@place_options
@click.option("--json", "in_json", is_flag=True, help="Print the line that says ready as JSON.")
@click.pass_context
def command(context: click.Context, /, *, app: str | None, url: str | None, in_json: bool) -> int:
    """Fire the schedules of a store until told to stop; no code is needed.

    Every worker does so, too: this is for where workers are not always there. Any number may run.
    """
    place = place_of_store(settings_of(context, app=app, url=url))

    async def work() -> int:
        stopped = asyncio.Event()
        async with opened(place) as opened_app, Scheduler(opened_app):
            with hear_stop_signals(stopped.set):
                if in_json:
                    told = {"event": "ready", "store": place.name, "pid": os.getpid()}
                    click.echo(as_json(told))
                else:
                    click.echo(
                        f"perdure {__version__} scheduler ready: {escape(place.name)},"
                        f" pid {os.getpid()}"
                    )
                await stopped.wait()
        return ExitCode.OK

    return perform(work)
