"""Recorded runs replayed against today's code, for ``check`` and ``replay``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import click

from perdure.app import App
from perdure.cli._failures import ExitCode
from perdure.cli._output import as_json, escape, table
from perdure.errors import UnknownDefinition
from perdure.model.records import History, StepKind
from perdure.model.versions import Pinned
from perdure.testing.failures import Hung
from perdure.testing.replaying import replay


@dataclass(frozen=True, slots=True)
class Checked:
    """What became of one recorded run on today's code.

    Attributes:
        run_id, name: which run, of which definition.
        problems: what would break, a sentence each; none where it would go on.
        asked: the steps that it would execute next.
    """

    run_id: str
    name: str
    problems: tuple[str, ...]
    asked: tuple[str, ...]


async def check_all(app: App, histories: Iterable[History]) -> list[Checked]:
    """Replay histories one after another; no step is executed and nothing is written."""
    return [await _check(app, history) for history in histories]


async def _check(app: App, history: History) -> Checked:
    run = history.run
    try:
        report = await replay(history, app)
    except UnknownDefinition as error:
        return Checked(run.run_id, run.definition, (str(error),), ())
    except Hung as error:
        return Checked(run.run_id, run.definition, (str(error),), ())
    problems = [] if report.mismatch is None else [report.mismatch]
    problems += [f"recorded step {path!r} is not asked for any more" for path in report.orphaned]
    if report.error is not None:
        problems.append(f"the code would fail: {report.error}")
    return Checked(run.run_id, run.definition, tuple(problems), report.asked)


def patches_of(histories: Iterable[History]) -> dict[str, Counter[bool]]:
    """Return how many of the runs go by the new code and by the old, by the name of a patch."""
    found: dict[str, Counter[bool]] = {}
    for history in histories:
        for record in history.checkpoints:
            if record.kind is StepKind.PATCH:
                found.setdefault(record.key.path, Counter())[record.value == b"true"] += 1
    return found


def report(
    checked: Sequence[Checked],
    patches: dict[str, Counter[bool]],
    missing: Sequence[Pinned] = (),
    *,
    in_json: bool,
) -> ExitCode:
    """Print what was found; return the exit code.

    Args:
        checked: what became of each recorded run.
        patches: by which code how many of them go.
        missing: what is pinned to versions that the code does not have.
        in_json: print one JSON object.
    """
    broken = [one for one in checked if one.problems]
    if in_json:
        click.echo(as_json(_fields(checked, patches, missing)))
    else:
        _print(checked, broken, patches, missing)
    return ExitCode.FOUND_PROBLEMS if broken or missing else ExitCode.OK


def _fields(
    checked: Sequence[Checked], patches: dict[str, Counter[bool]], missing: Sequence[Pinned]
) -> dict[str, Any]:
    return {
        "runs": [
            {
                "run_id": one.run_id,
                "name": one.name,
                "problems": list(one.problems),
                "next": list(one.asked),
            }
            for one in checked
        ],
        "patches": {
            name: {"new": count[True], "old": count[False]} for name, count in patches.items()
        },
        "missing": [
            {"name": one.definition, "version": one.version, "runs": one.runs} for one in missing
        ],
    }


def _print(
    checked: Sequence[Checked],
    broken: Sequence[Checked],
    patches: dict[str, Counter[bool]],
    missing: Sequence[Pinned],
) -> None:
    rows = [(one.run_id, one.name, problem) for one in broken for problem in one.problems]
    if rows:
        click.echo(table(("RUN", "NAME", "WHAT WOULD BREAK"), rows))
    for name, count in sorted(patches.items()):
        click.echo(
            f"patch {escape(name)}: {count[True]:,} runs go by the new code, {count[False]:,} by "
            "the old"
        )
    for one in missing:
        are = "run is" if one.runs == 1 else "runs are"
        click.echo(
            f"{one.runs:,} {are} pinned to version {escape(one.version)} of "
            f"{escape(one.definition)}, which this code does not have"
        )
    fit = len(checked) - len(broken)
    click.echo(
        f"{fit:,} of {len(checked):,} recorded runs go on with this code",
        err=bool(rows or missing),
    )
