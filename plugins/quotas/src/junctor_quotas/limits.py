"""Limits compiled from the settings, and what of them applies to an exchange."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from junctor_quotas.settings import DIMENSIONS, limit_names

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from junctor import Exchange, Target

    from junctor_quotas.settings import LimitSettings, Rung
    from junctor_quotas.windows import Window

__all__ = ["CONCURRENCY", "COUNTED", "HELD", "Claim", "Claims", "Limit", "Limits", "compile_limits"]

COUNTED, HELD, CONCURRENCY = 0, 1, 2
"""How a counter is taken: at once; held, and settled to what was used; held only."""

_AT_CALL = frozenset({"target", "tag"})
_LONGEST_SCOPE = 96
_REMEMBERED = 4096
_DAY = 86_400_000


@dataclass(frozen=True, slots=True)
class Limit:
    """One amount of one dimension. Tokens and requests are counts, cost is nano-dollars."""

    name: str
    dimension: str
    hard: int
    per: tuple[str, ...]
    match: Mapping[str, frozenset[str]]
    window: Window | None
    rungs: tuple[Rung, ...]
    exact: bool
    closed: bool
    cut: bool

    @property
    def kind(self) -> int:
        if self.dimension == "concurrency":
            return CONCURRENCY
        return COUNTED if self.dimension == "requests" and self.exact else HELD

    @property
    def soft(self) -> float | None:
        return self.rungs[0].share if self.rungs else None

    @property
    def queue_from(self) -> float:
        """The share of the limit that may be taken without waiting in line."""
        return next((rung.share for rung in self.rungs if rung.action == "queue"), 1.0)

    @property
    def queues(self) -> bool:
        """Whether a request waits, rather than being refused."""
        return self.dimension == "concurrency" or any(rung.action == "queue" for rung in self.rungs)


@dataclass(frozen=True, slots=True)
class Claim:
    """A limit as it applies to one scope: the counter's key, and what the store has to know of it."""

    limit: Limit
    scope: str
    key: str
    until: int
    row: tuple[int, int, int, int, int, int, str]  # hard, width, count, from, until, ttl, override's name
    cautious: tuple[int, int, int, int, int, int, str]  # the same up to where the queue begins
    settle: tuple[int, int, int]  # width, count, ttl
    kind: int


class Claims:
    """What applies to an exchange. `keys` begins with the four that every step takes."""

    __slots__ = ("_parts", "by_wait", "claims", "keys", "tag", "until")

    def __init__(self, tag: str, claims: Sequence[Claim]) -> None:
        self.tag = tag
        self.claims = tuple(claims)
        base = f"quotas:{{{tag}}}:"
        self.keys = [base + name for name in ("leases", "records", "epoch", "overrides")]
        self.keys += [claim.key for claim in self.claims]
        self.until = min((claim.until for claim in self.claims if claim.until), default=1 << 62)
        self.by_wait = tuple(claim.key for claim in self.claims if claim.limit.queues)
        self._parts: tuple[Claims, Claims] | None = None

    def __bool__(self) -> bool:
        return bool(self.claims)

    @property
    def parts(self) -> tuple[Claims, Claims]:
        """Those that the store is asked about each time, and those of which workers hold slices."""
        if self._parts is None:
            leased = [claim for claim in self.claims if not claim.limit.exact]
            exact = Claims(self.tag, [claim for claim in self.claims if claim.limit.exact]) if leased else self
            self._parts = exact, Claims(self.tag, leased)
        return self._parts


def compile_limits(settings: Iterable[LimitSettings]) -> list[Limit]:
    """One limit for each dimension of each entry."""
    limits = []
    for entry in settings:
        dimensions = [name for name in DIMENSIONS if getattr(entry, name) is not None]
        for name, dimension in zip(limit_names(entry), dimensions, strict=True):
            # A ladder that refuses elsewhere than at 100 % moves the limit; its other rungs stay where they are.
            nominal = getattr(entry, dimension)
            rungs = entry.rungs(nominal)
            end = next((rung.share for rung in rungs if rung.action == "refuse"), 1.0)
            hard = max(1, int(nominal * end)) if nominal else 0
            rungs = tuple(
                rung.model_copy(update={"share": rung.share / end}) for rung in rungs if rung.action != "refuse"
            )
            limits.append(
                Limit(
                    name,
                    dimension,
                    hard,
                    tuple(entry.per),
                    {key: frozenset(values) for key, values in entry.match.items()},
                    None if dimension == "concurrency" else entry.parsed_window,
                    rungs,
                    entry.exactness == "exact",
                    entry.on_store_failure == "closed",
                    entry.overrun == "cut",
                )
            )
    return limits


