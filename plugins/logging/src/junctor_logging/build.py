"""Makes records of what was captured. Runs behind the answer, in the writer's thread."""

from __future__ import annotations

import hashlib
import re
import socket
from datetime import UTC, datetime
from math import floor
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson
from msgspec.structs import astuple

from junctor_logging.record import SCHEMA, AttemptLine, Entry, Money, Price, Record, Tokens, encode, from_line

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from junctor import Attempt, Cost, Target, Usage
    from junctor.prices import Price as ListPrice

    from junctor_logging.capture import Captured
    from junctor_logging.redact import Redactor

__all__ = ["Builder"]

_LONGEST = 256
_LONGEST_MESSAGE = 500
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
_QUOTED = re.compile(r"""(["'`])(?:(?!\1).){40,}\1""", re.DOTALL)
_MEMO = 4096
Step = tuple[str, str]


class _Known(NamedTuple):
    target: Target
    name: str
    provider: str
    key_id: str
    discount: float
    price: Price | None


class Builder:
    """Captured exchange in, record out. `discounts` are shares of the list price by provider or target."""

    def __init__(self, discounts: Mapping[str, float], redactor: Redactor) -> None:
        self._discounts = discounts
        self._redactor = redactor
        self._secrets = redactor.secrets
        self._instance = socket.gethostname()
        self._targets: dict[int, _Known] = {}
        self._texts: dict[str, str] = {"": ""}
        self._steps: dict[tuple[Step, ...], tuple[list[str], list[int]]] = {}

    def build(self, taken: Captured) -> Entry:
        """The whole record. Takes the facts out of what was taken."""
        brief, facts = self._brief(taken), taken.facts
        cache, quota, route = facts.pop("cache", None), facts.pop("quota", None), facts.pop("route", None)
        told = {"cache": cache if isinstance(cache, dict) else None, "quota": quota, "route": route, "facts": facts}
        content = None
        if taken.content is not None:
            content = told["content"] = taken.content.finished(self._redactor, taken.secrets)
        return Entry(brief, encode(brief, told), floor(taken.started_at * 1000), content)

    def _brief(self, taken: Captured) -> Record:
        """Without what plugins say. Money is the core's own figure for each attempt, never counted anew."""
        client, text, target = taken.client, self._text, taken.target
        started, first_byte = taken.started, taken.first_byte
        timings, settled = self._timings(taken.timings)
        attempts = self._attempts(taken)
        cost, unpriced = _total(attempts)
        # fmt: off
        return Record(  # by place, in the order of its fields: so many by name take several times as long
            taken.record, taken.id, datetime.fromtimestamp(taken.started_at, UTC), SCHEMA, self._instance,
            _trace_id(taken), taken.purpose[:64], taken.parent, taken.parent_record,
            client.key_id, text(client.name), text(client.team), text(client.project), text(client.feature),
            text(client.tier), text(client.end_user), self._tags(client.tags),
            taken.wire, taken.operation, text(taken.path), text(taken.model), taken.stream,
            taken.outcome, taken.status, None if taken.error is None else self._error(taken.error, taken),
            taken.outcome == "cancelled", text(taken.finish_reason or ""),
            "" if target is None else target.name, "" if target is None else target.provider,
            text(taken.answered_model),
            floor((taken.ended - started) * 1e6) - settled,
            floor((first_byte - started) * 1e6) + 1 if first_byte else None,
            _overhead(taken), timings, taken.request_bytes, taken.response_bytes,
            None if taken.usage is None else _tokens(taken.usage), cost, unpriced, _saved(taken),
            attempts=attempts,
        )
        # fmt: on

    def _tags(self, tags: Mapping[str, str]) -> dict[str, str]:
        text = self._text
        return {text(str(key)): text(str(value)) for key, value in tags.items()} if tags else {}

    def knows_of(self, entries: Sequence[Entry]) -> bool:
        """Whether a secret of the configuration stands in one of these, because a plugin has put it among the facts."""
        return self._secrets.known_in(b"\n".join([entry.line for entry in entries]))

    def cleaned(self, entry: Entry) -> Entry:
        """The same without secrets of the configuration."""
        if not self._secrets.known_in(entry.line):
            return entry
        return from_line(orjson.dumps(self._redactor.clean(orjson.loads(entry.line), ())))

    def _timings(self, given: Mapping[Step, float]) -> tuple[dict[str, int], int]:
        """By `plugin.hook`, and what plugins have taken to settle accounts after the last byte."""
        steps = tuple(given)
        names, settling = self._steps.get(steps) or self._name(steps)
        spent = [floor(seconds * 1e6) for seconds in given.values()]
        return dict(zip(names, spent, strict=True)), sum([spent[place] for place in settling])

    def _name(self, steps: tuple[Step, ...]) -> tuple[list[str], list[int]]:
        """How the steps are written, and the places of those that run after the last byte."""
        settling = [place for place, (_, hook) in enumerate(steps) if hook == "post_call"]
        found = ([".".join(step) for step in steps], settling)
        _remember(self._steps, steps, found)
        return found

    def _attempts(self, taken: Captured) -> list[AttemptLine]:
        lines: list[AttemptLine] = []
        before: Target | None = None
        for place, attempt in enumerate(taken.attempts):
            target = attempt.target
            kind = attempt.of or ("first" if before is None else "retry" if before == target else "fallback")
            if not attempt.of:
                before = target
            error = taken.errors.get(place)
            shown = None if error is None else self._error(error, taken, target.api_key or "")
            lines.append(self._attempt(attempt, kind, shown, taken))
        return lines

    def _attempt(self, attempt: Attempt, kind: str, error: Any, taken: Captured) -> AttemptLine:
        usage, cost, started, first_byte = attempt.usage, attempt.cost, attempt.started, attempt.first_byte
        known = self._targets.get(id(attempt.target)) or self._know(attempt.target)
        return AttemptLine(
            known.name,
            known.provider,
            known.key_id,
            kind,
            floor((started - taken.started) * 1e6),
            floor(((attempt.ended or taken.ended) - started) * 1e6),
            floor((first_byte - started) * 1e6) + 1 if first_byte else None,
            error,
            attempt.abandoned,
            None if usage is None else _tokens(usage),
            None if cost is None else _money(cost, known.discount),
            None if usage is None else known.price,
        )

    def _know(self, target: Target) -> _Known:
        """What all attempts of a target have in common. It holds the target, so that its `id` stays its own."""
        discount = self._discounts.get(target.name, self._discounts.get(target.provider, 0.0))
        price = None if target.price is None else _priced(target.price, discount)
        found = _Known(target, target.name, target.provider, target.key_id, discount, price)
        _remember(self._targets, id(target), found)
        return found

    def _error(self, error: dict[str, Any], taken: Captured, *secrets: str) -> dict[str, Any]:
        message = self._secrets.hide(error["message"], [*taken.secrets, *secrets])
        if "kind" in error:  # a provider's own words, which may quote the prompt
            message = _QUOTED.sub("[quoted text left out]", message)
        return {**error, "message": message[:_LONGEST_MESSAGE]}

    def _text(self, value: str) -> str:
        """A name that a client may have chosen: cut to a length, storable anywhere, and without what looks like a key.

        Names come again and again, so what became of one is remembered.
        """
        found = self._texts.get(value)
        if found is None:
            found = value[:_LONGEST].encode("utf-8", "replace").decode().replace("\0", "")
            found = self._secrets.hide(found)
            if len(value) <= _LONGEST:
                _remember(self._texts, value, found)
        return found


