"""The record: what is known of one exchange when it is over. Its schema is in `docs/logging.md`, checked by a test.

Times are integer microseconds, sizes bytes, money integer nano-dollars (1e-9 US dollar).
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass, field, fields
from datetime import datetime
from typing import Any

import orjson

__all__ = [
    "SCHEMA",
    "AttemptLine",
    "Entry",
    "Money",
    "Price",
    "Record",
    "Tokens",
    "encode",
    "from_line",
    "without_content",
]

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

    target: str = ""
    provider: str = ""
    key_id: str = ""
    kind: str = "first"
    started_us: int = 0
    duration_us: int = 0
    first_byte_us: int | None = None
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
    duration_us: int = 0
    first_byte_us: int | None = None
    overhead_us: int = 0
    timings_us: dict[str, int] = field(default_factory=dict)
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


class Entry:
    """A record on its way: `data` has all its fields as plain values, `line` is what is written (JSON, no line end).

    `at` is the time in milliseconds since the epoch. In the line, fields that are empty, zero or false are left out.
    """

    __slots__ = ("at", "data", "line")

    def __init__(self, data: dict[str, Any], line: bytes, at: int) -> None:
        self.data = data
        self.line = line
        self.at = at

    @property
    def key(self) -> str:
        """What makes the record unique."""
        key: str = self.data["record"]
        return key

    @property
    def record(self) -> Record:
        """The same as an object; for sinks that want types and not speed."""
        data = dict(self.data)
        time = data["time"]
        data["time"] = time if isinstance(time, datetime) else datetime.fromisoformat(time)
        data["usage"] = _made(Tokens, data["usage"])
        data["cost"] = _made(Money, data["cost"])
        data["attempts"] = [_attempt(attempt) for attempt in data["attempts"]]
        return Record(**data)


def _attempt(data: dict[str, Any]) -> AttemptLine:
    parts = {"usage": Tokens, "cost": Money, "price": Price}
    return AttemptLine(**data | {key: _made(kind, data[key]) for key, kind in parts.items()})


def _made(kind: Any, data: dict[str, Any] | None) -> Any:
    return None if data is None else kind(**data)


def _defaults(kind: Any) -> dict[str, Any]:
    """Of each field that has one; a list or an object is made anew by whoever uses this."""
    found: dict[str, Any] = {}
    for one in fields(kind):
        if one.default_factory is not MISSING:
            found[one.name] = one.default_factory()
        elif one.default is not MISSING:
            found[one.name] = one.default
    return found


_RECORD = _defaults(Record)
_ATTEMPT = _defaults(AttemptLine)
_OPTIONS = orjson.OPT_UTC_Z
_ODD = orjson.OPT_UTC_Z | orjson.OPT_NON_STR_KEYS


def encode(data: dict[str, Any]) -> bytes:
    """All fields of a record as its line."""
    kept = {name: value for name, value in data.items() if value}
    attempts = data["attempts"]
    if attempts:
        kept["attempts"] = [{name: value for name, value in one.items() if value} for one in attempts]
    try:
        return orjson.dumps(kept, default=_shown, option=_OPTIONS)
    except TypeError:  # a lone surrogate in a client's text, or a key that is no text
        return orjson.dumps(_without_surrogates(kept), default=_shown, option=_ODD)


def _shown(value: object) -> Any:
    """What a plugin left in the facts that is not JSON: shown as text, so that a record is never lost for it."""
    return sorted(map(str, value)) if isinstance(value, (set, frozenset)) else str(value)[:1000]


def _without_surrogates(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {_without_surrogates(key): _without_surrogates(child) for key, child in value.items()}
    return [_without_surrogates(child) for child in value] if isinstance(value, (list, tuple)) else value


def from_line(line: bytes) -> Entry:
    """The entry that was written as this line; raises ValueError for what is none."""
    given = orjson.loads(line)
    try:
        at = int(datetime.fromisoformat(given["time"]).timestamp() * 1000)
        data = {"record": given["record"], "id": "", "time": "", **_RECORD}
        data |= {"tags": {}, "timings_us": {}, "facts": {}} | given
        data["attempts"] = [{**_ATTEMPT, **attempt} for attempt in given.get("attempts", ())]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a record: {error}") from error
    return Entry(data, line, at)


def without_content(entry: Entry) -> Entry:
    """The same without prompt and answer."""
    if entry.data["content"] is None:
        return entry
    data = {**entry.data, "content": None}
    return Entry(data, encode(data), entry.at)
