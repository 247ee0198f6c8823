"""Circuits that open or close here are told to the other workers and replicas, and theirs are taken over.

A hash in the coordination store holds the last word on each circuit; a message says that it has changed. Nothing of
this is in a request's way. While the store does not answer every worker has its own circuits.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from junctor.state import Script, StateUnavailable

from junctor_fallback.circuit import CircuitState

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from junctor.state import Entries, State

    from junctor_fallback.circuit import Circuit
    from junctor_fallback.settings import FallbackSettings

__all__ = ["Sharing"]

_log = logging.getLogger("junctor.fallback")
_KEY = "fallback:{circuits}"
_CHANNEL = "fallback:changed"
_KEPT = 3600
_PAUSE = 0.05

_LUA = """
local t = redis.call('TIME')
local now = tonumber(t[1]) + tonumber(t[2]) / 1000000
for i = 2, #ARGV, 3 do
  local value = string.format('%.3f|', now + tonumber(ARGV[i + 1])) .. ARGV[i + 2]
  redis.call('HSET', KEYS[1], ARGV[i], value)
end
if #ARGV > 1 then redis.call('EXPIRE', KEYS[1], ARGV[1]) end
local answer = {string.format('%.3f', now)}
for _, item in ipairs(redis.call('HGETALL', KEYS[1])) do answer[#answer + 1] = item end
return answer
"""


def _memory(entries: Entries, keys: Sequence[str], arguments: Sequence[Any]) -> list[bytes]:
    now = entries.now()
    held: dict[bytes, bytes] = dict(entries.get(keys[0]) or {})
    for name, seconds, value in zip(arguments[1::3], arguments[2::3], arguments[3::3], strict=True):
        held[str(name).encode()] = f"{now + float(seconds):.3f}|{value}".encode()
    if len(arguments) > 1:
        entries.set(keys[0], held, float(arguments[0]))
    return [f"{now:.3f}".encode(), *(item for pair in held.items() for item in pair)]


SYNC = Script("fallback.sync", _LUA, _memory)
"""Takes (name, seconds from now, what) of each change, returns the store's time and the last word on every circuit."""


class Sharing:
    """Keeps the circuits of this worker and of the others together. `changed` is called by the circuits."""

    def __init__(self, state: State, settings: FallbackSettings) -> None:
        self._state = state
        self._every = settings.sync
        self._me = os.urandom(6).hex()
        self._changes: dict[str, Circuit] = {}
        self._seen: dict[str, str] = {}
        self._wake = asyncio.Event()
        self._down = False

    def changed(self, circuit: Circuit) -> None:
        self._changes[circuit.name] = circuit
        self._wake.set()

    @asynccontextmanager
    async def over(self, circuits: Mapping[str, Circuit]) -> AsyncIterator[None]:
        """Share these for as long as the block runs."""
        await self._sync(circuits)
        tasks = [asyncio.create_task(self._keep_in_step(circuits))]
        if self._state.shared:
            tasks.append(asyncio.create_task(self._listen()))
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _listen(self) -> None:
        while True:
            try:
                async for _ in self._state.subscribe(_CHANNEL):
                    self._wake.set()
            except StateUnavailable:
                pass
            await asyncio.sleep(self._every)

    async def _keep_in_step(self, circuits: Mapping[str, Circuit]) -> None:
        while True:
            try:
                # In one process nobody else changes anything.
                async with asyncio.timeout(self._every if self._state.shared else None):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            await self._sync(circuits)
            await asyncio.sleep(_PAUSE)

    async def _sync(self, circuits: Mapping[str, Circuit]) -> None:
        changes, self._changes = self._changes, {}
        arguments: list[Any] = [_KEPT]
        now = time.monotonic()
        for name, circuit in changes.items():
            what = "closed" if circuit.state is CircuitState.CLOSED else circuit.state.value
            arguments += [name, f"{max(0.0, circuit.until - now):.3f}", f"{what}|{self._me}|{circuit.reason}"]
        try:
            answer = await self._state.run(SYNC, [_KEY], arguments)
            if changes:
                await self._state.publish(_CHANNEL, self._me.encode())
        except StateUnavailable as error:
            self._changes = {**changes, **self._changes}
            if not self._down:
                self._down = True
                _log.warning("circuits are not shared with other workers for now: %s", error)
            return
        if self._down:
            self._down = False
            _log.info("circuits are shared again")
        self._adopt(circuits, answer)

    def _adopt(self, circuits: Mapping[str, Circuit], answer: Sequence[bytes]) -> None:
        store_now, now = float(answer[0]), time.monotonic()
        for name, value in zip(answer[1::2], answer[2::2], strict=True):
            self._take(circuits.get(name.decode()), name.decode(), value.decode(), now - store_now, now)

    def _take(self, circuit: Circuit | None, name: str, value: str, offset: float, now: float) -> None:
        if circuit is None or self._seen.get(name) == value:
            return
        self._seen[name] = value
        until, what, by, reason = value.split("|", 3)
        if by == self._me:
            return
        if what == "closed":
            circuit.adopt_closed(now)
        elif (there := float(until) + offset) > now:
            # Who opened it probes first; the others wait a little longer for its word.
            resting = what == CircuitState.RESTING.value
            circuit.adopt(now, there + (0 if resting else self._every), reason, resting=resting)
