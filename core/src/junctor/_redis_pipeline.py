"""A pipelining client for one Redis server: commands of one turn of the event loop leave in one write.

Why not redis-py here: a limit, a circuit or a cached key costs a call of the store per request, and redis-py pays for
each with a connection from the pool, a parser and callbacks. Here one connection, hiredis for both directions and one
timer serve all calls, so that a call costs less the more are in flight (`plugins/quotas/benchmarks/hot_path.py` with
the address of a Redis prints what it costs for one client and for many). redis-py's cluster client also opens a
connection for each call in flight, and sends a command again after a lost connection whether or not it was executed;
here nothing is ever sent twice, because it would be counted twice.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import parse_qs, unquote, urlsplit

import hiredis

from junctor.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

__all__ = ["Address", "Find", "Pipeline", "listen", "tls_of"]

_log = logging.getLogger("junctor.state")
_FAILURES = 3
_FIRST_PAUSE = 0.25
_LONGEST_PAUSE = 5.0
_PATIENCE = 10.0  # seconds of silence on a subscription
# The server answers, and says that it is not the one to ask: a new connection may find the one that is.
_ELSEWHERE = ("READONLY", "LOADING", "MASTERDOWN", "MISCONF", "NOREPLICAS", "NOAUTH")

_ONE_MORE_LOOK = 0.002
_MAX_PENDING = 20_000


@dataclass(frozen=True, slots=True)
class Address:
    """Where a Redis server is, and what it asks for: read from a `redis://` or `rediss://` URL."""

    host: str
    port: int
    username: str | None = None
    password: str | None = None
    database: int = 0
    tls: ssl.SSLContext | None = None

    @classmethod
    def of(cls, url: str) -> Address:
        """Raises `ConfigError` for what is no such URL."""
        parts = urlsplit(url)
        try:
            port = parts.port or 6379
            database = int(parts.path.strip("/") or parse_qs(parts.query).get("db", ["0"])[0])
        except ValueError:
            raise ConfigError("state.url: write redis://[user:password@]host[:port][/database]") from None
        return cls(
            parts.hostname or "127.0.0.1",
            port,
            unquote(parts.username) if parts.username else None,
            unquote(parts.password) if parts.password else None,
            database,
            tls_of(parts.query) if parts.scheme == "rediss" else None,
        )

    def greeting(self) -> list[tuple[Any, ...]]:
        """What a new connection says first."""
        commands: list[tuple[Any, ...]] = []
        if self.password is not None:
            commands.append(("AUTH", *((self.username,) if self.username else ()), self.password))
        if self.database:
            commands.append(("SELECT", self.database))
        return commands


def tls_of(query: str) -> ssl.SSLContext:
    """The context of a `rediss://` URL: ssl_ca_certs, ssl_certfile, ssl_keyfile, ssl_cert_reqs, ssl_check_hostname."""
    given = {name: values[-1] for name, values in parse_qs(query).items()}
    try:
        context = ssl.create_default_context(cafile=given.get("ssl_ca_certs"))
        if "ssl_certfile" in given:
            context.load_cert_chain(given["ssl_certfile"], given.get("ssl_keyfile"))
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"state.url: the certificates cannot be used: {error}") from None
    if given.get("ssl_check_hostname", "true").lower() == "false":
        context.check_hostname = False
    if given.get("ssl_cert_reqs", "required") == "none":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


class _Connection(asyncio.Protocol):
    """One connection. Answers come in the order of the commands; who no longer waits leaves a place in the queue."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.lost = False
        self.loop = loop
        self._reader = hiredis.Reader()
        self._waiting: deque[tuple[asyncio.Future[Any], float]] = deque()
        self._outgoing: list[bytes] = []
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._looked_again = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def send(self, command: Sequence[Any], until: float) -> asyncio.Future[Any]:
        """Queue a command; its future fails with `TimeoutError` once the loop's clock is past `until`."""
        if self.lost:
            raise ConnectionError("the connection is closed")
        if len(self._waiting) >= _MAX_PENDING:
            raise ConnectionError("too many commands wait for an answer")
        if not self._outgoing:
            self.loop.call_soon(self._flush)
        self._outgoing.append(hiredis.pack_command(tuple(command)))
        future: asyncio.Future[Any] = self.loop.create_future()
        self._waiting.append((future, until))
        if self._timer is None:
            self._timer = self.loop.call_at(until, self._look)
        return future

    def _flush(self) -> None:
        outgoing, self._outgoing = self._outgoing, []
        if self._transport is not None and not self.lost:
            self._transport.write(outgoing[0] if len(outgoing) == 1 else b"".join(outgoing))

    def data_received(self, data: bytes) -> None:
        reader, waiting = self._reader, self._waiting
        reader.feed(data)
        try:
            while (answer := reader.gets()) is not False:
                future = waiting.popleft()[0]
                if not future.done():
                    future.set_result(answer)
        except (hiredis.ProtocolError, IndexError):
            self.abort(ConnectionError("the server does not speak Redis's protocol"))

    def _look(self) -> None:
        """Fail what has waited too long. One timer serves all calls: it sleeps until the oldest one's deadline."""
        now = self.loop.time()
        self._timer = None
        for future, until in self._waiting:
            if future.done():
                continue
            if until > now:
                self._looked_again = False
                self._timer = self.loop.call_at(until, self._look)
                return
            if not self._looked_again:
                # A loop that was busy runs its timers before it reads: the answer may lie in the socket already.
                self._looked_again = True
                self._timer = self.loop.call_later(_ONE_MORE_LOOK, self._look)
                return
            future.set_exception(TimeoutError())
        self._looked_again = False

    def connection_lost(self, error: Exception | None) -> None:
        self.abort(ConnectionError("the server closed the connection"))

    def abort(self, error: ConnectionError) -> None:
        """Close at once; whoever waits gets the error."""
        self.lost = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        waiting, self._waiting = self._waiting, deque()
        for future, _ in waiting:
            if not future.done():
                future.set_exception(error)
        if self._transport is not None:
            self._transport.abort()


