"""Where commands go when there is more than one server: a Cluster's map of slots, the master that Sentinel names."""

from __future__ import annotations

import asyncio
import binascii
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import hiredis

from junctor._redis_pipeline import Address, Pipeline

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Cluster", "Sentinel", "slot_of"]

_SLOTS = 16384
_REDIRECTIONS = 4
_LOOK_TIMEOUT = 1.0
_SENTINEL_TIMEOUT = 0.3


def slot_of(key: str) -> int:
    """The slot of a key: of what stands in its first braces, if there is something in them."""
    start = key.find("{")
    if start >= 0:
        end = key.find("}", start + 1)
        if end > start + 1:
            key = key[start + 1 : end]
    return binascii.crc_hqx(key.encode(), 0) % _SLOTS


class Cluster:
    """`seeds` are some of its nodes. A node that is down costs its own keys only, until its replica takes over.

    A command is sent on when a node says that another one has the slot (MOVED, ASK), and for no other reason.
    """

    def __init__(self, seeds: Sequence[Address]) -> None:
        self._seeds = list(seeds)
        self._nodes: dict[tuple[str, int], Pipeline] = {}
        self._slots: list[Pipeline | None] = [None] * _SLOTS
        self._looking: asyncio.Task[None] | None = None
        self._looked = -_LOOK_TIMEOUT

    async def execute(self, *command: Any, timeout: float) -> Any:
        """One command, at the node that has its key; raises as `Pipeline.execute`."""
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout
        slot = _slot(command)
        node, asking = self._slots[slot], False
        if node is None:
            node, until = await self._find(slot, timeout), loop.time() + timeout
        for _ in range(_REDIRECTIONS):
            try:
                return await node.execute(*command, timeout=max(0.0, until - loop.time()), asking=asking)
            except hiredis.ReplyError as error:
                word, _, rest = str(error).partition(" ")
                if word == "CLUSTERDOWN":
                    self._look()
                if word not in ("MOVED", "ASK"):
                    raise
                node, asking = self._node_at(rest.split(" ")[1]), word == "ASK"
                if word == "MOVED":
                    self._slots[slot] = node
                    self._look()
            except (OSError, TimeoutError):
                self._look()
                raise
        raise ConnectionError("the cluster's nodes send the command in a circle")

    async def _find(self, slot: int, timeout: float) -> Pipeline:
        self._look()
        if self._looking is not None:
            await asyncio.wait({self._looking}, timeout=max(timeout, _LOOK_TIMEOUT))
        node = self._slots[slot]
        if node is None:
            raise ConnectionError("no node of the cluster says who has this key")
        return node

    def _look(self) -> None:
        """Read the map again, soon, once for all who ask."""
        loop = asyncio.get_running_loop()
        if self._looking is None and loop.time() - self._looked > 0.1:
            self._looked = loop.time()
            self._looking = asyncio.create_task(self._read_map())
            self._looking.add_done_callback(self._have_looked)

    def _have_looked(self, task: asyncio.Task[None]) -> None:
        self._looking = None
        if not task.cancelled():
            task.exception()

    async def _read_map(self) -> None:
        for node in [*self._nodes.values(), *(self._node(seed.host, seed.port) for seed in self._seeds)]:
            try:
                ranges = await node.execute("CLUSTER", "SLOTS", timeout=_LOOK_TIMEOUT)
            except (OSError, TimeoutError, hiredis.ReplyError):
                continue
            for first, last, master, *_ in ranges:
                owner = self._node(master[0].decode() or self._seeds[0].host, int(master[1]))
                self._slots[first : last + 1] = [owner] * (last + 1 - first)
            await self._forget(set(self._slots))
            return

    async def _forget(self, used: set[Pipeline | None]) -> None:
        for place, node in list(self._nodes.items()):
            if node not in used and not any(place == (seed.host, seed.port) for seed in self._seeds):
                del self._nodes[place]
                await node.aclose()

    def _node_at(self, place: str) -> Pipeline:
        host, _, port = place.rpartition(":")
        return self._node(host or self._seeds[0].host, int(port))

    def _node(self, host: str, port: int) -> Pipeline:
        node = self._nodes.get((host, port))
        if node is None:
            address = replace(self._seeds[0], host=host, port=port, database=0)

            async def find() -> Address:
                return address

            node = self._nodes[host, port] = Pipeline(find)
        return node

    async def aclose(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait({self._looking})
        for node in self._nodes.values():
            await node.aclose()


class Sentinel:
    """One server, found anew by asking the Sentinels who is master whenever a connection has to be opened.

    `sentinels` are their addresses, `service` the name they watch, `address` what the master itself asks for.
    """

    def __init__(self, sentinels: Sequence[Address], service: str, address: Address) -> None:
        self._sentinels = [_sentinel(sentinel) for sentinel in sentinels]
        self._service = service
        self._address = address
        self._master = Pipeline(self.find)

    async def find(self) -> Address:
        """The master that the first Sentinel to answer names; raises `ConnectionError`."""
        for sentinel in self._sentinels:
            try:
                answer = await sentinel.execute(
                    "SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._service, timeout=_SENTINEL_TIMEOUT
                )
            except (OSError, TimeoutError, hiredis.ReplyError):
                continue
            if answer is not None:
                return replace(self._address, host=answer[0].decode(), port=int(answer[1]))
        raise ConnectionError(f"no Sentinel names a master for '{self._service}'")

    async def execute(self, *command: Any, timeout: float) -> Any:
        """One command, at the master; raises as `Pipeline.execute`."""
        return await self._master.execute(*command, timeout=timeout)

    async def aclose(self) -> None:
        await self._master.aclose()
        for sentinel in self._sentinels:
            await sentinel.aclose()


def _sentinel(address: Address) -> Pipeline:
    plain = replace(address, username=None, password=None, database=0)

    async def find() -> Address:
        return plain

    return Pipeline(find, connect_timeout=_SENTINEL_TIMEOUT)


def _slot(command: Sequence[Any]) -> int:
    """Any slot will do for a command without a key."""
    name = command[0]
    if name in ("TIME", "PUBLISH"):
        return 0
    return slot_of(command[3] if name in ("EVAL", "EVALSHA") else command[1])
