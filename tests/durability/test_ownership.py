"""Who may execute a run: leases, heartbeats, fencing and rescue, with real processes on one file.

Leases are a second and a half where time has to run out, and minutes where a test shows that it
was something else than a lease that let a run go on. Figures are printed and, in tier 1, compared
with nothing.
"""

import signal
import time
from collections import Counter
from functools import partial

import pytest

from perdure import Run, Status
from perdure._runtime.heartbeat import EXIT_STALLED
from perdure.defaults import CRASH_CAP
from tests.durability.ownership_app import DAY
from tests.durability.processes import Effects, Process, fact
from tests.durability.yard import LONG, SHORT, TIMEOUT, Yard

ACTED = ("start", "end", "cancelled")
"""What steps note in the log of effects."""

BEATS = 3
"""Heartbeats of a lease, in SHORT."""


def overlaps(effects: Effects) -> list[tuple[str, int]]:
    """Return the steps that were started while they were being executed."""
    executing: Counter[tuple[str, int]] = Counter()
    found = []
    for effect in effects.read():
        step = effect.run, effect.step
        if effect.event == "start":
            executing[step] += 1
            if executing[step] > 1:
                found.append(step)
        elif effect.event in ("end", "cancelled"):
            executing[step] -= 1
    return found


# --- several at once -------------------------------------------------------------------------


async def test_three_workers_share_the_work_and_no_step_is_executed_twice(yard):
    """300 workflows of 5 steps on 3 workers with default leases: each step once, nowhere twice."""
    workers = [yard.fleet.start("work", concurrency=40) for _ in range(3)]
    await yard.working(*workers)
    acts = ("hold", "go", "go", "yield", "go")
    names = [f"run{number}" for number in range(300)]
    runs = await yard.perform.enqueue_many([((name, acts), {}) for name in names])
    # Each has 40 slots, and nothing goes on before all of them are taken: so all take part.
    await fact(
        "all slots are taken",
        lambda: len([e for e in yard.effects.read() if e.event == "start"]) == 120,
    )
    yard.gates.open("all")
    results = [await run.result(timeout=TIMEOUT) for run in runs]
    acted = [effect for effect in yard.effects.read() if effect.event in ACTED]
    counts = Counter((effect.event, effect.run, effect.step) for effect in acted)
    expected = [(name, number) for name in names for number in range(len(acts))]
    assert counts == {(event, *step): 1 for step in expected for event in ("start", "end")}
    assert overlaps(yard.effects) == []
    shares = Counter(pid for result in results for pid in result)
    assert all(shares[worker.pid] >= 40 * len(acts) for worker in workers), shares
    for run in runs:
        history = await run.history()
        assert (history.attempts, history.crashes) == ((), 0)


# --- killed ----------------------------------------------------------------------------------


async def test_a_killed_worker_that_is_started_again_resumes_at_once(yard, figure):
    """Kill and restart: the lock file says who is dead, long before a lease of minutes is over."""
    first = await yard.worker(**LONG)
    run = await yard.enqueue("order", "go", "hold", "go")
    await yard.started("order", 1)
    first.kill()
    began = time.monotonic()
    second = await yard.worker(**LONG)
    resumed = await yard.started("order", 1, pid=second.pid)
    figure("from starting a process to resumed", resumed - began)
    yard.gates.open("order-1")
    assert await run.result(timeout=TIMEOUT) == [first.pid, second.pid, second.pid]
    await yard.crashed_once(run)
    assert [yard.executions("order", number) for number in range(3)] == [
        [first.pid],
        [first.pid, second.pid],
        [second.pid],
    ]


async def test_a_living_worker_takes_over_from_a_killed_one_at_once(yard, figure):
    """Nobody has to start anything: who lives sees the free lock file at its next look."""
    first = await yard.worker(**LONG)
    runs = [await yard.enqueue(name, "go", "hold") for name in ("one", "two")]
    for name in ("one", "two"):
        await yard.started(name, 1)
    second = await yard.worker(**LONG)
    first.kill()
    killed = time.monotonic()
    yard.gates.open("all")
    for run in runs:
        assert await run.result(timeout=TIMEOUT) == [first.pid, second.pid]
        await yard.crashed_once(run)
    figure("from the kill to resumed", await yard.started("one", 1, pid=second.pid) - killed)


# --- frozen ----------------------------------------------------------------------------------


