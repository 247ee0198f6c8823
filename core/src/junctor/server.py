"""Starlette: HTTP in, HTTP out, nothing more. Pure ASGI."""

from __future__ import annotations

import asyncio
import hmac
import logging
import math
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

from starlette.exceptions import HTTPException
from starlette.routing import Route, Router

from junctor import jsons
from junctor.errors import GatewayError, NotFound, PayloadTooLarge, PluginFailed
from junctor.exchange import Request, Response
from junctor.wire import OPENAI

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping

    from pydantic import SecretStr
    from starlette.routing import BaseRoute
    from starlette.types import Receive, Scope, Send

    from junctor.exchange import Exchange
    from junctor.gateway import Gateway
    from junctor.stream import Stream
    from junctor.wire import Wire

__all__ = ["AdminRoute", "App", "Endpoint"]

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
        answer: Callable[[Exchange], Response] | None = None,
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
        sender = _Sender(self._wire, send, wanted, self._limits.keep_alive_comment)
        try:
            if scope["method"] != self._method:
                raise _wrong_method(scope, self._method)
            request = await self._request(scope, headers, receive)
        except _Disconnected:
            return
        except GatewayError as error:
            await sender.error(error)
            return
        exchange = self._gateway.exchange(request, id=sender.request_id)
        sender.request_id = exchange.id
        await self._run(exchange, receive, sender)

    async def _request(self, scope: Scope, headers: Mapping[str, str], receive: Receive) -> Request:
        if self._method == "GET":
            return Request(self._wire, self._operation, dict(scope["path_params"]), headers=headers, path=scope["path"])
        body = await _read_body(headers, receive, self._limits.max_body)
        request = self._wire.parse(self._operation, body, headers, max_depth=self._limits.max_depth)
        request.path = scope["path"]
        return request

    async def _run(self, exchange: Exchange, receive: Receive, sender: _Sender) -> None:
        watch = _Watch(exchange, receive)
        self.running.add(exchange)
        try:
            await self._gateway.pipeline.run(exchange, sender.respond, self._answer)
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


class _Sender:
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


class AdminRoute(Route):
    """A path for the operator: `Authorization: Bearer` with the key of `admin.key`, compared in constant time.

    `key` replaces that one for this path. With neither, the path is not there.
    """

    def __init__(
        self, path: str, endpoint: Callable[..., Any], *, key: SecretStr | None = None, **options: Any
    ) -> None:
        super().__init__(path, endpoint, **options)
        self.key = key

    def guard(self, default: SecretStr | None) -> bool:
        """Put the lock on; False if there is no key for it."""
        key = self.key or default
        if key is not None:
            self.app = _Admin(self.app, key.get_secret_value())
        return key is not None


class _Noted:
    """Keeps the task of every request to a plugin's own path where the server finds it."""

    def __init__(self, app: Any, tasks: set[asyncio.Task[Any]]) -> None:
        self._app = app
        self._tasks = tasks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._app(scope, receive, send)
        except asyncio.CancelledError:
            task.uncancel()
            with suppress(RuntimeError):  # nothing was sent yet
                await send({"type": "http.response.body", "body": b""})
        finally:
            self._tasks.discard(task)


class _Admin:
    """Guards an admin path."""

    def __init__(self, app: Any, key: str) -> None:
        self._app = app
        self._key = key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() != b"bearer" or not hmac.compare_digest(token.strip(), self._key):
            raise GatewayError(
                "the admin key is missing or wrong",
                status_code=401,
                type="authentication_error",
                code="invalid_admin_key",
                headers={"www-authenticate": "Bearer"},
            )
        await self._app(scope, receive, send)


class App:
    """The application of one gateway, and what runs in it. `ready` turns false when the server is going down."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.ready = True
        self._others: set[asyncio.Task[Any]] = set()
        routes = [
            self._route("/v1/chat/completions", "chat"),
            self._route("/v1/embeddings", "embeddings"),
            self._route("/v1/completions", "completions"),
            Route("/v1/models", Endpoint(gateway, OPENAI, "models", method="GET", answer=self._models)),
            Route("/v1/models/{id:path}", Endpoint(gateway, OPENAI, "models", method="GET", answer=self._models)),
            Route("/health/live", _Health(lambda: True)),
            Route("/health/ready", _Health(lambda: self.ready)),
            *self._contributed(),
        ]
        endpoints = [route.endpoint for route in routes if isinstance(route, Route)]
        self._endpoints = [endpoint for endpoint in endpoints if isinstance(endpoint, Endpoint)]
        self._router = Router(routes=routes, redirect_slashes=False, default=_no_such_path)

    def _route(self, path: str, operation: str) -> Route:
        return Route(path, Endpoint(self.gateway, OPENAI, operation))

    def _contributed(self) -> list[BaseRoute]:
        key = self.gateway.settings.admin.key
        routes: list[BaseRoute] = []
        for implementation in reversed(self.gateway.plugins.manager.hook.http_routes.get_hookimpls()):
            contributed = cast("Iterable[BaseRoute]", implementation.function())
            routes += [route for route in contributed if not isinstance(route, AdminRoute) or route.guard(key)]
        for route in routes:
            if isinstance(route, Route) and not isinstance(route.endpoint, Endpoint):
                route.app = _Noted(route.app, self._others)
        return routes

    def _models(self, exchange: Exchange) -> Response:
        allowed = exchange.client.models
        names = [name for name in self.gateway.models if allowed is None or name in allowed]
        wanted = exchange.request.body.get("id")
        if wanted is None:
            return Response(jsons.dumps({"object": "list", "data": [_model(name) for name in names]}))
        if wanted not in names:
            raise NotFound(f"the model '{wanted}' does not exist", code="model_not_found", param="model")
        return Response(jsons.dumps(_model(wanted)))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"{scope['type']} is not served here")
        try:
            await self._router(scope, receive, send)
        except (GatewayError, HTTPException) as error:
            await _Sender(OPENAI, send).error(_as_gateway_error(error))

    @property
    def running(self) -> int:
        """Requests that have not ended."""
        return sum(len(endpoint.running) for endpoint in self._endpoints) + len(self._others)

    def end_others(self) -> None:
        """End what plugins serve at their own paths: an event stream for a page would never end by itself."""
        for task in self._others:
            task.cancel()

    def end_exchanges(self) -> None:
        """End every exchange with an error that says why; the grace is over."""
        for exchange in [exchange for endpoint in self._endpoints for exchange in endpoint.running]:
            exchange.end(PluginFailed("the gateway is shutting down", code="shutting_down", retry_after=1.0))


def _as_gateway_error(error: GatewayError | HTTPException) -> GatewayError:
    if isinstance(error, GatewayError):
        return error
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "error")
    return GatewayError(
        error.detail, status_code=error.status_code, type="invalid_request_error", code=code, headers=error.headers
    )


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "junctor"}


class _Health:
    """200 while the question is answered with yes, 503 afterwards."""

    def __init__(self, healthy: Callable[[], bool]) -> None:
        self._healthy = healthy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        healthy = self._healthy()
        body = b'{"status":"ok"}' if healthy else b'{"status":"shutting down"}'
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200 if healthy else 503, "headers": headers})
        await send({"type": "http.response.body", "body": body})


async def _no_such_path(scope: Scope, receive: Receive, send: Send) -> None:
    raise NotFound(f"there is no path {scope['path']}", code="not_found")