def _remember(memo: dict[Any, Any], key: Any, value: Any) -> None:
    if len(memo) >= _MEMO:
        memo.clear()
    memo[key] = value


def _priced(price: ListPrice, discount: float) -> Price:
    above = None if price.above is None else price.above[0]
    values = (price.input, price.output, price.cache_read, price.cache_write)
    digest = hashlib.sha256(repr((price.source, *values, price.above, discount)).encode()).hexdigest()[:12]
    return Price(digest, price.source, *values, above, discount)


def _trace_id(taken: Captured) -> str:
    given = taken.facts.get("trace_id")
    if isinstance(given, str):
        return given[:32]
    match = _TRACEPARENT.fullmatch(taken.traceparent) if taken.traceparent else None
    return match[1] if match else ""


def _overhead(taken: Captured) -> int:
    """As `Exchange.overhead`: until the answer began, without the waiting for providers."""
    until = taken.first_byte or taken.ended
    seconds = until - taken.started
    for attempt in taken.attempts:
        seconds -= (attempt.first_byte or attempt.ended or until) - attempt.started
    return max(0, floor(seconds * 1e6))


def _saved(taken: Captured) -> int:
    """What the cache that answered says of its hit."""
    cache = taken.facts.get("cache") if taken.cached is not None else None
    saved = cache.get("saved") if isinstance(cache, dict) else None
    return saved if isinstance(saved, int) else 0


def _total(attempts: Sequence[AttemptLine]) -> tuple[Money | None, bool]:
    """As `Exchange.cost`: what all attempts cost together; None, and True, if one that used tokens has no price."""
    if len(attempts) == 1 and attempts[0].cost is not None:
        return attempts[0].cost, False
    if any(attempt.cost is None and attempt.usage is not None for attempt in attempts):
        return None, True
    costs = [astuple(attempt.cost) for attempt in attempts if attempt.cost is not None]
    return Money(*map(sum, zip(*costs, strict=True))), False


def _tokens(usage: Usage) -> Tokens:
    return Tokens(
        usage.input_tokens,
        usage.output_tokens,
        usage.cache_read_tokens,
        usage.cache_write_tokens,
        usage.reasoning_tokens,
        usage.estimated,
    )


def _money(cost: Cost, discount: float) -> Money:
    total = cost.input + cost.output + cost.cache_read + cost.cache_write
    billed = total if not discount else round(total * (1 - discount))
    return Money(cost.input, cost.output, cost.cache_read, cost.cache_write, total, billed)
