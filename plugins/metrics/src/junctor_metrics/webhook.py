"""Posts alerts: signed, retried, in order, out of a bounded queue."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import os
import socket
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Self

from junctor import JunctorError, jsons

if TYPE_CHECKING:
    from collections.abc import Callable

    from junctor.http import HTTPClient

    from junctor_metrics.settings import WebhookSettings

__all__ = ["Webhook", "signature"]

_log = logging.getLogger("junctor.alerts")
_LONGEST_PAUSE = 60.0
_LAST_WORDS = 2.0
_AGAIN = frozenset({408, 425, 429})


def signature(secret: bytes, timestamp: str, body: bytes) -> str:
    """What `x-junctor-signature` holds: `v1=` and the HMAC-SHA256 of timestamp, a dot, and the body, in hex."""
    return "v1=" + hmac.new(secret, timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()


class Webhook:
    """Delivers in a task of its own while the context is entered; `lost` is called for each that could not be."""

    def __init__(self, settings: WebhookSettings, http: HTTPClient, lost: Callable[[], None]) -> None:
        self._settings = settings
        self._http = http
        self._lost = lost
        self._instance = socket.gethostname()
        self._waiting: deque[dict[str, Any]] = deque()
        self._news = asyncio.Event()
        self._idle = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def put(self, event: dict[str, Any]) -> None:
        """Have an alert delivered. With a full queue the oldest one is given up."""
        if len(self._waiting) >= self._settings.queue:
            self._waiting.popleft()
            self._lost()
        self._waiting.append({"id": os.urandom(16).hex(), "time": time.time(), "instance": self._instance, **event})
        self._idle.clear()
        self._news.set()

    async def __aenter__(self) -> Self:
        self._idle.set()
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *exc: object) -> None:
        try:
            async with asyncio.timeout(_LAST_WORDS):
                await self._idle.wait()
        except TimeoutError:
            _log.error("%d alerts were not delivered before the end", len(self._waiting))
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))

    async def _run(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            while self._waiting:
                event = self._waiting.popleft()
                if not await self._deliver(event):
                    self._lost()
                    _log.error("the webhook did not take the alert '%s' (%s)", event["rule"], event["state"])
            self._idle.set()

    async def _deliver(self, event: dict[str, Any]) -> bool:
        body = jsons.dumps(event)
        pause = self._settings.backoff
        for number in range(self._settings.retries + 1):
            if number:
                await asyncio.sleep(pause)
                pause = min(_LONGEST_PAUSE, pause * 2)
            status = await self._post(event["id"], body)
            if status is not None and 200 <= status < 300:
                return True
            if status is not None and status < 500 and status not in _AGAIN:
                return False
        return False

    async def _post(self, number: str, body: bytes) -> int | None:
        """The status of the answer; None if there was none."""
        settings = self._settings
        timestamp = str(int(time.time()))
        signed = signature(settings.secret.get_secret_value().encode(), timestamp, body)
        headers = [("content-type", "application/json"), ("x-junctor-delivery", number)]
        headers += [("x-junctor-timestamp", timestamp), ("x-junctor-signature", signed)]
        try:
            async with asyncio.timeout(settings.timeout):
                answer = await self._http.request("POST", settings.url, headers=headers, body=body, max_body=65536)
                await answer.aclose()
                return answer.status
        except (JunctorError, TimeoutError, OSError) as error:
            _log.warning("the webhook cannot be reached: %s", type(error).__name__)
            return None
