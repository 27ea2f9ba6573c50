"""The README's promise: kill the example at any moment, start it again, and lose nothing.

It is killed with SIGKILL at 10, 30, 50, 70 and 90 % of its recorded steps and at a random moment
after each of these. What is repeated is counted from a log that every body appends to, and
synchronises, before it returns.
"""

import random
import re
import statistics
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.docs.test_blocks import blocks_of
from tests.durability.archiving import ROOT, Archiving, Life, Record, Step, make_tree

CONCURRENCY = 16
MARKS = (0.1, 0.3, 0.5, 0.7, 0.9)
SEED = 20_240_229

Moment = Callable[[float, int], bool]


def moments(steps: int, rng: random.Random) -> Iterator[Moment]:
    """Yield when to kill: at each mark, and at a random moment before the next is near."""
    for mark in MARKS:
        yield lambda _, recorded, mark=mark: recorded >= mark * steps
        late, far = rng.uniform(0, 1), (mark + 0.05) * steps
        yield lambda elapsed, recorded, late=late, far=far: elapsed >= late or recorded >= far


@pytest.mark.parametrize(
    "files",
    [pytest.param(300, id="small"), pytest.param(None, id="library", marks=pytest.mark.tier(2))],
)
def test_kill_and_run_again(files: int | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """After ten kills the archive is the same, and only steps in flight were repeated."""
    rng = random.Random(SEED)
    source = None
    if files is not None:
        source = tmp_path / "source"
        make_tree(source, files, rng)
    undisturbed = Archiving(tmp_path / "undisturbed", source, concurrency=CONCURRENCY)
    assert undisturbed.live().code == 0, undisturbed.lives[-1].errors
    once = undisturbed.executions()
    assert set(once.values()) == {1}

    killed = Archiving(tmp_path / "killed", source, concurrency=CONCURRENCY)
    records: list[Record] = []
    for number, moment in enumerate(moments(len(once), rng)):
        assert killed.live(moment).code == -9, "it ended before it was killed"
        records.append(killed.record(tmp_path / f"record {number}"))
    assert killed.live().code == 0, killed.lives[-1].errors
    final = killed.record(tmp_path / "record")

    assert killed.files() == undisturbed.files()
    assert killed.integrity() == "ok"
    assert final.steps == set(once)

    in_flight = [
        set(life.effects) - record.steps
        for life, record in zip(killed.lives[:-1], records, strict=True)
    ]
    assert killed.executions() == once + Counter(step for lost in in_flight for step in lost)
    assert max(map(len, in_flight)) <= CONCURRENCY
    assert any(in_flight), "no kill landed inside a step, so nothing was proved"

    assert final.crashed.keys() == set().union(*(record.held for record in records))
    assert_rescued_before_working(records)
    assert_shown_in_readme(killed.lives)
    with capsys.disabled():
        print(figures(undisturbed, killed, in_flight, final))  # noqa: T201 -- asked for


def assert_rescued_before_working(records: list[Record]) -> None:
    """Each worker found by the lock files that those before it are dead, and took no lease for it.

    It gives back what they held before it registers, and a lease is only counted from then on.
    """
    held: set[tuple[int, int]] = set()
    for record in records:
        if record.joined_at is not None:
            assert {record.crashed[claim] <= record.joined_at for claim in held} <= {True}
        held |= record.held
    assert any(record.joined_at is not None for record in records[1:])


def assert_shown_in_readme(lives: list[Life]) -> None:
    """The README shows what the first and the last process wrote, other figures and paths apart."""
    readme = (ROOT / "README.md").read_text("utf-8")
    shown = [
        line
        for block in blocks_of("README.md", readme)
        if block.language == "console" and "dev.py demo" in block.text
        for line in block.text.splitlines()
        if not line.startswith("$ ") and line != "Killed"
    ]
    written = lives[0].errors + lives[-1].errors + lives[-1].output
    assert [alike(line) for line in shown] == [alike(line) for line in written.splitlines()]


def alike(line: str) -> str:
    """Return a line without its figures and paths."""
    return re.sub(r"(?<= of )/\S+|^\S+(?=: )", "PATH", re.sub(r"[\d,]+", "0", line))


def figures(
    undisturbed: Archiving, killed: Archiving, in_flight: list[set[Step]], final: Record
) -> str:
    """Return what was measured, in sentences."""
    restarts = killed.lives[1:]
    ups = [life.up for life in restarts if life.up is not None]
    begun = [
        (begun_at - life.began_at) / 1e6 - life.up
        for life in restarts
        for begun_at in [next((at for at in final.begun_at if at > life.began_at), 0)]
        if life.up is not None and begun_at < life.began_at + life.ended * 1e6
    ]
    return (
        f"\n{len(undisturbed.files()) - 1:,} files, {len(final.steps):,} steps: "
        f"{undisturbed.lives[0].ended:.1f} s undisturbed, "
        f"{sum(life.ended for life in killed.lives):.1f} s with {len(in_flight)} kills, "
        f"{sum(map(bool, in_flight))} of them inside a step; "
        f"{sum(map(len, in_flight))} steps repeated (at most {CONCURRENCY * len(in_flight)})\n"
        f"a restart began its first step {statistics.median(begun) * 1e3:.0f} ms (longest: "
        f"{max(begun) * 1e3:.0f} ms) after Python and the imports, which took "
        f"{statistics.median(ups) * 1e3:.0f} ms"
    )
