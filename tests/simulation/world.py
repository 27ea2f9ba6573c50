"""The simulated world: processes over one store, clients, what befalls them, and the verdict.

One seed is one world: programs, clients, faults and the order of turns are all drawn from it. A
world runs in virtual time until every accepted run has ended and every process has stopped; the
first broken promise ends it.
"""

import gc
import json
import logging
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from random import Random
from typing import Any

from perdure import Rate, Worker
from perdure.errors import StoreError
from perdure.model.records import Micros, Status
from perdure.model.transitions import (
    Beaten,
    Claim,
    Claimed,
    Fenced,
    Outcome,
    RescueWorker,
    SaveCheckpoint,
    Saved,
    Settle,
    Settled,
    Transition,
)
from perdure.stores.memory import MemoryData, MemoryStore
from perdure.testing.contract.invariants import check_invariants
from tests.simulation.body import NAMES, declare
from tests.simulation.clients import Announcement, Client, Order, Plan, QueuePause, Task
from tests.simulation.effects import Effects
from tests.simulation.entries import ENDED, Entry
from tests.simulation.faults import Chaos, Mix
from tests.simulation.ledger import Ledger
from tests.simulation.loop import Stuck, Timeline, finish
from tests.simulation.oracle import Oracle, Refused
from tests.simulation.process import BEGINNING, Process
from tests.simulation.programs import FAMILIES as FAMILIES_OF_PROGRAMS
from tests.simulation.programs import (
    Branches,
    Generator,
    Poison,
    Program,
    Race,
    Step,
    Undoable,
    effort,
    names_around,
    walk,
)
from tests.simulation.tokens import plain
from tests.simulation.trace import Trace

FAMILIES = ("events", "sleeps", "undo", "limits", "pauses", "again", "schedules")
"""What a seed has or has not, beside plain programs: most have one or two of them."""

LOOK = 0.5
"""Virtual seconds between looks at whether everything is over."""


class Broken(AssertionError):
    """A promise was broken.

    Attributes:
        letter: which, as :mod:`tests.simulation.ledger` lists them; beside those S8, S12
            and UNDO (:mod:`tests.simulation.effects`), L1 (everything ends), ORACLE (with the right
            result) and what no simulated program may cause: STUCK, THREAD, EXIT, CALLBACK, LOG,
            STORE.
    """

    def __init__(self, letter: str, text: str) -> None:
        super().__init__(f"{letter}: {text}")
        self.letter = letter


@dataclass(frozen=True, slots=True)
class Settings:
    """How the workers of a seed are set up; times in seconds."""

    workers: int
    concurrency: int
    lease: float
    heartbeat: float
    grace: float
    crash_cap: int
    knows_departed: bool

    @classmethod
    def draw(cls, rng: Random) -> "Settings":
        lease, heartbeat = rng.choice(((15.0, 5.0), (15.0, 5.0), (6.0, 2.0), (30.0, 10.0)))
        return cls(
            workers=rng.choice((2, 2, 3)),
            concurrency=rng.choice((1, 2, 4, 10)),
            lease=lease,
            heartbeat=heartbeat,
            grace=rng.choice((0.0, 1.0, 10.0)),
            crash_cap=rng.choice((3, 3, 4)),
            knows_departed=rng.random() < 0.4,
        )


