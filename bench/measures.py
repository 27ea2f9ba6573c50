"""The table of measures: what is measured, beside what, and the bar it has to clear."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from bench.trial import Trial, here, peer

Medians = Mapping[str, float]

COMMITS = here("yardsticks", "single_commits", "commits/s")
GROUPED = here("yardsticks", "grouped_rows", "rows/s")
FSYNC = here("yardsticks", "fsync_latency", "ms fsync")

DBOS = "dbos_sqlite.py"
DBOS_SYNC = peer("dbos sync, 100 at once", "steps/s", DBOS, "workflows", "--form", "sync")
DBOS_SERIAL = peer("dbos sync, one by one", "steps/s", DBOS, "workflows", "--form", "serial")
DBOS_ASYNC = peer("dbos async, 100 at once", "steps/s", DBOS, "workflows", "--form", "async")
DBOS_WAL = peer(
    "dbos sync, one by one, WAL",
    "steps/s",
    DBOS,
    "workflows",
    "--form",
    "serial",
    "--journal",
    "wal",
)
DBOS_START = peer(
    "dbos start_workflow, 100 at once", "steps/s", DBOS, "workflows", "--form", "start"
)
DBOS_QUEUE = peer("dbos queue, 100 at once", "steps/s", DBOS, "workflows", "--form", "queue")

HUEY = "huey_sqlite.py"
HUEY_DRAIN = peer("huey drain", "runs/s", HUEY, "drain")
HUEY_ENQUEUE = peer("huey enqueue", "runs/s", HUEY, "enqueue")
HUEY_START = peer("huey start", "ms p50", HUEY, "start")


def dbos_sequential(steps: int, *options: str) -> Trial:
    """DBOS's time a step in one workflow of so many."""
    label = " ".join([f"dbos sequential {steps}", *options])
    return peer(label, "ms/step", DBOS, "sequential", "--steps", str(steps), *options)


@dataclass(frozen=True, slots=True)
class Measure:
    """One figure of ours, its bar, and the trials that run beside it in the same minutes.

    `bar` is given the medians of the trials beside, by label; it raises KeyError where a peer
    it needs did not run.
    """

    name: str
    better: Literal["higher", "lower"]
    claim: str
    bar: Callable[[Medians], float]
    ours: Trial
    beside: tuple[Trial, ...] = ()

    def holds(self, value: float, bar: float) -> bool:
        """Tell whether a value clears the bar."""
        return value >= bar if self.better == "higher" else value <= bar


def at(figure: float) -> Callable[[Medians], float]:
    """Return a bar that is the same everywhere."""
    return lambda _: figure


def sequential_bar(steps: int) -> Callable[[Medians], float]:
    """Return the bar of a step's time, which follows DBOS where commits are quick."""

    def bar(medians: Medians) -> float:
        commits = medians[COMMITS.label]
        if commits >= 3_000:
            return medians[dbos_sequential(steps).label] / 7
        return 1.3 * 1e3 / commits + 0.25

    return bar


def sequential(steps: int, *, dbos_steps: int) -> Measure:
    """Return the measure of one workflow with so many steps, beside DBOS with its own number."""
    return Measure(
        name=f"sequential_{steps}",
        better="lower",
        claim="<= 1/7 of DBOS (>= 3,000 commits/s), else 1.3 commits + 0.25 ms",
        bar=sequential_bar(dbos_steps),
        ours=here("ours", f"sequential_{steps}", "ms/step"),
        beside=(
            COMMITS,
            dbos_sequential(dbos_steps),
            dbos_sequential(dbos_steps, "--journal", "wal"),
        ),
    )


def measures(*, dbos_5000: bool) -> tuple[Measure, ...]:
    """Return the table; DBOS runs its 5,000 steps only when asked, else its 1,000 stand in."""
    return (
        Measure(
            "workflows_of_ten",
            "higher",
            ">= 60 x DBOS sync, 100 at once",
            lambda medians: 60 * medians[DBOS_SYNC.label],
            here("ours", "workflows_of_ten", "steps/s"),
            (DBOS_SYNC, DBOS_SERIAL, DBOS_ASYNC, DBOS_WAL),
        ),
        sequential(100, dbos_steps=100),
        sequential(1_000, dbos_steps=1_000),
        sequential(5_000, dbos_steps=5_000 if dbos_5000 else 1_000),
        Measure(
            "sequential_flatness",
            "lower",
            "<= 1.3 x between 100, 1,000, 5,000 steps",
            at(1.3),
            here("ours", "sequential_flatness", "x"),
        ),
        Measure(
            "drain",
            "higher",
            ">= 18,000 runs/s",
            at(18_000),
            here("ours", "drain", "runs/s"),
            (HUEY_DRAIN,),
        ),
        Measure(
            "enqueue_one_by_one",
            "higher",
            ">= 80 % of the single-commit rate",
            lambda medians: 0.8 * medians[COMMITS.label],
            here("ours", "enqueue_one_by_one", "runs/s"),
            (COMMITS, HUEY_ENQUEUE),
        ),
        Measure(
            "enqueue_by_fifty",
            "higher",
            ">= 15,000 runs/s",
            at(15_000),
            here("ours", "enqueue_by_fifty", "runs/s"),
            (GROUPED,),
        ),
        Measure(
            "enqueue_in_bulk",
            "higher",
            ">= 100,000 runs/s",
            at(100_000),
            here("ours", "enqueue_in_bulk", "runs/s"),
        ),
        Measure(
            "start_in_one_process",
            "lower",
            "<= 1.5 ms",
            at(1.5),
            here("ours", "start_in_one_process", "ms p50"),
            (FSYNC, HUEY_START),
        ),
        Measure(
            "start_across_two",
            "lower",
            "<= 3 ms",
            at(3),
            here("ours", "start_across_two", "ms p50"),
            (FSYNC,),
        ),
        Measure(
            "idle_cpu",
            "lower",
            "< 0.5 %",
            at(0.5),
            here("ours", "idle_cpu", "% of a core"),
        ),
        Measure(
            "idle_memory",
            "lower",
            "<= 40 MB",
            at(40),
            here("ours", "idle_memory", "MB"),
        ),
        Measure(
            "kept_bytes",
            "lower",
            "<= 1.5 KB",
            at(1_500),
            here("ours", "kept_bytes", "bytes/run"),
        ),
        Measure(
            "replay",
            "lower",
            "<= 30 us",
            at(30),
            here("ours", "replay", "us/step"),
        ),
        Measure(
            "kill",
            "lower",
            "0 acknowledged runs lost",
            at(0),
            here("proof", "kill", "lost"),
        ),
    )


PEER_TRIALS: tuple[Trial, ...] = (
    DBOS_SYNC,
    DBOS_SERIAL,
    DBOS_ASYNC,
    DBOS_START,
    DBOS_QUEUE,
    DBOS_WAL,
    dbos_sequential(100),
    dbos_sequential(1_000),
    dbos_sequential(1_000, "--form", "async"),
    dbos_sequential(1_000, "--journal", "wal"),
    HUEY_DRAIN,
    HUEY_ENQUEUE,
    HUEY_START,
)
YARDSTICK_TRIALS: tuple[Trial, ...] = (COMMITS, GROUPED, FSYNC)
