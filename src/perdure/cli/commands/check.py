"""``perdure check``: would the runs in flight survive the code as it is now?"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import click
from msgspec.structs import replace

from perdure.app import App
from perdure.cli._meanings import perform
from perdure.cli._places import opened, place_of_code, place_options, settings_of
from perdure.cli._replays import check_all, patches_of, report
from perdure.model.records import History, RunQuery, Status
from perdure.model.versions import Pinned
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
    looked at first. Of runs that are pinned to a version which the code does not have, only how
    many there are is told. The exit code is 8 where something would break.
    """
    settings = settings_of(context, app=app, url=url)
    place = place_of_code(settings)

    async def work() -> int:
        query = RunQuery(statuses=IN_FLIGHT, definitions=names)
        async with opened(place) as opened_app:
            store = opened_app.engine.store
            missing = _missing(place.app, [one for one in await store.pins() if _is_meant(one)])
            histories = await _histories(store, query, limit, missing)
        checked = await check_all(place.app, histories)
        return report(checked, patches_of(histories), missing, in_json=in_json)

    def _is_meant(pinned: Pinned) -> bool:
        return not names or pinned.definition in names

    return perform(work)


def _missing(app: App, pins: Iterable[Pinned]) -> list[Pinned]:
    """Return what is pinned to code that an app does not have."""
    found = ((one, app.engine.registry.find(one.definition)) for one in pins)
    return [
        one
        for one, definition in found
        if definition is None or definition.with_version(one.version) is None
    ]


async def _histories(
    store: Store, query: RunQuery, limit: int, missing: Iterable[Pinned]
) -> list[History]:
    """Return the histories of so many runs that have begun, and whose code is not missing."""
    without = {(one.definition, one.version) for one in missing}
    found: list[History] = []
    while len(found) < limit:
        page = await store.list_runs(replace(query, limit=PAGE))
        for run in page:
            is_asked = run.epoch and (run.definition, run.pin) not in without
            history = await store.history(run.run_id) if is_asked else None
            if history is not None and len(found) < limit:
                found.append(history)
        if len(page) < PAGE:
            break
        query = replace(query, before=page[-1].seq)
    return found
