"""From an annotation to the shape of its values."""

from __future__ import annotations

import collections
import collections.abc
import dataclasses
import types
import typing
from collections.abc import Callable
from enum import Enum
from typing import Any

import msgspec

from perdure.errors import DefinitionError

from ._classes import DictRecord, Field, ObjectRecord, TupleRecord
from ._pydantic import PydanticShape, is_pydantic, marks_pydantic
from ._refusal import class_of
from ._shapes import (
    Checked,
    DictShape,
    EnumShape,
    FloatShape,
    IntShape,
    ItemsShape,
    Later,
    LiteralShape,
    PlainShape,
    ScalarShape,
    Shape,
    TupleShape,
    UntypedShape,
    checks_of,
)
from ._unions import UnionShape
from ._untyped import SCALARS, TAG

__all__ = ["Builder"]

Env = dict[Any, Any]

# An abstract collection is the union of the builtin ones it stands for, so that a tuple returned
# where Sequence is declared comes back as a tuple.
_ABSTRACT: dict[Any, tuple[type, ...]] = {
    collections.abc.Sequence: (list, tuple),
    collections.abc.MutableSequence: (list,),
    collections.abc.Collection: (list, tuple, set, frozenset),
    collections.abc.Iterable: (list, tuple, set, frozenset),
    collections.abc.Reversible: (list, tuple),
    collections.abc.Set: (set, frozenset),
    collections.abc.MutableSet: (set,),
}
_MAPPINGS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)
_WRAPPER_NAMES = ("Required", "NotRequired", "ReadOnly", "Final")


