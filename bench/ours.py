"""Everything the bench asks of Perdure: no other module here imports it.

Each trial takes a fresh directory, does one thing through the public API, and returns
one reading. Bodies and steps do nothing, so that what is timed is Perdure.
"""

import asyncio
import json
import os
import random
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from bench.reading import Reading, bytes_in_use, live_settings
from perdure import App, Run, Worker, Workflow, step
from perdure.errors import PerdureError, RunFailed

AT_ONCE = 100
PATIENCE = "2m"
WARM_UP = 10


ENTERED_AT: list[float] = []  # lists of the process: a trial has one for itself
PASSED_AT: list[float] = []
STARTED_AT: dict[int, float] = {}


# ---- what is run ----------------------------------------------------------------------------


@step
async def noop() -> None:
    """Do nothing, durably."""


@step
async def echo(order: str) -> str:
    """Take and give a short text, durably."""
    return order


async def in_a_row(steps: int) -> None:
    """Run so many steps that do nothing."""
    for _ in range(steps):
        await noop()


async def echoes_in_a_row(steps: int) -> None:
    """Run so many steps that each take and give a text of ten letters."""
    for number in range(steps):
        await echo(f"order-{number:04}")


async def fails_once_behind(steps: int, *, echoes: bool) -> None:
    """Run so many steps and fail behind the last; the next time get past it."""
    ENTERED_AT.append(time.perf_counter())
    await (echoes_in_a_row(steps) if echoes else in_a_row(steps))
    PASSED_AT.append(time.perf_counter())
    if len(PASSED_AT) % 2:
        raise RuntimeError("the first time it fails behind its last step")


async def nothing() -> None:
    """Do nothing."""


async def stamp(number: int) -> None:
    """Note the instant at which the body started."""
    STARTED_AT[number] = time.perf_counter()


class Bench:
    """An app on a file of its own, with the definitions that are measured."""

    def __init__(self, place: Path) -> None:
        self.database = place / "perdure.db"
        self.app = App(f"sqlite:///{self.database}")
        self.in_a_row = self.app.workflow(in_a_row)
        self.echoes_in_a_row = self.app.workflow(echoes_in_a_row)
        self.fails_once_behind = self.app.workflow(fails_once_behind)
        self.nothing = self.app.job(nothing)
        self.stamp = self.app.job(stamp)

    def worker(self) -> Worker:
        return Worker(self.app, concurrency=AT_ONCE)

    def reading(self, value: float, **also: float | str) -> Reading:
        """Return the value with the settings of the store's own live connection."""
        return Reading(value, *live_settings(self.database), also)


@asynccontextmanager
async def connected(place: Path) -> AsyncIterator[Bench]:
    """Yield a connected app without a worker."""
    bench = Bench(place)
    async with bench.app:
        yield bench


@asynccontextmanager
async def working(place: Path) -> AsyncIterator[Bench]:
    """Yield a connected app with one worker that has already done a little work."""
    async with connected(place) as bench, bench.worker():
        await finished([await bench.in_a_row.enqueue(10) for _ in range(WARM_UP)])
        yield bench


async def finished(runs: Sequence[Run[Any]]) -> None:
    """Wait until every run has completed; raise if one did not."""
    await asyncio.gather(*(run.result(timeout=PATIENCE) for run in runs))


def created(answers: Sequence[Run[Any] | PerdureError]) -> list[Run[Any]]:
    """Return the runs of enqueue_many; raise the first error if one was not created."""
    runs: list[Run[Any]] = []
    for answer in answers:
        if isinstance(answer, PerdureError):
            raise answer
        runs.append(answer)
    return runs


# ---- workflows ------------------------------------------------------------------------------


async def workflows_of_ten(place: Path) -> Reading:
    """Steps a second of 500 workflows of 10 steps, first enqueue to last result."""
    async with working(place) as bench:
        began = time.perf_counter()
        runs = await asyncio.gather(*(bench.in_a_row.enqueue(10) for _ in range(500)))
        await finished(runs)
        seconds = time.perf_counter() - began
        return bench.reading(5_000 / seconds)


def sequential(steps: int) -> Callable[[Path], Awaitable[Reading]]:
    """Milliseconds a step of one workflow with so many, its enqueue and result included."""

    async def trial(place: Path) -> Reading:
        async with working(place) as bench:
            return bench.reading(await _milliseconds_a_step(bench, steps))

    return trial


