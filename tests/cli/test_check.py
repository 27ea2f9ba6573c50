"""Would the runs in flight survive the code as it is now? check, pull and replay."""

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Perdure, create

BEFORE = """
from perdure import App, patched, sleep, step

app = App("sqlite:///shop.db")

async def pack(name: str, boxes: int) -> str:
    return name

@app.workflow(version="1")
async def fulfil(name: str) -> str:
    await step("pack", pack, name, 1)
    await sleep("1h")
    return name
"""

PATCHED = BEFORE.replace(
    '    await step("pack", pack, name, 1)\n',
    '    if patched("weigh"):\n'
    '        await step("weigh", len, name)\n'
    '    await step("pack", pack, name, 1)\n',
)
OTHER_ARGUMENTS = BEFORE.replace("pack, name, 1", "pack, name, 2")
WITHOUT_STEP = BEFORE.replace('    await step("pack", pack, name, 1)\n    await sleep("1h")\n', "")
FAILING = BEFORE.replace("    await sleep", '    {}["gone"]\n    await sleep')
OTHER_INPUT = BEFORE.replace("fulfil(name: str)", "fulfil(name: int)")
RENAMED = BEFORE.replace("def fulfil", "def deliver")


@pytest.fixture
def in_flight(command: Perdure, yard: Path) -> Path:
    """The module of an app with one run that sleeps behind a step, and one that has not begun."""
    module = yard / "code_in_flight.py"
    module.write_text(BEFORE, "utf-8")
    create(yard / "shop.db")
    where = ("--app", "code_in_flight:app")
    assert command("start", "fulfil", "name=o1", "--id", "slept", *where).code == 0
    assert command("worker", "--burst", *where).code == 0
    assert command("start", "fulfil", "name=o1", "--id", "fresh", *where).code == 0
    return module


def check(command: Perdure, *words: str):
    """Return the answer of a check."""
    return command("check", "--app", "code_in_flight:app", *words)


@pytest.mark.parametrize("code", [BEFORE, PATCHED], ids=["unchanged", "patched"])
def test_code_that_fits(command: Perdure, in_flight: Path, code: str):
    """Exit 0; what a run would do next is told, and nothing is written."""
    in_flight.write_text(code, "utf-8")
    answer = check(command)
    assert (answer.code, answer.err) == (0, "")
    assert answer.out == "1 of 1 recorded runs go on with this code\n"
    assert check(command, "--json").json == {
        "runs": [{"run_id": "slept", "name": "fulfil", "problems": [], "next": ["sleep"]}],
        "patches": {},
        "missing": [],
    }
    assert len(command("show", "slept", "--json", "--url", "sqlite:///shop.db").json["steps"]) == 2


@pytest.mark.parametrize(
    "code, says",
    [
        (OTHER_ARGUMENTS, "step 'pack' of workflow 'fulfil' does not fit"),
        (WITHOUT_STEP, "recorded step 'pack' is not asked for any more"),
        (FAILING, "the code would fail: KeyError: 'gone'"),
        (OTHER_INPUT, "the code would fail: perdure.errors.InvalidValue"),
        (RENAMED, "no workflow or job named 'fulfil'"),
    ],
    ids=["arguments", "removed", "failing", "input", "renamed"],
)
def test_code_that_would_break_runs(command: Perdure, in_flight: Path, code: str, says: str):
    """Exit 8; each run with what would break it."""
    in_flight.write_text(code, "utf-8")
    answer = check(command)
    assert answer.code == 8
    assert answer.out.splitlines()[1].startswith("slept  fulfil  ")
    assert says in answer.out
    assert answer.err == "0 of 1 recorded runs go on with this code\n"
    assert check(command, "--name", "other").code == 0


def test_a_run_is_pulled_and_replayed_from_its_file(command: Perdure, in_flight: Path, yard: Path):
    """What was printed and what was written are one; no store is needed to replay it."""
    printed = command("pull", "sle", "--url", "sqlite:///shop.db")
    assert json.loads(printed.out)["history"]["run"]["run_id"] == "slept"
    wrote = command("pull", "slept", "--out", "run.json", "--url", "sqlite:///shop.db")
    assert (wrote.code, wrote.out, wrote.err) == (0, "", "wrote slept to run.json\n")
    assert (yard / "run.json").read_text("utf-8") == printed.out
    (yard / "shop.db").unlink()
    fits = command("replay", "run.json", "--app", "code_in_flight:app")
    assert (fits.code, fits.out) == (0, "1 of 1 recorded runs go on with this code\n")
    in_flight.write_text(OTHER_ARGUMENTS, "utf-8")
    told = command("replay", "run.json", "--json", "--app", "code_in_flight:app")
    assert told.code == 8
    assert "does not fit" in told.json["runs"][0]["problems"][0]


