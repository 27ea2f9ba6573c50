"""Argument lists: stored by parameter name, checked when accepted and again when executed."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from hashlib import blake2b
from typing import Any

import msgspec

from perdure import _late as late
from perdure.errors import DefinitionError, InvalidValue, Unresolved

from ._fingerprints import FAST, MOST_TEXT, SCHEME, canonical, canonical_bytes, fingerprint_of
from ._refusal import Refused, class_of, invalid, kind_of, too_deep
from ._schema import Schema, build_shape, schema
from ._shapes import Shape
from ._untyped import encode, explain

__all__ = ["Arguments"]

_EMPTY: Any = inspect.Parameter.empty
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_ANYTHING = inspect.signature(lambda *args, **kwargs: None)  # noqa: ARG005 -- for its signature
_ARGS = "*"  # no parameter can be called so
_KWARGS = "**"
_NOTHING = b"{}"  # the arguments of a function without parameters: known without looking


class _Parameter(msgspec.Struct, frozen=True):
    """One parameter that is stored.

    Attributes:
        kind: how arguments reach it, as ``inspect`` says.
        default: its default, or ``inspect.Parameter.empty``.
        stored_default: the bytes of its default, if that can be stored at all.
        counted_default: the canonical bytes of its default.
        shape: the shape of its annotation.
    """

    kind: Any
    default: Any
    stored_default: bytes | None
    counted_default: bytes | None
    shape: Shape


class _Plan(msgspec.Struct, frozen=True):
    """A signature, resolved: what is known once annotations can be evaluated."""

    parameters: dict[str, _Parameter]
    positional: tuple[str, ...]
    keywords: frozenset[str]
    injected: tuple[str, ...]
    rest: Shape | None
    others: Shape | None
    result: Any


class Arguments:
    """The codec of one function's arguments.

    Annotations are resolved at first use, because models may be declared further down in the
    module.

    ``takes_any`` tells whether the function has parameters at all.

    Args:
        function: any callable with a signature.
        skip: says of an annotation that its parameter is injected, and neither stored nor
            counted.
        anything: a function without a signature, as some builtins are, is one that takes anything.

    Raises:
        DefinitionError: it has no signature.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        skip: Callable[[Any], bool] | None = None,
        *,
        anything: bool = False,
    ) -> None:
        self.function = function
        self.name: str = getattr(function, "__qualname__", class_of(function).__qualname__)
        try:
            self._signature = inspect.signature(function)
        except (TypeError, ValueError) as error:
            if not anything:
                raise DefinitionError(f"{self.name} has no signature to read: {error}") from error
            self._signature = _ANYTHING
        self.takes_any = bool(self._signature.parameters)
        self._skip = skip
        self._namespace = _enclosing_names(function)
        self._resolved: _Plan | None = None

    @property
    def injected(self) -> tuple[str, ...]:
        """The names of the parameters that the caller of the function fills in itself."""
        return self._plan().injected

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the parameters that the caller of the function gives."""
        return tuple(self._plan().parameters)

    def needed(self) -> tuple[str, ...]:
        """Return the names of those that have no default."""
        parameters = self._plan().parameters
        return tuple(name for name, one in parameters.items() if one.default is _EMPTY)

    def injected_annotations(self) -> list[Any]:
        """Return the annotations of the parameters that are injected; builds no shapes.

        Raises:
            DefinitionError: an annotation names something that does not exist (yet).
        """
        skip = self._skip
        if skip is None:
            return []
        hints = self._hints()
        named = (hints.get(name, _EMPTY) for name in self._signature.parameters)
        return [hint for hint in named if hint is not _EMPTY and skip(hint)]

    def takes(self, name: str) -> bool:
        """Tell whether a parameter of this name takes one argument, or is injected."""
        parameter = self._signature.parameters.get(name)
        return parameter is not None and parameter.kind not in _VARIADIC

    def only(self) -> str | None:
        """Return the first parameter, where the function can be called with that alone by name.

        Raises:
            DefinitionError: an annotation names something that does not exist (yet).
        """
        plan = self._plan()
        first, *others = plan.parameters or ("",)
        if first not in plan.keywords:
            return None
        return None if any(plan.parameters[name].default is _EMPTY for name in others) else first

    @property
    def result(self) -> Schema[Any]:
        """The schema of the function's return annotation; of any value without one.

        A class returns its instances, whatever its ``__init__`` is annotated with.
        """
        return schema(self._plan().result)

    # ---- to bytes and back ----------------------------------------------------------------

    def encode(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bytes:
        """Return a call's arguments as bytes; those at their default are left out.

        Raises:
            InvalidValue: they do not fit the signature or an annotation.
        """
        plan = self._plan()
        if not (args or kwargs or plan.parameters):
            return _NOTHING
        bound, rest, others = self._bind(plan, args, kwargs)
        dumped: dict[str, Any] = {}
        name = ""
        try:
            for name, value in bound.items():
                parameter = plan.parameters[name]
                if value is parameter.default:
                    continue
                dumped[name] = form = parameter.shape.dump(value, 0)
                if (
                    parameter.stored_default is not None
                    and encode(form) == parameter.stored_default
                ):
                    del dumped[name]
            if rest and plan.rest is not None:
                name = _ARGS
                dumped[_ARGS] = plan.rest.dump(rest, 0)
            if others and plan.others is not None:
                name = _KWARGS
                dumped[_KWARGS] = plan.others.dump(others, 0)
            return encode(dumped)
        except Refused as refused:
            raise self._invalid(refused, name) from refused.__cause__
        except (UnicodeEncodeError, ValueError) as error:
            raise invalid(explain(dumped), f"{self.name}() got") from error
        except RecursionError as error:
            raise self._invalid(too_deep(None), name) from error

    def decode(self, data: bytes) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return stored arguments, checked again, ready to call the function with.

        Everything that can be passed by name is in the second part; injected parameters are in
        neither (see ``inject``). A parameter that is not stored takes the function's default.

        Raises:
            InvalidValue: they do not fit the signature or an annotation, any more.
        """
        plan = self._plan()
        if data == _NOTHING and not plan.parameters:
            return (), {}
        return self._ready(plan, *self._load(plan, self._stored(data)))

    def decode_named(self, named: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return what somebody wrote as JSON by name, as :meth:`decode` does what was stored.

        Args:
            named: values that JSON has; a name that no parameter has is one of ``**kwargs``.

        Raises:
            InvalidValue: they do not fit the signature or an annotation.
        """
        plan = self._plan()
        stored = {name: value for name, value in named.items() if name in plan.parameters}
        others = {name: value for name, value in named.items() if name not in plan.parameters}
        if others and plan.others is None:
            self._refuse_name(plan, next(iter(others)))
        if others:
            stored[_KWARGS] = others
        return self._ready(plan, *self._load(plan, stored))

    def named(self, data: bytes) -> dict[str, Any]:
        """Return stored arguments by the names of their parameters, to be looked at.

        Those of ``*args`` are a tuple under its name; those of ``**kwargs`` stand beside the rest.

        Raises:
            InvalidValue: they do not fit the signature or an annotation, any more.
        """
        bound, rest, others = self._load(self._plan(), self._stored(data))
        if rest:
            bound[self._variadic(inspect.Parameter.VAR_POSITIONAL)] = rest
        return {**bound, **others}

    def changed(self, data: bytes, changes: Mapping[str, Any]) -> bytes:
        """Return stored arguments with others in the place of those of these names.

        Raises:
            InvalidValue: they do not fit the signature or an annotation.
        """
        plan = self._plan()
        bound, rest, others = self._load(plan, self._stored(data))
        for name, value in changes.items():
            if name in plan.parameters:
                bound[name] = value
            elif plan.others is not None:
                others[name] = value
            else:
                self._refuse_name(plan, name)
        return self.encode(*self._ready(plan, bound, rest, others))

    def filled(self, data: bytes) -> dict[str, Any]:
        """Return stored arguments as :meth:`named` does, and the defaults of those not stored.

        Raises:
            InvalidValue: they do not fit the signature or an annotation, any more.
        """
        named = self.named(data)
        defaults = {
            name: parameter.default
            for name, parameter in self._plan().parameters.items()
            if parameter.default is not _EMPTY
        }
        return {**defaults, **named}

    def inject(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], value: Any
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return decoded arguments with ``value`` in the place of every injected parameter."""
        plan = self._plan()
        remaining = list(args)
        placed: list[Any] = []
        named = dict(kwargs)
        for name, parameter in self._signature.parameters.items():
            by_place = parameter.kind is parameter.POSITIONAL_ONLY or (
                parameter.kind in _POSITIONAL and bool(remaining)
            )
            if name in plan.injected:
                if by_place:
                    placed.append(value)
                else:
                    named[name] = value
            elif by_place and remaining and name not in named:
                placed.append(remaining.pop(0))
        return (*placed, *remaining), named

    # ---- fingerprints ---------------------------------------------------------------------

    def fingerprint(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[bytes, str]:
        """Return the fingerprint of a call and its arguments as text.

        The call is bound first, so that it does not matter whether an argument is passed by
        place, by name, or spelled out although it is the default.

        Raises:
            InvalidValue: the arguments do not fit the signature.
        """
        plan = self._plan()
        bound, rest, others = self._bind(plan, args, kwargs)
        counted = {
            name: value
            for name, value in bound.items()
            if not _counts_as_default(value, plan.parameters[name])
        }
        if not rest and not others:
            # One encoder call an argument, and the text is what is hashed: 1.9 us for two of
            # them instead of 4.
            parts: list[str] = []
            try:
                for name in sorted(counted):
                    value = counted[name]
                    if class_of(value) not in FAST:
                        break
                    parts.append(f"{name}={encode(value).decode()}")
                else:
                    text = ",".join(parts)
                    data = text.encode()
                    if len(data) <= MOST_TEXT:
                        return blake2b(SCHEME + data, digest_size=16).digest(), text
            except (UnicodeEncodeError, ValueError):
                pass
        if rest:
            counted[_ARGS] = rest
        if others:
            counted[_KWARGS] = others
        return fingerprint_of([], counted)

    # ---- stages ---------------------------------------------------------------------------

    def _bind(
        self, plan: _Plan, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[dict[str, Any], tuple[Any, ...], dict[str, Any]]:
        """Give each argument its parameter as Python does, in a fifth of Signature.bind's time."""
        places = len(plan.positional)
        if len(args) > places and plan.rest is None:
            raise InvalidValue(
                f"{self.name}() takes {places} positional argument{'s' * (places != 1)}, "
                f"got {len(args)}; {self._usage(plan)}"
            )
        bound = dict(zip(plan.positional, args, strict=False))
        others: dict[str, Any] = {}
        for name, value in kwargs.items():
            if name in plan.keywords:
                if name in bound:
                    raise InvalidValue(f"{self.name}() got {name!r} twice", path=f"$.{name}")
                bound[name] = value
            elif plan.others is not None:
                others[name] = value
            else:
                self._refuse_name(plan, name)
        if len(bound) != len(plan.parameters):
            self._check_missing(plan, bound)
        return bound, args[places:], others

    def _check_missing(self, plan: _Plan, bound: Mapping[str, Any]) -> None:
        missing = [
            name
            for name, parameter in plan.parameters.items()
            if name not in bound and parameter.default is _EMPTY
        ]
        if missing:
            names = ", ".join(repr(name) for name in missing)
            raise InvalidValue(
                f"{self.name}() is missing {names}; {self._usage(plan)}", path=f"$.{missing[0]}"
            )

    def _refuse_name(self, plan: _Plan, name: str) -> typing.NoReturn:
        close = late.difflib.get_close_matches(name, plan.keywords, 1)
        hint = f"did you mean {close[0]!r}?" if close else self._usage(plan)
        raise InvalidValue(
            f"{self.name}() has no parameter {name!r}; {hint}",
            path=Refused("", "").at_key(name).path(),
        )

    def _usage(self, plan: _Plan) -> str:
        names = ", ".join(plan.parameters)
        return f"its parameters are ({names})" if names else "it takes none"

    def _stored(self, data: bytes) -> dict[str, Any]:
        try:
            stored: Any = msgspec.json.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InvalidValue(f"{self.name}() got arguments that are no JSON: {error}") from error
        if class_of(stored) is not dict:
            raise InvalidValue(f"{self.name}() got {kind_of(stored)} where arguments were expected")
        arguments: dict[str, Any] = stored
        return arguments

    def _load(
        self, plan: _Plan, stored: dict[str, Any]
    ) -> tuple[dict[str, Any], tuple[Any, ...], dict[str, Any]]:
        bound: dict[str, Any] = {}
        rest: tuple[Any, ...] = ()
        others: dict[str, Any] = {}
        name = ""
        try:
            for name, data in stored.items():
                if name in plan.parameters:
                    bound[name] = plan.parameters[name].shape.load(data)
                elif name == _ARGS and plan.rest is not None:
                    rest = plan.rest.load(data)
                elif name == _KWARGS and plan.others is not None:
                    others = plan.others.load(data)
                else:
                    self._refuse_name(plan, name)
        except Refused as refused:
            raise self._invalid(refused, name) from refused.__cause__
        except RecursionError as error:
            raise self._invalid(too_deep(None), name) from error
        self._check_missing(plan, bound)
        return bound, rest, others

    def _ready(
        self, plan: _Plan, bound: dict[str, Any], rest: tuple[Any, ...], others: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Divide bound arguments into those that must go by place and those by name."""
        by_place = [
            name
            for name in plan.positional
            if rest or plan.parameters[name].kind is inspect.Parameter.POSITIONAL_ONLY
        ]
        while by_place and by_place[-1] not in bound and not rest:
            by_place.pop()
        placed = [bound.pop(name, plan.parameters[name].default) for name in by_place]
        return (*placed, *rest), {**bound, **others}

    def _invalid(self, refused: Refused, name: str) -> InvalidValue:
        if name == _ARGS:
            refused.at_key(self._variadic(inspect.Parameter.VAR_POSITIONAL))
        elif name != _KWARGS:
            refused.at_key(name)
        return invalid(refused, f"{self.name}() got")

    def _variadic(self, kind: Any) -> str:
        return next(p.name for p in self._signature.parameters.values() if p.kind is kind)

    # ---- resolving annotations --------------------------------------------------------------

    def _plan(self) -> _Plan:
        if self._resolved is None:
            self._resolved = self._resolve()
            self._namespace = None
        return self._resolved

    def _resolve(self) -> _Plan:
        hints = self._hints()
        parameters: dict[str, _Parameter] = {}
        injected: list[str] = []
        variadic: dict[Any, Shape] = {}
        for name, parameter in self._signature.parameters.items():
            annotation = hints.get(name, _EMPTY)
            if annotation is not _EMPTY and self._skip is not None and self._skip(annotation):
                injected.append(name)
                continue
            shape = self._shape(name, parameter, annotation)
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                variadic[parameter.kind] = shape
            else:
                parameters[name] = _stored(parameter, shape)
        return _Plan(
            parameters=parameters,
            positional=tuple(n for n, p in parameters.items() if p.kind in _POSITIONAL),
            keywords=frozenset(
                n for n, p in parameters.items() if p.kind is not inspect.Parameter.POSITIONAL_ONLY
            ),
            injected=tuple(injected),
            rest=variadic.get(inspect.Parameter.VAR_POSITIONAL),
            others=variadic.get(inspect.Parameter.VAR_KEYWORD),
            result=_made_by(self.function) or hints.get("return", _EMPTY),
        )

    def _shape(self, name: str, parameter: inspect.Parameter, annotation: Any) -> Shape:
        given: Any = Any if annotation is _EMPTY else annotation
        if parameter.kind is parameter.VAR_POSITIONAL:
            given = tuple[given, ...]
        elif parameter.kind is parameter.VAR_KEYWORD:
            unpacked = typing.get_origin(given) is typing.Unpack
            given = typing.get_args(given)[0] if unpacked else dict[str, given]
        try:
            return build_shape(given)[0]
        except Unresolved:
            raise
        except DefinitionError as error:
            raise DefinitionError(f"parameter {name!r} of {self.name}(): {error}") from error

    def _hints(self) -> dict[str, Any]:
        try:
            return typing.get_type_hints(
                _annotated(self.function), localns=self._namespace, include_extras=True
            )
        except NameError as error:
            raise Unresolved(
                f"an annotation of {self.name}() is not defined: {error}; "
                "declare or import the class at the top of the module (not under TYPE_CHECKING)"
            ) from error


def _made_by(function: Any) -> type | None:
    while isinstance(function, partial):
        function = function.func
    return function if isinstance(function, type) else None


def _stored(parameter: inspect.Parameter, shape: Shape) -> _Parameter:
    stored = counted = None
    if parameter.default is not _EMPTY:
        counted = _counted(parameter.default)
        # A default need not fit the annotation (`x: int = None`); then it is left out only when
        # the very same object is passed.
        with suppress(Refused, UnicodeEncodeError, ValueError):
            stored = encode(shape.dump(parameter.default, 0))
    return _Parameter(parameter.kind, parameter.default, stored, counted, shape)


def _counts_as_default(value: Any, parameter: _Parameter) -> bool:
    default = parameter.default
    if value is default:
        return True
    cls = class_of(value)
    if cls is not class_of(default):
        return False
    return value == default if cls in FAST else _counted(value) == parameter.counted_default


def _counted(value: Any) -> bytes:
    return canonical_bytes(canonical(value))


def _annotated(function: Any) -> Any:
    """The object that carries the annotations of a callable."""
    while hasattr(function, "func") and hasattr(function, "keywords"):  # functools.partial
        function = function.func
    function = inspect.unwrap(function)
    if inspect.isroutine(function):
        return function
    owner: Any = function if isinstance(function, type) else class_of(function)
    return owner.__init__ if owner is function else owner.__call__


def _enclosing_names(function: Any) -> dict[str, Any] | None:
    """The names around a function that is defined in another one and has textual annotations.

    ``from __future__ import annotations`` makes all annotations text, and a class declared in
    the enclosing function (a test's model) is in no module.
    """
    target = _annotated(function)
    enclosing, _, inner = getattr(target, "__qualname__", "").rpartition(".<locals>.")
    hints = getattr(target, "__annotations__", {})
    if not inner or not any(isinstance(hint, str) for hint in hints.values()):
        return None
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_code.co_qualname == enclosing:
            return dict(frame.f_locals)
        frame = frame.f_back
    return None
