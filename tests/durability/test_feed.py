"""A named subscriber that is killed again and again is given every change, and few of them twice.

The whole feed is read at the end and compared with what the subscriber noted of each change before
it asked for the next.
"""

import random
from collections import Counter
from itertools import pairwise
from pathlib import Path

from perdure import App
from tests.durability.processes import Fleet, fact

APP = Path(__file__).with_name("feed_app.py")
RUNS = 800
KILLS = 6
MOST_AGAIN = 101
"""A page, and the change in whose midst the process was killed."""


def billed(directory: Path) -> list[str]:
    """Return the positions that were noted, in order; a line that was cut off is none."""
    log = directory / "billed.log"
    lines = log.read_text().splitlines() if log.exists() else []
    return [line.split()[1] for line in lines if line.count(" ") == 1]


async def whole(app: App) -> list[str]:
    """Return the positions of all changes."""
    return [change.position async for change in app.changes()]


async def test_a_killed_subscriber_misses_nothing(tmp_path: Path):
    """Six kills at random moments: each change at least once, in order, none missing."""
    rng = random.Random(20_261_127)
    app = App(f"sqlite:///{tmp_path / 'feed.db'}")
    with Fleet(APP, tmp_path) as fleet:
        async with app:
            worker = fleet.start("work")
            enqueuing = fleet.start("enqueue", total=RUNS)
            for _ in range(KILLS):
                noted = len(billed(tmp_path))
                reader = fleet.start("bill")
                goal = noted + rng.randint(30, 300)
                await fact("changes noted", lambda goal=goal: len(billed(tmp_path)) >= goal)
                reader.kill()
            await fact("all enqueued", lambda: enqueuing.ended)
            assert enqueuing.status == 0, fleet.output

            async def all_ended() -> bool:
                counts = await app.counts()
                return [(count.status, count.runs) for count in counts] == [("completed", RUNS)]

            await fact("all completed", all_ended)
            worker.stop()
            await fact("the worker stopped", lambda: worker.ended)
            changes = await whole(app)
            fleet.start("bill")
            await fact("the last noted", lambda: changes[-1] in billed(tmp_path)[-1:])
    assert len(changes) >= RUNS * 5
    noted = billed(tmp_path)
    assert set(noted) == set(changes)
    again = sum(times - 1 for times in Counter(noted).values())
    assert again <= KILLS * MOST_AGAIN
    places = {position: number for number, position in enumerate(changes)}
    went_back = [
        places[before] - places[after] + 1
        for before, after in pairwise(noted)
        if places[after] != places[before] + 1
    ]
    assert len(went_back) <= KILLS, "between kills every change follows on the one before"
    assert all(0 < length <= MOST_AGAIN for length in went_back)
