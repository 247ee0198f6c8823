"""The load: so many connections, each with one request at a time, for so many seconds. Prints JSON.

python load.py PORT PATH SECONDS CONNECTIONS MODEL HEADERS_AS_JSON [stream]
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import cast

import httptools
import uvloop

PROMPT = "Sort these complaints by what they are about and answer with one word each. " * 12


def request(path: str, headers: dict[str, str], *, stream: bool, model: str) -> bytes:
    body = json.dumps({"model": model, "stream": stream, "messages": [{"role": "user", "content": PROMPT}]}).encode()
    given = {"host": "127.0.0.1", "content-type": "application/json", "authorization": "Bearer sk-benchmark", **headers}
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in given.items())]
    return ("\r\n".join(lines) + f"\r\ncontent-length: {len(body)}\r\n\r\n").encode() + body


class Connection(asyncio.Protocol):
    def __init__(self, payload: bytes, until: float) -> None:
        self.payload, self.until = payload, until
        self.latencies: list[float] = []
        self.chunks = 0
        self.failed = 0
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._send()

    def _send(self) -> None:
        self.parser = httptools.HttpResponseParser(self)
        self.started = time.perf_counter()
        self.transport.write(self.payload)

    def data_received(self, data: bytes) -> None:
        self.chunks += data.count(b"data:")
        self.parser.feed_data(data)

    def on_message_complete(self) -> None:
        if self.parser.get_status_code() != 200:
            self.failed += 1
        self.latencies.append(time.perf_counter() - self.started)
        if time.monotonic() >= self.until:
            self.transport.close()
        else:
            self._send()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_result(None)


async def main(port: int, payload: bytes, seconds: float, connections: int) -> dict[str, float]:
    loop = asyncio.get_running_loop()
    until = time.monotonic() + seconds
    started = time.perf_counter()
    opened = [
        (await loop.create_connection(lambda: Connection(payload, until), "127.0.0.1", port))[1]
        for _ in range(connections)
    ]
    await asyncio.wait_for(asyncio.gather(*(c.done for c in opened)), seconds + 60)
    elapsed = time.perf_counter() - started
    latencies = sorted(latency for c in opened for latency in c.latencies)
    return {
        "requests": len(latencies),
        "failed": sum(c.failed for c in opened),
        "seconds": elapsed,
        "chunks": sum(c.chunks for c in opened),
        "p50_ms": latencies[len(latencies) // 2] * 1000,
        "p99_ms": latencies[int(len(latencies) * 0.99)] * 1000,
    }


if __name__ == "__main__":
    port, path, seconds, connections, model, headers = sys.argv[1:7]
    payload = request(path, json.loads(headers), stream="stream" in sys.argv[7:], model=model)
    print(json.dumps(uvloop.run(main(int(port), payload, float(seconds), int(connections)))))
