"""One HTTP/1.1 connection. `junctor.http` is the public side.

The protocol object is its own parser's listener and does no more Python per read than the parser's callbacks need:
pieces of a body go into a list by `list.append` itself, there is one future where somebody waits, and one timer a
connection: it is not re-armed for each request but looks, when it fires, whether its deadline has moved.
"""

from __future__ import annotations

import asyncio
import select
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, cast

import httptools

from junctor.errors import ErrorKind, ProviderError

if TYPE_CHECKING:
    from junctor._pool import Pool

__all__ = ["Connection", "HTTPLimits", "Origin"]

_PARSER_ERRORS = (httptools.HttpParserError, httptools.HttpParserUpgrade)


@dataclass(frozen=True, slots=True)
class HTTPLimits:
    """What the client may hold. Sizes in bytes, times in seconds.

    `max_waiting_per_origin` bounds the line of requests that wait for a connection; one more is refused at once.
    `max_buffer` is how much of an answer may lie unread before the socket is no longer read (one read more may follow).
    """

    max_connections_per_origin: int = 1000
    max_idle_per_origin: int = 100
    max_waiting_per_origin: int = 1000
    idle_seconds: float = 30
    max_header_bytes: int = 64 * 1024
    max_buffer: int = 64 * 1024


class Origin(NamedTuple):
    """Where connections go; the key of a pool."""

    secure: bool
    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def error(self, kind: ErrorKind, what: str, *, sent: bool = True) -> ProviderError:
        """Name host and port and what happened; never a path, a query or a header."""
        return ProviderError(f"{self}: {what}", kind=kind, sent=sent)


