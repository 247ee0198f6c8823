"""The plugin: looks up, joins, leads, and puts away."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, deque
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from junctor import Exchange, Gateway, GatewayError, hookimpl

from junctor_exact_cache.admin import Admin, announce, listen
from junctor_exact_cache.answers import from_entry, from_flight, storable, to_entry
from junctor_exact_cache.cli import add_commands
from junctor_exact_cache.control import NOTHING_SAID, Control, read_control
from junctor_exact_cache.flights import Flights
from junctor_exact_cache.keys import Keys
from junctor_exact_cache.rules import passes_by, ttl_of
from junctor_exact_cache.settings import ExactCacheSettings
from junctor_exact_cache.stores import Guard, StoreError, open_store

if TYPE_CHECKING:
    import argparse
    from collections.abc import Coroutine, Iterable, Iterator

    from junctor import Response
    from junctor.server import AdminRoute

    from junctor_exact_cache.entry import Entry, Filter
    from junctor_exact_cache.flight import Flight, Seat
    from junctor_exact_cache.keys import Key

__all__ = ["ExactCache"]

_log = logging.getLogger("junctor.exact_cache")
_STATE = "exact_cache"
_HEADER = "x-junctor-cache"
# A client that waited in vain so often goes on alone: a provider that fails must not be asked by one after the other.
_JOINS = 2
_PURGES_REMEMBERED = 64


@dataclass(slots=True)
class _Ticket:
    """What the look-up knows that the end of the exchange needs."""

    key: Key
    control: Control
    ttl: float
    flight: Flight | None = None
    seat: Seat | None = None


class ExactCache:
    """Answers a request that was answered before, and asks once for what several want at the same time."""

    Settings = ExactCacheSettings
    stage = "remember"

    def __init__(self, settings: ExactCacheSettings, gateway: Gateway) -> None:
        self._settings = settings
        self._gateway = gateway
        self._keys = Keys(settings)
        self.store = open_store(settings.store)
        # A store that cannot be written to (a locked file, a full Redis) may still be read.
        limit = settings.store.timeout if self.store.shared else None
        self._guard, self._write_guard = Guard(limit), Guard(limit)
        across = settings.one_flight and self.store.shared and gateway.state.shared
        self._flights = Flights(settings, gateway.state if across else None)
        self._purges: deque[tuple[float, Filter]] = deque(maxlen=_PURGES_REMEMBERED)
        self._tasks: list[asyncio.Task[None]] = []
        self.counts: Counter[str] = Counter()

    async def __aenter__(self) -> Self:
        with suppress(StoreError):  # the guard has logged it; until the store is there, requests pass by
            await self._guard(self.store.open(), timeout=max(5.0, self._settings.store.timeout))
        if self._flights.leases is not None:
            self._start(self._flights.leases.keep())
        if not self.store.shared and self._gateway.state.shared:
            self._start(listen(self._gateway.state, self.purge_here))
        return self

    def _start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(asyncio.create_task(coroutine))

    async def __aexit__(self, *exc: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.store.aclose()

    # Looking up.

    @hookimpl
    async def cache_lookup(self, exchange: Exchange) -> Response | None:
        if exchange.purpose:
            return None
        settings = self._settings
        control = read_control(exchange.request.headers) if settings.client_control else NOTHING_SAID
        ttl = ttl_of(exchange, control, settings)
        reason = passes_by(exchange, control, ttl, settings) or ("store" if self._guard.resting else "")
        if reason:
            self._bypass(exchange, reason, control)
            return None
        ticket = exchange.state[_STATE] = _Ticket(self._keys.of(exchange), control, ttl)
        if control.no_cache:
            ticket.flight = self._flights.record(exchange)
            self._bypass(exchange, "no-cache", control)
            return None
        try:
            response = await self._answer(exchange, ticket)
        except StoreError:
            del exchange.state[_STATE]
            self._bypass(exchange, "store", control)
            return None
        if response is None:
            ticket.flight = ticket.flight or self._flights.record(exchange)
            self._told(exchange, "miss")
        return response

    async def _answer(self, exchange: Exchange, ticket: _Ticket) -> Response | None:
        for _ in range(_JOINS):
            entry = await self._look(ticket)
            if entry is not None:
                return await self._hit(exchange, entry)
            if ticket.control.only_if_cached:
                raise _not_cached()
            if not self._settings.one_flight or (exchange.request.body.get("tools") and not self._settings.tool_calls):
                return None
            flight = self._flights.get(ticket.key.id)
            if flight is None:
                return await self._lead(exchange, ticket)
            if not flight.can_be_joined:
                return None
            response = await self._join(exchange, ticket, flight)
            if response is not None:
                return response
        return None

    async def _look(self, ticket: _Ticket) -> Entry | None:
        entry = await self._guard(self.store.get(ticket.key.id))
        if entry is None or entry.scope != ticket.key.scope:
            return None
        age = ticket.control.max_age
        return entry if age is None or time.time() - entry.created <= age else None

    async def _hit(self, exchange: Exchange, entry: Entry) -> Response:
        age = max(0, int(time.time() - entry.created))
        response = await from_entry(exchange, entry, age=age)
        self._told(exchange, "hit", entry=entry.id, age=age, saved=entry.saved)
        return response

    def _bypass(self, exchange: Exchange, reason: str, control: Control) -> None:
        self._told(exchange, "bypass", reason=reason)
        if control.only_if_cached:
            raise _not_cached()

    def _told(self, exchange: Exchange, status: str, **more: Any) -> None:
        self.counts[status] += 1
        self.counts["saved"] += more.get("saved") or 0
        exchange.headers[_HEADER] = status
        exchange.facts["cache"] = {"status": status, "cache": "exact", **more}

    # One flight.

    async def _lead(self, exchange: Exchange, ticket: _Ticket) -> Response | None:
        """None if this exchange is the one that calls the provider."""
        flight = ticket.flight = self._flights.record(exchange)
        entry = await self._flights.lead(ticket.key.id, flight, lambda: self._look(ticket))
        return await self._hit(exchange, entry) if entry is not None else None

    async def _join(self, exchange: Exchange, ticket: _Ticket, flight: Flight) -> Response | None:
        """Wait for the other one's answer; None if this client has to go on by itself."""
        seat = ticket.seat = flight.join()
        response: Response | None = None
        try:
            async with asyncio.timeout(self._settings.flight_wait):
                await flight.begun.wait()
            if flight.entry is not None:
                response = await self._hit(exchange, flight.entry)
            elif not flight.failed:
                response = await from_flight(exchange, flight, seat)
                if response is not None:
                    self.counts["joined"] += 1
                    self._told(exchange, "hit", age=0)
        except TimeoutError:
            return None
        finally:
            if response is None or response.stream is None:
                seat.leave()
        if response is None:
            ticket.seat = None
        return response

    # Putting away.

    @hookimpl
    async def post_call(self, exchange: Exchange, response: Response | None, error: BaseException | None) -> None:
        ticket: _Ticket | None = exchange.state.pop(_STATE, None)
        if ticket is None:
            return
        if ticket.seat is not None:
            ticket.seat.leave()
            self._attribute(exchange, ticket.seat.flight, ticket.seat)
        flight = ticket.flight
        if flight is None:
            return
        kept = False
        try:
            if response is not None and response.cached is None and error is None:
                self._attribute(exchange, flight, None)
                kept = await self._keep(exchange, response, ticket)
        finally:
            await self._flights.end(ticket.key.id, flight, kept=kept, error=error)

    def _attribute(self, exchange: Exchange, flight: Flight, seat: Seat | None) -> None:
        """Say who of those who shared an answer is charged how much of it, in nano-dollars."""
        cost, clients = flight.cost, flight.clients
        fact = exchange.facts.get("cache")
        if fact is None or flight.entry is not None or (clients < 2 if seat is None else seat.left):
            return
        share = cost
        if cost is not None:
            part = cost // clients if self._settings.flight_cost == "split" else 0
            share = cost - part * (clients - 1) if seat is None else 0 if seat.late else part
        fact["flight"] = {"role": "leader" if seat is None else "follower", "clients": clients, "share": share}
        if seat is not None:
            fact["saved"] = None if cost is None or share is None else cost - share
            self.counts["saved"] += fact["saved"] or 0

    async def _keep(self, exchange: Exchange, response: Response, ticket: _Ticket) -> bool:
        assert ticket.flight is not None
        answer = response.body if response.stream is None else ticket.flight.recorded
        if answer is None or not storable(exchange, response, answer, self._settings):
            return False
        entry = await to_entry(
            exchange, response, answer, key=ticket.key, control=ticket.control, ttl=ticket.ttl, settings=self._settings
        )
        if self._write_guard.resting:
            return False
        if any(when > exchange.started_at and which.fits(entry) for when, which in self._purges):
            return False  # asked before the purge that is to forget such answers
        try:
            await self._write_guard(self.store.put(entry))
        except StoreError as error:
            _log.debug("an answer was not kept: %s", error)
            return False
        self.counts["stored"] += 1
        return True

    # What the operator does.

    async def purge(self, which: Filter) -> int:
        """Forget entries, in every process; how many went in this one or in the shared store."""
        gone = await self.purge_here(which)
        if not self.store.shared and self._gateway.state.shared:
            await announce(self._gateway.state, which)
        return gone

    async def purge_here(self, which: Filter) -> int:
        """Forget entries of this process's store; raises `StoreError`."""
        self._purges.append((time.time(), which))
        # Nobody joins an answer that was asked for before.
        self._flights.clear()
        return await self.store.purge(which)

    async def stats(self) -> dict[str, Any]:
        """What the store holds and what became of requests since the start; `saved` is nano-dollars."""
        held = await self.store.stats()
        names = ("hit", "miss", "bypass", "joined", "stored", "saved")
        counts = {name: self.counts[name] for name in names}
        guards = (self._guard, self._write_guard)
        faults: dict[str, Any] = {"store_failures": sum(guard.failures for guard in guards)}
        faults["store_resting"] = any(guard.resting for guard in guards)
        return {"store": type(self.store).__name__, **held._asdict(), **counts, **faults, "flights": len(self._flights)}

    @hookimpl
    def http_routes(self) -> Iterable[AdminRoute]:
        return Admin(self).routes()

    @staticmethod
    @hookimpl
    def cli_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
        add_commands(commands)

    @hookimpl
    def check(self) -> Iterator[str]:
        for index, rule in enumerate(self._settings.rules):
            for model in rule.match.model:
                if problem := self._gateway.unknown_model(model):
                    yield f"rules[{index}].match.model: {problem}"


def _not_cached() -> GatewayError:
    return GatewayError(
        "there is no stored answer, and the request asks for nothing else (Cache-Control: only-if-cached)",
        status_code=504,
        type="invalid_request_error",
        code="not_cached",
    )
