"""Names that others choose: ids, keys, paths and names are compared exactly and never parsed.

What a layer above refuses (NUL and other control characters, lone surrogates, more than 255
characters) does not reach a store.
"""

import unicodedata

import pytest

from perdure.model.records import RunQuery, Status, StepOutcome
from perdure.model.transitions import (
    CancelRun,
    Controlled,
    Created,
    CreateRun,
    Heartbeat,
    Released,
    Saved,
    Settle,
)
from perdure.testing.contract.desk import (
    DONE,
    Desk,
    child,
    fresh_token,
    grant_of,
    ids,
    key,
    register,
    save,
)

CAFE = "caf\N{LATIN SMALL LETTER E WITH ACUTE}"

# Each name stands beside others that a careless comparison would take for the same.
NAMES = [
    "r",
    "R",
    "r ",
    " r",
    "r1",
    "r10",
    "r%",
    "r_",
    "r*",
    "r?",
    "r\\",
    "r/1",
    "r:1",
    "r.1",
    "r'",
    'r"',
    "'; DROP TABLE runs; --",
    "' OR '1'='1",
    "${r}",
    "{r}",
    "%s",
    "$1",
    ":r",
    "1",
    "01",
    "1.0",
    "1e0",
    "-1",
    "0",
    "null",
    "None",
    "true",
    "NaN",
    "../../r",
    "<script>",
    unicodedata.normalize("NFC", CAFE),
    unicodedata.normalize("NFD", CAFE),
    CAFE.upper(),
    "cafe",
    "stra\N{LATIN SMALL LETTER SHARP S}e",
    "strasse",
    "\N{KELVIN SIGN}",
    "K",
    "k",
    "\N{LATIN CAPITAL LETTER I WITH DOT ABOVE}",
    "\N{LATIN SMALL LETTER DOTLESS I}",
    "\N{RIGHT-TO-LEFT OVERRIDE}r",
    "\N{ZERO WIDTH SPACE}r",
    "\N{NO-BREAK SPACE}r",
    "\N{PILE OF POO}",
    "\U0010ffff",
    "\uffff",
    "x" * 254,
    "x" * 255,
    "\N{PILE OF POO}" * 255,
]


def test_the_names_are_different():
    """The list below compares what is not equal."""
    assert len(set(NAMES)) == len(NAMES)


async def test_run_ids_are_exact(desk: Desk):
    """Each name is a run of its own, in every read and every write."""
    await desk.worker()
    await desk.create(*NAMES)
    assert [run.run_id for run in await desk.store.list_runs(RunQuery())] == NAMES[::-1]
    claimed = await desk.claim(1_000)
    assert ids(claimed) == NAMES
    grants = {given.run.run_id: grant_of(given) for given in claimed.runs}
    assert await desk.apply(*(save(grants[name], name) for name in NAMES)) == [Saved()] * len(NAMES)
    for name in NAMES:
        history = await desk.history(name)
        assert history.run.run_id == name
        assert [item.key.path for item in history.checkpoints] == [name]
    for ended, name in enumerate(NAMES, start=1):
        await desk.settle(grants[name])
        assert (await desk.store.endings(NAMES)).keys() == set(NAMES[:ended])
    for name in NAMES:
        assert await desk.cancel(name) != Controlled(Status.CANCELLED)


async def test_waits_are_exact(desk: Desk):
    """Each parent is woken by its own child and by no other."""
    await desk.worker()
    parents = [f"parent of {name}"[:255] for name in NAMES[:-3]]
    children = NAMES[:-3]
    await desk.create(*parents)
    claimed = await desk.claim(1_000)
    for given, name in zip(claimed.runs, children, strict=True):
        await desk.suspend(grant_of(given), child(name))
    await desk.create(*children, definition="other")
    for name, parent in zip(children, parents, strict=True):
        await desk.cancel(name)
        [given] = (await desk.claim()).runs
        assert given.run.run_id == parent
        assert [ending.run_id for ending in given.endings] == [name]


