"""A provider that fails as providers do, for tests: a raw server that speaks OpenAI's wire, and a script of faults.

    async with FaultyServer(status(503), reset("mid_body"), answer("at last")) as server:
        ...  # a target with base_url: server.url

Each request is given the next fault of the script; the last one stays for ever. Part of the test kit: it listens on
127.0.0.1, at a port of the system's choice.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import struct
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = [
    "FAULTS",
    "Asked",
    "Fault",
    "FaultyServer",
    "Reply",
    "answer",
    "broken_gzip",
    "empty",
    "error_event",
    "half_json",
    "html",
    "large",
    "reset",
    "silence",
    "slow",
    "status",
    "stream_of",
    "trickle",
    "wrong_length",
]

_TEXT = "one two three four five six"
_USAGE = {"prompt_tokens": 9, "completion_tokens": 6, "total_tokens": 15}
_GAP = 0.02  # seconds between what came and what breaks: a reset overtakes what the other side has not read yet
_PIECE = 256 * 1024


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


def completion(text: str = _TEXT) -> bytes:
    """A whole chat completion."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    head = {"id": "chatcmpl-f", "object": "chat.completion", "created": 1, "model": "faulty"}
    return json.dumps({**head, "choices": [choice], "usage": _USAGE}).encode()


def event(delta: Mapping[str, Any], finish: str | None = None, **more: Any) -> bytes:
    """One event of a streamed chat completion."""
    head = {"id": "chatcmpl-f", "object": "chat.completion.chunk", "created": 1, "model": "faulty"}
    choices = [{"index": 0, "delta": delta, "finish_reason": finish}]
    return b"data: " + json.dumps({**head, "choices": choices, **more}).encode() + b"\n\n"


def events(text: str = _TEXT) -> list[bytes]:
    """A streamed chat completion: role, a word an event, finish, usage, end marker."""
    words = text.split(" ")
    pieces = [word + " " for word in words[:-1]] + words[-1:]
    usage = b"data: " + json.dumps({"id": "chatcmpl-f", "object": "chat.completion.chunk", "created": 1,
                                    "model": "faulty", "choices": [], "usage": _USAGE}).encode() + b"\n\n"  # fmt: skip
    deltas = [event({"role": "assistant", "content": ""}), *(event({"content": piece}) for piece in pieces)]
    return [*deltas, event({}, "stop"), usage, b"data: [DONE]\n\n"]


def answer(text: str = _TEXT, *, delay: float = 0.0, between: float = 0.0) -> Fault:
    """No fault: the text, whole or streamed as it is asked for, after `delay` seconds, `between` events as many."""

    async def act(reply: Reply) -> None:
        if delay:
            await asyncio.sleep(delay)
        if not reply.asked.stream:
            await reply.whole(completion(text))
            return
        await reply.head()
        for number, piece in enumerate(events(text)):
            if number and between:
                await asyncio.sleep(between)
            await reply.chunk(piece)
        await reply.end()

    return act


def stream_of(*pieces: bytes, end: bool = True) -> Fault:
    """These bytes as a stream, a chunk each."""

    async def act(reply: Reply) -> None:
        await reply.head()
        for piece in pieces:
            await reply.chunk(piece)
        await (reply.end() if end else asyncio.sleep(0))

    return act


def status(code: int, *, error: str = "", message: str = "as scripted", **headers: str) -> Fault:
    """An error answer in OpenAI's form, `error` as its code. Headers: `retry_after="2"`."""

    async def act(reply: Reply) -> None:
        body = {"error": {"message": message, "type": "scripted", "param": None, "code": error or None}}
        await reply.whole(json.dumps(body).encode(), code, content_type="application/json", **headers)

    return act


def reset(where: str) -> Fault:
    """A TCP reset: `before_headers`, `after_headers`, `mid_body` (after three events or half the body), `mid_chunk`."""

    async def act(reply: Reply) -> None:
        if where != "before_headers":
            await _part(reply, where)
            await asyncio.sleep(_GAP)
        reply.reset()

    return act


