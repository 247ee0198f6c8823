"""The last records, in memory, and those who watch them come."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from typing import TYPE_CHECKING

import orjson

from junctor_logging.record import without_content

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from junctor_logging.record import Entry

__all__ = ["Recent", "Watcher"]


class Watcher:
    """One who watches: a bounded queue; if it is not read in time, the oldest go, and `missed` says how many."""

    def __init__(self, limit: int) -> None:
        self.queue: asyncio.Queue[bytes] = asyncio.Queue(limit)
        self.missed = 0

    def put(self, line: bytes) -> None:
        if self.queue.full():
            self.queue.get_nowait()
            self.missed += 1
        self.queue.put_nowait(line)


class Recent:
    """A ring of the last `limit` records. Filled from the writer's thread, read from the event loop."""

    def __init__(self, limit: int) -> None:
        self._ring: deque[Entry] = deque(maxlen=limit)
        self._guard = threading.Lock()
        self._watchers: set[Watcher] = set()
        self._loop: asyncio.AbstractEventLoop | None = None

    def bind(self, loop: asyncio.AbstractEventLoop | None) -> None:
        """Say in which loop the watchers are."""
        self._loop = loop

    def add(self, entries: Sequence[Entry]) -> None:
        """Keep these, without content, and tell the watchers."""
        seen = [without_content(entry) for entry in entries]
        with self._guard:
            self._ring.extend(seen)
        loop = self._loop
        if self._watchers and loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._tell, [orjson.dumps(one.data) for one in seen])

    def _tell(self, lines: Sequence[bytes]) -> None:
        for watcher in self._watchers:
            for line in lines:
                watcher.put(line)

    def find(self, limit: int, where: Mapping[str, str], *, before: str = "") -> list[Entry]:
        """The newest first; `where` wants equal values, `before` those that came before this record."""
        with self._guard:
            ring = list(self._ring)
        found: list[Entry] = []
        if before:
            place = next((place for place, one in enumerate(ring) if one.key == before), 0)
            ring = ring[:place]
        for one in reversed(ring):
            if all(getattr(one.brief, name) == value for name, value in where.items()):
                found.append(one)
                if len(found) == limit:
                    break
        return found

    @property
    def watching(self) -> int:
        return len(self._watchers)

    def watch(self, limit: int) -> Watcher:
        """Begin to watch, in the event loop; end it with `leave`."""
        watcher = Watcher(limit)
        self._watchers.add(watcher)
        return watcher

    def leave(self, watcher: Watcher) -> None:
        self._watchers.discard(watcher)
