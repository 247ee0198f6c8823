"""What a record costs: CPU time of the hook, of the work behind it, and the ledger's throughput. Prints JSON.

    python plugins/logging/benchmarks/hot_path.py [--records 20000] [--url postgresql://…]

`hook_us` is the CPU time of one `post_call` in the event loop's thread, with the loop that calls it taken off.
`total_us` is the CPU time of the whole process for each record, from the hook to a committed row. Both with the default
sink, the SQLite ledger, for the record of a plain answered chat.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
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


async def _run(records: int, folder: Path, url: str, sinks: list[Any], rate: float | None = None) -> dict[str, Any]:
    gateway = _gateway()
    target = gateway.models["fast"].targets[0]
    settings = LoggingSettings(
        directory=folder, sinks=sinks or [{"ledger": {"url": url}}], queue=max(1000, records + 1)
    )
    plugin = Logging(settings, gateway)
    exchanges = [_exchange(number, target) for number in range(records)]
    gc.collect()
    gc.freeze()
    async with plugin:
        await asyncio.sleep(0.5)
        begun, cpu = time.perf_counter(), time.process_time()
        hook = 0.0
        step = 10 if rate else 500
        for start in range(0, records, step):
            before = time.thread_time()
            for exchange, response in exchanges[start : start + step]:
                await plugin.post_call(exchange, response, None)
            hook += time.thread_time() - before
            await asyncio.sleep(step / rate if rate else 0)
        while _waiting(plugin):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        elapsed, used = time.perf_counter() - begun, time.process_time() - cpu
        stats = plugin.stats()
    gc.unfreeze()
    return {
        "hook_us": round(hook / records * 1e6, 2),
        "total_us": round(used / records * 1e6, 2),
        "records_per_s": round(records / elapsed),
        "written": sum(sink["written"] for sink in stats["sinks"].values()),
        "dropped": stats["dropped"],
        "resident_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=20_000)
    parser.add_argument("--url", default="", help="another database for the ledger")
    args = parser.parse_args()
    found = {}
    for name, sinks in (("ledger", []), ("json_lines", [{"json_lines": {"path": "/dev/null"}}])):
        with tempfile.TemporaryDirectory() as folder:
            if name == "json_lines":
                sinks = [{"json_lines": {"path": f"{folder}/records.jsonl"}}]
            found[name] = asyncio.run(_run(args.records, Path(folder), args.url, sinks))
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
