"""The record of one run as its body replays: which durable call finds which checkpoint.

A checkpoint is found by its identity alone: scope, path, argument fingerprint and how many equal
calls came before. A call whose identity is not recorded is new work, with one exception: where
the record at its position among the calls of its name is still unclaimed when it starts to
execute, the code asks for something else than what was done there, and that is a mismatch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, TypeAlias

from perdure.model.records import Checkpoint, StepKey, StepKind, StepOutcome

_Identity: TypeAlias = tuple[bytes, str, bytes, int]

Moment: TypeAlias = tuple[int, int]
"""When an outcome was recorded: epoch and the time of its end, which rises within a claim."""

TAKEN = b"true"
"""What the record of a patch holds for a run that goes by the new code."""

_NOT_GIVEN = frozenset({StepOutcome.PENDING, StepOutcome.CANCELLED})
"""Outcomes that are not given to the body: it tries again, or gives up again."""


def moment_of(record: Checkpoint) -> Moment:
    """Return when an outcome was recorded, to be compared within its run."""
    return record.epoch, record.ended_at


def is_of_the_body(path: str) -> bool:
    """Tell whether a call, or a scope, of this path is in no step or inlined body."""
    return all(part.startswith("~") for part in path.split("/")[:-1])


def _calls_around(path: str) -> Iterator[str]:
    """Yield the paths of the steps and inlined bodies in which a call was made."""
    at = path.find("/")
    while at >= 0:
        start = path.rfind("/", 0, at) + 1
        if path[start] != "~":
            yield path[:at]
        at = path.find("/", at + 1)


# Nothing is ever put into them.
_NO_DICT: Final[dict[Any, Any]] = {}
_NO_SET: Final[set[str]] = set()


class Journal:
    """The checkpoints of a run, each claimed at most once by a call of the body.

    Attributes:
        recorded: how many calls are recorded.
        given_up: the calls that the body gave up, then or now.
        patches: by which code the run goes, by the name of a patch; see
            :mod:`perdure._engine.patches`. They are no calls: nobody has to ask for them.
        origin: what the run's generation continues; see :mod:`perdure.model.lineage`. No call.
    """

    __slots__ = (
        "_around",
        "_asked",
        "_by_position",
        "_deeper",
        "_direct",
        "_expected",
        "_records",
        "_unclaimed",
        "_within",
        "given_up",
        "origin",
        "patches",
        "recorded",
    )

    def __init__(self, checkpoints: Sequence[Checkpoint]) -> None:
        self.given_up: list[StepKey] = []
        self._within: dict[_Identity, Checkpoint] = {}
        self._asked: set[int] = set()  # ids of records, which are kept as long as this
        self._expected: list[tuple[Moment, int]] | None = None
        self.patches: dict[str, bool] = {}
        self.origin: Checkpoint | None = None
        self._unclaimed: dict[_Identity, Checkpoint] = _NO_DICT
        self._around: set[str] = _NO_SET  # paths of calls with something recorded inside
        self._direct: dict[bytes, list[_Identity]] = _NO_DICT  # by the scope inside the call
        self._deeper: dict[str, list[_Identity]] = _NO_DICT  # by the path of the call
        self._by_position: dict[tuple[bytes, str, int], _Identity] = _NO_DICT
        self._records: tuple[Checkpoint, ...] = ()
        self.recorded = 0
        if checkpoints:
            self._index(checkpoints)

    def _index(self, checkpoints: Iterable[Checkpoint]) -> None:
        """Take in what is recorded; a run that begins does without: 1 us, and what it frees."""
        self._unclaimed, self._around, self._direct = {}, set(), {}
        self._deeper, self._by_position = {}, {}
        self._records = tuple(self._calls_of(checkpoints))
        for record in self._records:
            key = record.key
            identity = (key.scope, key.path, key.fingerprint, key.k)
            self._unclaimed[identity] = record
            self._by_position[key.scope, key.path, record.position] = identity
            if "/" in key.path:
                self._note_around(identity)
            if record.outcome is StepOutcome.CANCELLED:
                self.given_up.append(key)
        self.recorded = len(self._unclaimed)

    def _note_around(self, identity: _Identity) -> None:
        scope, path = identity[:2]
        for around in _calls_around(path):
            self._around.add(around)
            if "/" in path[len(around) + 1 :]:
                self._deeper.setdefault(around, []).append(identity)
            else:
                self._direct.setdefault(scope, []).append(identity)

    def _calls_of(self, checkpoints: Iterable[Checkpoint]) -> Iterator[Checkpoint]:
        """Yield the records of calls; take in those that are none."""
        for record in checkpoints:
            if record.kind is StepKind.PATCH:
                self.patches[record.key.path] = record.value == TAKEN
            elif record.kind is StepKind.ORIGIN:
                self.origin = record
            else:
                yield record

    def claim(self, scope: bytes, path: str, fingerprint: bytes, k: int) -> Checkpoint | None:
        """Return the record of exactly this identity and mark it claimed; None for new work."""
        identity = (scope, path, fingerprint, k)
        return self._unclaimed.pop(identity, None) or self._within.pop(identity, None)

    def look_up(self, scope: bytes, path: str, fingerprint: bytes, k: int) -> Checkpoint | None:
        """Return the record without claiming it: the next attempt of the step around may ask."""
        identity = (scope, path, fingerprint, k)
        return self._unclaimed.get(identity) or self._within.get(identity)

    def has_inside(self, path: str) -> bool:
        """Tell whether anything is recorded inside calls of this path."""
        return path in self._around

    def leave_to(self, path: str, inner: bytes) -> None:
        """Expect the body no more to ask for what is recorded inside a call.

        The call has its outcome, or is a step that is executed and asks by itself.

        Args:
            path: of the call.
            inner: the digest of the scope inside it. What is deeper inside, or in a branch, is
                told by its path alone.
        """
        for identity in (*self._direct.pop(inner, ()), *self._deeper.pop(path, ())):
            record = self._unclaimed.pop(identity, None)
            if record is not None:
                self._within[identity] = record

    def displaced(self, scope: bytes, path: str, position: int) -> Checkpoint | None:
        """Return the unclaimed record at this position among the calls of this name, if any."""
        identity = self._by_position.get((scope, path, position))
        return None if identity is None else self._unclaimed.get(identity)

    def remember(self, record: Checkpoint) -> None:
        """Add what was recorded just now inside a step: its next attempt may ask for it."""
        key = record.key
        self._within[key.scope, key.path, key.fingerprint, key.k] = record

    def orphans(self) -> list[Checkpoint]:
        """Return the steps that no call has claimed, once the body has ended.

        What is recorded inside another step or inlined body goes with that.
        """
        return [record for record in self._unclaimed.values() if is_of_the_body(record.key.path)]

    def asked(self, record: Checkpoint) -> None:
        """Take note that a call asks for the outcome that it has claimed."""
        self._asked.add(id(record))

    def expects_before(self, moment: Moment) -> bool:
        """Tell whether an outcome was recorded before this moment that no call has asked for yet.

        A call that is made early and awaited late has claimed its record, and may yet ask.
        """
        expected = self._expected
        if expected is None:  # needed by bodies of several branches only
            expected = self._expected = sorted(
                (
                    (moment_of(record), id(record))
                    for record in self._records
                    if record.outcome not in _NOT_GIVEN and is_of_the_body(record.key.path)
                ),
                reverse=True,
            )
        while expected and expected[-1][1] in self._asked:
            expected.pop()
        return bool(expected) and expected[-1][0] < moment

    def expect_nothing(self) -> None:
        """Count on no call for what was not asked for yet."""
        self._expected = []

    @property
    def replaying(self) -> bool:
        """Whether there are records that the body has not asked for yet."""
        return bool(self._unclaimed)
