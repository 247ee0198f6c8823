"""Strategies: order the candidates that are left, best first. Each is built once, at start-up.

A strategy returns (score, candidate) pairs; the scores are for the record of the decision. Higher is better for
`weighted`, `usage_aware` and `sticky`; for the others the score is what is kept low (in flight per weight, seconds,
dollars, the tier's number).
"""

from __future__ import annotations

import re
import time
from math import inf, log
from operator import attrgetter, itemgetter
from random import random
from typing import TYPE_CHECKING, Protocol

from junctor import Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from junctor_routing.constraints import Candidate
    from junctor_routing.live import Live, Sketch
    from junctor_routing.settings import StrategySettings
    from junctor_routing.view import View

__all__ = ["Strategy", "build"]

Ranked = list[tuple[float, "Candidate"]]
_first = itemgetter(0)
_MASK = 0xFFFFFFFFFFFFFFFF
_SHARES = 2**53 + 2
_AGAIN = 1.0  # seconds: a target that was just measured, or is being measured, is not explored
_LEAST_ANSWERS = 5
_UNUSED = (0.0, 0.0)


class Strategy(Protocol):
    """Orders the candidates; never drops one but says so in `view.notes["dropped"]`."""

    name: str

    def rank(self, candidates: Sequence[Candidate], view: View) -> Ranked: ...


class Weighted:
    """At random in proportion to `weight`, and so is the order of the rest. Weight 0 comes last."""

    name = "weighted"

    def rank(self, candidates: Sequence[Candidate], view: View) -> Ranked:
        # Efraimidis and Spirakis: the largest u^(1/w) wins with probability w / sum; here its logarithm.
        ranked = [(log(1.0 - random()) / c.weight if c.weight else -inf, c) for c in candidates]
        ranked.sort(key=_first, reverse=True)
        return [(c.weight, c) for _, c in ranked]


class Ordered:
    """Tier after tier, weighted within one. A tier lists target names or tags; without tiers, the file's order."""

    name = "ordered"

    def __init__(self, tiers: Sequence[Sequence[str]]) -> None:
        self._tiers = [frozenset(tier) for tier in tiers]
        self._weighted = Weighted()

    def rank(self, candidates: Sequence[Candidate], view: View) -> Ranked:
        if not self._tiers:
            return [(float(place), c) for place, c in enumerate(candidates)]
        tiers: list[list[Candidate]] = [[] for _ in range(len(self._tiers) + 1)]
        for c in candidates:
            tiers[self._tier(c)].append(c)
        return [(float(n), c) for n, tier in enumerate(tiers) for _, c in self._weighted.rank(tier, view)]

    def _tier(self, c: Candidate) -> int:
        names = {c.id, c.target.name, *c.tags}
        return next((n for n, tier in enumerate(self._tiers) if tier & names), len(self._tiers))


class LeastBusy:
    """Fewest exchanges in flight for its weight; equals at random."""

    name = "least_busy"

    def rank(self, candidates: Sequence[Candidate], view: View) -> Ranked:
        ranked = [((c.live.in_flight + 1) / (c.weight or 1e-9), random(), c) for c in candidates]
        ranked.sort()
        return [(score, c) for score, _, c in ranked]


class LowestLatency:
    """Shortest expected answer: time to first token and time per token. Close ones share by what is in flight."""

    name = "lowest_latency"

    def __init__(self, explore: float, tolerance: float) -> None:
        self._explore = explore
        self._tolerance = 1 + tolerance

    def rank(self, candidates: Sequence[Candidate], view: View) -> Ranked:
        output = view.output_tokens
        measured = [(latency, c) for c in candidates if (latency := c.live.latency(output)) is not None]
        measured.sort(key=_first)
        if measured:
            limit = measured[0][0] * self._tolerance
            near = [(c.live.in_flight / (c.weight or 1e-9), random(), s, c) for s, c in measured if s <= limit]
            near.sort()
            measured[: len(near)] = [(s, c) for _, _, s, c in near]
        return _explored(candidates, measured, self._explore, view)


