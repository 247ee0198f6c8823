"""The slow-stream guard: reads the beginning of a stream before anything of it is sent, and looks how fast it comes."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from junctor import ErrorKind, ProviderError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from junctor import Exchange, Response, Target

    from junctor_fallback.settings import SlowStreamSettings

__all__ = ["SlowStreams"]


class SlowStreams:
    """Lets a stream pass once `tokens_per_second` times `within` tokens are there, in that time from the first one on.

    A fast stream is held back for as long as these tokens take, no longer. An event is taken for a token.
    """

    def __init__(self, settings: SlowStreamSettings) -> None:
        self._floor = settings.tokens_per_second
        self._within = settings.within
        self._models = None if settings.models is None else frozenset(settings.models)

    def looks_at(self, exchange: Exchange, model: str) -> bool:
        return exchange.request.stream and (self._models is None or model in self._models)

    async def look(self, response: Response | None, target: Target) -> None:
        """Raises `ProviderError` (time-out) for a stream that is too slow; the stream is closed then."""
        stream = response.stream if response is not None else None
        if stream is None:
            return
        ahead = _Ahead()
        stream.read_ahead(ahead.over)
        try:
            if not await ahead.fill(self._floor * self._within, self._within):
                raise ProviderError(f"{target}: less than {self._floor:g} tokens a second", kind=ErrorKind.TIMEOUT)
        except BaseException:
            await stream.aclose()
            raise


class _Ahead:
    """Reads ahead, and gives what it has read before the rest."""

    def __init__(self) -> None:
        self._read: list[bytes] = []
        self._source: AsyncIterator[bytes] | None = None

    def over(self, source: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        self._source = source
        return self._replay(source)

    async def _replay(self, source: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        for data in self._read:
            yield data
        self._read.clear()
        async for data in source:
            yield data

    async def fill(self, tokens: float, seconds: float) -> bool:
        """False if fewer tokens than these came within the seconds after the first one."""
        assert self._source is not None
        events, begun = 0, 0.0
        try:
            # The first token has its own time-out. It starts the clock and is not counted.
            while not events:
                events = self._keep(await anext(self._source))
            begun = time.monotonic()
            async with asyncio.timeout(seconds):
                while events <= tokens:
                    events += self._keep(await anext(self._source))
        except StopAsyncIteration:
            return True
        except TimeoutError:
            if not begun or time.monotonic() - begun < seconds:
                raise
            return False
        return True

    def _keep(self, data: bytes) -> int:
        self._read.append(data)
        return data.count(b"data:")
