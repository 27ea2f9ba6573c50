"""The leader: takes the lead of the namespace where nobody has it, and does what that is for.

Every worker has one, unless it is ``Worker(scheduler=False)``. Who leads is heard with the answers
to claims; a worker that claims nothing, because it is full, asks by itself each second. A lead
ends with its worker's lease, so no other sign of life is needed, and no clock.
"""

from __future__ import annotations

import asyncio
from typing import Final

from perdure._engine.engine import Engine
from perdure._runtime.firer import Firer
from perdure._runtime.pruner import Pruner
from perdure._runtime.ticker import Ticker
from perdure.clock import to_datetime
from perdure.errors import StoreError
from perdure.model.leader import Lead, LeaveLead, TakeLead, leads, vacant_term
from perdure.model.records import Micros
from perdure.telemetry import LeaderElected, LeaderLost, Log

log = Log("perdure.leader")

POLL: Final = 1.0
"""Seconds after which it asks who leads, where no claim has told."""


class Leader:
    """Leads for one worker, whenever the lead is vacant.

    Attributes:
        lead: what it leads by; None where it does not.
        firer, pruner: what it does while it leads.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.firer = Firer(engine, self.refused)
        self.pruner = Pruner(engine, self.refused)
        self.lead: Lead | None = None
        self._ticker = Ticker(self._turn, lambda: POLL, log, "taking the lead")
        self._worker_id = ""
        self._vacant: int | None = None  # the term that a claim has told of
        self._told_at = float("-inf")
        self._asked: Lead | None = None  # which is ours if the store has taken it

    def start(self, worker_id: str) -> None:
        """Lead for this worker, which is registered, as soon as nobody else does."""
        self._worker_id = worker_id
        self._doubt()
        self._ticker.start(0.0)

    def drop(self) -> None:
        """Begin nothing more of it."""
        self._ticker.drop()
        self.firer.drop()
        self.pruner.drop()

    async def stop(self) -> None:
        """Do no more of it, and hand the lead over, if it is this worker's."""
        self.drop()
        await self._ticker.stop()
        await self.firer.stop()
        await self.pruner.stop()
        lead = self.lead or self._asked
        if lead is None:
            return
        try:
            await self._engine.committer.submit(LeaveLead(lead))
        except StoreError as error:
            log.warning("could not hand the lead over; it ends with the worker", error=error)
        self._end(handed_over=True)

    def lost(self) -> None:
        """The worker has lost its lease, and the lead with it."""
        self.drop()
        self._end(handed_over=False)

    def refused(self) -> None:
        """The store says that somebody else leads."""
        if self.lead is not None:
            self.lost()
            self.start(self._worker_id)

    def heard(self, vacant: int | None, next_fire_at: Micros | None) -> None:
        """The store has said which term may be begun, if one may, and what is due next."""
        if self.lead is not None:
            self.firer.heard(next_fire_at)
            return
        self._told_at = asyncio.get_running_loop().time()
        if vacant is not None:
            self._vacant = vacant
            self._ticker.look()

    def look(self) -> None:
        """Another worker has died, which may have led."""
        if self.lead is None:
            self._doubt()
            self._ticker.look()

    @property
    def is_ticking(self) -> bool:
        """Whether it does something now."""
        return any(one.is_ticking for one in (self._ticker, self.firer, self.pruner))

    def _doubt(self) -> None:
        self._told_at = float("-inf")

    async def _turn(self) -> float | None:
        if self.lead is not None:  # a claim had told of the vacancy before it was taken
            return None
        term = await self._vacant_term()
        if term is None:
            return POLL
        asked = self._asked = Lead(self._worker_id, term)
        # Patiently: where the answer is lost, it must not lead without knowing.
        answer = await self._engine.committer.submit(TakeLead(self._worker_id, term), patient=True)
        self._asked = None
        if not leads(answer.record, asked):
            return POLL
        self._begin(asked)
        return None

    async def _vacant_term(self) -> int | None:
        """Return the term that may be begun, asking the store where no claim has told lately."""
        vacant, self._vacant = self._vacant, None
        now = asyncio.get_running_loop().time()
        if vacant is None and now - self._told_at >= POLL:
            self._told_at = now
            vacant = vacant_term(await self._engine.store.leader())
        return vacant

    def _begin(self, lead: Lead) -> None:
        self.lead = lead
        log.info("worker leads", worker_id=lead.worker_id, term=lead.term)
        if LeaderElected in (hooks := self._engine.hooks).kinds:
            at = to_datetime(self._engine.store_now())
            hooks.tell(LeaderElected(at=at, worker_id=lead.worker_id, term=lead.term))
        self.firer.start(lead)
        self.pruner.start(lead)

    def _end(self, *, handed_over: bool) -> None:
        lead, self.lead, self._asked = self.lead, None, None
        if lead is None:
            return
        log.info("worker does not lead any more", worker_id=lead.worker_id, term=lead.term)
        if LeaderLost in (hooks := self._engine.hooks).kinds:
            hooks.tell(
                LeaderLost(
                    at=to_datetime(self._engine.store_now()),
                    worker_id=lead.worker_id,
                    term=lead.term,
                    handed_over=handed_over,
                )
            )
