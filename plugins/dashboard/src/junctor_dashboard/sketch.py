"""Percentiles out of counts: durations fall into buckets that grow by 4 %, so a percentile is right within 2 %."""

from __future__ import annotations

from math import log2
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["bucket", "quantile", "summed"]

_PER_OCTAVE = 16
_LEAST = 1e-6


def bucket(seconds: float) -> int:
    """The bucket that a duration falls into."""
    return int(log2(max(seconds, _LEAST)) * _PER_OCTAVE + 1024)


def quantile(counts: Mapping[int, int], share: float) -> float | None:
    """The duration in seconds that this share of all stays under; None if there are none."""
    left = sum(counts.values()) * share
    if not counts:
        return None
    for place in sorted(counts):
        left -= counts[place]
        if left <= 0:
            break
    middle: float = 2 ** ((place + 0.5 - 1024) / _PER_OCTAVE)
    return middle


def summed(several: Iterable[Mapping[int, int]]) -> dict[int, int]:
    """The counts of several together."""
    total: dict[int, int] = {}
    for counts in several:
        for place, count in counts.items():
            total[place] = total.get(place, 0) + count
    return total
