"""The answer that a hit gives, in the client's wire."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from junctor import Response, Stream, Usage

from junctor_semantic_cache.engine import unpack

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from junctor import Exchange

    from junctor_semantic_cache.engine import Lookup

__all__ = ["make_response"]


def make_response(exchange: Exchange, found: Lookup) -> Response:
    """The stored answer, plain or as a stream; the exchange's facts and headers tell of it."""
    entry, request = found.entry, exchange.request
    assert entry is not None
    body = unpack(entry.answer)
    age, similarity = max(0, int(time.time() - entry.created)), found.facts["similarity"]
    headers = {
        "x-junctor-cache": "semantic-hit",
        "x-junctor-cache-similarity": f"{similarity:.4f}",
        "x-junctor-cache-id": entry.id,
        "age": str(age),
    }
    exchange.headers.pop("x-junctor-cache", None)
    exchange.facts["semantic_cache"]["saved"] = entry.cost
    hit = {"status": "hit", "cache": "semantic", "similarity": similarity, "saved": entry.cost}
    exchange.facts["cache"] = {**hit, "entry": entry.id, "age": age}
    reading = request.wire.read(request.operation, body)
    response = Response(headers=headers, cached="semantic", finish_reason=reading.finish_reason, model=reading.model)
    response.usage = Usage(input_tokens=entry.input_tokens, output_tokens=entry.output_tokens)
    if request.stream:
        response.stream = Stream(_once(request.wire.to_stream(request, body)), request.wire.reader(request))
    else:
        response.body = body
    return response


async def _once(events: bytes) -> AsyncIterator[bytes]:
    yield events
