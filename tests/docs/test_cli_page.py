"""Every command of docs/cli.md prints what the page shows."""

import os
import re
import shlex
import subprocess
from pathlib import Path

from tests.cli.conftest import command_line
from tests.docs.test_blocks import FENCE, ROOT

VOLATILE = {
    r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)?": "INSTANT",
    r"\b[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}\b": "UUID",
    r"\b\d+(\.\d+)?m?s$": "LENGTH",
    r"[\w/.-]+/((?:elsewhere|shop)\.db|pyproject\.toml)": r"/srv/\1",
    r"[\w/.-]+/shop\.py": "shop.py",
    r" {2,}": "  ",
    r"-{3,}": "---",
}


def test_the_page(tmp_path: Path):
    """Its console blocks, one after the other, with its app and its settings."""
    page = (ROOT / "docs" / "cli.md").read_text("utf-8")
    for match in FENCE.finditer(page):
        match match["language"]:
            case "python":
                (tmp_path / "shop.py").write_text(match["text"], "utf-8")
            case "toml":
                (tmp_path / "pyproject.toml").write_text(match["text"], "utf-8")
            case "console":
                for command, shown in sessions(match["text"]):
                    assert stable(run(command, tmp_path)) == stable(shown), command


def sessions(text: str) -> list[tuple[str, str]]:
    """Return each command of a console block with what is shown below it."""
    found: list[tuple[str, str]] = []
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, shown = part.partition("\n")
        found.append((command, shown))
    return found


def run(command: str, directory: Path) -> str:
    """Run a command in the page's directory and return all that it prints."""
    program, *words = shlex.split(command)
    assert program == "perdure"
    environment = {name: text for name, text in os.environ.items() if "PERDURE_" not in name}
    done = subprocess.run(
        command_line(*words),
        cwd=directory,
        env={**environment, "PYTHONIOENCODING": "utf-8"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    return done.stdout


def stable(text: str) -> str:
    """Return an output without what differs from one time to the next."""
    lines = text.splitlines()
    for pattern, replacement in VOLATILE.items():
        lines = [re.sub(pattern, replacement, line) for line in lines]
    return "\n".join(line.rstrip() for line in lines)
