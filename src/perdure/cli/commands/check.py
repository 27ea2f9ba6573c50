"""``perdure check``: would the runs in flight survive the code as it is now?"""

from __future__ import annotations

from typing import Final

import click
from msgspec.structs import replace

from perdure.cli._meanings import perform
from perdure.cli._places import opened, place_of_code, place_options, settings_of
from perdure.cli._replays import check_all, patches_of, report
from perdure.model.records import History, RunQuery, Status
from perdure.store import Store

IN_FLIGHT: Final = (Status.QUEUED, Status.RUNNING, Status.WAITING, Status.PAUSED)
PAGE: Final = 200


@click.command("check", short_help="Would the runs in flight survive this code?")
@place_options
@click.option("-n", "--name", "names", multiple=True, help="Only runs of this definition.")
@click.option(
    "--limit",
    default=1_000,
    show_default=True,
    type=click.IntRange(1),
    help="At most so many runs.",
)
@click.option("--json", "in_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def command(
    context: click.Context,
    /,
    *,
    app: str | None,
    url: str | None,
    names: tuple[str, ...],
    limit: int,
    in_json: bool,
) -> int:
    """Replay what is recorded of the runs in flight against the code of the app.

    No step is executed, and nothing is written; the store may be in use. The newest runs are
    looked at first. The exit code is 8 where something would break.
    """
    settings = settings_of(context, app=app, url=url)
    place = place_of_code(settings)

    async def work() -> int:
        query = RunQuery(statuses=IN_FLIGHT, definitions=names)
        async with opened(place) as opened_app:
            histories = await _histories(opened_app.engine.store, query, limit)
        return report(await check_all(place.app, histories), patches_of(histories), in_json=in_json)

    return perform(work)


async def _histories(store: Store, query: RunQuery, limit: int) -> list[History]:
    """Return the histories of so many runs that have begun."""
    found: list[History] = []
    while len(found) < limit:
        page = await store.list_runs(replace(query, limit=PAGE))
        for run in page:
            history = await store.history(run.run_id) if run.epoch else None
            if history is not None and len(found) < limit:
                found.append(history)
        if len(page) < PAGE:
            break
        query = replace(query, before=page[-1].seq)
    return found
