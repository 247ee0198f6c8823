"""What may become of a request to a provider: good answers, and the faults that `junctor.faulty_server` plays.

Each is a function that is given the request and the socket. Part of the test kit.
"""

from __future__ import annotations

import asyncio
import gzip
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from junctor.faulty_server import Fault, Reply

__all__ = [
    "FAULTS",
    "answer",
    "broken_gzip",
    "completion",
    "empty",
    "error_event",
    "event",
    "events",
    "half_json",
    "html",
    "large",
    "reset",
    "silence",
    "slow",
    "status",
    "stream_of",
    "trickle",
    "wrong_length",
]

_TEXT = "one two three four five six"
_USAGE = {"prompt_tokens": 9, "completion_tokens": 6, "total_tokens": 15}
_GAP = 0.02  # seconds between what came and what breaks: a reset overtakes what the other side has not read yet
_PIECE = 256 * 1024


def completion(text: str = _TEXT) -> bytes:
    """A whole chat completion."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    head = {"id": "chatcmpl-f", "object": "chat.completion", "created": 1, "model": "faulty"}
    return json.dumps({**head, "choices": [choice], "usage": _USAGE}).encode()


def event(delta: Mapping[str, Any], finish: str | None = None, **more: Any) -> bytes:
    """One event of a streamed chat completion."""
    head = {"id": "chatcmpl-f", "object": "chat.completion.chunk", "created": 1, "model": "faulty"}
    choices = [{"index": 0, "delta": delta, "finish_reason": finish}]
    return b"data: " + json.dumps({**head, "choices": choices, **more}).encode() + b"\n\n"


def events(text: str = _TEXT) -> list[bytes]:
    """A streamed chat completion: role, a word an event, finish, usage, end marker."""
    words = text.split(" ")
    pieces = [word + " " for word in words[:-1]] + words[-1:]
    usage = b"data: " + json.dumps({"id": "chatcmpl-f", "object": "chat.completion.chunk", "created": 1,
                                    "model": "faulty", "choices": [], "usage": _USAGE}).encode() + b"\n\n"  # fmt: skip
    deltas = [event({"role": "assistant", "content": ""}), *(event({"content": piece}) for piece in pieces)]
    return [*deltas, event({}, "stop"), usage, b"data: [DONE]\n\n"]


def answer(text: str = _TEXT, *, delay: float = 0.0, between: float = 0.0) -> Fault:
    """No fault: the text, whole or streamed as it is asked for, after `delay` seconds, `between` events as many."""

    async def act(reply: Reply) -> None:
        if delay:
            await asyncio.sleep(delay)
        if not reply.asked.stream:
            await reply.whole(completion(text))
            return
        await reply.head()
        for number, piece in enumerate(events(text)):
            if number and between:
                await asyncio.sleep(between)
            await reply.chunk(piece)
        await reply.end()

    return act


def stream_of(*pieces: bytes, end: bool = True) -> Fault:
    """These bytes as a stream, a chunk each."""

    async def act(reply: Reply) -> None:
        await reply.head()
        for piece in pieces:
            await reply.chunk(piece)
        await (reply.end() if end else asyncio.sleep(0))

    return act


def status(code: int, *, error: str = "", message: str = "as scripted", **headers: str) -> Fault:
    """An error answer in OpenAI's form, `error` as its code. Headers: `retry_after="2"`."""

    async def act(reply: Reply) -> None:
        body = {"error": {"message": message, "type": "scripted", "param": None, "code": error or None}}
        await reply.whole(json.dumps(body).encode(), code, content_type="application/json", **headers)

    return act


def reset(where: str) -> Fault:
    """A TCP reset: `before_headers`, `after_headers`, `mid_body` (after three events or half the body), `mid_chunk`."""

    async def act(reply: Reply) -> None:
        if where != "before_headers":
            await _part(reply, where)
            await asyncio.sleep(_GAP)
        reply.reset()

    return act


