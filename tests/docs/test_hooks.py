"""The tables of docs/hooks.md name what there is: each hook, and one for each seed's event."""

import re
from pathlib import Path

from perdure import telemetry
from perdure.telemetry import Hook, _delivery

PAGE = (Path(__file__).parents[2] / "docs" / "hooks.md").read_text("utf-8")
SEEDS = {"worchflow", "flowli", "bullmq-workflows", "idioteque"}

# What the seeds' pages and sources name; a row of the table may stand for several.
EVENTS = {
    "worchflow": (
        *("ready", "error", "execution:start", "execution:complete", "execution:failed"),
        *("execution:updated", "step:complete", "leader:acquired", "leader:lost"),
        *("schedule:triggered", "schedule:missed"),
    ),
    "flowli": (
        *("onJobStarted", "onJobCompleted", "onJobFailed", "onJobRetryScheduled"),
        "onLeaseRecovered",
    ),
    "bullmq-workflows": (
        *("complete", "error", "paused", "resumed", "terminated", "ready", "closed"),
        *("active", "completed", "failed", "stalled", "drained", "progress"),
    ),
    "idioteque": ("onError", "metrics.timing", "metrics.increment"),
}


def rows(heading: str) -> list[list[str]]:
    """Return the cells of the table with that heading."""
    lines = PAGE.splitlines()
    start = lines.index(heading) + 2
    body = lines[start : next(i for i in range(start, len(lines)) if lines[i][:1] != "|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in body]


def names(cell: str) -> list[str]:
    """Return what stands in backquotes."""
    return re.findall(r"`([^`]+)`", cell)


def test_every_event_of_the_seeds_has_a_row():
    """With at least one hook that exists, or the word later."""
    table = rows("| seed | there | here |")
    assert {seed for seed, _, _ in table} == SEEDS
    for seed, events in EVENTS.items():
        there = {name for row in table if row[0] == seed for name in names(row[1])}
        assert there >= set(events), seed
    for seed, there, here in table:
        ours = [name for name in names(here) if name[:1].isupper()]
        assert ours or "later" in here, (seed, there)
        for name in ours:
            assert getattr(telemetry, name) in telemetry.KINDS, name


def test_fields_that_the_table_names_exist():
    """`will_retry`, `due_at` and `duration` are fields of the hooks of their rows."""
    for _, _, here in rows("| seed | there | here |"):
        kinds = [getattr(telemetry, name) for name in names(here) if name[:1].isupper()]
        for field in (name for name in names(here) if name[:1].islower()):
            for kind in kinds:
                assert field in kind.__struct_fields__, (kind, field)


def test_every_kind_stands_under_its_class():
    """The table of classes lists exactly the kinds that derive from each."""
    listed: set[str] = set()
    for cell, description in rows("| class | stands for |"):
        base = getattr(telemetry, names(cell)[0])
        below = {name for name in names(description) if name[:1].isupper()}
        listed |= below
        if below:
            assert below == {kind.__name__ for kind in telemetry.KINDS if issubclass(kind, base)}
        for field in (name for name in names(description) if name[:1].islower()):
            assert field in base.__struct_fields__
    assert listed == {kind.__name__ for kind in telemetry.KINDS}
    assert all(issubclass(kind, Hook) for kind in telemetry.KINDS)


def test_the_figures_are_those_of_the_code():
    """How many are delivered at once, may wait, have threads, and how long a close takes."""
    for figure in (
        f"Up to {_delivery.AT_ONCE} hooks are with their listeners at once",
        f"up to {_delivery.BACKLOG:,} wait",
        f"for at most {_delivery.DRAIN_LIMIT:g} seconds",
        f"one of {_delivery.THREADS} threads",
    ):
        assert figure in PAGE
