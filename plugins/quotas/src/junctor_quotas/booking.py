"""What one exchange reserves: taken all at once or in line, extended while it streams, settled at its end."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from junctor_quotas.answers import Overrun, limit_headers, refusal, store_down, waited
from junctor_quotas.queue import Full
from junctor_quotas.settlement import Amounts
from junctor_quotas.steps import Outcome
from junctor_quotas.store import StoreDown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from junctor import Exchange, GatewayError, Price, Target

    from junctor_quotas.answers import Reading
    from junctor_quotas.estimate import Estimate
    from junctor_quotas.ladder import Ladder
    from junctor_quotas.limits import Claim, Claims, Limits
    from junctor_quotas.meter import Meter
    from junctor_quotas.queue import Queues
    from junctor_quotas.reports import Reports
    from junctor_quotas.slices import Slices
    from junctor_quotas.steps import Lease
    from junctor_quotas.store import Store

__all__ = ["Booking", "Desk"]

_TURNS = 8


@dataclass(slots=True)
class Hold:
    """What is reserved for one set of claims: by a lease of the store, and out of this worker's slices."""

    exact: Claims
    leased: Claims
    lease: Lease | None
    sliced: list[int]
    target: str = ""


@dataclass(slots=True)
class Booking:
    """What an exchange has reserved. `readings` are of the request's own limits, as they were when it was admitted."""

    estimate: Estimate
    price: Price | None
    holds: list[Hold] = field(default_factory=list)
    meter: Meter | None = None
    readings: list[Reading] = field(default_factory=list)


