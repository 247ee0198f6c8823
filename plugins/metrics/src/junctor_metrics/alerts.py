"""Rules on the figures: one alert for each change of state, to the log and to a webhook."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from junctor import ErrorKind
from junctor.state import StateUnavailable

from junctor_metrics.settings import BreakerRule, BudgetRule, ErrorsRule, ProviderKeyRule, UnpricedRule
from junctor_metrics.sources import breakers
from junctor_metrics.webhook import Webhook

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping

    from junctor import Exchange, Gateway

    from junctor_metrics.counts import Registry, Row
    from junctor_metrics.settings import AlertsSettings, Rule

    _Series = Mapping[str, Mapping[tuple[str, ...], Row]]

__all__ = ["Alerts"]

_log = logging.getLogger("junctor.alerts")
_FAILED = frozenset({"failed", "timeout"})
_MOST_SUBJECTS = 10_000


@dataclass(frozen=True, slots=True)
class _Finding:
    """What a rule has found of one subject just now."""

    rule: str
    subject: str
    value: float
    threshold: float
    message: str


@dataclass(slots=True)
class _Told:
    firing: bool = False
    fired: float = -1e9
    finding: _Finding | None = None


@dataclass(slots=True)
class _Window:
    """Cumulative (requests, failures) of the past, so that a difference is what happened within the window."""

    past: deque[tuple[float, float, float]] = field(default_factory=deque)

    def add(self, now: float, total: float, failed: float, seconds: float) -> tuple[float, float]:
        """Requests and failures within the last so many seconds.

        What was counted never falls: a total that does is one without the workers whose figures could not be read.
        """
        past = self.past
        if past and total < past[-1][1]:
            _, total, failed = past[-1]
        past.append((now, total, failed))
        while len(past) > 1 and past[1][0] <= now - seconds:
            past.popleft()
        return total - past[0][1], failed - past[0][2]


class Alerts:
    """Looks at the figures now and then: `series` gives those of all workers of this server.

    The state keeps one worker from telling what another has told. Without the state, rather twice than not at all.
    """

    def __init__(
        self,
        settings: AlertsSettings,
        gateway: Gateway,
        registry: Registry,
        series: Callable[[], Awaitable[_Series]],
    ) -> None:
        self._settings = settings
        self._gateway = gateway
        self._registry = registry
        self._series = series
        self._told: dict[tuple[str, str], _Told] = {}
        self._windows: dict[tuple[int, str], _Window] = {}
        self._unpriced: dict[str, float] = {}
        self._refused: dict[str, float] = {}
        self._webhook = Webhook(settings.webhook, gateway.http, self._undelivered) if settings.webhook else None
        self._task: asyncio.Task[None] | None = None

    def note(self, exchange: Exchange) -> None:
        """Remember what the counts do not tell: which key was refused, and when tokens were used without a price."""
        for attempt in exchange.attempts:
            if attempt.usage is not None and attempt.cost is None:
                self._remember(self._unpriced, attempt.target.name)
            error = attempt.error
            kind = getattr(error, "kind", None)
            if kind is ErrorKind.AUTHENTICATION and not exchange.facts.get("byok"):
                self._remember(self._refused, f"{attempt.target.name}#{attempt.target.key_id or 'default'}")

    def _remember(self, seen: dict[str, float], subject: str) -> None:
        if subject in seen or len(seen) < _MOST_SUBJECTS:
            seen[subject] = time.monotonic()

    async def __aenter__(self) -> Self:
        if self._webhook is not None:
            await self._webhook.__aenter__()
        await self._begin()
        self._task = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
        if self._webhook is not None:
            await self._webhook.__aexit__(*exc)

    async def _begin(self) -> None:
        """What was counted before a reload is no news."""
        now, series = time.monotonic(), await self._series()
        for place, rule in enumerate(self._settings.rules):
            if isinstance(rule, ErrorsRule):
                for subject, (total, failures) in _sums(rule, series).items():
                    self._windows[place, subject] = _Window(deque([(now, total, failures)]))

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._settings.every)
            try:
                await self.look()
            except Exception:  # another plugin's figures are someone else's code
                _log.exception("the alerts could not be judged")

    async def look(self) -> None:
        """Judge all rules now, and tell what has changed."""
        series = await self._series()
        now = time.monotonic()
        found: dict[tuple[str, str], _Finding] = {}
        for place, rule in enumerate(self._settings.rules):
            for finding in self._findings(place, rule, series, now):
                found[finding.rule, finding.subject] = finding
        for key, finding in found.items():
            told = self._told.setdefault(key, _Told())
            if not told.firing and now - told.fired >= self._settings.cooldown:
                told.firing, told.fired, told.finding = True, now, finding
                if await self._mine(key):
                    self._tell("firing", finding)
                else:
                    told.finding = None  # another worker has told it, and will tell its end
        for key, told in list(self._told.items()):
            if key not in found and told.firing:
                told.firing = False
                if told.finding is not None:
                    self._tell("resolved", told.finding)
            if not told.firing and now - told.fired >= self._settings.cooldown:
                del self._told[key]

    async def _mine(self, key: tuple[str, str]) -> bool:
        """Whether no other worker or replica has told this within the cooldown."""
        try:
            name = "metrics:alert:" + ":".join(key)
            ttl = max(0.001, self._settings.cooldown * 0.9)  # over before this worker may tell it again
            return await self._gateway.state.set(name, b"1", ttl=ttl, only_if_absent=True)
        except StateUnavailable:
            return True

    def _tell(self, state: str, finding: _Finding) -> None:
        level = logging.WARNING if state == "firing" else logging.INFO
        _log.log(level, "alert '%s' %s: %s", finding.rule, state, finding.message)
        self._registry["junctor_alerts_total"][finding.rule, state][0] += 1
        if self._webhook is not None:
            event = {"rule": finding.rule, "state": state, "subject": finding.subject, "value": finding.value}
            self._webhook.put({**event, "threshold": finding.threshold, "message": finding.message})

    def _undelivered(self) -> None:
        self._registry["junctor_alerts_undelivered_total"][()][0] += 1

    # The rules

    def _findings(self, place: int, rule: Rule, series: _Series, now: float) -> Iterator[_Finding]:
        match rule:
            case BudgetRule():
                yield from self._budgets(rule)
            case ErrorsRule():
                yield from self._errors(place, rule, series, now)
            case BreakerRule():
                yield from self._breakers()
            case UnpricedRule():
                text = "tokens of {} were used, and it has no price: set `price` at the target"
                yield from _recent("unpriced", self._unpriced, now - rule.window, text)
            case ProviderKeyRule():
                text = "the provider refuses the key of {}"
                yield from _recent("provider_key", self._refused, now - rule.window, text)

    def _budgets(self, rule: BudgetRule) -> Iterator[_Finding]:
        for (team,), row in self._registry["junctor_budget_used_ratio"].items():
            if row[0] >= rule.above:
                message = f"team '{team}' has used {row[0]:.0%} of its tightest budget"
                yield _Finding(f"budget {rule.above:.0%}", team, row[0], rule.above, message)

    def _errors(self, place: int, rule: ErrorsRule, series: _Series, now: float) -> Iterator[_Finding]:
        for subject, (total, failures) in _sums(rule, series).items():
            window = self._windows.setdefault((place, subject), _Window(deque([(now, 0.0, 0.0)])))
            requests, errors = window.add(now, total, failures, rule.window)
            if requests >= rule.min_requests and errors / requests >= rule.above:
                share = errors / requests
                message = f"{share:.0%} of {requests:.0f} requests of {rule.per} '{subject}' failed"
                yield _Finding(f"errors per {rule.per} {rule.above:.0%}", subject, share, rule.above, message)

    def _breakers(self) -> Iterator[_Finding]:
        for entry in breakers(self._gateway):
            if entry["circuit"] == "open":
                subject = f"{entry['target']}#{entry['key_id'] or 'default'}"
                yield _Finding("breaker", subject, 1.0, 1.0, f"the circuit of {subject} is open: {entry['reason']}")


def _recent(rule: str, seen: dict[str, Any], since: float, text: str) -> Iterator[_Finding]:
    for subject, at in list(seen.items()):
        if at >= since:
            yield _Finding(rule, subject, 1.0, 1.0, text.format(subject))
        else:
            del seen[subject]


def _sums(rule: ErrorsRule, series: _Series) -> dict[str, list[float]]:
    """(All, failed) by subject, since the counting began."""
    sums: dict[str, list[float]] = {}
    for subject, failed, count in _outcomes(rule.per, series):
        both = sums.setdefault(subject, [0.0, 0.0])
        both[0] += count
        both[1] += count if failed else 0
    return sums


def _outcomes(per: str, series: _Series) -> Iterator[tuple[str, bool, float]]:
    if per == "model":
        for (model, _, _, _, outcome), row in series.get("junctor_requests_total", {}).items():
            if outcome not in ("refused", "cancelled"):
                yield model, outcome in _FAILED, row[0]
    else:
        for (target, outcome), row in series.get("junctor_attempts_total", {}).items():
            yield target, outcome not in ("answered", "abandoned"), row[0]
