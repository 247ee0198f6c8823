"""One request in, one answer out: whole, in pieces, an error, or an error in the middle of a stream. Pure ASGI."""

from __future__ import annotations

import asyncio
import logging
import math
import re
from contextlib import suppress
from typing import TYPE_CHECKING

from junctor.errors import GatewayError, PayloadTooLarge
from junctor.exchange import Request, Response

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping

    from starlette.types import Receive, Scope, Send

    from junctor.exchange import Exchange
    from junctor.gateway import Gateway
    from junctor.stream import Stream
    from junctor.wire import Wire

    _Answer = Callable[[Exchange], Response]

__all__ = ["Endpoint", "Sender"]

_log = logging.getLogger("junctor.server")
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
_KEEP_ALIVE = b": keep-alive\n\n"


class Endpoint:
    """One operation of one wire at one path, as an ASGI application.

    With `answer` the gateway answers by itself once `pre_route` has let the request pass.
    """

    def __init__(
        self,
        gateway: Gateway,
        wire: Wire,
        operation: str,
        *,
        method: str = "POST",
        answer: _Answer | None = None,
    ) -> None:
        self.running: set[Exchange] = set()
        self._gateway = gateway
        self._wire = wire
        self._operation = operation
        self._method = method
        self._answer = answer
        self._limits = gateway.settings.server

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        if len(headers) != len(scope["headers"]):
            headers = _joined(scope["headers"])
        given = headers.get("x-request-id", "")
        wanted = given if given and _REQUEST_ID.fullmatch(given) else ""
        sender = Sender(self._wire, send, wanted, self._limits.keep_alive_comment)
        if scope["method"] != self._method:
            await sender.error(_wrong_method(scope, self._method))
            return
        answer = self._answer
        try:
            request = await self._request(scope, headers, receive)
        except _Disconnected:
            return
        except GatewayError as error:  # told once it is known who asks: a stranger learns nothing of it
            request, answer = self._unread(scope, headers), _refusal(error)
        exchange = self._gateway.exchange(request, id=sender.request_id)
        sender.request_id = exchange.id
        await self._run(exchange, receive, sender, answer)

    async def _request(self, scope: Scope, headers: Mapping[str, str], receive: Receive) -> Request:
        if self._method == "GET":
            return self._unread(scope, headers)
        body = await _read_body(headers, receive, self._limits.max_body)
        request = self._wire.parse(self._operation, body, headers, max_depth=self._limits.max_depth)
        request.path = scope["path"]
        return request

    def _unread(self, scope: Scope, headers: Mapping[str, str]) -> Request:
        body = dict(scope["path_params"])
        return Request(self._wire, self._operation, body, headers=headers, path=scope["path"], for_model=False)

    async def _run(self, exchange: Exchange, receive: Receive, sender: Sender, answer: _Answer | None) -> None:
        watch = _Watch(exchange, receive)
        self.running.add(exchange)
        try:
            await self._gateway.pipeline.run(exchange, sender.respond, answer)
        except GatewayError as error:
            await sender.error(error, exchange)
        except Exception:  # a fault of ours
            _log.exception("request %s failed", exchange.id)
            message = "the gateway failed; its log has the reason under this request's id"
            await sender.error(GatewayError(message), exchange)
        finally:
            self.running.discard(exchange)
            if watch.stop() is not None:
                await watch.stopped()


class _Watch:
    """Ends the exchange when the client hangs up. It begins after a moment: most short exchanges need none."""

    __slots__ = ("_exchange", "_receive", "_task", "_timer")
    _AFTER = 0.01

    def __init__(self, exchange: Exchange, receive: Receive) -> None:
        self._exchange = exchange
        self._receive = receive
        self._task: asyncio.Task[None] | None = None
        self._timer = asyncio.get_running_loop().call_later(self._AFTER, self._begin)

    def _begin(self) -> None:
        self._task = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if self._exchange.cancel is not None:
            self._exchange.hang_up()

    def stop(self) -> asyncio.Task[None] | None:
        self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
        return self._task

    async def stopped(self) -> None:
        if self._task is not None:
            await asyncio.wait((self._task,))


