"""Clients: who orders runs, cancels some, retries some, and is told how they ended."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from random import Random
from typing import TYPE_CHECKING

from perdure.errors import (
    InvalidTransition,
    NotApplied,
    OutcomeUnknown,
    ResultTimeout,
    RunCancelled,
    RunConflict,
    RunFailed,
    StoreError,
)
from perdure.handle import Run
from perdure.model.records import Status
from perdure.workflow import Workflow
from tests.simulation.body import NAMES, declare
from tests.simulation.tokens import plain

if TYPE_CHECKING:
    from tests.simulation.process import Process
    from tests.simulation.world import World

PAUSE = 0.5
"""Seconds after which a client asks again where the store failed."""


@dataclass(frozen=True, slots=True)
class Order:
    """What a client wants: a run of a program, and what is to become of it; times in seconds."""

    id: str
    name: str
    program: int
    at: float
    delay: float = 0.0
    unique_key: str | None = None
    max_attempts: int = 1
    cancel_after: float | None = None
    cancel_waits: bool = False
    retries: bool = False
    waits: bool = True

    @classmethod
    def draw(cls, rng: Random, number: int, program: int, until: float) -> "Order":
        return cls(
            id=f"r{number}",
            name=rng.choice(NAMES),
            program=program,
            at=rng.random() * until * rng.choice((0.1, 0.8)),
            delay=rng.choice((0.0, 0.0, 0.0, 2.0, 9.0)),
            unique_key=rng.choice((None, None, "k")),
            max_attempts=rng.randint(1, 3),
            cancel_after=rng.choice((None, None, None, None, 0.3, 5.0)),
            cancel_waits=rng.random() < 0.5,
            retries=rng.random() < 0.4,
            waits=rng.random() < 0.6,
        )


class Client:
    """One client in one process.

    Args:
        process: its own; it may be killed at any time, and somebody else goes on with its orders.
        orders: what it has to do.
    """

    def __init__(self, process: "Process", orders: Sequence[Order]) -> None:
        self.orders = orders
        self._world: World = process.world
        self._process = process

    async def work(self) -> None:
        """Carry out all orders at once."""
        app = self._process.open_app()
        definitions = declare(app, self._process)
        async with app:
            await asyncio.gather(*(self._place(definitions, order) for order in self.orders))

    async def _place(self, definitions: dict[str, Workflow], order: Order) -> None:
        world = self._world
        await asyncio.sleep(max(0.0, order.at - world.timeline.now))
        run = await self._enqueue(definitions[order.name], order)
        world.accepted[order.id] = run.id
        world.note("accepted", order.id, run.id)
        if run.id == order.id:
            await self._follow(run, order)
        world.open_orders.discard(order.id)

    async def _enqueue(self, definition: Workflow, order: Order) -> Run[list[str]]:
        calls = definition.options(
            id=order.id, unique_key=order.unique_key, max_attempts=order.max_attempts
        )
        while True:
            try:
                if order.delay:
                    return await calls.delay(timedelta(seconds=order.delay), order.program)
                return await calls.enqueue(order.program)
            except NotApplied as error:
                if order.id not in self._world.unsure and order.id in self._world.ledger.runs:
                    self._world.fail("S2", f"{order.id} exists, its client was told {error!r}")
            except OutcomeUnknown:
                self._world.unsure.add(order.id)
            except RunConflict:  # the key is held by a run of another program
                pass
            await asyncio.sleep(PAUSE)

    async def _follow(self, run: Run[list[str]], order: Order) -> None:
        if order.cancel_after is not None:
            await asyncio.sleep(order.cancel_after)
            await self._cancel(run, wait=order.cancel_waits)
        if not (order.waits or order.retries):
            return
        status = await self._result(run)
        if status is Status.FAILED and order.retries and await self._retry(run):
            await self._result(run)

    async def _cancel(self, run: Run[list[str]], *, wait: bool) -> None:
        while True:
            try:
                status = await run.cancel(wait=wait)
            except StoreError:
                await asyncio.sleep(PAUSE)
            except InvalidTransition:
                return
            else:
                self._world.note("cancelled", run.id, status)
                if wait and not self._world.ledger.runs[run.id].endings:
                    self._world.fail("S12", f"{run.id} goes on after cancel(wait=True)")
                return

    async def _retry(self, run: Run[list[str]]) -> bool:
        while True:
            try:
                await run.retry()
            except StoreError:
                await asyncio.sleep(PAUSE)
            except InvalidTransition:
                return False
            else:
                return True

    async def _result(self, run: Run[list[str]]) -> Status:
        while True:
            try:
                result = await run.result(timeout="7s")
            except RunFailed as failure:
                return self._told(run.id, Status.FAILED, failure.reason)
            except RunCancelled:
                return self._told(run.id, Status.CANCELLED, None)
            except ResultTimeout:
                continue
            except StoreError:
                await asyncio.sleep(PAUSE)
            else:
                return self._told(run.id, Status.COMPLETED, plain(result))

    def _told(self, run_id: str, status: Status, detail: str | None) -> Status:
        """What a client is told of a run's end must be an end that was committed (S6)."""
        ends = [
            (status, plain(json.loads(result)) if result is not None else reason)
            for status, result, reason in self._world.ledger.runs[run_id].endings
        ]
        if (status, detail) not in ends:
            self._world.fail("S6", f"the client of {run_id} was told {status} {detail}, not {ends}")
        return status