class Builder:
    """Builds the shape of one annotation; knows the classes it is in the middle of.

    Args:
        equal: tells whether two values are the same in type and value.
    """

    def __init__(self, equal: Callable[[Any, Any], bool]) -> None:
        self._equal = equal
        self._records: dict[Any, Shape] = {}
        self._aliases: dict[Any, Later] = {}
        self.uses_pydantic = False

    def build(self, annotation: Any, env: Env | None = None) -> Shape:
        """Return the shape.

        Args:
            annotation: an evaluated annotation.
            env: what type variables stand for.

        Raises:
            DefinitionError: no value of it can be stored.
            NameError: it names a class that does not exist yet.
        """
        env = {} if env is None else env
        simple = self._simple(annotation)
        if simple is not None:
            return simple
        if isinstance(annotation, (str, typing.ForwardRef)):
            raise NameError(f"{annotation!r} is a name, not a type")  # noqa: TRY004 -- NameError: resolved later
        if getattr(annotation, "__unpacked__", False):
            raise _unstorable(annotation)
        if isinstance(annotation, typing.TypeVar):
            return self._variable(annotation, env)
        origin = typing.get_origin(annotation)
        if origin is not None:
            return self._generic(annotation, origin, typing.get_args(annotation), env)
        if supertype := getattr(annotation, "__supertype__", None):
            return self.build(supertype, env)
        if hasattr(annotation, "__value__"):
            return self._alias(annotation, annotation.__value__, env)
        if isinstance(annotation, type):
            return self._class(annotation, (), env)
        raise _unstorable(annotation)

    # ---- leaves --------------------------------------------------------------------------

    def _simple(self, annotation: Any) -> Shape | None:
        if annotation is None or annotation is type(None):
            return PlainShape(type(None))
        if annotation is Any or annotation is object:
            return UntypedShape()
        if annotation is typing.NoReturn or annotation is typing.Never:
            return UntypedShape()
        if annotation is typing.LiteralString:
            return PlainShape(str)
        if annotation is str or annotation is bool:
            return PlainShape(annotation)
        if annotation is int:
            return IntShape()
        if annotation is float:
            return FloatShape()
        if isinstance(annotation, type) and annotation in SCALARS:
            return ScalarShape(annotation)
        return None

    def _variable(self, variable: Any, env: Env) -> Shape:
        if variable in env:
            return self.build(env[variable], {})
        if variable.__constraints__:
            return self._union(variable.__constraints__, env)
        return self.build(variable.__bound__ or Any, env)

    def _alias(self, alias: Any, value: Any, env: Env) -> Shape:
        key = (alias, tuple(env.items()))
        if key not in self._aliases:
            later = self._aliases[key] = Later(getattr(alias, "__name__", str(alias)))
            later.shape = self.build(value, env)
            return later.shape
        return self._aliases[key].shape or self._aliases[key]

    # ---- what has arguments --------------------------------------------------------------

    def _generic(self, annotation: Any, origin: Any, args: tuple[Any, ...], env: Env) -> Shape:
        if origin is typing.Annotated:
            return self._annotated(annotation, args[0], annotation.__metadata__, env)
        if origin in (typing.Union, types.UnionType):
            return self._union(args, env, annotation)
        if origin is typing.Literal:
            return LiteralShape(args, self.build)
        if getattr(origin, "_name", None) in _WRAPPER_NAMES:
            return self.build(args[0], env)
        if hasattr(origin, "__value__"):
            inner = dict(zip(origin.__type_params__, (_filled(a, env) for a in args), strict=False))
            return self._alias(annotation, origin.__value__, inner)
        if is_pydantic(annotation) or is_pydantic(origin):
            return self._pydantic(annotation)
        if origin is tuple and not args and annotation is not typing.Tuple:  # noqa: UP006 -- the bare alias
            return TupleShape(())
        if not isinstance(origin, type):
            raise _unstorable(annotation)
        return self._class(origin, tuple(_filled(arg, env) for arg in args), env)

    def _annotated(self, annotation: Any, inner: Any, metadata: Any, env: Env) -> Shape:
        if marks_pydantic(metadata):
            return self._pydantic(annotation)
        shape = self.build(inner, env)
        checks = [
            check
            for item in metadata
            if isinstance(item, msgspec.Meta)
            for check in checks_of(item)
        ]
        return Checked(shape, checks) if checks else shape

    def _union(self, args: tuple[Any, ...], env: Env, annotation: Any = None) -> Shape:
        members: dict[str, Shape] = {}
        for arg in args:
            if arg is msgspec.UnsetType:
                continue
            for shape in self._members(arg, env):
                if isinstance(shape, UntypedShape):
                    return shape
                if isinstance(shape, PydanticShape) and shape.takes is None and annotation:
                    # Pydantic's own types have no class to go by; it then decides for all.
                    return self._pydantic(annotation)
                _add_member(members, shape)
        return self._one_of(_without_needless_literals(list(members.values())))

    def _one_of(self, shapes: list[Shape]) -> Shape:
        return shapes[0] if len(shapes) == 1 else UnionShape(shapes, self._equal)

    def _members(self, arg: Any, env: Env) -> list[Shape]:
        shape = self.build(arg, env)
        return shape.members if isinstance(shape, UnionShape) else [shape]

    # ---- classes -------------------------------------------------------------------------

    def _class(self, cls: Any, args: tuple[Any, ...], env: Env) -> Shape:
        if cls in _ABSTRACT:
            item = self.build(args[0] if args else Any, env)
            return self._one_of([ItemsShape(builtin, item) for builtin in _ABSTRACT[cls]])
        if cls is tuple:
            return self._tuple(args, env)
        if cls in (list, set, frozenset):
            return ItemsShape(cls, self.build(args[0] if args else Any, env))
        if cls in _MAPPINGS:
            key, item = args or (Any, Any)
            if key is Any and item is Any:
                return _UntypedDict()
            return DictShape(self.build(key, env), self.build(item, env))
        if is_pydantic(cls):
            return self._pydantic(cls)
        if issubclass(cls, Enum):
            return EnumShape(cls)
        build = _record_builder(cls)
        if build is None:
            raise _unstorable(cls)
        key = (cls, args)
        if key not in self._records:
            build(self, cls, args)
        return self._records[key]

    def _tuple(self, args: tuple[Any, ...], env: Env) -> Shape:
        if not args:
            return ItemsShape(tuple, UntypedShape())
        if len(args) == 2 and args[1] is Ellipsis:
            return ItemsShape(tuple, self.build(args[0], env))
        return TupleShape(tuple(self.build(arg, env) for arg in args))

    def _pydantic(self, annotation: Any) -> Shape:
        self.uses_pydantic = True
        return PydanticShape(annotation, _label(annotation))

    # ---- records -------------------------------------------------------------------------

    def dataclass(self, cls: Any, args: tuple[Any, ...]) -> None:
        """Add the record of a dataclass."""
        if "__dataclass_fields__" not in vars(cls):
            raise DefinitionError(
                f"{cls.__qualname__} inherits from a dataclass but is none itself; "
                "decorate it with @dataclass"
            )
        record = ObjectRecord(cls, _class_label(cls, args))
        self._records[cls, args] = record
        hints, env = _hints(cls), _variables(cls, args)
        listed = dataclasses.fields(cls)
        record.complete(
            tuple(
                Field(f.name, f.name, self._field(cls, f.name, hints[f.name], env), _must(f))
                for f in listed
            )
        )
        record.make = _dataclass_maker(cls, listed)

    def struct(self, cls: Any, args: tuple[Any, ...]) -> None:
        """Add the record of a msgspec Struct."""
        config: Any = cls.__struct_config__
        tag = None if config.tag is None else (config.tag_field, config.tag)
        record = ObjectRecord(
            cls, _class_label(cls, args), tag, closed=config.forbid_unknown_fields
        )
        self._records[cls, args] = record
        hints, env = _hints(cls), _variables(cls, args)
        listed = msgspec.structs.fields(cls)
        for info in listed:
            if info.encode_name == TAG:
                raise DefinitionError(f'a field of {cls.__qualname__} must not be named "{TAG}"')
        record.complete(
            tuple(
                Field(
                    info.name,
                    info.encode_name,
                    self._field(cls, info.name, hints[info.name], env),
                    info.required,
                )
                for info in listed
            )
        )
        if hasattr(cls, "__post_init__"):
            record.make = _forced(cls, frozenset(), msgspec.structs.force_setattr)

    def typed_dict(self, cls: Any, args: tuple[Any, ...]) -> None:
        """Add the record of a TypedDict."""
        record = DictRecord(
            cls, _class_label(cls, args), closed=bool(getattr(cls, "__closed__", False))
        )
        self._records[cls, args] = record
        hints, env = _hints(cls), _variables(cls, args)
        if TAG in hints:
            raise DefinitionError(f'a key of {cls.__qualname__} must not be "{TAG}"')
        record.complete(
            tuple(
                Field(
                    name,
                    name,
                    self._field(cls, name, hint, env),
                    _required_key(cls, name, hint),
                )
                for name, hint in hints.items()
            )
        )

    def named_tuple(self, cls: Any, args: tuple[Any, ...]) -> None:
        """Add the record of a NamedTuple."""
        record = TupleRecord(cls, _class_label(cls, args))
        self._records[cls, args] = record
        hints, env = _hints(cls), _variables(cls, args)
        record.complete(
            tuple(
                Field(
                    name,
                    name,
                    self._field(cls, name, hints.get(name, Any), env),
                    name not in cls._field_defaults,
                    cls._field_defaults.get(name),
                )
                for name in cls._fields
            )
        )

    def _field(self, cls: Any, name: str, hint: Any, env: Env) -> Shape:
        try:
            return self.build(hint, env)
        except DefinitionError as error:
            raise DefinitionError(f"{cls.__qualname__}.{name}: {error}") from error


