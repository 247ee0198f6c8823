"""A record as rows of the ledger.

Every exchange has at least one line. Each attempt is one, numbered from 1; an answer out of a cache, and an exchange that
never came to an attempt, are line 0. `requests` is 1 on exactly one line of a client's exchange, so that its sum counts
exchanges, as the sum of `cost` counts money.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from collections.abc import Iterator

    from junctor_logging.record import AttemptLine, Record

__all__ = ["exchange_row", "line_rows"]

Row = tuple[Any, ...]


def exchange_row(record: Record, line: bytes) -> Row:
    """For the table `exchanges`. Times are milliseconds since the epoch."""
    return (
        record.record,
        record.id,
        milliseconds(record),
        record.purpose,
        record.team,
        record.model,
        record.outcome,
        record.status,
        line.decode(),
    )


def milliseconds(record: Record) -> int:
    return int(record.time.timestamp() * 1000)


def line_rows(record: Record) -> Iterator[Row]:
    """For the table `lines`."""
    tags = orjson.dumps(record.tags).decode() if record.tags else None
    head = (record.record, milliseconds(record))
    whose = (
        record.purpose,
        record.team,
        record.project,
        record.feature,
        record.key_id,
        record.client,
        record.end_user,
        tags,
        record.model,
    )
    last = len(record.attempts)
    if record.outcome == "cached" or not last:
        kind = "cache" if record.outcome == "cached" else "none"
        yield _line(head, 0, kind, 1, whose, record, None)
        last = 0
    for number, attempt in enumerate(record.attempts, 1):
        yield _line(head, number, attempt.kind, int(number == last), whose, record, attempt)


def _line(
    head: tuple[str, int], number: int, kind: str, requests: int, whose: Row, record: Record, attempt: AttemptLine | None
) -> Row:
    if attempt is None:
        where: Row = (record.provider, record.target, "", record.answered_model, record.outcome, 0, 0)
        return (head[0], number, head[1], kind, requests, *whose, *where, *_NOTHING, record.saved, 0, None)
    answered = attempt.error is None and not attempt.abandoned
    where = (
        attempt.provider,
        attempt.target,
        attempt.key_id,
        record.answered_model if answered else "",
        "answered" if answered else "abandoned" if attempt.abandoned else "failed",
        int(attempt.abandoned),
        int(attempt.usage is not None and attempt.usage.estimated),
    )
    unpriced = int(attempt.usage is not None and attempt.cost is None)
    price = attempt.price.id if attempt.price is not None else None
    figures = _figures(attempt)
    return (head[0], number, head[1], kind, requests, *whose, *where, *figures, 0, unpriced, price)


_NOTHING = (0, 0, 0, 0, 0, None, None, 0, 0, 0, 0)


def _figures(attempt: AttemptLine) -> Row:
    usage, cost = attempt.usage, attempt.cost
    if usage is None:
        return _NOTHING
    tokens = (usage.input, usage.output, usage.cache_read, usage.cache_write, usage.reasoning)
    if cost is None:
        return (*tokens, None, None, 0, 0, 0, 0)
    return (*tokens, cost.total, cost.billed, cost.input, cost.output, cost.cache_read, cost.cache_write)
