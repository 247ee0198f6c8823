"""What metrics cost a request: CPU time of the hooks in the event loop's thread. Prints JSON, in microseconds.

    python plugins/metrics/benchmarks/hot_path.py [--requests 50000]

`prometheus`: the counts alone. `alerts`: with rules. `traces_sampled` and `traces_unsampled`: with OpenTelemetry, the
SDK's work in its own threads left out, ids drawn for one attempt, an export to a collector that is not there.
`scrape_ms` is one exposition of what was counted; `client_library` is what prometheus_client's own counters and
histograms would take for the same figures.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import logging
import time
from typing import TYPE_CHECKING, Any

from junctor import Attempt, Client, Cost, Exchange, Gateway, Request, Response, Target, Usage, config
from junctor.testing import FakeProvider, _section
from junctor.wire import OPENAI
from junctor_metrics import Metrics, MetricsSettings
from junctor_metrics.exposition import render
from prometheus_client import CollectorRegistry, Counter, Histogram

if TYPE_CHECKING:
    from collections.abc import Callable

_CONFIG = '{"models": [{"name": "fast", "targets": [{"target": "fake/one"}, {"target": "fake/two"}]}]}'
_TIMED = [("auth", "pre_route"), ("quotas", "pre_route"), ("routing", "route"), ("exact_cache", "cache_lookup")]
_TIMED += [("fallback", "call"), ("relay", "call"), ("exact_cache", "post_call"), ("quotas", "post_call")]
_RULES = [{"when": when} for when in ("budget", "errors", "breaker", "unpriced", "provider_key")]
_OTLP = {"endpoint": "http://127.0.0.1:9", "timeout": "100ms", "delay": "1h", "interval": "1h"}


def _exchange(number: int, target: Target) -> tuple[Exchange, Response]:
    """An answered chat as the pipeline leaves it, with the facts and timings of the default plugins."""
    usage, cost = Usage(850, 120, cache_read_tokens=512), Cost(50_700, 72_000, 38_400)
    request = Request(OPENAI, "chat", {}, "fast", headers={"authorization": "Bearer x"}, path="/v1/chat/completions")
    exchange = Exchange(f"{number:032x}", request, client=Client("k1", "search", f"team-{number % 20}"))
    now = time.monotonic()
    attempt = Attempt(target, now - 0.3, now - 0.1, now, usage=usage, cost=cost)
    exchange.attempts = [attempt]
    exchange.started, exchange.first_byte = now - 0.301, now
    exchange.facts = {"cache": {"status": "miss", "cache": "exact"}, "budget_used": 0.31}
    exchange.timings = dict.fromkeys(_TIMED, 1e-05)
    answer = Response(b"x", target=target, usage=usage, model="one", cost=cost, attempt=attempt)
    return exchange, answer


async def _measure(requests: int, settings: dict[str, Any]) -> tuple[float, float]:
    """(Microseconds of CPU a request, milliseconds of a scrape)."""
    gateway = Gateway(config.parse(_CONFIG, file="benchmark"), extra=[_section(FakeProvider())])
    plugin: Any = Metrics(MetricsSettings.model_validate(settings), gateway)
    target = gateway.models["fast"].targets[0]
    begin = getattr(plugin, "pre_route", None)
    used = 0.0
    async with gateway, plugin:
        for start in range(0, requests, 1000):
            made = [_exchange(start + number, target) for number in range(1000)]
            gc.collect()
            gc.disable()
            before = time.thread_time()
            for exchange, response in made:
                if begin is not None:
                    await begin(exchange)
                    for begun in exchange.on_attempt:
                        begun(exchange.attempts[0])
                await plugin.post_call(exchange, response, None)
            used += time.thread_time() - before
            gc.enable()
            await asyncio.sleep(0)
        started = time.perf_counter()
        render(await plugin.figures(), "")
        scrape = time.perf_counter() - started
    return used / requests * 1e6, scrape * 1e3


def _client_library(requests: int) -> float:
    """The same figures of one plain request with the client library's own objects."""
    registry = CollectorRegistry()
    counters = [Counter(f"c{n}", "c", ["a", "b"], registry=registry) for n in range(8)]
    histograms = [Histogram(f"h{n}", "h", ["a"], registry=registry) for n in range(3)]
    summaries = Counter("s", "s", ["plugin", "hook"], registry=registry)
    before = time.thread_time()
    for number in range(requests):
        for counter in counters:
            counter.labels("fast", f"team-{number % 20}").inc()
        for histogram in histograms:
            histogram.labels("fast").observe(0.3)
        for step in _TIMED:
            summaries.labels(*step).inc(1e-05)
    return (time.thread_time() - before) / requests * 1e6


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=50_000)
    requests = max(1000, parser.parse_args().requests // 1000 * 1000)
    logging.disable(logging.CRITICAL)
    run: Callable[[int, dict[str, Any]], tuple[float, float]] = lambda n, s: asyncio.run(_measure(n, s))  # noqa: E731
    prometheus, scrape = run(requests, {})
    fewer = max(1000, requests // 10_000 * 1000)
    found = {
        "prometheus": prometheus,
        "alerts": run(requests, {"alerts": {"rules": _RULES, "every": "1h"}})[0],
        "traces_sampled": run(fewer, {"opentelemetry": _OTLP})[0],
        "traces_unsampled": run(fewer, {"opentelemetry": {**_OTLP, "sample": 0, "metrics": False}})[0],
        "client_library": _client_library(fewer),
        "scrape_ms": scrape,
    }
    print(json.dumps({name: round(value, 2) for name, value in found.items()}, indent=2))


if __name__ == "__main__":
    main()