async def _part(reply: Reply, where: str) -> None:
    stream, body = reply.asked.stream, completion()
    await (reply.head() if stream else reply.head(length=len(body)))
    if where == "after_headers":
        return
    if not stream:
        await reply.send(body[: len(body) // 2])
        return
    for piece in events()[:4]:
        await reply.chunk(piece)
    if where == "mid_chunk":
        half = events()[4][:20]
        await reply.send(b"%x\r\n%b" % (len(half) * 3, half))


def silence(*, after: int = 0, seconds: float = 30.0) -> Fault:
    """Nothing for so long: before the first byte, or after so many events (half the body if it is whole)."""

    async def act(reply: Reply) -> None:
        if after:
            await _part(reply, "mid_body")
        await asyncio.sleep(seconds)
        reply.close()

    return act


def slow(seconds: float, text: str = _TEXT) -> Fault:
    """A stream with so many seconds between its events."""
    return answer(text, between=seconds)


def trickle() -> Fault:
    """A good answer, one byte at a time."""

    async def act(reply: Reply) -> None:
        data = b"".join(events()) if reply.asked.stream else completion()
        await reply.head(length=len(data))
        for place in range(len(data)):
            await reply.send(data[place : place + 1])
            if place % 16 == 0:
                await asyncio.sleep(0)

    return act


def _body(make: Callable[[bool], bytes], code: int = 200, **headers: str) -> Fault:
    async def act(reply: Reply) -> None:
        await reply.whole(make(reply.asked.stream), code, **headers)

    return act


def html() -> Fault:
    """A page with status 200, as a captive portal or a load balancer sends it."""
    return _body(lambda stream: b"<!doctype html><title>Welcome</title><h1>It works</h1>", content_type="text/html")


def empty() -> Fault:
    """Status 200 and no body."""
    return _body(lambda stream: b"")


def half_json() -> Fault:
    """A body that ends in the middle of its JSON, with the length that it has."""
    return _body(lambda stream: events()[0][:40] if stream else completion()[:60])


def broken_gzip() -> Fault:
    """A compressed body whose second half is noise."""

    def make(stream: bool) -> bytes:
        packed = gzip.compress(b"".join(events()) if stream else completion())
        return packed[: len(packed) // 2] + b"\0" * 20

    return _body(make, content_encoding="gzip")


def wrong_length(by: int) -> Fault:
    """A `content-length` that is larger (or smaller, if negative) than the body by so many bytes."""

    async def act(reply: Reply) -> None:
        data = b"".join(events()) if reply.asked.stream else completion()
        await reply.head(length=len(data) + by)
        await reply.send(data)
        reply.close()

    return act


def error_event(*, after: int = 0, error: str = "server_error") -> Fault:
    """An `error` with status 200: alone, or in a stream after so many events."""

    async def act(reply: Reply) -> None:
        body = json.dumps({"error": {"message": "as scripted", "type": error, "code": error}}).encode()
        if not reply.asked.stream:
            await reply.whole(body)
            return
        await reply.head()
        for piece in events()[:after]:
            await reply.chunk(piece)
        await asyncio.sleep(_GAP if after else 0)
        await reply.chunk(b"data: " + body + b"\n\n")
        await reply.end()

    return act


def large(size: int = 65 * 1024 * 1024) -> Fault:
    """An answer of so many bytes, all but a few of them in one text."""

    async def act(reply: Reply) -> None:
        await reply.head()
        start = b'data: {"choices":[{"delta":{"content":"' if reply.asked.stream else b'{"choices":[{"text":"'
        await reply.chunk(start)
        filling = b"x" * _PIECE
        for _ in range(size // _PIECE):
            await reply.chunk(filling)
        await reply.chunk(b'"}}]}\n\n' if reply.asked.stream else b'"}]}')
        await reply.end()

    return act


def _plain_or(plain: Fault, stream: Fault) -> Fault:
    async def act(reply: Reply) -> None:
        await (stream if reply.asked.stream else plain)(reply)

    return act


_BAD = b'data: {"choices":[{"index":0,"delta":{"content":"\xff\xfe"},"finish_reason":null}]}\n\n'

FAULTS: Mapping[str, Fault] = {
    "answer": answer(),
    "400": status(400, error="invalid_value"),
    "401": status(401, error="invalid_api_key", message="Incorrect API key provided: sk-secret"),
    "402": status(402),
    "403": status(403),
    "404": status(404, error="model_not_found"),
    "408": status(408),
    "413": status(413),
    "422": status(422, error="invalid_value"),
    "429": status(429, error="rate_limit_exceeded"),
    "429 quota": status(429, error="insufficient_quota"),
    "429 retry-after": status(429, error="rate_limit_exceeded", retry_after="3600"),
    "500": status(500),
    "502 html": _body(lambda stream: b"<h1>Bad Gateway</h1>", 502, content_type="text/html"),
    "503": status(503),
    "529": status(529, error="overloaded_error"),
    "context too long": status(400, error="context_length_exceeded"),
    "content policy": status(400, error="content_policy_violation"),
    "redirect": status(307, location="http://127.0.0.1:9/elsewhere"),
    "reset before headers": reset("before_headers"),
    "reset after headers": reset("after_headers"),
    "reset mid-body": reset("mid_body"),
    "reset mid-chunk": reset("mid_chunk"),
    "silence": silence(),
    "silence between chunks": silence(after=3),
    "one byte at a time": trickle(),
    "html with 200": html(),
    "empty body": empty(),
    "half json": half_json(),
    "length too large": wrong_length(50),
    "length too small": wrong_length(-50),
    "broken gzip": broken_gzip(),
    "error first": error_event(),
    "error after three": error_event(after=3),
    "no done": _plain_or(answer(), stream_of(*events()[:-1])),
    "no finish": _plain_or(answer(), stream_of(*events()[:4])),
    "finish twice": _plain_or(answer(), stream_of(*events()[:-2], *events()[-3:])),
    "bad utf-8": _plain_or(_body(lambda stream: completion("\0").replace(b"\\u0000", b"\xff")), stream_of(_BAD)),
    "64 MB": large(),
}
"""The faults by name, with the parameters that tests mostly want."""
