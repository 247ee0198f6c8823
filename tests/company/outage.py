"""A road to a provider that can be closed: a TCP proxy."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Self

__all__ = ["Road"]


class Road:
    """Passes bytes on; while it is closed, it refuses connections, and those it had are cut."""

    def __init__(self, to: int) -> None:
        self._to = to
        self._server: asyncio.Server | None = None
        self._running: set[asyncio.Task[None]] = set()
        self.port = 0

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._pass, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Cut what runs; the port refuses from now on."""
        if self._server is not None:
            self._server.close()
        while self._running:  # some were accepted a moment ago and begin only now
            for task in self._running:
                task.cancel()
            await asyncio.sleep(0.01)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        try:
            with suppress(OSError, asyncio.CancelledError):
                onward = await asyncio.open_connection("127.0.0.1", self._to)
                try:
                    await self._both(reader, writer, *onward)
                finally:
                    onward[1].transport.abort()
        finally:
            writer.transport.abort()
            self._running.discard(task)

    async def _both(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        onward_reader: asyncio.StreamReader,
        onward_writer: asyncio.StreamWriter,
    ) -> None:
        """Until either side ends: a client that hangs up is to be seen at the provider at once."""
        ways = [asyncio.create_task(_copy(reader, onward_writer)), asyncio.create_task(_copy(onward_reader, writer))]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