@pytest.mark.parametrize("write", ["checkpoint", "end"])
async def test_a_frozen_worker_is_rescued_and_refused_when_it_wakes(yard, figure, write):
    """What it held goes on elsewhere; woken, it can write nothing of it, and goes on as another."""
    frozen = await yard.worker(**SHORT)
    cancelled = await yard.enqueue("cancelled", "hold", "go")
    await yard.started("cancelled")
    # This one blocks its loop, so that on waking it writes before it can have heard anything.
    yard.gates.open("jam", frozen.pid)
    if write == "checkpoint":
        refused = await yard.enqueue("refused", "jam")
    else:
        refused = await yard.conclude.enqueue("refused", "jam")
    await yard.started("refused")
    rescuer = await yard.worker(concurrency=2, **SHORT)
    lost = (await yard.workers())[frozen.pid].worker_id
    await yard.freeze(frozen)
    froze = time.monotonic()
    for name in ("refused", "cancelled"):
        rescued = await yard.started(name, pid=rescuer.pid)
    figure("from the freeze to resumed, with a lease of 1.5 s", rescued - froze)

    # The rescuer has no slot left: these wait for the one that was frozen.
    backlog = [await yard.enqueue(f"later{number}", "go") for number in range(3)]
    yard.gates.open("refused-0", frozen.pid)
    frozen.thaw()
    await fact("the woken worker joins again", partial(_has_joined_again, yard, frozen.pid, lost))
    for run in backlog:
        assert await run.result(timeout=TIMEOUT) == [frozen.pid]
    assert yard.effects.find("end", "refused", 0, pid=frozen.pid)
    assert yard.effects.find("cancelled", "cancelled", 0, pid=frozen.pid)
    yard.gates.open("all")
    assert await refused.result(timeout=TIMEOUT) == [rescuer.pid]
    assert await cancelled.result(timeout=TIMEOUT) == [rescuer.pid, rescuer.pid]
    for run in (refused, cancelled):
        await yard.crashed_once(run)


async def _has_joined_again(yard: Yard, pid: int, lost: str) -> bool:
    worker = (await yard.workers()).get(pid)
    return worker is not None and worker.worker_id != lost


@pytest.mark.tier(2)
async def test_a_frozen_worker_is_rescued_within_17_seconds_by_default(yard, figure):
    """Lease 15 s, heartbeat 5 s: at most 17 s from the freeze to the step's next start."""
    frozen = await yard.worker()
    run = await yard.enqueue("order", "hold")
    await yard.started("order")
    rescuer = await yard.worker()
    await yard.beaten(frozen, rescuer, times=1)
    await yard.freeze(frozen)
    froze = time.monotonic()
    yard.gates.open("all")
    assert await run.result(timeout=TIMEOUT) == [rescuer.pid]
    took = await yard.started("order", pid=rescuer.pid) - froze
    figure("from the freeze to resumed, with defaults", took)
    assert took <= 17


# --- not lost --------------------------------------------------------------------------------


async def test_clocks_that_are_off_and_jump_by_a_day_expire_nobody(yard):
    """The process's clock, the store's, and both, a day ahead and behind, and then the reverse."""
    workers = []
    for number, which in enumerate([("clock",), ("store_clock",), ("clock", "store_clock")]):
        for sign in (1, -1):
            file = yard.directory / f"clock{number}{sign}"
            file.write_text(f"{sign * DAY}")
            wrong = dict.fromkeys(which, file.name)
            workers.append(yard.fleet.start("work", concurrency=1, **SHORT, **wrong))
    await yard.working(*workers)
    before = await yard.workers()
    names = [f"run{number}" for number, _ in enumerate(workers)]
    runs = [await yard.enqueue(name, "hold", "go") for name in names]
    for name in names:
        await yard.started(name)
    for file in yard.directory.glob("clock*"):
        file.write_text(f"{-int(file.read_text())}")
    await yard.beaten(*workers, times=BEATS + 1)
    yard.gates.open("all")
    for name, run in zip(names, runs, strict=True):
        await run.result(timeout=TIMEOUT)
        assert [len(yard.executions(name, number)) for number in range(2)] == [1, 1]
        history = await run.history()
        assert (history.attempts, history.crashes) == ((), 0)
    after = await yard.workers()
    assert {w.worker_id for w in after.values()} == {w.worker_id for w in before.values()}


async def test_a_blocked_event_loop_does_not_lose_the_lease(yard):
    """The heart beats in a thread of its own; a body that blocks for two leases is left alone."""
    blocked = await yard.worker(**SHORT)
    run = await yard.enqueue("blocks", "block", "go")
    await yard.started("blocks")
    other = await yard.worker(**SHORT)
    before = (await yard.workers())[blocked.pid].worker_id
    await yard.beaten(blocked, other, times=2 * BEATS)
    yard.gates.open("blocks-0")
    assert await run.result(timeout=TIMEOUT) == [blocked.pid, blocked.pid]
    assert yard.executions("blocks", 0) == [blocked.pid]
    history = await run.history()
    assert (history.attempts, history.crashes) == ((), 0)
    assert (await yard.workers())[blocked.pid].worker_id == before


