"""The root command: which commands there are, and how a process ends.

Loads nothing but click: a command's module, and with it the engine, is imported when it is asked
for.
"""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from typing import Any, Final

import click

from perdure._version import __version__
from perdure.cli._failures import (
    ExitCode,
    Failure,
    of_anything,
    of_file,
    of_usage,
    print_failure,
    wants_json,
    wants_traceback,
    with_traceback,
)

COMMANDS: Final = {
    "worker": "Execute the runs of an app until told to stop.",
    "start": "Start a run.",
    "send": "Publish an event, or send it to one run.",
    "scheduler": "Fire schedules, and execute nothing.",
    "schedules": "List schedules.",
    "schedule": "Look at, run, pause, resume, backfill or remove a schedule.",
    "workers": "List workers, and which of them leads.",
    "queues": "List queues, their limits and what is in them.",
    "queue": "Pause, resume or limit a queue.",
    "runs": "List runs, newest first.",
    "show": "Show a run with its attempts and steps.",
    "stream": "Print what a run gives out in a stream.",
    "tail": "Print what happens to runs.",
    "subscribers": "List who reads changes under a name, or remove one.",
    "why": "Say why a run is not moving, or a schedule does not fire.",
    "cancel": "Cancel runs.",
    "pause": "Pause runs.",
    "resume": "Let paused runs go on.",
    "retry": "Try failed or cancelled runs again.",
    "restart": "Let runs begin again, from the start or from a step.",
    "pin": "Have runs go on with one version of their code, or with any.",
    "fork": "Start a run that goes on from what another has recorded.",
    "prune": "Remove ended runs whose retention is over, or older ones.",
    "versions": "List versions of the code, their runs and workers.",
    "migrate": "Create or verify the schema of a store.",
    "check": "Would the runs in flight survive this code?",
    "pull": "Write everything recorded of a run as JSON.",
    "replay": "Replay recorded runs from files against this code.",
    "doctor": "Check that a store is as it must be.",
    "config": "Show each setting, its value and where that comes from.",
    "completion": "Print a script that completes commands in a shell.",
}
"""Every command with its line in the help; its module is found by its name."""


class ReaderGone(Exception):
    """Whoever read the output has closed it. Click would take a BrokenPipeError for its own."""


class Commands(click.Group):
    """The commands by name, imported one by one."""

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        """Read the words before the command; --help and --version print here."""
        try:
            return super().make_context(info_name, args, parent, **extra)
        except BrokenPipeError as error:
            raise ReaderGone from error

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise ReaderGone from error

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # click's signature
        """Return the names, in the order in which people meet them."""
        return list(COMMANDS)

    def get_command(
        self,
        ctx: click.Context,  # noqa: ARG002  # click's signature
        cmd_name: str,
    ) -> click.Command | None:
        """Import and return a command, or None where there is none."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"perdure.cli.commands.{cmd_name}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that was named.

        Raises:
            Failure: there is none; it suggests one that is written alike.
        """
        if args[0].startswith("-") or args[0] in COMMANDS:
            return super().resolve_command(ctx, args)
        close = difflib.get_close_matches(args[0], COMMANDS, n=1)
        raise Failure(
            ExitCode.USAGE,
            f"there is no command {args[0]!r}",
            why=f"the commands are {', '.join(COMMANDS)}",
            do=f"did you mean perdure {close[0]}?" if close else "perdure --help",
        )

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write the commands into the help, without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    cls=Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option("--app", metavar="MOD:APP", help="The app; as the option of each command.")
@click.option("--url", metavar="URL", help="The store; as the option of each command.")
@click.option(
    "--traceback", is_flag=True, expose_value=False, help="Show where an error was raised."
)
@click.version_option(__version__, prog_name="perdure", message="%(prog)s %(version)s")
@click.pass_context
def root(context: click.Context, app: str | None, url: str | None) -> None:
    """Durable workflows and jobs: run workers, look at runs, control them.

    An app is found by --app, PERDURE_APP or `app` in [tool.perdure] of pyproject.toml. Commands
    that need no code of yours take the URL of a store instead: --url, PERDURE_URL or `url`.
    """
    context.obj = {"app": app, "url": url}
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: the words behind ``perdure``; those of the process where left out.

    Returns:
        The exit code; see :class:`~perdure.cli._failures.ExitCode`.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    _print_whatever_comes()
    try:
        return _run(given)
    except (BrokenPipeError, ReaderGone):
        _forget_output()
        return ExitCode.OK


def _run(arguments: list[str]) -> int:
    """Run a command; however it ends, the exit code says which kind of end that is."""
    cause: BaseException | None
    try:
        answer: Any = root.main(arguments, prog_name="perdure", standalone_mode=False)
        sys.stdout.flush()
    except Failure as failure:
        problem, cause = failure, failure.__cause__
    except click.FileError as error:
        problem, cause = of_file(error), error
    except click.UsageError as error:
        problem, cause = of_usage(error), None
    except (click.Abort, KeyboardInterrupt):
        return ExitCode.INTERRUPTED
    except (BrokenPipeError, ReaderGone):
        raise
    except BaseException as error:  # noqa: BLE001 -- a SystemExit of the user's code, too
        problem, cause = of_anything(error), error
        _forget_unwritten()
    else:
        return answer if isinstance(answer, int) else ExitCode.OK
    if wants_traceback(arguments):
        problem = with_traceback(problem, cause)
    print_failure(problem, in_json=wants_json(arguments))
    return problem.exit_code


def _print_whatever_comes() -> None:
    """Let a terminal that does not know a character show its number instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _forget_unwritten() -> None:
    """Where the output cannot be written (a full disk), the last flush must not end the process."""
    try:
        sys.stdout.flush()
    except OSError:
        _forget_output()


def _forget_output() -> None:
    """Whoever read the output has gone (``| head``): let Python's last flush go nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
