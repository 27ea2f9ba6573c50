"""Random workflow programs: trees of the nodes below, drawn by a seed.

Step names are unique in a program and often prefixes of one another.
:mod:`tests.simulation.body` carries a program out with the package's durable calls,
:mod:`tests.simulation.oracle` evaluates it in plain Python.
"""

from dataclasses import dataclass
from random import Random
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Step:
    """A step that takes some time; ``takes``: with an argument; ``threaded``: written with def."""

    name: str
    work: float = 0.0
    takes: bool = False
    threaded: bool = False


@dataclass(frozen=True, slots=True)
class Flaky:
    """A step that fails so often, with a back-off in seconds; exhausted, the body catches it."""

    name: str
    fails: int
    attempts: int
    backoff: float
    work: float = 0.0


@dataclass(frozen=True, slots=True)
class Late:
    """A step that takes longer than its timeout, as often as it is tried; the body catches it."""

    name: str
    attempts: int
    backoff: float


@dataclass(frozen=True, slots=True)
class Fatal:
    """A step that fails in every attempt of the run before ``until``; nobody catches it."""

    name: str
    until: int
    work: float = 0.0


@dataclass(frozen=True, slots=True)
class Refusal:
    """The body itself raises in every attempt of the run before ``until``."""

    name: str
    until: int


@dataclass(frozen=True, slots=True)
class Repeat:
    """The same step without arguments, several times."""

    name: str
    times: int
    work: float = 0.0


@dataclass(frozen=True, slots=True)
class Nested:
    """A step made of steps."""

    name: str
    inner: tuple["Node", ...]


@dataclass(frozen=True, slots=True)
class Together:
    """Steps called in one scope and awaited together."""

    steps: tuple[Step | Flaky, ...]


@dataclass(frozen=True, slots=True)
class Branches:
    """Several branches, each a task of its own; ``grouped``: in a TaskGroup, else a gather."""

    branches: tuple[tuple["Node", ...], ...]
    grouped: bool


@dataclass(frozen=True, slots=True)
class Nap:
    """A foreign sleep, which the engine knows nothing of."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Children:
    """Runs started by the body; ``joined``: awaited as one join, else one after another."""

    name: str
    programs: tuple[int, ...]
    joined: bool


@dataclass(frozen=True, slots=True)
class Inline:
    """Another program carried out as part of this one."""

    name: str
    program: int


@dataclass(frozen=True, slots=True)
class Poison:
    """A step that kills its process until the run's crashes in a row are so many."""

    name: str
    until: int


@dataclass(frozen=True, slots=True)
class Values:
    """Values that are derived from the run."""

    name: str


@dataclass(frozen=True, slots=True)
class Sleep:
    """A durable sleep."""

    name: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Await:
    """A wait for an event with this key (None for any); too late is a value, too."""

    name: str
    key: str | None
    timeout: float


@dataclass(frozen=True, slots=True)
class Race:
    """A wait for an event against a sleep; the body gives up whichever comes later."""

    name: str
    key: str | None
    seconds: float


@dataclass(frozen=True, slots=True)
class Announce:
    """An event that the body publishes, for the waits of whoever it fits."""

    name: str
    key: str | None


@dataclass(frozen=True, slots=True)
class Undoable:
    """A step with a compensation, registered before it (``early``) or behind it.

    The compensation fails so often in a row; more than twice is for good.
    """

    name: str
    work: float
    early: bool
    fails: int

    @property
    def undo(self) -> str:
        """The name of the compensation."""
        return f"undo-{self.name}"


Node: TypeAlias = (
    Step | Flaky | Late | Fatal | Refusal | Repeat | Nested | Together | Branches | Nap | Children
    | Inline | Poison | Values | Sleep | Await | Race | Announce
    | Undoable
)  # fmt: skip

Program: TypeAlias = tuple[Node, ...]


# --- drawing -------------------------------------------------------------------------------------

WORK = (0.0, 0.0, 0.001, 0.05, 0.6, 3.0)
BACKOFF = (0.0, 0.01, 0.5, 2.0, 7.0)
STEMS = ("a", "ab", "pay", "charge")
KEYS = ("x", "y")
"""Keys of events."""

FAMILIES = {
    "events": {"await": 3, "race": 1, "announce": 1},
    "sleeps": {"sleep": 2},
    "undo": {"undoable": 4},
}
"""Kinds of nodes that a seed has or has not, and how often."""


