"""One model's process: started, watched, restarted with growing pauses, and ended with its owner."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import secrets
import sys
from collections import deque
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from junctor.errors import ErrorKind, ProviderError, TargetUnavailable

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import Callable

__all__ = ["Engine", "Options"]

_log = logging.getLogger("junctor.local")
_SERVER = Path(__file__).with_name("server.py")
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0  # seconds before a restart
_STABLE = 60.0  # seconds of life after which a death is the first one again
_STRIKES = 3  # health checks in a row that fail before the process is ended


@dataclass(frozen=True, kw_only=True)
class Options:
    """How the process is run. `context` is tokens for one request; times are seconds."""

    parallel: int
    queue: int
    context: int
    max_tokens: int
    threads: int
    embeddings: bool
    pooling: str
    template: str
    start_timeout: float
    health_interval: float


class _DeadError(Exception):
    """The process is gone, or never came; the message says why."""


class Engine:
    """llama.cpp's server with one model, in a process of its own.

    `find` tells the file when the process starts; it may raise `TargetUnavailable`. No more than `options.parallel`
    requests run at a time and no more than `options.queue` wait: the engine's own queue has no limit.
    """

    def __init__(self, name: str, find: Callable[[], Path], options: Options) -> None:
        self.name = name
        self.api_key = secrets.token_urlsafe(24)
        self.starts = 0
        self._find, self._options = find, options
        self._places = asyncio.Semaphore(options.parallel)
        self._waiting = 0
        self._supervisor: asyncio.Task[None] | None = None
        self._closed = False
        self._up: asyncio.Future[str] | None = None  # resolves to the address; replaced with every start
        self._restart_at: float | None = None
        self._reason = ""
        self._process: Process | None = None
        self._said: deque[str] = deque(maxlen=5)

    @property
    def pid(self) -> int | None:
        """The process that runs now, if one does."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    async def enter(self) -> str:
        """Wait for the process and for a free place; return the base address. `leave` gives the place back.

        Raises `TargetUnavailable` with the time until the restart while the process is down, and `ProviderError`
        (overloaded) when too many wait already.
        """
        if self._places.locked() and self._waiting >= self._options.queue:
            message = f"local/{self.name}: {self._waiting} requests are waiting already"
            raise ProviderError(message, kind=ErrorKind.OVERLOADED, retry_after=1.0, sent=False)
        self._waiting += 1
        try:
            await self._places.acquire()
        finally:
            self._waiting -= 1
        try:
            return await self.address()
        except BaseException:
            self.leave()
            raise

    def leave(self) -> None:
        """Give the place back."""
        self._places.release()

    async def address(self) -> str:
        """The base address up to and with `/v1`; the first to ask starts the process, all wait until it is loaded."""
        if self._closed:
            raise TargetUnavailable(f"local/{self.name} is being stopped")
        if self._supervisor is None:
            self._up = asyncio.get_running_loop().create_future()
            self._supervisor = asyncio.create_task(self._supervise(), name=f"local/{self.name}")
        if self._restart_at is not None or self._up is None:
            wait = max(0.1, (self._restart_at or 0.0) - asyncio.get_running_loop().time())
            raise TargetUnavailable(f"local/{self.name} is not running: {self._reason}", retry_after=wait)
        return await asyncio.shield(self._up)

    async def aclose(self) -> None:
        """End the process and everything that watches it."""
        self._closed = True
        supervisor, self._supervisor = self._supervisor, None
        if supervisor is not None:
            supervisor.cancel()
            await asyncio.wait([supervisor])

    async def _supervise(self) -> None:
        loop = asyncio.get_running_loop()
        pause = _FIRST_PAUSE
        try:
            while True:
                began = loop.time()
                self._reason = await self._live()
                pause = _FIRST_PAUSE if loop.time() - began > _STABLE else pause
                _log.error("local/%s is down, restart in %.1f s: %s", self.name, pause, self._reason)
                self._restart_at = loop.time() + pause
                self._fail(TargetUnavailable(f"local/{self.name} is not running: {self._reason}", retry_after=pause))
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)
                self._up, self._restart_at = loop.create_future(), None
        finally:
            self._fail(TargetUnavailable(f"local/{self.name} is being stopped"))
            self._up = None

    def _fail(self, error: TargetUnavailable) -> None:
        if self._up is not None and not self._up.done():
            self._up.set_exception(error)
            self._up.exception()  # nobody may be waiting; that is no fault

    async def _live(self) -> str:
        """One life of the process; returns why it ended."""
        self._said.clear()
        listening: asyncio.Task[None] | None = None
        try:
            self._process = process = await self._spawn()
            listening = asyncio.create_task(self._listen(process))
            port = await self._greet(process)
            if self._up is not None:
                self._up.set_result(f"http://127.0.0.1:{port}/v1")
            await self._watch(process, port)
        except (_DeadError, TargetUnavailable, OSError, ValueError) as error:  # ValueError: it does not speak JSON
            return str(error)
        finally:
            if self._process is not None:
                await asyncio.shield(_end(self._process))
            if listening is not None:
                await listening
        return "unreachable: a watch ends with an error"

    async def _spawn(self) -> Process:
        settings = {key: value for key, value in asdict(self._options).items() if isinstance(value, int | str)}
        settings |= {"name": self.name, "model": str(self._find()), "api_key": self.api_key, "parent": os.getpid()}
        self.starts += 1
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", str(_SERVER), stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True
        )
        if process.stdin is not None:  # it stays open: its end is the child's sign to go
            process.stdin.write(json.dumps(settings).encode() + b"\n")
        return process

    async def _greet(self, process: Process) -> int:
        """Wait until the model is loaded; return the port."""
        assert process.stdout is not None  # a pipe was asked for
        try:
            async with asyncio.timeout(self._options.start_timeout):
                line = await process.stdout.readline()
        except TimeoutError:
            raise _DeadError(f"not loaded within {self._options.start_timeout:g} s") from None
        answer = json.loads(line) if line else {"error": f"ended at start ({await self._last_words(process)})"}
        if "port" not in answer:
            raise _DeadError(answer["error"])
        return int(answer["port"])

    async def _watch(self, process: Process, port: int) -> None:
        """Return never; raise when the process ends, or does not answer its health check."""
        strikes = 0
        while strikes < _STRIKES:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._options.health_interval):
                    await process.wait()
                raise _DeadError(await self._last_words(process))
            strikes = 0 if await _healthy(port, self._options.health_interval) else strikes + 1
        raise _DeadError(f"{strikes} health checks in a row had no answer")

    async def _last_words(self, process: Process) -> str:
        code = await process.wait()
        await asyncio.sleep(0)  # let the listener take what is left
        return "; ".join([f"exit status {code}", *self._said])

    async def _listen(self, process: Process) -> None:
        assert process.stderr is not None  # a pipe was asked for
        while line := await _line(process.stderr):
            if text := line.decode(errors="replace").strip():
                self._said.append(text[:300])
                _log.warning("local/%s: %s", self.name, text)


async def _line(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readline()
    except ValueError:  # longer than the reader's limit: that much of it is dropped
        return b"(a line too long to show)\n"


async def _healthy(port: int, seconds: float) -> bool:
    """Ask `/health` over a connection of its own, so that a full pool cannot make a healthy process look ill."""
    try:
        async with asyncio.timeout(seconds):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
                return b" 200 " in await reader.readline()
            finally:
                writer.close()
    except (TimeoutError, OSError):
        return False


async def _end(process: Process) -> None:
    """At once: the process keeps nothing that could be lost."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    await process.wait()
