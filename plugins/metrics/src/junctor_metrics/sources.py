"""What others count, read when somebody asks: the pipeline, the breaker, the quotas, the log, failures of plugins."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from junctor import Gateway

    from junctor_metrics.counts import Registry

__all__ = ["breakers", "read"]

_STATES = {"closed": 0, "half_open": 1, "open": 2}


def read(gateway: Gateway, registry: Registry) -> None:
    """Bring the figures that others keep up to date."""
    registry.set("junctor_requests_in_flight", {(): gateway.pipeline.running})
    registry.set("junctor_workers", {(): 1})
    failures: dict[tuple[str, ...], float] = {
        (plugin, hook): float(count) for (plugin, hook), count in gateway.plugins.failures.items()
    }
    registry.set("junctor_plugin_failures_total", failures)
    _targets(gateway, registry)
    _sinks(_asked(gateway, "logging", "stats"), registry)
    _quotas(_asked(gateway, "quotas", "snapshot"), registry)


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


def _sinks(stats: Any, registry: Registry) -> None:
    if stats is None:
        return
    waiting: dict[tuple[str, ...], float] = {("writer",): stats["waiting"]}
    dropped: dict[tuple[str, ...], float] = {("writer",): stats["dropped"]}
    written: dict[tuple[str, ...], float] = {}
    for name, sink in stats["sinks"].items():
        waiting[(name,)] = sink["waiting"]
        dropped[(name,)] = sink.get("dropped", 0)
        written[(name,)] = sink.get("written", 0)
    registry.set("junctor_sink_queue", waiting)
    registry.set("junctor_sink_dropped_total", dropped)
    registry.set("junctor_sink_written_total", written)


def _quotas(snapshot: Any, registry: Registry) -> None:
    """`{"queue": {"length": …}, "scopes": [{"limit": …, "scope": …, "share": …}]}`, as far as it is there."""
    if not isinstance(snapshot, dict):
        return
    shares: dict[tuple[str, ...], float] = {}
    for scope in snapshot.get("scopes", ()):
        if "share" in scope:
            shares[str(scope["limit"]), str(scope["scope"])] = float(scope["share"])
    registry.set("junctor_quota_used_ratio", shares)
    queue = snapshot.get("queue")
    if isinstance(queue, dict) and "length" in queue:
        registry.set("junctor_queue_length", {(): float(queue["length"])})
