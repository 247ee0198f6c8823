"""The plugin: counts what has ended, and shows it to Prometheus, to OpenTelemetry and to whoever must be woken."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Self

from junctor import hookimpl
from junctor.own_port import OwnPort
from junctor.server import AdminRoute

from junctor_metrics.alerts import Alerts
from junctor_metrics.counts import Registry, load, merge, observe
from junctor_metrics.observe import Observer
from junctor_metrics.serve import guarded, metrics_route
from junctor_metrics.settings import MetricsSettings
from junctor_metrics.share import Share, folder_of
from junctor_metrics.sources import Sources

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping

    from junctor import Exchange, Gateway, Response
    from starlette.routing import BaseRoute

    from junctor_metrics.counts import Row, Series

__all__ = ["Metrics"]

_log = logging.getLogger("junctor.metrics")
_LAG_EVERY = 0.25


class Metrics:
    """Counts every exchange. List it first: it then sees what all the others did."""

    Settings = MetricsSettings

    def __init__(self, settings: MetricsSettings, gateway: Gateway) -> None:
        self._settings = settings
        self._gateway = gateway
        targets = [target for model in gateway.models.values() for target in model.targets]
        self._known = {"model": list(gateway.models), "target": [target.name for target in targets]}
        caps = {"max_values": settings.max_label_values, "max_series": settings.max_series}
        kept = gateway.kept.get("metrics")
        # Counts go on over a reload: a counter that falls back to nothing is a jump for whoever reads it.
        self.registry: Registry = kept or gateway.kept.setdefault("metrics", Registry(known=self._known, **caps))
        self._sources = Sources(gateway, self.registry)
        self._observer = Observer(self.registry, gateway.models)
        self._alerts = Alerts(settings.alerts, gateway, self.registry, self._counted) if settings.alerts else None
        self._tracer: Any = None
        if settings.opentelemetry is not None:
            from junctor_metrics.tracing import Tracer, begin_hook

            self._tracer = Tracer(settings.opentelemetry, gateway)
            self.pre_route = begin_hook(self._tracer)
        self._share: Share | None = None
        if gateway.settings.server.workers > 1:
            folder = folder_of(settings.directory, os.getppid())
            # Before and after a reload it is the same file, and one hand that writes it.
            self._share = gateway.kept.setdefault(f"metrics in {folder}", Share(folder))
        self._stack = AsyncExitStack()
        self.port = 0

    @hookimpl
    async def post_call(self, exchange: Exchange, response: Response | None, error: BaseException | None) -> None:
        error = exchange.as_told(error)
        self._observer.take(exchange, response, error)
        if self._alerts is not None:
            self._alerts.note(exchange)
        if self._tracer is not None:
            self._tracer.end(exchange, response, error)

    async def figures(self) -> Series:
        """Everything that was counted, by all workers of this server."""
        self._sources.read()
        return await self._summed()

    async def _counted(self) -> Mapping[str, Mapping[tuple[str, ...], Row]]:
        """As `figures`, to be looked at once, and without what others keep up to date."""
        return self.registry.rows if self._share is None else await self._summed()

    async def _summed(self) -> Series:
        return await asyncio.to_thread(self._together, *self.registry.snapshot())

    def _together(self, number: int, snapshot: bytes) -> Series:
        own = load(snapshot)
        if self._share is None:
            return own
        self._share.write(number, snapshot)
        return merge([(True, own), *self._share.others()])

    # What it contributes

    @hookimpl
    def check(self) -> Iterable[str]:
        settings = self._settings
        if settings.path is None or self._gateway.settings.admin.key is not None:
            return
        if settings.admin:
            yield "admin: there is no admin key; set `admin.key`"
        elif guarded(settings, self._gateway.settings):
            yield (
                f"path: {settings.path} would be open to everyone who reaches the address; "
                "set `admin.key`, or `port` to serve it elsewhere, or `admin: false` if that is meant"
            )

    @hookimpl
    def http_routes(self) -> Iterable[BaseRoute]:
        if self._settings.path is not None and self._settings.port is None:
            yield self._route(self._settings.path)

    def _route(self, path: str) -> Any:
        return metrics_route(path, self.figures, admin=guarded(self._settings, self._gateway.settings))

    async def __aenter__(self) -> Self:
        settings = self._settings
        self.registry.configure(settings.max_label_values, settings.max_series, self._known)
        async with AsyncExitStack() as stack:
            if self._share is not None:
                await asyncio.to_thread(self._share.open)
                await stack.enter_async_context(_running(self._tell(self._share)))
            if settings.port is not None and settings.path is not None:
                route = self._route(settings.path)
                if isinstance(route, AdminRoute):
                    route.guard(self._gateway.settings.admin.key)
                own = OwnPort(settings.host, settings.port, [route], setting="metrics: port")
                self.port = (await stack.enter_async_context(own)).port
            if self._tracer is not None:
                await stack.enter_async_context(self._tracer)
            if self._alerts is not None:
                await stack.enter_async_context(self._alerts)
            await stack.enter_async_context(_running(self._lag()))
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()
        if self._share is not None:
            await asyncio.to_thread(self._share.write, *self.registry.snapshot())

    async def _tell(self, share: Share) -> None:
        """Tell the other workers, again and again."""
        while True:
            await asyncio.sleep(self._settings.interval)
            self._sources.read()
            await asyncio.to_thread(share.write, *self.registry.snapshot())

    async def _lag(self) -> None:
        """Measure how late the event loop is."""
        rows = self.registry["junctor_event_loop_lag_seconds"]
        while True:
            due = time.monotonic() + _LAG_EVERY
            await asyncio.sleep(_LAG_EVERY)
            observe(rows[()], rows.metric.bounds, max(0.0, time.monotonic() - due))


@contextlib.asynccontextmanager
async def _running(coroutine: Any) -> AsyncIterator[None]:
    """A task that lives as long as the block; one that fails is told in the log."""
    task = asyncio.create_task(coroutine)
    task.add_done_callback(_tell_failure)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait((task,))


def _tell_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("a task of the metrics has ended", exc_info=error)