@dataclass(slots=True)
class Desk:
    """Takes and gives back for the plugin, whose parts these are. `max_wait` is in seconds."""

    limits: Limits
    store: Store
    slices: Slices
    queues: Queues
    ladder: Ladder
    reports: Reports
    max_wait: float

    # ---- taking

    async def admit(self, exchange: Exchange, booking: Booking, claims: Claims, target: Target | None = None) -> None:
        """Reserve for the claims, in line if need be; raises `Refused`."""
        try:
            outcome, claims = await self._in_line(exchange, booking, claims, target)
        except StoreDown as error:
            raise store_down() from error
        readings = _readings(claims, outcome)
        wire = exchange.request.wire.name
        if not outcome.admitted:
            self._note(exchange, readings, outcome)
            raise refusal(readings[outcome.refused], outcome.wait, outcome.now, readings, wire)
        if target is None:
            booking.readings = readings
        known = readings if target is None else [*booking.readings, *readings]
        exchange.headers.update(limit_headers(known, outcome.now, wire))
        self._note(exchange, readings, outcome)
        self.ladder.climb(exchange, readings, booking.estimate)
        self.reports.seen(readings)

    async def _in_line(
        self, exchange: Exchange, booking: Booking, claims: Claims, target: Target | None
    ) -> tuple[Outcome, Claims]:
        key = next((key for key in claims.by_wait if self.queues.length(key)), None) if self.queues else None
        if key is None:
            outcome, claims = await self._book(exchange, booking, claims, target, cautious=bool(claims.by_wait))
            if outcome.admitted:
                return outcome, claims
            refused = _refused(claims, outcome)
            if not refused.limit.queues:
                return await self._capped(exchange, booking, claims, target, outcome)
            key = refused.key
        for _ in range(_TURNS):
            outcome, claims = await self._queue(exchange, booking, claims, target, key)
            if outcome.admitted:
                break
            refused = _refused(claims, outcome)
            if not refused.limit.queues or refused.key == key:
                break
            key = refused.key
        return outcome, claims

    async def _queue(
        self, exchange: Exchange, booking: Booking, claims: Claims, target: Target | None, key: str
    ) -> tuple[Outcome, Claims]:
        claim = next(claim for claim in claims.claims if claim.key == key)
        found = claims
        started = asyncio.get_running_loop().time()

        async def attempt() -> tuple[Outcome, bool]:
            nonlocal found
            outcome, found = await self._book(exchange, booking, claims, target)
            late = outcome.wait is not None and (outcome.wait < 0 or outcome.wait > self.max_wait)
            return outcome, not outcome.admitted and not late and _refused(found, outcome).key == key

        def entered(place: int) -> None:
            exchange.headers["x-junctor-queue-position"] = str(place)

        try:
            outcome = await self.queues.of(key).wait(exchange.client, exchange.deadline, attempt, entered)
        except Full as full:
            raise waited(claim, full.reason, full.seconds) from full
        exchange.headers["x-junctor-queue-ms"] = f"{(asyncio.get_running_loop().time() - started) * 1000:.0f}"
        return outcome, found

    async def _capped(
        self, exchange: Exchange, booking: Booking, claims: Claims, target: Target | None, outcome: Outcome
    ) -> tuple[Outcome, Claims]:
        """Try once more with the shorter answer that the ladder of the limit allows."""
        capped = self.ladder.capped(exchange, _refused(claims, outcome), booking.estimate)
        if capped is None:
            return outcome, claims
        booking.estimate, before = capped, booking.estimate
        again, claims = await self._book(exchange, booking, claims, target)
        if not again.admitted:
            booking.estimate = before
        return again, claims

    async def _book(
        self,
        exchange: Exchange,
        booking: Booking,
        claims: Claims,
        target: Target | None,
        *,
        cautious: bool = False,
    ) -> tuple[Outcome, Claims]:
        """One attempt to reserve. The claims come back as they were used: a calendar period may have ended."""
        estimate = booking.estimate
        expected = Amounts.expected(estimate.input, estimate.output, booking.price)
        for _ in range(_TURNS):
            exact, leased = claims.parts
            sliced = [expected.of(claim.limit.dimension) for claim in leased.claims]
            refused = await self.slices.take(leased, sliced) if leased else None
            if refused is not None and refused.counts:
                return refused, leased
            outcome = refused or await self._book_exact(exact, leased, expected, sliced, cautious=cautious)
            if refused is None and (outcome.lease is not None or not exact):
                outcome.admitted = True
                hold = Hold(exact, leased, outcome.lease if exact else None, sliced, target.id if target else "")
                booking.holds.append(hold)
                return outcome, claims
            if outcome.counts:
                return outcome, exact
            if target is None:
                claims = self.limits.of_request(exchange, outcome.now)
            else:
                claims = self.limits.of_target(exchange, target, outcome.now)
        raise StoreDown("the store's clock and this worker's do not come together")

    async def _book_exact(
        self, exact: Claims, leased: Claims, expected: Amounts, sliced: Sequence[int], *, cautious: bool
    ) -> Outcome:
        """Ask the store; unless it has room, what was taken out of the slices goes back."""
        outcome = Outcome([], self.store.now())
        try:
            if exact:
                amounts = [expected.of(claim.limit.dimension) for claim in exact.claims]
                outcome = await self.store.reserve(exact, amounts, cautious=cautious)
        finally:
            if exact and outcome.lease is None:
                self.slices.give_back(leased, sliced, [0] * len(sliced))
        outcome.sliced = self.slices.counts(leased) if leased else []
        return outcome

    # ---- giving back

    async def settle(self, hold: Hold, final: Amounts) -> None:
        if hold.leased:
            used = [final.of(claim.limit.dimension) for claim in hold.leased.claims]
            self.slices.give_back(hold.leased, hold.sliced, used)
        if hold.lease is not None:
            await self.store.settle(hold.lease, [final.of(claim.limit.dimension) for claim in hold.exact.claims])
            if self.queues:
                for key in hold.exact.by_wait:
                    self.queues.freed(key)

    async def release_failed(self, exchange: Exchange, booking: Booking) -> None:
        """Give back what attempts at other targets held that have failed meanwhile."""
        failed = {attempt.target.id for attempt in exchange.attempts if attempt.error is not None}
        for hold in [hold for hold in booking.holds if hold.target in failed]:
            booking.holds.remove(hold)
            await self.settle(hold, Amounts())

    async def extend(self, booking: Booking, tokens: int) -> GatewayError | None:
        """Reserve so many tokens of output more; the error that ends the stream if a limit says no."""
        more = Amounts.expected(0, tokens, booking.price)
        more.requests = more.concurrency = 0
        for hold in booking.holds:
            refused = await self._extend_hold(hold, more)
            if refused is None:
                continue
            claim = refused
            if not claim.limit.cut:
                if booking.meter is not None:
                    booking.meter.let_finish()
                return None
            return Overrun(f"limit '{claim.limit.name}' of {claim.scope} is reached in the middle of the answer")
        return None

    async def _extend_hold(self, hold: Hold, more: Amounts) -> Claim | None:
        sliced = [more.of(claim.limit.dimension) for claim in hold.leased.claims]
        if any(sliced):
            outcome = await self.slices.take(hold.leased, sliced)
            if outcome is not None:
                return hold.leased.claims[outcome.refused]
            hold.sliced = [held + step for held, step in zip(hold.sliced, sliced, strict=True)]
        amounts = [more.of(claim.limit.dimension) for claim in hold.exact.claims]
        if hold.lease is not None and any(amounts):
            outcome = await self.store.extend(hold.lease, amounts)
            if outcome.lease is None and outcome.counts:
                return hold.exact.claims[outcome.refused]
        return None

    def _note(self, exchange: Exchange, readings: Sequence[Reading], outcome: Outcome) -> None:
        """Facts for routing and the log."""
        share, tightest = 0.0, None
        budget = 0.0
        for reading in readings:
            claim, (used, held, hard) = reading
            part = (used + held) / hard if hard else 1.0
            if tightest is None or part > share:
                share, tightest = part, claim
            if claim.until or claim.limit.dimension == "cost":
                budget = max(budget, part)
        facts = exchange.facts
        facts["budget_used"] = max(budget, facts.get("budget_used", 0.0))
        if tightest is not None:
            facts["quota"] = {
                "limit": tightest.limit.name,
                "scope": tightest.scope,
                "share": round(share, 4),
                "store": "local" if outcome.local else "shared",
            }
        if outcome.local:
            exchange.headers["x-junctor-quota-store"] = "local"


def _readings(claims: Claims, outcome: Outcome) -> list[Reading]:
    if not outcome.admitted:
        return list(zip(claims.claims, outcome.counts, strict=False))
    exact, leased = claims.parts
    readings: list[Reading] = list(zip(exact.claims, outcome.counts, strict=False))
    return readings + list(zip(leased.claims, outcome.sliced, strict=False))


def _refused(claims: Claims, outcome: Outcome) -> Claim:
    return claims.claims[outcome.refused]
