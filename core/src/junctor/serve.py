"""One process that serves: sockets, signals, reload, and an orderly end."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from typing import TYPE_CHECKING, Any

import uvicorn

from junctor import assets, config
from junctor.errors import ConfigError
from junctor.gateway import Gateway
from junctor.own_port import QuietServer
from junctor.secrets import hide_in_log
from junctor.server import App

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

    from starlette.types import Receive, Scope, Send

    from junctor.settings import ServerSettings

__all__ = ["Process", "bind", "prepare", "run"]

_log = logging.getLogger("junctor.serve")
# Seconds. Longer than clients keep a connection (httpx 5, nginx 60, Go 90): whoever closes second has no request reset.
_KEEP_ALIVE = 120
_BACKLOG = 2048


def prepare(file: str) -> Gateway:
    """Read and check the configuration, and fetch what it needs; raises `ConfigError` or `AssetError`."""
    gateway = Gateway(config.read(file))
    for warning in gateway.warnings:
        _log.warning("%s", warning)
    for asset in gateway.assets():
        if assets.path(asset) is None:
            print(f"junctor: fetching '{asset.name}', once", file=sys.stderr)
            assets.fetch(asset, progress=assets.StderrProgress(asset.name))
    return gateway


def bind(settings: ServerSettings) -> socket.socket:
    """The listening socket; raises `ConfigError` if the address cannot be had."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        listener.close()
        reason = error.strerror or str(error)
        message = f"{settings.host}:{settings.port}: {reason}; choose another with --port or `server.port`"
        raise ConfigError(message) from None
    listener.listen(_BACKLOG)
    listener.set_inheritable(True)
    return listener


def run(coroutine: Coroutine[Any, Any, int]) -> int:
    """Run to the end on the fastest event loop that is installed."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(coroutine)
    return uvloop.run(coroutine)


class Process:
    """Serves one configuration file on a listening socket until it is told to stop.

    SIGTERM and SIGINT: not ready at once, no new connections, running exchanges finish within `server.shutdown_grace`,
    plugins are closed, exit code 0; a second signal ends the process at once. SIGHUP reads the file again: what runs
    ends on the old configuration, a bad file changes nothing.
    """

    def __init__(self, file: str, gateway: Gateway, listener: socket.socket) -> None:
        self._file = file
        self._listener = listener
        self._app = App(gateway)
        self._stopping = False
        self._retiring: dict[asyncio.Task[None], App] = {}
        self._reloading: asyncio.Task[None] | None = None
        self._server = QuietServer(
            uvicorn.Config(
                self._serve_current,
                interface="asgi3",
                http="httptools",
                ws="none",
                lifespan="off",
                access_log=False,
                log_config=None,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=_KEEP_ALIVE,
            )
        )

    async def _serve_current(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)

    async def serve(self, *, parent_ends: bool = False) -> int:
        """Serve until stopped; the exit code. With `parent_ends`, the end of standard input stops it as well."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        if parent_ends:
            loop.add_reader(sys.stdin.fileno(), self._parent_ended)
        first = self._app.gateway
        hide_in_log(first.config.secrets)
        await first.__aenter__()
        try:
            _announce(first, self._listener)
            await self._server.serve([self._listener])
        finally:
            await self._close()
        return 0

    def _stop(self) -> None:
        if self._stopping:
            os._exit(1)
        self._stopping = True
        settings = self._app.gateway.settings.server
        _log.info("stopping: %d running requests have %g s", self._app.running, settings.shutdown_grace)
        self._app.ready = False
        self._app.end_others()
        self._server.should_exit = True
        asyncio.get_running_loop().call_later(settings.shutdown_grace, self._grace_over)

    def _grace_over(self) -> None:
        for app in (self._app, *self._retiring.values()):
            app.end_exchanges()

    def _parent_ended(self) -> None:
        asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
        if not self._stopping:
            self._stop()

    def _reload(self) -> None:
        if self._reloading is None or self._reloading.done():
            self._reloading = asyncio.create_task(self._replace())

    async def _replace(self) -> None:
        old = self._app
        try:
            gateway = await asyncio.to_thread(lambda: Gateway(config.read(self._file), previous=old.gateway))
            await gateway.__aenter__()
        except Exception as error:  # a bad file, or a plugin that does not open: nothing changes
            reason = error if isinstance(error, ConfigError) else repr(error)
            _log.error("the configuration was not reloaded; the old one goes on:\n%s", reason)
            return
        if gateway.settings.server != old.gateway.settings.server:
            _log.warning("server.host, port and workers change only with a restart")
        self._app = App(gateway)
        hide_in_log([*gateway.config.secrets, *old.gateway.config.secrets])
        _log.info("the configuration was reloaded from %s", self._file)
        task = asyncio.create_task(_retire(old))
        self._retiring[task] = old
        task.add_done_callback(self._retiring.pop)

    async def _close(self) -> None:
        if self._reloading is not None:
            await self._reloading
        await asyncio.gather(*self._retiring, return_exceptions=True)
        await self._app.gateway.__aexit__(None, None, None)


async def _retire(app: App) -> None:
    """Close a replaced gateway once its last request has ended."""
    app.end_others()
    while app.running:  # noqa: ASYNC110 (a look now and then, off every request's path)
        await asyncio.sleep(0.05)
    await app.gateway.__aexit__(None, None, None)


def _announce(gateway: Gateway, listener: socket.socket) -> None:
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    names: Sequence[str] = [section.name for section in gateway.config.sections]
    _log.info("ready on http://%s:%d/v1", shown, port)
    _log.info("models: %s; plugins: %s", ", ".join(gateway.models) or "none", ", ".join(names) or "none")
