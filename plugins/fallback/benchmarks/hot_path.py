"""What the plugin costs a healthy request: microseconds for `call` and `post_call`, with ten targets. Prints JSON.

python plugins/fallback/benchmarks/hot_path.py
"""

from __future__ import annotations

import asyncio
import json
import statistics
import time

from junctor import Attempt, Exchange, Gateway, Request, config
from junctor.wire import OPENAI
from junctor_fallback import Fallback, FallbackSettings

REQUESTS = 20_000
ROUNDS = 7


def gateway() -> Gateway:
    targets = [{"target": f"openai/m{n}", "base_url": "http://127.0.0.1:1/v1"} for n in range(10)]
    text = json.dumps({"models": [{"name": "m", "targets": targets}], "plugins": ["relay"]})
    return Gateway(config.parse(text, file="benchmark"))


async def measured(plugin: Fallback | None, owner: Gateway) -> float:
    """Microseconds a request; without the plugin what the loop itself takes."""
    model = owner.models["m"]
    request = Request(OPENAI, "chat", {"messages": []}, "m", size=1000)
    exchanges = [Exchange("x", request, model, targets=model.targets) for _ in range(REQUESTS)]
    started = time.perf_counter()
    for number, exchange in enumerate(exchanges):
        target = model.targets[number % 10]
        attempt = Attempt(target)
        exchange.attempts.append(attempt)
        if plugin is not None:
            await plugin.call(exchange, target)
        attempt.first_byte = time.monotonic()
        if plugin is not None:
            await plugin.post_call(exchange, None, None)
    return (time.perf_counter() - started) / REQUESTS * 1e6


async def main() -> None:
    owner = gateway()
    plugin = Fallback(FallbackSettings.model_validate({}), owner)
    figures = []
    for _ in range(ROUNDS):
        empty = await measured(None, owner)
        figures.append(await measured(plugin, owner) - empty)
    result = {"us_per_request": round(statistics.median(figures), 2), "best": round(min(figures), 2)}
    print(json.dumps({"benchmark": "fallback hot path", "targets": 10, "requests": REQUESTS, **result}))


if __name__ == "__main__":
    asyncio.run(main())
