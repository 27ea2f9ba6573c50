"""The trace of a world: what happened when, as lines that are equal for equal seeds."""

from collections.abc import Callable
from hashlib import blake2b
from typing import Any

from perdure.model.records import Grant, StepKey
from perdure.model.transitions import Claimed, RescueWorker, SaveCheckpoint, Settle

HIDDEN = {"host", "pid", "definitions", "site", "queues", "version", "definition", "text", "log"}
"""Fields that differ between machines or say nothing."""

LONGEST = 60
"""Characters of a payload that are shown."""


class Trace:
    """Collects events cheaply and tells them when asked.

    Args:
        alias: returns a short name for a run's id.
    """

    def __init__(self, alias: Callable[[str], str]) -> None:
        self._events: list[tuple[Any, ...]] = []
        self._alias = alias

    def add(self, at: float, *event: Any) -> None:
        """Add an event."""
        self._events.append((at, *event))

    def lines(self) -> list[str]:
        """Return the trace as text."""
        return [f"{at:11.6f} {self._line(*event)}" for at, *event in self._events]

    def digest(self) -> str:
        """Return a digest of everything that happened."""
        return blake2b("\n".join(self.lines()).encode(), digest_size=16).hexdigest()

    def _line(self, kind: str, *event: Any) -> str:
        if kind != "apply":
            return " ".join((kind, *map(str, event)))
        name, transition, outcome, how = event
        asked, answered = self._tell(transition), self._tell(outcome)
        return f"{name} {how + ' ' if how else ''}{asked} -> {answered}"

    def _tell(self, record: Any) -> str:
        name = type(record).__name__
        match record:
            case SaveCheckpoint(grant=grant, key=key):
                said = f"{record.outcome} try {record.tries} {self._short(record.value)}"
                return f"Save {self._short(grant)} {self._short(key)} {said} +{record.delay}"
            case Settle(grant=grant, verdict=verdict):
                return f"Settle {self._short(grant)} {self._tell(verdict)}"
            case Claimed(runs=runs):
                given = [f"{self._alias(c.run.run_id)}/{c.run.epoch}" for c in runs]
                return f"Claimed {given} known={record.known} suspects={record.suspects}"
            case RescueWorker(worker_id=worker_id, beat=beat):
                return f"RescueWorker {worker_id[-6:]} beat={beat}"
        fields = [
            f"{field}={self._short(getattr(record, field))}"
            for field in record.__struct_fields__
            if field not in HIDDEN
        ]
        return f"{name}({', '.join(fields)})"

    def _short(self, value: Any) -> str:
        match value:
            case Grant():
                return f"{self._alias(value.run_id)}/{value.epoch}"
            case StepKey():
                return f"{value.path}#{value.k}"
            case bytes():
                return value[:LONGEST].decode()
            case str() if len(value) == 36:
                alias = self._alias(value)
                return value[-6:] if alias == value else alias
            case _:
                return str(value)
