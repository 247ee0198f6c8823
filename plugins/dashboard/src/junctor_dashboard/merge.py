"""The parts of all workers added up to what the page shows. Times are milliseconds, money nano-dollars."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from junctor.outcome import OUTCOMES

from junctor_dashboard.sketch import quantile, summed
from junctor_dashboard.traffic import COST_MINUTES, SECONDS, SLOT

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = ["costs_of", "series", "targets_of", "traffic_of"]

_LAST = 60  # seconds that rates and percentiles are about
_RATE = 10
_ERRORS = (OUTCOMES.index("failed"), OUTCOMES.index("timeout"))


def traffic_of(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Rates, outcomes by second, and percentiles."""
    now = int(time.time())
    seconds: dict[int, list[int]] = {}
    for part in parts:
        for at, values in part["seconds"].items():
            into = seconds.setdefault(int(at), [0] * len(values))
            for place, value in enumerate(values):
                into[place] += value
    empty = [0] * (len(OUTCOMES) + 1)
    # The second that goes on is not whole yet: it counts for the totals, not for the rates.
    rows = [seconds.get(at, empty) for at in range(now - SECONDS + 1, now + 1)]
    last = rows[-_LAST:]
    requests = sum(sum(row[:-1]) for row in last)
    failed = sum(row[place] for row in last for place in _ERRORS)
    return {
        "end": now,
        "outcomes": list(OUTCOMES),
        "seconds": [row[:-1] for row in rows],
        "rate": sum(sum(row[:-1]) for row in rows[-_RATE - 1 : -1]) / _RATE,
        "requests": requests,
        "failed": failed,
        "refused": sum(row[OUTCOMES.index("refused")] for row in last),
        "cost_per_minute": sum(row[-1] for row in last),
        "totals": _added(part["totals"] for part in parts),
        **_latency(parts, now),
    }


def _latency(parts: Sequence[Mapping[str, Any]], now: int) -> dict[str, Any]:
    count = SECONDS // SLOT
    slots = range(now // SLOT - count + 1, now // SLOT + 1)
    found: dict[str, Any] = {}
    for place, name in enumerate(("ttft", "overhead")):
        by_slot = [summed(_numbers(p["slots"][str(at)][place]) for p in parts if str(at) in p["slots"]) for at in slots]
        whole = summed(by_slot[-(_LAST // SLOT) - 1 :])
        found[name] = {f"p{share:g}": _ms(quantile(whole, share / 100)) for share in (50, 95, 99)}
        found[name]["p50s"] = [_ms(quantile(counts, 0.5)) for counts in by_slot]
        found[name]["p95s"] = [_ms(quantile(counts, 0.95)) for counts in by_slot]
    return found


def targets_of(parts: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """By the target's id: requests and errors of the last one to two minutes, latency, share of all calls."""
    requests: dict[str, list[int]] = {}
    ttft: dict[str, list[dict[int, int]]] = {}
    duration: dict[str, list[dict[int, int]]] = {}
    for part in parts:
        for name, values in part["targets"].items():
            into = requests.setdefault(name, [0, 0])
            into[0] += values["requests"]
            into[1] += values["errors"]
            ttft.setdefault(name, []).append(_numbers(values["ttft"]))
            duration.setdefault(name, []).append(_numbers(values["duration"]))
    everything = sum(count for count, _ in requests.values()) or 1
    return {
        name: {
            "requests": count,
            "errors": failed / count,
            "share": count / everything,
            "ttft_p50": _ms(quantile(summed(ttft[name]), 0.5)),
            "ttft_p95": _ms(quantile(summed(ttft[name]), 0.95)),
            "duration_p95": _ms(quantile(summed(duration[name]), 0.95)),
        }
        for name, (count, failed) in requests.items()
    }


def costs_of(tables: Iterable[Mapping[str, Any]], dimension: str) -> dict[str, Any]:
    """The last hour by minute, from the workers' own counts."""
    now = int(time.time()) // 60
    minutes = range(now - COST_MINUTES + 1, now + 1)
    by_name: dict[str, list[int]] = {}
    for table in tables:
        for minute, spent in table.items():
            place = int(minute) - minutes[0]
            if 0 <= place < COST_MINUTES:
                for name, cost in spent[dimension].items():
                    by_name.setdefault(name, [0] * COST_MINUTES)[place] += cost
    return series([minute * 60 for minute in minutes], by_name, 60)


def series(starts: Sequence[int], by_name: Mapping[str, Sequence[int]], width: int, most: int = 12) -> dict[str, Any]:
    """The dearest names with their values over time, and the rest as one."""
    order = sorted(by_name, key=lambda name: (-sum(by_name[name]), name))
    rest = [by_name[name] for name in order[most:]]
    return {
        "starts": list(starts),
        "width": width,
        "series": [{"name": name, "total": sum(by_name[name]), "values": list(by_name[name])} for name in order[:most]],
        "rest": {"names": len(rest), "values": [sum(column) for column in zip(*rest, strict=True)]} if rest else None,
        "table": [{"name": name, "total": sum(by_name[name])} for name in order[:1000]],
        "total": sum(map(sum, by_name.values())),
    }


def _added(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for one in counts:
        for name, value in one.items():
            total[name] = total.get(name, 0) + value
    return total


def _numbers(counts: Mapping[str, int]) -> dict[int, int]:
    return {int(place): count for place, count in counts.items()}


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)
