"""A plugin may go on with another attempt: within a call (a hedge), or where a stream broke."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from junctor import ErrorKind, Exchange, ProviderError, Response, Stream, Target, hookimpl
from junctor.openai_events import OpenAIReader
from junctor.plugins import first
from junctor.stream import Continuation
from junctor.testing import FakeProvider, Recorder

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from typing import Any


def event(text: str, finish: str = "null") -> bytes:
    return b'data: {"choices":[{"delta":{"content":"%b"},"finish_reason":%b}]}\n\n' % (text.encode(), finish.encode())


async def broken() -> AsyncIterator[bytes]:
    yield event("one ")
    yield event("two ")
    raise ProviderError("reset", kind=ErrorKind.CONNECTION)


async def rest() -> AsyncIterator[bytes]:
    yield event("three", '"stop"')


async def nothing() -> None:
    pass


async def test_a_broken_stream_goes_on_with_what_its_rescuer_gives() -> None:
    closed: list[str] = []

    async def close_first() -> None:
        closed.append("first")

    async def rescue(error: ProviderError) -> Continuation:
        assert error.kind is ErrorKind.CONNECTION
        return Continuation(rest(), OpenAIReader(), nothing)

    stream = Stream(broken(), OpenAIReader(), close=close_first)
    stream.on_break(rescue)
    pieces = [piece async for piece in stream]
    assert pieces == [event("one "), event("two "), event("three", '"stop"'), b"data: [DONE]\n\n"]
    assert stream.exhausted
    assert closed == ["first"]


async def test_a_rescuer_that_declines_leaves_the_error_and_is_asked_once() -> None:
    asked: list[ProviderError] = []

    async def decline(error: ProviderError) -> None:
        asked.append(error)

    stream = Stream(broken(), OpenAIReader())
    stream.on_break(decline)
    with pytest.raises(ProviderError, match="reset"):
        [piece async for piece in stream]
    assert len(asked) == 1


async def test_a_continuation_that_breaks_as_well_is_an_error() -> None:
    async def rescue(error: ProviderError) -> Continuation:
        return Continuation(broken(), OpenAIReader(), nothing)

    stream = Stream(broken(), OpenAIReader())
    stream.on_break(rescue)
    with pytest.raises(ProviderError, match="reset"):
        [piece async for piece in stream]


async def test_a_connection_that_breaks_after_the_end_marker_spoils_nothing() -> None:
    async def source() -> AsyncIterator[bytes]:
        yield event("all", '"stop"') + b"data: [DONE]\n\n"
        raise ProviderError("reset", kind=ErrorKind.CONNECTION)

    stream = Stream(source(), OpenAIReader())
    assert [piece async for piece in stream] == [event("all", '"stop"'), b"data: [DONE]\n\n"]
    assert stream.exhausted


async def test_an_event_that_is_cut_short_is_not_relayed() -> None:
    async def source() -> AsyncIterator[bytes]:
        yield event("one ")
        yield event("two ") + b'data: {"choices":[{"delta":{"content":"thr\n\n'

    with pytest.raises(ProviderError, match="not JSON"):
        [piece async for piece in Stream(source(), OpenAIReader())]


async def test_what_reads_ahead_sees_the_providers_bytes() -> None:
    seen: list[bytes] = []

    async def note(source: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for data in source:
            seen.append(data)
            yield data

    stream = Stream(rest(), OpenAIReader())
    stream.read_ahead(note)
    assert len([piece async for piece in stream]) == 2
    assert seen == [event("three", '"stop"')]


class Hedger:
    """Calls the first target slowly and the second one beside it; answers with whichever is asked for."""

    def __init__(self, gateway: Any) -> None:
        self.gateway = gateway

    @hookimpl
    async def call(self, exchange: Exchange, target: Target) -> Response:
        main = asyncio.create_task(first(self.gateway.steps_after(self), exchange, target))
        try:
            return await self.gateway.attempt(exchange, exchange.targets[1], after=self, of="hedge")
        finally:
            main.cancel()


class Slow(FakeProvider):
    @hookimpl
    async def call(self, exchange: Exchange, target: Target) -> Response:
        if target.model == "one":
            await asyncio.sleep(5)
        return await super().call(exchange, target)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_hedge_that_wins_is_the_attempt_that_answered(gateway: Any, stream: bool) -> None:
    recorder = Recorder()

    class Bound(Hedger):
        def __init__(self, settings: object, gateway: Any) -> None:
            super().__init__(gateway)

    async with gateway(Bound, Slow("hi", script=[None]), recorder) as g:
        answer = await g.chat(stream=stream)
    assert answer.headers["x-junctor-target"] == "fake/two"
    main, hedge = recorder.last.attempts
    assert (main.abandoned, main.usage, main.first_byte) == (True, None, 0)
    assert (hedge.of, hedge.abandoned, hedge.error) == ("hedge", False, None)
    assert hedge.usage is not None
    assert hedge.ended