def _explored(candidates: Sequence[Candidate], measured: Ranked, share: float, view: View) -> Ranked:
    """Put a target in front that nobody has measured yet, or, now and then, the one measured longest ago."""
    known = {id(c) for _, c in measured}
    rest = [(inf, c) for c in candidates if id(c) not in known]
    # One that only ever failed is tried less often than one that nobody has asked.
    due = (c for _, c in rest if view.now - c.live.seen > _AGAIN * (1 + 30 * c.live.errors))
    idle = next((c for c in due if not c.live.in_flight), None)
    if idle is None and measured and random() < share:
        oldest = min((c for _, c in measured), key=lambda c: c.live.seen)
        if view.now - oldest.live.seen > _AGAIN and not oldest.live.in_flight:
            idle = oldest
    ranked = [*measured, *rest]
    if idle is None or idle is ranked[0][1]:
        return ranked
    view.notes["explored"] = True
    chosen = next(pair for pair in ranked if pair[1] is idle)
    return [chosen, *(pair for pair in ranked if pair is not chosen)]


class Cheapest:
    """Lowest expected cost of this request. Unpriced targets come last: unknown is not free."""

    name = "cheapest"

    def rank(self, candidates: Sequence[Candidate], view: View) -> Ranked:
        ranked = [(inf if (cost := c.cost(view)) is None else cost / 1e9, c) for c in candidates]
        ranked.sort(key=_first)
        return ranked


class Quality:
    """The wanted tier's targets, then the tiers below, then those above, cheapest first, none over the ceiling."""

    name = "quality"

    def __init__(self, ladder: Sequence[str], tier: str, ceiling: int | None) -> None:
        wanted = ladder.index(tier)
        order = [*reversed(ladder[: wanted + 1]), *ladder[wanted + 1 :]]
        self._places = {tag: place for place, tag in enumerate(order)}
        self._ceiling = inf if ceiling is None else ceiling

    def rank(self, candidates: Sequence[Candidate], view: View) -> Ranked:
        kept: list[tuple[int, float, Candidate]] = []
        last = len(self._places)
        for c in candidates:
            cost = c.cost(view)
            if cost is not None and cost > self._ceiling:
                reason = f"would cost about ${cost / 1e9:.6f}, over the ceiling of ${self._ceiling / 1e9:.6f}"
                _drop(view, c, reason)
                continue
            place = min((self._places[tag] for tag in c.tags if tag in self._places), default=last)
            kept.append((place, inf if cost is None else cost, c))
        kept.sort(key=lambda entry: entry[:2])
        return [(float(place), c) for place, _, c in kept]


def _drop(view: View, c: Candidate, reason: str) -> None:
    view.notes.setdefault("dropped", []).append({"target": c.id, "dropped": reason})


class UsageAware:
    """Most headroom under its own requests and tokens per minute; those without any come last."""

    name = "usage_aware"

    def __init__(self, *, refuse: bool) -> None:
        self._refuse = refuse

    def rank(self, candidates: Sequence[Candidate], view: View) -> Ranked:
        wall, now = time.time(), view.now
        more = view.tokens + view.output_tokens
        # A share of what is free, by weight: the one with most headroom must not take every request of a burst.
        ranked = []
        for c in candidates:
            limits = c.live.limits
            free = limits.headroom(c.live.window.used(wall) if limits.known else _UNUSED, more, now)
            ranked.append((free, log(1.0 - random()) / (c.weight * free) if c.weight and free else -inf, c))
        ranked.sort(key=itemgetter(1, 0), reverse=True)
        if self._refuse and ranked and not any(free for free, _, _ in ranked):
            wait = min((c.live.limits.full_until - now for _, _, c in ranked), default=0.0)
            message = "every target of this model has reached its own rate limit"
            after = wait if 0 < wait < inf else 60.0 - wall % 60
            raise Refused(
                message, status_code=429, type="rate_limit_error", code="rate_limit_exceeded", retry_after=after
            )
        return [(free, c) for free, _, c in ranked]


