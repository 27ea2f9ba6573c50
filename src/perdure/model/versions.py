"""Versions: which code a run may go on with.

A worker registers each of its definitions with the version that its code has now, and beside that
the *earlier* versions whose code it still has. A run may be *pinned* to a version (``pin``): then
only workers that have its definition in exactly that version claim it. A run that is not pinned is
claimed by any version, with the code that the worker has now.

Runs are pinned by the claim: the first one by a worker whose definition is *pinning* pins the run
to the version with which that worker executes it. So whoever creates a run, a publisher or a
schedule, needs no code, and what nobody has begun yet is nobody's. A pin stays until an operator
moves it (:class:`PinRun`) or restarts the run; a retry keeps it.

A run that is pinned and paused by a mismatch gets another chance by a worker that has the version
that it is pinned to, if that did not misfit yet: see :class:`~perdure.model.transitions.Claim`.

What nobody here can take costs a claim nothing, however much there is of it: the runs of a
definition that are pinned to one version stand together.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeAlias

import msgspec

from perdure.model.records import RunRecord, WorkerRecord

Code: TypeAlias = tuple[str, str | None]
"""A definition, and the version that runs of it are pinned to; None for those that are not."""


class Versions(msgspec.Struct, frozen=True):
    """What a worker registered of its definitions.

    Args:
        current: by name the version of the code that it has now.
        earlier: names and versions of which it has the code, too.
        pinning: names of those that pin the runs that it claims.
    """

    current: dict[str, str]
    earlier: tuple[tuple[str, str], ...] = ()
    pinning: tuple[str, ...] = ()

    def has(self, definition: str, version: str) -> bool:
        """Tell whether the worker has a definition in this version."""
        return self.current.get(definition) == version or (definition, version) in self.earlier

    def codes(self, definitions: Iterable[str]) -> Iterator[Code]:
        """Yield which runs of some definitions the worker may claim; each once."""
        for name in dict.fromkeys(definitions):
            yield name, None
            if (current := self.current.get(name)) is not None:
                yield name, current
            for earlier, version in dict.fromkeys(self.earlier):
                if earlier == name and version != current:
                    yield name, version

    def pin(self, definition: str) -> str | None:
        """Return what a claim pins a run to that is not pinned; None for nothing."""
        return self.current.get(definition) if definition in self.pinning else None

    def for_run(self, run: RunRecord) -> str | None:
        """Return the version with which the worker executes a run; None where it may not."""
        if run.pin is None:
            return self.current.get(run.definition)
        return run.pin if self.has(run.definition, run.pin) else None


def versions_of(worker: WorkerRecord) -> Versions:
    """Return what a worker registered."""
    return Versions(worker.definitions, worker.earlier, worker.pinning)


class Pinned(msgspec.Struct, frozen=True, gc=False):
    """How many runs that have not ended are pinned to one version of a definition, at least 1."""

    definition: str
    version: str
    runs: int


class PinRun(msgspec.Struct, frozen=True, gc=False):
    """An operator pins a run to a version, or unpins it (None).

    It holds from the next claim on: what executes goes on with the code that it has. A run of any
    status may be pinned, also one that has ended, which may be tried again. Nothing else of it
    changes, ``misfits`` included.
    Key: as for CancelRun. Answers: Controlled · Missing.
    """

    run_id: str
    request_id: str
    version: str | None
