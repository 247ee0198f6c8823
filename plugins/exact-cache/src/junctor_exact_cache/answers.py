"""Entries and flights as answers to a client, and answers as entries."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any

from junctor import Response, Stream, jsons

from junctor_exact_cache.entry import Entry, compress

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from junctor import Exchange

    from junctor_exact_cache.control import Control
    from junctor_exact_cache.flight import Flight, Seat
    from junctor_exact_cache.keys import Key
    from junctor_exact_cache.settings import ExactCacheSettings

__all__ = ["from_entry", "from_flight", "storable", "to_entry"]

# How each wire says that the model was done. `length`, `content_filter` and their like are not here.
_DONE = frozenset({"stop", "end_turn", "stop_sequence", "STOP", "completed"})
_CALLED = frozenset({"tool_calls", "function_call", "tool_use"})
# Within a JSON text a quote is escaped, so these are fields and never what somebody wrote.
_CALLS = re.compile(rb'"(?:tool_calls|function_call|functionCall)"\s*:\s*(?:\[\s*)?\{|"type"\s*:\s*"tool_use"')
_REFUSAL = re.compile(rb'"refusal"\s*:\s*"')


async def _once(part: bytes) -> AsyncIterator[bytes]:
    yield part


def _form(exchange: Exchange, response: Response, answer: bytes, form: str) -> Response:
    """The answer in the form that this client asked for."""
    request = exchange.request
    if request.stream:
        events = answer if form == "stream" else request.wire.to_stream(request, answer)
        response.stream = Stream(_once(events), request.wire.reader(request))
        return response
    response.body = answer if form == "whole" else request.wire.to_whole(request, answer)
    return response


async def from_entry(exchange: Exchange, entry: Entry, *, age: int) -> Response:
    """The stored answer, in the client's form; `age` in seconds."""
    target = next((target for target in exchange.targets if target.name == entry.target), None)
    response = Response(
        usage=entry.usage, finish_reason=entry.finish_reason, model=entry.version, cached="exact", target=target
    )
    response.headers = {"x-junctor-cache-entry": entry.id, "age": str(age)}
    if entry.form == "whole":
        response.content_type = entry.content_type
    return _form(exchange, response, await entry.body(), entry.form)


async def from_flight(exchange: Exchange, flight: Flight, seat: Seat) -> Response | None:
    """The answer that is on its way, in the client's form. None if it failed before this client had anything of it."""
    leading = flight.response
    assert leading is not None
    request = exchange.request
    response = Response(target=leading.target, cached="exact", headers={"age": "0"})
    if leading.stream is not None and request.stream:
        response.stream = Stream(flight.follow(seat), request.wire.reader(request))
        response.stream.on_close(seat.leave)
        return response
    form, answer = "whole", leading.body
    if leading.stream is not None:
        recorded = flight.recorded if await flight.landed() else None
        if recorded is None:
            return None
        form, answer = "stream", recorded
        reader = leading.stream.reader
        response.usage, response.finish_reason, response.model = reader.usage, reader.finish_reason, reader.model
    else:
        response.usage, response.finish_reason, response.model = leading.usage, leading.finish_reason, leading.model
        response.content_type = leading.content_type
    return _form(exchange, response, answer, form)


def storable(exchange: Exchange, response: Response, answer: bytes, settings: ExactCacheSettings) -> bool:
    """Whether the answer is complete, and of a kind that is kept; one that two targets pieced together is not."""
    if "continued" in exchange.facts:
        return False
    if settings.targets == "first" and _target_of(response) != (exchange.targets[0].name if exchange.targets else ""):
        return False  # a fallback answered in its place
    if response.status != 200 or not 0 < len(answer) <= settings.max_entry:
        return False
    if exchange.request.operation == "embeddings":
        return True
    allowed = _DONE | _CALLED if settings.tool_calls else _DONE
    if response.finish_reason not in allowed or _REFUSAL.search(answer):
        return False
    if not settings.tool_calls and _CALLS.search(answer):
        return False
    return not _several(exchange.request.body) or _all_done(exchange, response, answer, allowed)


def _target_of(response: Response) -> str:
    return response.target.name if response.target is not None else ""


def _several(body: dict[str, Any]) -> bool:
    return any(body.get(name, 1) not in (1, None) for name in ("n", "best_of", "candidateCount", "generationConfig"))


def _all_done(exchange: Exchange, response: Response, answer: bytes, allowed: frozenset[str]) -> bool:
    """With several choices each must be complete; the finish reason that the core knows is of one of them."""
    request = exchange.request
    try:
        whole = jsons.loads(answer if response.stream is None else request.wire.to_whole(request, answer))
        choices = whole.get("choices") or whole.get("candidates") or ()
        return all((choice.get("finish_reason") or choice.get("finishReason")) in allowed for choice in choices)
    except (ValueError, AttributeError):
        return False


async def to_entry(
    exchange: Exchange,
    response: Response,
    answer: bytes,
    *,
    key: Key,
    control: Control,
    ttl: float,
    settings: ExactCacheSettings,
) -> Entry:
    """The answer as it is kept for `ttl` seconds."""
    now = time.time()
    kept, packed = await compress(answer, above=settings.compress_above)
    return Entry(
        id=key.id,
        scope=key.scope,
        team=exchange.client.team,
        model=exchange.request.model,
        target=_target_of(response),
        version=response.model,
        template=key.template,
        tags=control.tags,
        created=now,
        expires=now + ttl,
        form="whole" if response.stream is None else "stream",
        finish_reason=response.finish_reason,
        usage=response.usage,
        saved=response.cost.total if response.cost is not None else None,
        content_type=response.content_type,
        answer=kept,
        packed=packed,
    )
