"""The connections to one origin: reuse, a limit, and a fair line of those who wait."""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

from junctor._connection import Connection
from junctor.errors import ErrorKind

if TYPE_CHECKING:
    from junctor._connection import HTTPLimits, Origin

__all__ = ["Pool"]


class Pool:
    """The connections to one origin: a stack of idle ones, a limit, and a fair line of those who wait."""

    def __init__(self, origin: Origin, limits: HTTPLimits, *, context: ssl.SSLContext | None) -> None:
        self.origin = origin
        self.limits = limits
        self.closed = False
        self.connections: set[Connection] = set()
        self._opening = 0
        self._context = context
        self._idle: list[Connection] = []
        self._waiting: deque[asyncio.Future[Connection | None]] = deque()

    @property
    def empty(self) -> bool:
        """Nothing is open, is being opened or waits."""
        return not (self.connections or self._opening or self._waiting)

    def idle(self) -> Connection | None:
        """The connection used last, alive as far as anybody can know, or None."""
        while self._idle:
            connection = self._idle.pop()
            if connection.wake():
                return connection
        return None

    async def acquire(self, seconds: float) -> Connection:
        """An idle connection, or a new one, or the next that somebody gives back; within `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                while True:
                    connection = self.idle()
                    if connection is not None:
                        return connection
                    if len(self.connections) + self._opening < self.limits.max_connections_per_origin:
                        return await self._open()
                    connection = await self._wait()
                    if connection is None:
                        self._opening -= 1  # kept for us by `_slot_is_free`
                        return await self._open()
                    if connection.wake():
                        return connection
        except TimeoutError:
            what = f"no connection within {seconds:g} s"
            raise self.origin.error(ErrorKind.TIMEOUT, what, sent=False) from None

    async def replace(self, dead: Connection, seconds: float) -> Connection:
        """A new connection in the place of one that turned out to be closed; it does not wait in the line."""
        dead.pool = None
        self.connections.discard(dead)
        try:
            async with asyncio.timeout(seconds):
                return await self._open()
        except TimeoutError:
            what = f"no connection within {seconds:g} s"
            raise self.origin.error(ErrorKind.TIMEOUT, what, sent=False) from None

    async def _wait(self) -> Connection | None:
        if len(self._waiting) >= self.limits.max_waiting_per_origin:
            what = f"{len(self._waiting)} requests wait for a connection already"
            raise self.origin.error(ErrorKind.CONNECTION, what, sent=False)
        waiter: asyncio.Future[Connection | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.cancelled():
                with suppress(ValueError):  # who frees a connection may have met it first
                    self._waiting.remove(waiter)
            elif (given := waiter.result()) is not None:
                self.release(given)
            else:
                self._opening -= 1
                self._slot_is_free()
            raise

    async def _open(self) -> Connection:
        loop = asyncio.get_running_loop()
        origin = self.origin
        self._opening += 1
        connection = None
        try:
            if self.closed:
                raise origin.error(ErrorKind.CONNECTION, "the client is closed", sent=False)
            _, connection = await loop.create_connection(
                lambda: Connection(self, loop),
                origin.host,
                origin.port,
                ssl=self._context,
                server_hostname=origin.host if self._context else None,
            )
        except (OSError, UnicodeError) as exc:
            kind = ErrorKind.TIMEOUT if isinstance(exc, TimeoutError) else ErrorKind.CONNECTION
            what = "TLS failed" if isinstance(exc, ssl.SSLError) else "cannot connect"
            raise origin.error(kind, f"{what}: {exc}", sent=False) from exc
        finally:
            self._opening -= 1
            if connection is None or connection.lost.done():
                self._slot_is_free()
            else:
                self.connections.add(connection)
        if self.closed:
            connection.abort("the client is closed")
        return connection

    def release(self, connection: Connection) -> None:
        """Hand the connection to the first in the line, or keep it, or close it if enough lie idle."""
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(connection)
                return
        if connection.closed:
            return
        if len(self._idle) < self.limits.max_idle_per_origin and not self.closed:
            self._idle.append(connection)
            connection.rest()
        else:
            connection.abort("enough lie idle")

    def forget(self, connection: Connection) -> None:
        """The connection is gone; its place is free."""
        if connection.resting and connection in self._idle:
            self._idle.remove(connection)
        if connection in self.connections:
            self.connections.discard(connection)
            self._slot_is_free()

    def _slot_is_free(self) -> None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                self._opening += 1
                waiter.set_result(None)
                return

    async def aclose(self) -> None:
        """Close every connection and wait until the sockets are closed."""
        self.closed = True
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                self._opening += 1
                waiter.set_result(None)
        connections = list(self.connections)
        for connection in connections:
            connection.abort("the client is closed")
        if connections:
            await asyncio.wait([connection.lost for connection in connections])
