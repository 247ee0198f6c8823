"""The exposition over HTTP: at a path of the gateway or of a port of its own."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from junctor.server import AdminRoute
from starlette.responses import Response
from starlette.routing import Route

from junctor_metrics.exposition import render

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from junctor.settings import Settings
    from starlette.requests import Request

    from junctor_metrics.counts import Series
    from junctor_metrics.settings import MetricsSettings

__all__ = ["guarded", "metrics_route"]

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
