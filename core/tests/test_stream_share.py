from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from junctor import ProviderError, hookimpl
from junctor.openai_events import OpenAIReader
from junctor.stream import Stream
from junctor.testing import FakeProvider

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'
_END = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'


class _Listener:
    def __init__(self) -> None:
        self.begun = []
        self.events = []

    @hookimpl
    async def pre_route(self, exchange):
        exchange.on_answer.append(self._answer)

    def _answer(self, response):
        self.begun.append(response)
        if response.stream is not None:
            response.stream.share(self._through)

    async def _through(self, events):
        async for part in events:
            self.events.append(part)
            yield part


async def test_a_whole_answer_is_told_before_it_is_sent(gateway):
    listener = _Listener()
    async with gateway(listener, FakeProvider("four")) as g:
        await g.chat()
    assert [b"four" in response.body for response in listener.begun] == [True]


async def test_a_shared_stream_reaches_the_client_and_the_other_reader(gateway):
    listener = _Listener()
    async with gateway(listener, FakeProvider("one two")) as g:
        answer = await g.chat(stream=True)
    assert answer.text == "one two"
    assert b"".join([*listener.events, b"data: [DONE]\n\n"]) == answer.body


async def test_what_fails_is_not_told(gateway):
    listener = _Listener()
    async with gateway(listener, FakeProvider(script=[RuntimeError("boom")])) as g:
        assert (await g.chat()).status == 500
    assert listener.begun == []


async def test_silence_ends_the_task_that_reads_now_and_not_the_one_that_began():
    async def source() -> AsyncIterator[bytes]:
        yield _EVENT
        yield _EVENT
        await asyncio.sleep(60)
        yield _END

    stream = Stream(source(), OpenAIReader(), silence=0.05)
    chunks = aiter(stream)
    assert await anext(chunks) == _EVENT
    assert await asyncio.create_task(anext(chunks)) == _EVENT
    with pytest.raises(ProviderError, match="no data"):
        await asyncio.create_task(anext(chunks))
