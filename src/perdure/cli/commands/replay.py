"""``perdure replay``: recorded runs from files, against the code as it is now."""

from __future__ import annotations

from pathlib import Path

import click

from perdure.cli._failures import ExitCode, Failure
from perdure.cli._meanings import perform
from perdure.cli._places import app_option, place_of_code, settings_of
from perdure.cli._replays import check_all, patches_of, report
from perdure.errors import InvalidValue
from perdure.model.records import History
from perdure.testing.histories import load_history


@click.command("replay", short_help="Replay recorded runs from files against this code.")
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@app_option
@click.option("--json", "in_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def command(
    context: click.Context, /, *, files: tuple[str, ...], app: str | None, in_json: bool
) -> int:
    """Replay what `perdure pull` wrote; no step is executed, and no store is needed.

    The exit code is 8 where something would break.
    """
    place = place_of_code(settings_of(context, app=app))
    histories = [_read(Path(name)) for name in files]

    async def work() -> int:
        return report(await check_all(place.app, histories), patches_of(histories), in_json=in_json)

    return perform(work)


def _read(path: Path) -> History:
    try:
        return load_history(path.read_bytes())
    except (OSError, InvalidValue) as error:
        raise Failure(
            ExitCode.USAGE,
            f"cannot replay {path}",
            why=getattr(error, "strerror", None) or str(error),
            do="name files that perdure pull ID --out FILE wrote",
        ) from error