async def _part(reply: Reply, where: str) -> None:
    stream, body = reply.asked.stream, completion()
    await (reply.head() if stream else reply.head(length=len(body)))
    if where == "after_headers":
        return
    if not stream:
        await reply.send(body[: len(body) // 2])
        return
    for piece in events()[:4]:
        await reply.chunk(piece)
    if where == "mid_chunk":
        half = events()[4][:20]
        await reply.send(b"%x\r\n%b" % (len(half) * 3, half))


def silence(*, after: int = 0, seconds: float = 30.0) -> Fault:
    """Nothing for so long: before the first byte, or after so many events (half the body if it is whole)."""

    async def act(reply: Reply) -> None:
        if after:
            await _part(reply, "mid_body")
        await asyncio.sleep(seconds)
        reply.close()

    return act


def slow(seconds: float, text: str = _TEXT) -> Fault:
    """A stream with so many seconds between its events."""
    return answer(text, between=seconds)


def trickle() -> Fault:
    """A good answer, one byte at a time."""

    async def act(reply: Reply) -> None:
        data = b"".join(events()) if reply.asked.stream else completion()
        await reply.head(length=len(data))
        for place in range(len(data)):
            await reply.send(data[place : place + 1])
            if place % 16 == 0:
                await asyncio.sleep(0)

    return act


def _body(make: Callable[[bool], bytes], code: int = 200, **headers: str) -> Fault:
    async def act(reply: Reply) -> None:
        await reply.whole(make(reply.asked.stream), code, **headers)

    return act


def html() -> Fault:
    """A page with status 200, as a captive portal or a load balancer sends it."""
    return _body(lambda stream: b"<!doctype html><title>Welcome</title><h1>It works</h1>", content_type="text/html")


def empty() -> Fault:
    """Status 200 and no body."""
    return _body(lambda stream: b"")


def half_json() -> Fault:
    """A body that ends in the middle of its JSON, with the length that it has."""
    return _body(lambda stream: events()[0][:40] if stream else completion()[:60])


def broken_gzip() -> Fault:
    """A compressed body whose second half is noise."""

    def make(stream: bool) -> bytes:
        packed = gzip.compress(b"".join(events()) if stream else completion())
        return packed[: len(packed) // 2] + b"\0" * 20

    return _body(make, content_encoding="gzip")


def wrong_length(by: int) -> Fault:
    """A `content-length` that is larger (or smaller, if negative) than the body by so many bytes."""

    async def act(reply: Reply) -> None:
        data = b"".join(events()) if reply.asked.stream else completion()
        await reply.head(length=len(data) + by)
        await reply.send(data)
        reply.close()

    return act


def error_event(*, after: int = 0, error: str = "server_error") -> Fault:
    """An `error` with status 200: alone, or in a stream after so many events."""

    async def act(reply: Reply) -> None:
        body = json.dumps({"error": {"message": "as scripted", "type": error, "code": error}}).encode()
        if not reply.asked.stream:
            await reply.whole(body)
            return
        await reply.head()
        for piece in events()[:after]:
            await reply.chunk(piece)
        await asyncio.sleep(_GAP if after else 0)
        await reply.chunk(b"data: " + body + b"\n\n")
        await reply.end()

    return act


def large(size: int = 65 * 1024 * 1024) -> Fault:
    """An answer of so many bytes, all but a few of them in one text."""

    async def act(reply: Reply) -> None:
        await reply.head()
        start = b'data: {"choices":[{"delta":{"content":"' if reply.asked.stream else b'{"choices":[{"text":"'
        await reply.chunk(start)
        filling = b"x" * _PIECE
        for _ in range(size // _PIECE):
            await reply.chunk(filling)
        await reply.chunk(b'"}}]}\n\n' if reply.asked.stream else b'"}]}')
        await reply.end()

    return act


def _plain_or(plain: Fault, stream: Fault) -> Fault:
    async def act(reply: Reply) -> None:
        await (stream if reply.asked.stream else plain)(reply)

    return act


_BAD = b'data: {"choices":[{"index":0,"delta":{"content":"\xff\xfe"},"finish_reason":null}]}\n\n'

FAULTS: Mapping[str, Fault] = {
    "answer": answer(),
    "400": status(400, error="invalid_value"),
    "401": status(401, error="invalid_api_key", message="Incorrect API key provided: sk-secret"),
    "402": status(402),
    "403": status(403),
    "404": status(404, error="model_not_found"),
    "408": status(408),
    "413": status(413),
    "422": status(422, error="invalid_value"),
    "429": status(429, error="rate_limit_exceeded"),
    "429 quota": status(429, error="insufficient_quota"),
    "429 retry-after": status(429, error="rate_limit_exceeded", retry_after="3600"),
    "500": status(500),
    "502 html": _body(lambda stream: b"<h1>Bad Gateway</h1>", 502, content_type="text/html"),
    "503": status(503),
    "529": status(529, error="overloaded_error"),
    "context too long": status(400, error="context_length_exceeded"),
    "content policy": status(400, error="content_policy_violation"),
    "redirect": status(307, location="http://127.0.0.1:9/elsewhere"),
    "reset before headers": reset("before_headers"),
    "reset after headers": reset("after_headers"),
    "reset mid-body": reset("mid_body"),
    "reset mid-chunk": reset("mid_chunk"),
    "silence": silence(),
    "silence between chunks": silence(after=3),
    "one byte at a time": trickle(),
    "html with 200": html(),
    "empty body": empty(),
    "half json": half_json(),
    "length too large": wrong_length(50),
    "length too small": wrong_length(-50),
    "broken gzip": broken_gzip(),
    "error first": error_event(),
    "error after three": error_event(after=3),
    "no done": _plain_or(answer(), stream_of(*events()[:-1])),
    "no finish": _plain_or(answer(), stream_of(*events()[:4])),
    "finish twice": _plain_or(answer(), stream_of(*events()[:-2], *events()[-3:])),
    "bad utf-8": _plain_or(_body(lambda stream: completion("\0").replace(b"\\u0000", b"\xff")), stream_of(_BAD)),
    "64 MB": large(),
}
"""The faults by name, with the parameters that tests mostly want."""


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
