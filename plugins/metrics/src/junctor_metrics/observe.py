"""Counts an exchange that has ended. This runs for every request: a few dictionary look-ups and additions, no more."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from junctor import GatewayError, ProviderError, Refused
from junctor.outcome import outcome_of

from junctor_metrics.counts import OTHER, observe

if TYPE_CHECKING:
    from collections.abc import Mapping

    from junctor import Attempt, Exchange, Model, Response, Target, Usage

    from junctor_metrics.counts import Registry

__all__ = ["Observer", "kind_of"]


class Observer:
    """Adds each exchange to the counts."""

    def __init__(self, registry: Registry, models: Mapping[str, Model]) -> None:
        self._models = models
        self._targets = frozenset(target.name for model in models.values() for target in model.targets)
        self._requests = registry["junctor_requests_total"]
        self._errors = registry["junctor_errors_total"]
        self._refusals = registry["junctor_refusals_total"]
        self._durations = registry["junctor_request_duration_seconds"]
        self._first = registry["junctor_time_to_first_token_seconds"]
        self._overheads = registry["junctor_overhead_seconds"]
        self._attempts = registry["junctor_attempts_total"]
        self._attempt_durations = registry["junctor_attempt_duration_seconds"]
        self._per_token = registry["junctor_time_per_output_token_seconds"]
        self._retries = registry["junctor_retries_total"]
        self._fallbacks = registry["junctor_fallbacks_total"]
        self._hedges = registry["junctor_hedges_total"]
        self._tokens = registry["junctor_tokens_total"]
        self._costs = registry["junctor_cost_dollars_total"]
        self._unpriced = registry["junctor_unpriced_attempts_total"]
        self._cache = registry["junctor_cache_requests_total"]
        self._saved = registry["junctor_cache_saved_dollars_total"]
        self._plugins = registry["junctor_plugin_seconds"]
        self._budgets = registry["junctor_budget_used_ratio"]
        self._quotas = registry["junctor_quota_used_ratio"]
        self._waits = registry["junctor_queue_wait_seconds"]

    def take(self, exchange: Exchange, response: Response | None, error: BaseException | None) -> None:
        """Count one exchange, as `post_call` is given it."""
        now = time.monotonic()
        request, team = exchange.request, exchange.client.team
        model = request.model
        if model not in self._models:
            model = OTHER if model else ""
        outcome, _ = outcome_of(response, error)
        self._requests[model, request.operation, team, exchange.purpose, outcome][0] += 1
        settling = self._timings(exchange.timings)
        if error is not None:
            self._errors[model, kind_of(error)][0] += 1
            if isinstance(error, Refused):
                self._refusals[team, str(error.status_code), error.code][0] += 1
        if not exchange.purpose:
            rows = self._durations
            observe(rows[model, request.operation], rows.metric.bounds, now - exchange.started - settling)
            if exchange.first_byte:
                self._began(exchange, model)
        if exchange.attempts:
            self._tried(exchange, team)
            if response is not None and response.stream is not None and response.attempt is not None:
                self._streamed(response.attempt)
        if exchange.facts:
            self._facts(exchange, team)

    def _timings(self, timings: Mapping[tuple[str, str], float]) -> float:
        """Count each plugin's time; the seconds that were spent after the last byte."""
        settling = 0.0
        plugins = self._plugins
        for step, seconds in timings.items():
            row = plugins[step]
            row[0] += 1
            row[1] += seconds
            if step[1] == "post_call":
                settling += seconds
        return settling

    def _began(self, exchange: Exchange, model: str) -> None:
        observe(self._overheads[(model,)], self._overheads.metric.bounds, exchange.overhead)
        if exchange.request.stream:
            observe(self._first[(model,)], self._first.metric.bounds, exchange.first_byte - exchange.started)

    def _tried(self, exchange: Exchange, team: str) -> None:
        before: Target | None = None
        for attempt in exchange.attempts:
            target, name = attempt.target, attempt.target.name
            if name not in self._targets:
                name = OTHER
            if attempt.of:
                self._hedges[(name,)][0] += 1
            elif before is not None:
                (self._retries if before == target else self._fallbacks)[(name,)][0] += 1
            before = before if attempt.of else target
            outcome = "abandoned" if attempt.abandoned else "answered"
            if attempt.error is not None:
                outcome = kind_of(attempt.error)
            self._attempts[name, outcome][0] += 1
            rows = self._attempt_durations
            observe(rows[(name,)], rows.metric.bounds, attempt.duration)
            if attempt.usage is not None:
                self._used(attempt, attempt.usage, name, team)

    def _used(self, attempt: Attempt, usage: Usage, name: str, team: str) -> None:
        tokens = self._tokens
        tokens[name, team, "input"][0] += usage.input_tokens
        tokens[name, team, "output"][0] += usage.output_tokens
        if usage.cache_read_tokens:
            tokens[name, team, "cache_read"][0] += usage.cache_read_tokens
        if usage.cache_write_tokens:
            tokens[name, team, "cache_write"][0] += usage.cache_write_tokens
        if usage.reasoning_tokens:
            tokens[name, team, "reasoning"][0] += usage.reasoning_tokens
        if attempt.cost is None:
            self._unpriced[(name,)][0] += 1
        else:
            self._costs[name, team][0] += attempt.cost.total

    def _streamed(self, attempt: Attempt) -> None:
        usage = attempt.usage
        if usage is None or usage.output_tokens < 2 or not attempt.first_byte:
            return
        name = attempt.target.name if attempt.target.name in self._targets else OTHER
        each = (attempt.ended - attempt.first_byte) / (usage.output_tokens - 1)
        observe(self._per_token[(name,)], self._per_token.metric.bounds, each)

    def _facts(self, exchange: Exchange, team: str) -> None:
        facts = exchange.facts
        cache = facts.get("cache")
        if cache is not None:
            name = str(cache.get("cache", ""))
            self._cache[name, str(cache.get("status", ""))][0] += 1
            if saved := cache.get("saved"):
                self._saved[(name,)][0] += saved
        semantic = facts.get("semantic_cache")
        if semantic is not None and semantic is not cache:
            self._cache["semantic", str(semantic.get("outcome", ""))][0] += 1
        used = facts.get("budget_used")
        if used is not None:
            self._budgets[(team,)][0] = used
        quota = facts.get("quota")
        if quota is not None and "share" in quota:
            self._quotas[str(quota.get("limit", "")), team][0] = quota["share"]
        waited = exchange.headers.get("x-junctor-queue-ms")  # what the client is told of its wait
        if waited is not None:
            observe(self._waits[(team,)], self._waits.metric.bounds, float(waited) / 1000)


def kind_of(error: BaseException) -> str:
    """The provider's kind of failure, or the code that the client was given."""
    if isinstance(error, ProviderError):
        return error.kind.value
    return error.code if isinstance(error, GatewayError) else "internal"
