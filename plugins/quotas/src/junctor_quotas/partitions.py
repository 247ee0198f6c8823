"""What this worker knows of the counts in the store, should the store forget them or be away."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from junctor_quotas.limits import CONCURRENCY

if TYPE_CHECKING:
    from collections.abc import Sequence

    from junctor_quotas.limits import Claim, Claims

__all__ = ["Partition", "Partitions"]

_MAX_PARTITIONS = 10_000
_MAX_REMEMBERED = 20_000


@dataclass(slots=True)
class Partition:
    """The counters that share a hash tag, and so are forgotten together: another `epoch` says that they were."""

    epoch: str = ""
    used: OrderedDict[str, tuple[int, float, Claim]] = field(default_factory=OrderedDict)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def current(self, now: float) -> list[tuple[int, Claim]]:
        """What was used of each claim whose window is not over."""
        return [(used, claim) for used, seen, claim in self.used.values() if _current(claim, seen, now)]


class Partitions:
    """The partitions by their tag."""

    def __init__(self) -> None:
        self._partitions: OrderedDict[str, Partition] = OrderedDict()

    def of(self, tag: str) -> Partition:
        """The partition; a new one if none is known."""
        partition = self._partitions.get(tag)
        if partition is None:
            partition = self._partitions[tag] = Partition()
            if len(self._partitions) > _MAX_PARTITIONS:
                self._partitions.popitem(last=False)
        return partition

    def remember(self, claims: Claims, counts: Sequence[tuple[int, int, int]], now: float) -> None:
        """Keep what the store said, if it is one that may forget."""
        partition = self._partitions.get(claims.tag)
        if partition is None:
            return
        for claim, (used, _, _) in zip(claims.claims, counts, strict=False):
            if claim.kind != CONCURRENCY:
                partition.used[claim.key] = (used, now, claim)
                partition.used.move_to_end(claim.key)
        while len(partition.used) > _MAX_REMEMBERED:
            partition.used.popitem(last=False)

    def share(self, claim: Claim, workers: int) -> int:
        """This worker's part of what is left of a limit, as far as it knows, while the store is away."""
        hard = claim.row[0]
        if claim.until:
            partition = self._partitions.get(_tag_of(claim))
            known = partition.used.get(claim.key) if partition is not None else None
            hard -= known[0] if known is not None else 0
        least = 1 if claim.limit.dimension in ("requests", "concurrency") and hard > 0 else 0
        return max(least, hard // workers)


def _tag_of(claim: Claim) -> str:
    return claim.key.partition("{")[2].partition("}")[0]


def _current(claim: Claim, seen: float, now: float) -> bool:
    window = claim.limit.window
    if claim.until:
        return now * 1000 < claim.until
    return window is not None and now - seen <= window.seconds
