"""Counts a stream's output while it runs, and reserves more of it before it is needed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from junctor import Exchange, GatewayError

__all__ = ["Meter"]

_SMALLEST_STEP = 64
_SLACK = 1.25
_FOREVER = float("inf")


class Meter:
    """A `Transform` that changes nothing. `extend(tokens)` answers None when more was reserved.

    Otherwise it answers the error that ends the stream once it has used up what it holds, or raises: then the stream
    goes on, and asks again later. What arrives while the question runs is the overshoot that the bound allows.
    """

    def __init__(
        self,
        exchange: Exchange,
        reserved: int,
        per_event: float,
        extend: Callable[[int], Awaitable[GatewayError | None]],
        *,
        bounded: bool = False,
    ) -> None:
        self._exchange = exchange
        self._reserved = float(reserved)
        self._per_event = per_event
        self._extend = extend
        self._step = max(_SMALLEST_STEP, reserved // 4)
        # The provider keeps to a `max_tokens`, and events are not quite tokens: no question before it clearly does not.
        self._trigger = reserved * _SLACK + 16 if bounded else max(0.0, self._reserved - self._step / 2)
        self._events = 0
        self._refused: GatewayError | None = None
        self._task: asyncio.Task[None] | None = None

    def feed(self, events: bytes) -> bytes:
        self._events += events.count(b"data:")
        produced = self._events * self._per_event
        if produced > self._trigger:
            if not self._exchange.attempts:  # from a cache: costs nothing
                self._trigger = _FOREVER
            elif self._refused is not None:
                if produced > self._reserved:
                    raise self._refused
            elif self._task is None:
                self._task = asyncio.create_task(self._more(produced))
        return events

    async def _more(self, produced: float) -> None:
        step = self._step
        try:
            refused = await self._extend(step)
        except Exception:  # the store is away; what is produced is settled in any case
            self._trigger = produced + step / 2
        else:
            if refused is None:
                self._reserved += step
                self._step = min(4096, step * 2)
                self._trigger = self._reserved - self._step / 2
            self._refused = refused
        self._task = None

    def let_finish(self) -> None:
        """Ask no more."""
        self._trigger = _FOREVER

    def flush(self) -> bytes:
        return b""

    def whole(self, body: bytes) -> bytes:
        return body

    async def aclose(self) -> None:
        """Wait for the question that is on its way: its answer must be settled as well."""
        if self._task is not None:
            await asyncio.wait({self._task})
