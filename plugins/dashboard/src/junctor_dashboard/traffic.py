"""What this worker has seen: counts by second, latencies, costs by minute, targets, and a ring of the last exchanges.

`put` is in every request's path and only keeps references. `digest` turns them into counts a few times a second.
"""

from __future__ import annotations

import os
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from junctor.outcome import OUTCOMES

from junctor_dashboard.capture import take
from junctor_dashboard.sketch import bucket
from junctor_dashboard.story import cost_of, overhead_of, saved_of, story_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from junctor import Exchange, Response
    from junctor.secrets import Secrets

    from junctor_dashboard.capture import Taken

__all__ = ["COST_MINUTES", "DIMENSIONS", "SECONDS", "SLOT", "Traffic"]

SECONDS = 120
"""How far back counts by second go."""
SLOT = 5
"""Seconds of one slot of latencies."""
COST_MINUTES = 60
DIMENSIONS = ("team", "feature", "model")
OTHER = "other"

_PENDING = 5000
_STORIES = 25  # of one digest: with four a second, a hundred a second
_NAMES = 1000
_TARGETS = 2000
_TARGET_WINDOW = 60.0
_FIELDS = (*OUTCOMES, "cost")


class _TargetFigures:
    """A target's last one to two minutes: the minute that is going on, and the one before."""

    __slots__ = ("now", "old", "turned")

    def __init__(self) -> None:
        self.now: dict[str, Any] = _empty()
        self.old: dict[str, Any] = _empty()
        self.turned = time.monotonic()

    def turn(self, now: float) -> None:
        if now - self.turned > _TARGET_WINDOW:
            self.old = self.now if now - self.turned < 2 * _TARGET_WINDOW else _empty()
            self.now, self.turned = _empty(), now

    def values(self) -> dict[str, Any]:
        requests, errors = (self.now[name] + self.old[name] for name in ("requests", "errors"))
        found: dict[str, Any] = {"requests": requests, "errors": errors}
        for name in ("ttft", "duration"):
            merged = dict(self.old[name])
            for place, count in self.now[name].items():
                merged[place] = merged.get(place, 0) + count
            found[name] = merged
        return found


def _empty() -> dict[str, Any]:
    return {"requests": 0, "errors": 0, "ttft": {}, "duration": {}}


