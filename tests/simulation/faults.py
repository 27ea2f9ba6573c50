"""What goes wrong: each seed draws its own mix of faults, some of calls and some of processes."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any

from tests.simulation.process import DAY, Process

if TYPE_CHECKING:
    from tests.simulation.world import World

OF_CALLS = ("slow", "refused", "lost", "unheard", "twice", "ghost", "dies", "dies_after")


@dataclass(frozen=True, slots=True)
class Mix:
    """How often what happens.

    Of every store call, as probabilities: ``slow`` (it takes long), ``refused`` (an error, not
    applied), ``lost`` (no answer, not applied), ``unheard`` (no answer, applied), ``twice``
    (applied twice at once), ``ghost`` (applied again much later), ``dies`` (the process dies
    before it is sent), ``dies_after`` (the process dies when it is applied). Of hints: ``deaf``
    (lost). ``instant``: of calls that take no time.

    In the whole run, as numbers: ``kills``; ``freezes`` of a process with all its threads;
    ``stalls`` of its event loop alone; ``outages`` of the store; ``cuts`` between a process and
    the store; ``jumps`` of a wall clock; ``stops`` in good order.
    """

    slow: float = 0.0
    refused: float = 0.0
    lost: float = 0.0
    unheard: float = 0.0
    twice: float = 0.0
    ghost: float = 0.0
    dies: float = 0.0
    dies_after: float = 0.0
    deaf: float = 0.0
    instant: float = 0.5
    kills: int = 0
    freezes: int = 0
    stalls: int = 0
    outages: int = 0
    cuts: int = 0
    jumps: int = 0
    stops: int = 0

    @classmethod
    def draw(cls, rng: Random) -> "Mix":
        """Draw a mix: about a third of all faults, some rare, some frequent; sometimes none."""
        if rng.random() < 0.08:
            return cls(instant=rng.choice((0.0, 0.5, 1.0)))

        def share(most: float) -> float:
            return most * rng.choice((0.1, 0.3, 1.0)) if rng.random() < 0.35 else 0.0

        def number(most: int) -> int:
            return rng.randint(1, most) if rng.random() < 0.4 else 0

        return cls(
            slow=share(0.1),
            refused=share(0.2),
            lost=share(0.1),
            unheard=share(0.2),
            twice=share(0.3),
            ghost=share(0.2),
            dies=share(0.02),
            dies_after=share(0.02),
            deaf=share(1.0),
            instant=rng.choice((0.0, 0.5, 0.9)),
            kills=number(4),
            freezes=number(3),
            stalls=number(2),
            outages=number(2),
            cuts=number(3),
            jumps=number(3),
            stops=number(2),
        )


class Chaos:
    """Brings a mix of faults upon a world until it heals."""

    def __init__(self, world: "World", mix: Mix, rng: Random, lease: float) -> None:
        self.mix = mix
        self.is_on = True
        self._world = world
        self._timeline = world.timeline
        self._rng = rng
        self._lease = lease
        self._outage_until = 0.0
        total = 0.0
        self._odds = [(total := total + getattr(mix, name), name) for name in OF_CALLS]

    def begin(self, until: float) -> None:
        """Plan everything that does not depend on calls."""
        mix, draw = self.mix, self._rng.choice
        lease = self._lease
        for number, fault in (
            (mix.kills, lambda p: p.kill("chaos")),
            (mix.freezes, lambda p: p.freeze(draw((0.5, lease, 2.0 * lease)))),
            (mix.stalls, lambda p: p.stall(draw((1.0, 2.0 * lease)))),
            (mix.outages, lambda p: self._fail_for_all(draw((1.0, 1.3 * lease)))),
            (mix.cuts, lambda p: p.cut_off(draw((1.0, 1.5 * lease)))),
            (mix.jumps, self._jump),
            (mix.stops, self._world.ask_to_stop),
        ):
            for _ in range(number):
                self._world.later(self._rng.random() * until, self._befall, fault)

    def heal(self) -> None:
        """End every fault, and bring no other."""
        self.is_on = False
        self._outage_until = 0.0

    def _befall(self, fault: Callable[[Process], Any]) -> None:
        workers = [process for process in self._world.workers.values() if process.is_alive]
        everybody = [process for process in self._world.processes if process.is_alive]
        chosen = workers if workers and self._rng.random() < 0.8 else everybody
        if chosen and self.is_on:
            fault(self._rng.choice(chosen))

    def _fail_for_all(self, seconds: float) -> None:
        self._world.note("outage", f"{seconds:g} s")
        self._outage_until = self._timeline.now + seconds

    def _jump(self, process: Process) -> None:
        """A wall clock jumps by a day; now and then the store's own goes forward by a minute."""
        if self._rng.random() < 0.2:
            self._world.store_ahead += 60_000_000
            self._world.note("jump", "store")
        else:
            process.clock.offset += self._rng.choice((-DAY, DAY))
            self._world.note("jump", process.name)

    # --- calls -----------------------------------------------------------------------------------

    def of_call(self, process: Process) -> str:
        """Draw what happens to a call: a fault's name, or nothing."""
        if not self.is_on:
            return ""
        drawn = self._rng.random()
        if drawn >= self._odds[-1][0]:
            return ""
        name = next(name for limit, name in self._odds if drawn < limit)
        process.in_trouble_until(self._timeline.now)
        self._world.note("fault", process.name, name)
        return name

    def is_instant(self, process: Process) -> bool:
        """Draw whether a call takes no time."""
        return not self.is_cut(process) and self._rng.random() < self.mix.instant

    def is_cut(self, process: Process) -> bool:
        """Tell whether a process cannot reach the store now."""
        now = self._timeline.now
        if now < process.cut_until:
            process.in_trouble_until(now)
            return True
        return now < self._outage_until

    def is_deaf(self) -> bool:
        """Draw whether a hint is lost."""
        return self.is_on and self._rng.random() < self.mix.deaf