class World:
    """Everything of one seed.

    Args:
        seed: what all is drawn from.
        families: of :data:`FAMILIES`, those that it has whatever the seed says.
    """

    def __init__(self, seed: int, families: Iterable[str] = ()) -> None:
        shape = Random(f"shape {seed}")
        self.seed = seed
        self.rng = Random(f"faults {seed}")
        self.timeline = Timeline(Random(f"turns {seed}"))
        self.settings = Settings.draw(shape)
        self.store_ahead: Micros = 0
        self.data = MemoryData(self, departed=set() if self.settings.knows_departed else None)
        self.ledger = Ledger(self.fail, round(self.settings.lease * 1e6))
        self.effects = Effects(self.ledger, self.fail)
        self.trace = Trace(self.ledger.alias)
        self.chaos = Chaos(self, Mix.draw(shape), self.rng, self.settings.lease)
        self.heals_at = shape.choice((8.0, 15.0, 30.0))
        drawn = {one for one in FAMILIES if shape.random() < 0.3}
        self.families = frozenset(drawn | set(families))
        self.limits = self._draw_limits(shape) if "limits" in self.families else {}
        self.programs, self.orders = self._draw_work(shape)
        self.effects.nested = set(names_around(self.programs))
        self.workers: dict[str, Process] = {}
        self.owners: dict[str, Process] = {}
        self.processes: list[Process] = []
        self.accepted: dict[str, str] = {}
        self.unsure: set[str] = set()
        self.open_orders = {order.id for order in self.orders}
        self.broken: Broken | None = None
        self.is_closing = False
        self._loop = self.timeline.loop()
        self._loop.set_exception_handler(self._surprised)
        self._clients: dict[str, Sequence[Task]] = {}
        self._deaths: dict[str, float] = {}
        self._moved_at = 0.0
        self.is_stopping = False

    # --- time ------------------------------------------------------------------------------------

    def now(self) -> Micros:
        """Return the store's time: the world is the clock of its data."""
        return BEGINNING + round(self.timeline.now * 1e6) + self.store_ahead

    def later(self, delay: float, function: Callable[..., Any], *args: Any) -> None:
        """Let something happen in the world, apart from any process."""
        self._loop.call_later(delay, function, *args)

    # --- what there is to do ---------------------------------------------------------------------

    def _draw_limits(self, rng: Random) -> dict[str, Any]:
        limits: dict[str, Any] = {
            "concurrency": rng.choice((1, 2, 3)),
            "concurrency_per_key": 1,
            "rate": Rate(rng.choice((1, 3)), "2s", rng.choice((1, 2))),
            "rate_per_key": Rate(1, "3s"),
        }
        return {name: one for name, one in limits.items() if rng.random() < 0.5}

    def _draw_work(self, rng: Random) -> tuple[list[Program], list[Task]]:
        poison = rng.random() < 0.4
        families, until = self.families, self.heals_at
        generator = Generator(
            rng,
            poison=poison,
            crash_cap=self.settings.crash_cap,
            families=families & FAMILIES_OF_PROGRAMS.keys(),
        )
        orders: list[Task] = [
            Order.draw(rng, number, generator.program(), until, families)
            for number in range(rng.randint(2, 6))
        ]
        if "events" in families:
            orders += [
                Announcement(
                    f"p{n}", generator.program(1), rng.random() < 0.7, rng.random() * until
                )
                for n in range(rng.randint(0, 2))
            ]
        if "schedules" in families:
            at, lasts = rng.random() * until * 0.5, rng.choice((6.0, 12.0, until + 25.0))
            missed = rng.choice(("once", "all", "skip"))
            every = rng.choice((1, 2, 5))
            program = generator.program(2)
            orders.append(Plan("s0", rng.choice(NAMES), program, every, missed, at, at + lasts))
        if "limits" in families and rng.random() < 0.5:
            orders.append(QueuePause("q0", rng.random() * until, rng.choice((0.5, 4.0, 20.0))))
        return generator.programs, orders

    def _patience(self) -> tuple[float, float]:
        """Return how many seconds after the last fault everything is over, and at rest (L1)."""
        nodes = [node for program in self.programs for node in walk(program)]
        lease = self.settings.lease
        crashes = self.settings.crash_cap * 2 * sum(isinstance(node, Poison) for node in nodes)
        runs = [order for order in self.orders if isinstance(order, Order)]
        attempts = max(order.max_attempts for order in runs) + 1
        if "again" in self.families:
            attempts *= 3
        over = 60.0 + 4 * lease + attempts * sum(map(effort, nodes)) + crashes * (lease + 10.0)
        over += sum(order.pause_lasts for order in runs)
        over += 20.0 * len(self.families)
        if "schedules" in self.families:
            over += 60.0 + 30 * sum(map(effort, self.programs_of_plans()))
        # A worker without a free slot hears nothing of a jump of the store's clock: a timer of a
        # body that it holds is late by as much.
        jumps = self.store_ahead / 1e6
        return over + jumps, 2 * lease + 50.0 + jumps

    def programs_of_plans(self) -> list[Any]:
        """Return the nodes of what schedules start."""
        plans = [order for order in self.orders if isinstance(order, Plan)]
        return [node for plan in plans for node in walk(self.programs[plan.program])]

    def check_punctual(self, key: str) -> None:
        """Long after the last fault no instant of a schedule is overdue (L3)."""
        plan = self.ledger.schedules.plans.get(key)
        if plan is None or plan.next_at is None or plan.removed:
            return
        late = (self.now() - plan.next_at) / 1e6
        if late > 5.0 and self.timeline.now > self.heals_at + 2 * self.settings.lease + 20.0:
            self.fail("S11", f"{key} should have fired {late:.3f} s ago")

    # --- running ---------------------------------------------------------------------------------

    def run(self) -> None:
        """Run to the end.

        Raises:
            Broken: a promise was broken.
        """
        with _listening_to_errors(self), warnings.catch_warnings():
            # Whoever is killed leaves coroutines behind that nobody will await.
            warnings.simplefilter("ignore", RuntimeWarning)
            try:
                self._set_out()
                self.timeline.run()
                if self.broken is None:
                    self._judge()
            except Stuck as stuck:
                self.fail("STUCK", str(stuck))
            finally:
                self._bury()
        if self.broken is not None:
            raise self.broken

    def _set_out(self) -> None:
        for number in range(self.settings.workers):
            self._start_worker(f"w{number}")
        self._start_client("c0", self.orders[::2])
        self._start_client("c1", self.orders[1::2])
        self.chaos.begin(self.heals_at)
        self.later(self.heals_at, self._heal)

    def _heal(self) -> None:
        """No fault from now on; a last order of each client must succeed."""
        self.note("heal")
        self.chaos.heal()
        for process in self.processes:
            if process.is_alive:
                process.heal()
        self.programs.append((Step("last"),))
        for client in ("c2", "c3"):
            order = Order(f"{client}-last", NAMES[0], len(self.programs) - 1, 0.0)
            self.open_orders.add(order.id)
            self._start_client(client, [order])
        self._moved_at = self.timeline.now
        self._look()

    def _look(self) -> None:
        """Is everything over, or too late?"""
        over, moves = self._patience()
        now = self.timeline.now
        if now > self.heals_at + over or now > self._moved_at + moves:
            self._too_late()
        elif self.is_stopping:
            self.timeline.is_over = not self.workers
        elif self._is_done():
            self.note("stopping")
            self.is_stopping = True
            for process in list(self.workers.values()):
                self.ask_to_stop(process)
        self.later(LOOK, self._look)

    def _is_done(self) -> bool:
        registered = {process.worker_id for process in self.workers.values()}
        return (
            not self.open_orders
            and all(entry.status in ENDED for entry in self.ledger.runs.values())
            and all(p.is_alive and not p.stopping.done() for p in self.workers.values())
            and self.ledger.workers.keys() == registered
        )

    def _too_late(self) -> None:
        runs = [f"{e.alias} {e.status}" for e in self.ledger.runs.values() if e.status not in ENDED]
        orders = sorted(self.open_orders)
        workers = [p.name for w, p in self.owners.items() if w in self.ledger.workers]
        stopping = "stopping, " if self.is_stopping else ""
        self.fail("L1", f"not over: {stopping}runs {runs}, clients {orders}, workers {workers}")

    def fail(self, letter: str, text: str) -> None:
        """Note the first broken promise; the world ends with it."""
        self.note("broken", letter, text)
        self.timeline.is_over = True
        if self.broken is None:
            self.broken = Broken(letter, text)

    def note(self, kind: str, *event: Any) -> None:
        """Add an event to the trace."""
        self.trace.add(self.timeline.now, kind, *event)

    def _surprised(self, loop: Any, context: dict[str, Any]) -> None:
        self.fail("STORE", f"{context['message']}: {context.get('exception')!r}")

    def _bury(self) -> None:
        self.is_closing = True
        for process in self.processes:
            process.bury()
        self.timeline.drop(self._loop)
        self._loop.close()

    # --- processes -------------------------------------------------------------------------------

    def _start_worker(self, name: str) -> None:
        if self.is_stopping:
            del self.workers[name]
            return
        process = self.workers[name] = self._new_process(name)
        process.begin(lambda: self._work(process))

    def _start_client(self, name: str, orders: Sequence[Task]) -> None:
        self._clients[name] = orders
        process = self._new_process(name)
        process.begin(Client(process, orders).work)

    def _new_process(self, name: str) -> Process:
        self.note("start", name)
        process = Process(self, name)
        self.processes.append(process)
        return process

    async def _work(self, process: Process) -> None:
        settings = self.settings
        app = process.open_app()
        declare(app, process)
        worker = Worker(
            app,
            concurrency=settings.concurrency,
            lease=timedelta(seconds=settings.lease),
            heartbeat=timedelta(seconds=settings.heartbeat),
            grace=timedelta(seconds=settings.grace),
            crash_cap=settings.crash_cap,
        )
        await worker.start()
        await process.stopping
        await worker.stop()

    def ask_to_stop(self, process: Process) -> None:
        """Have a worker's process stop in order."""
        if process.is_alive:
            self.note("stop", process.name)
            process.loop.call_soon_threadsafe(_resolve, process.stopping)

    def killed(self, process: Process) -> None:
        """A process is dead."""
        if process.worker_id:
            self._deaths[process.worker_id] = self.timeline.now
        self._replace(process)

    def exited(self, process: Process, error: StoreError | None) -> None:
        """A process has ended by itself."""
        self.note("exit", process.name, "" if error is None else type(error).__name__)
        process.leave()
        if error is None and (process.left_over() or process.desk.bodies):
            self.fail("S15", f"{process.name} left {process.left_over()}, {process.desk.bodies}")
        if error is not None or process.name in self.workers:
            self._replace(process)

    def _replace(self, process: Process) -> None:
        """The machine knows who is dead, and somebody starts the process again."""
        if self.data.departed is not None:
            self.data.departed |= process.signs
        delay = self.rng.choice((0.2, 1.0, 10.0)) if self.chaos.is_on else 1.0
        if process.name in self.workers:
            self.later(delay, self._start_worker, process.name)
        else:
            orders = [o for o in self._clients[process.name] if o.id in self.open_orders]
            self.unsure |= {order.id for order in orders}
            self.later(delay, self._start_client, process.name, orders)

    # --- the store's side ------------------------------------------------------------------------

    def serve(
        self, process: Process, store: MemoryStore, batch: Sequence[Transition], how: str = ""
    ) -> list[Outcome]:
        """Apply a batch to the shared data, and let the ledger see it."""
        try:
            outcomes: list[Outcome] = finish(store.apply(batch))
        except StoreError:
            raise
        except Exception as error:
            self.fail("STORE", f"the store raised {error!r}")
            raise
        for transition, outcome in zip(batch, outcomes, strict=False):
            self.note("apply", process.name, transition, outcome, how)
            if not isinstance(outcome, Beaten) and (type(outcome) is not Claimed or outcome.runs):
                self._moved_at = self.timeline.now
            if type(transition) is RescueWorker:
                self._check_rescue(transition)
        self.ledger.feed(batch, outcomes, self.now())
        return outcomes

    def compare(
        self, batch: Sequence[Transition], first: Sequence[Outcome], again: Sequence[Outcome]
    ) -> None:
        """The same batch applied twice at once must be answered twice the same (S4)."""
        for transition, one, two in zip(batch, first, again, strict=True):
            match transition, one, two:
                case Claim(), Claimed(), Claimed():
                    given = [[(c.run.run_id, c.run.epoch) for c in x.runs] for x in (one, two)]
                    is_same = given[0] == given[1]
                case Settle() | SaveCheckpoint(), Settled() | Saved(), Fenced():
                    is_same = type(batch[-1]) is Claim  # the run was claimed again by this one
                case Settle(), Settled(status=Status.WAITING), Settled(status=Status.QUEUED):
                    is_same = type(batch[-1]) is Claim  # which has found that its time has come
                case Settle(), _, _:
                    is_same = one == two
                case SaveCheckpoint(), _, _:  # the settle behind it may have changed what it says
                    is_same = type(one) is type(two)
                case _:
                    continue
            if not is_same:
                self.fail("S4", f"{transition} was answered {one}, again {two}")

    def _check_rescue(self, rescue: RescueWorker) -> None:
        """Whoever lives, runs and reaches the store is not rescued (LEASE); the dead are (L2)."""
        member = self.ledger.workers.get(rescue.worker_id)
        if member is None or rescue.beat not in (None, member.beat):
            return
        now, lease = self.timeline.now, self.settings.lease
        owner = self.owners[rescue.worker_id]
        if owner.is_alive and owner.worker_id == rescue.worker_id:
            if rescue.beat is None:
                self.fail("LEASE", f"{owner.name} lives and was taken for departed")
            elif now - owner.troubled_until > 2 * lease:
                self.fail("LEASE", f"{owner.name} was rescued out of the blue")
        # A beat, or a registration, that arrives after the death counts: nobody could know.
        beat_ago = (self.now() - member.beat_at) / 1e6
        known_for = (self.now() - member.since) / 1e6
        died_at = max(self._deaths.get(rescue.worker_id, 0.0), now - beat_ago, now - known_for)
        if died_at > self.heals_at + 5.0 and now > died_at + lease + 2.5:
            watched = [
                p
                for p in self.workers.values()
                if max(p.started_at, p.troubled_until) < died_at - 3.0
            ]
            if any(process.is_alive for process in watched):
                self.fail("L2", f"{owner.name} was found {now - died_at:.2f} s after its death")

    # --- the verdict -----------------------------------------------------------------------------

    def _judge(self) -> None:
        """Everything is at rest: compare what is kept with what was accepted and foreseen."""
        store = MemoryStore(data=self.data)
        finish(store.open())
        for order_id, run_id in self.accepted.items():
            if run_id not in self.ledger.runs:
                self.fail("S1", f"{order_id} was accepted as {run_id}, which is unknown")
        for run_id, entry in self.ledger.runs.items():
            self.ledger.check_history(run_id, finish(store.history(run_id)))
            self._compare_with_oracle(run_id, entry)
            self.effects.check_undone(entry, *self._undoable(entry))
        self.effects.check_waste(names_around(self.programs))
        if self.ledger.workers:
            self.fail("S15", f"workers are left: {self.ledger.workers}")
        try:
            finish(check_invariants(store))
        except AssertionError as error:
            self.fail("S15", f"at rest: {error}")

    def _compare_with_oracle(self, run_id: str, entry: Entry) -> None:
        status, result, reason = entry.endings[-1]
        if status is Status.CANCELLED:
            if not entry.requests:
                self.fail("S7", f"{entry.alias} is cancelled and nobody asked for it")
        elif reason == "declined":
            if json.loads(entry.create.input)["placed"]["wanted"]:
                self.fail("S10", f"{entry.alias} was declined and wanted")
        elif reason == "compensation":
            if entry.error is None and not entry.requests:
                self.fail("UNDO", f"{entry.alias} ended {reason} and had nothing to undo")
        elif reason == "crash":
            if entry.crashes < self.settings.crash_cap:
                self.fail("S14", f"{entry.alias} failed after {entry.crashes} crashes")
        else:
            foreseen = self._foresee(run_id, entry)
            came = "refused" if result is None else plain(json.loads(result))
            if came != foreseen:
                self.fail("ORACLE", f"{entry.alias} {status} with {came}, foreseen was {foreseen}")

    def _foresee(self, run_id: str, entry: Entry) -> str:
        def child_of(place: str) -> str:
            return self._child_of(entry, place)

        def event_of(place: str) -> str:
            return self._found(self.effects.waits, entry, place) or "never asked"

        kept = entry.present.kept
        entered = self.effects.inlined.get((run_id, entry.generation), set())
        oracle = Oracle(
            self.programs, entry.attempt, child_of, event_of, kept=kept, entered=entered
        )
        try:
            return oracle.result(number_of(entry))
        except Refused:
            return "refused"

    def _found(self, noted: dict[tuple[str, int, str], Any], entry: Entry, place: str) -> Any:
        """Return what was noted of a place, in a run's generation or in what that goes on from."""
        at: tuple[str, int] | None = (entry.create.run_id, entry.generation)
        while at is not None and (*at, place) not in noted:
            at = self.ledger.runs[at[0]].generations[at[1]].source
        return None if at is None else noted[(*at, place)]

    def _child_of(self, entry: Entry, place: str) -> str:
        child_id, status = self._found(self.effects.children, entry, place) or ("", "never asked")
        if status != "completed":
            return status
        return plain(json.loads(self.ledger.runs[child_id].endings[-1][1] or b"[]"))

    def _undoable(self, entry: Entry) -> tuple[set[str], bool]:
        """Return a program's places that have a compensation, and whether it has one branch."""
        nodes = walk(self.programs[number_of(entry)])
        places = {node.name for node in nodes if isinstance(node, Undoable)}
        return places, not any(isinstance(node, Branches | Race) for node in nodes)


