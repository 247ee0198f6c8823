"""Who goes next when there is no room for all: by tier, and fairly between teams by weight."""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from junctor import Client

    from junctor_quotas.settings import QueueSettings
    from junctor_quotas.steps import Outcome

__all__ = ["FairQueue", "Full", "Queues"]

_POLL = 0.01
_LONGEST_POLL = 0.1
_LEARNING = 0.1
_MAX_QUEUES = 4096


class Full(Exception):
    """There is no place to wait in, or not enough time; `seconds` is when to come again."""

    def __init__(self, reason: str, seconds: float) -> None:
        super().__init__(reason)
        self.reason = reason
        self.seconds = max(0.1, seconds)


@dataclass(slots=True, eq=False)
class _Waiter:
    flow: str
    rank: int
    start: float
    finish: float
    number: int
    turn: asyncio.Event = field(default_factory=asyncio.Event)
    shed: bool = False

    @property
    def order(self) -> tuple[int, float, int]:
        return self.rank, self.finish, self.number


class FairQueue:
    """Start-time fair queueing: each request of a team is due `1 / weight` after the team's one before it.

    A team that was silent has saved nothing, one that floods only delays itself. A full queue sheds the newest request
    of the team with the most. Whoever is first tries to get in: at once when something ended here, and now and then,
    because it may have ended in another worker.
    """

    def __init__(self, settings: QueueSettings) -> None:
        self._settings = settings
        self._waiting: list[_Waiter] = []
        self._finish: dict[str, float] = {}
        self._virtual = 0.0
        self._number = 0
        self._freed = asyncio.Event()
        self._interval = 0.0
        self._granted = 0.0

    def __len__(self) -> int:
        return len(self._waiting)

    def freed(self) -> None:
        """Something ended: whoever is first may try."""
        self._freed.set()

    async def wait(
        self,
        client: Client,
        deadline: float,
        attempt: Callable[[], Awaitable[tuple[Outcome, bool]]],
        entered: Callable[[int], None],
    ) -> Outcome:
        """Wait for a turn, until `deadline` (`time.monotonic()`) at the most; raises `Full`.

        `attempt` is made whenever it is this request's turn: an outcome, and whether to go on waiting here. `entered`
        is told the place in the queue, 1 is next.
        """
        until = min(deadline, monotonic() + self._settings.max_wait)
        waiter = self._enter(client)
        try:
            place = self._place(waiter)
            expected = place * self._interval
            if monotonic() + expected > until:
                raise Full(f"{place - 1} requests wait before it", expected)
            entered(place)
            return await self._until_admitted(waiter, until, attempt)
        finally:
            self._leave(waiter)

    async def _until_admitted(
        self, waiter: _Waiter, until: float, attempt: Callable[[], Awaitable[tuple[Outcome, bool]]]
    ) -> Outcome:
        pause = _POLL
        while True:
            if waiter.shed:
                raise Full("others have waited longer and the queue is full", self._interval * len(self._waiting))
            left = until - monotonic()
            if left <= 0:
                raise Full("its time to wait is over", self._interval or 1.0)
            if self._first() is not waiter:
                waiter.turn.clear()
                await _either(waiter.turn, left)
                continue
            self._freed.clear()
            outcome, stay = await attempt()
            if outcome.admitted:
                self._admitted(waiter)
            if not stay or (outcome.wait or 0.0) > left:  # there is no room in the time that it has
                return outcome
            await _either(self._freed, min(left, pause, outcome.wait or pause))
            pause = min(_LONGEST_POLL, pause * 1.5)

    def _enter(self, client: Client) -> _Waiter:
        rank, weight = self._standing(client)
        flow = f"{client.tier}\n{client.team}"
        if len(self._waiting) >= self._settings.max_length:
            self._shed(flow)
        start = max(self._virtual, self._finish.get(flow, 0.0))
        self._number += 1
        waiter = _Waiter(flow, rank, start, start + 1 / weight, self._number)
        self._finish[flow] = waiter.finish
        self._waiting.append(waiter)
        return waiter

    def _standing(self, client: Client) -> tuple[int, float]:
        """Rank (lower goes first) and weight."""
        tiers = self._settings.tiers
        weight = self._settings.weights.get(client.team, 1.0)
        if isinstance(tiers, dict):
            return 0, weight * tiers.get(client.tier, 1.0)
        return (tiers.index(client.tier) if client.tier in tiers else len(tiers)), weight

    def _shed(self, flow: str) -> None:
        """Make room at the cost of whoever has the most waiting; raises `Full` if that is who comes."""
        by_flow = Counter(waiter.flow for waiter in self._waiting)
        longest, count = max(by_flow.items(), key=lambda item: item[1], default=("", 0))
        if count <= by_flow[flow] + 1:
            raise Full(f"{len(self._waiting)} requests wait already", self._interval * len(self._waiting))
        last = max((waiter for waiter in self._waiting if waiter.flow == longest), key=lambda waiter: waiter.order)
        self._finish[longest] = last.start
        last.shed = True
        last.turn.set()
        self._waiting.remove(last)

    def _place(self, waiter: _Waiter) -> int:
        return 1 + sum(other.order < waiter.order for other in self._waiting)

    def _first(self) -> _Waiter | None:
        return min(self._waiting, key=lambda waiter: waiter.order, default=None)

    def _admitted(self, waiter: _Waiter) -> None:
        self._virtual = max(self._virtual, waiter.start)
        now = monotonic()
        if self._granted:
            self._interval += _LEARNING * (min(10.0, now - self._granted) - self._interval)
        self._granted = now

    def _leave(self, waiter: _Waiter) -> None:
        if waiter in self._waiting:
            self._waiting.remove(waiter)
        if not self._waiting:
            self._finish.clear()
            self._virtual = 0.0
            self._granted = 0.0
        elif (first := self._first()) is not None:
            first.turn.set()


async def _either(event: asyncio.Event, seconds: float) -> None:
    """Until the event, or so many seconds."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass


class Queues:
    """One queue for each counter that somebody waits for."""

    def __init__(self, settings: QueueSettings) -> None:
        self._settings = settings
        self._queues: OrderedDict[str, FairQueue] = OrderedDict()

    def of(self, key: str) -> FairQueue:
        """The queue of a counter, made when it is needed."""
        queue = self._queues.get(key)
        if queue is None:
            queue = self._queues[key] = FairQueue(self._settings)
            if len(self._queues) > _MAX_QUEUES:
                for old, other in list(self._queues.items()):
                    if not len(other) and other is not queue:
                        del self._queues[old]
                        break
        return queue

    def length(self, key: str) -> int:
        """How many wait in this worker for the counter."""
        queue = self._queues.get(key)
        return 0 if queue is None else len(queue)

    def length_of(self, name: str, scope: str) -> int:
        """How many wait in this worker for a limit's scope."""
        end = f":{name}:{scope}"
        return sum(len(queue) for key, queue in self._queues.items() if key.endswith(end) or f"{end}:" in key)

    @property
    def waiting(self) -> int:
        """How many wait in this worker, for anything."""
        return sum(map(len, self._queues.values()))

    def freed(self, key: str) -> None:
        """Something that held the counter ended."""
        if (queue := self._queues.get(key)) is not None:
            queue.freed()

    def __bool__(self) -> bool:
        return bool(self._queues)
