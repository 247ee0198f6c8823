"""Makes records of what was captured. Runs behind the answer, in the writer's thread."""

from __future__ import annotations

import hashlib
import re
import socket
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import orjson

from junctor_logging.record import AttemptLine, Money, Price, Record, Tokens

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from junctor import Cost, Target, Usage
    from junctor.prices import Price as ListPrice
    from junctor_logging.capture import Captured, Tried
    from junctor_logging.redact import Redactor

__all__ = ["Builder"]

_LONGEST = 256
_LONGEST_MESSAGE = 500
_OWN_FACTS = ("cache", "quota", "route")
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
_QUOTED = re.compile(r"""(["'`])(?:(?!\1).){40,}\1""", re.DOTALL)


class Builder:
    """Captured exchange in, record out. `discounts` are shares of the list price by provider or target."""

    def __init__(self, discounts: Mapping[str, float], redactor: Redactor) -> None:
        self._discounts = discounts
        self._redactor = redactor
        self._instance = socket.gethostname()
        self._prices: dict[tuple[ListPrice, float], Price] = {}

    def build(self, taken: Captured) -> Record:
        """The whole record; money is the core's own figure, never counted anew."""
        client, facts = taken.client, taken.facts
        settled = sum(seconds for (_, hook), seconds in taken.timings.items() if hook == "post_call")
        attempts = self._attempts(taken)
        cache = facts.get("cache")
        saved = cache.get("saved") if isinstance(cache, dict) and taken.cached is not None else None
        target = taken.target
        return Record(
            record=taken.record,
            id=taken.id,
            time=datetime.fromtimestamp(taken.started_at, UTC),
            instance=self._instance,
            trace_id=_trace_id(taken),
            purpose=taken.purpose[:64],
            parent=taken.parent,
            parent_record=taken.parent_record,
            key_id=client.key_id,
            client=client.name,
            team=self._text(client.team),
            project=self._text(client.project),
            feature=self._text(client.feature),
            tier=client.tier,
            end_user=self._text(client.end_user),
            tags={self._text(str(key)): self._text(str(value)) for key, value in client.tags.items()},
            wire=taken.wire,
            operation=taken.operation,
            path=self._text(taken.path),
            model=self._text(taken.model),
            stream=taken.stream,
            outcome=taken.outcome,
            status=taken.status,
            error=self._error(taken.error, taken),
            cancelled=taken.outcome == "cancelled",
            finish_reason=taken.finish_reason[:_LONGEST],
            target="" if target is None else target.name,
            provider="" if target is None else target.provider,
            answered_model=taken.answered_model[:_LONGEST],
            duration=_ms(taken.ended - taken.started - settled),
            first_byte=_ms(taken.first_byte - taken.started) if taken.first_byte else None,
            overhead=_ms(taken.overhead),
            timings={f"{plugin}.{hook}": _ms(seconds) for (plugin, hook), seconds in taken.timings.items()},
            request_bytes=taken.request_bytes,
            response_bytes=taken.response_bytes,
            usage=_tokens(taken.usage),
            cost=self._total(taken.cost, attempts),
            unpriced=taken.cost is None,
            saved=saved if isinstance(saved, int) else 0,
            cache=cache if isinstance(cache, dict) else None,
            quota=facts.get("quota"),
            route=facts.get("route"),
            facts={name: fact for name, fact in facts.items() if name not in _OWN_FACTS},
            attempts=attempts,
            content=taken.content.finished(self._redactor, taken.secrets) if taken.content is not None else None,
        )

    def guarded(self, line: bytes) -> bytes:
        """The line, once more without the secrets of the configuration: a plugin may have put one among the facts."""
        if not self._redactor.betrayed(line):
            return line
        return orjson.dumps(self._redactor.clean(orjson.loads(line), ()))

    def _attempts(self, taken: Captured) -> list[AttemptLine]:
        lines: list[AttemptLine] = []
        before: Target | None = None
        for tried in taken.attempts:
            kind = tried.of or ("first" if before is None else "retry" if before is tried.target else "fallback")
            if not tried.of:
                before = tried.target
            lines.append(self._attempt(tried, kind, taken))
        return lines

    def _attempt(self, tried: Tried, kind: str, taken: Captured) -> AttemptLine:
        target = tried.target
        discount = self._discount(target)
        return AttemptLine(
            target.name,
            target.provider,
            target.key_id,
            kind,
            _ms(tried.started - taken.started),
            _ms((tried.ended or taken.ended) - tried.started),
            _ms(tried.first_byte - tried.started) if tried.first_byte else None,
            None if tried.error is None else self._error(tried.error, taken, (target.api_key or "",)),
            tried.abandoned,
            _tokens(tried.usage),
            _money(tried.cost, discount),
            None if target.price is None or tried.usage is None else self._price(target.price, discount),
        )

    def _discount(self, target: Target) -> float:
        if not self._discounts:
            return 0.0
        return self._discounts.get(target.name, self._discounts.get(target.provider, 0.0))

    def _price(self, price: ListPrice, discount: float) -> Price:
        found = self._prices.get((price, discount))
        if found is None:
            above = None if price.above is None else price.above[0]
            parts = (price.source, price.input, price.output, price.cache_read, price.cache_write, price.above, discount)
            digest = hashlib.sha256(repr(parts).encode()).hexdigest()[:12]
            found = Price(
                digest, price.source, price.input, price.output, price.cache_read, price.cache_write, above, discount
            )
            if len(self._prices) < 10_000:
                self._prices[price, discount] = found
        return found

    def _total(self, cost: Cost | None, attempts: Sequence[AttemptLine]) -> Money | None:
        total = _money(cost, 0.0)
        if total is not None:
            total.billed = sum(line.cost.billed for line in attempts if line.cost is not None)
        return total

    def _error(self, error: dict[str, Any] | None, taken: Captured, secrets: tuple[str, ...] = ()) -> Any:
        if error is None:
            return None
        message = self._redactor.secrets(error["message"], taken.secrets + secrets)
        if "kind" in error:  # a provider's own words, which may quote the prompt
            message = _QUOTED.sub("[quoted text left out]", message)
        return {**error, "message": message[:_LONGEST_MESSAGE]}

    def _text(self, value: str) -> str:
        """A name that a client may have chosen: cut to a length, storable anywhere, and without what looks like a key."""
        if not value.isascii() or "\0" in value:
            value = value[:_LONGEST].encode("utf-8", "replace").decode().replace("\0", "")
        return self._redactor.secrets(value[:_LONGEST]) if len(value) >= 16 else value


def _trace_id(taken: Captured) -> str:
    given = taken.facts.get("trace_id")
    if isinstance(given, str):
        return given[:32]
    match = _TRACEPARENT.fullmatch(taken.traceparent) if taken.traceparent else None
    return match[1] if match else ""


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)


def _tokens(usage: Usage | None) -> Tokens | None:
    if usage is None:
        return None
    return Tokens(
        usage.input_tokens,
        usage.output_tokens,
        usage.cache_read_tokens,
        usage.cache_write_tokens,
        usage.reasoning_tokens,
        usage.estimated,
    )


def _money(cost: Cost | None, discount: float) -> Money | None:
    if cost is None:
        return None
    total = cost.total
    billed = total if not discount else round(total * (1 - discount))
    return Money(cost.input, cost.output, cost.cache_read, cost.cache_write, total, billed)