class Traffic:
    """Counts, latencies, costs and stories of one worker. Everything in it has a bound."""

    def __init__(self, secrets: Secrets, *, recent: int) -> None:
        self.worker = os.urandom(4).hex()
        self.stories: deque[dict[str, Any]] = deque(maxlen=recent)
        self.missed = 0
        self._secrets = secrets
        self._pending: deque[Taken] = deque()
        self._number = 0
        self._seconds: dict[int, list[int]] = {}
        self._slots: dict[int, tuple[dict[int, int], dict[int, int]]] = {}
        self._costs: dict[int, dict[str, dict[str, int]]] = {}
        self._targets: dict[str, _TargetFigures] = {}
        self._totals = dict.fromkeys((*_FIELDS, "saved", "unpriced"), 0)

    def put(self, exchange: Exchange, response: Response | None, error: BaseException | None) -> None:
        """Take note of an exchange's end."""
        if len(self._pending) < _PENDING:
            self._pending.append(take(exchange, response, error))
        else:
            self.missed += 1

    def digest(self) -> list[dict[str, Any]]:
        """Count what has come since the last time; the new stories, failures first where there are too many."""
        if not self._pending:
            return []
        taken, self._pending = self._pending, deque()
        wall = time.time() - time.monotonic()
        for one in taken:
            self._count(one, one.ended + wall)
        self._forget(time.time())
        told = self._told(taken)
        self.stories.extend(told)
        return told

    def _told(self, taken: Iterable[Taken]) -> list[dict[str, Any]]:
        chosen = list(enumerate(taken))
        if len(chosen) > _STORIES:
            chosen = sorted(sorted(chosen, key=lambda pair: pair[1].error is None)[:_STORIES])
        return [story_of(one, self._key(), self._secrets) for _, one in chosen]

    def _key(self) -> str:
        self._number += 1
        return f"{self.worker}-{self._number}"

    def _count(self, one: Taken, at: float) -> None:
        cost = cost_of(one)
        second = self._seconds.get(int(at))
        if second is None:
            second = self._seconds[int(at)] = [0] * len(_FIELDS)
        second[-1] += cost or 0
        self._totals["cost"] += cost or 0
        self._totals["saved"] += saved_of(one)
        self._totals["unpriced"] += cost is None
        if cost:
            self._spend(one, int(at) // 60, cost)
        for attempt in one.attempts:
            self._attempted(attempt)
        if one.purpose:
            return  # a question of the gateway's own: it costs, but no client waits for it
        second[OUTCOMES.index(one.outcome)] += 1
        self._totals[one.outcome] += 1
        if one.first_byte and one.operation != "models" and one.error is None:
            slot = self._slots.get(int(at) // SLOT)
            if slot is None:
                slot = self._slots[int(at) // SLOT] = ({}, {})
            if one.attempts:  # what a cache answers at once says nothing about the targets
                _add(slot[0], one.first_byte - one.started)
            _add(slot[1], overhead_of(one))

    def _spend(self, one: Taken, minute: int, cost: int) -> None:
        spent = self._costs.get(minute)
        if spent is None:
            spent = self._costs[minute] = {name: {} for name in DIMENSIONS}
        names = (one.client.team, one.client.feature, one.model)
        for dimension, name in zip(DIMENSIONS, names, strict=True):
            by_name = spent[dimension]
            key = name if name in by_name or len(by_name) < _NAMES else OTHER
            by_name[key] = by_name.get(key, 0) + cost

    def _attempted(self, attempt: Any) -> None:
        figures = self._targets.get(attempt.target.id)
        if figures is None:
            if len(self._targets) >= _TARGETS:
                return
            figures = self._targets[attempt.target.id] = _TargetFigures()
        figures.turn(time.monotonic())
        now = figures.now
        now["requests"] += 1
        if attempt.error is not None and not attempt.abandoned:
            now["errors"] += 1
        elif attempt.first_byte:
            _add(now["ttft"], attempt.first_byte - attempt.started)
            _add(now["duration"], (attempt.ended or attempt.first_byte) - attempt.started)

    def _forget(self, now: float) -> None:
        for table, oldest in (
            (self._seconds, int(now) - SECONDS - 2),
            (self._slots, int(now - SECONDS) // SLOT - 1),
            (self._costs, int(now) // 60 - COST_MINUTES),
        ):
            for at in [at for at in table if at < oldest]:
                del table[at]

    def part(self) -> dict[str, Any]:
        """What is published to the worker that serves the page: plain values, keys are text."""
        now = time.monotonic()
        for figures in self._targets.values():
            figures.turn(now)
        oldest = int(time.time()) - SECONDS
        return {
            "totals": self._totals | {"missed": self.missed},
            "seconds": {str(at): values for at, values in self._seconds.items() if at >= oldest},
            "slots": {str(at): [_text(counts) for counts in slot] for at, slot in self._slots.items()},
            "targets": {
                name: values | {"ttft": _text(values["ttft"]), "duration": _text(values["duration"])}
                for name, values in ((name, figures.values()) for name, figures in self._targets.items())
                if values["requests"]
            },
        }

    def spent(self, most: int) -> dict[str, Any]:
        """Nano-dollars by minute, dimension and name; the names that cost most, and the rest as one."""
        kept = {dimension: self._dearest(dimension, most) for dimension in DIMENSIONS}
        found: dict[str, Any] = {}
        for minute, spent in self._costs.items():
            found[str(minute)] = {name: _fold(spent[name], kept[name]) for name in DIMENSIONS}
        return found

    def _dearest(self, dimension: str, most: int) -> frozenset[str]:
        total: dict[str, int] = {}
        for spent in self._costs.values():
            for name, cost in spent[dimension].items():
                total[name] = total.get(name, 0) + cost
        return frozenset(sorted(total, key=lambda name: -total[name])[:most])


def _fold(costs: Mapping[str, int], kept: frozenset[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for name, cost in costs.items():
        key = name if name in kept else OTHER
        found[key] = found.get(key, 0) + cost
    return found


def _add(counts: dict[int, int], seconds: float) -> None:
    place = bucket(seconds)
    counts[place] = counts.get(place, 0) + 1


def _text(counts: Mapping[int, int]) -> dict[str, int]:
    return {str(place): count for place, count in counts.items()}
