"""What the request's own path does for the log: take what is wanted, in as little time as possible.

Nothing here is formatted, serialised or written. What is taken holds no body, no answer and no traceback, so a full
queue is small.
"""

from __future__ import annotations

import os
import time
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING, Any

from junctor import GatewayError, ProviderError, Response
from junctor.outcome import outcome_of
from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from junctor import Attempt, Client, Exchange, Target, Usage

    from junctor_logging.content import Content

__all__ = ["Captured", "Capturer"]

_ROOM = "logging"
_SECRET_HEADERS = ("authorization", "x-api-key", "api-key", "x-goog-api-key", "cookie")
_NO_ANSWER = Response()
_Error = dict[str, Any]


class Captured(Struct, gc=False, eq=False):
    """One exchange; times are `time.monotonic()`, but `started_at`. `errors` are those of the attempts, by their place.

    `secrets` are this request's own, to be kept out of its record. Nothing in it leads back to it, so it is none of the
    garbage collector's business, which would look at it several times while it waits.
    """

    record: str
    id: str
    started_at: float
    started: float
    first_byte: float
    ended: float
    purpose: str
    parent: str
    parent_record: str
    client: Client
    wire: str
    operation: str
    path: str
    model: str
    stream: bool
    traceparent: str | None
    request_bytes: int
    response_bytes: int
    outcome: str
    status: int
    error: _Error | None
    target: Target | None
    answered_model: str
    finish_reason: str | None
    cached: str | None
    usage: Usage | None
    attempts: Sequence[Attempt]
    errors: Mapping[int, _Error]
    facts: dict[str, Any]
    timings: dict[tuple[str, str], float]
    secrets: Sequence[str]
    content: Content | None


class Capturer:
    """Takes exchanges apart. One per gateway: it numbers the records, uniquely among all processes."""

    def __init__(self) -> None:
        # Begins with the time, so that a database appends to its index instead of scattering.
        self._prefix = f"{int(time.time() * 1000):012x}{os.urandom(5).hex()}-"
        self._numbers = count(1)

    def record_of(self, exchange: Exchange) -> str:
        """The unique id of the exchange's record. A client may choose and repeat the request's id, but not this one."""
        record: str | None = exchange.state.get(_ROOM)
        if record is None:
            record = exchange.state[_ROOM] = f"{self._prefix}{next(self._numbers):010x}"
        return record

    def take(
        self, exchange: Exchange, response: Response | None, error: BaseException | None, content: Content | None = None
    ) -> Captured:
        """What the record will be made of."""
        request, parent, attempts = exchange.request, exchange.parent, exchange.attempts
        secrets: Sequence[str] = ()
        given = response or _NO_ANSWER
        error = exchange.as_told(error)
        outcome, status = outcome_of(response, error)
        errors = {place: _error_of(a.error) for place, a in enumerate(attempts) if a.error is not None}
        if error is not None or content is not None or errors:
            secrets = _secrets_of(request.headers)
        # An error holds its traceback, and that the frames with the bodies.
        kept = [a if a.error is None else replace(a, error=None) for a in attempts]
        stream = given.stream
        return Captured(
            self.record_of(exchange),
            exchange.id,
            exchange.started_at,
            exchange.started,
            exchange.first_byte,
            time.monotonic(),
            exchange.purpose,
            "" if parent is None else parent.id,
            "" if parent is None else self.record_of(parent),
            exchange.client,
            request.wire.name,
            request.operation,
            request.path,
            request.model,
            request.stream,
            request.headers.get("traceparent"),
            request.size,
            len(given.body) if stream is None else stream.size,
            outcome,
            status,
            None if error is None else _error_of(error),
            given.target,
            given.model,
            given.finish_reason,
            given.cached,
            given.usage,
            kept,
            errors,
            exchange.facts.copy(),
            exchange.timings.copy(),
            secrets,
            content,
        )


def _secrets_of(headers: Mapping[str, str]) -> Sequence[str]:
    found = [headers[name].split(" ")[-1] for name in _SECRET_HEADERS if headers.get(name)]
    return [value for value in found if len(value) >= 8]


def _error_of(error: BaseException) -> _Error:
    if isinstance(error, ProviderError):
        return {
            "type": type(error).__name__,
            "code": error.code,
            "kind": error.kind.value,
            "provider_status": error.provider_status,
            "sent": error.sent,
            "message": error.message,
        }
    if isinstance(error, GatewayError):
        return {"type": type(error).__name__, "code": error.code, "message": error.message}
    # The text of an unexpected error is someone else's, and may quote anything: its type is enough.
    return {"type": type(error).__name__, "code": "internal", "message": ""}