class Generator:
    """Draws programs."""

    def __init__(
        self, rng: Random, *, poison: bool, crash_cap: int, families: frozenset[str]
    ) -> None:
        self.programs: list[Program] = []
        self._kinds = {kind: n for name in sorted(families) for kind, n in FAMILIES[name].items()}
        self._is_inline = False
        self._rng = rng
        self._poison = poison
        self._cap = crash_cap
        self._names: list[str] = []

    def program(self, depth: int = 0, *, inline: bool = False) -> int:
        """Draw a program with its children; return its number."""
        rng = self._rng
        outer, self._names = self._names, []
        is_inline, self._is_inline = self._is_inline, inline or (depth > 0 and self._is_inline)
        nodes = self._nodes(depth, rng.randint(1, 6 if depth == 0 else 3))
        self._names, self._is_inline = outer, is_inline
        self.programs.append(nodes)
        return len(self.programs) - 1

    def _nodes(self, depth: int, count: int, *, inside: bool = False) -> Program:
        return tuple(self._node(depth, inside=inside) for _ in range(count))

    def _name(self) -> str:
        rng = self._rng
        while True:
            stem = rng.choice(self._names or STEMS) if rng.random() < 0.6 else rng.choice(STEMS)
            name = stem + rng.choice(("", "a", "ment", "2", "-x"))
            if name not in self._names and name != "pay":  # a definition, whose inlining is a step
                self._names.append(name)
                return name

    def _step(self) -> Step:
        rng = self._rng
        return Step(self._name(), rng.choice(WORK), rng.random() < 0.3, rng.random() < 0.15)

    def _flaky(self) -> Flaky:
        rng = self._rng
        attempts = rng.randint(1, 4)
        fails = rng.randint(0, attempts)
        return Flaky(self._name(), fails, attempts, rng.choice(BACKOFF), rng.choice(WORK))

    def _node(self, depth: int, *, inside: bool) -> Node:  # noqa: C901, PLR0912 -- a table
        rng = self._rng
        kinds = {"step": 6, "flaky": 4, "repeat": 1, "together": 2, "nap": 1, "late": 0.5}
        if depth < 2:
            kinds |= {"nested": 1, "branches": 2}
        if not inside and depth < 2:
            kinds |= {"children": 2, "inline": 0.7, "fatal": 0.7, "refusal": 0.4, "values": 1}
            kinds |= {"poison": 1.2} if self._poison and depth < 1 else {}
        if not inside:
            kinds |= self._kinds
        if self._is_inline:  # a body carried out inline may not register compensations
            kinds.pop("undoable", None)
        match rng.choices(list(kinds), list(kinds.values()))[0]:
            case "step":
                return self._step()
            case "flaky":
                return self._flaky()
            case "late":
                return Late(self._name(), rng.randint(1, 2), rng.choice((0.01, 2.0)))
            case "repeat":
                return Repeat(self._name(), rng.randint(2, 4), rng.choice(WORK))
            case "together":
                pair = [self._step() if rng.random() < 0.7 else self._flaky() for _ in range(2)]
                return Together((*pair, self._step()))
            case "values":
                return Values(self._name())
            case "nap":
                return Nap(rng.choice((0.03, 0.5, 4.0)))
            case "nested":
                return Nested(self._name(), self._nodes(2, rng.randint(1, 2), inside=True))
            case "branches":
                sizes = [rng.randint(1, 3) for _ in range(rng.randint(2, 3))]
                branches = (self._nodes(depth + 1, size, inside=inside) for size in sizes)
                # A TaskGroup cancels in the order of a set: with one sibling there is one order.
                return Branches(tuple(branches), len(sizes) == 2 and rng.random() < 0.5)
            case "children":
                count = rng.randint(1, 3)
                numbers = tuple(self.program(depth + 1) for _ in range(count))
                return Children(self._name(), numbers, rng.random() < 0.6)
            case "inline":
                return Inline(self._name(), self.program(depth + 1, inline=True))
            case "sleep":
                return Sleep(self._name(), rng.choice((0.0, 0.5, 2.0, 11.0)))
            case "await":
                key = rng.choice((None, *KEYS))
                return Await(self._name(), key, rng.choice((0.0, 0.3, 2.0, 5.0, 12.0)))
            case "race":
                return Race(self._name(), rng.choice((None, *KEYS)), rng.choice((0.0, 2.0, 5.0)))
            case "announce":
                return Announce(self._name(), rng.choice((None, *KEYS)))
            case "undoable":
                fails = rng.choice((0, 0, 0, 1, 3))
                return Undoable(self._name(), rng.choice(WORK), rng.random() < 0.3, fails)
            case "fatal":
                return Fatal(self._name(), rng.randint(2, 3), rng.choice(WORK))
            case "refusal":
                return Refusal(self._name(), rng.randint(2, 3))
            case _:
                return Poison(self._name(), rng.choice((1, 2, self._cap)))


def walk(nodes: Program) -> list[Node]:
    """Return the nodes of a program and all inside them."""
    found: list[Node] = []
    for node in nodes:
        found.append(node)
        match node:
            case Nested(inner=inner):
                found += walk(inner)
            case Together(steps=steps):
                found += steps
            case Branches(branches=branches):
                found += [inner for branch in branches for inner in walk(branch)]
    return found


def names_around(programs: list[Program]) -> dict[str, set[str]]:
    """Return, for each name of a step inside a step, the names of those around it."""
    around: dict[str, set[str]] = {}
    for program in programs:
        for outer in walk(program):
            if isinstance(outer, Nested):
                for inner in walk(outer.inner):
                    around.setdefault(getattr(inner, "name", ""), set()).add(outer.name)
    return around


def effort(node: Node) -> float:
    """Return how many seconds a node may take where nothing goes wrong, without those inside."""
    match node:
        case Flaky() | Late():
            return node.attempts * (getattr(node, "work", 0.5) + node.backoff + 1.0)
        case Repeat():
            return node.times * (node.work + 0.1)
        case Nap(seconds=seconds) | Sleep(seconds=seconds) | Race(seconds=seconds):
            return seconds + 1.0
        case Await(timeout=timeout):
            return timeout + 1.0
        case Undoable(work=work):
            return work + 6.0
        case Step(work=work) | Fatal(work=work):
            return work + 0.1
        case _:
            return 2.0
