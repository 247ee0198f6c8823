"""The record: what is known of one exchange when it is over. Its schema is in `docs/logging.md`, checked by a test.

Times are integer microseconds, sizes bytes, money integer nano-dollars (1e-9 US dollar). Nothing in a record leads back
to it, so all of this is kept from the garbage collector (`gc=False`), which takes its time from the requests.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec
import orjson
from msgspec import NODEFAULT, Struct, field
from msgspec.structs import fields

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


def _written(value: Any) -> Any:
    """A default that stands in the line: only one that is not made anew is left out of it."""
    return field(default_factory=lambda: value)


class Tokens(Struct, gc=False):
    """Tokens as the provider counted them; `input` and `output` are the whole, the others are parts of these."""

    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_write: int = 0
    reasoning: int = 0
    estimated: bool = False


class Money(Struct, gc=False):
    """Nano-dollars at list price, in the parts that a provider bills; `billed` is the total after the discount."""

    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_write: int = 0
    total: int = 0
    billed: int = 0


class Price(Struct, omit_defaults=True, gc=False):
    """The price that was used: nano-dollars per million tokens. `id` is a digest of the rest."""

    id: str
    source: str
    input: int
    output: int
    cache_read: int | None = None
    cache_write: int | None = None
    above_tokens: int | None = None
    discount: float = _written(0.0)


class AttemptLine(Struct, omit_defaults=True, gc=False):
    """One call of one target. `kind` is `first`, `retry` (same target), `fallback` (another one) or `hedge`."""

    target: str = ""
    provider: str = ""
    key_id: str = ""
    kind: str = _written("first")
    started_us: int = 0
    duration_us: int = 0
    first_byte_us: int | None = None
    error: dict[str, Any] | None = None
    abandoned: bool = False
    usage: Tokens | None = None
    cost: Money | None = None
    price: Price | None = None


class Record(Struct, omit_defaults=True, gc=False):
    """One exchange.

    `record` is unique; `id` is the request's id as the client sees it, which a client may choose and repeat. `outcome`
    is `answered`, `cached`, `refused`, `failed`, `cancelled` or `timeout`. `cost` is None if a part of it has no price.
    `content` is None unless the recording of prompts and answers is configured.
    """

    record: str
    id: str
    time: datetime
    schema: int = _written(SCHEMA)
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
    outcome: str = _written("answered")
    status: int = _written(200)
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


class Entry(Struct, gc=False, eq=False):
    """A record on its way: `line` is what is written (JSON, no line end), `at` is milliseconds since the epoch.

    `brief` is the record without what may hold anything: `cache`, `quota`, `route` and `facts` are in the line only,
    `content` stands beside it. `record` and `data` are the whole, read from the line: for those who want it, not speed.
    """

    brief: Record
    line: bytes
    at: int
    content: dict[str, Any] | None = None

    @property
    def key(self) -> str:
        """What makes the record unique."""
        return self.brief.record

    @property
    def id(self) -> str:
        """The request's id, as the client sees it."""
        return self.brief.id

    @property
    def data(self) -> dict[str, Any]:
        """All fields as plain values."""
        given: dict[str, Any] = orjson.loads(self.line)
        data: dict[str, Any] = {**_RECORD, "tags": {}, "timings_us": {}, "facts": {}} | given
        data["attempts"] = [{**_ATTEMPT, **attempt} for attempt in given.get("attempts", ())]
        return data

    @property
    def record(self) -> Record:
        """All fields as an object."""
        return from_line(self.line).brief


def _defaults(kind: type[Struct]) -> dict[str, Any]:
    """Of each field, in their order; None for one that has none. Who uses them makes lists and objects anew."""
    found: dict[str, Any] = {}
    for one in fields(kind):
        if one.default_factory is not NODEFAULT:
            found[one.name] = one.default_factory()
        else:
            found[one.name] = None if one.default is NODEFAULT else one.default
    return found


_RECORD = _defaults(Record)
_ATTEMPT = _defaults(AttemptLine)


def encode(brief: Record, told: dict[str, Any]) -> bytes:
    """A record as its line; `told` are the fields that may hold anything. What is empty is left out."""
    try:
        line = _ENCODER.encode(brief)
    except UnicodeEncodeError:  # a lone surrogate in a client's text
        line = _plain(msgspec.to_builtins(brief))
    kept = {name: value for name, value in told.items() if value}
    return line[:-1] + b"," + _plain(kept)[1:] if kept else line


def _plain(value: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(value, default=_shown, option=orjson.OPT_UTC_Z)
    except TypeError:  # a lone surrogate in a client's text, or a key that is no text
        return orjson.dumps(_without_surrogates(value), default=_shown, option=_ODD)


def _shown(value: object) -> Any:
    """What a plugin left in the facts that is not JSON: shown as text, so that a record is never lost for it."""
    return sorted(map(str, value)) if isinstance(value, (set, frozenset)) else str(value)[:1000]


_ENCODER = msgspec.json.Encoder(enc_hook=_shown)
_ODD = orjson.OPT_UTC_Z | orjson.OPT_NON_STR_KEYS


def _without_surrogates(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {_without_surrogates(key): _without_surrogates(child) for key, child in value.items()}
    return [_without_surrogates(child) for child in value] if isinstance(value, (list, tuple)) else value


def from_line(line: bytes) -> Entry:
    """The entry that was written as this line; raises ValueError for what is none."""
    try:
        record = _made(Record, orjson.loads(line))
        record.time = datetime.fromisoformat(str(record.time))
        record.attempts = [_made(AttemptLine, attempt) for attempt in record.attempts]
        for one in (record, *record.attempts):
            one.usage, one.cost = _made(Tokens, one.usage), _made(Money, one.cost)
        for attempt in record.attempts:
            attempt.price = _made(Price, attempt.price)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a record: {error}") from error
    return Entry(record, line, int(record.time.timestamp() * 1000), record.content)


def _made(kind: Any, data: Any) -> Any:
    """Without a look at the types, and at fields that are not known: what was written is not lost for them."""
    known = kind.__struct_fields__
    return None if data is None else kind(**{name: value for name, value in data.items() if name in known})


def without_content(entry: Entry) -> Entry:
    """The same without prompt and answer."""
    if entry.content is None:
        return entry
    left = {name: value for name, value in orjson.loads(entry.line).items() if name != "content"}
    return from_line(orjson.dumps(left))
