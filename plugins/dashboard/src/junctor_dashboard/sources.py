"""What the page shows of the other plugins, if they are enabled: asked through their public methods, one by one.

A plugin that fails, or that does not have the method in its version, leaves its panel empty with the reason; the others
are shown all the same.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

    from junctor import Gateway

__all__ = ["Sources", "caches_of", "quotas_of"]

_log = logging.getLogger("junctor.dashboard")
_QUOTAS = 2000
_SPARE = 20  # what is slow to gather is gathered so much less often
_COUNTED = ("hit", "miss", "bypass", "joined", "stored", "saved", "store_failures")
_SEMANTIC = (
    *("requests", "hits", "exact_hits", "verified", "verified_wrong", "shadow_hits", "shadow_wrong"),
    *("spent", "saved", "paid"),
)
_CIRCUITS = ("closed", "half_open", "open")


class Sources:
    """Asks the enabled plugins. `gather` is what this worker knows and others may add to."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._kept: dict[str, tuple[float, Any]] = {}
        self._said: set[str] = set()

    def plugin(self, name: str) -> Any:
        """The enabled plugin of this name, or None."""
        return self._gateway.plugins.by_name.get(name)

    @property
    def enabled(self) -> list[str]:
        """The plugins of the file, in their order."""
        return [name for name in self._gateway.plugins.by_name if name != "file_order"]

    async def gather(self) -> dict[str, Any]:
        """Quotas, targets and caches, as plain values."""
        return {
            "quotas": await self._asked("quotas", self._quotas),
            "in_flight": await self._asked("routing", self._in_flight) or await self._asked("fallback", self._guarded),
            "circuits": await self._asked("fallback", self._circuits),
            "exact_cache": await self._asked("exact_cache", lambda plugin: plugin.stats()),
            "semantic_cache": await self._asked("semantic_cache", self._semantic),
        }

    async def _asked(self, name: str, ask: Callable[[Any], Awaitable[Any]]) -> Any:
        """What the plugin says, at the most as often as it is quick; None if it is not there or cannot say it."""
        plugin = self.plugin(name)
        if plugin is None:
            return None
        place = f"{name}.{getattr(ask, '__name__', '')}"
        due, last = self._kept.get(place, (0.0, None))
        now = time.monotonic()
        if now < due:
            return last
        try:
            found = await ask(plugin)
        except Exception as error:  # someone else's code
            if name not in self._said:
                self._said.add(name)
                _log.warning("plugin '%s' does not tell its figures: %s", name, type(error).__name__)
            found = None
        took = time.monotonic() - now
        self._kept[place] = (now + min(30.0, _SPARE * took), found)
        return found

    async def _quotas(self, plugin: Any) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = await plugin.reports.rows()
        return sorted(rows, key=_used, reverse=True)[:_QUOTAS]

    async def _in_flight(self, plugin: Any) -> dict[str, int]:
        # Figures belong to an address as well; here only the target counts.
        return _added((name.partition(" ")[0], figures["in_flight"]) for name, figures in plugin.figures().items())

    async def _guarded(self, plugin: Any) -> dict[str, int]:
        return _added((_id(row), row["in_flight"]) for row in plugin.snapshot())

    async def _circuits(self, plugin: Any) -> dict[str, dict[str, Any]]:
        found: dict[str, list[dict[str, Any]]] = {}
        for row in plugin.snapshot():
            found.setdefault(_id(row), []).append(row)
        return {name: _worst(rows) for name, rows in found.items()}

    async def _semantic(self, plugin: Any) -> dict[str, Any]:
        since = plugin.namespaces.stats()
        return {
            "trouble": None if plugin.engine is not None else plugin.trouble,
            "namespaces": {
                name: {field: report[field] for field in ("mode", "max_wrong", "wrong_bound_95")}
                | {"whole": _whole(report), "since": {field: since[name][field] for field in _SEMANTIC}}
                for name, report in plugin.namespaces.reports().items()
            },
        }

    def targets(self) -> list[dict[str, Any]]:
        """Every target that the configuration names, with the models that it answers for."""
        found: dict[str, dict[str, Any]] = {}
        for model in self._gateway.models.values():
            for target in model.targets:
                row = found.setdefault(
                    target.id, {"id": target.id, "name": target.name, "key": target.key_id, "models": []}
                )
                if model.name not in row["models"]:
                    row["models"].append(model.name)
        return list(found.values())


