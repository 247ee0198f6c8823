"""Live figures of a target, learned from what became of its attempts: bounded in memory, cheap to read.

Times are seconds. An average forgets by the number of answers (each new one counts a fifth), a percentile by the clock
(the current minute and the one before). All of it is this process's own, but for what `sharing` adds.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from datetime import datetime
from itertools import accumulate
from math import inf, log
from typing import TYPE_CHECKING

from junctor import ErrorKind, ProviderError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from junctor import Attempt

__all__ = ["Limits", "Live", "Sketch", "Window"]

_ALPHA = 0.2
_LOWEST, _GROWTH, _BUCKETS = 0.001, 1.15, 100  # 1 ms to 1000 s, each bucket 15 % wide
_STEP = log(_GROWTH)
_ROTATE = 60.0
_FAULTS = frozenset(
    {
        ErrorKind.RATE_LIMITED,
        ErrorKind.OVERLOADED,
        ErrorKind.QUOTA_EXHAUSTED,
        ErrorKind.AUTHENTICATION,
        ErrorKind.TIMEOUT,
        ErrorKind.CONNECTION,
        ErrorKind.PROTOCOL,
    }
)
_PERIOD = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_UNIT = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class Sketch:
    """Percentiles of the last one to two minutes in buckets 15 % wide: 200 integers, whatever the traffic."""

    __slots__ = ("_counts", "_known", "_older", "_turned")

    def __init__(self) -> None:
        self._counts = [0] * _BUCKETS
        self._older = [0] * _BUCKETS
        self._turned = 0.0
        self._known: dict[int, tuple[float, int]] = {}

    def add(self, seconds: float, now: float) -> None:
        self._turn(now)
        self._counts[min(_BUCKETS - 1, max(0, int(log(max(seconds, _LOWEST) / _LOWEST) / _STEP)))] += 1
        self._known.clear()

    def _turn(self, now: float) -> None:
        if now - self._turned >= _ROTATE:
            fresh = now - self._turned < 2 * _ROTATE
            self._older = self._counts if fresh else [0] * _BUCKETS
            self._counts = [0] * _BUCKETS
            self._turned = now
            self._known.clear()

    def quantile(self, percent: int, now: float, *, least: int = 1) -> float | None:
        """The upper end of the bucket that holds the percentile; None below `least` answers."""
        if now - self._turned >= _ROTATE:
            self._turn(now)
        found = self._known.get(percent)
        if found is None:
            sums = list(accumulate(a + b for a, b in zip(self._counts, self._older, strict=True)))
            place = bisect_left(sums, sums[-1] * percent / 100)
            found = self._known[percent] = (_LOWEST * _GROWTH ** (place + 1), sums[-1])
        return found[0] if found[1] >= least else None


class Window:
    """Requests and tokens of the last minute: the current minute and the fading rest of the one before.

    `others_*` are what other workers counted in the same minutes, as last heard.
    """

    __slots__ = ("before", "minute", "now_counts", "others", "others_before")

    def __init__(self) -> None:
        self.minute = 0
        self.now_counts = [0.0, 0.0]
        self.before = [0.0, 0.0]
        self.others = [0.0, 0.0]
        self.others_before = [0.0, 0.0]

    def turn(self, wall: float) -> None:
        """`wall` is `time.time()`: workers must agree on the minute."""
        minute = int(wall // 60)
        if minute != self.minute:
            next_one = minute == self.minute + 1
            self.before = self.now_counts if next_one else [0.0, 0.0]
            self.others_before = self.others if next_one else [0.0, 0.0]
            self.now_counts, self.others = [0.0, 0.0], [0.0, 0.0]
            self.minute = minute

    def add(self, wall: float, requests: float, tokens: float) -> None:
        self.turn(wall)
        self.now_counts[0] += requests
        self.now_counts[1] += tokens

    def used(self, wall: float) -> tuple[float, float]:
        """Requests and tokens, estimated for the sixty seconds that end now."""
        self.turn(wall)
        rest = 1.0 - (wall % 60) / 60
        requests = self.now_counts[0] + self.others[0] + rest * (self.before[0] + self.others_before[0])
        tokens = self.now_counts[1] + self.others[1] + rest * (self.before[1] + self.others_before[1])
        return requests, tokens


class Limits:
    """A target's own limits: from the file, else from the provider's headers; and what the headers said was left."""

    __slots__ = ("_configured", "_left", "full_until", "requests", "tokens")

    def __init__(self, requests: int | None, tokens: int | None) -> None:
        self._configured = (requests, tokens)
        self.requests = requests
        self.tokens = tokens
        self.full_until = -inf
        self._left: tuple[float, float, float] | None = None  # share left, when, seconds until all is there again

    @property
    def known(self) -> bool:
        return bool(self.requests or self.tokens)

    def headroom(self, used: tuple[float, float], more: float, now: float) -> float:
        """The share that is free, 0 to 1, with a request of `more` tokens added; 1 if no limit is known."""
        if now < self.full_until:
            return 0.0
        free = 1.0
        if self.requests:
            free = min(free, 1 - (used[0] + 1) / self.requests)
        if self.tokens:
            free = min(free, 1 - (used[1] + more) / self.tokens)
        if self._left is not None:
            share, at, reset = self._left
            gone = (now - at) / reset if reset > 0 else 1.0
            free = min(free, share + (1 - share) * min(1.0, gone))
        return max(0.0, free)

    def read(self, headers: Mapping[str, str], now: float, wall: float) -> None:
        """Mirror `x-ratelimit-*` and `anthropic-ratelimit-*`."""
        lowest: tuple[float, float, float] | None = None
        for what in ("requests", "tokens"):
            found = _limit(headers, what, wall)
            if found is None:
                continue
            limit, remaining, reset = found
            if what == "requests":
                self.requests = self._configured[0] or limit
            else:
                self.tokens = self._configured[1] or limit
            if remaining <= 0 and reset > 0:
                self.full_until = max(self.full_until, now + reset)
            share = remaining / limit
            if lowest is None or share < lowest[0]:
                lowest = (share, now, reset)
        if lowest is not None:
            self._left = lowest


def _limit(headers: Mapping[str, str], what: str, wall: float) -> tuple[int, float, float] | None:
    """Limit, remaining, seconds until it is whole again."""
    for form in ("x-ratelimit-{0}-" + what, "anthropic-ratelimit-" + what + "-{0}"):
        try:
            limit, remaining = int(headers[form.format("limit")]), float(headers[form.format("remaining")])
            if limit > 0:
                return limit, max(0.0, remaining), _seconds(headers.get(form.format("reset"), ""), wall)
        except (KeyError, ValueError):
            continue
    return None


def _seconds(text: str, wall: float) -> float:
    """`6m0s`, `17ms`, `12`, or a time of RFC 3339; 0 if it cannot be read."""
    if parts := _PERIOD.findall(text):
        return float(sum(float(number) * _UNIT[unit] for number, unit in parts))
    try:
        return float(text)
    except ValueError:
        pass
    try:
        return max(0.0, datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp() - wall)
    except ValueError:
        return 0.0


class Live:
    """What is known of one target right now."""

    __slots__ = (
        "cached_share",
        "cost",
        "duration",
        "duration_sketch",
        "errors",
        "in_flight",
        "limits",
        "seen",
        "tpt",
        "ttft",
        "ttft_sketch",
        "window",
    )

    def __init__(self, requests_per_minute: int | None = None, tokens_per_minute: int | None = None) -> None:
        self.ttft: float | None = None
        self.tpt: float | None = None
        self.duration: float | None = None
        self.cost: float | None = None
        self.errors = 0.0
        self.cached_share = 0.0
        self.in_flight = 0
        self.seen = -inf
        self.ttft_sketch = Sketch()
        self.duration_sketch = Sketch()
        self.window = Window()
        self.limits = Limits(requests_per_minute, tokens_per_minute)

    def latency(self, output_tokens: float) -> float | None:
        """Expected seconds for an answer of so many tokens, worse if attempts fail; None before the first answer."""
        if self.ttft is None and self.tpt is None:
            return None
        seconds = (self.ttft or 0.0) + (self.tpt or 0.0) * output_tokens
        return seconds * (1 + 10 * self.errors)

    def learn(self, attempt: Attempt, *, streamed: bool, now: float) -> None:
        """Take the figures of one attempt that is over."""
        error = attempt.error
        if isinstance(error, ProviderError):
            self._failed(error, attempt, now)
            return
        if error is not None or (attempt.abandoned and not attempt.first_byte):
            return
        self.seen = now
        self.errors += _ALPHA * (0.0 - self.errors)
        self._times(attempt, streamed=streamed, now=now)
        usage = attempt.usage
        if usage is not None and usage.input_tokens and not usage.estimated:
            share = usage.cache_read_tokens / usage.input_tokens
            self.cached_share += _ALPHA * (share - self.cached_share)
        if attempt.cost is not None:
            self.cost = _averaged(self.cost, attempt.cost.total)

    def _times(self, attempt: Attempt, *, streamed: bool, now: float) -> None:
        if streamed and attempt.first_byte:
            first = attempt.first_byte - attempt.started
            self.ttft = _averaged(self.ttft, first)
            self.ttft_sketch.add(first, now)
        if attempt.abandoned or not attempt.ended:
            return
        duration = attempt.ended - attempt.started
        self.duration = _averaged(self.duration, duration)
        self.duration_sketch.add(duration, now)
        if attempt.usage is not None and attempt.usage.output_tokens:
            first = attempt.first_byte - attempt.started if streamed else min(duration, self.ttft or 0.0)
            self.tpt = _averaged(self.tpt, (duration - first) / attempt.usage.output_tokens)
        elif self.tpt is None and self.ttft is None:
            self.ttft = duration

    def _failed(self, error: ProviderError, attempt: Attempt, now: float) -> None:
        if error.kind is ErrorKind.RATE_LIMITED:
            self.limits.full_until = max(self.limits.full_until, now + min(error.retry_after or 1.0, 60.0))
        if error.kind not in _FAULTS:
            return
        self.seen = now
        self.errors += _ALPHA * (1.0 - self.errors)
        if error.kind is ErrorKind.TIMEOUT and not attempt.first_byte:
            waited = attempt.duration
            self.ttft = _averaged(self.ttft, waited)
            self.ttft_sketch.add(waited, now)
            self.duration_sketch.add(waited, now)


def _averaged(old: float | None, new: float) -> float:
    return new if old is None else old + _ALPHA * (new - old)
