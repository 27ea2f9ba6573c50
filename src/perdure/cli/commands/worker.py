"""``perdure worker``: executes runs until it is told to stop."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Callable
from typing import Any

import click

from perdure._platform import hear_stop_signals
from perdure._runtime.worker import State, Worker
from perdure._version import __version__
from perdure.cli._failures import ExitCode, Failure
from perdure.cli._meanings import perform
from perdure.cli._output import as_json, escape
from perdure.cli._places import Place, app_option, place_of_code, settings_of
from perdure.cli._settings import FORMATS, LEVELS, SETTINGS, Settings
from perdure.telemetry import configure_logging


def _text(name: str, text: str) -> str:
    """Return the help of an option with the default that its setting has."""
    return f"{text}  [{SETTINGS[name].default}]"


@click.command("worker", short_help="Execute the runs of an app until told to stop.")
@click.argument("place", metavar="[APP]", required=False)
@app_option
@click.option(
    "-Q",
    "--queue",
    "queues",
    multiple=True,
    help="A queue to serve, of all of the app; several times.",
)
@click.option("--only", multiple=True, metavar="NAME", help="A definition to serve, of all.")
@click.option(
    "-c", "--concurrency", type=int, metavar="N", help=_text("concurrency", "Runs at once.")
)
@click.option("--burst", is_flag=True, help="Execute what can be executed now, then end.")
@click.option(
    "--grace", metavar="DURATION", help=_text("grace", "For what executes when it stops.")
)
@click.option(
    "--lease", metavar="DURATION", help=_text("lease", "Without a sign of life it is dead.")
)
@click.option("--heartbeat", metavar="DURATION", help=_text("heartbeat", "Between signs of life."))
@click.option("--poll", metavar="DURATION", help=_text("poll", "Between looks of its own."))
@click.option(
    "--crash-cap", type=int, metavar="N", help=_text("crash_cap", "Dead workers in a row.")
)
@click.option(
    "--log-level", type=click.Choice(LEVELS), help=_text("log_level", "From where on it logs.")
)
@click.option("--log-format", type=click.Choice(FORMATS), help=_text("log_format", "How it logs."))
@click.pass_context
def command(
    context: click.Context, /, *, place: str | None, app: str | None, burst: bool, **options: Any
) -> int:
    """Execute the runs of APP (module:name) until told to stop; as many as you like, anywhere.

    It prints one line when it is ready. SIGTERM and SIGINT let what executes finish within the
    grace and hand the rest to other workers; a second one ends the grace.
    """
    if place is not None and app is not None and place != app:
        raise Failure(
            ExitCode.USAGE,
            "two apps are named",
            why=f"{place} as the argument and {app} with --app",
            do="name one of them",
        )
    settings = settings_of(context, app=place or app, **options)
    configure_logging(settings["log_level"], settings["log_format"], whole_process=True)
    return perform(lambda: _work(settings, burst=burst))


async def _work(settings: Settings, *, burst: bool) -> int:
    place = place_of_code(settings)
    for sentence in await place.app.engine.store.plan():
        click.echo(
            f"note: no store is ready at {escape(place.name)}; this worker will {escape(sentence)}",
            err=True,
        )
    worker = Worker(
        place.app,
        concurrency=settings["concurrency"],
        queues=settings["queues"],
        only=settings["only"],
        lease=settings["lease"],
        heartbeat=settings["heartbeat"],
        poll=settings["poll"],
        grace=settings["grace"],
        crash_cap=settings["crash_cap"],
    )
    stop = _Stop()
    with hear_stop_signals(stop.hear):
        if burst:
            await _burst(worker, stop)
            click.echo(f"executed {worker.finished:,} runs", err=True)
        else:
            await _serve(worker, stop, lambda: _say_ready(place, settings, worker))
    return ExitCode.OK


async def _serve(worker: Worker, stop: _Stop, say_ready: Callable[[], None]) -> None:
    """Work until a signal comes; one that comes while the worker starts gives that up."""
    starting = asyncio.create_task(worker.start())
    if not await stop.first(starting):
        await _cancelled(starting)
        return
    _leave_alone_what_is_loaded()
    say_ready()
    await stop.heard.wait()
    await stop.end(worker)


def _leave_alone_what_is_loaded() -> None:
    """Keep the collector from going through the modules again and again.

    A no-op run costs 49 us instead of 53. The process is ours, so nothing in it minds.
    """
    gc.collect()
    gc.freeze()


class _Stop:
    """The end of a worker: the first signal begins it, the second ends its grace."""

    def __init__(self) -> None:
        self.heard = asyncio.Event()
        self._stopping: asyncio.Task[None] | None = None

    def hear(self) -> None:
        """A signal has come."""
        if not self.heard.is_set():
            click.echo("stopping; once more ends the grace", err=True)
            self.heard.set()
        elif self._stopping is not None:
            self._stopping.cancel()

    async def first(self, task: asyncio.Task[Any]) -> bool:
        """Wait for a task or a signal, and return whether it was the task; it raises as it did."""
        hearing = asyncio.create_task(self.heard.wait())
        await asyncio.wait([task, hearing], return_when=asyncio.FIRST_COMPLETED)
        hearing.cancel()
        if task.done():
            task.result()
            return True
        return False

    async def end(self, worker: Worker) -> None:
        """Stop a worker that works; the next signal ends its grace."""
        self._stopping = asyncio.create_task(worker.stop())
        await asyncio.wait([self._stopping])
        if not self._stopping.cancelled():
            self._stopping.result()


async def _burst(worker: Worker, stop: _Stop) -> None:
    """Execute what can be executed now; a signal ends that as it ends any worker."""
    working = asyncio.create_task(worker.run_once())
    if not await stop.first(working):
        if worker.state is State.WORKING:
            await stop.end(worker)
        await _cancelled(working)


async def _cancelled(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.wait([task])


def _say_ready(place: Place, settings: Settings, worker: Worker) -> None:
    """Print the one line for whoever waits for the worker, a person or a supervisor."""
    serves = settings["only"] or tuple(one.name for one in place.app.engine.registry)
    if settings["log_format"] == "json":
        told = {
            "event": "ready",
            "app": place.name,
            "worker_id": worker.worker_id,
            "pid": os.getpid(),
            "definitions": list(serves),
            "queues": list(worker.queues),
            "concurrency": worker.concurrency,
        }
        click.echo(as_json(told))
        return
    queues = ", ".join(worker.queues)
    click.echo(
        f"perdure {__version__} worker ready: {escape(place.name)}, {len(serves)} definitions,"
        f" queues {escape(queues)}, {worker.concurrency} at once, pid {os.getpid()}"
    )
