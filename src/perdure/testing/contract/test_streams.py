"""Streams: entries in order, each once, and what generations and forks keep of them."""

from collections.abc import Sequence

import pytest
import pytest_asyncio
from msgspec.structs import replace

from perdure.model.records import Control, Grant, StepKey, StreamRecord
from perdure.model.retention import Prune
from perdure.model.streams import StreamMark, WriteStream
from perdure.model.transitions import (
    CancelRun,
    Completed,
    Created,
    CreateRun,
    Fenced,
    ForkRun,
    Outcome,
    RestartRun,
    Saved,
    Settle,
)
from perdure.store import Store
from perdure.testing.contract.desk import START, Desk, ManualClock, fresh_token, grant_of, key, save
from perdure.testing.contract.fixtures import MakeStore

INNER = b"inner scope 4567"


@pytest_asyncio.fixture
async def desk(store: Store, clock: ManualClock) -> Desk:
    """The test's hand on its store, at which a worker is registered."""
    desk = Desk(store, clock)
    await desk.worker()
    return desk


def entry(
    grant: Grant,
    k: int,
    value: bytes | None = b'"v"',
    *,
    stream: str = "lines",
    scope: bytes = b"",
    path: str = "",
    at: int = START,
) -> WriteStream:
    return WriteStream(grant, stream, scope, path, k, value, at)


async def values(
    store: Store, run_id: str = "r", name: str = "lines", after: int = 0
) -> list[bytes | None]:
    page = await store.stream(run_id, name, after)
    assert page is not None
    return [one.value for one in page.entries]


async def marks(desk: Desk, run_id: str = "r") -> dict[tuple[str, bytes], tuple[int, bool]]:
    """Release nothing: claim the only claimable run and return its marks."""
    claimed = await desk.claim()
    [given] = [one for one in claimed.runs if one.run.run_id == run_id]
    return {(mark.stream, mark.scope): (mark.written, mark.closed) for mark in given.marks}


async def crash(desk: Desk, worker_id: str = "w") -> None:
    """Let the worker die, and another one of its name be there."""
    await desk.rescue(worker_id)
    await desk.worker(worker_id)


async def test_entries_are_read_in_order_and_from_a_number_on(desk: Desk):
    """Each has a number of its own, counted from 1 in each stream."""
    grant = await desk.start()
    written = [entry(grant, 0, b"1"), entry(grant, 1, b"2"), entry(grant, 0, b"x", stream="other")]
    assert await desk.apply(*written) == [Saved()] * 3
    await desk.do(entry(grant, 2, None))
    page = await desk.store.stream("r", "lines")
    assert page is not None
    assert [(one.number, one.value) for one in page.entries] == [(1, b"1"), (2, b"2"), (3, None)]
    assert [one.at for one in page.entries] == [START] * 3
    assert (page.last, page.run_seq, page.ended) == (3, (await desk.run()).seq, False)
    page = await desk.store.stream("r", "lines", after=1, limit=1)
    assert page is not None
    assert ([one.value for one in page.entries], page.last) == ([b"2"], 3)
    assert await values(desk.store, name="other") == [b"x"]


async def test_a_stream_of_nothing_and_a_run_of_nothing(desk: Desk):
    """What was never written has no entries; what is no run has no stream."""
    await desk.create("r")
    page = await desk.store.stream("r", "lines")
    assert page is not None
    assert (page.entries, page.last, page.ended) == ((), 0, False)
    assert await desk.store.stream("s", "lines") is None


async def test_a_page_tells_that_the_run_has_ended(desk: Desk):
    """As of the same instant, so that nothing is missed by whoever stops then."""
    grant = await desk.start()
    await desk.do(entry(grant, 0))
    await desk.settle(grant)
    page = await desk.store.stream("r", "lines")
    assert page is not None
    assert (len(page.entries), page.ended) == (1, True)


async def test_the_same_entry_is_written_once_and_the_first_stands(desk: Desk):
    """In the same batch, in another one, with another value, and from another claim."""
    grant = await desk.start()
    assert await desk.apply(entry(grant, 0, b"1"), entry(grant, 0, b"1")) == [Saved()] * 2
    assert await desk.do(entry(grant, 0, b"2")) == Saved()
    await crash(desk)
    again = await desk.claim_one("r")
    assert await desk.apply(entry(again, 0, b"3"), entry(again, 1, b"4")) == [Saved()] * 2
    assert await values(desk.store) == [b"1", b"4"]


async def test_a_write_without_the_current_grant_changes_nothing(desk: Desk):
    """Fenced: an older claim, a settled run, a run that is not there."""
    grant = await desk.start()
    await desk.do(entry(grant, 0, b"1"))
    await crash(desk)
    assert await desk.do(entry(grant, 0, b"1")) == Fenced("r")
    assert await desk.do(entry(grant, 1, b"2")) == Fenced("r")
    current = await desk.claim_one("r")
    assert await desk.do(entry(replace(current, token=7), 1)) == Fenced("r")
    assert await desk.do(entry(Grant("nobody", 1, 1), 0)) == Fenced("nobody")
    await desk.settle(current)
    assert await desk.do(entry(current, 0, b"1")) == Saved()  # it is written
    assert await desk.do(entry(current, 1, b"2")) == Fenced("r")
    assert await values(desk.store) == [b"1"]