class _UntypedDict(UntypedShape):
    """A bare ``dict``: any dict, by value."""

    label = "dict"
    kinds = frozenset({dict})
    takes = frozenset({dict})
    atoms = frozenset()

    def dump(self, value: Any, depth: int, /) -> Any:
        if class_of(value) is not dict:
            raise self.refusal(value)
        return super().dump(value, depth)

    def load(self, data: Any, /) -> Any:
        loaded = super().load(data) if class_of(data) is dict else data
        if class_of(loaded) is not dict:
            raise self.unfit(data)
        return loaded


def _record_builder(cls: Any) -> Callable[[Builder, Any, tuple[Any, ...]], None] | None:
    if hasattr(cls, "__struct_fields__"):
        return Builder.struct
    if dataclasses.is_dataclass(cls):
        return Builder.dataclass
    if typing.is_typeddict(cls):
        return Builder.typed_dict
    if issubclass(cls, tuple) and hasattr(cls, "_fields"):  # pyright: ignore[reportUnknownArgumentType]
        return Builder.named_tuple
    return None


def _must(field: dataclasses.Field[Any]) -> bool:
    missing = dataclasses.MISSING
    return field.init and field.default is missing and field.default_factory is missing


def _required_key(cls: Any, name: str, hint: Any) -> bool:
    # With textual annotations __required_keys__ knows nothing of these wrappers.
    while (origin := typing.get_origin(hint)) is not None:
        if origin in (typing.Required, typing.NotRequired):
            return origin is typing.Required
        if getattr(origin, "_name", None) not in _WRAPPER_NAMES:
            break
        hint = typing.get_args(hint)[0]
    return name in cls.__required_keys__


