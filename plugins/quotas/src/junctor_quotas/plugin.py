"""The plugin: reserves before the call, watches while a stream runs, settles after it."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from junctor import Refused, TargetUnavailable, hookimpl

from junctor_quotas.answers import Overrun, limit_headers, refusal, store_down, waited
from junctor_quotas.commands import add_commands
from junctor_quotas.estimate import Estimator
from junctor_quotas.ladder import Ladder
from junctor_quotas.limits import Claims, Limits, compile_limits
from junctor_quotas.meter import Meter
from junctor_quotas.queue import Full, Queues
from junctor_quotas.reports import Reports
from junctor_quotas.settings import QuotaSettings
from junctor_quotas.settlement import Amounts, final_amounts
from junctor_quotas.slices import PERIOD, Slices
from junctor_quotas.store import Outcome, Store, StoreDown

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Sequence

    from junctor import Exchange, Gateway, GatewayError, Price, Response, Target
    from starlette.routing import BaseRoute

    from junctor_quotas.answers import Reading
    from junctor_quotas.estimate import Estimate
    from junctor_quotas.limits import Claim
    from junctor_quotas.store import Lease

__all__ = ["Quotas"]

_log = logging.getLogger("junctor.quotas")
_KEY = "quotas"
_TURNS = 8


@dataclass(slots=True)
class _Hold:
    """What is reserved for one set of claims: by a lease of the store, and out of this worker's slices."""

    exact: Claims
    leased: Claims
    lease: Lease | None
    sliced: list[int]
    target: str = ""


@dataclass(slots=True)
class _Booking:
    """What an exchange has reserved."""

    estimate: Estimate
    price: Price | None
    holds: list[_Hold] = field(default_factory=list)
    meter: Meter | None = None


