"""Virtual time: event loops that share one clock and are run one turn at a time, in seeded order.

Every thread of every simulated process has a loop of its own, so that a process can be frozen or
killed between two callbacks without its code noticing: a dead loop is simply never run again, and
no `finally` of it either. Inside one loop callbacks keep the order that asyncio promises; which
loop takes the next turn is drawn by the seed.
"""

import asyncio
import heapq
from asyncio import events
from collections.abc import Callable
from itertools import count
from random import Random
from typing import Any

TURNS_AT_ONE_INSTANT = 20_000
"""Turns without time moving after which somebody is taken to be running in circles."""


class Stuck(Exception):
    """Time cannot move on, or does not."""


class VirtualLoop(asyncio.BaseEventLoop):
    """An event loop on a timeline: no selector, no thread, no real clock."""

    def __init__(self, timeline: "Timeline") -> None:
        super().__init__()
        self._timeline = timeline
        self.frozen_until = 0.0
        self.is_awake = False  # it is among those that get turns, or will be when it thaws
        self.thaws: asyncio.TimerHandle | None = None  # it has something to do and is frozen
        self.is_dead = False

    def time(self) -> float:
        return self._timeline.now

    def call_at(self, when, callback, *args, context=None) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self._timeline.set_timer(when, self, handle)
        return handle

    def call_soon(self, callback, *args, context=None) -> asyncio.Handle:
        handle = self._call_soon(callback, args, context)
        if not self.is_awake:
            self._timeline.wake(self)
        return handle

    call_soon_threadsafe = call_soon

    def turn(self) -> None:
        """Run what is ready now, as one iteration of asyncio does."""
        ready = self._ready
        events._set_running_loop(self)
        try:
            for _ in range(len(ready)):
                handle = ready.popleft()
                if not handle._cancelled:
                    handle._run()
                    if self.is_dead:
                        return
        finally:
            events._set_running_loop(None)

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:
        """Call the function in this loop; like a thread it is not stopped by a cancellation."""
        future = self.create_future()
        self.call_soon(_call, future, func, args)
        return future

    def _process_events(self, event_list: Any) -> None:
        raise NotImplementedError("a virtual loop has no selector")


def _call(future: asyncio.Future[Any], func: Callable[..., Any], args: tuple[Any, ...]) -> None:
    try:
        result = func(*args)
    except Exception as error:  # noqa: BLE001 -- handed on to whoever waits
        if not future.done():
            future.set_exception(error)
    else:
        if not future.done():
            future.set_result(result)


class Timeline:
    """The one clock, and whose turn it is."""

    def __init__(self, rng: Random) -> None:
        self.now = 0.0
        self.is_over = False
        self._rng = rng
        self._awake: list[VirtualLoop] = []
        self._numbers = count()
        # When to fire, when it was set for (later for a loop that is frozen then), and the order.
        self._timers: list[tuple[float, float, int, VirtualLoop, asyncio.TimerHandle]] = []

    def loop(self) -> VirtualLoop:
        """Return a new loop on this timeline."""
        return VirtualLoop(self)

    def drop(self, loop: VirtualLoop) -> None:
        """Never run this loop again."""
        loop.is_dead = True

    def wake(self, loop: VirtualLoop) -> None:
        """Give a loop turns until nothing of it is ready."""
        loop.is_awake = True
        self._awake.append(loop)

    def set_timer(self, when: float, loop: VirtualLoop, handle: asyncio.TimerHandle) -> None:
        """Have a handle of a loop run then."""
        heapq.heappush(self._timers, (when, when, next(self._numbers), loop, handle))

    def timers(self, loop: VirtualLoop) -> list[asyncio.TimerHandle]:
        """Return the timers of a loop that could still fire."""
        return [t[-1] for t in self._timers if t[3] is loop and not t[-1]._cancelled]

    def freeze(self, loop: VirtualLoop, seconds: float) -> None:
        """Let nothing of a loop run for so long."""
        loop.frozen_until = max(loop.frozen_until, self.now + seconds)

    def thaw(self, loop: VirtualLoop) -> None:
        """Let a frozen loop run again now."""
        loop.frozen_until = 0.0
        self._timers = [
            (when if owner is loop else at, when, number, owner, handle)
            for at, when, number, owner, handle in self._timers
        ]
        heapq.heapify(self._timers)
        self._unpark(loop)

    def run(self) -> None:
        """Run the loops until :attr:`is_over`.

        Raises:
            Stuck: nothing is left that could ever run, or time stands still.
        """
        awake, rng, turns = self._awake, self._rng, 0
        while not self.is_over:
            if not awake:
                self._advance()
                turns = 0
                continue
            index = 0 if len(awake) == 1 else rng.randrange(len(awake))
            loop = awake[index]
            if loop.frozen_until > self.now:
                del awake[index]
                self._park(loop)
                continue
            if not loop.is_dead:
                loop.turn()
            if loop.is_dead or not loop._ready:
                loop.is_awake = False
                del awake[index]
            turns += 1
            if turns > TURNS_AT_ONE_INSTANT:
                raise Stuck(f"time stands still at {self.now:.6f} s")

    def _advance(self) -> None:
        """Move time on to the next timer, and make everything ready that is due then."""
        timers = self._timers
        while timers and timers[0][-1]._cancelled:
            heapq.heappop(timers)
        if not timers:
            raise Stuck("nothing is ready and no timer is set: a deadlock")
        now = self.now = max(self.now, timers[0][0])
        while timers and timers[0][0] <= now:
            _, when, number, loop, handle = heapq.heappop(timers)
            if handle._cancelled or loop.is_dead:
                continue
            if loop.frozen_until > now:
                heapq.heappush(timers, (loop.frozen_until, when, number, loop, handle))
                continue
            loop._ready.append(handle)
            self._unpark(loop)
            if not loop.is_awake:
                self.wake(loop)

    def _park(self, loop: VirtualLoop) -> None:
        loop.thaws = asyncio.TimerHandle(loop.frozen_until, _nothing, (), loop)
        self.set_timer(loop.frozen_until, loop, loop.thaws)

    def _unpark(self, loop: VirtualLoop) -> None:
        if loop.thaws is not None:
            loop.thaws.cancel()
            loop.thaws = None
            self.wake(loop)


def _nothing() -> None:
    """Be something to do when a frozen loop thaws."""


def finish(coroutine: Any) -> Any:
    """Run a coroutine that never really waits, such as a call of the memory store."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    coroutine.close()
    raise AssertionError("it waited")
