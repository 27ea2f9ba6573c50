"""What the README says about its own example."""

import subprocess
import sys
from pathlib import Path

from tests.docs.test_blocks import ROOT, blocks_of


def test_first_example_twice(tmp_path: Path):
    """The first example prints what is shown, and from the second time on only the result."""
    blocks = blocks_of("README.md", (ROOT / "README.md").read_text("utf-8"))
    program, shown = blocks[0], blocks[1]
    assert (program.language, shown.language) == ("python", "text")
    (tmp_path / "shop.py").write_text(program.text, "utf-8")
    command = [sys.executable, "-W", "error", "shop.py"]
    first, second = (
        subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        for _ in range(2)
    )
    assert first.stdout == shown.text
    assert second.stdout == shown.text.splitlines(keepends=True)[-1]
    assert first.stderr + second.stderr == ""
