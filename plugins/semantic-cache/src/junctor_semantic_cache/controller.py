"""Decides whether a near entry may answer, so that few enough answers are wrong: one `Namespace` per kind of traffic.

Three parts, in this order:

1. A **risk**: the probability that the entry's answer is wrong for this request. A logistic model of a few signals; its
   weights start at those trained offline (a Gaussian prior) and are learned on from this namespace's own labels.
2. A **limit** on the risk. Labels and look-ups are sorted into bins of risk. Bins are opened from the safest on while
   the upper confidence bound of wrong answers, as a share of all requests (and of hits), stays under what is allowed.
3. An **account**. Each served answer costs its risk. The account never exceeds the count that keeps even the 95 %
   Clopper-Pearson bound of the requests so far under the allowed share: small numbers are therefore served little.
   Nor does what any thousand requests in a row are charged exceed what keeps their own share under the limit: a quiet
   past (a shadow period, easy traffic) is no licence for a bad hour.

A label is a look-up whose right answer became known: every miss that had a candidate, and the hits that were verified.
Whether a label is taken depends on the signals and a coin only, so that the model needs no weights for what is missing.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from junctor_semantic_cache.bounds import mean_budget, upper_bound, window_budget

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    Vector = NDArray[np.float64]

__all__ = ["SIGNALS", "Limits", "Namespace", "Prior", "Verdict"]

SIGNALS = ("bias", "similarity", "near", "clean", "evidence", "margin", "support", "record")
_EDGES = np.array(
    [1e-4, 3e-4, 6e-4, 1e-3, 2e-3, 3.5e-3, 6e-3, 0.01, 0.016, 0.025, 0.04, 0.06, 0.1, 0.16, 0.25, 0.4, 0.6]
)
_BINS = len(_EDGES) + 1
_TOPS = np.append(_EDGES, 1.0)
_LABELS = 3000  # kept per namespace; the oldest go first
_LOOKUPS = 2000
_WINDOW = 1000  # requests in a row whose wrong answers are bounded by themselves
_COUNTS: tuple[str, ...] = (
    "requests",
    "hits",
    "exact_hits",
    "spent",
    "verified",
    "verified_wrong",
    "shadow_hits",
    "shadow_wrong",
)
_COUNTS += ("judge_checks", "judge_false", "saved", "paid")


@dataclass(frozen=True, slots=True)
class Limits:
    """What may be wrong: `max_wrong` of all requests, `max_wrong_per_hit` of the answers served (1: no such limit)."""

    max_wrong: float = 0.01
    max_wrong_per_hit: float = 1.0
    verify: float = 0.02
    z: float = 1.64


@dataclass(frozen=True, slots=True)
class Prior:
    """Weights trained offline, their standard deviations, and how many labels the offline risk is worth in a bin."""

    mean: Vector
    deviation: Vector
    worth: float = 30.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """`serve`, with the risk, the limit that held, and the probability with which a hit is to be verified."""

    serve: bool
    risk: float
    limit: float
    verify: float
    why: str


@dataclass
class Namespace:
    """What is known of one kind of traffic. Not thread-safe: one owner.

    `spent` is the expected number of wrong answers among the hits. `shadow_*` count what would have been served.
    Money is in nano-dollars.
    """

    prior: Prior
    limits: Limits = field(default_factory=Limits)
    requests: int = 0
    hits: int = 0
    exact_hits: int = 0
    spent: float = 0.0
    verified: int = 0
    verified_wrong: int = 0
    shadow_hits: int = 0
    shadow_wrong: int = 0
    judge_checks: int = 0
    judge_false: int = 0
    saved: int = 0
    paid: int = 0
    limit: float = 0.0

    def __post_init__(self) -> None:
        self._signals: deque[Sequence[float]] = deque(maxlen=_LABELS)
        self._wrong: deque[bool] = deque(maxlen=_LABELS)
        self._lookups: deque[Sequence[float]] = deque(maxlen=_LOOKUPS)
        self._weights = self.prior.mean.copy()
        self._recent: deque[tuple[int, float]] = deque()
        self._charged = 0.0  # the sum of `_recent`
        self._rate = np.append(_EDGES, 1.0)
        self._stale = 0
        self._limit_due = 0
        self.dirty = False

    @property
    def labels(self) -> int:
        """How many labels it has learned from and still holds."""
        return len(self._wrong)

    def request(self) -> None:
        """Count a request of this namespace, whatever becomes of it."""
        self.requests += 1
        self.dirty = True

    def risk(self, signals: Sequence[float]) -> float:
        """The probability that the candidate's answer is wrong, by the model."""
        return float(_risk(np.asarray(signals, float)[None], self._weights)[0])

    def judge(self, signals: Sequence[float]) -> Verdict:
        """Say whether the candidate may answer."""
        self._lookups.append(tuple(signals))
        if self.requests >= self._limit_due:
            self._relimit()
        raw = self.risk(signals)
        risk = float(self._rate[np.searchsorted(_EDGES, raw)])
        serve = raw <= self.limit and risk <= self._room()
        why = "served" if serve else "risk over the limit" if raw > self.limit else "error budget spent"
        near = min(1.0, raw / self.limit) if self.limit else 1.0
        return Verdict(serve, risk, self.limit, min(1.0, self.limits.verify * (1 + 9 * near)), why)

    def _room(self) -> float:
        """What may still be spent: of all requests so far, and of the last `_WINDOW` of them."""
        while self._recent and self._recent[0][0] <= self.requests - _WINDOW:
            self._charged -= self._recent.popleft()[1]
        limit = self.limits.max_wrong
        return min(mean_budget(self.requests, limit) - self.spent, window_budget(_WINDOW, limit) - self._charged)

    def served(self, risk: float, *, saved: int = 0) -> None:
        """Book a hit that was allowed."""
        self._recent.append((self.requests, risk))
        self._charged += risk
        self.hits += 1
        self.spent += risk
        self.saved += saved

    def learn(self, signals: Sequence[float], *, wrong: bool, hit: bool = False) -> bool:
        """Take a label: was the candidate's answer wrong? `hit` marks the verification of a served one.

        True says that the weights are due: call `fit` (in a thread, it takes milliseconds) and `adopt` its result.
        """
        self._signals.append(tuple(signals))
        self._wrong.append(wrong)
        if hit:
            self.verified += 1
            self.verified_wrong += wrong
        self.dirty = True
        self._stale += 1
        return self._stale >= max(5, len(self._wrong) // 20)

    def fit(self) -> Callable[[], Vector]:
        """The work of finding new weights, on a copy of what is known now."""
        x, y = np.array(self._signals), np.array(self._wrong, float)
        self._stale = 0
        start = self._weights
        return lambda: _fit(x, y, self.prior, start)

    def adopt(self, weights: Vector) -> None:
        """Use the weights that `fit` found."""
        self._weights = weights
        self._limit_due = 0

    def counts(self) -> dict[str, Any]:
        """All that only grows."""
        return {name: getattr(self, name) for name in _COUNTS}

    def dump(self) -> dict[str, Any]:
        """All that was learned, as plain values."""
        rows = [[*(round(float(v), 4) for v in s), int(w)] for s, w in zip(self._signals, self._wrong, strict=True)]
        lookups = [[round(float(v), 4) for v in s] for s in self._lookups]
        learned = {"labels": rows, "lookups": lookups, "recent": list(self._recent)}
        return self.counts() | learned | {"weights": self._weights.tolist()}

    def restore(self, saved: dict[str, Any]) -> None:
        """Take up what `dump` wrote; what does not fit the signals of this version is left out."""
        for name in _COUNTS:
            setattr(self, name, saved.get(name, getattr(self, name)))
        width = len(SIGNALS)
        for row in saved.get("labels", ()):
            if len(row) == width + 1:
                self._signals.append(tuple(row[:-1]))
                self._wrong.append(bool(row[-1]))
        self._lookups.extend(tuple(row) for row in saved.get("lookups", ()) if len(row) == width)
        self._recent.extend((int(at), float(risk)) for at, risk in saved.get("recent", ()))
        self._charged = sum(risk for _, risk in self._recent)
        if len(saved.get("weights", ())) == width:
            self._weights = np.array(saved["weights"])

    def report(self) -> dict[str, Any]:
        """What an operator asks: hits, the wrong share with its 95 % bound, and money in dollars."""
        share = self.hits / self.requests if self.requests else 0.0
        bound = upper_bound(self.verified_wrong, self.verified) * share
        return {
            "requests": self.requests,
            "hits": self.hits,
            "exact_hits": self.exact_hits,
            "hit_rate": (self.hits + self.exact_hits) / self.requests if self.requests else 0.0,
            "wrong_estimate": self.spent / self.requests if self.requests else 0.0,
            "wrong_bound_95": min(bound, share),
            "verified": self.verified,
            "verified_wrong": self.verified_wrong,
            "shadow_hits": self.shadow_hits,
            "shadow_wrong": self.shadow_wrong,
            "labels": self.labels,
            "risk_limit": self.limit,
            "judge_error": self.judge_false / self.judge_checks if self.judge_checks else 0.0,
            "saved": self.saved / 1e9,
            "paid": self.paid / 1e9,
            "net": (self.saved - self.paid) / 1e9 - self.spent * self.saved / 1e9 / max(1, self.hits + self.exact_hits),
        }

    def _relimit(self) -> None:
        self._limit_due = self.requests + max(5, self.requests // 50)
        budget = mean_budget(self.requests, self.limits.max_wrong)
        # What was not spent (in shadow, nothing is) may be caught up with, half of it over as many requests again.
        unspent = max(0.0, budget - self.spent)
        self.limit = self._open_bins((budget + unspent / 2) / max(1, self.requests))

    def _open_bins(self, allowed: float) -> float:
        """The highest risk up to which the bound of wrong answers stays under what is allowed."""
        lookups = np.sort(_risk(np.array(self._lookups), self._weights))
        seen = max(1, min(self.requests, _LOOKUPS))
        place = np.searchsorted(_EDGES, lookups)
        count = np.bincount(place, minlength=_BINS)
        # An empty bin is as bad as its upper edge; one with look-ups as the model says, until labels tell.
        expected = np.where(count, np.bincount(place, weights=lookups, minlength=_BINS) / np.maximum(1, count), _TOPS)
        labels: Vector = np.zeros(_BINS)
        wrong: Vector = np.zeros(_BINS)
        if self._wrong:
            where = np.searchsorted(_EDGES, _risk(np.array(self._signals), self._weights))
            labels += np.bincount(where, minlength=_BINS)
            wrong += np.bincount(where, weights=np.array(self._wrong, float), minlength=_BINS)
        known = labels + self.prior.worth
        error = self.judge_false / self.judge_checks if self.judge_checks else 0.0
        self._rate = np.minimum(1.0, (wrong + self.prior.worth * expected) / known + error)
        variance = self._rate * (1 - self._rate) / known
        # What would be served up to each look-up: the whole of the bins below, and a part of its own.
        mass = count / seen
        below = np.append(0.0, np.cumsum(mass * self._rate)[:-1])[place]
        below_squared = np.append(0.0, np.cumsum(mass**2 * variance)[:-1])[place]
        part = (np.arange(1, len(lookups) + 1) - np.append(0, np.cumsum(count)[:-1])[place]) / seen
        total = below + part * self._rate[place]
        bound = total + self.limits.z * np.sqrt(below_squared + part**2 * variance[place])
        share = np.arange(1, len(lookups) + 1) / seen
        fits = (total <= allowed) & (bound <= np.minimum(self.limits.max_wrong, self.limits.max_wrong_per_hit * share))
        closed = np.flatnonzero(~fits)
        opened = int(closed[0]) if len(closed) else len(lookups)
        return float(lookups[opened - 1]) if opened else 0.0


def _risk(signals: Vector, weights: Vector) -> Vector:
    return 1.0 / (1.0 + np.exp(np.clip(signals @ weights, -30, 30)))


def _fit(x: Vector, y: Vector, prior: Prior, start: Vector) -> Vector:
    """The most probable weights with none but the bias below 0: a damped Newton method on the free ones."""
    weights, precision = start.copy(), 1.0 / prior.deviation**2
    value = _loss(x, y, weights, prior)
    for _ in range(15):
        right = 1.0 - _risk(x, weights)
        gradient = x.T @ ((1 - y) - right) - precision * (weights - prior.mean)
        free = (weights > 0) | (gradient > 0)
        free[0] = True
        hessian = (x * (right * (1 - right))[:, None]).T @ x + np.diag(precision)
        step = np.zeros_like(weights)
        step[free] = np.linalg.solve(hessian[np.ix_(free, free)], gradient[free])
        for _ in range(12):
            trial = weights + step
            trial[1:] = np.maximum(trial[1:], 0.0)
            after = _loss(x, y, trial, prior)
            if after <= value:
                break
            step /= 2
        else:
            return weights
        weights, before, value = trial, value, after
        if before - after < 1e-6:
            break
    return weights


def _loss(x: Vector, y: Vector, weights: Vector, prior: Prior) -> float:
    """Minus the logarithm of the posterior; `y` is 1 where the answer was wrong."""
    score = x @ weights
    misfit = np.logaddexp(0.0, score) - (1 - y) * score
    return float(misfit.sum() + 0.5 * (((weights - prior.mean) / prior.deviation) ** 2).sum())
