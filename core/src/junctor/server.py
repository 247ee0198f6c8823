"""The application: paths, the operator's guard, health. What happens at a path is in `endpoint`."""

from __future__ import annotations

import asyncio
import hmac
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

from starlette.exceptions import HTTPException
from starlette.routing import Route, Router

from junctor import jsons
from junctor.endpoint import Endpoint, Sender
from junctor.errors import GatewayError, NotFound, PluginFailed
from junctor.exchange import Response
from junctor.wire import OPENAI

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pydantic import SecretStr
    from starlette.routing import BaseRoute
    from starlette.types import Receive, Scope, Send

    from junctor.exchange import Exchange
    from junctor.gateway import Gateway

__all__ = ["AdminRoute", "App", "Endpoint"]


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
            await Sender(OPENAI, send).error(_as_gateway_error(error))

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
