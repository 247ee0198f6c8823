"""Coordination state in Redis: one server, a Cluster, or behind Sentinel."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from contextlib import aclosing
from dataclasses import replace
from functools import lru_cache
from itertools import cycle
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

import hiredis

from junctor._redis_cluster import Cluster, Sentinel
from junctor._redis_pipeline import Address, Pipeline, listen
from junctor.errors import ConfigError
from junctor.state import StateUnavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from junctor._redis_pipeline import Find
    from junctor.state import Script

__all__ = ["RedisState"]

_log = logging.getLogger("junctor.state")
_EXPECTED = ("OOM", "READONLY", "LOADING", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "MISCONF", "NOREPLICAS")


class RedisState:
    """Every call is one round trip with a limit in time (`timeout`, seconds). Keys begin with `prefix`.

    `url` is `redis://`, `rediss://` (TLS), `redis+cluster://host:port,host:port`, or
    `redis+sentinel://host:port,host:port/service[/database]`; the last two also with `rediss+`. Raises `ConfigError`
    for another. A store that is down does not cost every call its deadline: see `Pipeline`.
    """

    shared = True

    def __init__(self, url: str, *, prefix: str, timeout: float) -> None:
        self._prefix = prefix
        self._timeout = timeout
        self._backend, self._find = _open(url)

    async def _do(self, *command: Any) -> Any:
        try:
            return await self._backend.execute(*command, timeout=self._timeout)
        except hiredis.ReplyError as error:
            text = str(error)
            if text.startswith("NOSCRIPT"):
                raise _NoScript(text) from error
            if not text.startswith(_EXPECTED):
                _log.error("the coordination store refused a command: %s", text[:200])
            raise StateUnavailable(f"the coordination store refused: {text[:200]}") from error
        except (OSError, TimeoutError) as error:
            reason = str(error) or "no answer in time"
            raise StateUnavailable(f"the coordination store failed: {reason}") from error

    async def get(self, key: str) -> bytes | None:
        value: bytes | None = await self._do("GET", self._prefix + key)
        return value

    async def set(self, key: str, value: bytes, *, ttl: float | None = None, only_if_absent: bool = False) -> bool:
        command: list[Any] = ["SET", self._prefix + key, value]
        if ttl is not None:
            command += ["PX", _milliseconds(ttl)]
        if only_if_absent:
            command.append("NX")
        return await self._do(*command) is not None

    async def delete(self, *keys: str) -> int:
        # One by one: keys of one call may live on different nodes of a cluster.
        return sum(await asyncio.gather(*(self._do("DEL", self._prefix + key) for key in keys)))

    async def increment(self, key: str, by: int = 1, *, ttl: float | None = None) -> int:
        if ttl is not None:
            return int(await self._run(_INCREMENT, [key], [by, _milliseconds(ttl)]))
        return int(await self._do("INCRBY", self._prefix + key, by))

    async def run(self, script: Script, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        return await self._run(script.lua, keys, arguments)

    async def _run(self, lua: str, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        prefix = self._prefix
        names = [prefix + key for key in keys]
        try:
            return await self._do("EVALSHA", _sha(lua), len(names), *names, *arguments)
        except _NoScript:  # its first run, or the server was restarted, or another one took over
            return await self._do("EVAL", lua, len(names), *names, *arguments)

    async def time(self) -> float:
        seconds, micros = await self._do("TIME")
        return float(seconds) + float(micros) / 1e6

    async def publish(self, channel: str, message: bytes) -> None:
        await self._do("PUBLISH", self._prefix + channel, message)

    async def subscribe(self, channel: str) -> AsyncIterator[bytes]:
        """Messages from now on; reconnects by itself, and may miss what was said meanwhile."""
        while True:
            try:
                async with aclosing(listen(self._find, self._prefix + channel)) as messages:
                    async for message in messages:
                        yield message
            except (OSError, TimeoutError, hiredis.ReplyError):
                await asyncio.sleep(0.5)

    async def aclose(self) -> None:
        await self._backend.aclose()


_INCREMENT = "local v = redis.call('INCRBY', KEYS[1], ARGV[1]) redis.call('PEXPIRE', KEYS[1], ARGV[2]) return v"


class _NoScript(StateUnavailable):
    """The server does not have the script (any more)."""


class _Backend(Protocol):
    async def execute(self, *command: Any, timeout: float) -> Any: ...
    async def aclose(self) -> None: ...


@lru_cache(maxsize=256)
def _sha(lua: str) -> str:
    return hashlib.sha1(lua.encode()).hexdigest()  # noqa: S324 (Redis names scripts by it)


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))


def _open(url: str) -> tuple[_Backend, Find]:
    """Who executes commands, and what tells a server to subscribe at."""
    scheme, _, rest = url.partition("://")
    base, _, kind = scheme.partition("+")
    if base not in ("redis", "rediss") or kind not in ("", "cluster", "sentinel"):
        raise ConfigError(
            f"state.url: '{scheme}' is not known; use memory, redis, rediss, redis+cluster or redis+sentinel"
        )
    if not kind:
        find = _turns([Address.of(url)])
        return Pipeline(find), find
    parts = urlsplit(f"{base}://{rest}")
    account, at, hosts = parts.netloc.rpartition("@")
    one = Address.of(f"{base}://{account}{at}host?{parts.query}")
    seeds = [replace(one, host=host, port=port) for host, port in _hosts(hosts)]
    if kind == "cluster":
        return Cluster(seeds), _turns(seeds)
    service, _, database = parts.path.strip("/").partition("/")
    if not service or not (database or "0").isdigit():
        raise ConfigError("state.url: name the service: redis+sentinel://host:port,host:port/SERVICE[/DATABASE]")
    sentinel = Sentinel(seeds, service, replace(one, database=int(database or 0)))
    return sentinel, sentinel.find


def _turns(addresses: Sequence[Address]) -> Find:
    """One address after the other, from the first again."""
    endless = cycle(addresses)

    async def find() -> Address:
        return next(endless)

    return find


def _hosts(text: str) -> list[tuple[str, int]]:
    hosts = []
    for host in text.split(","):
        name, _, port = host.rpartition(":")
        if not port.isdigit() or not name:
            raise ConfigError(f"state.url: '{host}' must be host:port")
        hosts.append((name.strip("[]"), int(port)))
    return hosts