async def sequential_flatness(place: Path) -> Reading:
    """How many times slower a step is at the worst of three lengths than at the best."""
    async with working(place) as bench:
        times = {steps: await _milliseconds_a_step(bench, steps) for steps in (100, 1_000, 5_000)}
        also = {f"ms_at_{steps}": milliseconds for steps, milliseconds in times.items()}
        return bench.reading(max(times.values()) / min(times.values()), **also)


async def _milliseconds_a_step(bench: Bench, steps: int) -> float:
    began = time.perf_counter()
    run = await bench.in_a_row.enqueue(steps)
    await run.result(timeout=PATIENCE)
    return (time.perf_counter() - began) * 1e3 / steps


async def replay(place: Path) -> Reading:
    """Microseconds a finished step, from the retry of a failed run to the line behind the last.

    The wake-up and the reading of the history are in it; 2,000 steps make them small.
    """
    async with working(place) as bench:
        noops, in_body = await _replayed(bench, echoes=False)
        echoes, _ = await _replayed(bench, echoes=True)
        return bench.reading(noops, us_in_body=in_body, us_with_a_text_in_and_out=echoes)


async def _replayed(bench: Bench, *, echoes: bool) -> tuple[float, float]:
    steps = 2_000
    run = await bench.fails_once_behind.enqueue(steps, echoes=echoes)
    with suppress(RunFailed):
        await run.result(timeout=PATIENCE)
    called_at = time.perf_counter()
    await run.retry()
    await run.result(timeout=PATIENCE)
    passed_at, entered_at = PASSED_AT[-1], ENTERED_AT[-1]
    return (passed_at - called_at) * 1e6 / steps, (passed_at - entered_at) * 1e6 / steps


async def kept_bytes(place: Path) -> Reading:
    """Bytes that a finished workflow of 10 steps keeps in the file."""
    async with working(place) as bench:
        read_back = live_settings(bench.database)
    noops = await _kept(place, lambda bench: bench.in_a_row)
    echoes = await _kept(place, lambda bench: bench.echoes_in_a_row)
    return Reading(noops, *read_back, {"bytes_with_a_text_in_and_out": echoes})


async def _kept(place: Path, choose: Callable[[Bench], Workflow[[int], None]]) -> float:
    workflows = 2_000
    before = bytes_in_use(place / "perdure.db")
    async with connected(place) as bench, bench.worker():
        await finished(created(await choose(bench).enqueue_many([((10,), {})] * workflows)))
    return (bytes_in_use(place / "perdure.db") - before) / workflows


# ---- jobs -----------------------------------------------------------------------------------


async def drain(place: Path) -> Reading:
    """No-op jobs a second when 20,000 wait and one worker starts, its start included."""
    waiting = 20_000
    async with connected(place) as bench:
        runs = created(await bench.nothing.enqueue_many([((), {})] * waiting))
        began = time.perf_counter()
        async with bench.worker():
            await runs[-1].result(timeout=PATIENCE)
            await finished(runs[-2 * AT_ONCE :])  # claimed by age: nothing older is left
            seconds = time.perf_counter() - began
        await finished(runs)
        return bench.reading(waiting / seconds)


async def enqueue_one_by_one(place: Path) -> Reading:
    """Enqueues a second by one caller who awaits each, with no worker."""
    async with connected(place) as bench:
        await _enqueue(bench, 200)
        began = time.perf_counter()
        await _enqueue(bench, 2_000)
        return bench.reading(2_000 / (time.perf_counter() - began))


async def enqueue_by_fifty(place: Path) -> Reading:
    """Enqueues a second by 50 callers at once who each await theirs, with no worker."""
    async with connected(place) as bench:
        await _enqueue(bench, 200)
        began = time.perf_counter()
        await asyncio.gather(*(_enqueue(bench, 400) for _ in range(50)))
        return bench.reading(20_000 / (time.perf_counter() - began))


async def enqueue_in_bulk(place: Path) -> Reading:
    """Enqueues a second by enqueue_many, 10,000 a call, with no worker."""
    async with connected(place) as bench:
        await _enqueue(bench, 200)
        began = time.perf_counter()
        for _ in range(10):
            created(await bench.nothing.enqueue_many([((), {})] * 10_000))
        return bench.reading(100_000 / (time.perf_counter() - began))


async def _enqueue(bench: Bench, count: int) -> None:
    for _ in range(count):
        await bench.nothing.enqueue()


# ---- waiting --------------------------------------------------------------------------------


