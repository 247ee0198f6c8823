"""How long a quiet team waits for a place while another floods the same limit: alone, fairly queued, and not. JSON.

    python fairness.py [SECONDS]

`factor` compares 95th percentiles of what the quiet team's clients feel (the wait and one usual service): in the flood,
over alone. `first_come` is the same flood with everyone in one team, so that nothing is shared out fairly.
"""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import sys
from itertools import chain
from time import perf_counter

from junctor import Client, Gateway, GatewayError, Request, config, hookimpl
from junctor.plugins import Section
from junctor.settings import PluginSettings
from junctor.wire import OpenAIWire
from junctor_quotas import Quotas

PLACES, SERVICE, THINK, FLOOD = 8, 0.05, 0.1, 60


class Provider:
    """Takes every target, so that the configuration is whole."""

    @hookimpl
    def claims(self, target: object) -> bool:
        return True


async def ask(plugin: Quotas, gateway: Gateway, team: str) -> float | None:
    """Seconds until a request of the team was admitted; None for a refusal. Then it takes its time."""
    body = {"model": "test", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 10}
    exchange = gateway.exchange(Request(OpenAIWire(), "chat", body, "test", size=200))
    exchange.client = Client(key_id=team, team=team)
    started = perf_counter()
    try:
        await plugin.pre_route(exchange)
    except GatewayError as error:
        await plugin.post_call(exchange, None, error)
        await asyncio.sleep(min(error.retry_after or 0.1, 0.5))
        return None
    waited = perf_counter() - started
    await asyncio.sleep(random.expovariate(1 / SERVICE))
    await plugin.post_call(exchange, None, None)
    return waited


async def team(plugin: Quotas, gateway: Gateway, name: str, seconds: float, *, think: float) -> list[float]:
    """One client after the other, `think` seconds between its requests on the average."""
    waits = []
    until = perf_counter() + seconds
    while perf_counter() < until:
        if (waited := await ask(plugin, gateway, name)) is not None:
            waits.append(waited)
        await asyncio.sleep(random.expovariate(1 / think) if think else 0)
    return waits


async def measure(seconds: float, *, flood: int, quiet_team: str = "quiet") -> dict[str, float]:
    settings = Quotas.Settings.model_validate({"limits": [{"name": "places", "concurrency": PLACES}]})
    tree = {"models": [{"name": "test", "targets": [{"target": "fake/one"}]}]}
    extra = [Section(-1, "provider", Provider, PluginSettings()), Section(-1, "quotas", Quotas, settings)]
    async with Gateway(config.parse(json.dumps(tree)), extra=extra) as gateway:
        plugin = gateway.plugins.by_name["quotas"]
        assert isinstance(plugin, Quotas)
        quiet = [team(plugin, gateway, quiet_team, seconds, think=THINK) for _ in range(4)]
        loud = [team(plugin, gateway, "flood", seconds, think=0.0) for _ in range(flood)]
        found = await asyncio.gather(*quiet, *loud)
    waits, flooding = list(chain.from_iterable(found[:4])), list(chain.from_iterable(found[4:]))
    row = {"requests": len(waits), "p50_ms": _at(waits, 50), "p95_ms": _at(waits, 95)}
    return row | ({"flood_requests": len(flooding), "flood_p95_ms": _at(flooding, 95)} if flooding else {})


def _at(waits: list[float], percent: int) -> float:
    return round(statistics.quantiles(waits, n=100)[percent - 1] * 1000, 2)


def _factor(row: dict[str, float], alone: dict[str, float]) -> float:
    service = SERVICE * 1000
    return round((service + row["p95_ms"]) / (service + alone["p95_ms"]), 2)


async def main(seconds: float) -> None:
    random.seed(7)
    alone = await measure(seconds, flood=0)
    flooded = await measure(seconds, flood=FLOOD)
    first_come = await measure(seconds, flood=FLOOD, quiet_team="flood")
    result = {
        "places": PLACES,
        "service_ms": SERVICE * 1000,
        "alone": alone,
        "flooded": flooded,
        "first_come": first_come,
        "factor": _factor(flooded, alone),
        "factor_first_come": _factor(first_come, alone),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1]) if len(sys.argv) > 1 else 5.0))
