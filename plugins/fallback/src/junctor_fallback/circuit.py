"""Circuit breakers, and the retry budget.

A circuit is closed, open until a moment, or half open: then a few requests go through as probes. All of them must
succeed; traffic then grows over the ramp. A probe counts as soon as its answer begins, so that a long stream does not
keep the others waiting.
"""

from __future__ import annotations

import random
from collections import Counter
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from junctor import Attempt, ErrorKind

    from junctor_fallback.settings import BudgetSettings, CircuitSettings

__all__ = ["Budget", "Circuit", "CircuitState"]

_BUCKETS = 10
_RAMP_FROM = 0.1


class CircuitState(StrEnum):
    """`resting` is a stay that the provider asked for: it ends without probes."""

    CLOSED = "closed"
    OPEN = "open"
    RESTING = "resting"
    HALF_OPEN = "half_open"


class _Bucket:
    """What happened in one part of the window."""

    __slots__ = ("calls", "failures", "slow")

    def __init__(self) -> None:
        self.calls = 0
        self.slow = 0
        self.failures: Counter[ErrorKind] = Counter()


class Circuit:
    """One circuit. Times are `time.monotonic()` seconds; every method is given the present.

    `quiet` is true while there is nothing to ask: closed, and not on the ramp. `changed` is told of each opening and
    closing that was decided here, not of those that were adopted.
    """

    __slots__ = (
        "_buckets",
        "_index",
        "_passed",
        "_settings",
        "_width",
        "changed",
        "name",
        "openings",
        "probing",
        "quiet",
        "ramp_from",
        "reason",
        "since",
        "state",
        "until",
    )

    def __init__(self, name: str, settings: CircuitSettings, changed: Callable[[Circuit], None] | None = None) -> None:
        self.name = name
        self.state = CircuitState.CLOSED
        self.quiet = True
        self.until = 0.0
        self.since = 0.0
        self.reason = ""
        self.openings = 0
        self.probing: list[Attempt] = []
        self.ramp_from = float("-inf")
        self.changed = changed
        self._passed = 0
        self._settings = settings
        self._width = settings.window / _BUCKETS
        self._index = 0
        self._buckets = [_Bucket() for _ in range(_BUCKETS)]

    # Asking

    def ready(self, now: float) -> bool:
        """Whether a request may go through: closed, or half open with a probe to spare."""
        if self.quiet:
            return True
        self._look(now)
        if self.state is CircuitState.HALF_OPEN:
            return len(self.probing) + self._passed < self._settings.probes
        return self.state is CircuitState.CLOSED

    def ready_at(self, when: float) -> bool:
        """The same for a moment to come, as far as it is known."""
        return self.quiet or self.until <= when

    def ramp_share(self, now: float) -> float:
        """The share of traffic that may come now: 1 except on the ramp."""
        ramp = self._settings.ramp
        if self.quiet or ramp <= 0 or self.state is not CircuitState.CLOSED:
            return 1.0
        return min(1.0, _RAMP_FROM + (1 - _RAMP_FROM) * (now - self.ramp_from) / ramp)

    def _look(self, now: float) -> None:
        """Go to the state that time has brought."""
        if self.state is CircuitState.RESTING and now >= self.until:
            self._become(CircuitState.CLOSED, now)
        elif self.state is CircuitState.OPEN and now >= self.until:
            self.state = CircuitState.HALF_OPEN
            self.probing.clear()
            self._passed = 0
        if self.state is CircuitState.HALF_OPEN and self.probing:
            begun = [attempt for attempt in self.probing if attempt.first_byte and attempt.error is None]
            for attempt in begun:
                self.succeeded(now, attempt)
        if self.state is CircuitState.CLOSED and now >= self.ramp_from + self._settings.ramp:
            self.quiet = True
            self.openings = 0

    def probe(self, attempt: Attempt) -> None:
        """This attempt is a probe."""
        self.probing.append(attempt)

    # Telling

    def succeeded(self, now: float, attempt: Attempt, *, slow: bool = False) -> None:
        """A request was answered."""
        bucket = self._bucket(now)
        bucket.calls += 1
        if slow:
            bucket.slow += 1
            self._judge(now)
        if self.state is CircuitState.HALF_OPEN or self.state is CircuitState.OPEN:
            if attempt.started < self.since:
                return  # one that began before the circuit opened tells nothing new
            if self.state is CircuitState.HALF_OPEN and not self._forget(attempt):
                return  # counted when its answer began
            self._passed += 1
            if self._passed >= self._settings.probes:
                self.close(now)

    def failed(self, now: float, kind: ErrorKind, attempt: Attempt) -> None:
        """A request failed for a reason that is this circuit's matter."""
        bucket = self._bucket(now)
        bucket.calls += 1
        bucket.failures[kind] += 1
        if self.state is CircuitState.HALF_OPEN:
            if self._forget(attempt):  # not one that was under way before
                self._trip(now, kind.value)
        elif self.state is CircuitState.OPEN:
            self._passed = 0
        else:
            self._judge(now)

    def released(self, attempt: Attempt) -> None:
        """A request ended without telling anything: its client hung up, say."""
        self._forget(attempt)

    def _forget(self, attempt: Attempt) -> bool:
        for index, other in enumerate(self.probing):
            if other is attempt:
                del self.probing[index]
                return True
        return False

    def open_until(self, now: float, until: float, reason: str, *, resting: bool = False) -> None:
        """Open for a stated time (resting: without probes afterwards)."""
        if self.until >= until and self.state is not CircuitState.HALF_OPEN:
            return
        self._stay(now, until, reason, CircuitState.RESTING if resting else CircuitState.OPEN)
        if self.changed is not None:
            self.changed(self)

    def adopt(self, now: float, until: float, reason: str, *, resting: bool = False) -> None:
        """Another worker has opened it."""
        if self.until < until:
            self._stay(now, until, reason, CircuitState.RESTING if resting else CircuitState.OPEN)

    def close(self, now: float) -> None:
        """Closed again; traffic grows over the ramp."""
        self._become(CircuitState.CLOSED, now)
        if self.changed is not None:
            self.changed(self)

    def adopt_closed(self, now: float) -> None:
        """Another worker's probes have succeeded."""
        if self.state is not CircuitState.CLOSED:
            self._become(CircuitState.CLOSED, now)

    def _become(self, state: CircuitState, now: float) -> None:
        rested = self.state is CircuitState.RESTING
        self.state = state
        self.until = 0.0
        self.reason = ""
        self._passed = 0
        self.probing.clear()
        self._buckets = [_Bucket() for _ in range(_BUCKETS)]
        self.ramp_from = float("-inf") if rested else now
        self.quiet = rested

    def _stay(self, now: float, until: float, reason: str, state: CircuitState) -> None:
        self.state = state
        self.since = now
        self.quiet = False
        self.until = until
        self.reason = reason
        self._passed = 0
        self.probing.clear()

    def _trip(self, now: float, reason: str) -> None:
        stay = min(self._settings.max_open, self._settings.open_for * 2 ** min(self.openings, 20))
        self.openings += 1
        self._stay(now, now + stay, reason, CircuitState.OPEN)
        if self.changed is not None:
            self.changed(self)

    # The window

    def _bucket(self, now: float) -> _Bucket:
        index = int(now / self._width)
        if index != self._index:
            for passed in range(min(index - self._index, _BUCKETS)):
                self._buckets[(index - passed) % _BUCKETS] = _Bucket()
            self._index = index
        return self._buckets[index % _BUCKETS]

    def failures(self, now: float) -> Counter[ErrorKind]:
        """What failed within the window, by kind."""
        self._bucket(now)
        total: Counter[ErrorKind] = Counter()
        for bucket in self._buckets:
            total.update(bucket.failures)
        return total

    def _judge(self, now: float) -> None:
        settings = self._settings
        calls = sum(bucket.calls for bucket in self._buckets)
        if calls < settings.min_requests or self.state is not CircuitState.CLOSED:
            return
        failures = self.failures(now)
        if sum(failures.values()) >= settings.failure_share * calls and failures:
            self._trip(now, failures.most_common(1)[0][0].value)
            return
        for kind, share in settings.shares.items():
            if failures[kind] and failures[kind] >= share * calls:
                self._trip(now, kind.value)
                return
        slow = sum(bucket.slow for bucket in self._buckets)
        if slow and slow >= settings.slow_share * calls:
            self._trip(now, "slow")


class Budget:
    """The retries that a target may still be given. Every first call adds a part of one, every retry takes one.

    A retry that is answered gives its own back, so that only a target that goes on failing runs dry.
    """

    __slots__ = ("_at", "_burst", "_per_second", "share", "tokens")

    def __init__(self, settings: BudgetSettings, now: float) -> None:
        self.tokens = self._burst = settings.burst
        self.share = settings.share
        self._per_second = settings.per_second
        self._at = now

    def deposit(self) -> None:
        self.tokens = min(self._burst, self.tokens + self.share)

    def refund(self) -> None:
        self.tokens = min(self._burst, self.tokens + 1)

    def available(self, now: float) -> bool:
        if now > self._at:
            self.tokens = min(self._burst, self.tokens + (now - self._at) * self._per_second)
            self._at = now
        return self.tokens >= 1

    def take(self) -> None:
        self.tokens -= 1


def chance(share: float) -> bool:
    """True in this share of the cases."""
    return share >= 1 or random.random() < share
