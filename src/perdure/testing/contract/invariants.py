# pyright: basic
"""What must hold of a namespace at every instant, told from the store's reads alone.

The letters are those of the guarantees: one live grant a run and rising epochs (S3), one terminal
record (S7), nothing left without its owner (S15).
"""

from collections import Counter
from collections.abc import Sequence

from perdure.model.records import (
    TERMINAL,
    Control,
    History,
    Rank,
    RunQuery,
    RunRecord,
    Status,
    StepOutcome,
    WaitKind,
)
from perdure.model.transitions import Claim, Claimed, Outcome, Transition
from perdure.store import Store


class Watched:
    """A store that notes every grant it gives: no (run, epoch) is given to two claims."""

    def __init__(self, store: Store, namespace: str, claims: dict) -> None:
        self._store = store
        self._claims = claims
        self.namespace = namespace
        self.is_open = False

    def __getattr__(self, name: str):
        return getattr(self._store, name)

    async def open(self) -> None:
        await self._store.open()
        self.is_open = True

    async def close(self) -> None:
        self.is_open = False
        await self._store.close()

    async def apply(self, batch: Sequence[Transition]) -> list[Outcome]:
        outcomes = await self._store.apply(batch)
        assert len(outcomes) == len(batch)
        for transition, outcome in zip(batch, outcomes, strict=True):
            if isinstance(transition, Claim) and isinstance(outcome, Claimed):
                self._note(transition, outcome)
        return outcomes

    def _note(self, claim: Claim, claimed: Claimed) -> None:
        for given in claimed.runs:
            run = given.run
            assert run.status is Status.RUNNING
            assert (run.worker_id, run.grant) == (claim.worker_id, claim.token)
            grant = (self.namespace, run.run_id, run.epoch)
            holder = (claim.worker_id, claim.token)
            assert self._claims.setdefault(grant, holder) == holder, f"{grant} was given twice"


async def check_invariants(store: Store) -> None:
    """Assert what must hold of the whole namespace."""
    runs = await _every_run(store)
    assert len({run.run_id for run in runs}) == len(runs), "one run an id"
    workers = [worker.worker_id for worker in await store.workers()]
    assert len(set(workers)) == len(workers), "one row a worker"
    live_keys = Counter(
        (run.definition, run.unique_key)
        for run in runs
        if run.unique_key is not None and run.status not in TERMINAL
    )
    assert not [key for key, runs in live_keys.items() if runs > 1], "one live run a unique_key"
    terminal = {run.run_id for run in runs if run.status in TERMINAL}
    endings = await store.endings([run.run_id for run in runs])
    assert endings.keys() == terminal
    for run in runs:
        assert await store.get(run.run_id) == run
        history = await store.history(run.run_id)
        assert history is not None
        assert history.run == run
        _check_run(run, set(workers))
        _check_rows(history, terminal)
        if run.status in TERMINAL:
            ending = endings[run.run_id]
            assert (ending.status, ending.result) == (run.status, run.result)
            assert (ending.error, ending.reason) == (run.error, run.reason)


async def _every_run(store: Store) -> list[RunRecord]:
    runs = await store.list_runs(RunQuery(limit=1_000))
    while page := await store.list_runs(RunQuery(limit=1_000, before=runs[-1].seq if runs else 0)):
        assert page[0].seq < runs[-1].seq, "a page goes on before its cursor"
        runs += page
    seqs = [run.seq for run in runs]
    assert seqs == sorted(set(seqs), reverse=True), "newest first, each once"
    return runs


def _check_run(run: RunRecord, workers: set[str]) -> None:
    context = f"{run.run_id!r} is {run.status}"
    assert run.created_at <= run.updated_at, context
    assert (run.epoch > 0) == (run.claimed_at is not None) == (run.started_at is not None), context
    assert (run.finished_at is not None) == (run.status in TERMINAL), context
    if run.status is not Status.WAITING:
        assert run.due_at is None, context
        assert run.waiting_for is None, context
    if run.status is not Status.RUNNING:
        assert run.control is Control.NONE, context
    match run.status:
        case Status.QUEUED:
            expected = Rank.RESUMED if run.epoch else Rank.FRESH
            assert run.rank is (Rank.SUSPECT if run.crashes >= 2 else expected), context
        case Status.RUNNING:
            assert run.worker_id in workers, f"{context} with a worker that is not registered"
            assert run.grant != 0, context
        case Status.WAITING:
            assert run.waiting_for is not None, context
        case Status.PAUSED:
            assert run.reason == "mismatch", context
            assert run.fitness is not None, context
            assert run.error is not None, context
        case Status.COMPLETED:
            assert run.result is not None, context
            assert run.error is None, context
            assert run.reason is None, context
        case Status.FAILED:
            assert run.error is not None, context
            assert run.reason is not None, context
        case Status.CANCELLED:
            assert run.reason is None, context
            assert run.result is None, context


def _check_rows(history: History, terminal: set[str]) -> None:
    run = history.run
    context = f"{run.run_id!r} is {run.status} with {history.waits!r}"
    keys = [checkpoint.key for checkpoint in history.checkpoints]
    assert len(set(keys)) == len(keys), "one outcome a step"
    for checkpoint in history.checkpoints:
        assert checkpoint.epoch <= run.epoch
        assert checkpoint.due_at is None or checkpoint.outcome is StepOutcome.PENDING
    assert all(attempt.epoch <= run.epoch for attempt in history.attempts)
    assert all(attempt.number <= run.attempt for attempt in history.attempts)
    assert len({audit.request_id for audit in history.audit}) == len(history.audit)
    if history.waits:
        assert run.status in {Status.WAITING, Status.QUEUED, Status.RUNNING}, context
    if run.status is Status.WAITING:
        assert history.waits or run.due_at is not None, f"{context}: nothing can wake it"
        joins: dict[int, set[str]] = {}
        for wait in history.waits:
            if wait.kind is WaitKind.CHILD:
                joins.setdefault(wait.join, set()).add(wait.key)
        if any(children <= terminal for children in joins.values()):
            assert run.coalesce, f"{context}: a join is fulfilled and it was not woken"
            assert run.due_at is not None, context
