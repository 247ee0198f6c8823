"""The plugin: reserves before the call, watches while a stream runs, settles after it."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Self

from junctor import Refused, TargetUnavailable, hookimpl
from junctor.problems import close_match

from junctor_quotas.booking import Booking, Desk
from junctor_quotas.commands import add_commands
from junctor_quotas.estimate import Estimator
from junctor_quotas.ladder import Ladder
from junctor_quotas.limits import Limits, compile_limits
from junctor_quotas.meter import Meter
from junctor_quotas.queue import Queues
from junctor_quotas.reports import Reports
from junctor_quotas.settings import QuotaSettings
from junctor_quotas.settlement import final_amounts
from junctor_quotas.slices import PERIOD, Slices
from junctor_quotas.store import Store

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable

    from junctor import Exchange, Gateway, Price, Response, Target
    from starlette.routing import BaseRoute

__all__ = ["Quotas"]

_log = logging.getLogger("junctor.quotas")
_KEY = "quotas"


class Quotas:
    """Rate limits, quotas, budgets and fair queues: what is admitted stays within the limits.

    See `docs/quotas.md` for the model and its bound.
    """

    Settings = QuotaSettings
    stage = "limit"

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
        self.reports = Reports(gateway.state, self.limits, self.queues)
        self.desk = Desk(
            limits=self.limits,
            store=self.store,
            slices=self.slices,
            queues=self.queues,
            ladder=Ladder(),
            reports=self.reports,
            max_wait=settings.queue.max_wait,
        )
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
        if exchange.purpose or not exchange.request.for_model:
            return
        claims = self.limits.of_request(exchange, self.store.now())
        if not claims and not self.limits.by_target:
            return
        estimate = self.estimator.estimate(exchange)
        exchange.facts.setdefault("input_tokens_estimated", estimate.input)
        booking = Booking(estimate, _price(exchange))
        exchange.state[_KEY] = booking
        if claims:
            await self.desk.admit(exchange, booking, claims)
        reserved = booking.estimate.output  # the ladder may have shortened the answer
        if exchange.request.stream and reserved:
            booking.meter = Meter(
                exchange,
                reserved,
                self.estimator.per_event(exchange.request.model),
                lambda tokens: self.desk.extend(booking, tokens),
                bounded=booking.estimate.bounded,
            )
            exchange.transforms.append(booking.meter)

    @hookimpl
    async def call(self, exchange: Exchange, target: Target) -> Response | None:
        booking = exchange.state.get(_KEY)
        if not self.limits.by_target or booking is None:
            return None
        attempt = exchange.attempts[-1]
        await self.desk.release_failed(exchange, booking)
        claims = self.limits.of_target(exchange, target, self.store.now())
        if claims:
            try:
                await self.desk.admit(exchange, booking, claims, target)
            except Refused as error:
                raise _unavailable(target, error) from error
            except asyncio.CancelledError:  # nobody waits any more, and the provider has seen nothing to bill
                attempt.error = TargetUnavailable(f"{target}: given up while it waited for a place")
                raise
        return None

    @hookimpl
    async def post_call(self, exchange: Exchange, response: Response | None, error: BaseException | None) -> None:
        booking: Booking | None = exchange.state.pop(_KEY, None)
        if booking is None:
            return
        if booking.meter is not None:
            await booking.meter.aclose()
        final = final_amounts(exchange, response, exchange.as_told(error), booking.estimate, booking.price)
        for hold in booking.holds:
            share = final if not hold.target else final.at(hold.target)
            await self.desk.settle(hold, share)
        usage = response.usage if response is not None and response.cached is None else None
        if usage is not None and not usage.estimated and error is None:
            stream = response.stream if response is not None else None
            self.estimator.learn(exchange, booking.estimate, usage, stream.reader.events if stream else 0)

    @hookimpl
    def check(self) -> Iterable[str]:
        models = self._gateway.models
        targets = [target for model in models.values() for target in model.targets]
        known = {
            "target": {target.name for target in targets},
            "tag": {tag for target in targets for tag in target.tags},
        }
        for index, limit in enumerate(self._settings.limits):
            for attribute, names in limit.match.items():
                path = f"limits[{index}].match.{attribute}"
                for name in names:
                    if attribute == "model" and (problem := self._gateway.unknown_model(name)) is not None:
                        yield f"{path}: {problem}"
                    elif attribute in known and name not in known[attribute]:
                        what = "is named" if attribute == "target" else "has the tag"
                        yield f"{path}: no target {what} '{name}'{close_match(name, known[attribute])}"

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


def _unavailable(target: Target, error: Refused) -> TargetUnavailable:
    """What `on_error` may fall back from; if nobody does, the client gets the limit's own refusal."""
    unavailable = TargetUnavailable(f"{target}: {error.message}", retry_after=error.retry_after)
    unavailable.status_code, unavailable.type, unavailable.code = error.status_code, error.type, error.code
    unavailable.headers = error.headers
    return unavailable
