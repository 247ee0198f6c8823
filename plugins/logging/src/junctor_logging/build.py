"""Makes records of what was captured. Runs behind the answer, in the writer's thread."""

from __future__ import annotations

import hashlib
import re
import socket
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from junctor_logging.record import SCHEMA

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from junctor import Attempt, Cost, Target, Usage
    from junctor.prices import Price as ListPrice

    from junctor_logging.capture import Captured
    from junctor_logging.redact import Redactor

__all__ = ["Builder"]

_LONGEST = 256
_LONGEST_MESSAGE = 500
_OWN_FACTS = frozenset(("cache", "quota", "route"))
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
_QUOTED = re.compile(r"""(["'`])(?:(?!\1).){40,}\1""", re.DOTALL)
_MEMO = 4096


class _Known(NamedTuple):
    target: Target
    name: str
    provider: str
    key_id: str
    discount: float
    price: dict[str, Any] | None


class _Steps(dict[tuple[str, str], str]):
    """How each plugin's hook is written, and which of them run after the last byte."""

    def __init__(self) -> None:
        super().__init__()
        self.settling: list[tuple[str, str]] = []

    def __missing__(self, step: tuple[str, str]) -> str:
        name = self[step] = ".".join(step)
        if step[1] == "post_call":
            self.settling.append(step)
        return name


class Builder:
    """Captured exchange in, record out. `discounts` are shares of the list price by provider or target."""

    def __init__(self, discounts: Mapping[str, float], redactor: Redactor) -> None:
        self._discounts = discounts
        self._redactor = redactor
        self._secrets = redactor.secrets
        self._instance = socket.gethostname()
        self._targets: dict[int, _Known] = {}
        self._texts: dict[str, str] = {"": ""}
        self._steps = _Steps()

    def build(self, taken: Captured) -> dict[str, Any]:
        """The whole record; money is the core's own figure for each attempt, never counted anew."""
        client, facts, text, target = taken.client, taken.facts, self._text, taken.target
        started = taken.started
        timings, settled = self._timings(taken.timings)
        attempts = self._attempts(taken)
        cost, unpriced = _total(attempts)
        cache = facts.get("cache")
        saved = cache.get("saved") if taken.cached is not None and isinstance(cache, dict) else 0
        return {
            "record": taken.record,
            "id": taken.id,
            "time": datetime.fromtimestamp(taken.started_at, UTC),
            "schema": SCHEMA,
            "instance": self._instance,
            "trace_id": _trace_id(taken),
            "purpose": taken.purpose[:64],
            "parent": taken.parent,
            "parent_record": taken.parent_record,
            "key_id": client.key_id,
            "client": text(client.name),
            "team": text(client.team),
            "project": text(client.project),
            "feature": text(client.feature),
            "tier": text(client.tier),
            "end_user": text(client.end_user),
            "tags": {text(str(key)): text(str(value)) for key, value in client.tags.items()} if client.tags else {},
            "wire": taken.wire,
            "operation": taken.operation,
            "path": text(taken.path),
            "model": text(taken.model),
            "stream": taken.stream,
            "outcome": taken.outcome,
            "status": taken.status,
            "error": None if taken.error is None else self._error(taken.error, taken),
            "cancelled": taken.outcome == "cancelled",
            "finish_reason": text(taken.finish_reason or ""),
            "target": "" if target is None else target.name,
            "provider": "" if target is None else target.provider,
            "answered_model": text(taken.answered_model),
            "duration_us": int((taken.ended - started - settled) * 1e6),
            "first_byte_us": int((taken.first_byte - started) * 1e6) + 1 if taken.first_byte else None,
            "overhead_us": _overhead(taken),
            "timings_us": timings,
            "request_bytes": taken.request_bytes,
            "response_bytes": taken.response_bytes,
            "usage": None if taken.usage is None else _tokens(taken.usage),
            "cost": cost,
            "unpriced": unpriced,
            "saved": saved if isinstance(saved, int) else 0,
            "cache": cache if isinstance(cache, dict) else None,
            "quota": facts.get("quota"),
            "route": facts.get("route"),
            "facts": {name: fact for name, fact in facts.items() if name not in _OWN_FACTS},
            "attempts": attempts,
            "content": None if taken.content is None else taken.content.finished(self._redactor, taken.secrets),
        }

    def cleaned(self, line: bytes) -> bytes | None:
        """The line without the secrets of the configuration, if a plugin has put one among the facts; else None."""
        if not self._secrets.known_in(line):
            return None
        return orjson.dumps(self._redactor.clean(orjson.loads(line), ()))

    def _timings(self, given: Mapping[tuple[str, str], float]) -> tuple[dict[str, int], float]:
        """By `plugin.hook`, and the seconds that plugins have settled accounts for after the last byte."""
        names = self._steps
        shown = {names[step]: int(seconds * 1e6) for step, seconds in given.items()}
        return shown, sum([given[step] for step in names.settling if step in given])

    def _attempts(self, taken: Captured) -> list[dict[str, Any]]:
        lines: list[dict[str, Any]] = []
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

    def _attempt(self, attempt: Attempt, kind: str, error: Any, taken: Captured) -> dict[str, Any]:
        usage, cost, started = attempt.usage, attempt.cost, attempt.started
        known = self._targets.get(id(attempt.target)) or self._know(attempt.target)
        first_byte = attempt.first_byte
        return {
            "target": known.name,
            "provider": known.provider,
            "key_id": known.key_id,
            "kind": kind,
            "started_us": int((started - taken.started) * 1e6),
            "duration_us": int(((attempt.ended or taken.ended) - started) * 1e6),
            "first_byte_us": int((first_byte - started) * 1e6) + 1 if first_byte else None,
            "error": error,
            "abandoned": attempt.abandoned,
            "usage": None if usage is None else _tokens(usage),
            "cost": None if cost is None else _money(cost, known.discount),
            "price": None if usage is None else known.price,
        }

    def _know(self, target: Target) -> _Known:
        """What all attempts of a target have in common. It holds the target, so that its `id` stays its own."""
        discount = self._discounts.get(target.name, self._discounts.get(target.provider, 0.0))
        price = None if target.price is None else _priced(target.price, discount)
        found = _Known(target, target.name, target.provider, target.key_id, discount, price)
        if len(self._targets) >= _MEMO:
            self._targets.clear()
        self._targets[id(target)] = found
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
            if len(self._texts) >= _MEMO:
                self._texts.clear()
            if len(value) <= _LONGEST:
                self._texts[value] = found
        return found


