"""What a record costs: CPU time of the hook, of the work behind it, and the ledger's throughput. Prints JSON.

    python plugins/logging/benchmarks/hot_path.py [--rate 2000] [--seconds 4] [--url postgresql://…]

The record is that of a plain answered chat, with the facts and timings of the default plugins. For each sink:
`hook_us` is the CPU time of one `post_call` in the event loop's thread, which is what the request's path pays;
`total_us` is the CPU time of the whole process for each record at a steady rate, from the hook to the committed row,
less that of the same loop without the plugin; `burst_per_s` is how many records a second reach the sink when they come
all at once, through the spool where the sink is slower; `grown_mb` is what the process grew by in the steady run.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

from junctor import Attempt, Client, Cost, Exchange, Request, Response, Target, Usage, config
from junctor.gateway import Gateway
from junctor.wire import OPENAI
from junctor_logging import Logging
from junctor_logging.settings import LoggingSettings

_STEP = 10
_CONFIG = '{"models": [{"name": "fast", "targets": [{"target": "openai/gpt-4o-mini"}]}]}'


def _gateway() -> Gateway:
    return Gateway(config.parse(_CONFIG.replace("openai/", "fake/"), file="benchmark"), extra=[_claims()])


def _claims() -> Any:
    from junctor.testing import FakeProvider, _section

    return _section(FakeProvider())


def _exchange(number: int, target: Target) -> tuple[Exchange, Response]:
    """An answered chat as the pipeline leaves it, with the facts and timings of the default plugins."""
    usage, cost = Usage(850, 120, cache_read_tokens=512), Cost(50_700, 72_000, 38_400)
    request = Request(OPENAI, "chat", {}, "fast", headers={"authorization": "Bearer x"}, path="/v1/chat/completions")
    exchange = Exchange(
        f"{number:032x}", request, client=Client("k1", "search", f"team-{number % 20}", "shop", "answers")
    )
    now = time.monotonic()
    exchange.attempts = [Attempt(target, now, now + 0.2, now + 0.3, usage=usage, cost=cost)]
    exchange.first_byte = now + 0.3
    exchange.facts = {
        "route": {"rule": "default", "strategy": "weighted", "candidates": [{"target": target.name, "score": 1.0}]},
        "cache": {"status": "miss"},
        "input_tokens_estimated": 850,
        "budget_used": 0.31,
    }
    exchange.timings = dict.fromkeys(_TIMED, 1e-05)
    body = b"x" * 1024
    return exchange, Response(body, target=target, usage=usage, finish_reason="stop", model=target.model, cost=cost)


_TIMED = [("auth", "pre_route"), ("quotas", "pre_route"), ("routing", "route"), ("exact_cache", "cache_lookup")]
_TIMED += [("fallback", "call"), ("relay", "call"), ("exact_cache", "post_call"), ("quotas", "post_call")]


def _waiting(plugin: Logging) -> bool:
    stats = plugin.stats()
    return bool(stats["waiting"] or any(sink["waiting"] for sink in stats["sinks"].values()))


class _Source:
    """Exchanges that have just ended; a few, over and over: those of real requests are in the CPU's cache too."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._pool = itertools.cycle([_exchange(number, gateway.models["fast"].targets[0]) for number in range(64)])

    def next(self, count: int) -> list[tuple[Exchange, Response]]:
        taken = list(itertools.islice(self._pool, count))
        for exchange, _ in taken:
            exchange.state.clear()
            exchange.id = self._gateway.exchange(exchange.request).id  # a fresh one: it goes into an index
        return taken


async def _paced(plugin: Logging | None, source: _Source, count: int, rate: float) -> tuple[float, float]:
    """CPU seconds of the hooks, and of the process, for so many exchanges at so many a second."""
    begun, cpu, hooks = time.perf_counter(), time.process_time(), 0.0
    for start in range(0, count, _STEP):
        taken = source.next(_STEP)
        before = time.thread_time()
        if plugin is not None:
            for exchange, response in taken:
                await plugin.post_call(exchange, response, None)
        hooks += time.thread_time() - before
        await asyncio.sleep(max(0.0, begun + (start + _STEP) / rate - time.perf_counter()))
    while plugin is not None and _waiting(plugin):  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    return hooks, time.process_time() - cpu


async def _steady(plugin: Logging, source: _Source, rate: float, seconds: float) -> dict[str, float]:
    count = int(rate * seconds)
    await _paced(plugin, source, count // 2, rate)
    _, idle = await _paced(None, source, count, rate)
    memory = _resident()
    hooks, used = await _paced(plugin, source, count, rate)
    return {
        "hook_us": round(hooks / count * 1e6, 2),
        "total_us": round((used - idle) / count * 1e6, 2),
        "grown_mb": round(_resident() - memory, 1),
    }


async def _burst(plugin: Logging, source: _Source, count: int) -> float:
    begun = time.perf_counter()
    for _ in range(0, count, 32):
        for exchange, response in source.next(32):
            await plugin.post_call(exchange, response, None)
        await asyncio.sleep(0)
    while _waiting(plugin):  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    return count / (time.perf_counter() - begun)


def _resident() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1024**2


async def _measure(sinks: list[Any], args: argparse.Namespace) -> dict[str, Any]:
    gateway = _gateway()
    source = _Source(gateway)
    with tempfile.TemporaryDirectory() as folder:
        ready = [
            {name: {key: value.format(folder=folder) for key, value in section.items()}} for name, section in sinks
        ]
        plugin = Logging(LoggingSettings(directory=Path(folder), sinks=tuple(ready), queue=50_000), gateway)
        async with plugin:
            found: dict[str, Any] = await _steady(plugin, source, args.rate, args.seconds)
            found["burst_per_s"] = round(await _burst(plugin, source, 10_000))
            stats = plugin.stats()
    return found | {"dropped": stats["dropped"] + sum(sink["dropped"] for sink in stats["sinks"].values())}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=2000, help="records a second in the steady run")
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--url", default="", help="another database for the ledger")
    args = parser.parse_args()
    kinds: dict[str, list[Any]] = {
        "ledger": [("ledger", {"url": args.url})],
        "json_lines": [("json_lines", {"path": "{folder}/records.jsonl"})],
        "no_sink": [],
    }
    print(json.dumps({name: asyncio.run(_measure(sinks, args)) for name, sinks in kinds.items()}, indent=2))


if __name__ == "__main__":
    main()
