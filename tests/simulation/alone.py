"""One app alone in virtual time, without faults: for small tests that would otherwise wait."""

from collections.abc import Callable, Coroutine
from random import Random
from typing import Any

from perdure import App
from perdure._engine.engine import Ports
from perdure.ids import Ids
from perdure.stores.memory import MemoryStore
from tests.simulation.loop import Timeline, VirtualLoop
from tests.simulation.process import Main, ProcessClock, VirtualThread


class Alone:
    """A timeline with one loop, and the ports of an app on it."""

    def __init__(self) -> None:
        self.timeline = Timeline(Random(1))
        self.clock = ProcessClock(self.timeline, 0, 0.0)
        ids = Ids(Random(2), lambda: self.clock.now() // 1000)
        self.ports = Ports(self.clock, self, Random(3), ids)
        self._errors: list[BaseException] = []
        self._loops: list[VirtualLoop] = []

    def start(self, name: str, main: Main) -> VirtualThread:
        """Start a thread: it is its own `Threads` port."""
        return VirtualThread(self._new_loop(), name, main, self._errors.append)

    def run(
        self, main: Callable[[App], Coroutine[Any, Any, Any]], store: MemoryStore | None = None
    ) -> Any:
        """Run a coroutine with an app, and return its result."""
        app = App(store or MemoryStore(clock=self.clock), ports=self.ports)
        task = self._new_loop().create_task(main(app))
        task.add_done_callback(self._over)
        try:
            self.timeline.run()
        finally:
            for loop in self._loops:
                loop.close()
        for error in self._errors:
            raise error
        return task.result()

    def _new_loop(self) -> VirtualLoop:
        loop = self.timeline.loop()
        self._loops.append(loop)
        return loop

    def _over(self, _: object) -> None:
        self.timeline.is_over = True
