"""A stream of a run: its entries, and how far each scope has written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from perdure.model import lineage
from perdure.model.records import Micros, RunRecord, StepKey
from perdure.model.streams import StreamMark, WriteStream


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry, with what says where it comes from.

    ``until``: the last generation whose body has written it, as far as that knows: a later one than
    ``generation`` where that continues from a step behind it.
    """

    generation: int
    until: int
    scope: bytes
    k: int
    epoch: int
    at: Micros
    value: bytes | None


@dataclass(slots=True)
class Mark:
    """How far a scope, whose readable path this is, has written in a generation."""

    path: str
    written: int
    closed: bool


@dataclass(slots=True)
class StreamRow:
    """A stream with everything that is kept of it; ``marks`` are by generation and scope."""

    entries: list[Entry] = field(default_factory=list[Entry])
    marks: dict[tuple[int, bytes], Mark] = field(default_factory=dict[tuple[int, bytes], Mark])

    @property
    def size(self) -> int:
        """Bytes of all values."""
        return sum(len(entry.value or b"") for entry in self.entries)

    def has(self, generation: int, asked: WriteStream) -> bool:
        """Tell whether an entry is written already."""
        mark = self.marks.get((generation, asked.scope))
        return mark is not None and asked.k < mark.written

    def add(self, generation: int, asked: WriteStream) -> None:
        """Add an entry."""
        epoch, at, value = asked.grant.epoch, asked.at, asked.value
        self.entries.append(Entry(generation, generation, asked.scope, asked.k, epoch, at, value))
        self.marks[generation, asked.scope] = Mark(asked.path, asked.k + 1, value is None)

    def marks_of(self, name: str, generation: int) -> Iterator[StreamMark]:
        """Yield how far the scopes of a generation have written."""
        for (number, scope), mark in self.marks.items():
            if number == generation:
                yield StreamMark(name, scope, mark.written, mark.closed)

    def forget(self, generation: int) -> None:
        """Forget what was laid ready for a generation."""
        for place in [place for place in self.marks if place[0] == generation]:
            del self.marks[place]
        self.entries = [
            replace(entry, until=generation - 1) if entry.until == generation else entry
            for entry in self.entries
        ]

    def keep(self, generation: int, cut: lineage.Moment | None, before: StepKey | None) -> None:
        """Lay ready what the next generation, which continues from a step, keeps of this one."""
        kept = [
            number
            for number, entry in enumerate(self.entries)
            if self._is_of(entry, generation) and self._is_kept(entry, cut, before)
        ]
        for number in kept:
            self.entries[number] = replace(self.entries[number], until=generation + 1)
        self._mark(generation, generation + 1)

    def copied(
        self, run: RunRecord, cut: lineage.Moment | None, before: StepKey | None
    ) -> StreamRow:
        """Return what a fork of a run begins with.

        Args:
            run: the source, in the generation that is continued.
            cut: the moment before which entries are kept; None for all.
            before: the step that is continued from.
        """
        copy = StreamRow(marks=dict(self.marks))
        for entry in self.entries:
            if entry.generation <= run.generation and self._is_kept(entry, cut, before):
                until = 0 if self._is_of(entry, run.generation) else -1
                epoch = entry.epoch - run.epoch
                copy.entries.append(replace(entry, generation=0, until=until, epoch=epoch))
        copy._mark(run.generation, 0)
        copy.marks = {place: mark for place, mark in copy.marks.items() if not place[0]}
        return copy

    def _mark(self, source: int, generation: int) -> None:
        """Set the marks of a generation by what is kept for it, with the paths of another one."""
        paths = {
            scope: mark.path for (number, scope), mark in self.marks.items() if number == source
        }
        for place in [place for place in self.marks if place[0] == generation]:
            del self.marks[place]
        for entry in self.entries:
            if self._is_of(entry, generation):
                mark = Mark(paths[entry.scope], entry.k + 1, entry.value is None)
                self.marks[generation, entry.scope] = mark

    def _is_of(self, entry: Entry, generation: int) -> bool:
        """Tell whether the body of a generation has written an entry, as far as it knows."""
        return entry.generation <= generation <= entry.until

    def _is_kept(self, entry: Entry, cut: lineage.Moment | None, before: StepKey | None) -> bool:
        """Tell whether an entry was written before a step, and not inside it."""
        if cut is not None and (entry.epoch, entry.at) >= cut:
            return False
        mark = self.marks.get((entry.generation, entry.scope))
        return before is None or mark is None or not mark.path.startswith(lineage.inside(before))
