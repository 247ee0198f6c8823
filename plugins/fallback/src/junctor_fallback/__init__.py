"""Retries, falls back and breaks circuits.

`call` comes before the providers': it raises `TargetUnavailable` while a target's circuit is open and declines
otherwise. `on_error` asks the planner and waits for its backoff. `post_call` learns from what became of the attempts.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Self

from junctor import ErrorKind, ProviderError, TargetUnavailable, hookimpl, jsons
from junctor.plugins import first
from junctor.problems import close_match
from junctor.server import AdminRoute
from starlette.responses import Response as HTTPAnswer

from junctor_fallback.circuit import chance
from junctor_fallback.guard import KEY_KINDS, Guards
from junctor_fallback.hedge import Hedger
from junctor_fallback.plan import Failure, Planner, Run, account_abandoned
from junctor_fallback.resume import Continuer, prefill
from junctor_fallback.settings import FallbackSettings
from junctor_fallback.share import Sharing
from junctor_fallback.slow import SlowStreams

if TYPE_CHECKING:
    from collections.abc import Iterable

    from junctor import Exchange, Gateway, GatewayError, Response, Target
    from junctor.plugins import Hook
    from starlette.requests import Request as HTTPRequest
    from starlette.routing import BaseRoute

    from junctor_fallback.guard import Guard

__all__ = ["Fallback", "FallbackSettings"]

_log = logging.getLogger("junctor.fallback")
_LATER = frozenset({ErrorKind.RATE_LIMITED, ErrorKind.OVERLOADED, ErrorKind.UNAVAILABLE, ErrorKind.QUOTA_EXHAUSTED})


class Fallback:
    """What is done when a provider fails. Its state is per target and key, shared between workers."""

    Settings = FallbackSettings
    stage = "protect"

    def __init__(self, settings: FallbackSettings, gateway: Gateway) -> None:
        self._settings = settings
        self._gateway = gateway
        self._sharing = Sharing(gateway.state, settings)
        targets = [target for model in gateway.models.values() for target in model.targets]
        self._guards = Guards(targets, settings, self._sharing.changed)
        self._known = self._guards.by_identity
        self._planner = Planner(
            settings, self._guards.of, gateway.models, attempts=gateway.settings.server.max_attempts
        )
        self._hedger = Hedger(settings.hedge, gateway, self._guards, self._planner, self) if settings.hedge else None
        self._slow = SlowStreams(settings.slow_stream) if settings.slow_stream else None
        self._continuer = (
            Continuer(settings.continue_, gateway, self._guards, self._planner, self) if settings.continue_ else None
        )
        self._watches = self._hedger is not None or self._slow is not None or self._continuer is not None
        self._rest: Hook = ()
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        if self._watches:
            self._rest = self._gateway.steps_after(self)
        await self._stack.enter_async_context(self._sharing.over(self._guards.circuits))
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    # The hooks

    @hookimpl
    async def call(self, exchange: Exchange, target: Target) -> Response | None:
        guard = self._known.get(id(target)) or self._guards.of(target)
        run: Run | None = exchange.state.get("fallback")
        if run is None:
            run = exchange.state["fallback"] = Run()
        attempt = exchange.attempts[-1]
        if not (guard.endpoint.quiet and guard.rate.quiet and guard.credential.quiet):
            self._admit(exchange, run, guard, target)
            guard.probe(attempt)
        if not run.calls:
            guard.budget.deposit()
        run.calls += 1
        run.guard = guard
        run.attempt = attempt
        guard.in_flight += 1
        if self._watches:
            return await self._watched(exchange, run, target)
        return None

    def _admit(self, exchange: Exchange, run: Run, guard: Guard, target: Target) -> None:
        """Let the request pass, or raise `TargetUnavailable` because there is a better target for it."""
        now = time.monotonic()
        if guard.ready(now):
            if chance(guard.ramp_share(now)) or not self._planner.untried(exchange, run, target, now):
                return
            raise TargetUnavailable(f"{target} is taking up its traffic again")
        if self._planner.better(exchange, run, target, now):
            raise TargetUnavailable(f"the circuit of {target} is open", retry_after=guard.opens_in(now) or None)

    async def _watched(self, exchange: Exchange, run: Run, target: Target) -> Response | None:
        """The call, made from here, because something is to happen while it runs."""
        name = exchange.model.name if exchange.model is not None else ""
        continues = self._continuer is not None and self._continuer.may(exchange, name)
        slow = self._slow is not None and self._slow.looks_at(exchange, name)
        if self._hedger is not None and self._hedger.may(exchange, name, run):
            response = await self._hedger.call(exchange, run, target, self._rest, slow=self._slow if slow else None)
        elif continues or slow:
            response = await first(self._rest, exchange, target)
            if slow and self._slow is not None:
                await self._slow.look(response, target)
        else:
            return None
        if continues and self._continuer is not None:
            self._continuer.watch(exchange, run, response)
        return response

    @hookimpl
    async def on_error(self, exchange: Exchange, target: Target, error: ProviderError) -> Target | None:
        run: Run = exchange.state.setdefault("fallback", Run())
        now = time.monotonic()
        self._note(exchange, run, target, error, now)
        run.failures.append(Failure(target, error, now))
        step = self._planner.following(exchange, run, now)
        if step is None:
            final = self._final(exchange, run, now)
            if final is error:
                return None
            raise final
        if step.paid:
            guard = self._guards.of(step.target)
            guard.budget.take()
            run.paid = guard
        if step.wait:
            run.waits[step.target.id] = step.wait
            await asyncio.sleep(step.wait)
            if time.monotonic() >= exchange.deadline:
                raise self._final(exchange, run, now)
        return step.target

    def _note(self, exchange: Exchange, run: Run, target: Target, error: ProviderError, now: float) -> None:
        """Take the failed attempt's outcome, and take a key out that is of no use."""
        guard, attempt, paid = run.guard, run.attempt, run.paid
        run.guard = run.paid = None
        if guard is None or attempt is None:
            if paid is not None:  # it did not come to the retry
                paid.budget.refund()
            return
        guard.in_flight -= 1
        guard.settle(attempt, now, error, run.told)
        if isinstance(error, TargetUnavailable):
            run.calls -= 1
        elif error.kind in KEY_KINDS:
            self._take_out(exchange, guard, target, error, now)
        elif error.kind is ErrorKind.RATE_LIMITED and error.retry_after:
            stay = min(error.retry_after, self._settings.circuit.max_open)
            guard.rate.open_until(now, now + stay, error.kind.value, resting=True)

    def _take_out(self, exchange: Exchange, guard: Guard, target: Target, error: ProviderError, now: float) -> None:
        keys = self._settings.keys
        refused = error.kind is ErrorKind.AUTHENTICATION
        stay = keys.authentication if refused else error.retry_after or keys.quota
        # A 403 may be about this one model; the key may be good for others.
        circuit = guard.rate if error.provider_status == 403 else guard.credential
        news = circuit.quiet
        circuit.open_until(now, now + stay, error.kind.value)
        if exchange.facts.get("byok") or not news:
            return
        alert = {"kind": error.kind.value, "target": target.name, "key_id": target.key_id, "seconds": stay}
        exchange.facts.setdefault("alerts", []).append(alert)
        _log.error(
            "the key '%s' of %s is taken out for %g s: %s (provider's status %s)",
            target.key_id or "default",
            target.name,
            stay,
            "the provider refuses it" if refused else "its quota is exhausted",
            error.provider_status,
        )

    def _final(self, exchange: Exchange, run: Run, now: float) -> GatewayError:
        """What the client is told: the last error that a provider gave, with the time after which to try again."""
        called = [failure.error for failure in run.failures if failure.called]
        error = called[-1] if called else run.failures[-1].error
        if error.kind is ErrorKind.AUTHENTICATION:
            # The provider's own words may quote the key.
            error = ProviderError(
                "the provider refuses this gateway's key; its operator has been told",
                kind=error.kind,
                provider_status=error.provider_status,
            )
        if error.kind in _LATER:
            asked = [e.retry_after for e in called if e.kind is error.kind and e.retry_after is not None]
            soonest = min(self._guards.of(target).opens_in(now) for target in self._planner.candidates(exchange))
            error.retry_after = min(asked) if asked else max(1.0, soonest)
        return error

    @hookimpl
    async def post_call(self, exchange: Exchange, response: Response | None, error: BaseException | None) -> None:
        run: Run | None = exchange.state.get("fallback")
        if run is None:
            return
        guard, attempt = run.guard, run.attempt
        if guard is not None and attempt is not None:
            now = time.monotonic()
            guard.in_flight -= 1
            run.guard = None
            guard.settle(attempt, now, error, run.told)
            if attempt.abandoned:
                account_abandoned(exchange, attempt, response)
        if run.paid is not None and (guard is None or (attempt is not None and attempt.first_byte)):
            run.paid.budget.refund()  # the retry was answered, or it did not come to it
        if self._hedger is not None:
            self._hedger.settle(run, exchange, response, error)
        if self._continuer is not None:
            self._continuer.settle(run, response)

    # What it contributes

    @hookimpl
    def check(self) -> Iterable[str]:
        models = self._gateway.models
        settings = self._settings
        named = [
            (f"models.{name}[{i}]", other) for name, rest in settings.models.items() for i, other in enumerate(rest)
        ]
        named += [(f"models.{name}", name) for name in settings.models]
        for section in ("hedge", "slow_stream", "continue_"):
            listed = getattr(getattr(settings, section), "models", None) or ()
            named += [(f"{section.rstrip('_')}.models[{index}]", name) for index, name in enumerate(listed)]
        for path, name in named:
            if (problem := self._gateway.unknown_model(name)) is not None:
                yield f"{path}: {problem}"
        yield from self._unknown_targets()
        for index, name in enumerate(settings.continue_.models if settings.continue_ else ()):
            if name in models and not any(prefill(target) for target in models[name].targets):
                yield f"continue.models[{index}]: no target of '{name}' has the tag `prefill`"

    def _unknown_targets(self) -> Iterable[str]:
        targets = [guard.target for guard in self._guards]
        known = {target.name for target in targets} | {f"tag:{tag}" for target in targets for tag in target.tags}
        for index, name in enumerate(self._settings.content_policy):
            if name not in known:
                yield f"content_policy[{index}]: no target is named '{name}'{close_match(name, known)}"

    @hookimpl
    def http_routes(self) -> Iterable[BaseRoute]:
        yield AdminRoute("/admin/targets", self._show, methods=["GET"])

    async def _show(self, request: HTTPRequest) -> HTTPAnswer:
        return HTTPAnswer(jsons.dumps(self.snapshot()), media_type="application/json")

    def snapshot(self) -> list[dict[str, Any]]:
        """Every target that the configuration names: circuit, failures in the window, in flight, retry budget.

        `circuit` is `closed`, `open` or `half_open`, `opens_until` is seconds since the epoch or None.
        """
        now = time.monotonic()
        return [guard.snapshot(now) for guard in self._guards]
