"""What a body may ask for beside its input: the app's services and the call's meta."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

Services = TypeVar("Services")


@dataclass(frozen=True, slots=True)
class Context(Generic[Services]):
    """Handed to a body whose signature has a parameter annotated ``Context[...]``.

    Attributes:
        services: what the app was given as ``services``: infrastructure, shared by its runs.
        meta: what the call gave as ``meta``: values of this one request, such as a tenant.
        run_id: id of the run; empty where the body is run here and now.
        attempt: the current attempt of the run, counted from 1.
    """

    services: Services
    meta: Mapping[str, Any] = field(default_factory=dict[str, Any])
    run_id: str = ""
    attempt: int = 1
