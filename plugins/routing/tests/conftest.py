"""Targets with prices and tags, and short ways to ask a gateway that routes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from junctor import Exchange, Request, Response, Usage
from junctor.testing import FakeProvider, Recorder
from junctor.wire import OPENAI
from junctor_routing import Routing

if TYPE_CHECKING:
    from collections.abc import Callable


def target(name: str, **fields: Any) -> dict[str, Any]:
    return {"target": f"fake/{name}", **fields}


def model(name: str, *targets: Any) -> dict[str, Any]:
    return {"name": name, "targets": [target(t) if isinstance(t, str) else t for t in targets]}


@pytest.fixture
def routed(gateway: Any) -> Callable[..., Any]:
    """A gateway that routes: `async with routed(settings, models, provider) as (g, provider, recorder)`."""
    from contextlib import asynccontextmanager

    @asynccontextmanager
    async def run(
        settings: Any = None, models: Any = None, provider: Any = None, plugins: Any = (), **more: Any
    ) -> Any:
        provider, recorder = provider or FakeProvider(), Recorder()
        models = models or [model("test", "one", "two")]
        async with gateway(recorder, *plugins, (Routing, settings or {}), provider, models=models, **more) as g:
            yield g, provider, recorder

    return run


@pytest.fixture
def ask() -> Callable[..., Exchange]:
    """An exchange that is not sent anywhere."""

    def make(text: str = "hi", *, name: str = "test", headers: Any = None, facts: Any = None, **body: Any) -> Exchange:
        full = {"model": name, "messages": [{"role": "user", "content": text}], **body}
        request = Request(OPENAI, "chat", full, name, bool(body.get("stream")), headers or {}, size=len(str(full)))
        return Exchange("x", request, facts=dict(facts or {}))

    return make


@pytest.fixture
def pick(ask: Any) -> Callable[..., Any]:
    """The names that `route` would return, best first, and the exchange."""

    async def choose(harness: Any, *args: Any, client: Any = None, **kwargs: Any) -> Any:
        exchange = ask(*args, **kwargs)
        if client is not None:
            exchange.client = client
        exchange.model = harness.gateway.models[exchange.request.model]
        routing = harness.gateway.plugins.by_name["routing"]
        targets = await routing.route(exchange)
        await routing.post_call(exchange, None)
        return [t.name.removeprefix("fake/") for t in targets], exchange

    return choose


@pytest.fixture
def taught() -> Callable[..., Any]:
    """Tell the plugin what became of an attempt: `await taught(g, "one", ttft=0.2, duration=1.0, output=10)`."""

    async def teach(harness: Any, name: str, *, times: int = 1, stream: bool = True, **figures: Any) -> None:
        from junctor import Attempt

        routing = harness.gateway.plugins.by_name["routing"]
        chosen = next(t for t in harness.gateway.models["test"].targets if t.name == f"fake/{name}")
        for _ in range(times):
            duration, ttft = figures.get("duration", 1.0), figures.get("ttft", 0.1)
            attempt = Attempt(chosen, started=100.0, first_byte=100.0 + ttft, ended=100.0 + duration)
            attempt.error = figures.get("error")
            if attempt.error is None:
                attempt.usage = Usage(100, figures.get("output", 10), figures.get("cached", 0))
            else:
                attempt.first_byte = 0.0
            exchange = Exchange("x", Request(OPENAI, "chat", {}, "test", stream), harness.gateway.models["test"])
            exchange.attempts.append(attempt)
            headers = figures.get("headers", {})
            answer = Response(usage=attempt.usage, target=chosen, provider_headers=headers)
            await routing.post_call(exchange, None if attempt.error else answer)

    return teach
