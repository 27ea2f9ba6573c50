"""list_runs by every field of a query, counts, and what a store says before it is opened."""

import pytest

from perdure.model.records import Count, RunQuery, Status
from perdure.model.transitions import CreateRun
from perdure.testing.contract.desk import DONE, FAIL, SECOND, START, Desk, fresh_token
from perdure.testing.contract.fixtures import Build, MakeStore

UUID = "01990000-0000-7000-8000-00000000000"


async def listed(desk: Desk, **query: object) -> list[str]:
    """List what matches, and see that as much is counted."""
    asked = RunQuery(**query)  # type: ignore[arg-type]
    runs = await desk.store.list_runs(asked)
    if asked.before is None:
        counted = await desk.store.count_runs(asked)
        assert counted == len(runs) or len(runs) == asked.limit < counted
    return [run.run_id for run in runs]


async def test_a_count_knows_no_page(desk: Desk):
    """Neither limit nor cursor narrows it."""
    await desk.create("a", "b", "c")
    seq = (await desk.run("c")).seq
    assert await desk.store.count_runs(RunQuery(limit=1, before=seq)) == 3
    assert await desk.store.count_runs(RunQuery(definitions=("nobody",))) == 0


async def test_definitions_are_alternatives(desk: Desk):
    """Runs of any of the named definitions; names that nobody uses add nothing."""
    for name in ("a", "b", "c"):
        await desk.create(f"run-{name}", definition=name)
    assert await listed(desk, definitions=("a", "c", "nobody")) == ["run-c", "run-a"]
    assert await listed(desk, definitions=("nobody",)) == []
    assert await listed(desk, definitions=("A",)) == []


async def test_a_queue_is_matched_exactly(desk: Desk):
    """A definition of the same name is no queue."""
    await desk.create("r", definition="mail")
    await desk.create("m", queue="mail")
    assert await listed(desk, queue="mail") == ["m"]
    assert await listed(desk, queue="default") == ["r"]
    assert await listed(desk, queue="Mail") == []
    assert await listed(desk, queue="mai") == []


async def test_a_unique_key_finds_ended_runs_too(desk: Desk):
    """Every run that ever had the key, whichever definition it is of."""
    await desk.create("old", unique_key="k")
    await desk.cancel("old")
    await desk.create("new", unique_key="k")
    await desk.create("other", definition="e", unique_key="k")
    await desk.create("none")
    assert await listed(desk, unique_key="k") == ["other", "new", "old"]
    assert await listed(desk, unique_key="k", definitions=("d",)) == ["new", "old"]
    assert await listed(desk, unique_key="K") == []


async def test_a_tag_is_one_of_the_runs_tags(desk: Desk):
    """Whole and exact, at whichever place."""
    await desk.create("a", tags=("red", "blue"))
    await desk.create("b", tags=("blue",))
    await desk.create("c")
    assert await listed(desk, tag="blue") == ["b", "a"]
    assert await listed(desk, tag="red") == ["a"]
    for other in ("re", "RED", "red,blue", 'red","blue', ""):
        assert await listed(desk, tag=other) == []


async def test_what_caused_a_run_is_kept_and_found(desk: Desk):
    """Exactly; a run made by a call has no cause."""
    await desk.create("a", caused_by="event:e1")
    await desk.create("b", caused_by="event:e1", delay=SECOND)
    await desk.create("c", caused_by="event:e10")
    await desk.create("d")
    assert await listed(desk, caused_by="event:e1") == ["b", "a"]
    assert await listed(desk, caused_by="event:") == []
    assert [(await desk.run(name)).caused_by for name in "abd"] == ["event:e1", "event:e1", None]
    await desk.worker()
    given = {run.run.run_id: run.run.caused_by for run in (await desk.claim()).runs}
    assert given == {"a": "event:e1", "c": "event:e10", "d": None}


async def test_windows_of_time_meet_and_do_not_overlap(desk: Desk, clock):
    """From an instant on, and before an instant."""
    for name in ("a", "b", "c"):
        await desk.create(name)
        clock.advance(SECOND)
    middle = START + SECOND
    assert await listed(desk, created_after=middle) == ["c", "b"]
    assert await listed(desk, created_before=middle) == ["a"]
    assert await listed(desk, created_after=middle, created_before=middle + 1) == ["b"]
    assert await listed(desk, created_after=middle, created_before=middle) == []
    assert await listed(desk, created_after=middle + 1, created_before=START) == []


