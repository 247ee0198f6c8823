"""How many wrong answers a number of requests can bear: exact binomial bounds, in plain Python."""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist

__all__ = ["mean_budget", "most_wrong", "upper_bound", "window_budget"]

_MANY = 400  # of so many, the normal distribution says the same, and takes no time and no exp(-1000)
_Z95 = 1.645


def upper_bound(wrong: int, total: int, confidence: float = 0.95) -> float:
    """One-sided Clopper-Pearson bound of a share: `wrong` of `total` were seen."""
    if total == 0 or wrong >= total:
        return 1.0
    low, high = wrong / total, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if _binomial(wrong, total, middle) > 1 - confidence else (low, middle)
    return high


def _binomial(wrong: int, total: int, share: float) -> float:
    """The probability of at most `wrong` of `total`."""
    if share <= 0.0 or share >= 1.0:
        return 1.0 if share <= 0.0 else 0.0
    term = total * math.log1p(-share)
    odds = math.log(share) - math.log1p(-share)
    summed = 0.0
    for count in range(wrong + 1):
        summed += math.exp(term)
        term += math.log(total - count) - math.log(count + 1) + odds
    return summed


def most_wrong(total: int, limit: float, confidence: float = 0.95) -> int:
    """The largest count whose bound stays under the limit; -1 if not even 0 of so few does."""
    low, high = -1, int(limit * total) + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _binomial(middle, total, limit) <= 1 - confidence else (low, middle)
    return low


def mean_budget(total: int, limit: float) -> float:
    """The expected number of wrong answers that `total` requests may have.

    With this mean, the count exceeds `most_wrong` with a probability of 10 % at most. Below the number of requests at
    which even none would do, it grows linearly from nothing.
    """
    if total <= 0 or limit <= 0:
        return 0.0
    return _mean_budget(total if total < 200 else total // 50 * 50, limit)


@lru_cache(maxsize=4096)
def _mean_budget(total: int, limit: float, risk: float = 0.10) -> float:
    expected = limit * total
    if expected > _MANY:
        return _mean_below(int(expected - _Z95 * math.sqrt(expected * (1 - limit))), risk)
    allowed = most_wrong(total, limit)
    if allowed < 0:
        need = math.log(0.05) / math.log1p(-min(limit, 0.999))
        return min(1.0, total / need) * -math.log1p(-risk)
    return _mean_below(allowed, risk)


@lru_cache(maxsize=64)
def window_budget(total: int, limit: float, risk: float = 0.10) -> float:
    """The expected number of wrong answers that a window of `total` requests may have, so that their plain share is
    above the limit with a probability of `risk` at most."""
    return 0.0 if limit <= 0 else _mean_below(int(limit * total), risk)


def _mean_below(allowed: int, risk: float) -> float:
    """The largest mean at which a count exceeds `allowed` with a probability of `risk` at most."""
    if allowed > _MANY:
        z = NormalDist().inv_cdf(1 - risk)
        return ((math.sqrt(z * z + 4 * allowed) - z) / 2) ** 2
    low, high = 0.0, allowed + 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if _poisson(allowed, middle) >= 1 - risk else (low, middle)
    return low


def _poisson(count: int, mean: float) -> float:
    term = summed = math.exp(-mean)
    for k in range(1, count + 1):
        term *= mean / k
        summed += term
    return summed