def _priced(price: ListPrice, discount: float) -> dict[str, Any]:
    above = None if price.above is None else price.above[0]
    values = (price.input, price.output, price.cache_read, price.cache_write)
    digest = hashlib.sha256(repr((price.source, *values, price.above, discount)).encode()).hexdigest()[:12]
    named = dict(zip(("input", "output", "cache_read", "cache_write"), values, strict=True))
    whole = {"id": digest, "source": price.source, **named, "above_tokens": above, "discount": discount}
    return {name: value for name, value in whole.items() if value is not None}


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
    return max(0, int(seconds * 1e6))


def _total(attempts: Sequence[dict[str, Any]]) -> tuple[dict[str, int] | None, bool]:
    """As `Exchange.cost`: what all attempts cost together; None, and True, if one that used tokens has no price."""
    if len(attempts) == 1 and attempts[0]["cost"] is not None:
        return attempts[0]["cost"], False
    total = dict.fromkeys(("input", "output", "cache_read", "cache_write", "total", "billed"), 0)
    for attempt in attempts:
        if attempt["cost"] is not None:
            for part, money in attempt["cost"].items():
                total[part] += money
        elif attempt["usage"] is not None:
            return None, True
    return total, False


def _tokens(usage: Usage) -> dict[str, Any]:
    return {
        "input": usage.input_tokens,
        "output": usage.output_tokens,
        "cache_read": usage.cache_read_tokens,
        "cache_write": usage.cache_write_tokens,
        "reasoning": usage.reasoning_tokens,
        "estimated": usage.estimated,
    }


def _money(cost: Cost, discount: float) -> dict[str, int]:
    total = cost.input + cost.output + cost.cache_read + cost.cache_write
    return {
        "input": cost.input,
        "output": cost.output,
        "cache_read": cost.cache_read,
        "cache_write": cost.cache_write,
        "total": total,
        "billed": total if not discount else round(total * (1 - discount)),
    }
