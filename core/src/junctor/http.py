"""Junctor's HTTP/1.1 client: what the gateway spends its time in, so it does one thing and little of it.

    async with HTTPClient() as client:
        response = await client.request("POST", url, headers=HEADERS, body=body, max_body=None)
        async for piece in response:
            ...

It follows no redirects, reads no environment, keeps no cookies. Why not httpx or aiohttp: most of their time per
request is generality that a gateway does not use.

**When a request is sent again.** Never once a single byte of it may have left: a completion costs money, and nobody
can know that a provider which fell silent has not begun it. Before a pooled connection is used, the kernel is asked
whether anything is pending on it (the peer's end of file, a reset, unasked data); if so it is discarded and another
one used. If the first write on a *reused* connection fails, so that the kernel has taken nothing, the request goes
once more, over a fresh connection. Anything later is a `ProviderError` with `sent=True`, and whether to repeat it is
`on_error`'s decision.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import zlib
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple, Self
from urllib.parse import urlsplit

from junctor._connection import Connection, HTTPLimits, Origin
from junctor._pool import Pool
from junctor.errors import ErrorKind

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping
    from types import TracebackType

__all__ = ["HTTPClient", "HTTPLimits", "HTTPResponse"]

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_URL = re.compile(r"[\x21-\x7e]+")
_OURS = frozenset({"host", "content-length", "transfer-encoding", "connection", "upgrade"})
_NO_LENGTH = frozenset({"GET", "HEAD", "DELETE", "OPTIONS", "TRACE"})  # without a body they need not say so
_MANY_POOLS = 64
_SLICE = 16 * 1024  # of compressed data given to zlib at once: the copies it makes of what it did not use stay small
_PIECE = 64 * 1024  # of decompressed data held at once


class _Prepared(NamedTuple):
    """What does not change between two requests with the same method, URL and headers."""

    origin: Origin
    head: bytes  # up to, and without, content-length and the empty line
    bodiless: bool
    needs_length: bool


class HTTPResponse:
    """An answer whose head has arrived. Its body is read once: by `read`, or as an asynchronous iterator.

    Read it to its end or call `aclose`; one that is dropped half-read closes its connection when it is collected.
    `headers` has lower-case names and joins repeated ones with ", ". A gzip or deflate body arrives decompressed, and
    `headers` then has no `content-encoding` and no `content-length`.
    """

    __slots__ = ("_connection", "_count", "_decoder", "_error", "_limit", "_origin", "_rest", "headers", "status")

    def __init__(self, connection: Connection, origin: Origin, max_body: int | None, *, bodiless: bool) -> None:
        self.status: int = connection.status
        self.headers: Mapping[str, str] = connection.headers
        self._connection: Connection | None = connection
        self._origin = origin
        self._limit = max_body
        self._count = 0
        self._rest = b""
        self._error: Exception | None = None
        self._decoder: _Decoder | None = None
        if "content-encoding" in connection.headers and not bodiless and connection.status not in (204, 304):
            self._decode(connection.headers)
        if connection.complete:  # the usual case, head and body in one read: the connection is free already
            self._rest = connection.take()
            self._connection = None
            connection.finish()
            length = len(self._rest)
        else:
            length = int(connection.headers.get("content-length", 0)) if max_body is not None else 0
        if max_body is not None and length > max_body:
            raise self._fail(f"a body of more than {max_body} bytes")

    async def read(self, limit: int = 64 * 1024 * 1024) -> bytes:
        """The whole body, or what has not been read of it; more than `limit` bytes: a `ProviderError` (protocol).

        Raises `ProviderError` (timeout, connection, protocol) and closes the connection when the body breaks off.
        """
        if self._connection is None and self._decoder is None and self._error is None and len(self._rest) <= limit:
            body, self._rest = self._rest, b""
            return body
        pieces = []
        size = 0
        while piece := await self._next():
            size += len(piece)
            if size > limit:
                raise self._fail(f"a body of more than {limit} bytes")
            pieces.append(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        piece = await self._next()
        if not piece:
            raise StopAsyncIteration
        return piece

    async def aclose(self) -> None:
        """Be done with it. Closes the connection at once unless the body has been received to its end. Idempotent."""
        self._error = self._error or RuntimeError("the response is closed")
        self._drop()

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        self._rest = b""
        if connection is None:
            return
        if connection.complete:
            connection.take()
            connection.finish()
        else:
            connection.abort("closed by the caller")

    def __del__(self) -> None:
        connection = getattr(self, "_connection", None)
        if connection is not None:
            connection.abandon()

    def _fail(self, what: str) -> Exception:
        self._error = self._origin.error(ErrorKind.PROTOCOL, what)
        if self._connection is not None:
            self._connection.abort(what, ErrorKind.PROTOCOL)
            self._connection = None
        self._rest = b""
        return self._error

    async def _next(self) -> bytes:
        """The next piece, decompressed and counted; empty at the end."""
        if self._error is not None:
            raise self._error
        piece = await self._raw() if self._decoder is None else await self._decoded(self._decoder)
        if self._limit is not None:
            self._count += len(piece)
            if self._count > self._limit:
                raise self._fail(f"a body of more than {self._limit} bytes")
        return piece

    async def _raw(self) -> bytes:
        connection = self._connection
        if connection is None:
            piece, self._rest = self._rest, b""
            return piece
        if not connection.pieces and not connection.complete and connection.error is None:
            await connection.wait()
        piece = connection.take() if connection.pieces else b""
        if connection.complete:
            self._connection = None
            connection.finish()
        elif not piece and connection.error is not None:
            self._connection = None
            self._error = connection.error
            raise self._error
        return piece

    async def _decoded(self, decoder: _Decoder) -> bytes:
        try:
            while not (piece := decoder.read()):
                raw = await self._raw()
                if not raw:
                    decoder.finish()
                    return b""
                decoder.feed(raw)
        except zlib.error as exc:
            raise self._fail(f"a broken {decoder.name} body: {exc}") from exc
        if len(piece) == _PIECE:
            await asyncio.sleep(0)  # there may be a thousand times as much in what has arrived: let others run
        return piece

    def _decode(self, headers: dict[str, str]) -> None:
        name = headers["content-encoding"].strip().lower()
        if name in ("gzip", "x-gzip", "deflate"):
            self._decoder = _Decoder(name)
            del headers["content-encoding"]
            headers.pop("content-length", None)
        elif name not in ("", "identity"):
            raise self._fail("a content-encoding other than gzip and deflate")


class _Decoder:
    """Inflates piece by piece; never holds more than one piece of the result, so a bomb stays small."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._window = 0 if name == "deflate" else zlib.MAX_WBITS | 16
        self._inflate = zlib.decompressobj(self._window) if self._window else None
        self._pending = memoryview(b"")
        self._full = False
        self._fed = False  # no bytes at all are an empty body, not a broken one

    def feed(self, data: bytes) -> None:
        """More compressed bytes; only after `read` has returned nothing."""
        self._pending = memoryview(data)
        self._fed = True
        if not self._window:
            # "deflate" ought to mean zlib's wrapper but is raw with some servers; its first byte tells.
            self._window = zlib.MAX_WBITS if data[0] & 0x8F == 0x08 else -zlib.MAX_WBITS
            self._inflate = zlib.decompressobj(self._window)

    def read(self) -> bytes:
        """The next decompressed piece, empty when `feed` is needed. Raises `zlib.error`."""
        while self._inflate is not None and (self._pending or self._full):
            if self._inflate.eof:
                if self._window != zlib.MAX_WBITS | 16:
                    raise zlib.error("data after its end")
                self._inflate = zlib.decompressobj(self._window)  # gzip may have several members
            piece = self._pending[:_SLICE]
            data = self._inflate.decompress(piece, _PIECE)
            left = len(self._inflate.unconsumed_tail) + len(self._inflate.unused_data)
            self._pending = self._pending[len(piece) - left :]
            self._full = len(data) == _PIECE and not self._inflate.eof
            if data:
                return data
        return b""

    def finish(self) -> None:
        """Raises `zlib.error` if the end was not reached."""
        if self._fed and self._inflate is not None and not self._inflate.eof:
            raise zlib.error("it is cut short")


