"""What routing and the content policy cost a request: microseconds of CPU time, printed as JSON.

    python plugins/routing/benchmarks/hot_path.py

The hooks are called as the pipeline calls them, for a chat of about 1 KB to a model with ten targets; each figure is
the best of five runs. `fallback` is measured when its plugin is installed, with its defaults, on the way without an
error.
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

from junctor import ConfigError, Gateway, Request, Response, Usage, config
from junctor.exchange import Attempt
from junctor.plugins import each, each_outward, first
from junctor.wire import OPENAI
from junctor_routing import classify

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

STRATEGIES: dict[str, Any] = {
    "weighted": "weighted",
    "least_busy": "least_busy",
    "lowest_latency": "lowest_latency",
    "cheapest": "cheapest",
    "usage_aware": "usage_aware",
    "sticky": "sticky",
    "slo": {"slo": {"ttft_p95": "800ms", "cost_per_1k_requests": "$3"}},
}
RULES = [
    {"name": "hr stays here", "when": {"team": "hr"}, "use": {"tags": ["t0"]}},
    {"name": "night", "when": {"team": "batch", "time": "22:00-06:00 Europe/Berlin"}, "use": {"strategy": "cheapest"}},
    {"name": "long", "when": {"input_tokens": ">50000"}, "use": {"strategy": "cheapest"}},
]
PROSE = (
    "Please go through the minutes of our meeting and say what was decided, who is to do what, by 30 November at last. "
    "Ms Jensen reported that the migration of the warehouse is on time, but the supplier asked for a further week. "
)


def gateway(*plugins: Any) -> Gateway:
    targets = [
        {
            "target": f"fake/m{n}",
            "weight": 1 + n % 3,
            "tags": [f"t{n % 2}"],
            "context_window": 128000,
            "price": {"input": 0.1 + n / 10, "output": 0.4},
        }
        for n in range(10)
    ]
    tree = {"models": [{"name": "test", "targets": targets}], "plugins": list(plugins)}
    return Gateway(config.parse(json.dumps(tree)), extra=[_provider()])


def _provider() -> Any:
    from junctor.plugins import Section
    from junctor.settings import PluginSettings
    from junctor.testing import FakeProvider

    return Section(-1, "provider", lambda: FakeProvider(), PluginSettings())


def request(characters: int) -> Request:
    text = (PROSE * (characters // len(PROSE) + 1))[:characters]
    messages = [{"role": "system", "content": "You help."}, {"role": "user", "content": text}]
    return Request(OPENAI, "chat", {"model": "test", "messages": messages}, "test", size=characters + 120)


async def hooks(built: Gateway, characters: int = 1000, *, settle: bool = True) -> float:
    """Microseconds for `pre_route`, `route`, `call` (without the provider's) and, with `settle`, `post_call`."""
    steps = built.plugins.hook
    calls = tuple(step for step in steps["call"] if step.plugin != "provider")
    response = Response(b"{}", usage=Usage(300, 100))

    async def once() -> None:
        exchange = built.exchange(request(characters))
        await each(steps["pre_route"], exchange)
        exchange.targets = await first(steps["route"], exchange)
        attempt = Attempt(exchange.targets[0])
        exchange.attempts.append(attempt)
        await first(calls, exchange, attempt.target)
        attempt.first_byte = attempt.ended = attempt.started + 0.5
        attempt.usage, response.target = response.usage, attempt.target
        if settle:
            await each_outward(steps["post_call"], exchange, response, None)

    async with built:
        return await best(once)


async def over(*plugins: Any, characters: int = 1000) -> dict[str, float] | str:
    """What the plugins cost beyond none, before the answer and in all; says so if one of them is not there."""
    found = {}
    for name, settle in (("before_the_answer", False), ("with_post_call", True)):
        try:
            built = gateway(*plugins)
        except ConfigError as error:
            return f"not measured: {error.problems[0]}"
        cost = await hooks(built, characters, settle=settle) - await hooks(gateway(), characters, settle=settle)
        found[name] = round(cost, 2)
    return found


async def best(once: Callable[[], Awaitable[None]], *, runs: int = 5, times: int = 2000) -> float:
    figures = []
    for _ in range(runs):
        started = time.process_time()
        for _ in range(times):
            await once()
        figures.append((time.process_time() - started) / times * 1e6)
    return min(figures)


async def main() -> None:
    found: dict[str, Any] = {"unit": "microseconds a request", "targets": 10}
    for name, strategy in STRATEGIES.items():
        routing = {"routing": {"strategies": {"default": strategy}, "rules": RULES}}
        found[f"routing_{name}"] = await over(routing)
        found[f"routing_{name}_and_fallback"] = await over(routing, "fallback")
    policy = {"patterns": dict.fromkeys(("secret", "email", "phone", "card", "iban", "national_id"), "personal")}
    found["content_policy_4_kb"] = await over({"content_policy": policy}, characters=4096)
    four = request(4096)

    async def task() -> None:
        classify(four)

    found["task_classifier_4_kb"] = round(await best(task, times=500), 2)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    asyncio.run(main())
