"""Several processes under one command: a shared listening socket, and a crashed one is replaced."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from typing import TYPE_CHECKING

from junctor import config
from junctor.errors import ConfigError
from junctor.gateway import Gateway

if TYPE_CHECKING:
    import socket

__all__ = ["Workers"]

_log = logging.getLogger("junctor.workers")
_LONGEST_PAUSE = 10.0


class Workers:
    """Starts `count` workers and keeps them running.

    A worker ends by itself when its standard input does, so none outlives this process, however that ends. SIGTERM is
    passed on; a second one kills. SIGHUP is passed on after the file has been checked here.
    """

    def __init__(self, file: str, listener: socket.socket, count: int) -> None:
        self._file = file
        self._listener = listener
        self._count = count
        self._stopping = asyncio.Event()
        self._running: set[asyncio.subprocess.Process] = set()

    async def serve(self) -> int:
        """Serve until stopped; the exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        await asyncio.gather(*(self._keep(number) for number in range(self._count)))
        return 0

    async def _keep(self, number: int) -> None:
        pause = 0.1
        while not self._stopping.is_set():
            started = asyncio.get_running_loop().time()
            worker = await self._start()
            if self._stopping.is_set():
                worker.terminate()
            code = await worker.wait()
            self._running.discard(worker)
            if self._stopping.is_set():
                return
            lived = asyncio.get_running_loop().time() - started
            pause = 0.1 if lived > 10 else min(_LONGEST_PAUSE, pause * 2)
            _log.error("worker %d ended with code %s; the next one starts in %.1f s", number, code, pause)
            try:
                await asyncio.wait_for(self._stopping.wait(), pause)
            except TimeoutError:
                continue

    async def _start(self) -> asyncio.subprocess.Process:
        descriptor = self._listener.fileno()
        arguments = ("-m", "junctor", "serve", "--config", self._file, "--listen-fd", str(descriptor))
        worker = await asyncio.create_subprocess_exec(
            sys.executable, *arguments, stdin=asyncio.subprocess.PIPE, pass_fds=(descriptor,)
        )
        self._running.add(worker)
        return worker

    def _stop(self) -> None:
        second = self._stopping.is_set()
        self._stopping.set()
        for worker in self._running:
            if second:
                worker.kill()
            else:
                worker.terminate()

    def _reload(self) -> None:
        try:
            Gateway(config.read(self._file))
        except ConfigError as error:
            _log.error("the configuration was not reloaded; the old one goes on:\n%s", error)
            return
        for worker in self._running:
            worker.send_signal(signal.SIGHUP)
