"""`python -m bench`: measure Perdure, its peers and this machine; see bench/README.md."""

import argparse
import json
import os
import subprocess
import sys
import venv
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench import measures as table
from bench.report import Spread, Verdict, environment, spread_of
from bench.trial import CHECKOUT, PEERS, Ground, Outcome, Trial, TrialFailed, run

CACHE = CHECKOUT / ".bench-cache"
PEER_ENVIRONMENT = CACHE / "peers"
RESULTS = Path(__file__).resolve().parent / "results"
BUSY_LOAD = 0.3


def main() -> int:
    """Do what the command line asks; return 1 when a bar does not hold, 2 when a trial failed."""
    args = parser().parse_args()
    make_cache()
    if args.what == "peers" and args.install:
        install_peers()
        return 0
    ground = Ground(args.scratch.resolve(), peer_python(args.peer_python))
    if os.getloadavg()[0] > BUSY_LOAD:
        say(f"the machine is busy (load {os.getloadavg()[0]:.2f}): trust ratios, not rates")
    match args.what:
        case "peers":
            return trials(table.PEER_TRIALS, ground, args)
        case "yardsticks":
            return trials(table.YARDSTICK_TRIALS, ground, args)
        case _:
            return sqlite(ground, args)


def sqlite(ground: Ground, args: argparse.Namespace) -> int:
    """Run the measures on SQLite, print each as it is done, and save them when asked."""
    chosen = choose(table.measures(dbos_5000=args.dbos_5000), args.only)
    before = environment()
    verdicts: list[Verdict] = []
    failed = False
    for measure in chosen:
        try:
            verdict = judge(measure, ground, args.repeat)
        except TrialFailed as error:
            say(f"{measure.name}: {error}")
            failed = True
            continue
        verdicts.append(verdict)
        print_unless(args.json, *verdict.lines())
    report = {
        "environment": before | {"repeats": args.repeat} | of_all(verdicts),
        "measures": [verdict.record() for verdict in verdicts],
    }
    print_unless(args.json, "environment " + json.dumps(report["environment"]))
    deliver(report, args)
    if failed:
        return 2
    return int(any(verdict.holds is False for verdict in verdicts))


def of_all(verdicts: Sequence[Verdict]) -> dict[str, str]:
    """Return our settings and versions as the measured processes told them, all that occurred."""
    told: dict[str, set[str]] = {"journal_mode": set(), "synchronous": set()}
    for outcome in (verdict.ours.last for verdict in verdicts):
        told["journal_mode"].add(outcome.journal_mode)
        told["synchronous"].add(outcome.synchronous)
        for name, version in outcome.versions.items():
            told.setdefault(name, set()).add(version)
    return {name: ", ".join(sorted(values)) for name, values in told.items()}


def judge(measure: table.Measure, ground: Ground, repeats: int) -> Verdict:
    """Run a measure and what stands beside it in turn, and hold the medians against the bar."""
    beside = [trial for trial in measure.beside if not trial.is_peer or ground.peer_python]
    spreads = take_turns([*beside, measure.ours], ground, repeats)
    medians = {spread.trial.label: spread.median for spread in spreads[:-1]}
    try:
        bar = measure.bar(medians)
    except KeyError:  # it needs a peer, and there is none
        bar = None
    return Verdict(measure, spreads[-1], tuple(spreads[:-1]), bar)


def take_turns(trials: Sequence[Trial], ground: Ground, repeats: int) -> list[Spread]:
    """Run all trials once, then all again, every other time backwards: drift falls on all."""
    outcomes: dict[str, list[Outcome]] = {trial.label: [] for trial in trials}
    for turn in range(repeats):
        for trial in trials if turn % 2 == 0 else reversed(trials):
            outcomes[trial.label].append(run(trial, ground))
    return [spread_of(trial, outcomes[trial.label]) for trial in trials]


def trials(chosen: Sequence[Trial], ground: Ground, args: argparse.Namespace) -> int:
    """Run trials that have no bar and print them."""
    if any(trial.is_peer for trial in chosen) and ground.peer_python is None:
        say("no interpreter with the peers: run `python -m bench peers --install`")
        return 2
    wanted = [trial for trial in chosen if not args.only or trial.label in args.only]
    records = []
    for trial in wanted:
        (spread,) = take_turns([trial], ground, args.repeat)
        records.append(spread.record())
        settings = f"[{spread.last.journal_mode}, {spread.last.synchronous}]"
        print_unless(
            args.json,
            f"{trial.label:<36} {spread!s:>30} {trial.unit:<9} {settings} {spread.last.also}",
        )
    deliver({"environment": environment() | {"repeats": args.repeat}, "trials": records}, args)
    return 0


def choose(all_of_them: Sequence[table.Measure], names: Sequence[str]) -> list[table.Measure]:
    """Return the named measures, or all of them when none is named."""
    known = {measure.name: measure for measure in all_of_them}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise SystemExit(f"no measure named {unknown[0]!r}; there are: {', '.join(known)}")
    return [known[name] for name in names] or list(all_of_them)


def deliver(report: Mapping[str, object], args: argparse.Namespace) -> None:
    """Print the report as JSON and save it, as asked."""
    if args.json:
        print(json.dumps(report, indent=1))
    if args.save:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{args.save}.json").write_text(json.dumps(report, indent=1) + "\n")


def make_cache() -> None:
    """Make the directory for peers and scratch files, which ignores itself in git."""
    CACHE.mkdir(exist_ok=True)
    (CACHE / ".gitignore").write_text("*\n")


def install_peers() -> None:
    """Make a virtual environment for the peers and install the versions they are measured in."""
    venv.create(PEER_ENVIRONMENT, with_pip=True)
    install = [str(python_of(PEER_ENVIRONMENT)), "-m", "pip", "install", "--quiet"]
    subprocess.run([*install, "--requirement", str(PEERS / "requirements.txt")], check=True)


def peer_python(given: Path | None) -> Path | None:
    """Return the peers' interpreter: the one given, else the one that --install made, if any."""
    made = python_of(PEER_ENVIRONMENT)
    return given or (made if made.exists() else None)


def python_of(environment: Path) -> Path:
    """Return the interpreter of a virtual environment."""
    return environment / "bin" / "python"


def print_unless(silent: bool, *lines: str) -> None:  # noqa: FBT001 - one flag, named by the function
    if not silent:
        print(*lines, sep="\n", flush=True)


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    root = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    root.add_argument("what", choices=["sqlite", "peers", "yardsticks"])
    root.add_argument("--only", action="append", default=[], metavar="NAME", help="repeatable")
    root.add_argument("--repeat", type=int, default=5)
    root.add_argument("--json", action="store_true", help="print one JSON document instead")
    root.add_argument("--save", metavar="NAME", help="write bench/results/NAME.json")
    root.add_argument("--install", action="store_true", help="peers: make their environment")
    root.add_argument("--peer-python", type=Path, help="an interpreter that has the peers")
    root.add_argument("--dbos-5000", action="store_true", help="let DBOS run 5,000 steps too")
    root.add_argument("--scratch", type=Path, default=CACHE / "scratch", help="where files go")
    return root


if __name__ == "__main__":
    sys.exit(main())
