"""A port of a plugin's own, beside the gateway's."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from typing import TYPE_CHECKING, Any, Self

import uvicorn
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Router

from junctor.errors import ConfigError, GatewayError
from junctor.wire import OPENAI

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from starlette.routing import BaseRoute
    from starlette.types import Receive, Scope, Send

__all__ = ["OwnPort", "QuietServer"]


class QuietServer(uvicorn.Server):
    """uvicorn without its signal handlers: the process has its own."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class OwnPort:
    """Serves routes on a port of their own, while the context is entered.

    Workers, and a gateway that replaces another at a reload, share it (SO_REUSEPORT). `setting` names the key of the
    YAML in the `ConfigError` of an address that cannot be had. `port` is the real one, also where 0 was asked for.
    """

    def __init__(self, host: str, port: int, routes: Sequence[BaseRoute], *, setting: str) -> None:
        self._address = (host, port)
        self._setting = setting
        self._router = Router(routes, redirect_slashes=False)
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
            raise ConfigError(f"{self._setting}: {host}:{port}: {error.strerror or error}") from error
        self.port = listener.getsockname()[1]
        options: dict[str, Any] = {"interface": "asgi3", "lifespan": "off", "ws": "none", "log_config": None}
        options |= {"access_log": False, "server_header": False, "proxy_headers": False}
        self._server = QuietServer(uvicorn.Config(self._serve, timeout_graceful_shutdown=5, **options))
        self._running = asyncio.create_task(self._server.serve([listener]))
        plugin, _, key = self._setting.partition(": ")
        logging.getLogger(f"junctor.{plugin}").info("%s is served on http://%s:%d", key, host, self.port)
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
