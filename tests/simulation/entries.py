"""What the shadow ledger keeps: runs, their generations, what each place came to, workers."""

from dataclasses import dataclass, field

from perdure.model.records import (
    Checkpoint,
    Control,
    Micros,
    Status,
    StepKey,
    StepOutcome,
    Undoing,
    Wait,
)
from perdure.model.transitions import CreateRun

PENDING = StepOutcome.PENDING
ENDED = (Status.COMPLETED, Status.FAILED, Status.CANCELLED)


@dataclass(slots=True)
class Token:
    """The outcome of one place of a program, as first committed."""

    outcome: StepOutcome
    value: bytes
    number: int
    epoch: int
    at: Micros


@dataclass(slots=True)
class Place:
    """What was committed for one place of a run's program."""

    final: Token | None = None
    passed: Token | None = None  # how a step inside a step failed, before it may be asked again
    failures: list[Token] = field(default_factory=list)  # since it was last reopened
    epochs: list[int] = field(default_factory=list)  # of every failure ever recorded
    numbers: set[int] = field(default_factory=set)  # of every outcome ever recorded


@dataclass(slots=True)
class Generation:
    """What is recorded of one generation of a run.

    ``inherited``: the places that it has from the generation or run that it continues; ``kept``:
    those of them that succeeded. ``source``: the run and its generation that it continues.
    ``taken``: which wait took an event, by the event's id.
    """

    steps: dict[StepKey, Checkpoint] = field(default_factory=dict)
    places: dict[str, Place] = field(default_factory=dict)
    place_of: dict[StepKey, str] = field(default_factory=dict)
    kept: set[str] = field(default_factory=set)
    inherited: set[str] = field(default_factory=set)
    taken: dict[str, StepKey] = field(default_factory=dict)
    source: tuple[str, int] | None = None


@dataclass(slots=True)
class Entry:
    """One run."""

    create: CreateRun
    alias: str
    created_at: Micros
    status: Status = Status.QUEUED
    epoch: int = 0
    token: int = 0  # 0 also where the claim was taken back
    worker: str = ""
    progressed: bool = False
    crashes: int = 0
    attempt: int = 1
    word: Control = Control.NONE  # that its holder is to hear
    undoing: Undoing = Undoing.NONE
    cleans: bool = False
    paused_at: Micros | None = None
    waited: bool = False  # before it was paused
    started_at: Micros | None = None  # in this generation
    requests: set[str] = field(default_factory=set)
    due_at: Micros | None = None  # while waiting: when time alone wakes it
    waits: tuple[Wait, ...] = ()
    generations: list[Generation] = field(default_factory=lambda: [Generation()])
    ready: Generation | None = None  # laid ready for a restart that its holder is to hear of
    culprits: tuple[StepKey, ...] = ()
    error: str | None = None  # the reason of a failure that is undone first
    numbers: set[int] = field(default_factory=set)  # of every outcome ever recorded
    given_up: set[str] = field(default_factory=set)  # names of steps
    endings: list[tuple[Status, bytes | None, str | None]] = field(default_factory=list)
    grants: dict[int, str] = field(default_factory=dict)  # epoch -> worker
    ends: dict[int, str] = field(default_factory=dict)  # epoch -> how that grant ended
    generation_of: dict[int, int] = field(default_factory=dict)  # epoch -> that grant's

    @property
    def is_live(self) -> bool:
        return self.status is Status.RUNNING

    @property
    def present(self) -> Generation:
        return self.generations[-1]

    @property
    def generation(self) -> int:
        return len(self.generations) - 1

    @property
    def steps(self) -> dict[StepKey, Checkpoint]:
        return self.present.steps

    @property
    def places(self) -> dict[str, Place]:
        return self.present.places


@dataclass(slots=True)
class Member:
    """A registered worker."""

    beat: int
    beat_at: Micros
    slots: int
    cleans: tuple[str, ...] = ()
    since: Micros = 0
    held: set[str] = field(default_factory=set)
