"""The ledger's books on events, schedules and queues: what a store that keeps its word says."""

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from perdure.model.events import (
    Awaiting,
    GiveUpEvent,
    Listen,
    Publish,
    Published,
    SendEvent,
    TakeEvent,
    Taken,
    TimedOut,
    cause_of,
    started_run,
    started_with,
)
from perdure.model.leader import NotLeading
from perdure.model.queues import Limits, PauseQueue, PutQueue, Rate, ResumeQueue
from perdure.model.records import (
    Checkpoint,
    Micros,
    Status,
    StepKind,
    StepOutcome,
    Wait,
)
from perdure.model.schedules import (
    STARTS,
    Fired,
    FireSchedule,
    Passed,
    PutSchedule,
    RemoveSchedule,
    Schedule,
)
from perdure.model.transitions import Created, CreateRun, Exists, Fenced, Outcome, Refused, start_of
from tests.simulation.entries import ENDED, PENDING, Entry

if TYPE_CHECKING:
    from tests.simulation.ledger import Ledger


# --- events --------------------------------------------------------------------------------------


@dataclass(slots=True)
class Event:
    """One that was accepted; in the order of acceptance."""

    asked: Publish | SendEvent
    at: Micros
    run_id: str | None


class EventBook:
    """S10: who is started by an event, and which wait takes it, exactly."""

    def __init__(self, ledger: "Ledger") -> None:
        self.events: dict[str, Event] = {}
        self._listeners: dict[tuple[str, str], Any] = {}
        self._said: dict[tuple[str, int, bytes], str] = {}
        self._ledger = ledger

    def _fail(self, text: str) -> None:
        self._ledger.fail("S10", text)

    def listen(self, asked: Listen, _: Outcome) -> None:
        for listener in asked.listeners:
            self._listeners[listener.type, listener.definition] = listener

    def publish(self, asked: Publish, outcome: Outcome) -> None:
        if not self._accept(asked, outcome, None):
            return
        started = []
        for (type_, definition), listener in sorted(self._listeners.items()):
            if type_ == asked.type:
                run_id, token = started_run(asked.event_id, definition)
                data = started_with(asked.payload, listener.parameter)
                create = CreateRun(
                    run_id, definition, data, token, listener.version, listener.queue,
                    listener.priority, caused_by=cause_of(asked.event_id),
                )  # fmt: skip
                started.append(run_id)
                self._ledger.create(create, Created(run_id))
        if isinstance(outcome, Published) and sorted(outcome.run_ids) != sorted(started):
            self._fail(f"{asked.event_id} has started {outcome.run_ids}, not {started}")

    def send(self, asked: SendEvent, outcome: Outcome) -> None:
        entry = self._ledger.runs.get(asked.run_id)
        if isinstance(outcome, Refused) and entry is not None and entry.status not in ENDED:
            self._fail(f"{asked.event_id} was refused, {entry.alias} is {entry.status}")
        is_new = self._accept(asked, outcome, asked.run_id)
        if is_new and entry is not None and entry.status in ENDED:
            self._fail(f"{asked.event_id} was accepted for {entry.alias}, {entry.status}")

    def _accept(self, asked: Publish | SendEvent, outcome: Outcome, run_id: str | None) -> bool:
        """Note an event that is new; tell whether it is."""
        known = self.events.get(asked.event_id)
        if known is not None:
            if isinstance(outcome, (Exists, Fenced)):
                self._fail(f"{asked.event_id} is known and was answered {outcome}")
            return False
        if isinstance(outcome, Fenced) and asked.by is not None:
            if self._ledger.is_current(asked.by):
                self._fail(f"{asked.event_id} was fenced from its holder")
            return False
        if not isinstance(outcome, Published):
            return False
        if asked.by is not None and not self._ledger.is_current(asked.by):
            self._fail(f"{asked.event_id} was published under a grant that is not current")
        if asked.by is not None:
            # What a body says in one place, it says in each generation once.
            entry = self._ledger.runs[asked.by.run_id]
            said = (asked.by.run_id, entry.generation, asked.payload)
            first = self._said.setdefault(said, asked.event_id)
            if first != asked.event_id:
                self._fail(f"{asked.payload!r} was published twice: {first}, {asked.event_id}")
        self.events[asked.event_id] = Event(asked, self._ledger.now, run_id)
        return True

    # --- waits -----------------------------------------------------------------------------------

    def _fitting(self, entry: Entry, type_: str, key: str | None, due_at: Micros | None):
        for event_id, event in self.events.items():
            asked = event.asked
            if (
                asked.type == type_
                and key in (None, asked.key)
                and event.at >= entry.created_at
                and (due_at is None or event.at <= due_at)
                and event.run_id in (None, entry.create.run_id)
                and entry.create.caused_by != cause_of(event_id)
                and event_id not in entry.present.taken
            ):
                return event_id, event
        return None

    def has_come(self, entry: Entry, wait: Wait) -> bool:
        """Tell whether there is an event that a wait row would take, or that has woken it."""
        return self._fitting(entry, wait.key, wait.match, None) is not None

    def take(self, asked: TakeEvent, outcome: Outcome) -> None:
        entry = self._ledger.runs[asked.grant.run_id]
        current = self._ledger.is_current(asked.grant)
        where = f"{entry.alias} at {asked.step.path}"
        recorded = entry.steps.get(asked.step)
        if isinstance(outcome, Fenced):
            if current:
                self._ledger.fail("S4", f"{where}: the holder was fenced")
            return
        if not current:
            if recorded is None or recorded.outcome is PENDING:
                self._ledger.fail("S4", f"{where}: a fenced holder was answered {outcome}")
            return
        if recorded is not None and recorded.outcome is not PENDING:
            self._expect(where, recorded, outcome)
            return
        record = self._decide(entry, asked, recorded)
        if recorded is None or (recorded.outcome, recorded.tries) != (record.outcome, record.tries):
            entry.progressed = True
        entry.steps[asked.step] = record
        self._expect(where, record, outcome)

    def _decide(self, entry: Entry, asked: TakeEvent, recorded: Checkpoint | None) -> Checkpoint:
        now = self._ledger.now
        record = recorded
        if record is None or not record.tries:
            due_at = None if asked.timeout is None else now + asked.timeout
            record = Checkpoint(
                key=asked.step, position=asked.position, kind=StepKind.WAIT_FOR_EVENT,
                outcome=PENDING, value=None, tries=1, log=None, due_at=due_at,
                started_at=asked.started_at, ended_at=asked.ended_at, site=asked.site,
                text=asked.text, epoch=asked.grant.epoch, generation=entry.generation,
            )  # fmt: skip
        due_at = record.due_at
        found = self._fitting(entry, asked.type, asked.key, due_at)
        if found is not None:
            entry.present.taken[found[0]] = asked.step
            value = found[1].asked.payload
            record = replace(record, outcome=StepOutcome.OK, value=value, due_at=None)
        elif due_at is not None and due_at <= now:
            value = asked.timeout_error
            record = replace(record, outcome=StepOutcome.TIMEOUT, value=value, due_at=None)
        else:
            return record
        return replace(
            record, started_at=asked.started_at, ended_at=asked.ended_at, site=asked.site,
            epoch=asked.grant.epoch,
        )  # fmt: skip

    def _expect(self, where: str, record: Checkpoint, outcome: Outcome) -> None:
        seen = {
            Taken: lambda: (StepOutcome.OK, outcome.payload),
            TimedOut: lambda: (StepOutcome.TIMEOUT, outcome.error),
            Awaiting: lambda: (PENDING, outcome.due_at),
        }.get(type(outcome), lambda: (StepOutcome.CANCELLED, None))()
        value = record.due_at if record.outcome is PENDING else record.value
        if seen != (record.outcome, value):
            self._fail(f"{where} was answered {seen}, due is {record.outcome} {value!r}")

    def give_up(self, asked: GiveUpEvent, outcome: Outcome) -> None:
        entry = self._ledger.runs[asked.grant.run_id]
        if isinstance(outcome, Fenced):
            if self._ledger.is_current(asked.grant):
                self._ledger.fail("S4", f"{entry.alias}: the holder could not give up")
            return
        recorded = entry.steps.get(asked.step)
        if recorded is None or not self._ledger.is_current(asked.grant):
            return
        is_own = recorded.outcome is PENDING or recorded.epoch == asked.grant.epoch
        if not is_own or recorded.outcome is StepOutcome.CANCELLED:
            return
        entry.steps[asked.step] = replace(
            recorded, outcome=StepOutcome.CANCELLED, value=None, due_at=None,
            ended_at=asked.ended_at, epoch=asked.grant.epoch,
        )  # fmt: skip
        entry.progressed = True
        taken = entry.present.taken
        for event_id in [one for one, step in taken.items() if step == asked.step]:
            del taken[event_id]


