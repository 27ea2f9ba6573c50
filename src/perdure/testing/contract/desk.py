"""A test's hand on a store: a clock that is set, and transitions with defaults."""

from collections.abc import Iterable
from itertools import count

from perdure.model.records import (
    Grant,
    History,
    RunQuery,
    RunRecord,
    Status,
    StepKey,
    StepKind,
    StepOutcome,
    Wait,
    WaitKind,
)
from perdure.model.transitions import (
    CancelRun,
    Claim,
    Claimed,
    ClaimedRun,
    Completed,
    Created,
    CreateRun,
    Failed,
    Outcome,
    RegisterWorker,
    Rescued,
    RescueWorker,
    RetryRun,
    SaveCheckpoint,
    Settle,
    Settled,
    Suspended,
    Transition,
    Verdict,
)
from perdure.store import Store

SECOND = 1_000_000
START = 1_800_000_000 * SECOND

DONE = Completed(b'"done"')
FAIL = Failed(b'"boom"')
CRASH = b'"crashed"'

_tokens = count(1)


def fresh_token() -> int:
    """Return a token that no other transition of this process has, larger than 32 bits."""
    return (1 << 40) + next(_tokens)


class ManualClock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self._now = START

    def now(self) -> int:
        return self._now

    def monotonic(self) -> float:
        return self._now / SECOND

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("a store does not sleep on its clock")

    def advance(self, micros: int) -> None:
        self._now += micros


def key(path: str = "s", *, k: int = 0, scope: bytes = b"", fingerprint: bytes = b"") -> StepKey:
    return StepKey(scope, path, fingerprint, k)


def child(run_id: str, *, join: int = 0, due_at: int | None = None) -> Wait:
    return Wait(WaitKind.CHILD, run_id, due_at, join)


def timer(due_at: int, *, path: str = "s", join: int = 0, kind: WaitKind = WaitKind.RETRY) -> Wait:
    return Wait(kind, path, due_at, join)


def grant_of(run: RunRecord | ClaimedRun) -> Grant:
    record = run.run if isinstance(run, ClaimedRun) else run
    return Grant(record.run_id, record.epoch, record.grant)


def save(
    grant: Grant,
    path: str = "s",
    outcome: StepOutcome = StepOutcome.OK,
    value: bytes | None = b"1",
    *,
    k: int = 0,
    step: StepKey | None = None,
    **fields: object,
) -> SaveCheckpoint:
    """Build a SaveCheckpoint; `fields` are those with defaults."""
    return SaveCheckpoint(grant, step or key(path, k=k), 0, StepKind.STEP, outcome, value, **fields)  # type: ignore[arg-type]


def pending(
    grant: Grant, path: str = "s", *, tries: int = 1, delay: int = SECOND
) -> SaveCheckpoint:
    return save(grant, path, StepOutcome.PENDING, b'"again"', tries=tries, delay=delay)


def ids(claimed: Claimed) -> list[str]:
    return [given.run.run_id for given in claimed.runs]


class Desk:
    """Shorthands over one store. Those that return no outcome assert that they were accepted."""

    def __init__(self, store: Store, clock: ManualClock) -> None:
        self.store = store
        self.clock = clock

    async def apply(self, *transitions: Transition) -> list[Outcome]:
        return await self.store.apply(transitions)

    async def do(self, transition: Transition) -> Outcome:
        [outcome] = await self.store.apply([transition])
        return outcome

    # --- runs --------------------------------------------------------------------------------

    async def create(self, *run_ids: str, definition: str = "d", **fields: object) -> None:
        creates = [
            CreateRun(run_id, definition, b'"in"', fresh_token(), **fields)  # type: ignore[arg-type]
            for run_id in run_ids
        ]
        assert await self.apply(*creates) == [Created(run_id) for run_id in run_ids]

    async def claim(
        self,
        limit: int = 100,
        *,
        worker_id: str = "w",
        token: int | None = None,
        definitions: tuple[str, ...] = ("d",),
        queues: tuple[str, ...] = ("default",),
        suspects: bool = False,
        fresh_first: bool = False,
    ) -> Claimed:
        outcome = await self.do(
            Claim(
                worker_id, token or fresh_token(), definitions, queues, limit, suspects, fresh_first
            )
        )
        assert isinstance(outcome, Claimed)
        return outcome

    async def claim_one(self, run_id: str, **fields: object) -> Grant:
        """Claim exactly this run, which must be the only one that is claimable."""
        claimed = await self.claim(**fields)  # type: ignore[arg-type]
        assert ids(claimed) == [run_id]
        return grant_of(claimed.runs[0])

    async def start(self, run_id: str = "r", **fields: object) -> Grant:
        """Create and claim a run, which must then be the only one that is claimable."""
        await self.create(run_id, **fields)  # type: ignore[arg-type]
        return await self.claim_one(run_id)

    async def settle(self, grant: Grant, verdict: Verdict = DONE) -> Status:
        outcome = await self.do(Settle(grant, verdict))
        assert isinstance(outcome, Settled)
        return outcome.status

    async def suspend(self, grant: Grant, *waits: Wait, coalesce: int = 0) -> Status:
        return await self.settle(grant, Suspended(waits, coalesce))

    async def end(self, run_id: str, verdict: Verdict = DONE) -> None:
        """Create, claim and settle a run."""
        await self.settle(await self.start(run_id), verdict)

    async def cancel(self, run_id: str, request_id: str | None = None) -> Outcome:
        return await self.do(CancelRun(run_id, request_id or f"request-{fresh_token()}"))

    async def retry(self, run_id: str, request_id: str | None = None) -> Outcome:
        return await self.do(RetryRun(run_id, request_id or f"request-{fresh_token()}"))

    # --- workers -----------------------------------------------------------------------------

    async def worker(self, worker_id: str = "w", definitions: dict[str, str] | None = None) -> None:
        await self.do(register(worker_id, definitions))

    async def rescue(self, worker_id: str = "w", *, beat: int | None = None) -> Rescued:
        outcome = await self.do(RescueWorker(worker_id, beat, 10, CRASH))
        assert isinstance(outcome, Rescued)
        return outcome

    async def crash(
        self, run_id: str, *, times: int = 1, definitions: tuple[str, ...] = ("d",)
    ) -> None:
        """Claim the only claimable run with a new worker and let that die, again and again."""
        for _ in range(times):
            worker_id = f"victim-{fresh_token()}"
            await self.worker(worker_id)
            await self.claim_one(
                run_id, worker_id=worker_id, definitions=definitions, suspects=True
            )
            await self.rescue(worker_id)

    # --- reads -------------------------------------------------------------------------------

    async def run(self, run_id: str = "r") -> RunRecord:
        run = await self.store.get(run_id)
        assert run is not None
        return run

    async def status(self, run_id: str = "r") -> Status:
        return (await self.run(run_id)).status

    async def history(self, run_id: str = "r") -> History:
        history = await self.store.history(run_id)
        assert history is not None
        return history

    async def snapshot(self) -> tuple[list[History | None], object]:
        """Return everything that the store's reads tell, to see that nothing was changed."""
        runs = await self.store.list_runs(RunQuery(limit=1_000))
        histories = [await self.store.history(run.run_id) for run in runs]
        return histories, await self.store.workers()


def register(
    worker_id: str = "w",
    definitions: dict[str, str] | None = None,
    queues: Iterable[str] = ("default",),
) -> RegisterWorker:
    return RegisterWorker(worker_id, "host", 1, definitions or {"d": "1"}, tuple(queues), 8)