async def test_text_is_looked_for_in_names_and_tags(desk: Desk):
    """A part of id, definition, unique_key or a tag; input, queue and reason are not looked at."""
    await desk.create("order-17", definition="fulfil", unique_key="Key", tags=("x", "VIP lane"))
    await desk.create(f"{UUID}1", definition="mail", queue="Needle")
    for part in ("order", "R-1", "FULFIL", "ulf", "key", "KEY", "vip", "P L", "x"):
        assert await listed(desk, text=part) == ["order-17"], part
    for part in ("01990000", "0-7000-8", "mAiL"):
        assert await listed(desk, text=part) == [f"{UUID}1"], part
    for part in ("needle", "in", "order-17fulfil", "xVIP", "0199-", "[", ",", "null"):
        assert await listed(desk, text=part) == [], part
    assert await listed(desk, text="") == [f"{UUID}1", "order-17"]


async def test_only_ascii_capitals_are_alike(desk: Desk):
    """No store has to know the letters of the world: others are compared as they are."""
    await desk.create("a", tags=("\u00c9t\u00e9",))
    await desk.create("b", tags=("STRASSE",))
    await desk.create("c", tags=("I\u0307",))
    assert await listed(desk, text="\u00c9T\u00e9") == ["a"]
    assert await listed(desk, text="\u00e9t\u00e9") == []
    assert await listed(desk, text="E\u0301") == [], "another unicode form is another text"
    assert await listed(desk, text="stra\u00dfe") == []
    assert await listed(desk, text="i\u0307") == ["c"]
    assert await listed(desk, text="\u0131") == []


HOSTILE = (
    "%",
    "_",
    "a%b",
    "a_b",
    "*",
    "[a-z]",
    "'",
    '"',
    "''; DROP TABLE run; --",
    "\\",
    "\\u0041",
    '["x"]',
    '{"a":1}',
    "?",
    "?1",
    ":x",
    "\u00e9",
    "e\u0301",
    "\u2126",
    "\u03a9",
    "\U0001f600",
    "\U0010ffff",
    "\ud7ff",
    "\ue000",
    "NULL",
    "  padded  ",
)


@pytest.mark.parametrize(
    "field", ["unique_key", "tag", "text", "id_prefix", "queue", "definition", "caused_by"]
)
async def test_hostile_texts_stand_for_themselves(desk: Desk, field: str):
    """No wildcard, quote, escape or unicode form finds a run that does not hold it."""
    for number, text in enumerate(HOSTILE):
        match field:
            case "tag" | "text":
                await desk.create(f"r{number}", tags=("first", text))
            case "id_prefix":
                await desk.create(f"{text}-{number}")
            case _:
                await desk.create(f"r{number}", **{field: text})
    for number, text in enumerate(HOSTILE):
        query = {"definitions": (text,)} if field == "definition" else {field: text}
        found = await listed(desk, limit=1_000, **query)
        match field:
            case "text":
                expected = [
                    f"r{n}"
                    for n, other in enumerate(HOSTILE)
                    if text.encode().lower() in other.encode().lower()
                ]
            case "id_prefix":
                ids = [f"{other}-{n}" for n, other in enumerate(HOSTILE)]
                expected = [run_id for run_id in ids if run_id.startswith(text)]
            case _:
                expected = [f"r{number}"]
        assert found == expected[::-1], text


@pytest.mark.parametrize("field", ["unique_key", "tag", "text", "id_prefix", "queue", "reason"])
async def test_a_text_that_no_run_can_hold_matches_none(desk: Desk, field: str):
    """A lone surrogate is an answer, not an error."""
    await desk.create("r", tags=("x",))
    assert await listed(desk, **{field: "\ud800"}) == []
    assert await listed(desk, definitions=("\ud800",)) == []
    assert await listed(desk, definitions=("\ud800", "d")) == ["r"]


async def test_an_id_prefix_finds_texts_and_uuids(desk: Desk):
    """Every run whose id begins so, newest first, and no other."""
    names = [f"{UUID}1", f"{UUID}2", "0199", "019900", "order-1", "order-10", "Order-1", "z"]
    await desk.create(*names, "01990000-0000-7000-8000-00000000000X", UUID.upper() + "A")
    every = await listed(desk)
    prefixes = {run_id[:length] for run_id in every for length in range(1, len(run_id) + 1)}
    for prefix in sorted(prefixes):
        expected = [run_id for run_id in every if run_id.startswith(prefix)]
        assert await listed(desk, id_prefix=prefix) == expected, prefix
    for prefix in ("019900000", f"{UUID}1x", f"{UUID}11", "orders", "zz", "-", "0199-"):
        assert await listed(desk, id_prefix=prefix) == [], prefix
    assert await listed(desk, id_prefix="") == every


