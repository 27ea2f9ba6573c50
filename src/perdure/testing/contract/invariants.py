# pyright: basic
"""What must hold of a namespace at every instant: the doctor's rules, and one grant a claim.

The rules stand in :mod:`perdure._runtime.doctor`. What no read can tell afterwards, that no epoch
of a run is given to two claims, is watched while the test goes on.
"""

from collections.abc import Sequence

from perdure._runtime.doctor import examine
from perdure.model.records import RunQuery, Status
from perdure.model.transitions import Claim, Claimed, Outcome, Transition
from perdure.store import Store


class Watched:
    """A store that notes every grant it gives: no epoch of a run is given to two claims.

    A run that was removed and one that was created with its id are two.
    """

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
            grant = (self.namespace, run.run_id, run.created_at, run.epoch)
            holder = (claim.worker_id, claim.token)
            assert self._claims.setdefault(grant, holder) == holder, f"{grant} was given twice"


async def check_invariants(store: Store) -> None:
    """Assert what must hold of the whole namespace, at an instant when nobody writes."""
    report = await examine(store)
    # The suite's payloads are any bytes: what is in them is no business of a store.
    assert [one for one in report.findings if one.code != "error-damaged"] == []
    workers = [worker.worker_id for worker in await store.workers()]
    assert len(set(workers)) == len(workers), "one row a worker"
    for run in await store.list_runs(RunQuery(limit=1_000)):
        # Not in the doctor: where a machine's clock steps back, this is no damage.
        assert run.created_at <= run.updated_at, run