def _joined(raw: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Headers of which some were sent twice, as RFC 9110 5.3 joins them: no reader may pick one of two credentials."""
    headers: dict[str, str] = {}
    for name, value in raw:
        key, text = name.decode("latin-1"), value.decode("latin-1")
        headers[key] = f"{headers[key]}, {text}" if key in headers else text
    return headers


def _refusal(error: GatewayError) -> _Answer:
    def refuse(_exchange: Exchange) -> Response:
        raise error

    return refuse


class _Disconnected(Exception):
    """The client hung up before its request was whole."""


async def _read_body(headers: Mapping[str, str], receive: Receive, limit: int) -> bytes:
    if headers.get("content-encoding", "identity") != "identity":
        raise GatewayError(
            "compressed request bodies are not taken; send the body as it is",
            status_code=415,
            type="invalid_request_error",
            code="unsupported_encoding",
        )
    declared = headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise _too_large(limit)
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _Disconnected
        part = message.get("body", b"")
        size += len(part)
        if size > limit:
            raise _too_large(limit)
        parts.append(part)
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)


def _too_large(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"the body is larger than {limit} bytes (server.max_body)", headers={"connection": "close"})


def _wrong_method(scope: Scope, allowed: str) -> GatewayError:
    return GatewayError(
        f"{scope['method']} is not allowed here; use {allowed}",
        status_code=405,
        type="invalid_request_error",
        code="method_not_allowed",
        headers={"allow": allowed},
    )


class Sender:
    """Sends one answer, whatever it becomes: whole, in pieces, an error, an error in the middle of a stream."""

    def __init__(self, wire: Wire, send: Send, request_id: str = "", comment: float | None = None) -> None:
        self._wire = wire
        self._send = send
        self._comment = comment
        self._started = False
        self.request_id = request_id

    async def respond(self, exchange: Exchange, response: Response) -> None:
        if response.stream is None:
            body = response.body
            for transform in exchange.transforms:
                body = transform.whole(body)
            await self._whole(response.status, response.content_type, body, _headers(exchange, response))
            return
        headers = _headers(exchange, response)
        headers += ((b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no"))
        await self._start(200, "text/event-stream; charset=utf-8", headers)
        send = self._send
        chunks = aiter(response.stream) if self._comment is None else _with_comments(response.stream, self._comment)
        async for chunk in chunks:
            if not exchange.client_gone:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        exchange.cancel = None
        await send({"type": "http.response.body", "body": b""})

    async def error(self, error: GatewayError, exchange: Exchange | None = None) -> None:
        if exchange is not None and exchange.client_gone:
            return
        if self._started:
            event = self._wire.stream_error(error)
            await self._send({"type": "http.response.body", "body": event})
            return
        headers = dict(error.headers)
        if error.retry_after is not None:
            headers["retry-after"] = str(math.ceil(max(1.0, error.retry_after)))
            headers["retry-after-ms"] = str(math.ceil(max(1.0, error.retry_after * 1000)))
        raw = [] if exchange is None else [h for h in _headers(exchange, None) if h[0].decode() not in headers]
        raw += _encoded(headers)
        await self._whole(error.status_code, "application/json", self._wire.error(error), raw)

    async def _whole(self, status: int, content_type: str, body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
        headers.append((b"content-length", b"%d" % len(body)))
        await self._start(status, content_type, headers)
        await self._send({"type": "http.response.body", "body": body})

    async def _start(self, status: int, content_type: str, headers: list[tuple[bytes, bytes]]) -> None:
        headers.append((b"content-type", content_type.encode("latin-1")))
        if self.request_id:
            headers.append((b"x-request-id", self.request_id.encode("latin-1")))
        self._started = True
        await self._send({"type": "http.response.start", "status": status, "headers": headers})


async def _with_comments(stream: Stream, seconds: float) -> AsyncIterator[bytes]:
    """The stream's chunks, and a comment after every so many seconds of silence."""
    iterator = aiter(stream)
    pending: asyncio.Task[bytes] | None = None
    try:
        while True:
            pending = pending or asyncio.ensure_future(anext(iterator))
            done, _ = await asyncio.wait({pending}, timeout=seconds)
            if not done:
                yield _KEEP_ALIVE
                continue
            task, pending = pending, None
            try:
                yield task.result()
            except StopAsyncIteration:
                return
    finally:
        if pending is not None:
            pending.cancel()
            with suppress(asyncio.CancelledError, StopAsyncIteration, GatewayError):
                await pending


def _headers(exchange: Exchange, response: Response | None) -> list[tuple[bytes, bytes]]:
    """What the answer says about its making; the plugins' headers among it."""
    headers = [(b"x-junctor-overhead-ms", b"%.2f" % (exchange.overhead * 1000))]
    if exchange.attempts:
        headers.append((b"x-junctor-attempts", b"%d" % len(exchange.attempts)))
    if response is not None and response.target is not None:
        headers.append((b"x-junctor-target", response.target.name.encode("latin-1", "replace")))
        if response.stream is None and response.cached is None:
            cost = exchange.cost
            headers.append((b"x-junctor-cost", b"unpriced" if cost is None else b"%.9f" % (cost.total / 1e9)))
    if exchange.headers:
        headers += _encoded(exchange.headers)
    if response is not None and response.headers:
        headers += _encoded(response.headers)
    return headers


def _encoded(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode("latin-1"), value.encode("latin-1", "replace")) for name, value in headers.items()]
