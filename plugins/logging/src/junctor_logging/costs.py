"""What the ledger says about money and tokens: sums of its lines, by whatever they are attributed to."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from sqlalchemy import BigInteger, case, cast, func, select
from sqlalchemy.dialects.postgresql import JSONB

from junctor_logging.tables import lines

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy import ColumnElement, Connection

__all__ = ["DIMENSIONS", "Question", "dollars", "parse_time", "report"]

_NAMES = (
    *("team", "project", "feature", "key", "client", "end_user", "model", "provider", "target", "provider_key"),
    *("answered_model", "purpose", "kind", "outcome"),
)
_BUCKETS = {"hour": 3_600_000, "day": 86_400_000, "month": 86_400_000}
DIMENSIONS = (*_NAMES, *_BUCKETS, "tag:NAME")
"""What a report can be grouped by."""

_FIGURES = (
    *("requests", "attempts", "input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens"),
    *("reasoning_tokens", "cost", "billed", "saved", "unpriced", "abandoned", "estimated"),
)
_SPAN = re.compile(r"(\d+(?:\.\d+)?)(m|h|d|w)")
_SECONDS = {"m": 60, "h": 3600, "d": 86400, "w": 604800}


@dataclass(frozen=True, slots=True)
class Question:
    """What a report is about. `since` and `until` are milliseconds since the epoch; `where` wants equal values."""

    by: Sequence[str] = ("team",)
    since: int = 0
    until: int = 1 << 62
    where: Mapping[str, str] = field(default_factory=dict)
    limit: int = 100_000

    def __post_init__(self) -> None:
        for name in (*self.by, *self.where):
            if name not in DIMENSIONS and not name.startswith("tag:"):
                raise ValueError(f"'{name}' is not known; there is {', '.join(DIMENSIONS)}")


def parse_time(text: str, *, now: float | None = None) -> int:
    """Milliseconds since the epoch from `7d` (so long ago), a date, or a time in ISO 8601; UTC if nothing is said."""
    match = _SPAN.fullmatch(text.strip())
    if match is not None:
        return int(((time.time() if now is None else now) - float(match[1]) * _SECONDS[match[2]]) * 1000)
    try:
        given = datetime.fromisoformat(text.strip())
    except ValueError:
        raise ValueError(f"'{text}' is not a time; write for example 7d, 2026-01-31 or 2026-01-31T12:00") from None
    return int((given if given.tzinfo else given.replace(tzinfo=UTC)).timestamp() * 1000)


def report(connection: Connection, question: Question) -> dict[str, Any]:
    """Rows and a total, money in integer nano-dollars, and the targets that lack a price.

    `cost` is at list price as the core counted it, which is what budgets are held to; `billed` is after discounts.
    """
    c = lines.c
    attempts = func.sum(case((c.kind.in_(("cache", "none")), 0), else_=1))
    counted = [func.sum(c.requests), attempts, *(func.sum(c[name]) for name in _FIGURES[2:])]
    groups = [_column(name, connection.dialect.name) for name in question.by]
    statement = select(*groups, *counted).where(*_conditions(question, connection.dialect.name)).group_by(*groups)
    found: dict[tuple[Any, ...], list[int]] = {}
    for row in connection.execute(statement.limit(question.limit)):
        key = tuple(map(_shown, question.by, row))
        into = found.setdefault(key, [0] * len(_FIGURES))
        for place, value in enumerate(row[len(groups) :]):
            into[place] += int(value or 0)
    rows = [dict(zip(question.by, key, strict=True)) | _named(found[key]) for key in sorted(found)]
    total = [sum(values[place] for values in found.values()) for place in range(len(_FIGURES))]
    return {
        "by": list(question.by),
        "since": _iso(question.since),
        "until": _iso(min(question.until, int(time.time() * 1000))),
        "currency": "USD",
        "unit": "nano-dollars",
        "rows": rows,
        "total": _named(total),
        "unpriced_targets": _unpriced(connection, question),
    }


def _unpriced(connection: Connection, question: Question) -> list[dict[str, Any]]:
    c = lines.c
    statement = (
        select(c.target, func.count(), func.sum(c.input_tokens), func.sum(c.output_tokens))
        .where(c.unpriced == 1, *_conditions(question, connection.dialect.name))
        .group_by(c.target)
        .order_by(c.target)
    )
    return [
        {"target": target, "attempts": int(count), "input_tokens": int(sent), "output_tokens": int(got)}
        for target, count, sent, got in connection.execute(statement)
    ]


def _conditions(question: Question, dialect: str) -> list[ColumnElement[bool]]:
    found = [lines.c.time >= question.since, lines.c.time < question.until]
    return found + [_column(name, dialect) == value for name, value in question.where.items()]


def _column(name: str, dialect: str) -> ColumnElement[Any]:
    if name in _BUCKETS:
        width = _BUCKETS[name]
        return cast(lines.c.time - lines.c.time % width, BigInteger).label(name)
    if name.startswith("tag:"):
        key = name.removeprefix("tag:")
        if dialect == "postgresql":
            return func.coalesce(cast(lines.c.tags, JSONB)[key].astext, "").label(name)
        path = '$."' + key.replace('"', "") + '"'
        return func.coalesce(func.json_extract(lines.c.tags, path), "").label(name)
    return lines.c[name].label(name)


def _shown(name: str, value: Any) -> Any:
    if name not in _BUCKETS:
        return value or ""
    return _iso(value, {"hour": "%Y-%m-%dT%H:00Z", "day": "%Y-%m-%d", "month": "%Y-%m"}[name])


def _iso(milliseconds: int, form: str = "%Y-%m-%dT%H:%M:%SZ") -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime(form)


def _named(values: Sequence[int]) -> dict[str, int]:
    return dict(zip(_FIGURES, values, strict=True))


def dollars(nano: int, places: int = 9) -> str:
    """Nano-dollars as an exact decimal number of dollars."""
    return f"{Decimal(nano) / 10**9:.{places}f}"
