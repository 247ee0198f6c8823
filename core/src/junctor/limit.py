"""A limit in time for a block, several times cheaper than `asyncio.timeout`: no coroutine, one timer."""

from __future__ import annotations

import asyncio
from typing import Self

__all__ = ["Limit"]

_FOREVER = float("inf")


class Limit:
    """`with Limit(seconds) as limit:` cancels the task when the time is over and turns that into `TimeoutError`.

    `limit.expired` tells this limit's `TimeoutError` from others. An infinite limit costs nothing.
    """

    __slots__ = ("_cancelling", "_seconds", "_task", "_timer", "expired")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[object] | None = None
        self._cancelling = 0
        self.expired = False

    def __enter__(self) -> Self:
        if self._seconds != _FOREVER:
            self._task = task = asyncio.current_task()
            self._cancelling = task.cancelling() if task is not None else 0
            self._timer = asyncio.get_running_loop().call_later(max(0.0, self._seconds), self._expire)
        return self

    def _expire(self) -> None:
        self.expired = True
        if self._task is not None:
            self._task.cancel()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if self._timer is None:
            return
        self._timer.cancel()
        if self.expired and self._task is not None:
            ours = self._task.uncancel() <= self._cancelling
            if ours and kind is not None and issubclass(kind, asyncio.CancelledError):
                raise TimeoutError from error