def _id(row: Mapping[str, Any]) -> str:
    return f"{row['target']}#{row['key_id']}" if row["key_id"] else str(row["target"])


def _added(counts: Iterable[tuple[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for name, count in counts:
        total[name] = total.get(name, 0) + count
    return total


def _worst(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The worst circuit of those that share a target's id: other keys without a name, or other addresses."""
    worst = max(rows, key=lambda row: (_CIRCUITS.index(row["circuit"]), row["opens_until"] or 0, -row["share"]))
    found = {name: worst[name] for name in ("circuit", "reason", "opens_until", "share")}
    return found | {"of": len(rows), "some": sum(row["circuit"] == worst["circuit"] for row in rows)}


def _whole(report: Mapping[str, Any]) -> dict[str, Any]:
    """What a namespace has counted in all its life, money in nano-dollars."""
    found: dict[str, Any] = {field: report[field] for field in _SEMANTIC if field in report}
    found["spent"] = report["wrong_estimate"] * report["requests"]
    return found | {field: round(report[field] * 1e9) for field in ("saved", "paid")}


def _used(row: Mapping[str, Any]) -> float:
    return float((row["used"] + row["reserved"]) / row["limit"]) if row["limit"] else 1.0


def quotas_of(gathered: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]] | None:
    """The first worker's rows (what is used is shared), with the queues of all."""
    reports = [one["quotas"] for one in gathered if one["quotas"] is not None]
    if not reports:
        return None
    waiting: dict[tuple[str, str], int] = {}
    for rows in reports:
        for row in rows:
            if row["queue"]:
                key = (row["name"], row["scope"])
                waiting[key] = waiting.get(key, 0) + row["queue"]
    return [{**row, "queue": waiting.get((row["name"], row["scope"]), 0)} for row in reports[0]]


def caches_of(gathered: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Both caches, all workers together; `saved` is nano-dollars, shares are of the requests that they looked at."""
    exact = [one["exact_cache"] for one in gathered if one["exact_cache"]]
    semantic = [one["semantic_cache"] for one in gathered if one["semantic_cache"]]
    found: dict[str, Any] = {"exact": None, "semantic": None}
    if exact:
        total = {name: sum(one.get(name) or 0 for one in exact) for name in _COUNTED}
        looked = total["hit"] + total["miss"]
        found["exact"] = {**total, "share": total["hit"] / looked if looked else None, "entries": exact[0]["entries"]}
        found["exact"] |= {"store": exact[0]["store"], "resting": any(one["store_resting"] for one in exact)}
    if semantic:
        names = sorted({name for one in semantic for name in one["namespaces"]})
        rows = [
            _namespace(name, [one["namespaces"][name] for one in semantic if name in one["namespaces"]])
            for name in names
        ]
        rows.sort(key=lambda row: (-row["requests"], row["name"]))
        found["semantic"] = {"trouble": semantic[0]["trouble"], "namespaces": rows}
    return found


def _namespace(name: str, reports: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    # All workers of a machine have read the same past: it counts once.
    oldest = max(reports, key=lambda one: one["whole"]["requests"] - one["since"]["requests"])
    past = {field: oldest["whole"][field] - oldest["since"][field] for field in _SEMANTIC}
    total = {field: past[field] + sum(one["since"][field] for one in reports) for field in _SEMANTIC}
    requests, hits = total["requests"], total["hits"] + total["exact_hits"]
    return {
        **total,
        "name": name,
        "mode": reports[0]["mode"],
        "max_wrong": reports[0]["max_wrong"],
        "share": hits / requests if requests else None,
        "wrong": total["spent"] / requests if requests else None,
        # Each worker has verified its own hits: the worst of their bounds holds for all.
        "bound": max(one["wrong_bound_95"] for one in reports),
    }