def _prepare(method: str, url: str, headers: tuple[tuple[str, str], ...]) -> _Prepared:
    """Check and encode. ValueError, which names no value, for what is not a URL or would smuggle something."""
    if not _TOKEN.fullmatch(method):
        raise ValueError("the method is not an HTTP token")
    origin, host, target = _parse(url)
    lines = [f"{method} {target} HTTP/1.1\r\nhost: {host}\r\n"]
    for name, value in headers:
        if not _TOKEN.fullmatch(name):
            raise ValueError("a header's name is not an HTTP token")
        if not _VALUE.fullmatch(value):
            raise ValueError(f"the value of the header {name!r} has characters that a header cannot have")
        if name.lower() in _OURS:
            raise ValueError(f"the header {name!r} is the client's own to set")
        lines.append(f"{name}: {value}\r\n")
    return _Prepared(origin, "".join(lines).encode("latin-1"), method == "HEAD", method not in _NO_LENGTH)


def _parse(url: str) -> tuple[Origin, str, str]:
    """The origin, the `Host` and the request's target of a URL."""
    if not _URL.fullmatch(url):
        raise ValueError("the URL has characters that a URL cannot have")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        raise ValueError("the URL is not http(s)://host[:port]/path without credentials")
    secure = parts.scheme == "https"
    default = 443 if secure else 80
    port = default if parts.port is None else parts.port
    origin = Origin(secure, parts.hostname, port)
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return origin, host if port == default else f"{host}:{port}", target


