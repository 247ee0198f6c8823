"""Every metric there is: its name, kind, labels and meaning. The documentation is checked against this list."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["METRICS", "Metric"]

# From a cache hit to a long answer of a reasoning model.
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0)
_OVERHEAD = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0)
_LAG = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
_NANO = 1e-9


@dataclass(frozen=True, slots=True)
class Metric:
    """One family. `scale` turns what is counted into what is shown; `merge` makes one gauge of several workers'."""

    name: str
    kind: Literal["counter", "gauge", "histogram", "summary"]
    labels: tuple[str, ...]
    help: str
    bounds: tuple[float, ...] = ()
    scale: float = 1.0
    merge: Literal["sum", "max"] = "sum"

    @property
    def width(self) -> int:
        """Numbers in a row: a value; count and sum; or the sum and each bucket's count."""
        return {"counter": 1, "gauge": 1, "summary": 2, "histogram": len(self.bounds) + 2}[self.kind]

    @property
    def samples(self) -> tuple[str, ...]:
        """The names that the exposition has."""
        if self.kind == "histogram":
            return (f"{self.name}_bucket", f"{self.name}_count", f"{self.name}_sum")
        return (f"{self.name}_count", f"{self.name}_sum") if self.kind == "summary" else (self.name,)


def _counter(name: str, labels: tuple[str, ...], text: str, scale: float = 1.0) -> Metric:
    return Metric(f"junctor_{name}_total", "counter", labels, text, scale=scale)


def _gauge(name: str, labels: tuple[str, ...], text: str, merge: Literal["sum", "max"] = "sum") -> Metric:
    return Metric(f"junctor_{name}", "gauge", labels, text, merge=merge)


def _histogram(name: str, labels: tuple[str, ...], text: str, bounds: tuple[float, ...] = _SECONDS) -> Metric:
    return Metric(f"junctor_{name}_seconds", "histogram", labels, text, bounds)


METRICS: tuple[Metric, ...] = (
    _counter("requests", ("model", "operation", "team", "purpose", "outcome"), "Exchanges that have ended."),
    _counter("errors", ("model", "kind"), "Exchanges that ended with an error, by what was wrong."),
    _counter("refusals", ("team", "status", "code"), "Requests that a plugin refused; quotas and rate limits are 429."),
    _histogram("request_duration", ("model", "operation"), "From the request to the last byte of its answer."),
    _histogram("time_to_first_token", ("model",), "From the request to the first chunk of a stream."),
    _histogram("overhead", ("model",), "What the gateway itself took until the answer began.", _OVERHEAD),
    _gauge("requests_in_flight", (), "Exchanges that have not ended."),
    _counter("attempts", ("target", "outcome"), "Calls of providers: answered, abandoned, or the kind of error."),
    _histogram("attempt_duration", ("target",), "From the call of a provider to its last byte."),
    _histogram("time_per_output_token", ("target",), "Of a stream, after its first chunk.", _TOKEN_SECONDS),
    _counter("retries", ("target",), "Attempts that called the same target again."),
    _counter("fallbacks", ("target",), "Attempts that went over to this target after another had failed."),
    _counter("hedges", ("target",), "Attempts that were made beside another one."),
    _counter(
        "tokens", ("target", "team", "type"), "Tokens by type; cache and reasoning are parts of input and output."
    ),
    _counter("cost_dollars", ("target", "team"), "List price of all attempts.", _NANO),
    _counter("unpriced_attempts", ("target",), "Attempts that used tokens of a target without a price."),
    _counter("cache_requests", ("cache", "status"), "What the caches said: hit, miss or bypass."),
    _counter("cache_saved_dollars", ("cache",), "What the cached answers had cost.", _NANO),
    _counter("semantic_cache_lookups", ("namespace",), "Requests that the semantic cache looked up."),
    _counter(
        "semantic_cache_hits",
        ("namespace", "outcome"),
        "Lookups answered, `similar` or `exact` (the same words), or in shadow only.",
    ),
    _gauge(
        "semantic_cache_wrong_ratio",
        ("namespace",),
        "Estimated wrong answers, as a share of all lookups; the worst of the workers.",
        "max",
    ),
    _gauge(
        "semantic_cache_wrong_bound_ratio",
        ("namespace",),
        "Upper 95 % bound of that share, from verified hits; the worst of the workers.",
        "max",
    ),
    _counter("semantic_cache_verifications", ("namespace", "outcome"), "Hits asked again: right or wrong."),
    _counter("semantic_cache_saved_dollars", ("namespace",), "What the answers served had cost.", _NANO),
    _counter(
        "semantic_cache_paid_dollars",
        ("namespace",),
        "What the cache asked of providers itself: embeddings, judges, verifications.",
        _NANO,
    ),
    Metric("junctor_plugin_seconds", "summary", ("plugin", "hook"), "Time in a plugin's hook, for each exchange."),
    _counter("plugin_failures", ("plugin", "hook"), "Hooks that failed or took too long."),
    _gauge("breaker_state", ("target",), "Circuit: 0 closed, 1 half open, 2 open; the worst of its keys.", "max"),
    _gauge("target_in_flight", ("target",), "Calls that run now, as the breaker counts them."),
    _gauge("budget_used_ratio", ("team",), "Share of its tightest budget, at the team's last request.", "max"),
    _gauge("quota_used_ratio", ("limit", "team"), "Share of a limit, when it was last a request's tightest.", "max"),
    _gauge("queue_length", (), "Requests that wait for their turn."),
    _histogram("queue_wait", ("team",), "How long requests waited for their turn."),
    _histogram("event_loop_lag", (), "How late the event loop woke a timer.", _LAG),
    _gauge("sink_queue", ("sink",), "Records of the log that wait to be written."),
    _counter("sink_written", ("sink",), "Records of the log that were written."),
    _counter("sink_dropped", ("sink",), "Records of the log that were lost."),
    _counter("alerts", ("rule", "state"), "Alerts that were told: firing or resolved."),
    _counter("alerts_undelivered", (), "Alerts that the webhook did not take, or that had no place in its queue."),
    _counter("labels_capped", ("label",), "Lookups of a label's value that became `other`: the cap is reached."),
    _gauge("workers", (), "Worker processes whose figures are in this answer."),
)
