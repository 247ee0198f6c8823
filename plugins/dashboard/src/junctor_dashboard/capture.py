"""What is taken of an exchange when it ends: references only, since this is in every request's path.

Requests and errors themselves are not kept: they hold bodies, and tracebacks hold the frames with them.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

from junctor import GatewayError, ProviderError
from junctor.outcome import outcome_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from junctor import Client, Exchange, Response, Target, Usage
    from junctor.prices import Cost

__all__ = ["AttemptTaken", "Taken", "take"]


class AttemptTaken(NamedTuple):
    """An attempt without its error's frames. Times are `time.monotonic()` seconds."""

    target: Target
    started: float
    first_byte: float
    ended: float
    error: tuple[str, str] | None
    usage: Usage | None
    cost: Cost | None
    abandoned: bool
    of: str


class Taken(NamedTuple):
    """What the story of an exchange is made of."""

    id: str
    started_at: float
    started: float
    first_byte: float
    ended: float
    client: Client
    model: str
    operation: str
    stream: bool
    purpose: str
    outcome: str
    status: int
    error: tuple[str, str] | None
    target: Target | None
    usage: Usage | None
    finish_reason: str | None
    attempts: Sequence[AttemptTaken]
    facts: Mapping[str, Any]
    timings: Mapping[tuple[str, str], float]


def take(exchange: Exchange, response: Response | None, error: BaseException | None) -> Taken:
    """Take an exchange apart, in a few microseconds."""
    request = exchange.request
    target = usage = finish = None
    error = exchange.as_told(error)
    outcome, status = outcome_of(response, error)
    if response is not None:
        target, usage, finish = response.target, response.usage, response.finish_reason
    return Taken(
        exchange.id,
        exchange.started_at,
        exchange.started,
        exchange.first_byte,
        time.monotonic(),
        exchange.client,
        request.model,
        request.operation,
        request.stream,
        exchange.purpose,
        outcome,
        status,
        None if error is None else _error_of(error),
        target,
        usage,
        finish,
        [
            AttemptTaken(
                a.target,
                a.started,
                a.first_byte,
                a.ended,
                None if a.error is None else _error_of(a.error),
                a.usage,
                a.cost,
                a.abandoned,
                a.of,
            )
            for a in exchange.attempts
        ],
        exchange.facts,
        exchange.timings,
    )


def _error_of(error: BaseException) -> tuple[str, str]:
    """Kind and message. What is not the gateway's own may quote anything: its type is enough."""
    if isinstance(error, ProviderError):
        return error.kind.value, error.message
    if isinstance(error, GatewayError):
        return error.code or type(error).__name__, error.message
    return type(error).__name__, ""