async def start_in_one_process(place: Path) -> Reading:
    """Median milliseconds from the call of enqueue to the first line of the body."""
    async with working(place) as bench:
        called_at = await _enqueue_now_and_then(bench)
        return bench.reading(**_latency(called_at, STARTED_AT))


async def start_across_two(place: Path) -> Reading:
    """The same with the worker in another process on this host, sharing the monotonic clock."""
    worker = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.child", "ours:stamping_worker", str(place)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert worker.stdout is not None
    await worker.stdout.readline()  # it says that it works
    async with connected(place) as bench:
        called_at = await _enqueue_now_and_then(bench)
        output, _ = await worker.communicate(b"stop\n")
        stamps = json.loads(output.splitlines()[-1])["also"]
        return bench.reading(**_latency(called_at, {int(key): at for key, at in stamps.items()}))


async def stamping_worker(place: Path) -> Reading:
    """Work until a line arrives on standard input, then give the instants of the starts."""
    async with working(place) as bench:
        print("working", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        return bench.reading(0, **{str(number): at for number, at in STARTED_AT.items()})


async def _enqueue_now_and_then(bench: Bench) -> dict[int, float]:
    """Enqueue 300 stamping jobs, each on a worker that came to rest; return the call instants."""
    chance = random.Random(1)
    called_at: dict[int, float] = {}
    for number in range(300):
        await asyncio.sleep(chance.uniform(0.005, 0.025))
        called_at[number] = time.perf_counter()
        run = await bench.stamp.enqueue(number)
        await run.result(timeout=PATIENCE)
    return called_at


def _latency(called_at: dict[int, float], started_at: dict[int, float]) -> dict[str, float]:
    latencies = sorted((started_at[number] - at) * 1e3 for number, at in called_at.items())
    return {
        "value": statistics.median(latencies),
        "p95_ms": latencies[int(len(latencies) * 0.95)],
        "max_ms": latencies[-1],
    }


async def idle_cpu(place: Path) -> Reading:
    """Percent of a core that a process with one idle worker takes, over 20 s."""
    async with working(place) as bench:
        await asyncio.sleep(3)
        began, used = time.perf_counter(), time.process_time()
        await asyncio.sleep(20)
        used = time.process_time() - used
        return bench.reading(100 * used / (time.perf_counter() - began))


async def idle_memory(place: Path) -> Reading:
    """Resident MB of a process with one idle worker."""
    async with working(place) as bench:
        await asyncio.sleep(3)
        return bench.reading(_resident_mb())


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


# ---- what survives a kill: the halves that need Perdure; proof.py does the killing -----------


async def acknowledge_until_killed(place: Path) -> Reading:
    """Print each id when its enqueue, and again when its result, has come back; never end."""

    async def caller() -> None:
        while True:
            run = await bench.in_a_row.enqueue(3)
            _say(f"enqueued {run.id}")
            if chance.random() < 0.5:
                await run.result(timeout=PATIENCE)
                _say(f"finished {run.id}")

    chance = random.Random()
    async with working(place) as bench:
        await asyncio.gather(*(caller() for _ in range(20)))
        raise AssertionError("callers never end")


def _say(line: str) -> None:
    os.write(1, f"{line}\n".encode())  # one write a line, nothing in a buffer at the kill


async def finish_what_was_left(place: Path) -> Reading:
    """Reopen a killed process's file, finish every run whose id comes on standard input."""
    async with connected(place) as bench, bench.worker():
        ids = sys.stdin.read().split()
        await finished([bench.app.get(run_id) for run_id in ids])
        return bench.reading(len(ids))


TRIALS: dict[str, Callable[[Path], Awaitable[Reading]]] = {
    "workflows_of_ten": workflows_of_ten,
    "sequential_100": sequential(100),
    "sequential_1000": sequential(1_000),
    "sequential_5000": sequential(5_000),
    "sequential_flatness": sequential_flatness,
    "replay": replay,
    "kept_bytes": kept_bytes,
    "drain": drain,
    "enqueue_one_by_one": enqueue_one_by_one,
    "enqueue_by_fifty": enqueue_by_fifty,
    "enqueue_in_bulk": enqueue_in_bulk,
    "start_in_one_process": start_in_one_process,
    "start_across_two": start_across_two,
    "stamping_worker": stamping_worker,
    "idle_cpu": idle_cpu,
    "idle_memory": idle_memory,
    "acknowledge_until_killed": acknowledge_until_killed,
    "finish_what_was_left": finish_what_was_left,
}