class HTTPClient:
    """A pool of connections for each origin. One a process: `async with HTTPClient() as client`.

    `ssl_context` replaces the default one, which verifies against the system's authorities; the client sets its ALPN to
    `http/1.1`. Leaving the context closes every connection, those in use as well.
    """

    def __init__(self, limits: HTTPLimits | None = None, *, ssl_context: ssl.SSLContext | None = None) -> None:
        self._limits = limits or HTTPLimits()
        self._context = ssl_context
        self._pools: dict[Origin, Pool] = {}
        self._prepared = lru_cache(maxsize=512)(_prepare)
        self._open = False

    async def __aenter__(self) -> Self:
        if self._context is None:
            self._context = ssl.create_default_context()
        self._context.set_alpn_protocols(["http/1.1"])
        self._open = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open = False
        pools = list(self._pools.values())
        self._pools.clear()
        await asyncio.gather(*(pool.aclose() for pool in pools))

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Iterable[tuple[str, str]] = (),
        body: bytes = b"",
        connect_timeout: float = 10,
        read_timeout: float = 600,
        max_body: int | None,
    ) -> HTTPResponse:
        """Send a request; returns when the head of the answer has arrived.

        `connect_timeout` (seconds) covers waiting for a place in the pool, the connection and TLS; `read_timeout` the
        head and every wait for more of the body. `max_body` bounds the body, decompressed, in bytes; None is for
        streams whose consumer counts. `headers` as a *tuple* are checked and encoded once and remembered: pass one
        where the same ones are sent again, and a list where every request has its own.

        Raises `ProviderError` (connection, timeout, protocol) and `ValueError` for what cannot be a request.
        """
        if type(headers) is tuple:
            prepared = self._prepared(method, url, headers)
        else:
            prepared = _prepare(method, url, tuple(headers))
        origin, head, bodiless, needs_length = prepared
        length = b"content-length: %d\r\n" % len(body) if body or needs_length else b""
        data = b"%b%b\r\n%b" % (head, length, body)
        pool = self._pools.get(origin) or self._pool(origin)
        connection = pool.idle() or await pool.acquire(connect_timeout)
        if not connection.send(data, bodiless=bodiless, read_timeout=read_timeout):
            if connection.reused:
                connection = await pool.replace(connection, connect_timeout)
                connection.send(data, bodiless=bodiless, read_timeout=read_timeout)
            if connection.closed:
                raise origin.error(ErrorKind.CONNECTION, "closed before the request was written", sent=False)
        await connection.wait()
        if connection.error is not None and not connection.head_done:
            raise connection.error
        return HTTPResponse(connection, origin, max_body, bodiless=bodiless)

    def _pool(self, origin: Origin) -> Pool:
        if not self._open:
            raise RuntimeError("the HTTPClient is not open: use it as `async with HTTPClient() as client`")
        if len(self._pools) >= _MANY_POOLS:
            self._pools = {key: pool for key, pool in self._pools.items() if not pool.empty}
        context = self._context if origin.secure else None
        pool = self._pools[origin] = Pool(origin, self._limits, context=context)
        return pool
