"""Takes captured exchanges from the request's path and hands records to the sinks."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from junctor_logging.record import without_content

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from junctor_logging.build import Builder
    from junctor_logging.capture import Captured
    from junctor_logging.pump import Pump
    from junctor_logging.record import Entry

__all__ = ["Writer"]

_log = logging.getLogger("junctor.logging")
# Records made in one go. The thread then offers the interpreter to the event loop, which waits for it.
_SLICE = 32


class Writer:
    """The bounded queue and the thread behind it. `seen` is told every slice of records, in that thread."""

    def __init__(
        self,
        builder: Builder,
        pumps: Sequence[Pump],
        *,
        limit: int,
        batch: int,
        flush: float,
        seen: Callable[[Sequence[Entry]], None],
    ) -> None:
        self.records = 0
        self.dropped = 0
        self._builder = builder
        self._pumps = pumps
        self._limit = limit
        self._batch = batch
        self._flush = flush
        self._seen = seen
        self._queue: deque[Captured] = deque()
        self._in_hand = 0
        self._wake = threading.Event()
        self._closing = False
        self._told_at = 0.0
        self._thread = threading.Thread(target=self._run, name="junctor-log", daemon=True)

    def start(self) -> None:
        for pump in self._pumps:
            pump.start()
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Exchanges that no sink has been offered yet, with those whose records are just being made."""
        return len(self._queue) + self._in_hand

    def put(self, taken: Captured) -> None:
        """Take one, from the event loop. Never waits; a full queue drops it and counts that."""
        queue = self._queue
        waiting = len(queue)
        if waiting >= self._limit:
            self.dropped += 1
            return
        queue.append(taken)
        if waiting == self._batch:
            self._wake.set()

    def close(self, seconds: float) -> None:
        """Hand on everything and close the sinks; they have so many seconds before the rest is spooled. Blocks."""
        until = time.monotonic() + seconds
        self._closing = True
        self._wake.set()
        self._thread.join()
        for pump in self._pumps:
            pump.close(until)

    def _run(self) -> None:
        dropped = 0
        while True:
            self._wake.wait(self._flush)
            self._wake.clear()
            last = self._closing
            while self._queue:
                try:
                    self._hand_on()
                except Exception:  # a fault here must not end the log
                    self.dropped += self._in_hand
                    _log.exception("%d records may be lost", self._in_hand)
                self._in_hand = 0
            if self.dropped > dropped and (last or time.monotonic() - self._told_at >= 10.0):
                self._told_at = time.monotonic()
                _log.error("%d records dropped: the queue is full (queue: %d)", self.dropped - dropped, self._limit)
                dropped = self.dropped
            if last:
                return

    def _hand_on(self) -> None:
        """One batch out of the queue, made into records and given to every sink."""
        batch: list[Entry] = []
        while self._queue and len(batch) < self._batch:
            count = min(_SLICE, len(self._queue), self._batch - len(batch))
            self._in_hand += count  # before they leave the queue: rather counted twice for a moment than not at all
            made = self._slice(count)
            self._seen(made)
            batch += made
            time.sleep(0)
        self.records += len(batch)
        plain: list[Entry] | None = None
        for pump in self._pumps:
            if pump.wants_content:
                pump.offer(batch)
                continue
            if plain is None:
                plain = [without_content(entry) for entry in batch]
            pump.offer(plain)

    def _slice(self, count: int) -> list[Entry]:
        made = self._each(self._builder.build, [self._queue.popleft() for _ in range(count)])
        # One search through all of them: there may be many secrets to look for, and hardly ever one to be found.
        return self._each(self._builder.cleaned, made) if self._builder.knows_of(made) else made

    def _each(self, make: Callable[[Any], Entry], given: Sequence[Captured] | Sequence[Entry]) -> list[Entry]:
        """Those that can be made: one exchange that cannot be told must not take the others with it."""
        made: list[Entry] = []
        for one in given:
            try:
                made.append(make(one))
            except Exception:
                self.dropped += 1
                _log.exception("request %s: its record could not be made", one.id)
        return made
