"""`exactness: leased`: workers hold slices of a limit, and most requests ask nobody.

A slice is reserved in the store like a request, so what all workers hold together never exceeds the limit. What is not
exact: a worker may refuse while another holds a slice it does not need, what was used is told up to `PERIOD` seconds
late, and a killed worker takes with it what it had not told: a slice at the most.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING

from junctor.state import StateUnavailable

from junctor_quotas.limits import Claims
from junctor_quotas.store import StoreDown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from junctor_quotas.limits import Claim
    from junctor_quotas.steps import Lease, Outcome
    from junctor_quotas.store import Store

__all__ = ["PERIOD", "Slices"]

PERIOD = 1.0
"""Seconds between two reports of a worker."""

_IDLE = 5.0


@dataclass(slots=True)
class _Slice:
    claims: Claims
    size: int
    lease: Lease | None = None
    spent: int = 0
    held: int = 0
    counts: tuple[int, int, int] = (0, 0, 0)
    used: float = field(default_factory=monotonic)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def free(self) -> int:
        return (self.lease.amounts[0] if self.lease is not None else 0) - self.spent - self.held


class Slices:
    """This worker's slices. `share` is the size of one as a share of its limit."""

    def __init__(self, store: Store, share: float) -> None:
        self._store = store
        self._share = share
        self._slices: dict[str, _Slice] = {}

    async def take(self, claims: Claims, amounts: Sequence[int]) -> Outcome | None:
        """Take all or nothing; the store's refusal, or None when there was room. Raises `StoreDown`."""
        taken: list[tuple[_Slice, int]] = []
        whole = False
        try:
            for place, (claim, amount) in enumerate(zip(claims.claims, amounts, strict=True)):
                part = self._slice(claims, claim)
                refusal = None if part.free >= amount else await self._refill(part, amount)
                if refusal is not None:
                    refusal.refused = place
                    if refusal.counts:  # none when a calendar period is over
                        refusal.counts = self.counts(claims)
                    return refusal
                part.held += amount
                part.used = monotonic()
                taken.append((part, amount))
            whole = True
        finally:
            if not whole:
                for part, held in taken:
                    part.held -= held
        return None

    def give_back(self, claims: Claims, held: Sequence[int], finals: Sequence[int]) -> None:
        """Turn what is held into what was used."""
        for claim, amount, final in zip(claims.claims, held, finals, strict=True):
            part = self._slice(claims, claim)
            part.held -= amount
            part.spent += final

    def counts(self, claims: Claims) -> list[tuple[int, int, int]]:
        """Used, held and limit of each claim, as the store said last."""
        return [self._slice(claims, claim).counts for claim in claims.claims]

    def _slice(self, claims: Claims, claim: Claim) -> _Slice:
        part = self._slices.get(claim.key)
        if part is None:
            size = max(1, round(claim.limit.hard * self._share))
            one = Claims(claims.tag, [claim])
            part = self._slices[claim.key] = _Slice(one, size, counts=(0, 0, claim.limit.hard))
        return part

    async def _refill(self, part: _Slice, amount: int) -> Outcome | None:
        async with part.lock:
            if part.free >= amount:
                return None  # somebody else has refilled it
            missing = amount - part.free
            outcome = await self._ask(part, max(missing, part.size))
            if outcome.lease is None and missing < part.size:
                outcome = await self._ask(part, missing)
            return None if outcome.lease is not None else outcome

    async def _ask(self, part: _Slice, more: int) -> Outcome:
        if part.lease is not None and part.lease.local and self._store.available:
            lease, spent = part.lease, part.spent
            part.lease, part.spent = None, 0
            await self._store.settle(lease, [spent])
            await self._store.catch_up()
        spent = part.spent
        if part.lease is None:
            outcome = await self._store.reserve(part.claims, [more + spent + part.held])
            part.lease = outcome.lease
        else:
            outcome = await self._store.extend(part.lease, [more], [spent])
            # What went beyond the slice is used all the same; the lease's amount cannot be less than nothing.
            if outcome.lease is not None:
                part.spent -= spent
        if outcome.counts:
            part.counts = outcome.counts[0]
        return outcome

    async def report(self) -> None:
        """Tell the store what was used, and give back what nobody needs. Called every `PERIOD`."""
        now = monotonic()
        for key, part in list(self._slices.items()):
            if part.lease is None or part.lock.locked():
                continue
            async with part.lock:
                idle = now - part.used > _IDLE
                if idle and part.held == 0:
                    await self._close(key, part)
                elif part.spent:
                    await self._tell(part)

    async def _tell(self, part: _Slice) -> None:
        try:
            await self._ask(part, 0)
        except (StoreDown, StateUnavailable):
            return

    async def _close(self, key: str, part: _Slice) -> None:
        self._slices.pop(key, None)
        if part.lease is not None:
            await self._store.settle(part.lease, [part.spent])

    async def aclose(self) -> None:
        """Give everything back."""
        for key, part in list(self._slices.items()):
            await self._close(key, part)
