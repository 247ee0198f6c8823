"""Where entries are kept: the `Store` protocol, the store in memory, and the guard that bounds what a fault costs."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Protocol, TypeVar

from junctor_exact_cache.entry import Stats

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from junctor_exact_cache.entry import Entry, Filter
    from junctor_exact_cache.settings import StoreSettings

__all__ = ["Guard", "MemoryStore", "Store", "StoreError", "open_store"]

_T = TypeVar("_T")
_log = logging.getLogger("junctor.exact_cache")
_SLICE = 5000


class StoreError(Exception):
    """The store did not do what it was asked to, or not in time."""


class Store(Protocol):
    """A place for entries. Every call raises `StoreError`; `shared` tells whether other processes see the same entries.

    `get` never returns an entry whose time is over. `purge` returns how many went.
    """

    shared: bool

    async def open(self) -> None: ...
    async def get(self, id: str) -> Entry | None: ...  # noqa: A002
    async def put(self, entry: Entry) -> None: ...
    async def purge(self, which: Filter) -> int: ...
    async def stats(self) -> Stats: ...
    async def aclose(self) -> None: ...


class MemoryStore:
    """Entries of this process: at most so many bytes, those used least recently go first."""

    shared = False

    def __init__(self, max_bytes: int) -> None:
        self._max = max_bytes
        self._bytes = 0
        self._entries: OrderedDict[str, Entry] = OrderedDict()

    async def open(self) -> None:
        """Nothing to open."""

    async def get(self, id: str) -> Entry | None:  # noqa: A002
        entry = self._entries.get(id)
        if entry is None:
            return None
        if entry.expires <= time.time():
            self._drop(id)
            return None
        self._entries.move_to_end(id)
        return entry

    async def put(self, entry: Entry) -> None:
        self._drop(entry.id)
        if entry.size > self._max:
            return
        self._entries[entry.id] = entry
        self._bytes += entry.size
        while self._bytes > self._max:
            self._drop(next(iter(self._entries)))

    def _drop(self, id: str) -> None:  # noqa: A002
        entry = self._entries.pop(id, None)
        if entry is not None:
            self._bytes -= entry.size

    async def purge(self, which: Filter) -> int:
        ids = [which.id] if which.id is not None else list(self._entries)
        gone = 0
        for start in range(0, len(ids), _SLICE):
            for id_ in ids[start : start + _SLICE]:
                entry = self._entries.get(id_)
                if entry is not None and which.fits(entry):
                    self._drop(id_)
                    gone += 1
            await asyncio.sleep(0)
        return gone

    async def stats(self) -> Stats:
        return Stats(len(self._entries), self._bytes)

    async def aclose(self) -> None:
        self._entries.clear()
        self._bytes = 0


class Guard:
    """Bounds what a faulty store costs a request: a limit in time, and no calls at all for a while after failures.

    `timeout` is in seconds; None for a store that cannot fail, which then costs no timer. After three failures in a row
    the store is left alone for a second, then longer, up to 30; the first call after that is the probe.
    """

    _FAILURES = 3
    _LONGEST = 30.0

    def __init__(self, timeout: float | None) -> None:
        self._timeout = timeout
        self._in_a_row = 0
        self._until = 0.0
        self._pause = 1.0
        self.failures = 0

    @property
    def resting(self) -> bool:
        """Whether the store is left alone now."""
        return self._in_a_row >= self._FAILURES and time.monotonic() < self._until

    async def __call__(self, call: Awaitable[_T], *, timeout: float | None = None) -> _T:
        """Await one call of the store; raises `StoreError`."""
        if self._timeout is None:
            return await call
        seconds = timeout or self._timeout
        try:
            async with asyncio.timeout(seconds):
                result = await call
        except TimeoutError as error:
            self._failed(f"no answer within {seconds:g} s")
            raise StoreError("the store did not answer in time") from error
        except StoreError as error:
            self._failed(str(error))
            raise
        if self._in_a_row:
            _log.info("the store of the exact cache answers again")
            self._in_a_row, self._pause, self._until = 0, 1.0, 0.0
        return result

    def _failed(self, what: str) -> None:
        self.failures += 1
        self._in_a_row += 1
        # Calls that were under way when the rest began fail within it, and are no reason for a longer one.
        if self._in_a_row >= self._FAILURES and not self.resting:
            self._until = time.monotonic() + self._pause
            _log.warning("the store of the exact cache is left alone for %g s: %s", self._pause, what)
            self._pause = min(self._LONGEST, self._pause * 2)


def open_store(settings: StoreSettings) -> Store:
    """The store that the URL names; its client is imported only then. Nothing is opened yet."""
    url = settings.url.get_secret_value()
    if url.startswith("sqlite:///"):
        from junctor_exact_cache.sqlite_store import SQLiteStore

        path = url.removeprefix("sqlite:///")
        return SQLiteStore(path, max_bytes=settings.max_bytes, page_cache=settings.page_cache, timeout=settings.timeout)
    if url != "memory://":
        from junctor_exact_cache.redis_store import RedisStore

        return RedisStore(url, prefix=settings.prefix, timeout=settings.timeout)
    return MemoryStore(settings.max_bytes)