# --- queues --------------------------------------------------------------------------------------


@dataclass(slots=True)
class Lane:
    """One queue."""

    limits: Limits = field(default_factory=Limits)
    is_paused: bool = False
    starts: list[Micros] = field(default_factory=list)
    starts_of_key: dict[str, list[Micros]] = field(default_factory=lambda: defaultdict(list))


class QueueBook:
    """S14: no limit of a queue or a key is exceeded, and a paused queue gives nothing."""

    def __init__(self, ledger: "Ledger") -> None:
        self.lanes: dict[str, Lane] = defaultdict(Lane)
        self._ledger = ledger

    def put(self, asked: PutQueue, _: Outcome) -> None:
        self.lanes[asked.queue].limits = asked.limits

    def pause(self, asked: PauseQueue, _: Outcome) -> None:
        self.lanes[asked.queue].is_paused = True

    def resume(self, asked: ResumeQueue, _: Outcome) -> None:
        self.lanes[asked.queue].is_paused = False

    def check_grant(self, entry: Entry) -> None:
        """A run has just been given, and runs."""
        queue, key = entry.create.queue, entry.create.limit_key
        lane = self.lanes[queue]
        if lane.is_paused:
            self._ledger.fail("S14", f"{entry.alias} was given of {queue}, which is paused")
        running = [
            one.create.limit_key
            for one in self._ledger.runs.values()
            if one.status is Status.RUNNING and one.create.queue == queue
        ]
        limits = lane.limits
        self._within(f"of {queue} run", len(running), limits.concurrency)
        if key is not None:
            self._within(f"of {queue} {key} run", running.count(key), limits.key_concurrency)
        if entry.epoch == 1:
            self._start(f"of {queue}", lane.starts, limits.rate)
            if key is not None:
                self._start(f"of {queue} {key}", lane.starts_of_key[key], limits.key_rate)

    def _within(self, what: str, number: int, most: int | None) -> None:
        if most is not None and number > most:
            self._ledger.fail("S14", f"{number} {what}, at most {most} may")

    def _start(self, what: str, starts: list[Micros], rate: Rate | None) -> None:
        now = self._ledger.now
        starts.append(now)
        if rate is not None:
            recent = sum(at > now - rate.period for at in starts)
            self._within(f"{what} start in {rate.period / 1e6:g} s", recent, _most(rate))


