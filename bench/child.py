"""The process that is measured: `python -m bench.child MODULE:TRIAL DIRECTORY`.

Runs one trial and prints its reading as one line of JSON. It imports the trial's module
and nothing of the harness, so that memory and start-up are those of the thing measured.
"""

import asyncio
import dataclasses
import importlib
import json
import platform
import sqlite3
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def main() -> None:
    """Run the trial that the command line names."""
    module_name, trial_name = sys.argv[1].split(":")
    trial = importlib.import_module(f"bench.{module_name}").TRIALS[trial_name]
    outcome = trial(Path(sys.argv[2]))
    reading = asyncio.run(outcome) if asyncio.iscoroutine(outcome) else outcome
    versions = {"python": platform.python_version(), "sqlite": sqlite3.sqlite_version}
    if module_name == "ours":
        versions["perdure"] = _version_of_perdure()
    print(json.dumps({**dataclasses.asdict(reading), "versions": versions}), flush=True)


def _version_of_perdure() -> str:
    try:
        return version("perdure")
    except PackageNotFoundError:
        return "source tree"


if __name__ == "__main__":
    main()