async def test_an_id_prefix_narrows_with_the_rest(desk: Desk):
    """It is one filter among others, with pages."""
    await desk.create(*(f"a{n}" for n in range(6)), *(f"b{n}" for n in range(6)))
    await desk.cancel("a1")
    await desk.cancel("a4")
    await desk.cancel("b2")
    gone = (Status.CANCELLED,)
    assert await listed(desk, id_prefix="a", statuses=gone) == ["a4", "a1"]
    assert await listed(desk, id_prefix="a", limit=2) == ["a5", "a4"]
    before = (await desk.run("a4")).seq
    assert await listed(desk, id_prefix="a", limit=2, before=before) == ["a3", "a2"]


@pytest.mark.parametrize(
    "query",
    [
        {"text": "r"},
        {"tag": "t"},
        {"queue": "q"},
        {"id_prefix": "r"},
        {"created_after": START},
        {"definitions": ("d", "e")},
    ],
    ids=lambda query: next(iter(query)),
)
async def test_filtered_pages_are_whole_while_others_write(desk: Desk, clock, query: dict):
    """What was there at the first page is shown once, whatever is written between the pages."""
    names = [f"r{n}" for n in range(20)]
    for name in names:
        await desk.create(name, queue="q", tags=("t",))
    seen: list[str] = []
    before = None
    while page := await desk.store.list_runs(RunQuery(limit=3, before=before, **query)):
        seen += [run.run_id for run in page]
        before = page[-1].seq
        clock.advance(-SECOND)
        await desk.create(f"r-new-{len(seen)}", queue="q", tags=("t",))
        clock.advance(2 * SECOND)
        await desk.cancel(page[-1].run_id)
    assert seen == names[::-1]


# --- counts --------------------------------------------------------------------------------------


async def test_counts_tell_how_many_of_each_status(desk: Desk):
    """Only statuses that occur, in the order of the statuses."""
    assert await desk.store.counts() == []
    await desk.worker()
    await desk.end("a", DONE)
    await desk.end("b", FAIL)
    await desk.end("c", FAIL)
    await desk.start("d")
    await desk.create("e", "f")
    assert await desk.store.counts() == [
        Count(Status.QUEUED, None, None, 2),
        Count(Status.RUNNING, None, None, 1),
        Count(Status.COMPLETED, None, None, 1),
        Count(Status.FAILED, None, None, 2),
    ]


async def test_counts_tell_definitions_and_queues_apart(desk: Desk):
    """By the one, by the other, and by both; sorted by name as it is."""
    for number, (definition, queue) in enumerate(
        [("b", "q"), ("B", "q"), ("b", "p"), ("b", "q"), ("\U00010000", ""), ("\uffff", "q")]
    ):
        await desk.create(f"r{number}", definition=definition, queue=queue)
    await desk.cancel("r0")
    queued, cancelled = Status.QUEUED, Status.CANCELLED
    by_definition = await desk.store.counts(by_definition=True)
    assert by_definition == [
        Count(queued, "B", None, 1),
        Count(queued, "b", None, 2),
        Count(cancelled, "b", None, 1),
        Count(queued, "\uffff", None, 1),
        Count(queued, "\U00010000", None, 1),
    ]
    assert await desk.store.counts(by_queue=True) == [
        Count(queued, None, "", 1),
        Count(queued, None, "p", 1),
        Count(queued, None, "q", 3),
        Count(cancelled, None, "q", 1),
    ]
    both = await desk.store.counts(by_definition=True, by_queue=True)
    assert Count(queued, "b", "p", 1) in both
    assert sum(count.runs for count in both) == 6
    assert len(both) == 6


async def test_counts_are_of_one_namespace(make_store: MakeStore, desk: Desk):
    """Runs of another namespace on the same data are not counted."""
    other = await make_store(namespace="other")
    await desk.create("r")
    assert await other.counts(by_definition=True, by_queue=True) == []
    await other.apply([CreateRun("x", "d", b"", fresh_token())])
    assert [count.runs for count in await desk.store.counts()] == [1]


# --- plan and damage -----------------------------------------------------------------------------


async def test_an_open_store_has_nothing_to_create(make_store: MakeStore, desk: Desk):
    """Neither its own plan nor that of another object on its data names anything."""
    assert await desk.store.plan() == []
    other = await make_store()
    await other.close()
    assert await other.plan() == []


async def test_a_plan_changes_nothing(build: Build, tmp_path):
    """Asked twice before the first opening it says the same, and nothing after it."""
    store = build("default")
    before = sorted(tmp_path.iterdir())
    assert await store.plan() == await store.plan()
    assert sorted(tmp_path.iterdir()) == before
    await store.open()
    assert await store.plan() == []
    await store.close()


async def test_a_sound_store_finds_no_damage(desk: Desk):
    """Its own check is content with what it wrote."""
    await desk.worker()
    await desk.end("r")
    assert await desk.store.damage() == []
