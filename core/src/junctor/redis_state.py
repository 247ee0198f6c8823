"""Coordination state in Redis: one server, a Cluster, or behind Sentinel."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import redis.asyncio as redis
from redis.exceptions import NoScriptError, RedisError

from junctor.state import StateUnavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Sequence

    from junctor.state import Script

__all__ = ["RedisState"]


class RedisState:
    """Every call is one round trip with a limit in time (`timeout`, seconds). Keys begin with `prefix`."""

    shared = True

    def __init__(self, url: str, *, prefix: str, timeout: float) -> None:
        self._prefix = prefix
        self._timeout = timeout
        self._client: Any = redis.Redis.from_url(url, socket_connect_timeout=max(timeout, 1.0))
        self._shas: dict[str, str] = {}

    async def _do(self, awaitable: Awaitable[Any]) -> Any:
        try:
            async with asyncio.timeout(self._timeout):
                return await awaitable
        except (RedisError, OSError, TimeoutError) as error:
            if isinstance(error, NoScriptError):
                raise
            raise StateUnavailable(f"the coordination store failed: {type(error).__name__}") from error

    async def get(self, key: str) -> bytes | None:
        value: bytes | None = await self._do(self._client.get(self._prefix + key))
        return value

    async def set(self, key: str, value: bytes, *, ttl: float | None = None, only_if_absent: bool = False) -> bool:
        px = None if ttl is None else max(1, round(ttl * 1000))
        return bool(await self._do(self._client.set(self._prefix + key, value, px=px, nx=only_if_absent)))

    async def delete(self, *keys: str) -> int:
        return int(await self._do(self._client.delete(*[self._prefix + key for key in keys])))

    async def increment(self, key: str, by: int = 1, *, ttl: float | None = None) -> int:
        name = self._prefix + key
        pipe = self._client.pipeline(transaction=True).incrby(name, by)
        if ttl is not None:
            pipe = pipe.pexpire(name, max(1, round(ttl * 1000)))
        return int((await self._do(pipe.execute()))[0])

    async def run(self, script: Script, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        names = [self._prefix + key for key in keys]
        sha = self._shas.get(script.name)
        if sha is not None:
            try:
                return await self._do(self._client.evalsha(sha, len(names), *names, *arguments))
            except NoScriptError:
                pass  # the server was restarted, or failed over
        self._shas[script.name] = await self._do(self._client.script_load(script.lua))
        return await self._do(self._client.eval(script.lua, len(names), *names, *arguments))

    async def time(self) -> float:
        seconds, micros = await self._do(self._client.time())
        return float(seconds) + float(micros) / 1e6

    async def publish(self, channel: str, message: bytes) -> None:
        await self._do(self._client.publish(self._prefix + channel, message))

    async def subscribe(self, channel: str) -> AsyncIterator[bytes]:
        """Messages from now on; reconnects by itself, and may miss what was said meanwhile."""
        while True:
            pubsub = self._client.pubsub()
            try:
                await pubsub.subscribe(self._prefix + channel)
                async for message in pubsub.listen():
                    if message["type"] == "message":
                        yield message["data"]
            except (RedisError, OSError):
                await asyncio.sleep(1.0)
            finally:
                await pubsub.aclose()

    async def aclose(self) -> None:
        await self._client.aclose()
