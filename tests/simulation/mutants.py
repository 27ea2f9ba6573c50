"""Ten planted bugs: the classic mistakes of home-made engines, each as a patch of this process.

The simulation must find every one of them. Each entry says what is planted and which promises it
should break; they patch the memory store's verbs, the state machine or the engine.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from msgspec.structs import replace

from perdure._engine import calls
from perdure._engine.committer import Committer
from perdure._engine.journal import Journal as Records
from perdure.errors import NotApplied, OutcomeUnknown
from perdure.model import lifecycle
from perdure.model.records import Grant, Status
from perdure.model.transitions import Beaten, Heartbeat, RescueWorker, Settle
from perdure.stores.memory import claims, runs, workers
from perdure.stores.memory.journal import VERBS
from perdure.stores.memory.space import Space

APART = 5_000
"""Microseconds between two claims that read the same rows in :func:`split_claim`."""


@contextmanager
def no_fence_on_checkpoint() -> Iterator[None]:
    """A checkpoint is accepted for whoever names the run, whatever its grant."""
    with patch.object(runs, "is_newest", lambda run, grant: True):
        yield


@contextmanager
def no_fence_on_finish() -> Iterator[None]:
    """A settle ends the present claim, whoever sent it."""
    settle = runs.settle

    def unfenced(space: Space, asked: Any, now: int) -> Any:
        row = space.rows.get(asked.grant.run_id)
        if row is not None and row.run.status is Status.RUNNING:
            current = Grant(row.run.run_id, row.run.epoch, row.run.grant)
            asked = replace(asked, grant=current)
        return settle(space, asked, now)

    with patch.dict(VERBS, {Settle: unfenced}):
        yield


@contextmanager
def renew_ignoring_epoch() -> Iterator[None]:
    """A worker that was rescued renews its lost lease: it stays known, and what it held is not
    fenced any more, although others have claimed it since."""
    heartbeat, rescue, is_newest = workers.heartbeat, workers.rescue, runs.is_newest
    lost: dict[str, set[tuple[str, int]]] = {}
    revived: set[tuple[str, int]] = set()

    def remember(space: Space, asked: Any, now: int) -> Any:
        worker = space.workers.get(asked.worker_id)
        held = [] if worker is None else worker.in_order()
        pairs = {(row.run.run_id, row.run.epoch) for row in held}
        answer = rescue(space, asked, now)
        if asked.worker_id not in space.workers:
            lost.setdefault(asked.worker_id, set()).update(pairs)
        return answer

    def renew(space: Space, asked: Any, now: int) -> Any:
        if asked.worker_id not in lost:
            return heartbeat(space, asked, now)
        revived.update(lost[asked.worker_id])
        return Beaten(known=True, beat=1, held=len(lost[asked.worker_id]))

    def relaxed(run: Any, grant: Any) -> bool:
        return is_newest(run, grant) or (grant.run_id, grant.epoch) in revived

    with (
        patch.dict(VERBS, {RescueWorker: remember, Heartbeat: renew}),
        patch.object(runs, "is_newest", relaxed),
    ):
        yield


@contextmanager
def split_claim() -> Iterator[None]:
    """A claim reads what is queued and marks it later, without comparing: two workers that claim
    within :data:`APART` are given the same runs."""
    give = claims._give
    read: dict[Space, tuple[int, str, list[Any]]] = {}

    def twice(space: Space, claim: Any, now: int) -> list[Any]:
        at, worker_id, rows = read.get(space, (0, "", []))
        if worker_id != claim.worker_id and now - at <= APART:
            stale = [row for row in rows if row.run.status is Status.RUNNING][: claim.limit]
            for row in stale:
                space.release(row.run)
                lifecycle.claim(row.run, claim.worker_id, claim.token, now)
                space.index(row, now)
            if stale:
                return stale
        given = give(space, claim, now)
        read[space] = (now, claim.worker_id, given)
        return given

    with patch.object(claims, "_give", twice):
        yield


@contextmanager
def epoch_not_raised() -> Iterator[None]:
    """Every claim of a run after the first has the epoch of the one before."""
    claim = lifecycle.claim

    def same_epoch(run: Any, worker_id: str, token: int, now: int) -> None:
        claim(run, worker_id, token, now)
        run.epoch = 1

    with patch.object(lifecycle, "claim", same_epoch):
        yield


@contextmanager
def checkpoint_overwrites() -> Iterator[None]:
    """The newest checkpoint under an identity replaces the one that is recorded."""
    with (
        patch.object(runs, "is_final", lambda recorded: False),
        patch.object(runs, "is_same_try", lambda recorded, save: False),
    ):
        yield


@contextmanager
def retry_timer_in_memory() -> Iterator[None]:
    """The back-off of a step is slept in the process, and recorded as due at once."""
    failed = calls._Execution._failed

    async def slept(self: Any, error: Exception, delay: int | None) -> Any:
        due_at = await failed(self, error, None if delay is None else 0)
        await asyncio.sleep((delay or 0) / 1e6)
        return due_at

    with patch.object(calls._Execution, "_failed", slept):
        yield


@contextmanager
def crash_counter_not_raised() -> Iterator[None]:
    """A rescue leaves the number of crashes as it was before the first."""
    rescue = lifecycle.rescue

    def uncounted(run: Any, asked: Any, *, progressed: bool, now: int) -> None:
        run.crashes = -1
        rescue(run, asked, progressed=progressed, now=now)

    with patch.object(lifecycle, "rescue", uncounted):
        yield


@contextmanager
def prefix_match_on_step_ids() -> Iterator[None]:
    """A call that finds no record of its own takes one whose path begins with its path."""
    claim = Records.claim

    def by_prefix(self: Records, scope: bytes, path: str, fingerprint: bytes, k: int) -> Any:
        found = claim(self, scope, path, fingerprint, k)
        if found is not None:
            return found
        for other in self._unclaimed:
            if other[0] == scope and other[1].startswith(path) and other[2:] == (fingerprint, k):
                return self._unclaimed.pop(other)
        return None

    with patch.object(Records, "claim", by_prefix):
        yield


@contextmanager
def unknown_treated_as_not_applied() -> Iterator[None]:
    """A batch whose answer was lost counts as refused."""
    write_failed = Committer._write_failed

    async def refused(self: Committer, entries: Any, error: Any) -> None:
        if isinstance(error, OutcomeUnknown):
            error = NotApplied(str(error))
        await write_failed(self, entries, error)

    with patch.object(Committer, "_write_failed", refused):
        yield


MUTANTS = {
    mutant.__name__: mutant
    for mutant in (
        no_fence_on_checkpoint,
        no_fence_on_finish,
        renew_ignoring_epoch,
        split_claim,
        epoch_not_raised,
        checkpoint_overwrites,
        retry_timer_in_memory,
        crash_counter_not_raised,
        prefix_match_on_step_ids,
        unknown_treated_as_not_applied,
    )
}