class Quotas:
    """Rate limits, quotas, budgets and fair queues: what is admitted stays within the limits.

    See `docs/quotas.md` for the model and its bound.
    """

    Settings = QuotaSettings

    def __init__(self, settings: QuotaSettings, gateway: Gateway) -> None:
        self._settings = settings
        self._gateway = gateway
        self.limits = Limits(compile_limits(settings.limits))
        self.store = Store(
            gateway.state, lease=settings.lease, share=gateway.settings.server.workers * settings.replicas
        )
        self.slices = Slices(self.store, settings.slice)
        self.queues = Queues(settings.queue)
        self.estimator = Estimator(settings.expected_output)
        self.ladder = Ladder()
        self.reports = Reports(self)
        self._tick: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self.store.__aenter__()
        self._tick = asyncio.create_task(self._keep())
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._tick is not None
        self._tick.cancel()
        await asyncio.wait({self._tick})
        await self.slices.aclose()
        await self.store.__aexit__(None, None, None)

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(PERIOD)
            try:
                await self.slices.report()
                await self.reports.publish()
            except Exception:  # the next turn tries again
                _log.debug("the quotas' report failed", exc_info=True)

    # ---- the hooks

    @hookimpl
    async def pre_route(self, exchange: Exchange) -> None:
        if exchange.purpose or exchange.request.operation == "models":
            return
        claims = self.limits.of_request(exchange, self.store.now())
        if not claims and not self.limits.by_target:
            return
        estimate = self.estimator.estimate(exchange)
        exchange.facts.setdefault("input_tokens_estimated", estimate.input)
        booking = _Booking(estimate, _price(exchange))
        exchange.state[_KEY] = booking
        if claims:
            await self._admit(exchange, booking, claims)
        if exchange.request.stream and estimate.output:
            booking.meter = Meter(
                exchange,
                estimate.output,
                self.estimator.per_event(exchange.request.model),
                lambda tokens: self._extend(booking, tokens),
            )
            exchange.transforms.append(booking.meter)

    @hookimpl
    async def call(self, exchange: Exchange, target: Target) -> Response | None:
        booking = exchange.state.get(_KEY)
        if not self.limits.by_target or booking is None:
            return None
        await self._release_failed(exchange, booking)
        claims = self.limits.of_target(exchange, target, self.store.now())
        if claims:
            try:
                await self._admit(exchange, booking, claims, target)
            except Refused as error:
                raise _unavailable(target, error) from error
        return None

    @hookimpl
    async def post_call(self, exchange: Exchange, response: Response | None, error: BaseException | None) -> None:
        booking: _Booking | None = exchange.state.pop(_KEY, None)
        if booking is None:
            return
        if booking.meter is not None:
            await booking.meter.aclose()
        final = final_amounts(exchange, response, error, booking.estimate, booking.price)
        for hold in booking.holds:
            share = final if not hold.target else final.at(hold.target)
            await self._settle(hold, share)
        usage = response.usage if response is not None and response.cached is None else None
        if usage is not None and not usage.estimated and error is None:
            stream = response.stream if response is not None else None
            self.estimator.learn(exchange, booking.estimate, usage, stream.reader.events if stream else 0)

    # ---- taking

    async def _admit(self, exchange: Exchange, booking: _Booking, claims: Claims, target: Target | None = None) -> None:
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
        exchange.headers.update(limit_headers(readings, outcome.now, wire))
        self._note(exchange, readings, outcome)
        self.ladder.climb(exchange, readings, booking.estimate)
        self.reports.seen(readings)

    async def _in_line(
        self, exchange: Exchange, booking: _Booking, claims: Claims, target: Target | None
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
        self, exchange: Exchange, booking: _Booking, claims: Claims, target: Target | None, key: str
    ) -> tuple[Outcome, Claims]:
        claim = next(claim for claim in claims.claims if claim.key == key)
        found = claims
        started = asyncio.get_running_loop().time()

        async def attempt() -> tuple[Outcome, bool]:
            nonlocal found
            outcome, found = await self._book(exchange, booking, claims, target)
            late = outcome.wait is not None and (outcome.wait < 0 or outcome.wait > self._settings.queue.max_wait)
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
        self, exchange: Exchange, booking: _Booking, claims: Claims, target: Target | None, outcome: Outcome
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
        booking: _Booking,
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
            if leased:
                refused = await self.slices.take(leased, sliced)
                if refused is not None:
                    return refused, leased
            try:
                outcome = await self._book_exact(exact, leased, expected, cautious)
            except BaseException:
                self.slices.give_back(leased, sliced, [0] * len(sliced))
                raise
            if outcome.lease is not None or not exact:
                outcome.admitted = True
                hold = _Hold(exact, leased, outcome.lease if exact else None, sliced, target.id if target else "")
                booking.holds.append(hold)
                return outcome, claims
            self.slices.give_back(leased, sliced, [0] * len(sliced))
            if outcome.counts:
                return outcome, exact
            find = self.limits.of_request if target is None else None
            claims = find(exchange, outcome.now) if find else self.limits.of_target(exchange, target, outcome.now)  # type: ignore[arg-type]
        raise StoreDown("the store's clock and this worker's do not come together")

    async def _book_exact(self, exact: Claims, leased: Claims, expected: Amounts, cautious: bool) -> Outcome:
        if exact:
            amounts = [expected.of(claim.limit.dimension) for claim in exact.claims]
            outcome = await self.store.reserve(exact, amounts, cautious=cautious)
        else:
            outcome = Outcome([], self.store.now())
        outcome.sliced = self.slices.counts(leased) if leased else []
        return outcome

    # ---- giving back

    async def _settle(self, hold: _Hold, final: Amounts) -> None:
        if hold.leased:
            used = [final.of(claim.limit.dimension) for claim in hold.leased.claims]
            self.slices.give_back(hold.leased, hold.sliced, used)
        if hold.lease is not None:
            await self.store.settle(hold.lease, [final.of(claim.limit.dimension) for claim in hold.exact.claims])
            if self.queues:
                for key in hold.exact.by_wait:
                    self.queues.freed(key)

    async def _release_failed(self, exchange: Exchange, booking: _Booking) -> None:
        """Give back what attempts at other targets held that have failed meanwhile."""
        failed = {attempt.target.id for attempt in exchange.attempts if attempt.error is not None}
        for hold in [hold for hold in booking.holds if hold.target in failed]:
            booking.holds.remove(hold)
            await self._settle(hold, Amounts())

    async def _extend(self, booking: _Booking, tokens: int) -> GatewayError | None:
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

    async def _extend_hold(self, hold: _Hold, more: Amounts) -> Claim | None:
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

    # ---- what others are told

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

    @hookimpl
    def http_routes(self) -> Iterable[BaseRoute]:
        return self.reports.routes()

    @staticmethod
    @hookimpl
    def cli_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
        add_commands(commands)


def _price(exchange: Exchange) -> Price | None:
    """The dearest of the model's targets: which of them answers is not known yet."""
    if exchange.model is None or exchange.facts.get("byok"):
        return None
    prices = [target.price for target in exchange.model.targets if target.price is not None]
    return max(prices, key=lambda price: price.input + price.output, default=None)


def _readings(claims: Claims, outcome: Outcome) -> list[Reading]:
    if not outcome.admitted:
        return list(zip(claims.claims, outcome.counts, strict=False))
    exact, leased = claims.parts
    readings: list[Reading] = list(zip(exact.claims, outcome.counts, strict=False))
    return readings + list(zip(leased.claims, outcome.sliced, strict=False))


def _refused(claims: Claims, outcome: Outcome) -> Claim:
    return claims.claims[outcome.refused]


def _unavailable(target: Target, error: Refused) -> TargetUnavailable:
    """What `on_error` may fall back from; if nobody does, the client gets the limit's own refusal."""
    unavailable = TargetUnavailable(f"{target}: {error.message}", retry_after=error.retry_after)
    unavailable.status_code, unavailable.type, unavailable.code = error.status_code, error.type, error.code
    unavailable.headers = error.headers
    return unavailable
