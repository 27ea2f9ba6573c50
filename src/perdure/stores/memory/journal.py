"""Applying batches to one namespace: the contract's transitions, readable."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from perdure.model.changes import MoveSubscriber, RemoveSubscriber
from perdure.model.events import (
    GiveUpEvent,
    Listen,
    Publish,
    SendEvent,
    TakeEvent,
    Unlisten,
)
from perdure.model.leader import LeaveLead, TakeLead
from perdure.model.progress import SetProgress
from perdure.model.queues import PauseQueue, PutQueue, ResumeQueue
from perdure.model.records import Micros
from perdure.model.retention import Prune, PutRetentions
from perdure.model.schedules import (
    FireSchedule,
    PauseSchedule,
    PutSchedule,
    RemoveSchedule,
    ResumeSchedule,
)
from perdure.model.streams import WriteStream
from perdure.model.transitions import (
    CancelRun,
    Claim,
    CreateRun,
    ForkRun,
    GiveBack,
    Heartbeat,
    Outcome,
    PauseRun,
    RegisterWorker,
    RescueWorker,
    RestartRun,
    ResumeRun,
    RetireWorker,
    RetryRun,
    SaveCheckpoint,
    Settle,
    Transition,
)
from perdure.model.versions import PinRun
from perdure.stores.memory import (
    attached,
    claims,
    events,
    feed,
    leader,
    lineage,
    operators,
    pruning,
    queues,
    runs,
    schedules,
    workers,
)
from perdure.stores.memory.space import Space

VERBS: Final[dict[type[Any], Callable[[Space, Any, Micros], Outcome]]] = {
    SaveCheckpoint: runs.save,
    WriteStream: runs.write,
    SetProgress: runs.say,
    Settle: runs.settle,
    CreateRun: runs.create,
    Claim: claims.claim,
    Heartbeat: workers.heartbeat,
    CancelRun: operators.cancel,
    PauseRun: operators.pause,
    ResumeRun: operators.resume,
    RetryRun: operators.retry,
    PinRun: operators.pin,
    RestartRun: lineage.restart,
    ForkRun: lineage.fork,
    RegisterWorker: workers.register,
    RetireWorker: workers.retire,
    RescueWorker: workers.rescue,
    GiveBack: workers.give_back,
    Listen: events.listen,
    Unlisten: events.unlisten,
    Publish: events.publish,
    SendEvent: events.send,
    TakeEvent: events.take,
    GiveUpEvent: events.give_up,
    PutSchedule: schedules.put,
    RemoveSchedule: schedules.remove,
    PauseSchedule: schedules.pause,
    ResumeSchedule: schedules.resume,
    FireSchedule: schedules.fire,
    PutQueue: queues.put,
    PauseQueue: queues.pause,
    ResumeQueue: queues.resume,
    PutRetentions: pruning.put,
    Prune: pruning.prune,
    MoveSubscriber: feed.move,
    RemoveSubscriber: feed.remove,
    TakeLead: leader.take,
    LeaveLead: leader.leave,
}


def apply(space: Space, batch: Sequence[Transition], now: Micros) -> list[Outcome]:
    """Apply a batch: in the order given, claims last."""
    outcomes: dict[int, Outcome] = {}
    for index in sorted(range(len(batch)), key=lambda i: isinstance(batch[i], Claim)):
        outcome = VERBS[type(batch[index])](space, batch[index], now)
        outcomes[index] = attached.close(space, outcome, now) if space.closing else outcome
    return [outcomes[index] for index in range(len(batch))]