def number_of(entry: Entry) -> int:
    """Return the number of a run's program."""
    given = json.loads(entry.create.input)
    return given.get("placed", given)["number"]


class _listening_to_errors(logging.Handler):  # noqa: N801 -- read as a with statement
    """Errors that the engine logs of a run are broken promises."""

    def __init__(self, world: World) -> None:
        super().__init__(logging.ERROR)
        self._world = world
        self._logger = logging.getLogger("perdure")

    def __enter__(self) -> None:
        self._before = self._logger.level, self._logger.propagate
        self._logger.setLevel(logging.ERROR)
        self._logger.propagate = False
        self._logger.addHandler(self)

    def __exit__(self, *exception: object) -> None:
        self._logger.removeHandler(self)
        self._logger.level, self._logger.propagate = self._before

    def emit(self, record: logging.LogRecord) -> None:
        said = record.getMessage()
        at_a_loss = "could not be s" in said  # settled, suspended: the store was away for long
        if record.name == "perdure.run" and not (at_a_loss or self._world.is_closing):
            self._world.fail("LOG", said)


def _resolve(future: Any) -> None:
    if not future.done():
        future.set_result(None)


def simulate(seeds: Iterable[int]) -> dict[int, World]:
    """Run seeds; return the worlds of those that broke a promise."""
    broken = {}
    for seed in seeds:
        world = World(seed)
        try:
            world.run()
        except Broken:
            broken[seed] = world
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        gc.collect()
    return broken
