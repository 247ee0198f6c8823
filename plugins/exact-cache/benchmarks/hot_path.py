"""What a hit costs, and what a million entries cost. Prints JSON.

    python plugins/exact-cache/benchmarks/hot_path.py [--entries 1000000] [--requests 3000]

`hit` and `relay` are one whole chat of about 1 KB through the gateway without its listening socket, one after the
other: `relay` is the relay plugin speaking HTTP to a provider in another process that answers at once; `fake` is a
provider within the process, which no real one can undercut. `sqlite` are look-ups of random keys that are there, with
1 % of the entries and with all of them; `look_up_in_thread_us` is the same without the way to the thread and back.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import resource
import statistics
import sys
import tempfile
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from junctor import Usage, config
from junctor.gateway import Gateway
from junctor.plugins import Section
from junctor.settings import PluginSettings
from junctor.testing import FakeProvider, Harness
from junctor_exact_cache.entry import Entry
from junctor_exact_cache.sqlite_store import SQLiteStore
from junctor_exact_cache.stores import MemoryStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

_TEXT = "word " * 200
_MIB = 1024 * 1024
_PROVIDER = """
import asyncio, json
body = json.dumps({"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": [{"index": 0,
    "message": {"role": "assistant", "content": "word " * 200}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}}).encode()
answer = b"HTTP/1.1 200 OK\\r\\ncontent-type: application/json\\r\\ncontent-length: %d\\r\\n\\r\\n" % len(body) + body
class Protocol(asyncio.Protocol):
    def connection_made(self, transport): self.transport, self.rest = transport, b""
    def data_received(self, data):
        self.rest += data
        head, found, body = self.rest.partition(b"\\r\\n\\r\\n")
        if found and len(body) >= int(head.lower().split(b"content-length:")[1].split(b"\\r\\n")[0]):
            self.rest = b""
            self.transport.write(answer)
async def main():
    server = await asyncio.get_running_loop().create_server(Protocol, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()
asyncio.run(main())
"""


async def _microseconds(call: Callable[[int], Awaitable[Any]], count: int) -> dict[str, float]:
    """Wall clock of each call and processor time of this process, per call."""
    for number in range(count // 10):
        await call(number)
    times = []
    cpu = time.process_time()
    for number in range(count):
        started = time.perf_counter()
        await call(number)
        times.append(time.perf_counter() - started)
    cpu = time.process_time() - cpu
    return {"p50": round(statistics.median(times) * 1e6, 1), "cpu": round(cpu / count * 1e6, 1)}


@asynccontextmanager
async def _gateway(target: dict[str, Any], plugins: list[str], *, fake: bool = False) -> AsyncIterator[Harness]:
    tree = {"models": [{"name": "test", "targets": [target]}], "plugins": plugins}
    provider = FakeProvider(_TEXT)
    extra = [Section(-1, "fake", lambda: provider, PluginSettings())] if fake else []
    async with Gateway(config.parse(json.dumps(tree)), extra=extra) as gateway:
        yield Harness(gateway)


async def _hot_path(count: int) -> dict[str, Any]:
    rows: dict[str, Any] = {}
    async with _gateway({"target": "fake/one"}, ["exact_cache"], fake=True) as g:
        rows["hit"] = await _microseconds(lambda _: g.chat(_TEXT), count)
        await g.chat("other", stream=True)
        rows["hit_as_stream"] = await _microseconds(lambda _: g.chat(_TEXT, stream=True), count)
    async with _gateway({"target": "fake/one"}, [], fake=True) as g:
        rows["fake"] = await _microseconds(lambda _: g.chat(_TEXT), count)
    provider = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _PROVIDER, stdout=asyncio.subprocess.PIPE, env={"PATH": os.environ["PATH"]}
    )
    assert provider.stdout is not None
    port = int(await provider.stdout.readline())
    try:
        target = {"target": "openai/m", "base_url": f"http://127.0.0.1:{port}/v1", "api_key": "k"}
        async with _gateway(target, ["relay"]) as g:
            rows["relay"] = await _microseconds(lambda _: g.chat(_TEXT), count)
        async with _gateway(target, ["exact_cache", "relay"]) as g:
            rows["miss_and_relay"] = await _microseconds(lambda n: g.chat(f"{_TEXT}{n}{random.random()}"), count)
    finally:
        provider.terminate()
        await provider.wait()
    return rows


def _entry(number: int, *, size: int = 400) -> Entry:
    name = f"{number * 2654435761 % 2**64:016x}.{number:032x}"
    answer = random.randbytes(size)
    usage, later = Usage(7, 5), time.time() + 86400
    facts = ('["team","t"]', "t", "m", "fake/one", "m-1", "", ())
    return Entry(name, *facts, time.time(), later, "whole", "stop", usage, 1, "application/json", answer)


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _size(path: str) -> int:
    return round(Path(path).stat().st_size / _MIB)


async def _fill(store: SQLiteStore, start: int, end: int) -> None:
    for at in range(start, end, 200):
        await asyncio.gather(*[store.put(_entry(number)) for number in range(at, min(end, at + 200))])


async def _sqlite(entries: int) -> dict[str, Any]:
    rows: dict[str, Any] = {"page_cache_mib": 16}
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/cache.db"
        store = SQLiteStore(path, max_bytes=64 * 1024 * _MIB, page_cache=16 * _MIB, timeout=5.0)
        filled = 0
        for part in (entries // 100, entries):
            started, before = time.perf_counter(), filled
            await _fill(store, filled, part)
            filled = part
            put = (time.perf_counter() - started) / (filled - before) * 1e6
            row: dict[str, Any] = {"put_us": round(put, 1), "file_mib": _size(path)}
            keys = [_entry(random.randrange(filled), size=1).id for _ in range(5000)]
            row["look_up_us"] = await _microseconds(lambda n, keys=keys: store.get(keys[n % len(keys)]), 5000)
            row["look_up_in_thread_us"] = await store._reader.run(_in_thread, store, keys)
            row["resident_mib"] = round(_resident() / _MIB)
            rows[str(filled)] = row
        await store.aclose()
    small, large = rows[str(entries // 100)], rows[str(entries)]
    rows["ratio_p50"] = round(large["look_up_us"]["p50"] / small["look_up_us"]["p50"], 2)
    rows["ratio_in_thread"] = round(large["look_up_in_thread_us"] / small["look_up_in_thread_us"], 2)
    return rows


def _in_thread(connection: Any, store: SQLiteStore, keys: list[str]) -> float:
    times = []
    for key in keys:
        raw = bytes.fromhex(key.replace(".", ""))
        started = time.perf_counter()
        assert store._get(connection, raw) is not None
        times.append(time.perf_counter() - started)
    return round(statistics.median(times) * 1e6, 1)


async def _memory(limit: int) -> dict[str, Any]:
    """Three times as much as may be kept; what the process then holds more than before."""
    before = _resident()
    store = MemoryStore(limit)
    number = 0
    while number * 1700 < 3 * limit:
        await store.put(_entry(number, size=400))
        number += 1
    held = await store.stats()
    grown = _resident() - before
    return {"limit_mib": limit // _MIB, "entries": held.entries, "resident_grown_mib": round(grown / _MIB, 1)}


async def _main(entries: int, count: int) -> dict[str, Any]:
    memory = await _memory(64 * _MIB)
    return {"hot_path_us": await _hot_path(count), "memory_store": memory, "sqlite": await _sqlite(entries)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--requests", type=int, default=3000)
    arguments = parser.parse_args()
    print(json.dumps(asyncio.run(_main(arguments.entries, arguments.requests)), indent=1))
