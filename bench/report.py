"""Turning outcomes into what is printed and saved."""

import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bench.measures import Measure
from bench.trial import Outcome, Trial

RATES = {"runs/s", "commits/s", "rows/s"}
"""Units whose ratio says something: each is a durable row."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Smallest, median and largest of the repeats of one trial, with its last outcome."""

    trial: Trial
    values: tuple[float, ...]
    last: Outcome

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def __str__(self) -> str:
        low, middle, high = (
            number(value) for value in (min(self.values), self.median, max(self.values))
        )
        return f"{middle} ({low} .. {high})"

    def record(self) -> dict[str, Any]:
        """Return what is saved of it."""
        return {
            "trial": self.trial.label,
            "unit": self.trial.unit,
            "values": self.values,
            "median": self.median,
            "journal_mode": self.last.journal_mode,
            "synchronous": self.last.synchronous,
            "also": self.last.also,
            "versions": self.last.versions,
        }


@dataclass(frozen=True, slots=True)
class Verdict:
    """A measure after its repeats; the bar is None when a peer it needs did not run."""

    measure: Measure
    ours: Spread
    beside: tuple[Spread, ...]
    bar: float | None

    @property
    def holds(self) -> bool | None:
        return None if self.bar is None else self.measure.holds(self.ours.median, self.bar)

    def lines(self) -> list[str]:
        """Return what is printed of it."""
        word = {True: "holds", False: "FAILS", None: "no peer"}[self.holds]
        bar = "?" if self.bar is None else number(self.bar)
        head = (
            f"{self.measure.name:<22} {self.ours!s:>34} {self.ours.trial.unit:<11} "
            f"bar {bar:>8}  {word:<7}  {self.measure.claim}"
        )
        return [head, *(f"    also {name} {show(value)}" for name, value in self._also())] + [
            f"    beside {spread.trial.label:<36} {spread!s:>26} {spread.trial.unit:<9} "
            f"[{spread.last.journal_mode}, {spread.last.synchronous}]  {self._ratio(spread)}"
            for spread in self.beside
        ]

    def record(self) -> dict[str, Any]:
        """Return what is saved of it."""
        return {
            "name": self.measure.name,
            "claim": self.measure.claim,
            "bar": self.bar,
            "holds": self.holds,
            "ours": self.ours.record(),
            "beside": [spread.record() for spread in self.beside],
        }

    def _also(self) -> list[tuple[str, float | str]]:
        return list(self.ours.last.also.items())

    def _ratio(self, spread: Spread) -> str:
        """Say how many times better ours is, where both are of one kind."""
        kinds = {self.ours.trial.unit, spread.trial.unit}
        ours, theirs = self.ours.median, spread.median
        if not (ours and theirs) or not (len(kinds) == 1 or kinds <= RATES):
            return ""
        times = ours / theirs if self.measure.better == "higher" else theirs / ours
        return f"ours is {times:.3g} x as good"


def spread_of(trial: Trial, outcomes: Sequence[Outcome]) -> Spread:
    """Return the spread of a trial's repeats."""
    return Spread(trial, tuple(outcome.value for outcome in outcomes), outcomes[-1])


def environment() -> dict[str, Any]:
    """Return what the figures depend on; nothing that names the machine."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "load_before": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.machine()}",
    }


def number(value: float) -> str:
    """Write a number with about four digits."""
    if abs(value) >= 1_000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def show(value: float | str) -> str:
    """Write a number or a word."""
    return value if isinstance(value, str) else number(value)
