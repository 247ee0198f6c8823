"""Whatever the request and the targets: only allowed targets, each once, and every other with its reason."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from junctor import Exchange, Gateway, GatewayError, Request, config
from junctor.plugins import Section
from junctor.settings import PluginSettings
from junctor.testing import FakeProvider
from junctor.wire import OPENAI
from junctor_routing import Routing

TAGS = ["eu", "us", "zdr", "premium"]
WORDS = ["tools", "vision", "json_schema", "streaming"]
KINDS = ["weighted", "ordered", "least_busy", "lowest_latency", "cheapest", "usage_aware", "sticky"]
STRATEGIES = [*KINDS, {"quality": {"tier": "premium"}}, {"slo": {"ttft_p95": 0.5, "cost_per_1k_requests": 1}}]


@st.composite
def targets(draw):
    fields = {
        "tags": st.lists(st.sampled_from(TAGS), unique=True),
        "supports": st.one_of(st.none(), st.lists(st.sampled_from(WORDS), unique=True)),
        "context_window": st.one_of(st.none(), st.integers(1, 5000)),
        "weight": st.floats(0, 10),
        "price": st.one_of(st.none(), st.fixed_dictionaries({"input": st.integers(0, 9), "output": st.integers(0, 9)})),
        "requests_per_minute": st.one_of(st.none(), st.integers(1, 5)),
    }
    found = draw(st.lists(st.fixed_dictionaries(fields), min_size=1, max_size=6))
    return [{"target": f"fake/m{n}", **{k: v for k, v in t.items() if v is not None}} for n, t in enumerate(found)]


@st.composite
def requests(draw):
    body = {"model": "test", "messages": [{"role": "user", "content": "word " * draw(st.integers(0, 3000))}]}
    if draw(st.booleans()):
        body["tools"] = [{"type": "function"}]
    request = Request(OPENAI, "chat", body, "test", draw(st.booleans()), size=len(str(body)))
    return Exchange("x", request, facts={"require_tags": draw(st.lists(st.sampled_from(TAGS), max_size=2))})


def built(listed, strategy):
    provider = Section(-1, "provider", lambda: FakeProvider(), PluginSettings())
    chosen = Routing.Settings.model_validate({"strategies": {"default": strategy}})
    tree = json.dumps({"models": [{"name": "test", "targets": listed}]})
    routing = Section(-1, "routing", Routing, chosen)
    return Gateway(config.parse(tree), extra=[routing, provider])


def reason_against(target, exchange):
    """Why a target may not answer, worked out the long way; None if it may."""
    wanted = {"tools"} if exchange.request.body.get("tools") else set()
    wanted |= {"streaming"} if exchange.request.stream else set()
    letters = len(exchange.request.body["messages"][0]["content"])
    if not set(exchange.facts["require_tags"]) <= set(target["tags"]):
        return "tag"
    if "supports" in target and not wanted <= set(target["supports"]):
        return "support"
    return "window" if letters // 4 + 4 > target.get("context_window", 10**9) else None


@given(listed=targets(), exchange=requests(), strategy=st.sampled_from(STRATEGIES))
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_only_allowed_targets_are_chosen_each_once_and_the_others_have_a_reason(listed, exchange, strategy):
    tagged = any("premium" in t["tags"] for t in listed) and any("price" in t for t in listed)
    gateway = built(listed, strategy if tagged else "weighted")
    exchange.model = gateway.models["test"]
    allowed = {t["target"] for t in listed if reason_against(t, exchange) is None}
    route = gateway.plugins.by_name["routing"].route
    if allowed:
        names = [t.name for t in run(route(exchange))]
    else:
        names = []
        with pytest.raises(GatewayError) as caught:
            run(route(exchange))
        assert caught.value.status_code in (400, 403)
    recorded = exchange.facts["route"]["candidates"]
    assert sorted(names) == sorted(allowed)
    assert [c["target"] for c in recorded if "score" in c] == names
    assert {c["target"] for c in recorded if "dropped" in c} == {t["target"] for t in listed} - allowed


def run(coroutine):
    """A coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("it waited")
