"""A record as rows of the ledger.

Every exchange has at least one line. Each attempt is one, numbered from 1; an answer out of a cache, and an exchange
that never came to an attempt, are line 0. `requests` is 1 on exactly one line of an exchange, so that its sum counts
exchanges, as the sum of `cost` counts money.
"""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from collections.abc import Iterator

    from junctor_logging.record import AttemptLine, Entry

__all__ = ["exchange_row", "line_rows"]

Row = tuple[Any, ...]
_STORY = attrgetter("purpose", "team", "model", "outcome", "status")
_WHOSE = attrgetter("purpose", "team", "project", "feature", "key_id", "client", "end_user")
_WHERE = attrgetter("provider", "target", "key_id")
_TOKENS = attrgetter("input", "output", "cache_read", "cache_write", "reasoning")
_MONEY = attrgetter("total", "billed", "input", "output", "cache_read", "cache_write")
_NO_TOKENS = (0, 0, 0, 0, 0)
_NO_MONEY = (None, None, 0, 0, 0, 0)


def exchange_row(entry: Entry) -> Row:
    """For the table `exchanges`. Times are milliseconds since the epoch."""
    brief = entry.brief
    return (brief.record, brief.id, entry.at, *_STORY(brief), entry.line.decode())


def line_rows(entry: Entry) -> Iterator[Row]:
    """For the table `lines`."""
    brief, at = entry.brief, entry.at
    record, attempts = brief.record, brief.attempts
    tags = orjson.dumps(brief.tags).decode() if brief.tags else None
    whose = (*_WHOSE(brief), tags, brief.model)
    cached = brief.outcome == "cached"
    if cached or not attempts:
        where = (brief.provider, brief.target, "", brief.answered_model, brief.outcome, 0, 0)
        figures = (*_NO_TOKENS, *_NO_MONEY, brief.saved, 0, None)
        yield (record, 0, at, "cache" if cached else "none", 1, *whose, *where, *figures)
    last = 0 if cached else len(attempts)
    for number, attempt in enumerate(attempts, 1):
        requests = 1 if number == last else 0
        yield (record, number, at, attempt.kind, requests, *whose, *_attempt(attempt, brief.answered_model))


def _attempt(attempt: AttemptLine, answered_model: str) -> Row:
    usage, cost, price = attempt.usage, attempt.cost, attempt.price
    if attempt.abandoned:
        model, outcome = "", "abandoned"
    elif attempt.error is None:
        model, outcome = answered_model, "answered"
    else:
        model, outcome = "", "failed"
    return (
        *_WHERE(attempt),
        model,
        outcome,
        1 if attempt.abandoned else 0,
        1 if usage is not None and usage.estimated else 0,
        *(_NO_TOKENS if usage is None else _TOKENS(usage)),
        *(_NO_MONEY if cost is None else _MONEY(cost)),
        0,
        1 if cost is None and usage is not None else 0,
        None if price is None else price.id,
    )
