from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from junctor.openai_events import OpenAIReader
from junctor.stream import Stream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


async def _nothing() -> AsyncIterator[bytes]:
    return
    yield b""


def test_what_waits_for_the_close_of_a_stream_is_called_once() -> None:
    calls: list[str] = []

    async def main() -> None:
        stream = Stream(_nothing(), OpenAIReader())
        stream.on_close(lambda: calls.append("first"))
        stream.on_close(lambda: calls.append("second"))
        await stream.aclose()
        await stream.aclose()

    asyncio.run(main())
    assert calls == ["first", "second"]


def test_it_is_called_also_when_the_connection_cannot_be_closed() -> None:
    calls: list[str] = []

    async def broken() -> None:
        raise OSError("gone")

    async def main() -> None:
        stream = Stream(_nothing(), OpenAIReader(), close=broken)
        stream.on_close(lambda: calls.append("called"))
        await stream.aclose()

    with pytest.raises(OSError, match="gone"):
        asyncio.run(main())
    assert calls == ["called"]
