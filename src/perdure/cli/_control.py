"""Doing one thing to several runs: each stands or falls on its own, and the exit code says so."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import click

from perdure.app import App
from perdure.cli._failures import ExitCode, Failure, print_failure
from perdure.cli._ids import resolve_id
from perdure.cli._meanings import meaning_of, perform
from perdure.cli._output import as_json, escape, status_text
from perdure.cli._places import Place, opened, place_of_store, place_options, settings_of
from perdure.errors import PerdureError
from perdure.handle import Run
from perdure.model.records import Status

_SEVERAL = """Each ID may be the beginning of an id. Of several, some may fail: then the exit code
is 7."""


def command_on_runs(
    name: str,
    text: str,
    act: Callable[[Run[Any], bool], Awaitable[Status]],
    *,
    short_help: str,
    wait_help: str | None = None,
) -> click.Command:
    """Return a command that does one thing to the runs that are named.

    Args:
        name: of the command.
        text: its help; what all of them have in common is added.
        act: what it does to a run, told whether to wait.
        short_help: for the list of commands.
        wait_help: of its option ``--wait``; None where it has none.
    """

    def command(
        context: click.Context, /, *, ids: tuple[str, ...], in_json: bool, **options: Any
    ) -> int:
        wait = bool(options.pop("wait", False))
        place = place_of_store(settings_of(context, **options))
        return control(place, ids, lambda run: act(run, wait), in_json=in_json)

    made: Any = click.pass_context(command)
    made = click.option("--json", "in_json", is_flag=True, help="Print one JSON list.")(made)
    if wait_help is not None:
        made = click.option("--wait", is_flag=True, help=wait_help)(made)
    made = click.argument("ids", nargs=-1, required=True, metavar="ID...")(place_options(made))
    whole = f"{text}\n\n{_SEVERAL}"
    return click.command(name, help=whole, short_help=short_help)(made)


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
