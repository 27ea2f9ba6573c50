"""Every fenced block of the documentation runs, or says above it why not.

- `python` runs as a program of its own, in an empty directory, with warnings as errors. With
  `<!-- continues -->` above it, it runs after the Python blocks it continues, as one program.
- `sh` and `console` hold commands; each stands in COMMANDS with the test that exercises it.
- `text` is output or a drawing.
- Anything else, and whatever may not run, needs `<!-- not run: the reason -->` above it.
"""

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

KILL_LOOP = "tests/durability/test_kill_loop.py::test_kill_and_run_again"
KILLED = "tests/docs/test_quickstart.py::test_killed_and_started_again"
APART = "tests/docs/test_quickstart.py::test_worker_and_client_apart"

CLI_PAGE = "tests/docs/test_cli_page.py::test_the_page"

# The exact command as printed: the test, as file::name, that does what the reader would do.
COMMANDS = {
    "python3 dev.py demo": "tests/unit/test_dev.py::test_demo_installs_once_and_passes_on",
    "timeout -s KILL 2 python3 dev.py demo --out archive-again": KILL_LOOP,
    "python3 dev.py demo --out archive-again": KILL_LOOP,
    "python3 dev.py test": "tests/unit/test_house.py::test_ci_runs_the_readme_commands",
    "timeout -s KILL 1.5 python shop.py": KILLED,
    "python shop.py": KILLED,
    "python history.py": KILLED,
    "python worker.py &": APART,
    "python client.py": APART,
    "python3 dev.py check": "tests/unit/test_dev.py::test_every_gate_runs_and_counts",
    **dict.fromkeys(
        (
            "perdure migrate",
            "perdure start fulfil order_id=o1 cents=499 --id order-1",
            "perdure start fulfil order_id=o2 cents=1499 --id order-2",
            "perdure worker --burst --log-level error",
            "perdure runs",
            "perdure show order-2",
            "perdure retry order-2",
            "perdure cancel order-2 order-1",
            "perdure show order",
            "perdure start fulfill order_id=o3 cents=1",
            "perdure restart order-1",
            "perdure fork order-1 --new-id order-3",
            "perdure cancel --name fulfil --status queued --dry-run",
            "perdure cancel --name fulfil --status queued",
            "perdure migrate --plan",
            "perdure doctor",
            "perdure prune",
            "perdure prune --older-than 0s --status cancelled --dry-run",
            "perdure send OrderPlaced order_id=o7 cents=499 --id message-7",
            "perdure schedules",
            "perdure workers",
            "perdure queue limit mail --concurrency 20 --rate 100/1m,10",
            "perdure queue pause mail",
            "perdure queue resume mail",
            "perdure queues",
            "perdure tail order-1",
            "perdure tail --kind failed --kind retried",
            "perdure subscribers",
            "perdure stream order-1 lines",
            "perdure check",
            "perdure pull order-1 --out order-1.json",
            "perdure replay order-1.json",
            "perdure pin order-1 --to 2",
            "perdure pin order-1 --any",
            "perdure versions",
            "perdure runs --url sqlite:///elsewhere.db",
            "perdure config",
        ),
        CLI_PAGE,
    ),
    "perdure worker shop:app -Q mail -Q default -c 50 --log-format json": (
        "tests/cli/test_commands.py::test_a_worker_waits_works_and_stops"
    ),
    **dict.fromkeys(
        (
            "perdure runs --name fulfil --version 1",
            "perdure pin --name fulfil --version 1 --to 2",
        ),
        "tests/cli/test_check.py::test_pinning_by_hand",
    ),
    "perdure completion bash": "tests/cli/test_commands.py::test_completion",
}

FENCE = re.compile(
    r"(?:^<!-- (?P<note>[^\n]+) -->\n+)?"
    r"^(?P<ticks>```+)(?P<language>\S*)[^\n]*\n(?P<text>.*?)^(?P=ticks)$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """One fenced block: its place, the comment above it, its language and its text."""

    place: str
    note: str
    language: str
    text: str

    def commands(self) -> list[str]:
        """Return the commands: every line of `sh`, what follows `$` in `console`."""
        lines = self.text.replace("\\\n", "").splitlines()
        if self.language == "console":
            return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        return [line for line in lines if line and not line.startswith("#")]


def blocks_of(page: str, markdown: str) -> list[Block]:
    """Return the blocks of a page; a continuing Python block begins with what it continues."""
    found: list[Block] = []
    program = ""
    for match in FENCE.finditer(markdown):
        note, language, text = match["note"] or "", match["language"], match["text"]
        if language == "python" and not note.startswith("not run: "):
            program = text = program + "\n" + text if note == "continues" else text
        line = markdown.count("\n", 0, match.start("ticks")) + 1
        found.append(Block(f"{page}:{line}", note, language, text))
    return found


PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
BLOCKS = [
    block
    for page in PAGES
    for block in blocks_of(page.relative_to(ROOT).as_posix(), page.read_text("utf-8"))
    if not block.note.startswith("not run: ")
]


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.place)
def test_block(block: Block, tmp_path: Path):
    """The block does what its page shows."""
    match block.language:
        case "python":
            run_program(block, tmp_path)
        case "sh" | "console":
            assert not [command for command in block.commands() if command not in COMMANDS]
        case "text":
            pass
        case other:
            pytest.fail(f"{block.place}: {other!r} blocks need <!-- not run: reason -->")


def run_program(block: Block, directory: Path) -> None:
    """Run a Python block as the reader would, from a file."""
    program = directory / "block.py"
    program.write_text(block.text, "utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", program.name],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, f"{block.place}:\n{done.stdout}{done.stderr}"


def test_no_command_is_covered_in_vain():
    """COMMANDS holds only what a page prints, and each names a test that exists."""
    shell = [block for block in BLOCKS if block.language in ("sh", "console")]
    assert COMMANDS.keys() == {command for block in shell for command in block.commands()}
    for test in COMMANDS.values():
        file, _, name = test.partition("::")
        assert re.search(rf"^(async )?def {name}\(", (ROOT / file).read_text("utf-8"), re.MULTILINE)


def test_blocks_are_read_as_described():
    """Notes, continuation, both kinds of shell block and plain text are told apart."""
    page = """
```python
a = 1
```

<!-- continues -->
```python
assert a
```
<!-- not run: needs a person -->

```python
input()
```
```console
$ one \\
  two
its output
```
```sh
# a comment
three
```
"""
    first, second, third, console, shell = blocks_of("page.md", page)
    assert (first.place, first.text) == ("page.md:2", "a = 1\n")
    assert (second.note, second.text) == ("continues", "a = 1\n\nassert a\n")
    assert (third.note, third.text) == ("not run: needs a person", "input()\n")
    assert console.commands() == ["one   two"]
    assert shell.commands() == ["three"]
