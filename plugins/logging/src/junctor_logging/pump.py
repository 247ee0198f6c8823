"""Moves records into one sink, in a thread of its own; what the sink cannot take waits in its spool."""

from __future__ import annotations

import contextlib
import logging
import random
import threading
import time
from collections import Counter, deque
from typing import TYPE_CHECKING

from junctor_logging.record import from_line
from junctor_logging.sinks import Rejected, Unavailable
from junctor_logging.spool import Spool, orphans

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from junctor_logging.record import Entry
    from junctor_logging.settings import SpoolSettings
    from junctor_logging.sinks import Sink

__all__ = ["Pump"]

_log = logging.getLogger("junctor.logging")
_COUNTS = ("written", "spooled", "replayed", "failures", "rejected", "dropped", "torn")
_LOOK_FOR_ORPHANS = 30.0
_QUIET = 10.0


class Pump:
    """One sink's queue, thread and spool.

    `counts` has `written`, `spooled`, `replayed`, `failures` (batches not taken, openings that failed), `rejected`
    and `dropped`, which are records that are in no sink and in no spool.
    """

    def __init__(self, sink: Sink, label: str, folder: Path, *, spool: SpoolSettings, batch: int, memory: int) -> None:
        self.label = label
        self.wants_content = sink.wants_content
        self.counts: Counter[str] = Counter(dict.fromkeys(_COUNTS, 0))
        self._sink = sink
        self._folder = folder
        self._settings = spool
        self._batch = batch
        # Two batches in memory are what a healthy sink needs; the rest is safer on disk.
        self._inbox_limit = 2 * batch
        self._memory = memory
        self._spool = Spool(folder, max_size=spool.max_size)
        self._orphans: list[Spool] = []
        self._inbox: deque[Entry] = deque()
        self._in_flight: list[Entry] = []
        self._on_the_way = 0  # to the disk
        self._guard = threading.Lock()
        self._wake = threading.Event()
        self._over = threading.Event()
        self._closing = False
        self._given_up = False
        self._opened = False
        self._wait = 0.0
        self._retry_at = 0.0
        self._look_at = 0.0
        self._told_at: dict[str, float] = {}
        self._thread = threading.Thread(target=self._run, name=f"junctor-log-{label}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Records that are in memory or in the spool, and not yet in the sink."""
        return len(self._inbox) + len(self._in_flight) + self._on_the_way + self._spool.lines

    def offer(self, entries: Sequence[Entry]) -> None:
        """Take a batch, from the writer's thread. Never waits for the sink; may write to the spool."""
        with self._guard:
            if len(self._inbox) + len(entries) <= self._inbox_limit:
                self._inbox.extend(entries)
                self._wake.set()
                return
        self._to_spool(entries)
        self._wake.set()

    def _to_spool(self, entries: Sequence[Entry]) -> None:
        """On disk if that can be; else in memory as far as there is room; else dropped, and counted."""
        if not entries:
            return
        try:
            self._spool.append([entry.line for entry in entries])
        except OSError as error:
            with self._guard:
                room = max(0, self._memory - len(self._inbox))
                self._inbox.extend(entries[:room])
            if len(entries) > room:
                self.counts["dropped"] += len(entries) - room
                self._tell("drop", "%d records dropped: no sink, no disk: %s", len(entries) - room, error)
        else:
            self.counts["spooled"] += len(entries)

    def close(self, until: float) -> None:
        """Write or spool all that is left, by `time.monotonic() == until`; what the sink holds up is spooled then."""
        self._closing = True
        self._wake.set()
        self._thread.join(max(0.0, until - time.monotonic()))
        with self._guard:
            self._given_up = True
            left = [*self._in_flight, *self._inbox]
            self._inbox.clear()
        self._to_spool(left)
        if self._inbox:
            self.counts["dropped"] += len(self._inbox)
            self._tell("end", "%d records are lost: neither the sink nor the spool takes them", len(self._inbox))
        self._over.set()
        if not self._thread.is_alive():
            self._let_go()

    def _let_go(self) -> None:
        for spool in (self._spool, *self._orphans):
            spool.close()

    def _run(self) -> None:
        while not self._given_up:
            try:
                if not self._step():
                    break
            except Exception:  # a fault here must not end the log
                _log.exception("sink '%s': unexpected", self.label)
                self._failed("unexpected")
        with contextlib.suppress(Exception):
            self._sink.close()
        if self._given_up:  # nobody waited for this thread
            self._over.wait()
            self._let_go()

    def _step(self) -> bool:
        """One batch, or a wait; False at the end."""
        now = time.monotonic()
        if now >= self._look_at and not self._closing:
            self._look_at = now + _LOOK_FOR_ORPHANS
            self._orphans += orphans(self._folder, max_size=self._settings.max_size)
        up = now >= self._retry_at
        if up and not self._opened and (self._inbox or not self._closing):
            self._open()
        elif up and self._inbox:
            self._write_inbox()
        elif up and not self._closing and self._replay():
            pass
        elif self._inbox and not up:
            self._spool_inbox()
            return not (self._closing and self._inbox)
        elif self._closing and not self._inbox:
            return False
        else:
            pause = _LOOK_FOR_ORPHANS if up else self._retry_at - now
            self._wake.wait(max(0.001, pause))
            self._wake.clear()
        return True

    def _open(self) -> None:
        try:
            self._sink.open()
        except Exception as error:
            self._failed(f"{type(error).__name__}: {error}")
        else:
            self._opened = True

    def _write_inbox(self) -> None:
        with self._guard:
            count = min(self._batch, len(self._inbox))
            self._in_flight = [self._inbox.popleft() for _ in range(count)]
        batch = self._in_flight
        written = self._deliver(batch, again=False)
        with self._guard:
            left = [] if self._given_up else batch[written:]
            self._on_the_way = len(left)
            self._in_flight = []
        self._to_spool(left)
        self._on_the_way = 0

    def _spool_inbox(self) -> None:
        with self._guard:
            entries = list(self._inbox)
            self._on_the_way = len(entries)
            self._inbox.clear()
        self._to_spool(entries)
        self._on_the_way = 0
        if self._inbox and not self._closing:  # the disk does not take them either
            self._wake.wait(min(1.0, max(0.001, self._retry_at - time.monotonic())))
            self._wake.clear()

    def _replay(self) -> bool:
        """Bring one batch from the disk into the sink; False if nothing waits."""
        source = self._orphans[0] if self._orphans else self._spool
        if not source:
            if source is not self._spool:
                self._orphans.pop(0).close()
                return True
            return False
        lines, length = source.peek(self._batch)
        entries = []
        for line in lines:
            try:
                entries.append(from_line(line))
            except ValueError:
                self.counts["torn"] += 1
                self._tell("torn", "a line of the spool is torn, as a process that is killed leaves it")
        # The process that began this may have died after writing, or the connection with the answer on its way.
        written = self._deliver(entries, again=True)
        if written == len(entries):
            source.advance(length, len(lines))
            self.counts["replayed"] += len(entries)
        return True

    def _deliver(self, entries: list[Entry], *, again: bool) -> int:
        """Write the batch; how many of its entries, from the first on, need no further care."""
        if not entries:
            return 0
        try:
            self._sink.write(entries, again=again)
        except Rejected as error:
            return self._halved(entries, error, again=again)
        except Exception as error:
            written = error.written if isinstance(error, Unavailable) else 0
            self.counts["written"] += written
            self._failed(f"{type(error).__name__}: {error}")
            return written
        self.counts["written"] += len(entries)
        if self._wait:
            _log.info("sink '%s' takes records again", self.label)
        self._wait = 0.0
        return len(entries)

    def _halved(self, entries: list[Entry], error: Rejected, *, again: bool) -> int:
        if len(entries) == 1:
            self.counts["rejected"] += 1
            self.counts["dropped"] += 1
            self._tell("reject", "record %s is not taken, and dropped: %s", entries[0].key, error)
            return 1
        middle = len(entries) // 2
        first = self._deliver(entries[:middle], again=again)
        return first if first < middle else middle + self._deliver(entries[middle:], again=again)

    def _failed(self, reason: str) -> None:
        self.counts["failures"] += 1
        self._opened = False
        with contextlib.suppress(Exception):
            self._sink.close()
        self._wait = min(self._settings.longest_retry, self._wait * 2 or self._settings.retry)
        self._retry_at = time.monotonic() + self._wait * random.uniform(0.8, 1.2)
        self._tell("down", "sink '%s' takes no records, they wait in %s: %s", self.label, self._folder, reason[:300])

    def _tell(self, what: str, message: str, *values: object) -> None:
        """A line in the log, but not the same one over and over."""
        now = time.monotonic()
        if now - self._told_at.get(what, -_QUIET) >= _QUIET:
            self._told_at[what] = now
            _log.warning(message, *values)
