"""The plugin: takes note of every exchange's end, and serves one page."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Self

from junctor import hookimpl
from junctor.secrets import Secrets

from junctor_dashboard.hub import Hub
from junctor_dashboard.ledger import Ledger
from junctor_dashboard.pages import Pages
from junctor_dashboard.session import Sessions
from junctor_dashboard.settings import DashboardSettings
from junctor_dashboard.sources import Sources
from junctor_dashboard.traffic import Traffic

if TYPE_CHECKING:
    from collections.abc import Iterable

    from junctor import Exchange, Gateway, Response
    from starlette.routing import BaseRoute

__all__ = ["Dashboard"]

_log = logging.getLogger("junctor.dashboard")


class Dashboard:
    """One live page at `/dashboard`: traffic, quotas, costs, targets, caches and the last exchanges."""

    Settings = DashboardSettings
    stage = "observe"

    def __init__(self, settings: DashboardSettings, gateway: Gateway) -> None:
        self._pages: Pages | None = None
        self._traffic = Traffic(Secrets(gateway.config.secrets), recent=settings.recent)
        sources = Sources(gateway)
        self._hub = Hub(self._traffic, sources, gateway.state, workers=gateway.settings.server.workers)
        key = gateway.settings.admin.key
        if key is None:
            return
        sessions = Sessions(
            key.get_secret_value(), gateway.state, lifetime=settings.session, attempts=settings.login_attempts
        )
        self._pages = Pages(
            sessions,
            self._hub,
            self._traffic,
            Ledger(sources),
            secure=settings.secure_cookie,
            watchers=settings.watchers,
        )

    async def __aenter__(self) -> Self:
        if self._pages is None:
            _log.warning("there is no /dashboard without an admin key; set `admin.key`")
        else:
            self._hub.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._hub.aclose()

    @hookimpl
    async def post_call(self, exchange: Exchange, response: Response | None, error: BaseException | None) -> None:
        if self._pages is not None:
            self._traffic.put(exchange, response, error)

    @hookimpl
    def http_routes(self) -> Iterable[BaseRoute]:
        return [] if self._pages is None else self._pages.routes()
