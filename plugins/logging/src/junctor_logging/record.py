"""The record: what is known of one exchange when it is over. Its schema is in `docs/logging.md`, checked by a test.

Times are milliseconds, sizes bytes, money integer nano-dollars (1e-9 US dollar).
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import Any

import orjson

__all__ = ["SCHEMA", "AttemptLine", "Money", "Price", "Record", "Tokens", "decode", "encode"]

SCHEMA = 1
"""Rises when a field changes its meaning or goes away; a new field does not change it."""


@dataclass(slots=True)
class Tokens:
    """Tokens as the provider counted them; `input` and `output` are the whole, the others are parts of these."""

    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_write: int = 0
    reasoning: int = 0
    estimated: bool = False


@dataclass(slots=True)
class Money:
    """Nano-dollars at list price, in the parts that a provider bills; `billed` is the total after the discount."""

    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_write: int = 0
    total: int = 0
    billed: int = 0


@dataclass(slots=True)
class Price:
    """The price that was used: nano-dollars per million tokens. `id` is a digest of the rest."""

    id: str
    source: str
    input: int
    output: int
    cache_read: int | None = None
    cache_write: int | None = None
    above_tokens: int | None = None
    discount: float = 0.0


@dataclass(slots=True)
class AttemptLine:
    """One call of one target. `kind` is `first`, `retry` (same target), `fallback` (another one) or `hedge`."""

    target: str
    provider: str
    key_id: str
    kind: str
    started: float
    duration: float
    first_byte: float | None = None
    error: dict[str, Any] | None = None
    abandoned: bool = False
    usage: Tokens | None = None
    cost: Money | None = None
    price: Price | None = None


@dataclass(slots=True)
class Record:
    """One exchange.

    `record` is unique; `id` is the request's id as the client sees it, which a client may choose and repeat. `outcome`
    is `answered`, `cached`, `refused`, `failed`, `cancelled` or `timeout`. `cost` is None if a part of it has no price.
    `content` is None unless the recording of prompts and answers is configured.
    """

    record: str
    id: str
    time: datetime
    schema: int = SCHEMA
    instance: str = ""
    trace_id: str = ""
    purpose: str = ""
    parent: str = ""
    parent_record: str = ""
    key_id: str = ""
    client: str = ""
    team: str = ""
    project: str = ""
    feature: str = ""
    tier: str = ""
    end_user: str = ""
    tags: dict[str, str] = field(default_factory=dict)
    wire: str = ""
    operation: str = ""
    path: str = ""
    model: str = ""
    stream: bool = False
    outcome: str = "answered"
    status: int = 200
    error: dict[str, Any] | None = None
    cancelled: bool = False
    finish_reason: str = ""
    target: str = ""
    provider: str = ""
    answered_model: str = ""
    duration: float = 0.0
    first_byte: float | None = None
    overhead: float = 0.0
    timings: dict[str, float] = field(default_factory=dict)
    request_bytes: int = 0
    response_bytes: int = 0
    usage: Tokens | None = None
    cost: Money | None = None
    unpriced: bool = False
    saved: int = 0
    cache: dict[str, Any] | None = None
    quota: Any = None
    route: Any = None
    facts: dict[str, Any] = field(default_factory=dict)
    attempts: list[AttemptLine] = field(default_factory=list)
    content: dict[str, Any] | None = None


_OPTIONS = orjson.OPT_UTC_Z | orjson.OPT_NON_STR_KEYS


def _shown(value: object) -> Any:
    """What a plugin left in the facts that is not JSON: shown as text, so that a record is never lost for it."""
    return sorted(map(str, value)) if isinstance(value, (set, frozenset)) else str(value)[:1000]


def encode(record: Record) -> bytes:
    """The record as one line of JSON, without the line end."""
    try:
        return orjson.dumps(record, default=_shown, option=_OPTIONS)
    except TypeError:  # a lone surrogate that a client sent in a name
        return orjson.dumps(_without_surrogates(orjson_safe(record)), default=_shown, option=_OPTIONS)


def orjson_safe(value: Any) -> Any:
    """The record as plain dictionaries and lists."""
    if hasattr(value, "__dataclass_fields__"):
        return {f.name: orjson_safe(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, dict):
        return {str(key): orjson_safe(child) for key, child in value.items()}
    return [orjson_safe(child) for child in value] if isinstance(value, (list, tuple)) else value


def _without_surrogates(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {_without_surrogates(key): _without_surrogates(child) for key, child in value.items()}
    return [_without_surrogates(child) for child in value] if isinstance(value, list) else value


def decode(line: bytes) -> Record:
    """A record from its line; raises ValueError for what is none. Fields of a later version are left out."""
    data = orjson.loads(line)
    try:
        data["time"] = datetime.fromisoformat(data["time"]).astimezone(UTC)
        data["usage"] = _made(Tokens, data.get("usage"))
        data["cost"] = _made(Money, data.get("cost"))
        data["attempts"] = [_attempt(attempt) for attempt in data.get("attempts", ())]
        record: Record = _made(Record, data)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a record: {error}") from error
    return record


def _attempt(data: dict[str, Any]) -> AttemptLine:
    parts = {"usage": Tokens, "cost": Money, "price": Price}
    line: AttemptLine = _made(AttemptLine, data | {key: _made(kind, data.get(key)) for key, kind in parts.items()})
    return line


def _made(kind: Any, data: dict[str, Any] | None) -> Any:
    if data is None:
        return None
    return kind(**{key: value for key, value in data.items() if key in kind.__dataclass_fields__})
