"""What others count, read when somebody asks: the pipeline, the breaker, the quotas, the log, failures of plugins."""

from __future__ import annotations

from collections import Counter
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from junctor_metrics.counts import OTHER

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from junctor import Gateway

    from junctor_metrics.counts import Registry

__all__ = ["Sources", "breakers"]

_STATES = {"closed": 0, "half_open": 1, "open": 2}
# Metric and further labels → what of a namespace's figures it counts.
_SEMANTIC: dict[tuple[str, ...], Callable[[Mapping[str, float]], float]] = {
    ("lookups",): itemgetter("requests"),
    ("hits", "similar"): itemgetter("hits"),
    ("hits", "exact"): itemgetter("exact_hits"),
    ("hits", "shadow"): itemgetter("shadow_hits"),
    ("verifications", "right"): lambda stats: stats["verified"] - stats["verified_wrong"],
    ("verifications", "wrong"): itemgetter("verified_wrong"),
    ("saved_dollars",): itemgetter("saved"),
    ("paid_dollars",): itemgetter("paid"),
}


class Sources:
    """The figures of one gateway. Counters of others begin anew with a reload; what they added before stays."""

    def __init__(self, gateway: Gateway, registry: Registry) -> None:
        self._gateway = gateway
        self._registry = registry
        self._seen: dict[tuple[str, tuple[str, ...]], float] = {}

    def read(self) -> None:
        """Bring the figures that others keep up to date."""
        gateway, registry = self._gateway, self._registry
        registry.set("junctor_requests_in_flight", {(): gateway.pipeline.running})
        registry.set("junctor_workers", {(): 1})
        self._count("junctor_plugin_failures_total", gateway.plugins.failures)
        _targets(gateway, registry)
        self._sinks(_asked(gateway, "logging", "stats"))
        _queue(gateway, registry)
        self._semantic(_asked(gateway, "semantic_cache", "stats") or {})

    def _count(self, name: str, values: Mapping[Any, float]) -> None:
        """Add what a counter of somebody else has grown by since the last look."""
        for labels, value in values.items():
            before = self._seen.get((name, labels), 0)
            if value > before:
                self._registry[name][labels][0] += value - before
                self._seen[name, labels] = value

    def _sinks(self, stats: Any) -> None:
        if stats is None:
            return
        waiting: dict[tuple[str, ...], float] = {("writer",): stats["waiting"]}
        dropped: dict[tuple[str, ...], float] = {("writer",): stats["dropped"]}
        written: dict[tuple[str, ...], float] = {}
        for name, sink in stats["sinks"].items():
            waiting[(name,)] = sink["waiting"]
            dropped[(name,)] = sink.get("dropped", 0)
            written[(name,)] = sink.get("written", 0)
            for metric in ("dropped", "written"):
                self._registry[f"junctor_sink_{metric}_total"][(name,)]  # shown from the start, as 0
        self._registry.set("junctor_sink_queue", waiting)
        self._count("junctor_sink_dropped_total", dropped)
        self._count("junctor_sink_written_total", written)

    def _semantic(self, namespaces: Mapping[str, Mapping[str, float]]) -> None:
        for (metric, *labels), value in _SEMANTIC.items():
            name = f"junctor_semantic_cache_{metric}_total"
            counts = {(space, *labels): value(stats) for space, stats in namespaces.items()}
            for row in counts:
                if (name, row) not in self._seen:
                    self._seen[name, row] = 0
                    self._registry[name][row]  # shown from the start, as 0
            self._count(name, counts)
        shown = self._registry["junctor_semantic_cache_lookups_total"]
        for metric, field in (("wrong", "wrong_estimate"), ("wrong_bound", "wrong_bound_95")):
            worst: dict[tuple[str, ...], float] = {}
            for space, stats in namespaces.items():
                row = (space,) if (space,) in shown else (OTHER,)
                worst[row] = max(worst.get(row, 0.0), stats[field])
            self._registry.set(f"junctor_semantic_cache_{metric}_ratio", worst)


def _asked(gateway: Gateway, plugin: str, name: str) -> Any:
    """The answer of another plugin's public figures, if it is enabled and has them."""
    method = getattr(gateway.plugins.by_name.get(plugin), name, None)
    return None if method is None else method()


def breakers(gateway: Gateway) -> list[dict[str, Any]]:
    """Every target's circuit, as the fallback plugin tells it; empty without one."""
    return _asked(gateway, "fallback", "snapshot") or []


def _targets(gateway: Gateway, registry: Registry) -> None:
    states: dict[tuple[str, ...], float] = {}
    running: Counter[tuple[str, ...]] = Counter()
    for entry in breakers(gateway):
        labels = (entry["target"],)
        states[labels] = max(states.get(labels, 0), _STATES[entry["circuit"]])
        running[labels] += entry["in_flight"]
    registry.set("junctor_breaker_state", states)
    registry.set("junctor_target_in_flight", running)


def _queue(gateway: Gateway, registry: Registry) -> None:
    """How many wait in this worker, of the quotas' queues together."""
    queues = getattr(gateway.plugins.by_name.get("quotas"), "queues", None)
    registry.set("junctor_queue_length", {} if queues is None else {(): queues.waiting})