class Limits:
    """Finds what applies. Limits of a target or a tag apply once the target is known, the others to the request.

    What was found for a client and a model is remembered until a calendar window ends.
    """

    def __init__(self, limits: Sequence[Limit]) -> None:
        self.all = tuple(limits)
        self._request = [limit for limit in limits if not _at_call(limit)]
        self._call = [limit for limit in limits if _at_call(limit)]
        # All scopes of one step must live on one node of a cluster; what all limits have in common may divide them.
        shared = set.intersection(*(set(limit.per) for limit in limits)) if limits else set()
        self._tag_by = tuple(sorted(shared - _AT_CALL - {"model"}))
        self._found: OrderedDict[tuple[str, ...], Claims] = OrderedDict()

    @property
    def by_target(self) -> bool:
        return bool(self._call)

    def of_request(self, exchange: Exchange, now: float) -> Claims:
        """What applies to the request, whatever its target; `now` is the store's time in seconds."""
        client = exchange.client
        key = (
            client.key_id,
            client.team,
            client.project,
            client.feature,
            client.end_user,
            client.tier,
            exchange.request.model,
        )
        return self._remembered(key, self._request, exchange, None, now)

    def of_target(self, exchange: Exchange, target: Target, now: float) -> Claims:
        """What applies to one attempt at this target besides."""
        client = exchange.client
        key = (
            target.id,
            client.key_id,
            client.team,
            client.project,
            client.feature,
            client.end_user,
            client.tier,
            exchange.request.model,
        )
        return self._remembered(key, self._call, exchange, target, now)

    def _remembered(
        self, key: tuple[str, ...], limits: Sequence[Limit], exchange: Exchange, target: Target | None, now: float
    ) -> Claims:
        found = self._found.get(key)
        if found is None or found.until <= now * 1000:
            found = self._found[key] = self._find(limits, exchange, target, now)
            if len(self._found) > _REMEMBERED:
                self._found.popitem(last=False)
        return found

    def _find(self, limits: Sequence[Limit], exchange: Exchange, target: Target | None, now: float) -> Claims:
        values = _values(exchange, target)
        tag = self.tag(values)
        claims = []
        for limit in limits:
            if not all(values[name] in wanted or _tagged(name, target, wanted) for name, wanted in limit.match.items()):
                continue
            if "tag" in limit.per:
                labels = sorted(target.tags) if target is not None else []
                wanted = limit.match.get("tag")
                claims += [
                    self.claim(limit, {**values, "tag": label}, tag, now)
                    for label in labels
                    if wanted is None or label in wanted
                ]
            else:
                claims.append(self.claim(limit, values, tag, now))
        return Claims(tag, claims)

    def tag(self, values: Mapping[str, str]) -> str:
        """The hash tag that all counters of a step share."""
        return "/".join(_short(values[name]) for name in self._tag_by) or "all"

    def claim(self, limit: Limit, values: Mapping[str, str], tag: str, now: float) -> Claim:
        """The limit as it applies to a scope; `values` has the attributes it is counted by."""
        scope = ",".join(f"{name}={_short(values[name])}" for name in limit.per) or "global"
        return self.at(limit, scope, tag, now)

    def at(self, limit: Limit, scope: str, tag: str, now: float) -> Claim:
        """The limit at a scope as `claim` writes it."""
        key = f"quotas:{{{tag}}}:{limit.name}:{scope}"
        window = limit.window
        if window is None:
            ttl, width, count, start, until = _DAY, 60_000, 0, 0, 0
        elif window.calendar:
            start, until = window.period(now)
            key = f"{key}:{start // 1000}"
            ttl, width, count = until - start + _DAY, window.width, 0
        else:
            start, until, width, count = 0, 0, window.width, window.parts
            ttl = max(3_600_000, round(window.seconds * 3000))
        row = (limit.hard, width, count, start, until, ttl, f"{limit.name}|{scope}")
        cautious = (min(limit.hard, int(limit.hard * limit.queue_from)), *row[1:])
        return Claim(limit, scope, key, until, row, cautious, (width, count, ttl), limit.kind)


def _at_call(limit: Limit) -> bool:
    return bool(_AT_CALL & ({*limit.per} | set(limit.match)))


def _values(exchange: Exchange, target: Target | None) -> dict[str, str]:
    client = exchange.client
    return {
        "team": client.team,
        "project": client.project,
        "feature": client.feature,
        "key": client.key_id,
        "end_user": client.end_user,
        "tier": client.tier,
        "model": exchange.request.model,
        "target": target.name if target is not None else "",
        "tag": "",
    }


def _tagged(name: str, target: Target | None, wanted: frozenset[str]) -> bool:
    return name == "tag" and target is not None and bool(wanted & target.tags)


def _short(value: str) -> str:
    """The value as part of a key: what a client sends may be long, or contain what separates."""
    if len(value) <= _LONGEST_SCOPE and not any(mark in value for mark in "{}|,=\n"):
        return value or "-"
    return "#" + hashlib.blake2s(value.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()
