"""Who leads a flight, in this process and across replicas, and that it is over for everybody when it is."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from junctor_exact_cache.flight import Flight
from junctor_exact_cache.leases import Leases

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from junctor import Exchange
    from junctor.state import State

    from junctor_exact_cache.entry import Entry
    from junctor_exact_cache.settings import ExactCacheSettings

__all__ = ["Flights"]


class Flights(dict[str, Flight]):
    """The flights of this process that can be joined, by the key's id. `state` is None where each is for itself."""

    def __init__(self, settings: ExactCacheSettings, state: State | None) -> None:
        super().__init__()
        self._limit = max(settings.flight_buffer, settings.max_entry) if settings.one_flight else settings.max_entry
        self._patience = settings.flight_patience
        self._wait = settings.flight_wait
        self.leases = Leases(state) if state is not None else None

    def record(self, exchange: Exchange) -> Flight:
        """Have this exchange's own answer recorded; nobody can join yet."""
        flight = Flight(exchange, limit=self._limit, patience=self._patience)
        exchange.on_answer.append(flight.begin)
        return flight

    async def lead(self, id_: str, flight: Flight, look: Callable[[], Awaitable[Entry | None]]) -> Entry | None:
        """Let others join from now on; the entry if another replica has led and answered meanwhile.

        `look` asks the store of entries.
        """
        self[id_] = flight
        if self.leases is None:
            return None
        try:
            until = min(self._wait, flight.leader.deadline - time.monotonic())
            until += asyncio.get_running_loop().time()
            entry = await self.leases.take_or_wait(_lease(id_), look, until=until)
        except BaseException:
            self._land(id_, flight)
            flight.fail()
            raise
        if entry is not None:
            self._land(id_, flight)
            flight.resolve(entry)
        return entry

    async def end(self, id_: str, flight: Flight, *, kept: bool, error: BaseException | None) -> None:
        """The leader's exchange is over; `kept` says that its answer is in the store."""
        self._land(id_, flight)
        flight.leader.on_answer.remove(flight.begin)
        await flight.close(error)
        if self.leases is not None:
            await self.leases.give_back(_lease(id_), kept=kept, failed=error is not None)

    def _land(self, id_: str, flight: Flight) -> None:
        if self.get(id_) is flight:
            del self[id_]


def _lease(id_: str) -> str:
    return f"exact-cache:{{{id_}}}"
