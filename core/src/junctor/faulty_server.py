"""A provider that fails as providers do, for tests: a raw server that speaks OpenAI's wire, and a script of faults.

    async with FaultyServer(status(503), reset("mid_body"), answer("at last")) as server:
        ...  # a target with base_url: server.url

Each request is given the next fault of the script; the last one stays for ever. Part of the test kit: it listens on
127.0.0.1, at a port of the system's choice. The faults are in `junctor.faults`.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from junctor.faults import answer

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Asked", "Fault", "FaultyServer", "Reply"]


@dataclass(slots=True)
class Asked:
    """One request as it arrived; `at` is a `time.monotonic()` value, headers have lower-case names."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    at: float = field(default_factory=time.monotonic)

    @property
    def stream(self) -> bool:
        return bool(self.body.get("stream"))


class Reply:
    """What a fault is given: the request, and the socket to misuse."""

    def __init__(self, asked: Asked, writer: asyncio.StreamWriter) -> None:
        self.asked = asked
        self.closing = False
        self._writer = writer

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def head(self, code: int = 200, *, length: int | None = None, **headers: str) -> None:
        """Status line and headers; without a length the body is chunked. `_` in names stands for `-`."""
        fields = {"content_type": "text/event-stream" if self.asked.stream else "application/json", **headers}
        fields |= {"transfer_encoding": "chunked"} if length is None else {"content_length": str(length)}
        lines = [f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items()]
        await self.send(f"HTTP/1.1 {code} As-Scripted\r\n{''.join(lines)}\r\n".encode())

    async def chunk(self, data: bytes) -> None:
        await self.send(b"%x\r\n%b\r\n" % (len(data), data))

    async def end(self) -> None:
        await self.send(b"0\r\n\r\n")

    async def whole(self, body: bytes, code: int = 200, **headers: str) -> None:
        await self.head(code, length=len(body), **headers)
        await self.send(body)

    def close(self) -> None:
        """Close after what was sent."""
        self.closing = True

    def reset(self) -> None:
        """Break the connection with a TCP reset."""
        self.closing = True
        raw = self._writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()


Fault = Callable[[Reply], Awaitable[None]]
"""What becomes of one request."""


class FaultyServer:
    """The server. `requests` has every request, `connections` counts them, `hung_up` those whose client left early."""

    def __init__(self, *script: Fault) -> None:
        self.script: list[Fault] = list(script) or [answer()]
        self.requests: list[Asked] = []
        self.connections = 0
        self.hung_up = 0
        self.left = asyncio.Event()
        self.running = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        """The base URL, up to and with `/v1`."""
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"

    @property
    def bodies(self) -> Sequence[dict[str, Any]]:
        return [asked.body for asked in self.requests]

    def become(self, *script: Fault) -> None:
        """Go on with another script."""
        self.script = list(script)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=1024)
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            await self._converse(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # asyncio.streams reports a cancelled handler as an error
        finally:
            self._tasks.discard(task)
            writer.close()
            with suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = b""
        while True:
            asked = await _read(reader, first)
            self.requests.append(asked)
            fault = self.script.pop(0) if len(self.script) > 1 else self.script[0]
            reply = Reply(asked, writer)
            first = await self._reply(fault, reply, reader)
            if reply.closing or not first:
                return

    async def _reply(self, fault: Fault, reply: Reply, reader: asyncio.StreamReader) -> bytes:
        """Let the fault happen; the first byte of the next request, empty when the client has gone."""
        acting = asyncio.ensure_future(fault(reply))
        listening = asyncio.ensure_future(reader.read(1))
        self.running += 1
        try:
            done, _ = await asyncio.wait({acting, listening}, return_when=asyncio.FIRST_COMPLETED)
            if acting not in done:
                self.hung_up += 1
                self.left.set()
                return b""
            await acting
            return b"" if reply.closing else await listening
        finally:
            self.running -= 1
            acting.cancel()
            listening.cancel()
            await asyncio.gather(acting, listening, return_exceptions=True)


async def _read(reader: asyncio.StreamReader, first: bytes) -> Asked:
    head = (first + await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    line, *fields = head.split("\r\n")
    pairs = (entry.partition(":") for entry in fields if entry)
    headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Asked(line.split(" ")[1], headers, json.loads(body) if body else {})
