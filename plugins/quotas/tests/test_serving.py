"""Real `junctor serve` processes on one Redis: what they admit together, and what a killed one leaves behind."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import time
from collections import Counter
from contextlib import ExitStack, asynccontextmanager

import pytest
from junctor import testing
from junctor.faults import answer, slow
from junctor.faulty_server import FaultyServer

LIMITS = [
    {"name": "rph", "requests": 50, "window": "hour"},
    {"name": "tph", "tokens": 10_000_000, "window": "hour"},
    {"name": "places", "concurrency": 100},
]
KEY = "admin-key-0123456789"


@pytest.fixture
def serving(tmp_path, redis_url, prefix):
    """A factory: two workers before this provider; gives the process and a function that asks it."""

    @asynccontextmanager
    async def run(provider):
        target = {"target": "openai/m", "api_key": "sk-x", "base_url": provider.url}
        tree = {
            "server": {"workers": 2},
            "state": {"url": redis_url, "prefix": prefix, "timeout": 2.0},
            "admin": {"key": KEY},
            "models": [{"name": "test", "targets": [target]}],
            "plugins": [{"quotas": {"limits": LIMITS, "lease": "1s"}}, "relay"],
        }
        with ExitStack() as stack:
            served = await asyncio.to_thread(stack.enter_context, testing.serving(tree, tmp_path))
            await asyncio.to_thread(served.wait_for, r"(?s)ready on.*ready on")
            yield served.process, served.port
            await asyncio.to_thread(stack.close)

    return run


async def _ask(port, body=None, *, path="/v1/chat/completions"):
    """One request on a connection of its own: status, and what else will come."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    raw = json.dumps(body).encode() if body else b""
    head = [
        f"{'POST' if body else 'GET'} {path} HTTP/1.1",
        "host: x",
        "connection: close",
        f"authorization: Bearer {KEY}",
    ]
    writer.write("\r\n".join([*head, f"content-length: {len(raw)}", "", ""]).encode() + raw)
    status = int((await reader.readuntil(b"\r\n")).split()[1])
    await reader.readuntil(b"\r\n\r\n")
    return status, reader, writer


async def _whole(port, body=None, **options):
    status, reader, writer = await _ask(port, body, **options)
    text = await reader.read()
    writer.close()
    return status, text


async def _rows(port):
    """What one of the workers says, once all have told it what they have seen: they do every second."""
    for _ in range(50):
        _, text = await _whole(port, path="/admin/quotas")
        found = {row["name"]: row for row in json.loads(text[text.index(b"[") : text.rindex(b"]") + 1])}
        if len(found) == len(LIMITS):
            return found
        await asyncio.sleep(0.1)
    raise AssertionError(found)


def _chat(**fields):
    return {"model": "test", "messages": [{"role": "user", "content": "hi"}], **fields}


async def test_two_workers_admit_exactly_the_limit_of_a_few_hundred_at_once(serving):
    async with FaultyServer(answer(delay=0.05)) as provider, serving(provider) as (_, port):
        answers = await asyncio.gather(*(_whole(port, _chat(max_tokens=20)) for _ in range(300)))
        rows = await _rows(port)
    assert Counter(status for status, _ in answers) == {200: 50, 429: 250}
    assert len(provider.requests) == 50
    assert (rows["rph"]["used"], rows["tph"]["used"]) == (50, 50 * 15)
    assert [row["reserved"] for row in rows.values()] == [0, 0, 0]


async def _until_reserved(port, amount):
    until = time.monotonic() + 8
    while (found := (await _rows(port))["places"]["reserved"]) != amount:
        assert time.monotonic() < until, f"{found} places are held, not {amount}"
        await asyncio.sleep(0.1)


async def test_what_a_killed_worker_held_for_its_streams_returns_with_the_lease(serving):
    provider = FaultyServer(slow(0.3, "word " * 200))
    async with provider, serving(provider) as (process, port):
        streams = await asyncio.gather(*(_ask(port, _chat(stream=True)) for _ in range(20)))
        assert [status for status, _, _ in streams] == [200] * 20
        await asyncio.sleep(1.5)  # longer than the lease: it is renewed
        assert (await _rows(port))["places"]["reserved"] == 20
        workers = subprocess.check_output(["pgrep", "-P", str(process.pid)], text=True).split()
        busiest = max(workers, key=lambda worker: len(os.listdir(f"/proc/{worker}/fd")))  # it may have all of them
        os.kill(int(busiest), signal.SIGKILL)
        alive = await asyncio.gather(*(_goes_on(reader) for _, reader, _ in streams))
        assert sum(alive) < 20
        await _until_reserved(port, sum(alive))
        for _, _, writer in streams:
            writer.close()
        await _until_reserved(port, 0)
        rows = await _rows(port)
    assert rows["tph"]["reserved"] == 0
    assert rows["rph"]["used"] == 20


async def _goes_on(reader):
    """Whether the stream is still there a second after what has arrived already."""
    try:
        async with asyncio.timeout(1.0):
            while await reader.read(65536):
                pass
        return False
    except TimeoutError:
        return True
    except ConnectionError:
        return False
