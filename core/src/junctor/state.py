"""Coordination state: counters, leases, locks and messages, in this process or in Redis.

A plugin that needs more than the simple operations brings a `Script`: one atomic step, written twice, as Lua for Redis
and as a plain function over the dictionary of the memory store. The contract tests run both and compare.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from junctor.errors import ConfigError, JunctorError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from junctor.settings import StateSettings

__all__ = ["Entries", "MemoryState", "Script", "State", "StateUnavailable", "open_state"]


class StateUnavailable(JunctorError):
    """The store did not answer in time, or not at all. The caller decides what that means for the request."""


class Entries:
    """The memory store's keys as a `Script` sees them: values with an expiry, the oldest dropped over a limit."""

    def __init__(self, max_entries: int) -> None:
        self._values: OrderedDict[str, tuple[Any, float]] = OrderedDict()
        self._max = max_entries

    def now(self) -> float:
        """Seconds since the epoch."""
        return time.time()

    def get(self, key: str) -> Any:
        value, expires = self._values.get(key, (None, 0.0))
        if expires and expires <= self.now():
            self._values.pop(key, None)
            return None
        return value

    def set(self, key: str, value: Any, ttl: float | None = None) -> None:
        """Keep a value; `ttl` in seconds."""
        self._values[key] = (value, self.now() + ttl if ttl else 0.0)
        self._values.move_to_end(key)
        self._trim()

    def delete(self, key: str) -> bool:
        """Forget a value; False if it was not there, or not any more."""
        found = self.get(key) is not None
        self._values.pop(key, None)
        return found

    def replace(self, key: str, value: Any) -> None:
        """Keep another value under the expiry that the key has."""
        expires = self._values[key][1] if self.get(key) is not None else 0.0
        self._values[key] = (value, expires)
        self._trim()

    def _trim(self) -> None:
        while len(self._values) > self._max:
            self._values.popitem(last=False)

    def __len__(self) -> int:
        return len(self._values)


@dataclass(frozen=True)
class Script:
    """One atomic step. `lua` is given KEYS and ARGV, `memory` the entries, the keys and the arguments.

    Keys of one call must share a hash tag (`{…}`), so that they live on one node of a Redis Cluster. Both sides return
    the same values: integers, strings as bytes, lists of these, or None.
    """

    name: str
    lua: str
    memory: Callable[[Entries, Sequence[str], Sequence[Any]], Any]


class State(Protocol):
    """Every operation is atomic, bounded in time, and raises `StateUnavailable`."""

    shared: bool

    async def get(self, key: str) -> bytes | None: ...
    async def set(self, key: str, value: bytes, *, ttl: float | None = None, only_if_absent: bool = False) -> bool: ...
    async def delete(self, *keys: str) -> int: ...
    async def increment(self, key: str, by: int = 1, *, ttl: float | None = None) -> int: ...
    async def run(self, script: Script, keys: Sequence[str], arguments: Sequence[Any]) -> Any: ...
    async def time(self) -> float: ...
    async def publish(self, channel: str, message: bytes) -> None: ...
    def subscribe(self, channel: str) -> AsyncIterator[bytes]: ...
    async def aclose(self) -> None: ...


class MemoryState:
    """This process's own store. Single steps never wait, so the event loop itself is the lock."""

    shared = False

    def __init__(self, max_entries: int = 200_000) -> None:
        self.entries = Entries(max_entries)
        self._listeners: dict[str, set[asyncio.Queue[bytes]]] = {}

    async def get(self, key: str) -> bytes | None:
        value: bytes | None = self.entries.get(key)
        return value

    async def set(self, key: str, value: bytes, *, ttl: float | None = None, only_if_absent: bool = False) -> bool:
        if only_if_absent and self.entries.get(key) is not None:
            return False
        self.entries.set(key, value, ttl)
        return True

    async def delete(self, *keys: str) -> int:
        return sum(self.entries.delete(key) for key in keys)

    async def increment(self, key: str, by: int = 1, *, ttl: float | None = None) -> int:
        value = int(self.entries.get(key) or 0) + by
        if ttl is None:
            self.entries.replace(key, b"%d" % value)
        else:
            self.entries.set(key, b"%d" % value, ttl)
        return value

    async def run(self, script: Script, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        return script.memory(self.entries, keys, arguments)

    async def time(self) -> float:
        return self.entries.now()

    async def publish(self, channel: str, message: bytes) -> None:
        for queue in self._listeners.get(channel, ()):
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(message)

    async def subscribe(self, channel: str) -> AsyncIterator[bytes]:
        queue: asyncio.Queue[bytes] = asyncio.Queue(maxsize=1000)
        listeners = self._listeners.setdefault(channel, set())
        listeners.add(queue)
        try:
            while True:
                yield await queue.get()
        finally:
            listeners.discard(queue)
            if not listeners:
                self._listeners.pop(channel, None)

    async def aclose(self) -> None:
        self._listeners.clear()


def open_state(settings: StateSettings) -> State:
    """Open the store that `state.url` names; redis is imported only for a Redis address."""
    url = settings.url.get_secret_value()
    if url == "memory://":
        return MemoryState(settings.max_entries)
    try:
        from junctor.redis_state import RedisState
    except ImportError:
        raise ConfigError("state.url: Redis needs its client; run `pip install 'junctor[redis]'`") from None
    return RedisState(url, prefix=settings.prefix, timeout=settings.timeout)
