"""``perdure doctor``: is a store as it must be?"""

from __future__ import annotations

import click

from perdure._runtime.doctor import Finding, Report, examine
from perdure.cli._failures import ExitCode
from perdure.cli._meanings import perform
from perdure.cli._output import as_json, escape, table
from perdure.cli._places import opened, place_of_store, place_options, settings_of
from perdure.errors import StoreCorrupt


@click.command("doctor", short_help="Check that a store is as it must be.")
@place_options
@click.option("--json", "in_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def command(context: click.Context, /, *, app: str | None, url: str | None, in_json: bool) -> int:
    """Look at every run of a store and tell what cannot be. The store may be in use.

    It changes nothing. The exit code is 8 where something was found.
    """
    place = place_of_store(settings_of(context, app=app, url=url))

    async def work() -> int:
        try:
            async with opened(place) as opened_app:
                report = await examine(opened_app.engine.store)
        except StoreCorrupt as error:
            report = Report(0, (Finding("damage", None, str(error)),))
        if in_json:
            found = [
                {"code": one.code, "run_id": one.run_id, "message": one.message}
                for one in report.findings
            ]
            click.echo(as_json({"store": place.name, "runs": report.runs, "findings": found}))
        else:
            _print(place.name, report)
        return ExitCode.FOUND_PROBLEMS if report.findings else ExitCode.OK

    return perform(work)


def _print(name: str, report: Report) -> None:
    looked = f"looked at {report.runs:,} runs of {escape(name)}"
    if not report.findings:
        click.echo(f"{looked}: nothing is wrong")
        return
    rows = [(one.code, one.run_id or "-", one.message) for one in report.findings]
    click.echo(table(("CODE", "RUN", "WHAT IS WRONG"), rows))
    click.echo(f"{looked}: {len(rows)} findings", err=True)
