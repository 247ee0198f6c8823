"""Two real workers, each with a shard of its own: what one of them is told to purge, neither serves."""

import asyncio
from contextlib import AsyncExitStack, ExitStack

import httpx
import pytest
from junctor import testing
from junctor.faults import answer
from junctor.faulty_server import FaultyServer

KEY = "sixteen-letters-x"
CHAT = {"model": "test", "messages": [{"role": "user", "content": "Why is tin soft?"}]}


@pytest.fixture
async def root(tmp_path, redis_url, prefix, minilm):
    """The address of a gateway with two workers."""
    async with FaultyServer(answer()) as provider:
        target = {"target": "openai/m", "api_key": "sk-x", "base_url": provider.url}
        cache = {"judge": "first_line", "store": {"path": str(tmp_path / "store"), "timeout": "5s"}}
        tree = {
            "server": {"workers": 2},
            "state": {"url": redis_url, "prefix": prefix},
            "admin": {"key": KEY},
            "models": [{"name": "test", "targets": [target]}],
            "plugins": [{"semantic_cache": cache | {"lookup_timeout": "5s"}}, "relay"],
        }
        with ExitStack() as stack:
            served = await asyncio.to_thread(stack.enter_context, testing.serving(tree, tmp_path))
            await asyncio.to_thread(served.wait_for, r"(?s)ready on.*ready on")
            yield served.root
            await asyncio.to_thread(stack.close)


async def said(client):
    found = await client.post("/v1/chat/completions", json=CHAT)
    assert found.status_code == 200, found.text
    return found.headers["x-junctor-cache"]


async def until(client, status):
    """Ask until the cache says so; what it said at first."""
    first = now = await said(client)
    while now != status:
        await asyncio.sleep(0.02)
        now = await said(client)
    return first


async def connect(root, stack):
    """A connection to each worker, which both have the answer: where one has it and the other not, they are two."""
    found = []
    while len(found) < 2:
        clients = [await stack.enter_async_context(httpx.AsyncClient(base_url=root, timeout=30)) for _ in range(8)]
        await asyncio.gather(*(client.get("/v1/models") for client in clients))
        found += [client for client in clients if await until(client, "semantic-hit") != "semantic-hit"]
    return found


async def test_what_one_worker_is_told_to_purge_no_worker_serves_from_then_on(root):
    async with AsyncExitStack() as stack:
        async with asyncio.timeout(30):
            one, other = await connect(root, stack)
        headers = {"authorization": f"Bearer {KEY}"}
        purged = await one.post("/admin/semantic-cache/purge", json={"all": True}, headers=headers)
        assert purged.json() == {"purged": 1}
        assert await said(one) == "miss"
        async with asyncio.timeout(5):  # two seconds are promised, the rest is for a busy machine
            await until(other, "miss")
