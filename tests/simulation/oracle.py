"""The oracle: what a program comes to, in plain Python."""

from collections.abc import Callable, Iterator

from tests.simulation.programs import (
    Announce,
    Await,
    Branches,
    Children,
    Fatal,
    Flaky,
    Inline,
    Late,
    Nap,
    Nested,
    Node,
    Poison,
    Program,
    Race,
    Refusal,
    Repeat,
    Sleep,
    Step,
    Together,
    Undoable,
    Values,
)
from tests.simulation.tokens import mix

ANY = 1_000
"""An attempt in which nothing is refused."""


class Refused(Exception):
    """The program fails in this attempt."""


class Oracle:
    """Evaluates programs in plain Python.

    Args:
        programs: all of them.
        attempt: of the run.
        child_of: what the body was told of the child that it started at a place: its plain
            result, or how it ended without one.
        event_of: which event the wait at a place took, or that it was too late.
        kept: places whose outcome stands since a generation, or a run, before this one.
        entered: the inlined programs that were carried out in this generation; the record of any
            other is kept as a whole.
    """

    def __init__(
        self,
        programs: list[Program],
        attempt: int,
        child_of: Callable[[str], str],
        event_of: Callable[[str], str],
        *,
        kept: set[str],
        entered: set[str],
    ) -> None:
        self._programs = programs
        self._attempt = attempt
        self._child_of = child_of
        self._event_of = event_of
        self._kept = kept
        self._entered = entered

    def result(self, number: int) -> str:
        """Return the plain result of a run.

        Raises:
            Refused: it fails.
        """
        return ",".join(f"{place}={value}" for place, value in self._run(number, "")[0])

    def _run(self, number: int, prefix: str) -> tuple[list[tuple[str, str]], str]:
        return self._nodes(self._programs[number], "start", prefix)

    def _nodes(self, nodes: Program, given: str, prefix: str) -> tuple[list[tuple[str, str]], str]:
        made: list[tuple[str, str]] = []
        for node in nodes:
            pairs = list(self._node(node, given, prefix))
            if isinstance(node, Inline):
                given = mix(prefix + node.name, ",".join(f"{p}={v}" for p, v in pairs))
            elif isinstance(node, Branches):
                given = self._nodes(node.branches[-1], given, prefix)[1]
            elif pairs:
                given = pairs[-1][1]
            made += pairs
        return made, given

    def _node(self, node: Node, given: str, prefix: str) -> Iterator[tuple[str, str]]:  # noqa: C901, PLR0912 -- a table
        match node:
            case Step(name=name) | Poison(name=name) | Undoable(name=name):
                yield prefix + name, mix(prefix + name, given)
            case Flaky(name=name, fails=fails, attempts=attempts):
                yield prefix + name, "failed" if fails >= attempts else mix(prefix + name, given)
            case Late(name=name):
                yield prefix + name, "late"
            case Fatal(name=name, until=until) | Refusal(name=name, until=until):
                if self._attempt < until and prefix + name not in self._kept:
                    raise Refused(name)
                if isinstance(node, Fatal):
                    yield prefix + name, mix(prefix + name, given)
            case Repeat(name=name, times=times):
                for k in range(times):
                    place = f"{prefix}{name}#{k}"
                    given = mix(place, given)
                    yield place, given
            case Nested(name=name, inner=inner):
                made = self._nodes(inner, given, prefix)[1]
                yield prefix + name, mix(prefix + name, made)
            case Together(steps=steps):
                for one in steps:
                    yield from self._node(one, given, prefix)
            case Branches(branches=branches):
                for branch in branches:
                    yield from self._nodes(branch, given, prefix)[0]
            case Children(name=name, programs=programs):
                for k in range(len(programs)):
                    place = f"{prefix}{name}#{k}"
                    yield place, mix(place, self._child_of(place))
            case Inline(name=name, program=program):
                attempt = self._attempt
                if prefix + name not in self._entered:
                    self._attempt = ANY
                yield from self._run(program, f"{prefix}{name}:")[0]
                self._attempt = attempt
            case Await(name=name) | Race(name=name):
                yield prefix + name, self._event_of(prefix + name)
            case Nap() | Values() | Sleep() | Announce():
                pass
