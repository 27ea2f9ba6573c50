"""Work that must finish: durable workflows and typed background jobs on one engine."""

from perdure._engine.scope import carry
from perdure._runtime.worker import Worker
from perdure._version import __version__
from perdure.app import App
from perdure.context import Context, Values
from perdure.declare import Declared, job, workflow
from perdure.errors import NonRetryable, PerdureError, RetryAfter
from perdure.handle import Run
from perdure.model.records import Status
from perdure.retry import Backoff, RetryPolicy, constant, exponential, linear
from perdure.step import Step, gather, now, random, step, uuid
from perdure.workflow import Workflow

__all__ = [
    "App",
    "Backoff",
    "Context",
    "Declared",
    "NonRetryable",
    "PerdureError",
    "RetryAfter",
    "RetryPolicy",
    "Run",
    "Status",
    "Step",
    "Values",
    "Worker",
    "Workflow",
    "__version__",
    "carry",
    "constant",
    "exponential",
    "gather",
    "job",
    "linear",
    "now",
    "random",
    "step",
    "uuid",
    "workflow",
]
