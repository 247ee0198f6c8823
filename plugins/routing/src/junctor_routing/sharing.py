"""What workers tell each other about the use of targets, in the background: a request never waits for the store.

Every `share_every` each worker adds what it counted to the store's counters of the minute and reads what all counted.
So a worker's knowledge of the others is at most that old (plus one round trip); while the store is down it counts on
its own figures alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import TYPE_CHECKING

from junctor.state import StateUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from junctor.state import State

    from junctor_routing.live import Live

__all__ = ["Sharing"]

_log = logging.getLogger("junctor.routing")
_KEEP = 180.0
_KINDS = ("requests", "tokens")


class Sharing:
    """One task that keeps the figures of all limited targets in step with the store."""

    def __init__(self, state: State, lives: Mapping[str, Live], every: float, full: Callable[[float], None]) -> None:
        self._state = state
        self._lives = lives
        self._every = every
        self._full = full
        self._told: dict[str, tuple[int, list[float]]] = {}
        self._told_full: dict[str, float] = {}
        self._task: asyncio.Task[None] | None = None
        self.failures = 0

    def open(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def aclose(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._every)
            try:
                await self.exchange()
            except StateUnavailable as error:
                self.failures += 1
                if self.failures == 1 or self.failures % 60 == 0:
                    _log.warning("routing: limits of targets are not shared for now: %s", error)
            except Exception:
                self.failures += 1
                _log.exception("routing: limits of targets are not shared for now")

    async def exchange(self) -> None:
        """Tell and hear once. Raises `StateUnavailable`."""
        for name, live in self._lives.items():
            if live.limits.known:
                await self._counts(name, live)
            await self._fullness(name, live)

    async def _counts(self, name: str, live: Live) -> None:
        window = live.window
        window.turn(time.time())
        minute = window.minute
        told_minute, told = self._told.get(name, (minute - 1, [0.0, 0.0]))
        if told_minute == minute - 1:
            # What was counted after the last time, in a minute that is over by now.
            await self._tell(f"routing:{{{name}}}:{told_minute}", window.before, told, window.others_before)
        if told_minute != minute:
            told = [0.0, 0.0]
            self._told[name] = (minute, told)
        if window.minute == minute:
            await self._tell(f"routing:{{{name}}}:{minute}", window.now_counts, told, window.others)

    async def _tell(self, key: str, own: list[float], told: list[float], others: list[float]) -> None:
        """Add what the store was not told yet; the rest of its sum is the others'. All lists are changed in place."""
        for place, kind in enumerate(_KINDS):
            more = round(own[place] - told[place])
            total = await self._state.increment(f"{key}:{kind}", more, ttl=_KEEP)
            told[place] += more
            others[place] = max(0.0, total - told[place])

    async def _fullness(self, name: str, live: Live) -> None:
        """A target that answered 'no more' to one worker is full for all; the key's life is the time that is left."""
        key = f"routing:{{{name}}}:full"
        now = time.monotonic()
        until = live.limits.full_until
        if until > now and self._told_full.get(name) != until:
            await self._state.set(key, str(time.time() + until - now).encode(), ttl=until - now)
            self._told_full[name] = until
        elif until <= now and (heard := await self._state.get(key)) is not None:
            until = now + max(0.0, float(heard) - time.time())
            live.limits.full_until = until
            self._told_full[name] = until
            self._full(until)
