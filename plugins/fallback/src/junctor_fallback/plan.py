"""What to do after a failed attempt: which target, after how long, or nothing.

Nothing here waits or calls; the plugin does. Another target is tried at once; the same one again only after a backoff,
when no other is left (or as often as `retry_first` says before that).
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from junctor import ErrorKind, ProviderError, TargetUnavailable, Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from junctor import Attempt, Exchange, Model, Response, Target

    from junctor_fallback.guard import Guard
    from junctor_fallback.settings import FallbackSettings

__all__ = ["Failure", "Planner", "Run", "Step"]

# The client's own mistake: the same everywhere, so it is tried once.
_FINAL = frozenset({ErrorKind.BAD_REQUEST, ErrorKind.NOT_FOUND})
# Waiting does not help, another target may.
_NOT_AGAIN = frozenset(
    {
        ErrorKind.AUTHENTICATION,
        ErrorKind.CONTENT_POLICY,
        ErrorKind.CONTEXT_TOO_LONG,
        ErrorKind.INTERNAL,
        ErrorKind.QUOTA_EXHAUSTED,
        ErrorKind.UNAVAILABLE,
    }
)
_SHORTEST_WAIT = 0.05
_GROWTH = 1.2
_OUTPUT_GUESS = 256


class Failure(NamedTuple):
    """An attempt that failed, and when (`time.monotonic()` seconds)."""

    target: Target
    error: ProviderError
    at: float

    @property
    def called(self) -> bool:
        return not isinstance(self.error, TargetUnavailable)


class Step(NamedTuple):
    """Call this target after so many seconds. `paid` is a retry that its budget pays for."""

    target: Target
    wait: float
    paid: bool


@dataclass(slots=True)
class Run:
    """What the plugin knows of one exchange."""

    calls: int = 0
    guard: Guard | None = None
    attempt: Attempt | None = None
    paid: Guard | None = None
    failures: list[Failure] = field(default_factory=list)
    waits: dict[str, float] = field(default_factory=dict)
    hedge: tuple[Guard, Attempt] | None = None
    hedged: bool = False
    continued: tuple[Attempt, Attempt] | None = None
    told: set[int] = field(default_factory=set)
    resorted: bool = False


class Planner:
    """Chooses the next step. `guard_of` knows the targets, `models` the other models that may be fallen back to."""

    def __init__(
        self,
        settings: FallbackSettings,
        guard_of: Callable[[Target], Guard],
        models: Mapping[str, Model],
        *,
        attempts: int,
    ) -> None:
        self._settings = settings
        self._guard_of = guard_of
        self._models = models
        self._attempts = attempts

    def following(self, exchange: Exchange, run: Run, now: float) -> Step | None:
        """The step after the last of `run.failures`; None leaves it at the error."""
        error = run.failures[-1].error
        if error.kind in _FINAL or self._spent(exchange, run) or now >= exchange.deadline:
            return None
        again = self._again(exchange, run, now)
        if again is not None and self._tries(run, again.target) <= self._settings.retry_first:
            return again
        return self._other(exchange, run, now) or again or self._last_resort(exchange, run, now)

    def _spent(self, exchange: Exchange, run: Run) -> bool:
        main = sum(1 for attempt in exchange.attempts if not attempt.of)
        return run.calls >= self._settings.max_attempts or main >= self._attempts

    # Another target

    def candidates(self, exchange: Exchange) -> Iterable[Target]:
        """The exchange's targets, then those of the models that it may fall back to, as far as its keys allow."""
        yield from exchange.targets
        if exchange.model is None:
            return
        keys = exchange.provider_keys
        wanted = frozenset(exchange.facts.get("require_tags") or ())
        for name in self._settings.models.get(exchange.model.name, ()):
            for target in self._models[name].targets:
                if keys is not None and keys.only and not keys.covers(target):
                    continue
                if wanted <= target.tags and all(target is not other for other in exchange.targets):
                    yield target

    def _other(self, exchange: Exchange, run: Run, now: float) -> Step | None:
        for target in self.fitting(exchange, run):
            if any(failure.target is target for failure in run.failures):
                continue
            guard = self._guard_of(target)
            if guard.ready(now) and (not run.calls or guard.budget.available(now)):
                return Step(target, 0.0, paid=run.calls > 0)
        return None

    def fitting(self, exchange: Exchange, run: Run) -> Iterable[Target]:
        """The candidates that what has happened so far does not exclude."""
        for target in self.candidates(exchange):
            if all(self._fits(target, failure) for failure in run.failures) and self._affordable(exchange, target):
                yield target

    def _fits(self, target: Target, failure: Failure) -> bool:
        kind = failure.error.kind
        if kind is ErrorKind.CONTEXT_TOO_LONG:
            return target.context_window is not None and target.context_window > (failure.target.context_window or 0)
        if kind is ErrorKind.CONTENT_POLICY:
            named = self._settings.content_policy
            return target.name in named or any(f"tag:{tag}" in named for tag in target.tags)
        if kind is ErrorKind.QUOTA_EXHAUSTED or (
            kind is ErrorKind.AUTHENTICATION and failure.error.provider_status != 403
        ):
            return self._guard_of(target).credential is not self._guard_of(failure.target).credential
        return True

    def _affordable(self, exchange: Exchange, target: Target) -> bool:
        limit = self._settings.max_cost
        if limit is None or target.price is None:
            return True
        guess = guess_usage(exchange)
        spent = 0
        for attempt in exchange.attempts:
            if attempt.cost is not None:
                spent += attempt.cost.total
            elif attempt.target.price is not None and not isinstance(attempt.error, TargetUnavailable):
                spent += attempt.target.price.of(Usage(input_tokens=guess.input_tokens)).total
        return spent + target.price.of(guess).total <= limit

    # The same target

    def _tries(self, run: Run, target: Target) -> int:
        return sum(1 for failure in run.failures if failure.target is target and failure.called)

    def _again(self, exchange: Exchange, run: Run, now: float) -> Step | None:
        """Of the targets that have failed, the one that may be called again first."""
        steps = [step for failure in self._latest(run) if (step := self._retry(exchange, run, failure, now))]
        return min(steps, key=lambda step: step.wait, default=None)

    def _latest(self, run: Run) -> Sequence[Failure]:
        return list({id(failure.target): failure for failure in run.failures if failure.called}.values())

    def _retry(self, exchange: Exchange, run: Run, failure: Failure, now: float) -> Step | None:
        target, error = failure.target, failure.error
        if error.kind in _NOT_AGAIN or self._tries(run, target) > self._settings.retries:
            return None
        if any(not self._fits(target, other) for other in run.failures) or not self._affordable(exchange, target):
            return None
        wait = max(0.0, failure.at + self._wait(run, failure) - now)
        if now + wait >= exchange.deadline:
            return None
        guard = self._guard_of(target)
        if error.retry_after is not None and error.retry_after > self._settings.backoff.max_wait:
            return None
        if not guard.ready_at(now + wait) or not guard.budget.available(now):
            return None
        return Step(target, wait, paid=True)

    def _wait(self, run: Run, failure: Failure) -> float:
        """Full jitter, above the last wait: a second wait that is shorter than the first one is no backoff."""
        backoff = self._settings.backoff
        tries = self._tries(run, failure.target)
        base = backoff.by_kind.get(failure.error.kind, backoff.base)
        bound = min(backoff.max, base * 2.0 ** (tries - 1))
        asked = failure.error.retry_after
        if asked is not None:
            return asked + random.uniform(0, min(bound, 0.1 * asked + 0.05))
        lowest = max(min(_SHORTEST_WAIT, bound / 4), _GROWTH * run.waits.get(failure.target.id, 0.0))
        return min(backoff.max, random.uniform(lowest, max(bound, lowest)))

    def _last_resort(self, exchange: Exchange, run: Run, now: float) -> Step | None:
        """Every circuit is open and nothing was called yet: the one nearest to closing is called all the same."""
        if run.calls or run.resorted:
            return None
        run.resorted = True
        nearest = min(self.fitting(exchange, run), key=lambda target: self._guard_of(target).rank(now), default=None)
        return None if nearest is None else Step(nearest, 0.0, paid=False)

    def better(self, exchange: Exchange, run: Run, target: Target, now: float) -> bool:
        """Whether another target may be called while this one's circuit is not closed."""
        if run.resorted:
            return False
        rank = self._guard_of(target).rank(now)
        return any(
            other is not target and self._guard_of(other).rank(now) < rank for other in self.fitting(exchange, run)
        )

    def untried(self, exchange: Exchange, run: Run, target: Target, now: float) -> bool:
        """Whether another target could be called that this exchange has not come to yet."""
        return any(
            other is not target
            and all(failure.target is not other for failure in run.failures)
            and self._guard_of(other).ready(now)
            for other in self.fitting(exchange, run)
        )

    def hedge_target(self, exchange: Exchange, run: Run, target: Target, now: float) -> Target | None:
        """Whom to ask beside the target, if there is anybody and the exchange may make one more call."""
        if run.calls >= self._settings.max_attempts or now >= exchange.deadline:
            return None
        others = (other for other in self.fitting(exchange, run) if other is not target)
        return next((other for other in others if self._guard_of(other).ready(now)), None)


def account_abandoned(exchange: Exchange, attempt: Attempt, response: Response | None) -> None:
    """An attempt that nobody waited for: the provider has read the input at least, and may bill it."""
    if attempt.usage is not None:
        return
    counted = response.usage if response is not None else None
    tokens = counted.input_tokens if counted is not None else guess_usage(exchange).input_tokens
    attempt.usage = Usage(input_tokens=tokens, estimated=True)
    if attempt.target.price is not None:
        attempt.cost = attempt.target.price.of(attempt.usage)


def guess_usage(exchange: Exchange) -> Usage:
    """The tokens that an answer may take, before it is there."""
    estimated = exchange.facts.get("input_tokens_estimated")
    body = exchange.request.body
    asked = body.get("max_completion_tokens") or body.get("max_tokens")
    return Usage(
        input_tokens=estimated if isinstance(estimated, int) else max(1, exchange.request.size // 4),
        output_tokens=asked if isinstance(asked, int) and asked > 0 else _OUTPUT_GUESS,
        estimated=True,
    )