async def test_a_write_and_its_settle_in_one_batch(desk: Desk):
    """What comes before the settle is written, what comes behind it is fenced."""
    grant = await desk.start()
    outcomes = await desk.apply(
        entry(grant, 0, b"1"), Settle(grant, Completed(b"null")), entry(grant, 1, b"2")
    )
    assert (outcomes[0], outcomes[2]) == (Saved(), Fenced("r"))
    assert await values(desk.store) == [b"1"]


async def test_a_write_hears_the_operators_word(desk: Desk):
    """Its answer carries the control word."""
    grant = await desk.start()
    await desk.do(CancelRun("r", "c"))
    answer = await desk.do(entry(grant, 0))
    assert isinstance(answer, Saved)
    assert answer.control == "cancel"


async def test_a_claim_hands_out_marks_and_no_entries(desk: Desk):
    """One for each stream and scope, however many entries there are."""
    grant = await desk.start()
    await desk.apply(*(entry(grant, k) for k in range(300)))
    await desk.apply(
        entry(grant, 0, stream="other"),
        entry(grant, 0, scope=INNER, path="s/"),
        entry(grant, 1, None, scope=INNER, path="s/"),
    )
    await crash(desk)
    claimed = await desk.claim()
    assert set(claimed.runs[0].marks) == {
        StreamMark("lines", b"", 300, closed=False),
        StreamMark("lines", INNER, 2, closed=True),
        StreamMark("other", b"", 1, closed=False),
    }


async def test_a_run_that_wrote_nothing_has_no_marks(desk: Desk):
    """Whatever others have written."""
    other = await desk.start("s")
    await desk.do(entry(other, 0))
    await desk.start("r")
    await crash(desk)
    by_id = {given.run.run_id: given.marks for given in (await desk.claim()).runs}
    assert by_id["r"] == ()
    assert len(by_id["s"]) == 1


async def test_entries_are_no_progress_of_a_claim(desk: Desk):
    """Two claims that crash after writing make the run a suspect, as if they had not."""
    grant = await desk.start()
    await desk.do(entry(grant, 0))
    await crash(desk)
    grant = await desk.claim_one("r")
    await desk.do(entry(grant, 1))
    await crash(desk)
    assert (await desk.run()).crashes == 2


async def test_the_history_names_the_streams(desk: Desk):
    """With how many entries and bytes each has."""
    grant = await desk.start()
    await desk.apply(
        entry(grant, 0, b"12", stream="b"), entry(grant, 1, None, stream="b"), entry(grant, 0, b"3")
    )
    assert (await desk.history()).streams == (StreamRecord("b", 2, 2), StreamRecord("lines", 1, 1))


async def test_large_and_odd_values_are_kept_as_they_are(desk: Desk):
    """Empty bytes are a value; so is a megabyte; names may be anything."""
    grant = await desk.start()
    name = "ʃtream %_* \n"
    large = bytes(range(256)) * 4_096
    await desk.apply(entry(grant, 0, b"", stream=name), entry(grant, 1, large, stream=name))
    assert await values(desk.store, name=name) == [b"", large]


async def test_a_restart_from_the_start_writes_anew_behind_what_is_there(desk: Desk):
    """The entries tell of which generation they are."""
    grant = await desk.start()
    await desk.do(entry(grant, 0, b"1"))
    await desk.settle(grant)
    await desk.do(RestartRun("r", "again"))
    claimed = await desk.claim()
    assert claimed.runs[0].marks == ()
    await desk.do(entry(grant_of(claimed.runs[0]), 0, b"2"))
    page = await desk.store.stream("r", "lines")
    assert page is not None
    assert [(one.generation, one.value) for one in page.entries] == [(0, b"1"), (1, b"2")]


async def _written_around_a_step(desk: Desk) -> Grant:
    """Write before a, between a and b, inside b, and behind it."""
    grant = await desk.start()
    await desk.apply(
        entry(grant, 0, b"0", at=START + 1),
        save(grant, "a", ended_at=START + 2),
        entry(grant, 1, b"1", at=START + 3),
        entry(grant, 0, b"in", scope=INNER, path="b/", at=START + 4),
        save(grant, "b", ended_at=START + 5),
        entry(grant, 2, None, at=START + 6),
    )
    return grant


async def test_a_restart_from_a_step_keeps_the_marks_of_before_it(desk: Desk):
    """What was written before it is not written again; what came later, and inside it, is."""
    await desk.settle(await _written_around_a_step(desk))
    await desk.do(RestartRun("r", "again", key("b")))
    assert await marks(desk) == {("lines", b""): (2, False)}
    assert await values(desk.store) == [b"0", b"1", b"in", None]