Find = Callable[[], Awaitable[Address]]
"""Tells where the server is, each time that a connection has to be opened."""


class Breaker:
    """Opens after some failures in a row; then one probe at a time, after a pause that doubles."""

    def __init__(self) -> None:
        self.failures = 0
        self.probing = False
        self._until = 0.0
        self._pause = _FIRST_PAUSE

    @property
    def is_open(self) -> bool:
        return self.failures >= _FAILURES

    def admits(self) -> bool:
        if not self.is_open:
            return True
        if self.probing or time.monotonic() < self._until:
            return False
        self.probing = True
        return True

    def failed(self) -> bool:
        """Count a failure; true if it opens the circuit."""
        self.failures += 1
        opened = self.failures == _FAILURES
        if opened or self.probing:
            self._until = time.monotonic() + self._pause
            self._pause = min(_LONGEST_PAUSE, self._pause * 2)
            self.probing = False
        return opened

    def succeeded(self) -> None:
        self.failures, self.probing, self._pause = 0, False, _FIRST_PAUSE


class Pipeline:
    """Commands to one server over one connection, which is opened when it is needed and again when it was lost.

    `find` tells where the server is, at each attempt to connect. `execute` raises `TimeoutError`, `OSError` (a
    `ConnectionError`), or what the server said as `hiredis.ReplyError`. `connect_timeout` (seconds) bounds an attempt
    to connect; a caller waits for it no longer than its own deadline, except for the very first. After a few failures
    in a row calls fail at once, until a single probe has found the server well again.
    """

    def __init__(self, find: Find, *, connect_timeout: float = 1.0) -> None:
        self._find = find
        self._connect_timeout = connect_timeout
        self._connection: _Connection | None = None
        self._connecting: asyncio.Task[_Connection] | None = None
        self._been_connected = False
        self._breaker = Breaker()

    async def execute(self, *command: Any, timeout: float, asking: bool = False) -> Any:
        """One command and its answer, within `timeout` seconds. `asking` goes before it to a cluster's other node."""
        breaker = self._breaker
        if breaker.failures and not breaker.admits():
            raise ConnectionError("the server failed a moment ago")
        try:
            connection = self._connection
            if connection is None or connection.lost:
                connection = await self._connect(timeout)
            until = connection.loop.time() + timeout
            if asking:
                connection.send(("ASKING",), until).add_done_callback(_heard)
            answer = await connection.send(command, until)
        except (OSError, TimeoutError, hiredis.ReplyError):
            self._failed()
            raise
        except asyncio.CancelledError:
            breaker.probing = False
            raise
        if isinstance(answer, hiredis.ReplyError):
            if str(answer).startswith(_ELSEWHERE):
                self._failed()
                self.drop()
            else:
                breaker.succeeded()
            raise answer
        if breaker.failures:
            breaker.succeeded()
        return answer

    def _failed(self) -> None:
        if self._breaker.failed():
            _log.warning("the coordination store does not answer; calls fail at once until it does")
        if self._breaker.is_open:
            self.drop()

    async def _connect(self, timeout: float) -> _Connection:
        if self._connecting is None:
            self._connecting = asyncio.create_task(self._open())
            self._connecting.add_done_callback(self._opened)
        wait = timeout if self._been_connected else max(timeout, self._connect_timeout)
        task = self._connecting
        done, _ = await asyncio.wait({task}, timeout=wait)
        if not done:
            raise TimeoutError
        return task.result()

    def _opened(self, task: asyncio.Task[_Connection]) -> None:
        self._connecting = None
        if not task.cancelled() and task.exception() is None:
            self._connection = task.result()
            self._been_connected = True

    async def _open(self) -> _Connection:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(self._connect_timeout):
            address = await self._find()
            server = address.host if address.tls else None
            _, connection = await loop.create_connection(
                lambda: _Connection(loop), address.host, address.port, ssl=address.tls, server_hostname=server
            )
            try:
                for command in address.greeting():
                    answer = await connection.send(command, loop.time() + self._connect_timeout)
                    if isinstance(answer, hiredis.ReplyError):
                        raise answer
            except BaseException:
                connection.abort(ConnectionError("the server refused the greeting"))
                raise
        return connection

    def drop(self) -> None:
        """Give the connection up: what comes next opens a new one, wherever the name leads then."""
        if self._connection is not None:
            self._connection.abort(ConnectionError("the connection was given up"))
            self._connection = None

    async def aclose(self) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait({self._connecting})
        self.drop()


def _heard(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()


async def listen(find: Find, channel: str) -> AsyncGenerator[bytes, None]:
    """Messages of a channel, over a connection of their own while it lasts; raises `OSError` or `TimeoutError`."""
    async with asyncio.timeout(_PATIENCE):
        address = await find()
        server = address.host if address.tls else None
        reader, writer = await asyncio.open_connection(
            address.host, address.port, ssl=address.tls, server_hostname=server
        )
    parser = hiredis.Reader()
    try:
        for command in (*address.greeting(), ("SUBSCRIBE", channel)):
            writer.write(hiredis.pack_command(command))
        while data := await _read(reader, writer):
            parser.feed(data)
            while (message := parser.gets()) is not False:
                if isinstance(message, hiredis.ReplyError):
                    raise ConnectionError(str(message))
                if isinstance(message, list) and message[0] == b"message":
                    yield message[2]
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
    raise ConnectionError("the server closed the connection")


async def _read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """What comes next; after a long silence the server is asked whether it is there."""
    for question in (b"PING\r\n", b""):
        try:
            async with asyncio.timeout(_PATIENCE):
                return await reader.read(65536)
        except TimeoutError:
            if not question:
                raise
            writer.write(question)
    raise TimeoutError