def _dataclass_maker(
    cls: Any, fields: tuple[dataclasses.Field[Any], ...]
) -> Callable[[dict[str, Any]], Any]:
    params: Any = cls.__dataclass_params__
    generated = params.init and "__init__" in vars(cls)
    declared: dict[str, Any] = cls.__dataclass_fields__
    variables = {
        name
        for name, field in declared.items()
        if getattr(field, "_field_type", None) is getattr(dataclasses, "_FIELD_INITVAR", 0)
        and field.default is dataclasses.MISSING
    }
    if not generated or variables:
        return _bare_maker(cls, fields)
    skipped = frozenset(field.name for field in fields if not field.init)
    if skipped or hasattr(cls, "__post_init__"):
        return _forced(cls, skipped, object.__setattr__)
    return lambda values: cls(**values)


def _bare_maker(
    cls: Any, fields: tuple[dataclasses.Field[Any], ...]
) -> Callable[[dict[str, Any]], Any]:
    """Make instances of a class whose __init__ takes something else than its fields."""

    def make(values: dict[str, Any]) -> Any:
        made = object.__new__(cls)
        for field in fields:
            if field.name in values:
                object.__setattr__(made, field.name, values[field.name])
            elif field.default is not dataclasses.MISSING:
                object.__setattr__(made, field.name, field.default)
            elif field.default_factory is not dataclasses.MISSING:
                object.__setattr__(made, field.name, field.default_factory())
        return made

    return make


def _forced(
    cls: Any, skipped: frozenset[str], set_field: Callable[[Any, str, Any], None]
) -> Callable[[dict[str, Any]], Any]:
    """Make instances through __init__, so that its checks run, then set what was stored.

    A ``__post_init__`` that changes fields has done so already when the value was stored; done
    twice, a replay would see another value.
    """

    def make(values: dict[str, Any]) -> Any:
        made = cls(**{k: v for k, v in values.items() if k not in skipped})
        for name, value in values.items():
            set_field(made, name, value)
        return made

    return make


# ---- unions: the members ------------------------------------------------------------------------


def _add_member(members: dict[str, Shape], shape: Shape) -> None:
    known = members.get(shape.label)
    if known is None:
        members[shape.label] = shape
    elif known.exact != shape.exact:
        raise DefinitionError(
            f"two members of a union are called {shape.label}; rename one of the classes, "
            "because stored values are told apart by that name"
        )


def _without_needless_literals(shapes: list[Shape]) -> list[Shape]:
    """Leave out Literals beside their own type: ``Literal["auto"] | str`` is ``str``."""
    plain = {shape.cls for shape in shapes if isinstance(shape, PlainShape)}
    return [
        shape
        for shape in shapes
        if not (isinstance(shape, LiteralShape) and (shape.takes or set()) <= plain)
    ]


# ---- reading classes ----------------------------------------------------------------------------


def _hints(cls: Any) -> dict[str, Any]:
    return typing.get_type_hints(cls, localns={cls.__name__: cls}, include_extras=True)


def _variables(cls: Any, args: tuple[Any, ...]) -> Env:
    """What the type variables of a generic class and of its generic bases stand for."""
    env: Env = dict(zip(getattr(cls, "__parameters__", ()), args, strict=False))
    for base in getattr(cls, "__orig_bases__", ()):
        origin = typing.get_origin(base)
        if origin is None or origin in (typing.Generic, typing.Protocol):
            continue
        inherited = _variables(origin, tuple(_filled(arg, env) for arg in typing.get_args(base)))
        for variable, meaning in inherited.items():
            if env.setdefault(variable, meaning) != meaning:
                raise DefinitionError(
                    f"{cls.__qualname__} and its base {origin.__qualname__} use {variable} for "
                    "two types; use two type variables"
                )
    return env


def _filled(annotation: Any, env: Env) -> Any:
    """Return an annotation with its type variables replaced."""
    if isinstance(annotation, typing.TypeVar):
        return env.get(annotation, annotation)
    parameters: tuple[Any, ...] = getattr(annotation, "__parameters__", ())
    if not parameters or isinstance(annotation, type):
        return annotation
    return annotation[tuple(env.get(parameter, parameter) for parameter in parameters)]


def _class_label(cls: Any, args: tuple[Any, ...]) -> str:
    return f"{cls.__name__}[{', '.join(map(_label, args))}]" if args else cls.__name__


def _label(annotation: Any) -> str:
    if isinstance(annotation, type) and not typing.get_args(annotation):
        return annotation.__name__
    return str(annotation).replace("typing.", "")


def _unstorable(annotation: Any) -> DefinitionError:
    return DefinitionError(
        f"values of {_label(annotation)} cannot be stored; use plain types, a dataclass, "
        "TypedDict, NamedTuple, Enum, msgspec.Struct or pydantic model"
    )
