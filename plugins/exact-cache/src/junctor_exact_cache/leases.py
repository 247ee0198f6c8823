"""One flight across replicas: who calls the provider for a key is a lease in the coordination state."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from junctor.state import Script, StateUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from junctor.state import Entries, State

    from junctor_exact_cache.entry import Entry

__all__ = ["Leases"]

_TTL = 9.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 0.25
# What a leader leaves behind whose answer is not kept: there is nothing to wait for.
_NOTHING = b"-"
_NOTHING_TTL = 2.0


def _release(entries: Entries, keys: Sequence[str], arguments: Sequence[Any]) -> int:
    token, milliseconds = arguments
    if entries.get(keys[0]) != token:
        return 0
    if int(milliseconds):
        entries.set(keys[0], _NOTHING, int(milliseconds) / 1000)
    else:
        entries.delete(keys[0])
    return 1


def _renew(entries: Entries, keys: Sequence[str], arguments: Sequence[Any]) -> int:
    token, milliseconds = arguments
    if entries.get(keys[0]) != token:
        return 0
    entries.set(keys[0], token, int(milliseconds) / 1000)
    return 1


_RELEASE = Script(
    "exact-cache-release",
    "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end "
    "if tonumber(ARGV[2]) > 0 then redis.call('SET', KEYS[1], '-', 'PX', ARGV[2]) "
    "else redis.call('DEL', KEYS[1]) end return 1",
    _release,
)
_RENEW = Script(
    "exact-cache-renew",
    "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end redis.call('PEXPIRE', KEYS[1], ARGV[2]) return 1",
    _renew,
)


class Leases:
    """The leases of this process. `ttl` is in seconds: so long the others wait for a leader whose process died."""

    def __init__(self, state: State, *, ttl: float = _TTL) -> None:
        self._state = state
        self._ttl = ttl
        self._mine: dict[str, bytes] = {}

    async def take_or_wait(
        self, key: str, look: Callable[[], Awaitable[Entry | None]], *, until: float
    ) -> Entry | None:
        """Become the one who calls the provider (None), or wait for the entry of the one who is.

        `look` asks the store of entries. None also when there is nothing to wait for any more: the time `until` (of the
        loop's clock) is over, the state does not answer, or the other's answer is not kept.
        """
        pause = _FIRST_PAUSE
        clock = asyncio.get_running_loop().time
        try:
            while not await self._take(key):
                if await self._state.get(key) == _NOTHING or clock() >= until:
                    return None
                await asyncio.sleep(min(pause, max(0.0, until - clock())))
                pause = min(_LONGEST_PAUSE, pause * 1.5)
                entry = await look()
                if entry is not None:
                    return entry
        except StateUnavailable:
            return None
        # The other may have put its entry away between our look and its release.
        return await look() if pause > _FIRST_PAUSE else None

    async def _take(self, key: str) -> bool:
        token = os.urandom(12).hex().encode()
        if not await self._state.set(key, token, ttl=self._ttl, only_if_absent=True):
            return False
        self._mine[key] = token
        return True

    async def give_back(self, key: str, *, kept: bool, failed: bool) -> None:
        """The flight is over: the next one may fly (`failed`), read the entry (`kept`), or need not wait."""
        token = self._mine.pop(key, None)
        if token is None:
            return
        pause = 0 if kept or failed else round(_NOTHING_TTL * 1000)
        with suppress(StateUnavailable):  # it ends by itself
            await self._state.run(_RELEASE, [key], [token, pause])

    async def keep(self) -> None:
        """Renew what is held, for as long as it is held. Cancel this task at the end."""
        while True:
            await asyncio.sleep(self._ttl / 3)
            for key, token in list(self._mine.items()):
                try:
                    await self._state.run(_RENEW, [key], [token, round(self._ttl * 1000)])
                except StateUnavailable:
                    break
