"""Doing one thing to several runs: each stands or falls on its own, and the exit code says so."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any, Final, TypeAlias

import click

from perdure.app import App
from perdure.cli._failures import ExitCode, Failure, print_failure
from perdure.cli._filters import FILTERS, are_given, filter_options, query_of
from perdure.cli._ids import resolve_id
from perdure.cli._meanings import meaning_of, perform
from perdure.cli._output import as_json, escape, status_text
from perdure.cli._places import Place, opened, place_of_store, place_options, settings_of
from perdure.errors import PerdureError
from perdure.handle import Run
from perdure.model.records import Status
from perdure.selection import BulkResult, Selection

Option: TypeAlias = Callable[[Callable[..., Any]], Callable[..., Any]]

_SEVERAL = """Each ID may be the beginning of an id. Of several, some may fail: then the exit code
is 7.

Without IDs, the options below say which runs are meant, as those of perdure runs do. --dry-run
counts them; more than 100 need --yes."""

MOST_UNASKED: Final = 100
"""Runs that are meant by what they are and for which nobody is asked."""

_SHOWN: Final = 5


def wait_option(help: str) -> Option:
    """Return the option of a command that can wait until what it asked for is so."""
    return click.option("--wait", is_flag=True, help=help)


def command_on_runs(
    name: str,
    text: str,
    act: Callable[[Run[Any], dict[str, Any]], Awaitable[Status]],
    of_all: Callable[[Selection, dict[str, Any]], Awaitable[BulkResult]],
    *,
    short_help: str,
    options: Sequence[Option] = (),
    for_all: Collection[str] = (),
) -> click.Command:
    """Return a command that does one thing to the runs that are named, or to all that match.

    Args:
        name: of the command.
        text: its help; what all of them have in common is added.
        act: what it does to a run, given its own options.
        of_all: what it does to all that match, given its own options.
        short_help: for the list of commands.
        options: its own.
        for_all: those of them that say something where no id is given, too.
    """

    def command(
        context: click.Context,
        /,
        *,
        ids: tuple[str, ...],
        in_json: bool,
        dry_run: bool,
        is_sure: bool,
        app: str | None,
        url: str | None,
        **given: Any,
    ) -> int:
        filters = {key: given.pop(key) for key in FILTERS}
        place = place_of_store(settings_of(context, app=app, url=url))
        if not ids and not are_given(filters):
            raise Failure(
                ExitCode.USAGE,
                f"which runs are to {name} was not said",
                why="neither an ID was given nor an option that narrows",
                do=f"perdure {name} ID, or perdure {name} --status failed --dry-run",
            )
        if not ids:
            alone = [key for key, value in given.items() if value and key not in for_all]
            _refuse(name, alone, "an ID")
            return control_all(
                place, name, filters, lambda those: of_all(those, given), in_json, dry_run, is_sure
            )
        if are_given(filters) or dry_run:
            _refuse(name, ["dry_run" if dry_run else "filters"], "no ID")
        return control(place, ids, lambda run: act(run, given), in_json=in_json)

    made: Any = click.pass_context(command)
    made = click.option("--json", "in_json", is_flag=True, help="Print JSON.")(made)
    made = click.option("--yes", "is_sure", is_flag=True, help="Do not ask, however many.")(made)
    made = click.option("--dry-run", is_flag=True, help="Count those that match, and no more.")(
        made
    )
    for option in reversed(options):
        made = option(made)
    made = click.argument("ids", nargs=-1, metavar="[ID]...")(place_options(filter_options(made)))
    whole = f"{text}\n\n{_SEVERAL}"
    return click.command(name, help=whole, short_help=short_help)(made)


def _refuse(name: str, given: list[str], needs: str) -> None:
    """Refuse options that say nothing with, or without, ids."""
    if given:
        words = ", ".join("--" + word.replace("_", "-") for word in given)
        what = "options that narrow" if given == ["filters"] else words
        raise Failure(
            ExitCode.USAGE,
            f"{what} of perdure {name} needs {needs}",
            why="runs are meant by their ids or by what they are",
            do="give the one or the other",
        )


def control_all(  # noqa: PLR0917 -- one place calls it
    place: Place,
    name: str,
    filters: dict[str, Any],
    of_all: Callable[[Selection], Awaitable[BulkResult]],
    in_json: bool,  # noqa: FBT001 -- called by position
    dry_run: bool,  # noqa: FBT001
    is_sure: bool,  # noqa: FBT001
) -> int:
    """Do something to all runs that match; count them first, and ask where they are many.

    Returns:
        0 where all went well, also where none matched; 4 where all were refused; 7 where some were.
    """

    async def work() -> int:
        async with opened(place) as app:
            selection = Selection(app.engine, await query_of(app, filters))
            count = await selection.count()
            if dry_run:
                await _tell_count(selection, name, count, in_json=in_json)
                return ExitCode.OK
            if count > MOST_UNASKED and not is_sure:
                raise Failure(
                    ExitCode.USAGE,
                    f"{count:,} runs match, and perdure {name} was not told that you are sure",
                    why=f"for more than {MOST_UNASKED} runs it asks for --yes",
                    do="--dry-run shows which they are; --yes goes on",
                )
            bulk = await of_all(selection)
        if in_json:
            click.echo(as_json({"done": bulk.done, "refused": bulk.refused}))
        else:
            click.echo(f"{name}: {_told(bulk)}")
        if not bulk.refused:
            return ExitCode.OK
        return ExitCode.PARTIAL if bulk.done else ExitCode.REFUSED

    return perform(work)


def _told(bulk: BulkResult) -> str:
    refused = f", {len(bulk.refused):,} refused" if bulk.refused else ""
    return f"{len(bulk.done):,} runs{refused}"


async def _tell_count(selection: Selection, name: str, count: int, *, in_json: bool) -> None:
    samples: list[str] = []
    async for run in selection:
        samples.append(run.id)
        if len(samples) == _SHOWN:
            break
    if in_json:
        click.echo(as_json({"count": count, "samples": samples}))
        return
    more = f" and {count - len(samples):,} more" if count > len(samples) else ""
    named = ": " + ", ".join(map(escape, samples)) if samples else ""
    click.echo(f"{name} would be asked of {count:,} runs{named}{more}")


def control(
    place: Place,
    ids: Sequence[str],
    act: Callable[[Run[Any]], Awaitable[Status]],
    *,
    in_json: bool,
) -> int:
    """Do something to each run and tell of each how it stands now, or why not.

    Returns:
        0 where all went well; where none did, the code of what went wrong if it was the same for
        all; 7 otherwise.
    """

    async def work() -> int:
        answers: list[dict[str, Any]] = []
        codes: list[int] = []
        async with opened(place) as app, asyncio.TaskGroup() as group:
            # All at once: one that takes its time to end does not keep the others from being asked.
            doing = {typed: group.create_task(_do(app, typed, act)) for typed in dict.fromkeys(ids)}
            for typed, task in doing.items():
                done = await task
                if isinstance(done, Failure):
                    answers.append({"id": typed, "error": done.as_fields()})
                    codes.append(done.exit_code)
                    if not in_json:
                        print_failure(done, in_json=False)
                    continue
                run_id, status = done
                answers.append({"id": run_id, "status": str(status)})
                codes.append(ExitCode.OK)
                if not in_json:
                    click.echo(f"{escape(run_id)}  {status_text(status)}")
        if in_json:
            click.echo(as_json(answers))
        return codes[0] if len(set(codes)) == 1 else ExitCode.PARTIAL

    return perform(work)


async def _do(
    app: App, typed: str, act: Callable[[Run[Any]], Awaitable[Status]]
) -> tuple[str, Status] | Failure:
    """Return a run's id and how it stands after something was done to it, or why it was not."""
    run_id = None
    try:
        run_id = await resolve_id(app.engine.store, typed)
        return run_id, await act(app.get(run_id))
    except Failure as failure:
        return failure
    except PerdureError as error:
        return meaning_of(error, run_id)