# --- poison ----------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 3])
async def test_a_poison_run_ends_and_its_neighbours_complete(yard, workers):
    """Ten processes die with it, and then it is failed with reason crash; nobody else is."""
    harmless = [f"harmless{number}" for number in range(100)]
    # The lingering ones are hit again and again, until suspects are executed one at a time.
    calls = [
        ((name, ("yield" if n % 10 else "linger", "yield")), {}) for n, name in enumerate(harmless)
    ]
    calls.insert(50, (("poison", ("die",)), {}))
    runs = await yard.perform.enqueue_many(calls)
    poison = runs.pop(50)
    died: list[int] = []
    living: list[Process] = []
    while await poison.status() is not Status.FAILED:
        while len(living) < workers:
            living.append(yard.fleet.start("work", lease="10m", heartbeat="1s"))
        await fact("one dies, or the poison ends", partial(_dead_or_done, living, poison))
        for worker in [worker for worker in living if worker.ended]:
            assert worker.status == -signal.SIGKILL, worker.output
            living.remove(worker)
            died.append(worker.pid)
            assert len(died) <= CRASH_CAP
    for run in runs:
        await run.result(timeout=TIMEOUT)
    assert len(died) == CRASH_CAP
    assert yard.executions("poison", 0) == died
    history = await poison.history()
    assert (history.reason, history.crashes) == ("crash", CRASH_CAP)
    assert [attempt.outcome for attempt in history.attempts] == ["crashed"] * CRASH_CAP
    assert "without a new checkpoint" in (history.error or "")
    assert poison.id in [run.id for run in await yard.app.runs(status="failed", reason="crash")]

    for name, run in zip(harmless, runs, strict=True):
        crashed = (await run.history()).attempts
        assert {attempt.outcome for attempt in crashed} <= {"crashed"}
        assert len(crashed) < CRASH_CAP
        for number in range(2):
            # Again only in another process, and only because the one before died.
            *before, last = yard.executions(name, number)
            assert len(set(before)) == len(before) <= len(crashed)
            assert set(before) <= set(died) - {last}


async def _dead_or_done(living: list[Process], poison: Run[list[int]]) -> bool:
    return any(worker.ended for worker in living) or await poison.status() is Status.FAILED


# --- stalled ---------------------------------------------------------------------------------


async def test_a_process_whose_loop_stands_still_for_too_long_is_ended(yard):
    """Its heart ends it, with the place in the log, so that others take over."""
    stalled = await yard.worker(stall_limit=1.0, lease="10m", heartbeat="0.5s")
    run = await yard.enqueue("blocks", "block", "go")
    other = await yard.worker(**LONG)
    yard.gates.open("blocks-0", other.pid)
    assert await run.result(timeout=TIMEOUT) == [other.pid, other.pid]
    await yard.crashed_once(run)
    assert stalled.status == EXIT_STALLED
    assert "in _block" in stalled.output


# --- stopped ---------------------------------------------------------------------------------


async def test_a_graceful_stop_finishes_what_it_can_and_hands_back_the_rest_at_once(yard, figure):
    """Nothing more is claimed, the grace is used, and another takes the rest without a lease."""
    # Longer than a poll: a hint may miss who has only just begun to wait for a result.
    stopping = await yard.worker(grace="3s", concurrency=2, **LONG)
    quick = await yard.enqueue("quick", "hold", "go")
    slow = await yard.enqueue("slow", "go", "hold", "go")
    await yard.started("quick")
    await yard.started("slow", 1)
    other = await yard.worker(concurrency=1, poll="30s", **LONG)
    full = await yard.enqueue("full", "hold")
    await yard.started("full", pid=other.pid)
    stopping.stop()
    (began,) = await fact("it stops", lambda: yard.effects.find("stopping"))
    late = [await yard.enqueue(name, "go") for name in ("late1", "late2", "late3")]
    yard.gates.open("quick-0")
    assert await quick.result(timeout=TIMEOUT) == [stopping.pid, stopping.pid]
    # One has a free slot and stops, the other has none.
    assert [await run.status() for run in late] == [Status.QUEUED] * 3
    yard.gates.open("full-0")
    assert await full.result(timeout=TIMEOUT) == [other.pid]
    for run in late:
        assert await run.result(timeout=TIMEOUT) == [other.pid]

    resumed = await yard.started("slow", 1, pid=other.pid)
    figure("from the end of the grace to resumed", resumed - began.at - 3)
    yard.gates.open("slow-1")
    assert await slow.result(timeout=TIMEOUT) == [stopping.pid, other.pid, other.pid]
    await yard.ended(stopping)
    assert stopping.status == 0
    history = await slow.history()
    assert (history.attempts, history.crashes) == ((), 0)
    assert yard.effects.find("cancelled", "slow", 1, pid=stopping.pid)
    assert list(await yard.workers()) == [other.pid]


# --- woken -----------------------------------------------------------------------------------


async def test_a_run_starts_and_its_result_is_heard_through_wake_ups(yard):
    """Enqueued here, executed there, awaited in a third process: no poll of 30 s is waited for."""
    worker = await yard.worker(poll="30s", **LONG)
    first = await yard.enqueue("first", "go")
    assert await first.result(timeout=TIMEOUT) == [worker.pid]
    # The end of the first and the claim that found nothing more were one batch: it is idle now.
    run = await yard.enqueue("order", "hold")
    await fact("it starts", lambda: yard.effects.find("start", "order", 0), patience=10)
    yard.fleet.start("await_result", run=run.id)
    await fact("somebody waits", lambda: yard.effects.find("waiting", "order"))
    yard.gates.open("order-0")
    await fact("it is heard", lambda: yard.effects.find("heard", "order"), patience=10)
