"""Reserve, settle, renew: the shared counts, and what happens while the store that holds them is away."""

from __future__ import annotations

import asyncio
import logging
import os
from collections import OrderedDict
from itertools import islice
from time import monotonic, time
from typing import TYPE_CHECKING, Any

from junctor.errors import JunctorError
from junctor.state import MemoryState, StateUnavailable

from junctor_quotas.memory import RENEW, RESERVE, RESTORE, SETTLE
from junctor_quotas.partitions import Partitions
from junctor_quotas.steps import Lease, counts_of, outcome_of, reserving, settling

if TYPE_CHECKING:
    from collections.abc import Sequence

    from junctor.state import Script, State

    from junctor_quotas.limits import Claims
    from junctor_quotas.partitions import Partition
    from junctor_quotas.steps import Outcome

__all__ = ["Store", "StoreDown"]

_log = logging.getLogger("junctor.quotas")
_MAX_PENDING = 10_000
_BATCH = 100
_TRIES = 4


class StoreDown(JunctorError):
    """The store does not answer, and a limit that applies does not do without."""


class Store:
    """The counts of all limits. Open it as an async context manager: it renews what runs, and reports what is owed.

    `lease` is in seconds; `share` is how many workers divide a limit while the store is away.
    """

    def __init__(self, state: State, *, lease: float, share: int) -> None:
        self._state = state
        self._lease = lease
        self._lease_ms = round(lease * 1000)
        self._share = share
        self._local = MemoryState()
        self._leases: dict[str, Lease] = {}
        self._owed: OrderedDict[str, tuple[Lease, list[int]]] = OrderedDict()
        self._partitions = Partitions()
        self._worker = os.urandom(6).hex()
        self._number = 0
        self._offset = 0.0
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._reporting = asyncio.Lock()
        self.local_admissions = 0
        self.available = True

    def now(self) -> float:
        """The store's time, as far as this worker knows it: seconds since the epoch."""
        return time() + self._offset

    async def __aenter__(self) -> Store:
        self._task = asyncio.create_task(self._keep())
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.wait({self._task})
        try:
            async with asyncio.timeout(1.0):
                await self._report()
        except (StateUnavailable, TimeoutError):
            _log.warning("the store is away: %d settlements are lost; their leases expire", len(self._owed))
        await self._local.aclose()

    async def reserve(self, claims: Claims, amounts: Sequence[int], *, cautious: bool = False) -> Outcome:
        """Take all of it or nothing; raises `StoreDown`. `cautious` leaves alone what only the queue may take.

        An outcome without lease and counts says that a calendar period is over: find the claims again for its `now`.
        """
        self._number += 1
        lease = Lease(f"{self._worker}-{self._number}", claims, list(amounts), cautious=cautious)
        outcome = await self._take(lease, amounts, [0] * len(amounts))
        if outcome.lease is not None:
            self._leases[lease.id] = lease
        return outcome

    async def extend(self, lease: Lease, more: Sequence[int], charge: Sequence[int] | None = None) -> Outcome:
        """Take more under the same lease (or give back: negative), all or nothing; `charge` is used for good."""
        outcome = await self._take(lease, more, charge or [0] * len(more))
        if outcome.lease is not None:
            for place, change in enumerate(more):
                used = min(charge[place], lease.amounts[place]) if charge else 0
                lease.amounts[place] = max(0, lease.amounts[place] + change - used)
            if lease.local and charge:
                self._owe_local(lease, charge)
        return outcome

    async def settle(self, lease: Lease, finals: Sequence[int]) -> list[tuple[int, int, int]]:
        """Turn what is held into what was used; for what is counted at once, 0 gives it back."""
        self._leases.pop(lease.id, None)
        if lease.local:
            answer = await self._local.run(SETTLE, lease.claims.keys, settling(lease, finals))
            self._owe_local(lease, finals)
            return counts_of(answer, lease.claims)
        try:
            answer = await self._settled(lease, finals)
        except StateUnavailable:
            self._owe(lease, list(finals))
            return []
        except asyncio.CancelledError:
            self._owe(lease, list(finals))
            raise
        return counts_of(answer, lease.claims)

    # ---- the steps

    async def _take(self, lease: Lease, more: Sequence[int], charge: Sequence[int]) -> Outcome:
        closed = any(claim.limit.closed for claim in lease.claims.claims)
        running = lease.id in self._leases
        # A store that is back is asked again once it knows what was used without it: see `_keep`.
        if lease.local or not (self.available or closed or running):
            return await self._take_local(lease, more, charge)
        try:
            answer = await self._run_reserve(lease, more, charge)
        except StateUnavailable as error:
            self.available = False
            self._take_back(lease)
            # What runs already stays with the store, and is settled there when it is back.
            if running or closed:
                raise StoreDown("the store of the limits does not answer") from error
            return await self._take_local(lease, more, charge)
        except asyncio.CancelledError:
            self._take_back(lease)
            raise
        outcome = outcome_of(answer, lease)
        if outcome.lease is not None:
            self._partitions.remember(lease.claims, outcome.counts, outcome.now)
        return outcome

    def _take_back(self, lease: Lease) -> None:
        """Nobody heard the answer: the store may hold it all the same."""
        if lease.id not in self._leases:
            self._owe(Lease(lease.id, lease.claims, lease.amounts), [0] * len(lease.amounts))

    async def _run_reserve(self, lease: Lease, more: Sequence[int], charge: Sequence[int]) -> Any:
        claims = lease.claims
        for _ in range(_TRIES):
            partition, expected = self._partition(claims.tag)
            arguments = reserving(lease, more, charge, ttl=self._lease_ms, epoch=expected)
            answer = await self._state.run(RESERVE, claims.keys, arguments)
            if answer[0] == 3 and partition is not None:
                await self._restore(claims, partition, expected, answer[2].decode())
                continue
            self._offset = answer[1] / 1000 - time()
            if partition is not None:
                partition.epoch = answer[2].decode()
            return answer
        raise StateUnavailable("the store keeps forgetting")

    async def _settled(self, lease: Lease, finals: Sequence[int]) -> Any:
        for _ in range(_TRIES):
            partition, expected = self._partition(lease.claims.tag)
            arguments = settling(lease, finals, epoch=expected)
            answer = await self._state.run(SETTLE, lease.claims.keys, arguments)
            if answer[0] != 3 or partition is None:
                return answer
            await self._restore(lease.claims, partition, expected, answer[2].decode())
        raise StateUnavailable("the store keeps forgetting")

    # ---- a store that was away, or that forgot

    async def _take_local(self, lease: Lease, more: Sequence[int], charge: Sequence[int]) -> Outcome:
        lease.local = True
        hards = [self._partitions.share(claim, self._share) for claim in lease.claims.claims]
        arguments = reserving(lease, more, charge, ttl=self._lease_ms, hards=hards)
        outcome = outcome_of(await self._local.run(RESERVE, lease.claims.keys, arguments), lease)
        outcome.local = True
        if outcome.lease is not None:
            self.local_admissions += 1
        return outcome

    def _partition(self, tag: str) -> tuple[Partition | None, str]:
        if not self._state.shared:
            return None, ""
        partition = self._partitions.of(tag)
        return partition, partition.epoch

    async def _restore(self, claims: Claims, partition: Partition, expected: str, epoch: str) -> None:
        """The store was restarted empty: give back to it what this worker knows, before anything is admitted."""
        async with partition.lock:
            if partition.epoch != expected:
                return  # somebody else has done it
            known = partition.current(self.now())
            for start in range(0, max(1, len(known)), _BATCH):
                batch = known[start : start + _BATCH]
                arguments: list[Any] = [epoch]
                for used, claim in batch:
                    arguments += (used, *claim.settle)
                await self._state.run(RESTORE, [*claims.keys[:4], *(claim.key for _, claim in batch)], arguments)
            partition.epoch = epoch
            running = [lease for lease in self._leases.values() if lease.claims.tag == claims.tag and not lease.local]
            for start in range(0, len(running), _BATCH):
                await asyncio.gather(*(self._put_back(lease, epoch) for lease in running[start : start + _BATCH]))
            _log.warning("the store had forgotten; %d counts and %d leases were put back", len(known), len(running))

    async def _put_back(self, lease: Lease, epoch: str) -> None:
        arguments = reserving(lease, lease.amounts, [0] * len(lease.amounts), ttl=self._lease_ms, epoch=epoch, force=1)
        await self._state.run(RESERVE, lease.claims.keys, arguments)

    # ---- in the background

    def _owe_local(self, lease: Lease, used: Sequence[int]) -> None:
        self._number += 1
        told = Lease(f"local-{lease.id}-{self._number}", lease.claims, [])
        self._owe(told, [max(0, amount) for amount in used])

    def _owe(self, lease: Lease, finals: list[int]) -> None:
        if not any(finals) and not lease.amounts:
            return
        self._owed[lease.id] = (lease, finals)
        if len(self._owed) > _MAX_PENDING:
            self._owed.popitem(last=False)
        self._wake.set()

    async def _keep(self) -> None:
        """Renew the leases of what runs, and settle what could not be settled."""
        due = monotonic() + self._lease / 3
        while True:
            busy = self._owed or not self.available
            pause = min(0.25, due - monotonic()) if busy else due - monotonic()
            try:
                async with asyncio.timeout(max(0.0, pause)):
                    await self._wake.wait()
                    self._wake.clear()
                    await asyncio.sleep(0.05)
            except TimeoutError:
                pass
            try:
                await self._report()
                if monotonic() >= due:
                    due = monotonic() + self._lease / 3
                    await self._renew()
                if not self.available:
                    await self._state.time()
                    self.available = True
            except StateUnavailable:
                await asyncio.sleep(0.2)

    async def catch_up(self) -> None:
        """Tell the store now what was used without it; if it does not answer, it is told later."""
        try:
            await self._report()
        except StateUnavailable:
            self.available = False

    async def _report(self) -> None:
        async with self._reporting:
            while self._owed:
                batch = list(islice(self._owed.items(), _BATCH))
                settled = await asyncio.gather(*(self._settled(*owed) for _, owed in batch), return_exceptions=True)
                for (key, _), result in zip(batch, settled, strict=True):
                    if not isinstance(result, BaseException):
                        self._owed.pop(key, None)
                if failed := next((result for result in settled if isinstance(result, BaseException)), None):
                    raise failed

    async def _renew(self) -> None:
        await self._renew_in(self._local, [lease for lease in self._leases.values() if lease.local])
        by_tag: dict[str, list[Lease]] = {}
        for lease in self._leases.values():
            if not lease.local:
                by_tag.setdefault(lease.claims.tag, []).append(lease)
        for leases in by_tag.values():
            for start in range(0, len(leases), _BATCH):
                await self._renew_in(self._state, leases[start : start + _BATCH])

    async def _renew_in(self, state: State, leases: Sequence[Lease]) -> None:
        if not leases:
            return
        ids = [lease.id for lease in leases]
        lost = await state.run(RENEW, leases[0].claims.keys[:4], [self._lease_ms, *ids])
        for lease_id in lost:
            lease = self._leases.get(lease_id.decode())
            if lease is not None and not lease.local:
                await self._put_back(lease, self._partition(lease.claims.tag)[1])

    async def run(self, script: Script, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        """Another step of the same store; raises `StateUnavailable`."""
        return await self._state.run(script, keys, arguments)
