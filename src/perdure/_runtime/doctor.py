"""The doctor: looks at every run of a store and tells what cannot be.

What must hold of the rows of a namespace at every instant is written here once, over the store's
reads alone; the contract suite checks every store with it after every test, and ``perdure doctor``
a store in use. It changes nothing. Whether the bytes themselves are sound is the store's own
business: :meth:`perdure.store.Store.damage`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Final, TypeAlias

import msgspec

from perdure.codec.failures import error_summary
from perdure.errors import InvalidValue
from perdure.model.records import (
    TERMINAL,
    Control,
    Ending,
    History,
    Rank,
    RunQuery,
    RunRecord,
    Status,
    StepKind,
    StepOutcome,
    WaitKind,
)
from perdure.model.streams import StreamPage
from perdure.store import Store

PAGE: Final = 1_000

LOOKS: Final = 3
"""How often a run is looked at before something is said of it: several reads are not one instant,
so what a worker did between them may look wrong once, but not again and again."""

CountPlace: TypeAlias = tuple[str, str, Status]
"""What is counted together: a definition, a queue and a status."""

Said: TypeAlias = Iterator[tuple[str, str]]
"""Codes with what is wrong, the run being the subject of the sentence."""


class Finding(msgspec.Struct, frozen=True):
    """One thing that cannot be.

    Args:
        code: which rule is broken; stable, for programs.
        run_id: whose; None where it is not one run's.
        message: a sentence for people.
    """

    code: str
    run_id: str | None
    message: str


class Report(msgspec.Struct, frozen=True):
    """What an examination found.

    Args:
        runs: how many were looked at.
        findings: what cannot be; empty for a healthy store.
    """

    runs: int
    findings: tuple[Finding, ...]


class _View(msgspec.Struct, frozen=True):
    """A run with what it has to agree with, read one after the other."""

    history: History
    got: RunRecord | None
    endings: dict[str, Ending]
    workers: frozenset[str]
    streams: tuple[StreamPage, ...]  # the newest entry of each


async def examine(store: Store) -> Report:
    """Look at every run of an open store.

    It may be in use meanwhile: what was written during the examination is no finding.

    Returns:
        The runs that were looked at and what is wrong with them. Damage that keeps the store from
        listing its runs is one finding, ``unreadable``, and ends the examination.
    """
    findings = [Finding("damage", None, text) for text in await store.damage()]
    live: dict[tuple[str, str], str] = {}
    runs = 0
    before: int | None = None
    limit = PAGE
    while True:
        try:
            page = await store.list_runs(RunQuery(limit=limit, before=before))
        except Exception as error:  # noqa: BLE001  # whatever damage makes a store raise is a finding
            if limit > 1:
                limit //= 10  # come as near as possible to the one that cannot be read
                continue
            where = "runs" if before is None else f"the runs created before number {before}"
            findings.append(Finding("unreadable", None, f"{where} cannot be listed: {error!r}"))
            break
        if not page:
            findings += await _count_findings(store)
            findings += await _leader_findings(store)
            break
        findings += _order_findings(page, before)
        for run in page:
            findings += await _look(store, run)
            findings += await _key_findings(store, run, live)
        runs += len(page)
        before = page[-1].seq
    return Report(runs, tuple(findings))


def _order_findings(page: list[RunRecord], before: int | None) -> list[Finding]:
    seqs = [run.seq for run in page]
    if before is not None:
        seqs.insert(0, before)
    if seqs == sorted(set(seqs), reverse=True):
        return []
    return [Finding("order", None, f"runs are not listed newest first, each once: {seqs[:5]}…")]


async def _count_findings(store: Store) -> list[Finding]:
    """Return a finding where the kept counts differ from the runs at every one of several looks.

    Where the counts are others after a look than before it, nothing can be said.
    """
    wrong: list[Finding] = []
    for _ in range(LOOKS):
        try:
            kept = await _kept(store)
        except Exception as error:  # noqa: BLE001  # as above
            return [Finding("unreadable", None, f"the counts cannot be read: {error!r}")]
        counts = await _recount(store)
        if kept == counts or kept != await _kept(store):
            return []
        place = min(place for place in kept | counts if kept[place] != counts[place])
        definition, queue, status = place
        message = (
            f"{kept[place]:,} runs of {definition!r} in {queue!r} are counted as {status}, and "
            f"there are {counts[place]:,}"
        )
        wrong = [Finding("counts", None, message)]
    return wrong


async def _leader_findings(store: Store) -> list[Finding]:
    """Return a finding where a worker leads that is not registered, so that nobody ever fires."""
    record = await store.leader()
    for _ in range(LOOKS):
        registered = {worker.worker_id for worker in await store.workers()}
        is_known = record.worker_id is None or record.worker_id in registered
        if is_known or record != await store.leader():
            return []
    message = f"worker {record.worker_id} leads in term {record.term}, and it is not registered"
    return [Finding("leader", None, message)]


async def _kept(store: Store) -> Counter[CountPlace]:
    told = await store.counts(by_definition=True, by_queue=True)
    return Counter({(one.definition or "", one.queue or "", one.status): one.runs for one in told})


async def _recount(store: Store) -> Counter[CountPlace]:
    counts: Counter[CountPlace] = Counter()
    before: int | None = None
    while page := await store.list_runs(RunQuery(limit=PAGE, before=before)):
        counts.update((run.definition, run.queue, run.status) for run in page)
        before = page[-1].seq
    return counts


# --- one run -------------------------------------------------------------------------------------


async def _look(store: Store, listed: RunRecord) -> list[Finding]:
    """Return what is wrong with a run at every one of several looks."""
    run_id = listed.run_id
    found: list[Finding] = []
    for look in range(LOOKS):
        try:
            view = await _view(store, run_id)
        except Exception as error:  # noqa: BLE001  # as above
            return [Finding("unreadable", run_id, f"cannot be read: {error!r}")]
        if view is None:
            return []  # its retention ended meanwhile
        if view.history.run.seq != listed.seq:
            return [Finding("same-id", run_id, "shares its id with another run")]
        now = [Finding(code, run_id, message) for code, message in _wrong(view)]
        found = now if look == 0 else [finding for finding in found if finding in now]
        if not found:
            return []
    return found


async def _view(store: Store, run_id: str) -> _View | None:
    history = await store.history(run_id)
    if history is None:
        return None
    children = [wait.key for wait in history.waits if wait.kind is WaitKind.CHILD]
    workers = await store.workers() if history.run.status is Status.RUNNING else []
    pages = [
        await store.stream(run_id, stream.name, stream.entries - 1) for stream in history.streams
    ]
    return _View(
        history,
        await store.get(run_id),
        await store.endings([run_id, *children]),
        frozenset(worker.worker_id for worker in workers),
        tuple(page for page in pages if page is not None),
    )


def _wrong(view: _View) -> Said:
    history = view.history
    run = history.run
    if view.got != run:
        yield "reads-differ", "reads differently alone and with its history"
    yield from _of_claims(run, view.workers)
    yield from _of_leftovers(run)
    yield from _of_status(run)
    yield from _of_ending(run, view.endings)
    yield from _of_steps(history)
    yield from _of_errors(history)
    yield from _of_attempts(history)
    yield from _of_waits(history, view.endings)
    yield from _of_streams(view)


def _of_claims(run: RunRecord, workers: frozenset[str]) -> Said:
    claimed = run.epoch > 0
    # A generation that was not claimed yet has not started.
    started = run.started_at is not None or (run.generation > 0 and run.status not in _STARTED)
    if claimed != (run.claimed_at is not None) or claimed != started:
        yield (
            "claim-times",
            (
                f"has epoch {run.epoch}, claimed_at {run.claimed_at},"
                f" started_at {run.started_at}: all of them or none"
            ),
        )
    if run.status is not Status.RUNNING:
        return
    if run.worker_id not in workers:
        yield "lost-holder", f"is running with worker {run.worker_id!r}, which is not registered"
    if run.grant == 0:
        yield "no-grant", "is running without a grant, so that its holder can write nothing"


def _of_leftovers(run: RunRecord) -> Said:
    if (run.finished_at is not None) != (run.status in TERMINAL):
        yield "finish-time", f"is {run.status} and its finished_at is {run.finished_at}"
    by_hand = run.status is Status.PAUSED and run.reason == "operator"  # its timers stand still
    if (run.paused_at is not None) != by_hand:
        yield "pause-time", f"is {run.status} ({run.reason}) and its paused_at is {run.paused_at}"
    still = run.due_at is not None or run.waiting_for is not None
    if still and run.status is not Status.WAITING and not by_hand:
        yield "due-time", f"is {run.status} and still due at {run.due_at} ({run.waiting_for})"
    if run.status is not Status.RUNNING and run.control is not Control.NONE:
        yield "control-word", f"is {run.status} and still told to {run.control}"
    if run.status in TERMINAL and run.attaches:
        yield "attached-left", f"is {run.status}, and what is attached to it was not cancelled"


def _of_status(run: RunRecord) -> Said:
    expected = _rank(run)
    if run.status is Status.QUEUED and run.rank is not expected:
        yield (
            "rank",
            (
                f"is queued as {run.rank.name.lower()} and should be as {expected.name.lower()},"
                f" with epoch {run.epoch} and {run.crashes} crashes"
            ),
        )
    if run.status is Status.WAITING and run.waiting_for is None:
        yield "waiting-for", "is waiting and does not say for what"
    agrees = _AGREES.get(run.status)
    if agrees is not None and not agrees(run):
        result, error = (
            "none" if data is None else f"{len(data)} bytes" for data in (run.result, run.error)
        )
        yield (
            "outcome",
            (
                f"is {run.status}: result {result}, error {error}, reason {run.reason!r},"
                f" misfits {run.misfits!r}"
            ),
        )


def _rank(run: RunRecord) -> Rank:
    if run.crashes >= 2:
        return Rank.SUSPECT
    return Rank.RESUMED if run.epoch else Rank.FRESH


_AGREES: Final[dict[Status, Callable[[RunRecord], bool]]] = {
    Status.PAUSED: lambda run: (
        run.reason == "operator" or (bool(run.misfits) and None not in (run.reason, run.error))
    ),
    Status.COMPLETED: lambda run: (
        run.result is not None and run.error is None and run.reason in {None, "declined"}
    ),
    Status.FAILED: lambda run: None not in (run.reason, run.error),
    Status.CANCELLED: lambda run: run.reason is None and run.result is None,
}
"""Whether what is kept of the outcome fits the status."""


def _of_ending(run: RunRecord, endings: dict[str, Ending]) -> Said:
    ending = endings.get(run.run_id)
    expected = None
    if run.status in TERMINAL:
        expected = Ending(run.run_id, run.status, run.result, run.error, run.reason)
    if ending != expected:
        told = "nothing" if ending is None else ending.status
        yield "ending", f"is {run.status}, and whoever awaits it is told {told}"


def _of_steps(history: History) -> Said:
    run = history.run
    newest = run.generation + (run.control is Control.RESTART)  # what is laid ready is one more
    keys = Counter((step.generation, step.key) for step in history.checkpoints)
    for (generation, key), times in keys.items():
        if generation > newest:
            yield (
                "step-generation",
                f"has step {key.path!r} of generation {generation} and is at {run.generation}",
            )
        if times > 1:
            yield "step-twice", f"has {times} records of step {key.path!r}"
    for step in history.checkpoints:
        if step.epoch > run.epoch:
            yield (
                "step-epoch",
                (f"has step {step.key.path!r} of epoch {step.epoch} and is at epoch {run.epoch}"),
            )
        if step.due_at is not None and step.outcome is not StepOutcome.PENDING:
            yield "step-due", f"has step {step.key.path!r}, which is {step.outcome} and still due"


_STARTED: Final = frozenset({Status.RUNNING, Status.COMPLETED, Status.FAILED})
_FAILED: Final = frozenset({StepOutcome.ERROR, StepOutcome.TIMEOUT})


def _of_errors(history: History) -> Said:
    """What people and bodies are told must be readable."""
    kept = [("its error", history.run.error)]
    kept += [(f"the error of attempt {one.number}", one.error) for one in history.attempts]
    kept += [
        (f"the error of step {one.key.path!r}", one.value)
        for one in history.checkpoints
        if one.outcome in {StepOutcome.ERROR, StepOutcome.TIMEOUT}
        and one.kind is not StepKind.CHILD
    ]
    for what, data in kept:
        if data is not None:
            try:
                error_summary(data)
            except InvalidValue:
                yield "error-damaged", f"{what} cannot be read: {data[:40]!r}"


def _of_attempts(history: History) -> Said:
    run = history.run
    for attempt in history.attempts:
        # Attempts are counted anew in each generation.
        beyond = attempt.number > run.attempt and run.generation == 0
        if attempt.epoch > run.epoch or beyond:
            yield (
                "attempt",
                (
                    f"has attempt {attempt.number} of epoch {attempt.epoch} and is at attempt"
                    f" {run.attempt} and epoch {run.epoch}"
                ),
            )
    for request, times in Counter(entry.request_id for entry in history.audit).items():
        if times > 1:
            yield "audit-twice", f"has request {request!r} {times} times in its audit"


def _of_waits(history: History, endings: dict[str, Ending]) -> Said:
    run = history.run
    if history.waits and run.status in TERMINAL:
        yield "waits-kept", f"is {run.status} and still has {len(history.waits)} waits"
    if run.status is not Status.WAITING:
        return
    if not history.waits and run.due_at is None:
        yield "never-woken", "is waiting, and nothing can wake it"
    joins: dict[int, set[str]] = {}
    for wait in history.waits:
        if wait.kind is WaitKind.CHILD:
            joins.setdefault(wait.join, set()).add(wait.key)
    # With `coalesce` it is woken a little later, by its due time.
    is_due = run.coalesce > 0 and run.due_at is not None
    if not is_due and any(children <= endings.keys() for children in joins.values()):
        yield "join-missed", "is waiting for children that have all ended, and was not woken"


def _of_streams(view: _View) -> Said:
    for stream, page in zip(view.history.streams, view.streams, strict=True):
        numbers = [entry.number for entry in page.entries]
        if page.last != stream.entries or numbers != [stream.entries]:
            yield (
                "stream",
                (
                    f"has a stream {stream.name!r} of {stream.entries:,} entries, and the newest"
                    f" is number {page.last:,} ({numbers})"
                ),
            )
        beyond = [entry for entry in page.entries if entry.generation > view.history.run.generation]
        if beyond:
            yield "stream-generation", f"has entries of a later generation in {stream.name!r}"


# --- several runs --------------------------------------------------------------------------------


async def _key_findings(
    store: Store, run: RunRecord, live: dict[tuple[str, str], str]
) -> Iterable[Finding]:
    """Return a finding where another run holds this one's unique_key, too."""
    if run.unique_key is None or not _holds_key(run):
        return ()
    other = live.setdefault((run.definition, run.unique_key), run.run_id)
    if other == run.run_id:
        return ()
    records = [await store.get(run_id) for run_id in (run.run_id, other)]
    if any(record is None or not _holds_key(record) for record in records):
        return ()
    message = f"and {other!r} both hold unique_key {run.unique_key!r} of {run.definition!r}"
    return (Finding("unique-key", run.run_id, message),)


def _holds_key(run: RunRecord) -> bool:
    return run.status not in TERMINAL and run.key_passed_to is None