class Sticky:
    """The same session to the same target (rendezvous hashing, by weight): the provider's prompt cache stays warm.

    When targets come or go, only the sessions of those move.
    """

    name = "sticky"

    def __init__(self, by: str) -> None:
        self._by = by

    def rank(self, candidates: Sequence[Candidate], view: View) -> Ranked:
        key = view.session if self._by == "session" else self._by_key(view)
        seed = int.from_bytes(key, "big")
        ranked = []
        for c in candidates:
            x = seed ^ c.seed  # mixed by splitmix64's finish, written out: ten calls cost more than the work
            x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
            x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
            ranked.append((-c.weight / log((((x ^ (x >> 31)) >> 11) + 1) / _SHARES), c))
        ranked.sort(key=_first, reverse=True)
        return ranked

    def _by_key(self, view: View) -> bytes:
        text = view.key(self._by).encode("utf-8", "surrogatepass")
        return hash_text(text).to_bytes(8, "big")


def hash_text(text: bytes) -> int:
    """FNV-1a, 64 bit: the same in every process, unlike `hash`."""
    value = 0xCBF29CE484222325
    for byte in text:
        value = ((value ^ byte) * 0x100000001B3) & _MASK
    return value


class Slo:
    """The cheapest target that meets the objectives, from live percentiles; the fastest if none does.

    A target with too few answers to judge counts as meeting them: it has to be tried to be known.
    """

    name = "slo"

    def __init__(self, objectives: Mapping[str, float], cost: int | None, explore: float) -> None:
        self._cheapest = Cheapest()
        self._explore = explore
        self._cost = inf if cost is None else cost / 1000 / 1e9
        self._wanted = [(name, *_objective(name), limit) for name, limit in objectives.items()]
        self._said = {**objectives, **({} if cost is None else {"cost_per_1k_requests": cost / 1e9})}

    def rank(self, candidates: Sequence[Candidate], view: View) -> Ranked:
        good: Ranked = []
        missed: list[tuple[float, float, Candidate]] = []
        measured: dict[str, dict[str, float | None]] = {}
        now, wanted, limit_cost = view.now, self._wanted, self._cost
        for cost, c in self._cheapest.rank(candidates, view):
            worst = 0.0 if limit_cost == inf else cost / limit_cost
            figures = measured[c.id] = {}
            for name, sketch, percent, limit in wanted:
                figures[name] = value = sketch(c.live).quantile(percent, now, least=_LEAST_ANSWERS)
                if value is not None and value > worst * limit:
                    worst = value / limit
            if worst <= 1.0:
                good.append((cost, c))
            else:
                missed.append((worst, cost, c))
        missed.sort(key=lambda entry: entry[:2])
        view.notes["slo"] = {"objectives": self._said, "met": bool(good), "measured": measured}
        ranked = [*good, *((cost, c) for _, cost, c in missed)]
        return self._with_exploration(ranked, missed, view)

    def _with_exploration(self, ranked: Ranked, missed: list[tuple[float, float, Candidate]], view: View) -> Ranked:
        if not missed or random() >= self._explore:
            return ranked
        oldest = min((c for *_, c in missed), key=lambda c: c.live.seen)
        if oldest is ranked[0][1] or oldest.live.in_flight or view.now - oldest.live.seen <= _AGAIN:
            return ranked
        view.notes["explored"] = True
        chosen = next(pair for pair in ranked if pair[1] is oldest)
        return [chosen, *(pair for pair in ranked if pair is not chosen)]


def _objective(name: str) -> tuple[Callable[[Live], Sketch], int]:
    match = re.fullmatch(r"(ttft|duration)_p(\d\d)", name)
    assert match is not None, "the settings let nothing else pass"
    return attrgetter(f"{match[1]}_sketch"), int(match[2])


_BUILDERS: dict[str, Callable[[StrategySettings], Strategy]] = {
    "weighted": lambda _: Weighted(),
    "ordered": lambda s: Ordered(s.tiers),
    "least_busy": lambda _: LeastBusy(),
    "lowest_latency": lambda s: LowestLatency(s.explore, s.tolerance),
    "cheapest": lambda _: Cheapest(),
    "quality": lambda s: Quality(s.ladder, str(s.tier), s.max_cost),
    "usage_aware": lambda s: UsageAware(refuse=s.when_full == "refuse"),
    "sticky": lambda s: Sticky(s.by),
    "slo": lambda s: Slo(s.objectives, s.cost_per_1k_requests, s.explore),
}


def build(settings: StrategySettings) -> Strategy:
    """The strategy that the settings name."""
    return _BUILDERS[settings.kind](settings)
