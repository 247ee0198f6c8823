"""Hedging: a second attempt beside one that is slower than nearly all before it; the first answer wins.

What it may cost is a purse: every request of a hedged model puts `max_extra` of its own estimated cost in, every hedge
takes its estimated cost out. Where a target has no price, tokens are counted instead of money.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from junctor import ProviderError
from junctor.plugins import first

from junctor_fallback.plan import Failure, account_abandoned, guess_usage

if TYPE_CHECKING:
    from junctor import Attempt, Exchange, Gateway, Response, Target
    from junctor.plugins import Hook

    from junctor_fallback.guard import Guard, Guards
    from junctor_fallback.plan import Planner, Run
    from junctor_fallback.settings import HedgeSettings
    from junctor_fallback.slow import SlowStreams

__all__ = ["Hedger"]

_PURSE_REQUESTS = 5  # the purse holds at the most so many hedges


class Hedger:
    """Runs the hedged calls, within their purse."""

    def __init__(
        self, settings: HedgeSettings, gateway: Gateway, guards: Guards, planner: Planner, plugin: object
    ) -> None:
        self._settings = settings
        self._gateway = gateway
        self._guards = guards
        self._planner = planner
        self._plugin = plugin
        self._models = frozenset(settings.models)
        self._priced = {
            name: all(target.price is not None for target in gateway.models[name].targets)
            for name in settings.models
            if name in gateway.models
        }
        self._purses: dict[str, float] = dict.fromkeys(settings.models, 0.0)

    def may(self, exchange: Exchange, model: str, run: Run) -> bool:
        """Only an exchange's first call is hedged."""
        return model in self._models and run.calls == 1 and not run.hedged and not exchange.purpose

    async def call(
        self, exchange: Exchange, run: Run, target: Target, rest: Hook, *, slow: SlowStreams | None
    ) -> Response | None:
        """The target's answer, or the hedge's if that is first; raises the target's `ProviderError` if both fail."""
        main = asyncio.create_task(_begun(exchange, target, rest, slow))
        tasks = {main}
        answer: Response | None = None
        try:
            side = await self._hedged(exchange, run, target, tasks)
            answer = await self._first(exchange, run, main, side)
            return answer
        finally:
            await _give_up(tasks, answer)

    async def _hedged(
        self, exchange: Exchange, run: Run, target: Target, tasks: set[asyncio.Task[Response | None]]
    ) -> asyncio.Task[Response | None] | None:
        """Wait as long as answers usually take to begin; the second attempt's task, added to `tasks`, if any."""
        model = exchange.request.model
        guard = self._guards.of(target)
        weight = self._weight(exchange, model, target)
        self._purses[model] = min(self._purses[model] + self._settings.max_extra * weight, _PURSE_REQUESTS * weight)
        stream, known = exchange.request.stream, self._settings.min_samples
        after = (
            self._settings.after if self._settings.after is not None else guard.p95(stream=stream, min_samples=known)
        )
        if after is None:
            return None
        done, _ = await asyncio.wait(tasks, timeout=after)
        other = None if done else self._planner.hedge_target(exchange, run, target, time.monotonic())
        if other is None or not self._pays(exchange, model, other):
            return None
        run.hedged = True
        run.calls += 1
        task = asyncio.create_task(self._side(exchange, other))
        tasks.add(task)
        await asyncio.sleep(0)  # the attempt is on the exchange once its task has begun
        run.hedge = (self._guards.of(other), next(a for a in reversed(exchange.attempts) if a.of == "hedge"))
        run.hedge[0].in_flight += 1
        return task

    async def _side(self, exchange: Exchange, other: Target) -> Response | None:
        return await self._gateway.attempt(exchange, other, after=self._plugin, of="hedge")

    def _weight(self, exchange: Exchange, model: str, target: Target) -> float:
        usage = guess_usage(exchange)
        price = target.price if self._priced.get(model) else None
        return float(usage.total_tokens if price is None else price.of(usage).total)

    def _pays(self, exchange: Exchange, model: str, other: Target) -> bool:
        weight = self._weight(exchange, model, other)
        if self._purses[model] < weight:
            return False
        self._purses[model] -= weight
        return True

    async def _first(
        self,
        exchange: Exchange,
        run: Run,
        main: asyncio.Task[Response | None],
        side: asyncio.Task[Response | None] | None,
    ) -> Response | None:
        waiting = {main} if side is None else {main, side}
        while waiting:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in sorted(done, key=lambda task: task is not main):
                if task.exception() is None:
                    return self._won(exchange, run, task, hedge=task is side)
                self._lost(run, task, hedge=task is side)
        return main.result()  # raises

    def _won(
        self, exchange: Exchange, run: Run, task: asyncio.Task[Response | None], *, hedge: bool
    ) -> Response | None:
        response = task.result()
        now, stream = time.monotonic(), exchange.request.stream
        for guard, attempt in _pairs(run):
            # Also of the slower one: it has taken so long at least, and the percentile must not forget that.
            guard.started_after(now - attempt.started, stream=stream)
        loser = run.attempt if hedge else run.hedge[1] if run.hedge is not None else None
        if response is not None and response.stream is None and loser is not None and loser.error is None:
            account_abandoned(exchange, loser, response)
        return response

    def _lost(self, run: Run, task: asyncio.Task[Response | None], *, hedge: bool) -> None:
        error = task.exception()
        if not isinstance(error, ProviderError):
            return
        if hedge and run.hedge is not None:
            run.failures.append(Failure(run.hedge[1].target, error, time.monotonic()))
        elif run.attempt is not None:
            run.attempt.error = error

    def settle(self, run: Run, exchange: Exchange, response: Response | None, error: BaseException | None) -> None:
        """At the exchange's end: the hedge's outcome, and what the loser may have cost."""
        if run.hedge is None:
            return
        (guard, attempt), run.hedge = run.hedge, None
        guard.in_flight -= 1
        guard.settle(attempt, time.monotonic(), error, run.told)
        if attempt.abandoned:
            account_abandoned(exchange, attempt, response)


def _pairs(run: Run) -> list[tuple[Guard, Attempt]]:
    pairs = [(run.guard, run.attempt), run.hedge or (None, None)]
    return [(guard, attempt) for guard, attempt in pairs if guard is not None and attempt is not None]


async def _begun(exchange: Exchange, target: Target, rest: Hook, slow: SlowStreams | None) -> Response | None:
    """The target's answer, once it has begun."""
    response: Response | None = await first(rest, exchange, target)
    if response is not None and response.stream is not None:
        try:
            if slow is not None:
                await slow.look(response, target)
            await response.stream.prime()
        except BaseException:
            await response.stream.aclose()
            raise
    return response


async def _give_up(tasks: set[asyncio.Task[Response | None]], answer: Response | None) -> None:
    """End what still runs; close what came in too late to be the answer."""
    for task in tasks:
        task.cancel()
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        if result is None or isinstance(result, BaseException) or result is answer:
            continue
        if result.stream is not None:
            await result.stream.aclose()