def _most(rate: Rate) -> int:
    return rate.limit + rate.burst - 1


# --- schedules -----------------------------------------------------------------------------------


@dataclass(slots=True)
class Plan:
    """One schedule with an interval."""

    schedule: Schedule
    next_at: Micros | None
    removed: bool = False


class ScheduleBook:
    """S11: something becomes of each instant once, in order, and never before it has come."""

    def __init__(self, ledger: "Ledger") -> None:
        self.plans: dict[str, Plan] = {}
        self._ledger = ledger

    def _fail(self, text: str) -> None:
        self._ledger.fail("S11", text)

    def put(self, asked: PutSchedule, _: Outcome) -> None:
        known = self.plans.get(asked.schedule.key)
        if known is None or known.removed:
            self.plans[asked.schedule.key] = Plan(asked.schedule, asked.next_at)

    def remove(self, asked: RemoveSchedule, _: Outcome) -> None:
        if asked.key in self.plans:
            self.plans[asked.key].removed = True

    def fire(self, asked: FireSchedule, outcome: Outcome) -> None:
        plan = self.plans[asked.key]
        if isinstance(outcome, NotLeading):
            return  # whether that is right is for the book of leads
        if isinstance(outcome, Passed):
            if outcome.record.next_at != plan.next_at:
                self._fail(f"{asked.key} is at {outcome.record.next_at}, not {plan.next_at}")
            return
        if not isinstance(outcome, Fired):
            if not plan.removed:
                self._fail(f"{asked.key} was answered {outcome}")
            return
        if plan.removed or asked.expected != plan.next_at:
            self._fail(f"{asked.key} was fired for {asked.expected}, due was {plan.next_at}")
        self._check_instants(asked, plan.schedule.timing.every or 0)
        plan.next_at = asked.next_at
        creates = [
            start_of(plan.schedule, each.expected) for each in asked.fires if each.outcome in STARTS
        ]
        for create in creates:
            self._ledger.create(create, Created(create.run_id))
        if list(outcome.run_ids) != [create.run_id for create in creates]:
            self._fail(f"{asked.key} has started {outcome.run_ids}")

    def _check_instants(self, asked: FireSchedule, every: Micros) -> None:
        """The instants follow each other without a gap, and have come."""
        fired = [each.expected + k * every for each in asked.fires for k in range(each.count)]
        if fired != [asked.expected + k * every for k in range(len(fired))]:
            self._fail(f"{asked.key} was fired for {fired}")
        if asked.next_at != asked.expected + len(fired) * every:
            self._fail(f"{asked.key} goes on at {asked.next_at} behind {fired}")
        early = fired[-1] - self._ledger.now
        if early > 0:
            self._ledger.fail("TIMER", f"{asked.key} was fired {early} us early")