class Connection(asyncio.Protocol):
    """One socket, one request at a time.

    `send`, then `wait` until the head is there, then `take` and `wait` in turn until `complete`, then `finish`.
    `error` says why there will be no more.
    """

    def __init__(self, pool: Pool, loop: asyncio.AbstractEventLoop) -> None:
        self.pool: Pool | None = pool
        self.resting = False
        self.reused = False
        self.lost: asyncio.Future[None] = loop.create_future()
        self._origin = pool.origin
        self._limits = pool.limits
        self._loop = loop
        self.closed = False
        self._paused = False
        self._expecting = False
        self._bodiless = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = self._deadline = self._read_timeout = 0.0
        self._waiter: asyncio.Future[None] | None = None
        self.pieces: list[bytes] = []
        self.on_body = self.pieces.append  # the parser calls it: no Python frame for a piece
        self._parser = httptools.HttpResponseParser(self)
        self._reset()

    def _reset(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.head_done = False
        self.complete = False
        self.error: ProviderError | None = None
        self._keep = False
        self._interim = False
        self._until_eof = False
        self._unread = 0

    # What the client does.

    def send(self, data: bytes, *, bodiless: bool, read_timeout: float) -> bool:
        """Write a request in one piece. False if it is certain that none of it left this process.

        `bodiless` says that the answer has no body whatever its headers say (HEAD); `read_timeout` is in seconds.
        """
        if self._transport.is_closing():  # the loop may have closed it and not yet said so
            self.abort("closed before the request was written")
            return False
        if self.reused:
            self._reset()
        self._bodiless = bodiless
        self._read_timeout = read_timeout
        self._expecting = True
        self._transport.write(data)
        if self._transport.is_closing():  # the first system call failed: the kernel took no byte
            self.abort("the connection was closed before the request was written")
            return False
        return True

    async def wait(self) -> None:
        """Wait for the head, or for more of the body, or for the end. Cancelled: the socket is closed at once."""
        self._waiter = self._loop.create_future()
        self._arm(self._loop.time() + self._read_timeout)
        try:
            await self._waiter
        except BaseException:
            self._waiter = None
            self.abort("cancelled")
            raise

    def take(self) -> bytes:
        """What has arrived and was not taken yet, in one piece."""
        pieces = self.pieces
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        self._unread = 0
        if self._paused:
            self._paused = False
            if not self._transport.is_closing():
                self._transport.resume_reading()
        return data

    def finish(self) -> None:
        """Give the connection back after the whole answer was taken; one that cannot be used again is closed."""
        if self._keep and not self.closed and self.pool is not None and not self._transport.get_write_buffer_size():
            self.reused = True
            self.pool.release(self)
        else:
            self.abort("not reusable")

    def rest(self) -> None:
        """Lie idle in the pool, for `idle_seconds` at most."""
        self.resting = True
        self._arm(self._loop.time() + self._limits.idle_seconds)

    def wake(self) -> bool:
        """Leave the pool. False if it is dead: something (an end of file, a reset, bytes nobody asked for) is pending.

        The event loop may not have seen it yet, so the kernel is asked. This is what makes sure that a request is not
        written on a connection that the peer has closed already.
        """
        self.resting = False
        if self.closed:
            return False
        if self._poll.poll(0):
            self.abort("closed while idle")
            return False
        return True

    def abort(self, why: str, kind: ErrorKind = ErrorKind.CONNECTION) -> None:
        """Close the socket now. Does nothing if it is closed."""
        if not self.closed:
            self.closed = True
            self._end(why, kind)
            self._transport.abort()

    def abandon(self) -> None:
        """`abort` from the collector, which may run in any thread."""
        if not (self.closed or self._loop.is_closed()):
            self._loop.call_soon_threadsafe(self.abort, "dropped by the caller")

    def _end(self, why: str, kind: ErrorKind) -> None:
        if not self.complete:
            self.error = self.error or self._origin.error(kind, why)
        self._expecting = self._keep = False
        self._notify()

    def _notify(self) -> None:
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            if not waiter.done():
                waiter.set_result(None)

    def _arm(self, deadline: float) -> None:
        self._deadline = deadline
        if self._timer is not None:
            if self._timer_at <= deadline:
                return
            self._timer.cancel()
        self._timer_at = deadline
        self._timer = self._loop.call_at(deadline, self._tick)

    def _tick(self) -> None:
        self._timer = None
        if self._waiter is None and not self.resting:
            return  # nobody waits: the consumer is slow, or the answer lies here whole
        if self._loop.time() < self._deadline:
            self._arm(self._deadline)
        elif self.resting:
            self.abort("idle for too long")
        else:
            self.abort(f"no data for {self._read_timeout:g} s", ErrorKind.TIMEOUT)

    # What the event loop does.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        # A low mark makes uvloop write at once, so that `send` sees a failure; both loops set TCP_NODELAY but do not
        # promise it.
        self._transport.set_write_buffer_limits(high=1, low=0)
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._poll = select.poll()
        self._poll.register(sock.fileno(), select.POLLIN)

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        if self._expecting:
            if exc is None and self._until_eof:
                self.complete = True
            cut_short = exc is None and (self.head_done or self._unread)
            self._end(self._loss(exc), ErrorKind.PROTOCOL if cut_short else ErrorKind.CONNECTION)
        if self._timer is not None:
            self._timer.cancel()
        del self._parser, self.on_body  # they refer to this object
        self.lost.set_result(None)
        if self.pool is not None:
            self.pool.forget(self)

    def _loss(self, exc: Exception | None) -> str:
        if exc is not None:
            return f"the connection broke: {exc}"
        if self.head_done:
            return "the connection was closed before the end of the body"
        return "the connection was closed " + ("within the head" if self._unread else "without an answer")

    def data_received(self, data: bytes) -> None:
        if not self._expecting:
            self.abort("data that nobody asked for")
            return
        room = self._limits.max_header_bytes - self._unread
        if len(data) > room and not self.head_done:
            self.data_received(data[:room])
            if self.head_done:
                self.data_received(data[room:])
            else:
                self._too_many_headers()
            return
        self._unread += len(data)
        try:
            self._parser.feed_data(data)
        except _PARSER_ERRORS as exc:
            if not self.complete:
                self.abort(f"not HTTP/1.1: {exc}", ErrorKind.PROTOCOL)
                return
            self._keep = False  # the answer is whole; what follows it is not one
        if self._bodiless and self.head_done:
            self._drop_body()
        if self.complete:
            self._expecting = False
            self._notify()
        elif self.pieces:
            if self._unread > self._limits.max_buffer and not self._paused:
                self._paused = True
                self._transport.pause_reading()
            self._notify()
        elif self._unread > self._limits.max_header_bytes:
            # Chunk extensions or trailers without a byte of body; the parser collects a trailer.
            self._too_many_headers()

    def _too_many_headers(self) -> None:
        self.abort(f"more than {self._limits.max_header_bytes} bytes of headers", ErrorKind.PROTOCOL)

    def _drop_body(self) -> None:
        if self.pieces:
            self.pieces.clear()
            self._keep = False
        self._parser = httptools.HttpResponseParser(self)  # the old one waits for a body

    # What the parser does (and `on_body`).

    def on_message_begin(self) -> None:
        if self.complete:
            raise ValueError("a second answer")  # stops the parser: it must reach neither this request nor the next

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.head_done:
            return  # a trailer
        key = name.decode("latin-1").lower()
        text = value.decode("latin-1")
        headers = self.headers
        headers[key] = f"{headers[key]}, {text}" if key in headers else text

    def on_headers_complete(self) -> None:
        if self.complete or self.closed:
            return
        status = self._parser.get_status_code()
        headers = self.headers
        if status < 200:
            self._interim = True
            headers.clear()
            return
        encoding = headers.get("transfer-encoding")
        if encoding is not None and encoding.lower() != "chunked":
            self.abort("a transfer-encoding other than chunked", ErrorKind.PROTOCOL)
            return
        self.status = status
        self.head_done = True
        self._until_eof = encoding is None and "content-length" not in headers
        if self._bodiless:
            self.complete = True
            self._keep = self._parser.should_keep_alive()
        self._notify()

    def on_message_complete(self) -> None:
        if self._interim:
            self._interim = False
        elif not self.complete:
            self.complete = True
            self._keep = self._parser.should_keep_alive()