def test_patches_are_counted(command: Perdure, in_flight: Path):
    """How many runs go by either code says when the old one can be removed."""
    in_flight.write_text(PATCHED, "utf-8")
    assert command("worker", "--burst", "--app", "code_in_flight:app").code == 0
    answer = check(command)
    assert answer.out == (
        "patch weigh: 1 runs go by the new code, 0 by the old\n"
        "2 of 2 recorded runs go on with this code\n"
    )
    assert check(command, "--json").json["patches"] == {"weigh": {"new": 1, "old": 0}}


def test_files_that_are_none(command: Perdure, in_flight: Path, yard: Path):
    """A file that is missing, one that is no history, and a place that cannot be written."""
    missing = command("replay", "nothing.json", "--app", "code_in_flight:app")
    assert (missing.code, missing.err.splitlines()[0]) == (2, "error: cannot replay nothing.json")
    (yard / "other.json").write_text("{}", "utf-8")
    other = command("replay", "other.json", "--app", "code_in_flight:app")
    assert (other.code, "is no recorded history" in other.err) == (2, True)
    kept = command("pull", "slept", "--out", "no/such/run.json", "--url", "sqlite:///shop.db")
    assert (kept.code, kept.err.splitlines()[0]) == (2, "error: cannot write no/such/run.json")
    assert command("pull", "nobody", "--url", "sqlite:///shop.db").code == 3


# --- versions -----------------------------------------------------------------------------------

PINNED = BEFORE.replace('version="1"', 'version="1", pinned=True')
NEXT = PINNED.replace('version="1"', 'version="2"')
EARLIER = """

@fulfil.earlier("1")
async def fulfil_1(name: str) -> str:
    await step("pack", pack, name, 1)
    await sleep("1h")
    return name
"""
BOTH = NEXT + EARLIER
BOTH_WRONG = NEXT + EARLIER.replace("name, 1", "name, 2")


@pytest.fixture
def pinned(command: Perdure, yard: Path) -> Path:
    """The module of an app with two runs that version 1 has begun, and one that nobody has."""
    module = yard / "code_in_flight.py"
    module.write_text(PINNED, "utf-8")
    create(yard / "shop.db")
    where = ("--app", "code_in_flight:app")
    for number in (1, 2):
        assert command("start", "fulfil", f"name=o{number}", "--id", f"r{number}", *where).code == 0
    assert command("worker", "--burst", *where).code == 0
    assert command("start", "fulfil", "name=o3", "--id", "fresh", *where).code == 0
    return module


def test_a_version_that_is_not_there(command: Perdure, pinned: Path):
    """How many runs cannot go on without it is told; they are not replayed on other code."""
    pinned.write_text(NEXT, "utf-8")
    answer = check(command)
    assert answer.code == 8
    assert answer.out == "2 runs are pinned to version 1 of fulfil, which this code does not have\n"
    assert check(command, "--json").json == {
        "runs": [],
        "patches": {},
        "missing": [{"name": "fulfil", "version": "1", "runs": 2}],
    }
    assert check(command, "--name", "fulfil").code == 8


def test_a_version_that_is_kept(command: Perdure, pinned: Path):
    """Each run is replayed on the code that it is pinned to."""
    pinned.write_text(BOTH, "utf-8")
    answer = check(command)
    assert (answer.code, answer.out) == (0, "2 of 2 recorded runs go on with this code\n")
    pinned.write_text(BOTH_WRONG, "utf-8")
    answer = check(command)
    assert answer.code == 8
    assert answer.out.count("step 'pack' of workflow 'fulfil' does not fit") == 2


def test_pinning_by_hand(command: Perdure, pinned: Path):
    """Runs are found by version, moved to another, and what is left of each is told."""
    where = ("--url", "sqlite:///shop.db")
    found = command("runs", "--name", "fulfil", "--version", "1", "--json", *where).json
    assert {one["id"]: one["pinned"] for one in found} == {"r1": True, "r2": True, "fresh": False}
    shown = command("show", "r1", *where).out
    assert "version     1, pinned" in shown
    told = command("versions", *where)
    assert (told.code, told.out.split()) == (
        0,
        ["NAME", "VERSION", "PINNED", "WORKERS", "fulfil", "1", "2", "-"],
    )
    assert command("pin", "r1", *where).code == 2
    assert command("pin", "r1", "--to", "2", "--any", *where).code == 2
    moved = command("pin", "r1", "--to", "2", *where)
    assert (moved.code, moved.out) == (0, "r1  ◷ waiting\n")
    bulk = command("pin", "--name", "fulfil", "--version", "1", "--to", "2", *where)
    assert (bulk.code, bulk.out) == (0, "pin: 2 runs\n")
    assert command("pin", "fresh", "--any", *where).code == 0
    assert command("versions", "--json", *where).json == [
        {"name": "fulfil", "version": "2", "pinned": 2, "workers": []}
    ]
    assert command("versions", "--name", "other", *where).out == "no versions\n"
    assert command("restart", "r2", "--pin", "7", *where).code == 0
    forked = command("fork", "r2", "--new-id", "f", "--pin", "7", *where)
    assert forked.code == 0
    pinned_to_7 = command("runs", "--version", "7", "--json", *where).json
    assert {one["id"] for one in pinned_to_7} == {"r2", "f"}
