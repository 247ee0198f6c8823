"""Entries in Redis: one hash an entry, which Redis itself forgets in time."""

from __future__ import annotations

import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import redis.asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from junctor_exact_cache.entry import Stats, decode, encode
from junctor_exact_cache.stores import StoreError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from junctor_exact_cache.entry import Entry, Filter

__all__ = ["RedisStore"]

_BATCH = 1000
_CONNECTIONS = 32


class RedisStore:
    """Keys begin with `prefix`; `timeout` (seconds) is for connecting. Bound its memory with Redis's own `maxmemory`
    and `maxmemory-policy allkeys-lru`, so use a Redis, or a database, that holds nothing else.
    """

    shared = True

    def __init__(self, url: str, *, prefix: str, timeout: float) -> None:
        self._prefix = prefix
        # No retries of its own: they would outlast the limit in time that the request has for its cache.
        self._pool: Any = redis.BlockingConnectionPool.from_url(
            url,
            max_connections=_CONNECTIONS,
            timeout=timeout,
            socket_connect_timeout=max(timeout, 0.5),
            retry=Retry(NoBackoff(), 0),
            health_check_interval=30,
        )
        self._client: Any = redis.Redis(connection_pool=self._pool)

    async def open(self) -> None:
        """Connects with the first call."""

    async def get(self, id: str) -> Entry | None:  # noqa: A002
        async with _mapped():
            head, answer = await self._client.hmget(self._prefix + id, "head", "answer")
        if head is None or answer is None:
            return None
        try:
            entry = decode(head, answer)
        except ValueError:  # of another version of this plugin
            return None
        return entry if entry.expires > time.time() else None

    async def put(self, entry: Entry) -> None:
        left = entry.expires - time.time()
        if left <= 0:
            return
        head, answer = encode(entry)
        name = self._prefix + entry.id
        async with _mapped(), self._client.pipeline(transaction=True) as pipe:
            pipe.hset(name, mapping={"head": head, "answer": answer})
            pipe.pexpire(name, max(1, round(left * 1000)))
            await pipe.execute()

    async def purge(self, which: Filter) -> int:
        """Looks at the head of every entry: purging is rare, and an index would have to be kept true for it."""
        gone = 0
        names = self._batches() if which.id is None else _one([self._prefix.encode() + which.id.encode()])
        async with _mapped():
            async for batch in names:
                async with self._client.pipeline(transaction=False) as pipe:
                    for name in batch:
                        pipe.hget(name, "head")
                    heads = await pipe.execute(raise_on_error=False)
                doomed = [name for name, head in zip(batch, heads, strict=True) if _fits(head, which)]
                if doomed:
                    gone += await self._client.unlink(*doomed)
        return gone

    async def stats(self) -> Stats:
        async with _mapped():
            return Stats(sum([len(batch) async for batch in self._batches()]), None)

    async def _batches(self) -> AsyncIterator[list[bytes]]:
        pattern = "".join("\\" + letter if letter in "*?[]\\^" else letter for letter in self._prefix) + "*"
        batch: list[bytes] = []
        async for name in self._client.scan_iter(match=pattern, count=_BATCH):
            batch.append(name)
            if len(batch) >= _BATCH:
                yield batch
                batch = []
        if batch:
            yield batch

    async def aclose(self) -> None:
        await self._client.aclose()
        await self._pool.aclose()


async def _one(batch: list[bytes]) -> AsyncIterator[list[bytes]]:
    yield batch


def _fits(head: object, which: Filter) -> bool:
    if not isinstance(head, bytes):
        return False
    try:
        return which.fits(decode(head, b""))
    except ValueError:
        return False


@asynccontextmanager
async def _mapped() -> AsyncIterator[None]:
    try:
        yield
    except (RedisError, OSError, TimeoutError) as error:
        raise StoreError(f"Redis failed: {type(error).__name__}") from error