async def test_steps_are_exact(desk: Desk):
    """Each path, in each scope, is a step of its own."""
    await desk.worker()
    grant = await desk.start()
    keys = [
        key(name, scope=scope)
        for scope in (b"", bytes(16), b"'; DROP--\x00\xff")
        for name in ["", *NAMES]
    ]
    saves = [
        save(grant, step=step, outcome=StepOutcome.OK, value=repr(step).encode()) for step in keys
    ]
    assert await desk.apply(*saves) == [Saved()] * len(keys)
    await desk.settle(grant, Released())
    [given] = (await desk.claim()).runs
    assert [item.key for item in given.checkpoints] == keys
    assert [item.value for item in given.checkpoints] == [repr(step).encode() for step in keys]


async def test_definitions_and_queues_are_exact(desk: Desk):
    """A claim takes a run only under its very definition and queue."""
    await desk.worker()
    await desk.apply(
        *(CreateRun(f"d {n}", name, b"", fresh_token()) for n, name in enumerate(NAMES)),
        *(CreateRun(f"q {n}", "d", b"", fresh_token(), queue=name) for n, name in enumerate(NAMES)),
    )
    for n, name in enumerate(NAMES):
        assert ids(await desk.claim(definitions=(name,))) == [f"d {n}"]
        assert ids(await desk.claim(queues=(name,))) == [f"q {n}"]
        listed = await desk.store.list_runs(RunQuery(definitions=(name,)))
        assert [run.run_id for run in listed] == [f"d {n}"]


async def test_unique_keys_are_exact(desk: Desk):
    """Each name is a key of its own."""
    creates = [
        CreateRun(f"r {n}", "d", b"", fresh_token(), unique_key=name)
        for n, name in enumerate(NAMES)
    ]
    assert await desk.apply(*creates) == [Created(create.run_id) for create in creates]
    rivals = [
        CreateRun(f"rival {n}", "d", b"", fresh_token(), unique_key=name)
        for n, name in enumerate(NAMES)
    ]
    answers = await desk.apply(*rivals)
    assert [answer.run_id for answer in answers] == [create.run_id for create in creates]


async def test_a_definition_and_a_key_do_not_run_together(desk: Desk):
    """However the two are put side by side, (a, b:c) is not (a:b, c)."""
    pairs = [("a", "b:c"), ("a:b", "c"), ("a", ""), ("", "a"), ("a:", "b:c"), ("a\x01", "b")]
    creates = [
        CreateRun(f"r {n}", definition, b"", fresh_token(), unique_key=unique_key)
        for n, (definition, unique_key) in enumerate(pairs)
    ]
    assert await desk.apply(*creates) == [Created(create.run_id) for create in creates]


async def test_worker_ids_are_exact(desk: Desk):
    """Each name is a worker of its own, which beats, holds and dies for itself."""
    await desk.apply(*(register(name, {name: name}, (name,)) for name in NAMES))
    assert [worker.worker_id for worker in await desk.store.workers()] == NAMES
    await desk.create(*NAMES)
    for name in NAMES:
        assert ids(await desk.claim(1, worker_id=name)) == [name]
    for name in NAMES:
        assert (await desk.do(Heartbeat(name))).held == 1
    for name in NAMES:
        rescued = await desk.rescue(name, beat=1)
        assert rescued.queued == (name,)


async def test_request_ids_are_exact(desk: Desk):
    """Each name is a request of its own, of each run."""
    await desk.worker()
    grant = await desk.start()
    requests = [CancelRun("r", name) for name in NAMES]
    assert await desk.apply(*requests, *requests) == [Controlled(Status.RUNNING)] * (2 * len(NAMES))
    assert [entry.request_id for entry in (await desk.history()).audit] == NAMES
    await desk.do(Settle(grant, DONE))


@pytest.mark.parametrize("field", ["version", "parent_id", "root_id"])
async def test_texts_come_back_as_they_were(desk: Desk, field: str):
    """Nothing is trimmed, folded or normalised."""
    creates = [
        CreateRun(f"r {n}", "d", b"", fresh_token(), **{field: name}, tags=(name, ""))
        for n, name in enumerate(NAMES)
    ]
    await desk.apply(*creates)
    runs = [await desk.run(create.run_id) for create in creates]
    assert [getattr(run, field) for run in runs] == NAMES
    assert [run.tags for run in runs] == [(name, "") for name in NAMES]
    if field == "parent_id":
        for n, name in enumerate(NAMES):
            listed = await desk.store.list_runs(RunQuery(parent_id=name))
            assert [run.run_id for run in listed] == [f"r {n}"]