async def test_a_restart_of_a_restart_keeps_marks_of_both(desk: Desk):
    """What the first one kept and what its generation wrote before the step."""
    await desk.settle(await _written_around_a_step(desk))
    await desk.do(RestartRun("r", "again", key("b")))
    grant = await desk.claim_one("r")
    await desk.apply(
        save(grant, "b", ended_at=START + 7),
        entry(grant, 2, b"2", at=START + 8),
        save(grant, "c", ended_at=START + 9),
        entry(grant, 3, b"3", at=START + 10),
    )
    await desk.settle(grant)
    await desk.do(RestartRun("r", "third", key("c")))
    assert await marks(desk) == {("lines", b""): (3, False)}
    await desk.do(RestartRun("r", "fourth", key("b")))
    await crash(desk)
    assert await marks(desk) == {("lines", b""): (2, False)}
    await desk.do(RestartRun("r", "fifth", key("a")))
    await crash(desk)
    assert await marks(desk) == {("lines", b""): (1, False)}


async def test_a_restart_of_a_running_run_keeps_marks_and_a_cancel_takes_them_back(desk: Desk):
    """They are laid ready like the checkpoints."""
    grant = await _written_around_a_step(desk)
    await desk.do(RestartRun("r", "again", key("b")))
    assert await desk.do(entry(grant, 3, b"late", at=START + 9)) == Saved(Control.RESTART)
    await desk.do(RestartRun("r", "rather", key("a")))
    await desk.settle(grant)
    assert await marks(desk) == {("lines", b""): (1, False)}
    assert await values(desk.store, after=4) == [b"late"]


async def test_what_was_laid_ready_is_gone_after_a_cancel(desk: Desk):
    """The next restart, from the start, finds nothing kept."""
    grant = await _written_around_a_step(desk)
    await desk.do(RestartRun("r", "again", key("b")))
    await desk.do(CancelRun("r", "c"))
    await desk.settle(grant)
    await desk.do(RestartRun("r", "anew"))
    assert await marks(desk) == {}


@pytest.mark.parametrize(
    "before, kept, mark",
    [(None, [b"0", b"1", b"in", None], 3), (key("b"), [b"0", b"1"], 2), (key("a"), [b"0"], 1)],
)
async def test_a_fork_begins_with_what_was_written_by_then(
    desk: Desk, before: StepKey | None, kept: Sequence[bytes | None], mark: int
):
    """Its own stream, which goes on apart from the source's."""
    await _written_around_a_step(desk)
    create = CreateRun("f", "d", b'"in"', fresh_token(), caused_by="fork:r")
    outcome: Outcome = await desk.do(ForkRun(create, "r", 0, before))
    assert outcome == Created("f")
    assert await values(desk.store, "f") == kept
    claimed = await desk.claim()
    [fork] = claimed.runs
    found = {one.scope: one.written for one in fork.marks}
    assert found[b""] == mark
    assert (INNER in found) == (before is None)
    assert (
        await desk.apply(
            entry(grant_of(fork), mark - 1, b"no"), entry(grant_of(fork), mark, b"yes")
        )
        == [Saved()] * 2
    )
    assert await values(desk.store, "f") == [*kept, b"yes"]
    page = await desk.store.stream("f", "lines")
    assert page is not None
    assert {one.generation for one in page.entries} == {0}
    assert await values(desk.store, "r") == [b"0", b"1", b"in", None]


async def test_a_fork_of_a_fork_keeps_the_order_of_both(desk: Desk):
    """Epochs count backwards in a fork, and its entries come before its own all the same."""
    await _written_around_a_step(desk)
    create = CreateRun("f", "d", b'"in"', fresh_token(), caused_by="fork:r")
    await desk.do(ForkRun(create, "r", 0, key("b")))
    grant = await desk.claim_one("f")
    await desk.apply(
        entry(grant, 2, b"2", at=START + 1),
        save(grant, "b", ended_at=START + 2),
        entry(grant, 3, b"3", at=START + 3),
    )
    create = CreateRun("g", "d", b'"in"', fresh_token(), caused_by="fork:f")
    await desk.do(ForkRun(create, "f", 0, key("b")))
    assert await values(desk.store, "g") == [b"0", b"1", b"2"]


async def test_entries_go_with_their_run(desk: Desk):
    """Another run of the same id begins with an empty stream and other cursors."""
    grant = await desk.start()
    seq = (await desk.run()).seq
    await desk.apply(*(entry(grant, k) for k in range(3)))
    await desk.settle(grant)
    desk.clock.advance(1)
    await desk.do(Prune(limit=10, older_than=0))
    assert await desk.store.stream("r", "lines") is None
    await desk.create("r")
    page = await desk.store.stream("r", "lines")
    assert page is not None
    assert page.entries == ()
    assert page.run_seq != seq
    assert (await desk.history()).streams == ()


async def test_namespaces_do_not_see_each_others_streams(desk: Desk, make_store: MakeStore):
    """The same id and name elsewhere is another stream."""
    grant = await desk.start()
    await desk.do(entry(grant, 0))
    assert await (await make_store("other")).stream("r", "lines") is None
