"""The exposition over HTTP: on the gateway's port or on one of its own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from typing import TYPE_CHECKING, Any, Self

import uvicorn
from junctor import ConfigError, GatewayError
from junctor.server import AdminRoute
from junctor.wire import OPENAI
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Route, Router

from junctor_metrics.exposition import render

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from junctor.settings import Settings
    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

    from junctor_metrics.counts import Series
    from junctor_metrics.settings import MetricsSettings

__all__ = ["OwnPort", "guarded", "metrics_route"]

_log = logging.getLogger("junctor.metrics")
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def guarded(settings: MetricsSettings, server: Settings) -> bool:
    """Whether the admin key is asked for."""
    if settings.admin is not None:
        return settings.admin
    host = server.server.host if settings.port is None else settings.host
    return host not in _LOOPBACK


def metrics_route(path: str, series: Callable[[], Awaitable[Series]], *, admin: bool) -> Route:
    """The path that Prometheus scrapes."""

    async def answer(request: Request) -> Response:
        accept = request.headers.get("accept", "")
        figures = await series()
        body, content_type = await asyncio.to_thread(render, figures, accept)
        return Response(body, headers={"content-type": content_type, "cache-control": "no-store"})

    return (AdminRoute if admin else Route)(path, answer, methods=["GET"])


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: the process has its own."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class OwnPort:
    """A port of its own for one route, while the context is entered. Workers, and a reload, share it (SO_REUSEPORT)."""

    def __init__(self, host: str, port: int, route: Route) -> None:
        self._address = (host, port)
        self._router = Router([route], redirect_slashes=False)
        self._server: Any = None
        self._running: asyncio.Task[None] | None = None
        self.port = 0

    async def __aenter__(self) -> Self:
        host, port = self._address
        listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listener.bind(self._address)
            listener.listen()
        except OSError as error:
            listener.close()
            raise ConfigError(f"metrics: port: {host}:{port}: {error.strerror or error}") from error
        self.port = listener.getsockname()[1]
        options: dict[str, Any] = {"interface": "asgi3", "lifespan": "off", "ws": "none", "log_config": None}
        options |= {"access_log": False, "server_header": False, "proxy_headers": False}
        self._server = _Server(uvicorn.Config(self._serve, timeout_graceful_shutdown=5, **options))
        self._running = asyncio.create_task(self._server.serve([listener]))
        _log.info("metrics are served on http://%s:%d", host, self.port)
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._server.should_exit = True
        if self._running is not None:
            await self._running

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._router(scope, receive, send)
        except HTTPException as error:
            failure = GatewayError(error.detail, status_code=error.status_code, type="invalid_request_error")
            await _error(failure)(scope, receive, send)
        except GatewayError as error:
            await _error(error)(scope, receive, send)


def _error(error: GatewayError) -> Response:
    return Response(OPENAI.error(error), error.status_code, dict(error.headers), "application/json")
