"""Every command as a process of its own: text, JSON, and each exit code."""

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from perdure._version import __version__
from perdure.cli._main import COMMANDS
from perdure.cli._places import load_app
from perdure.model.changes import MoveSubscriber
from perdure.workflow import Workflow
from tests.cli.conftest import Answer, Perdure, command_line, create

PATIENCE = 30.0
URL = "sqlite:///shop.db"


def wait_for(path: Path) -> None:
    """Wait until a file is there."""
    deadline = time.monotonic() + PATIENCE
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not come"
        time.sleep(0.01)


@contextmanager
def background(*words: str) -> Iterator[subprocess.Popen[str]]:
    """Run a command beside the test; it is killed at the end, if it is still there."""
    with subprocess.Popen(
        command_line(*words),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def only_json(answer: Answer, code: int = 0) -> object:
    """Return what was printed as JSON, which must be all that was printed."""
    assert (answer.code, answer.err) == (code, "")
    return answer.json


def test_the_installed_script_tells_the_version(yard: Path):
    """The script beside the interpreter is there and says which version this is."""
    script = Path(sys.executable).parent / "perdure"
    done = subprocess.run([script, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"perdure {__version__}\n"


def test_what_the_version_and_the_help_load(yard: Path):
    """Neither loads the engine, asyncio, msgspec or anything optional; `import perdure` less."""
    code = "import sys; from perdure.cli import main; main(sys.argv[1:]); print(*sys.modules)"
    heavy = {
        "asyncio",
        "msgspec",
        "perdure.app",
        "perdure.errors",
        "sqlite3",
        "pydantic",
        "logging",
    }
    for words in (["--version"], ["--help"]):
        loaded = subprocess.check_output([sys.executable, "-c", code, *words], text=True).split()
        assert "click" in loaded
        assert not heavy.intersection(loaded), words
    bare = subprocess.check_output(
        [sys.executable, "-c", "import sys, perdure; print(*sys.modules)"], text=True
    ).split()
    assert not {*heavy, "typing", "click"}.intersection(bare)


def test_python_m_perdure_lists_the_commands(command: Perdure):
    """Without a command it shows the help, with every command in it."""
    for answer in (command(), command("--help")):
        assert answer.code == 0
        assert all(name in answer.out for name in COMMANDS)


def test_start_burst_and_show(command: Perdure, shop: str):
    """A run is started, executed by a worker that ends by itself, and shown."""
    started = command("start", "fulfil", 'order={"id": "o1", "cents": 499}', "--app", f"{shop}:app")
    assert (started.code, started.err) == (0, "")
    run_id = started.out.strip()
    worked = command("worker", f"{shop}:app", "--burst")
    assert (worked.code, worked.out) == (0, "")
    assert "executed 1 runs" in worked.err
    shown = command("show", run_id, "--url", URL)
    assert shown.code == 0
    for part in (run_id, "✓ completed", '{"order": {"id": "o1", "cents": 499}}', '"o1 for 499"'):
        assert part in shown.out
    assert "pack" in shown.out.partition("steps\n")[2]
    told = only_json(command("show", run_id[:9], "--url", URL, "--json"))
    assert isinstance(told, dict)
    assert (told["status"], told["result"]) == ("completed", "o1 for 499")
    assert [step["path"] for step in told["steps"]] == ["pack"]


def test_runs_as_text_json_and_lines(command: Perdure, shop: str):
    """The same list in three forms, and an empty one."""
    assert command("runs", "--url", URL).out == "no runs\n"
    for n in ("1", "2"):
        command("start", "add", f"n={n}", "--id", f"add-{n}", "--app", f"{shop}:app")
    text = command("runs", "--url", URL)
    assert (text.code, text.err) == (0, "")
    head, *lines = text.out.splitlines()
    assert head.split() == ["ID", "NAME", "STATUS", "WHY", "CREATED", "TOOK"]
    assert [line.split()[:4] for line in lines] == [
        ["add-2", "add", "○", "queued"],
        ["add-1", "add", "○", "queued"],
    ]
    typo = command("runs", "--url", URL, "--name", "ad")
    assert (typo.out, typo.err) == ("no runs\n", "there are runs of add\n")
    listed = only_json(command("runs", "--url", URL, "--json"))
    assert isinstance(listed, list)
    assert [run["id"] for run in listed] == ["add-2", "add-1"]
    by_line = command("runs", "--jsonl", PERDURE_URL=URL).out.splitlines()
    assert [json.loads(line) for line in by_line] == listed


def test_a_worker_waits_works_and_stops(command: Perdure, shop: str):
    """One line when it is ready, a run's result for who waits, exit 0 after SIGTERM."""
    words = ("-Q", "mail", "-Q", "default", "-c", "50", "--log-format", "json")
    with background("worker", f"{shop}:app", *words) as worker:
        assert worker.stdout is not None
        ready = json.loads(worker.stdout.readline())
        assert (ready["event"], ready["pid"]) == ("ready", worker.pid)
        assert (ready["queues"], ready["concurrency"]) == (["mail", "default"], 50)
        done = command("start", "add", "n=2", "--wait", "--app", f"{shop}:app")
        assert (done.code, done.out) == (0, "2.5\n")
        failed = command("start", "boom", "what=a reason", "--wait", "--app", f"{shop}:app")
        assert (failed.code, failed.out) == (1, "")
        assert "ValueError: a reason" in failed.err
        words = ("--wait", "--json", "--app", f"{shop}:app")
        told = only_json(command("start", "add", "n=2", "--id", "a", *words))
        assert told == {"id": "a", "result": 2.5}
        failed = command("start", "boom", "what=x", "--id", "b", *words)
        assert (failed.code, failed.out) == (1, "")
        assert (failed.error["code"], failed.error["run_id"]) == ("P141", "b")
        worker.send_signal(signal.SIGTERM)
        out, err = worker.communicate(timeout=PATIENCE)
    assert (worker.returncode, out) == (0, "")
    assert "stopping" in err


def test_a_second_signal_ends_the_grace(command: Perdure, shop: str, yard: Path):
    """A body that would hold the worker for its whole grace is handed back at once."""
    command("start", "hold", "--id", "held", "--app", f"{shop}:app")
    with background("worker", f"{shop}:app", "-Q", "slow", "--grace", "1h") as worker:
        assert worker.stdout is not None
        assert "worker ready" in worker.stdout.readline()
        wait_for(yard / "held")
        worker.send_signal(signal.SIGINT)
        assert worker.stderr is not None
        assert any("once more ends the grace" in line for line in worker.stderr)
        worker.send_signal(signal.SIGINT)
        worker.communicate(timeout=PATIENCE)
    assert worker.returncode == 0
    assert only_json(command("show", "held", "--url", URL, "--json"))["status"] == "queued"  # type: ignore[index]


@pytest.mark.parametrize("more", [(), ("--burst",)], ids=["serve", "burst"])
def test_a_signal_while_it_starts(yard: Path, more: tuple[str, ...]):
    """A worker whose store lets it wait is stopped before it is ready, in order."""
    (yard / "late.py").write_text(
        """
import asyncio
from pathlib import Path
from perdure import App
from perdure.stores.memory import MemoryStore

class Late(MemoryStore):
    async def open(self):
        Path("opening").touch()
        await asyncio.Event().wait()

app = App(Late())
""",
        "utf-8",
    )
    with background("worker", "late:app", *more) as worker:
        wait_for(yard / "opening")
        worker.send_signal(signal.SIGTERM)
        out, err = worker.communicate(timeout=PATIENCE)
    assert (worker.returncode, out) == (0, "")
    assert err.splitlines()[0] == "stopping; once more ends the grace"
    assert "Traceback" not in err


def test_a_signal_ends_a_burst(command: Perdure, shop: str, yard: Path):
    """A burst that would go on is stopped like any worker."""
    command("start", "hold", "--app", f"{shop}:app")
    with background("worker", f"{shop}:app", "-Q", "slow", "--burst", "--grace", "0s") as worker:
        wait_for(yard / "held")
        worker.send_signal(signal.SIGTERM)
        worker.communicate(timeout=PATIENCE)
    assert worker.returncode == 0


def test_cancel_and_retry(command: Perdure, shop: str):
    """One run, several, and several of which some are refused: exit 0 and 7."""
    for n in ("1", "2"):
        command("start", "add", f"n={n}", "--id", f"add-{n}", "--app", f"{shop}:app")
    cancelled = command("cancel", "add-1", "--url", URL)
    assert (cancelled.code, cancelled.out) == (0, "add-1  ⊘ cancelled\n")
    again = only_json(command("cancel", "add-1", "--url", URL, "--json"), 4)
    assert [answer["error"]["code"] for answer in again] == ["P133"]  # type: ignore[attr-defined]
    partial = command("cancel", "add-1", "add-2", "--url", URL)
    assert (partial.code, partial.out) == (7, "add-2  ⊘ cancelled\n")
    assert "error: the run does not allow that as it is" in partial.err
    answers = only_json(command("retry", "add-1", "add-2", "nobody", "--url", URL, "--json"), 7)
    assert isinstance(answers, list)
    assert answers[:2] == [
        {"id": "add-1", "status": "queued"},
        {"id": "add-2", "status": "queued"},
    ]
    assert answers[2]["error"]["exit_code"] == 3
    refused = command("retry", "add-1", "--url", URL)
    assert (refused.code, refused.out) == (4, "")


def test_all_are_asked_before_any_is_waited_for(command: Perdure, shop: str, yard: Path):
    """One whose worker is dead does not keep the next from being cancelled."""
    command("start", "hold", "--id", "held", "--app", f"{shop}:app")
    command("start", "add", "n=1", "--id", "queued", "--app", f"{shop}:app")
    with background("worker", f"{shop}:app", "-Q", "slow") as worker:
        wait_for(yard / "held")
        worker.kill()
    with background("cancel", "held", "queued", "--wait", "--url", URL) as cancel:
        deadline = time.monotonic() + PATIENCE
        while "cancelled" not in command("show", "queued", "--url", URL).out:
            assert time.monotonic() < deadline, "it is not asked"
        assert cancel.poll() is None, "the first has not ended"
        assert command("worker", f"{shop}:app", "--burst").code == 0, "it rescues the first"
        out, _ = cancel.communicate(timeout=PATIENCE)
    assert cancel.returncode == 0
    assert out == "held  ⊘ cancelled\nqueued  ⊘ cancelled\n"


def test_restart_and_fork(command: Perdure, shop: str):
    """A run begins again, another goes on from it; a step that is not recorded is refused."""
    command("start", "add", "n=1", "--id", "add-1", "--app", f"{shop}:app")
    assert command("worker", f"{shop}:app", "--burst").code == 0
    forked = command("fork", "add-1", "--input", "n=5", "--new-id", "f", "--app", f"{shop}:app")
    assert (forked.code, forked.out) == (0, "f\n")
    restarted = command("restart", "add-1", "--url", URL)
    assert (restarted.code, restarted.out) == (0, "add-1  ○ queued\n")
    assert command("worker", f"{shop}:app", "--burst").code == 0
    shown = json.loads(command("show", "f", "--json", "--url", URL).out)
    assert (shown["input"], shown["status"]) == ({"n": 5}, "completed")
    assert shown["caused_by"] == "fork:add-1"
    unknown = command("restart", "add-1", "--from", "nothing", "--url", URL)
    assert (unknown.code, unknown.out) == (2, "")
    assert "no step 'nothing' is recorded" in unknown.err
    wrong = command("fork", "add-1", "--result", "step=text", "--url", URL)
    assert wrong.code == 2
    assert "--result step=text is not NAME=JSON" in wrong.err


def test_a_verb_for_all_that_match(command: Perdure, shop: str):
    """They are counted first; more than a hundred need --yes; ids go without filters."""
    script = (
        f"import asyncio, {shop}\n"
        "async def main():\n"
        f"    async with {shop}.app:\n"
        f"        await {shop}.add.enqueue_many([((n,), {{}}) for n in range(101)])\n"
        "asyncio.run(main())\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
    counted = command("cancel", "--name", "add", "--dry-run", "--json", "--url", URL)
    assert json.loads(counted.out)["count"] == 101
    unsure = command("cancel", "--name", "add", "--url", URL)
    assert (unsure.code, unsure.out) == (2, "")
    assert "101 runs match" in unsure.err
    done = command("cancel", "--name", "add", "--yes", "--url", URL)
    assert (done.code, done.out) == (0, "cancel: 101 runs\n")
    refused = command("resume", "--name", "add", "--status", "cancelled", "--yes", "--url", URL)
    assert (refused.code, refused.out) == (4, "resume: 0 runs, 101 refused\n")
    assert command("retry", "--name", "add", "--limit-key", "x", "--url", URL).code == 0
    assert command("cancel", "--url", URL).code == 2
    both = command("cancel", "add-1", "--name", "add", "--url", URL)
    assert both.code == 2
    assert "needs no ID" in both.err
    waiting = command("cancel", "--name", "add", "--wait", "--url", URL)
    assert waiting.code == 2
    assert "--wait of perdure cancel needs an ID" in waiting.err


def test_a_started_run_has_the_limit_key_that_was_given(command: Perdure, shop: str):
    """It is listed by it."""
    command("start", "add", "n=1", "--id", "a", "--limit-key", "k", "--app", f"{shop}:app")
    assert "a " in command("runs", "--limit-key", "k", "--url", URL).out


def test_pause_and_resume(command: Perdure, shop: str):
    """A paused run is listed as such; resuming one that is not paused is refused."""
    command("start", "add", "n=1", "--id", "add-1", "--app", f"{shop}:app")
    paused = command("pause", "add-1", "--wait", "--url", URL)
    assert (paused.code, paused.out) == (0, "add-1  ❚❚ paused\n")
    assert "add-1" in command("runs", "--status", "paused", "--url", URL).out
    resumed = command("resume", "add-1", "--url", URL)
    assert (resumed.code, resumed.out) == (0, "add-1  ○ queued\n")
    refused = command("resume", "add-1", "--url", URL)
    assert (refused.code, refused.out) == (4, "")
    assert "cannot resume run add-1: it is queued" in refused.err


def test_why(command: Perdure, shop: str):
    """One sentence for people, the facts for programs."""
    command("start", "add", "n=1", "--id", "add-1", "--app", f"{shop}:app")
    told = command("why", "add-1", "--url", URL)
    assert told.code == 0
    assert told.out.startswith("run add-1 of 'add' is queued ")
    assert told.out.endswith("ago and no worker is registered; start one\n")
    facts = only_json(command("why", "add", "--url", URL, "--json"))
    assert (facts["run_id"], facts["cause"]) == ("add-1", "no_worker")  # type: ignore[index]
    assert command("why", "nobody", "--url", URL).code == 3


def test_send(command: Perdure, yard: Path):
    """An event is published with what it starts, or sent to one run; no code is needed."""
    (yard / "listening.py").write_text(LISTENING, "utf-8")
    create(yard / "shop.db")
    where = ("--app", "listening:app")
    assert command("start", "wait", "--id", "order-1", *where).code == 0
    assert command("worker", "--burst", *where).code == 0
    sent = command("send", "Packed", "box=red", "--to", "ord", "--url", URL)
    assert (sent.code, sent.out) == (0, "sent to order-1\n")
    told = only_json(command("send", "Placed", "n=3", "--id", "e", "--json", "--url", URL))
    assert isinstance(told, dict)
    assert (told["id"], len(told["runs"])) == ("e", 1)
    again = command("send", "Placed", "n=3", "--id", "e", "--url", URL)
    assert again.out == f"published e, which started 1 runs\n  {told['runs'][0]}\n"
    assert command("send", "Placed", "n=4", "--id", "e", "--url", URL).code == 4
    assert command("worker", "--burst", *where).code == 0
    results = [
        only_json(command("show", run_id, "--json", "--url", URL))["result"]
        for run_id in ("order-1", told["runs"][0])
    ]
    assert results == ["red", 3]
    assert command("send", "Packed", "--to", "order-1", "--url", URL).code == 4
    assert command("send", "Packed", "--to", "nobody", "--url", URL).code == 3
    assert command("send", "Packed", "box", "--url", URL).code == 2
    assert command("send", "Packed", "a=1", "a=2", "--url", URL).code == 2


LISTENING = """
from dataclasses import dataclass
from perdure import App, wait_for_event

app = App("sqlite:///shop.db")

@dataclass
class Placed:
    n: int

@dataclass
class Packed:
    box: str

@app.workflow(on=Placed)
async def count(placed: Placed) -> int:
    return placed.n

@app.workflow
async def wait() -> str:
    return (await wait_for_event(Packed)).box
"""


def test_schedules(command: Perdure, yard: Path):
    """A scheduler alone fires what a worker has put; each verb, and what is not there."""
    (yard / "recurring.py").write_text(RECURRING, "utf-8")
    assert command("worker", "--burst", "--app", "recurring:app").code == 0
    [told] = only_json(command("schedules", "--json", "--url", URL))
    assert (told["key"], told["name"], told["when"], told["from_code"]) == (
        "report",
        "report",
        "every 1s",
        True,
    )
    assert command("schedules", "--url", URL).out.splitlines()[1].startswith("report  report  ever")
    with background("scheduler", "--url", URL) as scheduler:
        assert scheduler.stdout is not None
        assert "scheduler ready" in scheduler.stdout.readline()
        until = time.monotonic() + PATIENCE
        while command("runs", "--url", URL).out == "no runs\n":
            assert time.monotonic() < until
        [worker] = only_json(command("workers", "--json", "--url", URL))
        assert (worker["leads"], worker["slots"], worker["pid"]) == (True, 0, scheduler.pid)
        assert command("workers", "--url", URL).out.splitlines()[1].split()[-2] == "yes"
        assert command("why", "report", "--url", URL).out.startswith("schedule report of 'report'")
        scheduler.send_signal(signal.SIGTERM)
        scheduler.communicate(timeout=PATIENCE)
    assert scheduler.returncode == 0
    assert command("workers", "--url", URL).out == "no workers\n"

    def verb(name: str, *words: str, key: str = "report"):
        return command("schedule", name, key, *words, "--url", URL)

    fires = only_json(verb("history", "--json"))["fires"]
    assert {one["outcome"] for one in fires} <= {"on_time", "missed"}
    assert verb("history", "-n", "1").out.splitlines()[1].split()[-1] == fires[0]["run"]
    assert only_json(verb("why", "--json"))["cause"] == "no_worker"
    assert verb("pause").out == "paused report\n"
    assert verb("why").out.startswith("schedule report of 'report' was paused by hand ")
    assert command("schedules", "--url", URL).out.splitlines()[1].split()[-2] == "paused"
    assert len(only_json(verb("next", "-n", "3", "--json"))["next"]) == 3
    assert verb("resume").out.startswith("resumed report, next 20")
    run_id = verb("run").out.strip()
    assert command("show", run_id, "--url", URL).code == 0
    day = ("--start", "2026-01-01T00:00:00", "--end", "2026-01-01T00:00:02")
    assert len(only_json(verb("backfill", *day, "--json"))["runs"]) == 2
    assert verb("backfill", "--start", "noon", "--end", "later").code == 2
    assert verb("remove").out == "removed report\n"
    for name in ("next", "why", "history", "run", "pause", "resume", "remove"):
        assert verb(name).code == 3
    assert command("schedules", "--url", URL).out == "no schedules\n"


RECURRING = """
from perdure import App

app = App("sqlite:///shop.db")

@app.job(every="1s")
async def report() -> None: ...
"""


def test_prune(command: Perdure, shop: str):
    """What is over by its retention; with an age what is older; text, JSON and counting alone."""
    place = ("--app", f"{shop}:app")
    for run_id in ("live", "gone"):
        command("start", "add", "n=1", "--id", run_id, *place)
    command("cancel", "gone", *place)
    assert command("prune", *place).out == "removed 0 runs and 0 events\n"
    older = ("prune", *place, "--older-than", "0s")
    assert command(*older, "-s", "failed").out == "removed 0 runs and 0 events\n"
    assert command(*older, "--dry-run").out == "would remove 1 run and 0 events\n"
    told = {"runs": 1, "events": 0, "dry_run": False}
    assert only_json(command(*older, "-s", "cancelled", "-n", "add", "--json")) == told
    assert command("show", "gone", *place).code == 3
    assert command("show", "live", *place).code == 0
    assert command("prune", *place, "--older-than", "soon").code == 2
    assert command("prune", *place, "-s", "running").code == 2
    assert command("prune", *place, "-n", "addd").code == 3


def test_tail(command: Perdure, shop: str):
    """What happened to all runs, to one, to those of a name; as text, JSON and lines."""
    for number in range(4):
        command("start", "add", f"n={number}", "--id", f"r{number}", "--app", f"{shop}:app")
    order = ('order:={"id": "o", "cents": 1}', "--id", "order", "--app", f"{shop}:app")
    assert command("start", "fulfil", *order).code == 0
    assert command("worker", "--burst", "--app", f"{shop}:app").code == 0

    def told(*words: str) -> list[dict[str, object]]:
        found = only_json(command("tail", *words, "--json", "--url", URL))
        assert isinstance(found, list)
        return found

    assert len(told()) == 10
    assert len(told("--last", "99")) == 16
    assert told("--last", "0") == []
    [*_, step, last] = told("ord")
    assert step["step"] == {
        "path": "pack",
        "kind": "step",
        "outcome": "ok",
        "tries": 1,
        "due_at": None,
    }
    assert (last["run_id"], last["kind"], last["status"]) == ("order", "completed", "completed")
    assert {one["definition"] for one in told("--name", "add", "--last", "99")} == {"add"}
    claims = told("--kind", "claimed", "--kind", "completed", "--last", "3")
    assert [one["kind"] for one in claims] == ["completed"] * 3
    after = told("--after", str(told("--last", "99")[4]["position"]))
    assert after == told("--last", "99")[5:]
    assert told("--after", str(last["position"]), "--last", "2") == []
    shown = command("tail", "r0", "--url", URL)
    assert (shown.code, shown.err) == (0, "")
    assert [line.split("  ")[1:] for line in shown.out.splitlines()] == [
        ["r0", "add", "created"],
        ["r0", "add", "claimed"],
        ["r0", "add", "\u2713 completed"],
    ]
    lines = command("tail", "--jsonl", "--url", URL).out.splitlines()
    assert [json.loads(line) for line in lines] == told()
    gone = command("tail", "--after", "abc-1-2-3", "--url", URL)
    assert (gone.code, gone.out) == (3, "")
    assert "read from the beginning" in gone.err
    for wrong in (("--after", "x"), ("--json", "--follow"), ("--kind", "done")):
        assert command("tail", *wrong, "--url", URL).code == 2
    assert command("tail", "nobody", "--url", URL).code == 3
    assert command("tail", "--name", "addd", "--app", f"{shop}:app").code == 3


def test_tail_follows(command: Perdure, shop: str):
    """It prints what happens from then on, and Ctrl-C ends it."""
    command("start", "add", "n=1", "--id", "r", "--app", f"{shop}:app")
    with background("tail", "r", "--follow", "--jsonl", "--url", URL) as tail:
        assert tail.stdout is not None
        assert json.loads(tail.stdout.readline())["kind"] == "created"
        command("cancel", "r", "--url", URL)
        assert json.loads(tail.stdout.readline())["kind"] == "cancelled"
        command("retry", "r", "--url", URL)
        assert json.loads(tail.stdout.readline())["kind"] == "retried"
        tail.send_signal(signal.SIGINT)
        out, err = tail.communicate(timeout=PATIENCE)
    assert (tail.returncode, out, err.strip()) == (130, "", "")


def test_subscribers(command: Perdure, shop: str):
    """They are listed and removed; one that is not there is 3."""
    command("start", "add", "n=1", "--id", "r", "--app", f"{shop}:app")
    app = load_app(f"{shop}:app")

    async def acknowledge() -> None:
        async with app:
            move = MoveSubscriber("billing", None, await app.position())
            await app.engine.committer.submit(move)

    asyncio.run(acknowledge())
    [told] = only_json(command("subscribers", "--json", "--url", URL))
    assert told["name"] == "billing"
    assert command("subscribers", "--url", URL).out.splitlines()[1].split()[:2] == [
        "billing",
        told["position"],
    ]
    removed = command("subscribers", "--remove", "billing", "--url", URL)
    assert (removed.code, removed.out) == (0, "removed billing\n")
    again = command("subscribers", "--remove", "billing", "--url", URL)
    assert (again.code, again.out) == (3, "")
    assert command("subscribers", "--url", URL).out == "no subscribers\n"


def test_doctor(command: Perdure, shop: str, yard: Path):
    """Exit 0 for a healthy store; 8 with code, run and sentence for a damaged one."""
    command("start", "add", "n=1", "--id", "r", "--app", f"{shop}:app")
    healthy = command("doctor", "--url", URL)
    assert (healthy.code, healthy.err) == (0, "")
    assert healthy.out == f"looked at 1 runs of {URL}: nothing is wrong\n"
    connection = sqlite3.connect(yard / "shop.db")
    with connection:
        connection.execute("UPDATE run SET rank = 0")
    connection.close()
    damaged = command("doctor", "--url", URL)
    assert damaged.code == 8
    assert damaged.out.splitlines()[1].startswith("rank  r    is queued as resumed")
    told = only_json(command("doctor", "--url", URL, "--json"), 8)
    assert isinstance(told, dict)
    assert (told["runs"], [one["code"] for one in told["findings"]]) == (1, ["rank"])


def test_migrate(command: Perdure, yard: Path):
    """A plan does nothing; migrating does it once."""
    plan = command("migrate", "--plan", "--url", URL)
    assert (plan.code, plan.out) == (0, f"would: create {yard / 'shop.db'} with schema 2\n")
    assert not (yard / "shop.db").exists()
    done = only_json(command("migrate", "--url", URL, "--json"))
    assert done == {
        "store": URL,
        "plan": [f"create {yard / 'shop.db'} with schema 2"],
        "done": True,
    }
    assert command("migrate", "--url", URL).out == f"nothing to do: the store at {URL} is ready\n"


def test_config(command: Perdure, yard: Path):
    """Each setting with its value and origin, as text and JSON."""
    (yard / "pyproject.toml").write_text('[tool.perdure]\napp = "shop:app"\ngrace = "5s"\n')
    answer = command("config", "--url", "redis://me:secret@host/0", PERDURE_CONCURRENCY="7")
    assert answer.code == 0
    lines = {line.split()[0]: line for line in answer.out.splitlines()}
    assert "shop:app" in lines["app"]
    assert "pyproject.toml" in lines["app"]
    assert "redis://me:***@host/0  argument" in lines["url"]
    assert lines["concurrency"].split()[1:3] == ["7", "PERDURE_CONCURRENCY"]
    assert lines["poll"].split()[1:3] == ["1s", "default"]
    told = command("config", "--json", PERDURE_CONCURENCY="7").json
    assert told["settings"]["grace"] == {"value": "5s", "origin": str(yard / "pyproject.toml")}
    assert told["unknown_variables"] == {"PERDURE_CONCURENCY": "PERDURE_CONCURRENCY"}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(command: Perdure, shell: str):
    """A script for the shell; what it calls back completes commands and options."""
    answer = command("completion", shell)
    assert answer.code == 0
    assert "_PERDURE_COMPLETE" in answer.out
    words = command(_PERDURE_COMPLETE="bash_complete", COMP_WORDS="perdure can", COMP_CWORD="1")
    assert words.out == "plain,cancel\n"


# --- exit codes ---------------------------------------------------------------------------------


def lines_of(answer: Answer) -> list[str]:
    """Return the error's three lines: what, why, do."""
    what, why, do = answer.err.splitlines()
    assert what.startswith("error: ")
    assert why.startswith("  why: ")
    assert do.startswith("  do:  ")
    return [what[7:], why[7:], do[7:]]


def test_usage_is_2(command: Perdure):
    """A wrong option: three lines on standard error, nothing on standard output."""
    answer = command("runs", "--statsu", "failed")
    assert (answer.code, answer.out) == (2, "")
    assert lines_of(answer)[0] == "there is no option --statsu"
    assert "--status" in lines_of(answer)[2]
    in_json = command("runs", "--statsu", "failed", "--json")
    assert (in_json.code, in_json.out) == (2, "")
    assert in_json.error["exit_code"] == 2


def test_not_found_is_3(command: Perdure, shop: str):
    """An unknown run, an ambiguous beginning, an unknown definition."""
    for n in ("1", "2"):
        command("start", "add", f"n={n}", "--id", f"add-{n}", "--app", f"{shop}:app")
    unknown = command("show", "nobody", "--url", URL)
    assert (unknown.code, lines_of(unknown)[0]) == (3, "there is no run 'nobody'")
    ambiguous = command("show", "add", "--url", URL, "--json")
    assert ambiguous.code == 3
    assert ambiguous.error["candidates"] == ["add-2", "add-1"]
    definition = command("start", "ad", "--app", f"{shop}:app")
    assert definition.code == 3
    assert lines_of(definition)[2] == "did you mean add?"


def test_refused_is_4(command: Perdure, shop: str):
    """A run whose id is taken by one with other arguments."""
    command("start", "add", "n=1", "--id", "r", "--app", f"{shop}:app")
    answer = command("start", "add", "n=2", "--id", "r", "--app", f"{shop}:app", "--json")
    assert (answer.code, answer.error["code"]) == (4, "P132")


def test_an_unreachable_store_is_5(command: Perdure, yard: Path):
    """A file that is not there, and one that is something else: neither is touched."""
    missing = command("runs", "--url", "sqlite:///missing.db")
    assert (missing.code, missing.out) == (5, "")
    assert list(yard.iterdir()) == []
    (yard / "text.db").write_text("hello" * 200)
    foreign = command("runs", "--url", "sqlite:///text.db", "--json")
    assert (foreign.code, foreign.error["code"]) == (5, "P206")
    assert command("doctor", "--url", "sqlite:///text.db").code == 8


def test_out_of_time_is_6(command: Perdure, shop: str):
    """Nobody executes the run."""
    words = ("start", "add", "n=1", "--wait", "--timeout", "50ms", "--app", f"{shop}:app")
    answer = command(*words, "--json")
    assert (answer.code, answer.out) == (6, "")
    assert answer.error["code"] == "P134"
    assert answer.error["do"].endswith(f"perdure show {answer.error['run_id']}")


def test_an_interrupt_is_130(shop: str, yard: Path):
    """Ctrl-C while waiting ends the command and not the run."""
    with background("start", "add", "n=1", "--wait", "--app", f"{shop}:app") as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("started ")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out, err.strip()) == (130, "", "")


def test_a_closed_pipe_is_silent(command: Perdure, shop: str, yard: Path):
    """Whoever reads the output may leave before its end."""
    app = load_app(f"{shop}:app")

    async def fill() -> None:
        async with app:
            definition = Workflow(app.engine.registry["add"], app.engine)
            await definition.enqueue_many([((n,), {}) for n in range(2_000)])

    asyncio.run(fill())
    reading, writing = os.pipe()
    with subprocess.Popen(
        command_line("runs", "--url", URL, "--jsonl", "--limit", "2000"),
        stdout=writing,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    ) as process:
        os.close(writing)
        assert os.read(reading, 10)
        os.close(reading)
        _, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err) == (0, "")


def test_an_empty_option_is_not_left_out(command: Perdure, shop: str):
    """An unset variable of a shell does not choose another store, nor zero slots the default."""
    listed = command("runs", "--url", "", PERDURE_APP=f"{shop}:app")
    assert listed.code == 2
    assert "url" in listed.err
    none = command("worker", "-c", "0", "--burst", "--app", f"{shop}:app")
    assert (none.code, "concurrency" in none.err) == (2, True)


def test_a_wrong_timeout_starts_nothing(command: Perdure, shop: str):
    """Whoever tries again after exit code 2 makes no second run."""
    wrong = command("start", "add", "n=1", "--wait", "--timeout", "banana", "--app", f"{shop}:app")
    assert (wrong.code, "--timeout" in wrong.err) == (2, True)
    assert command("runs", "--url", URL).out == "no runs\n"


def test_a_damaged_error_is_shown_as_such(command: Perdure, shop: str, yard: Path):
    """One damaged record does not take the list with it."""
    command("start", "boom", "what=x", "--id", "r", "--app", f"{shop}:app")
    command("worker", "--burst", "--app", f"{shop}:app")
    connection = sqlite3.connect(yard / "shop.db")
    with connection:
        connection.execute("UPDATE run SET error = CAST('{}' AS BLOB)")
    connection.close()
    [listed] = only_json(command("runs", "--json", "--url", URL))
    assert listed["error"]["type"] == "damaged record"
    for words in (("show", "r"), ("why", "r")):
        assert command(*words, "--url", URL).code == 0
    assert "error-damaged" in command("doctor", "--url", URL).out


# --- whatever else is raised --------------------------------------------------------------------

RAISING = """
from perdure import App

def services():
    raise RuntimeError("no\\x1b[2J way")

app = App("sqlite:///shop.db", services=services, services_scope="process")

@app.job
async def add(n: int) -> int:
    return n
"""


def test_what_no_command_expects_is_9(command: Perdure, yard: Path):
    """Code of the user's that raises is not a failed run: three lines, escaped, no traceback."""
    (yard / "raising.py").write_text(RAISING, "utf-8")
    create(yard / "shop.db")
    words = ("start", "add", "n=1", "--app", "raising:app")
    answer = command(*words)
    assert (answer.code, answer.out) == (9, "")
    assert lines_of(answer) == [
        "RuntimeError was raised where nothing should be",
        "no\\x1b[2J way",
        "perdure --traceback … or PERDURE_TRACEBACK=1 shows where",
    ]
    in_json = command(*words, "--json")
    assert (in_json.code, in_json.error["exit_code"]) == (9, 9)


def test_a_traceback_on_request(command: Perdure, yard: Path):
    """By the option or the variable, also behind a failure that was expected; always escaped."""
    (yard / "raising.py").write_text(RAISING, "utf-8")
    create(yard / "shop.db")
    (yard / "broken.py").write_text("1 / 0", "utf-8")
    words = ("start", "add", "n=1", "--app", "raising:app")
    for answer in (command("--traceback", *words), command(*words, PERDURE_TRACEBACK="1")):
        assert answer.code == 9
        assert 'raising.py", line 5, in services' in answer.err
        assert "\x1b" not in answer.err
    told = command("--traceback", *words, "--json").error["traceback"]
    assert told[-1] == "RuntimeError: no\x1b[2J way"
    broken = command("worker", "broken:app", PERDURE_TRACEBACK="1")
    assert (broken.code, "ZeroDivisionError" in broken.err) == (2, True)
    assert "Traceback" in broken.err
    assert "Traceback" not in command("worker", "broken:app", PERDURE_TRACEBACK="0").err
    assert command("config", "--json", PERDURE_TRACEBACK="1").json["unknown_variables"] == {}


def test_a_module_that_ends_the_process(command: Perdure, yard: Path):
    """A script that calls sys.exit where it is imported is an app that cannot be imported."""
    (yard / "leaving.py").write_text("raise SystemExit('bye\\x1b[2J')", "utf-8")
    answer = command("worker", "leaving:app")
    assert (answer.code, answer.out) == (2, "")
    assert lines_of(answer)[:2] == ["importing leaving:app failed", "SystemExit: bye\\x1b[2J"]


def test_bytes_that_are_no_text_are_no_id(command: Perdure, shop: str):
    """Refused before a store is asked."""
    command("start", "add", "n=1", "--id", "r", "--app", f"{shop}:app")
    for words in (("show",), ("why",), ("runs", "--parent"), ("cancel",)):
        answer = command(*words, "\udcff", "--url", URL)
        assert (answer.code, answer.out) == (2, "")
        assert "lone surrogates" in lines_of(answer)[1]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_output_that_cannot_be_written(shop: str, yard: Path):
    """A full disk is told, and is no success."""
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            command_line("config", "--json"), stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert done.returncode == 9
    assert json.loads(done.stderr)["error"]["what"].startswith("OSError was raised")


STREAMING = """
from perdure import App, stream

app = App("{url}")
lines = stream("lines")

@app.workflow
async def order() -> None:
    lines.write("text \\x1b[31m")
    lines.write({{"number": 1}})
"""


def test_stream(command: Perdure, tmp_path: Path):
    """Items as lines, as JSON, from a cursor on; what is not there has its exit code."""
    (tmp_path / "streaming.py").write_text(STREAMING.format(url=URL), "utf-8")
    assert command("migrate", "--url", URL).code == 0
    assert command("start", "order", "--id", "r", "--app", "streaming:app").code == 0
    assert command("worker", "--burst", "--log-level", "error", "--app", "streaming:app").code == 0
    shown = command("stream", "r", "lines", "--follow", "--url", URL)
    assert (shown.code, shown.out) == (0, 'text \\x1b[31m\n{"number": 1}\n')
    items = [
        json.loads(line)
        for line in command("stream", "r", "lines", "--jsonl", "--url", URL).out.splitlines()
    ]
    assert [item["value"] for item in items] == ["text \x1b[31m", {"number": 1}]
    behind = command("stream", "r", "lines", "--after", items[0]["cursor"], "--url", URL)
    assert behind.out == '{"number": 1}\n'
    assert command("stream", "r", "nothing", "--url", URL).out == ""
    assert command("stream", "r", "lines", "--after", "9-9", "--url", URL).code == 3
    assert command("stream", "r", "lines", "--after", "x", "--url", URL).code == 2
    assert command("stream", "nobody", "lines", "--url", URL).code == 3
    told = only_json(command("show", "r", "--json", "--url", URL))
    assert told["streams"] == [{"name": "lines", "items": 2, "size": 29}]
    assert "lines" in command("show", "r", "--url", URL).out
