"""Meta with a schema: checked when a call is accepted, decoded for the body."""

from dataclasses import dataclass
from typing import Any, NotRequired, TypedDict

import msgspec
import pytest
from pydantic import BaseModel

from perdure import App, Context
from perdure.errors import DefinitionError, InvalidValue, RunFailed, UsageError
from tests.engine.places import Place


class AsTypedDict(TypedDict):
    """A typed dictionary."""

    tenant: int
    note: NotRequired[str]


@dataclass
class AsDataclass:
    """A dataclass."""

    tenant: int


class AsModel(BaseModel):
    """A pydantic model."""

    tenant: int


class AsStruct(msgspec.Struct):
    """A msgspec struct."""

    tenant: int


@dataclass
class Optional:
    """A schema that a call need not fill."""

    tenant: int = 7


SCHEMAS: dict[str, tuple[Any, Any]] = {
    "TypedDict": (AsTypedDict, {"tenant": 3}),
    "dataclass": (AsDataclass, AsDataclass(3)),
    "pydantic": (AsModel, AsModel(tenant=3)),
    "msgspec": (AsStruct, AsStruct(3)),
}


@pytest.mark.parametrize("kind", SCHEMAS)
async def test_meta_is_what_its_schema_says(place: Place, kind: str):
    """A body finds a value of the schema's class, run durably and here and now."""
    annotation, given = SCHEMAS[kind]

    def define(app: App) -> Any:
        @app.workflow
        async def flow(ctx: Context[None, Any]) -> bool:
            return type(ctx.meta) is type(given) and ctx.meta == given

        return flow.options(meta=given)

    async with place.life(define, of_app={"meta": annotation}) as life:
        run = await life.flow.enqueue()
        assert await run.result(timeout="5s") is True
        assert (await run.history()).meta == given
        assert await life.flow.run() is True


@pytest.mark.parametrize("wrong", [{"tenant": "x"}, {}, {"tenant": 1, "more": 2}, None])
async def test_meta_that_does_not_fit_is_refused(place: Place, wrong: Any):
    """Nothing is stored of a call whose meta does not fit, or is missing."""

    def define(app: App) -> Any:
        @app.workflow
        async def flow(ctx: Context[None, AsTypedDict]) -> None: ...

        return flow

    async with place.life(define, of_app={"meta": AsTypedDict}) as life:
        with pytest.raises(InvalidValue, match="meta"):
            await life.flow.options(meta=wrong).enqueue()
        with pytest.raises(InvalidValue, match="meta"):
            await life.flow.options(meta=wrong).run()
        assert await life.app.runs() == []


async def test_a_missing_meta_is_named(place: Place):
    """Where a call gives none and must, the message says what to write."""

    def define(app: App) -> Any:
        @app.workflow
        async def flow() -> None: ...

        return flow

    async with place.life(define, of_app={"meta": AsDataclass}) as life:
        with pytest.raises(InvalidValue, match=r"\$\.tenant; .*options\(meta=AsDataclass\("):
            await life.flow.enqueue()


async def test_a_schema_with_defaults_needs_no_meta(place: Place):
    """A call without meta gives its body the schema's defaults."""

    def define(app: App) -> Any:
        @app.workflow
        async def flow(ctx: Context[None, Optional]) -> int:
            return ctx.meta.tenant

        return flow

    async with place.life(define, of_app={"meta": Optional}) as life:
        assert await (await life.flow.enqueue()).result(timeout="5s") == 7
        assert await life.flow.run() == 7


async def test_a_body_that_is_run_inline_has_the_meta_of_its_run(place: Place):
    """`run` inside a body hands the run's meta on, unless the call gives another."""

    def define(app: App) -> Any:
        @app.workflow
        async def inner(ctx: Context[None, AsTypedDict]) -> int:
            return ctx.meta["tenant"]

        @app.workflow
        async def flow() -> list[int]:
            return [await inner.run(), await inner.options(meta={"tenant": 8}).run()]

        return flow

    async with place.life(define, of_app={"meta": AsTypedDict}) as life:
        run = await life.flow.options(meta={"tenant": 3}).enqueue()
        assert await run.result(timeout="5s") == [3, 8]


async def test_meta_is_checked_where_no_body_asks_for_it():
    """A call that gives a wrong meta is refused, here and now as well."""
    app = App(meta=AsTypedDict)

    @app.workflow
    async def flow() -> None: ...

    await flow.run()
    with pytest.raises(InvalidValue, match="meta"):
        await flow.options(meta={"tenant": "x"}).run()


async def test_stored_meta_that_no_longer_fits_fails_the_run(place: Place):
    """Like an input of an older signature: failed for `invalid_input`."""

    def define(app: App) -> Any:
        @app.workflow
        async def flow(ctx: Context) -> None: ...

        return flow

    async with place.client(define) as client:
        run = await client.flow.options(meta={"tenant": "x"}).enqueue()
    async with place.life(define, of_app={"meta": AsTypedDict}) as life:
        with pytest.raises(RunFailed) as caught:
            await life.get(run).result(timeout="5s")
        assert (await life.get(run).history()).meta == {"tenant": "x"}
    assert caught.value.reason == "invalid_input"


async def test_meta_without_a_schema_is_a_mapping():
    """Anything else is refused, and so is a value that cannot be stored."""
    app = App()

    @app.workflow
    async def flow(ctx: Context) -> Any:
        return ctx.meta["a"]

    assert await flow.options(meta={"a": (1, 2)}).run() == (1, 2)
    with pytest.raises(UsageError, match="mapping of names"):
        flow.options(meta=[1])
    with pytest.raises(UsageError, match="mapping of names"):
        await flow.options(meta=object()).run()
    with pytest.raises(InvalidValue, match="meta"):
        await flow.options(meta={"a": object()}).run()


@pytest.mark.parametrize("given", [int, dict[str, int], "RequestMeta", AsTypedDict | None], ids=str)
def test_a_schema_of_meta_is_a_class_with_fields(given: Any):
    """What names no fields is refused where the app is made."""
    with pytest.raises(DefinitionError, match="a TypedDict, a dataclass"):
        App(meta=given)
