"""Rules: the first whose condition holds decides."""

import time

import pytest
from junctor import Client, hookimpl
from junctor.testing import FakeProvider

MODELS = [
    {"name": "test", "targets": [{"target": "fake/one", "tags": ["eu"]}, {"target": "fake/two", "tags": ["us"]}]},
    {"name": "smart", "targets": [{"target": "fake/big"}]},
]


def rule(when, use=None, name="r"):
    return {"rules": [{"name": name, "when": when, "use": use or {"model": "smart"}}]}


CASES = [
    ({"model": "test"}, {}, True),
    ({"model": ["smart", "te*"]}, {}, True),
    ({"team": "search"}, {"client": Client(team="search")}, True),
    ({"team": ["hr", "law"]}, {"client": Client(team="search")}, False),
    ({"project": "p", "feature": "f", "tier": "gold"}, {"client": Client(project="p", feature="f", tier="gold")}, True),
    ({"project": "p", "feature": "f", "tier": "gold"}, {"client": Client(project="p", feature="f")}, False),
    ({"client": "ann", "key": "k1"}, {"client": Client(name="ann", key_id="k1")}, True),
    ({"client_tags": {"centre": "42"}}, {"client": Client(tags={"centre": "42"})}, True),
    ({"header": {"X-Foo": "bar"}}, {"headers": {"x-foo": "bar"}}, True),
    ({"header": {"x-foo": "b*"}}, {"headers": {"x-foo": "bar"}}, True),
    ({"header": {"x-foo": "yes"}}, {"headers": {"x-foo": "no"}}, False),
    ({"header": {"x-foo": True}}, {"headers": {"x-foo": ""}}, True),
    ({"header": {"x-foo": False}}, {"headers": {"x-foo": "1"}}, False),
    ({"metadata": {"app": "shop"}}, {"metadata": {"app": "shop"}}, True),
    ({"metadata": {"app": "shop"}}, {"metadata": "none"}, False),
    ({"task": "code"}, {"text": "Write a Python function that reverses a list"}, True),
    ({"task": "code"}, {"text": "hello there"}, False),
    ({"input_tokens": ">500"}, {"text": "word " * 1000}, True),
    ({"input_tokens": "<=500"}, {"text": "word " * 1000}, False),
    ({"input_tokens": "1k..2k"}, {"text": "word " * 1000}, True),
    ({"budget_used": ">85%"}, {"facts": {"budget_used": 0.9}}, True),
    ({"budget_used": ">85%"}, {"facts": {"budget_used": 0.85}}, False),
    ({"budget_used": ">85%"}, {}, False),
    ({"sensitivity": ["personal", "regulated"]}, {"facts": {"sensitivity": "personal"}}, True),
    ({"sensitivity": "none"}, {}, True),
    ({"tools": True}, {"tools": [{"type": "function"}]}, True),
    ({"tools": False}, {"tools": [{"type": "function"}]}, False),
    ({"images": True}, {"text": [{"type": "image_url", "image_url": {"url": "data:"}}]}, True),
    ({"json_schema": True}, {"response_format": {"type": "json_schema"}}, True),
    ({"json_schema": True}, {"response_format": {"type": "json_object"}}, False),
    ({"reasoning": True}, {"reasoning_effort": "high"}, True),
    ({"stream": True}, {"stream": True}, True),
    ({"stream": False}, {"stream": True}, False),
    ({"any": [{"team": "a"}, {"stream": True}]}, {"stream": True}, True),
    ({"any": [{"team": "a"}, {"stream": True}]}, {}, False),
    ({"not": {"team": "a"}}, {}, True),
    ({"not": {"team": "a"}}, {"client": Client(team="a")}, False),
    ({"operation": "chat"}, {}, True),
    ({"percent": 100}, {}, True),
    ({"percent": 0}, {}, False),
]


@pytest.mark.parametrize(("when", "request_", "matches"), CASES, ids=[f"{w} {r}"[:70] for w, r, _ in CASES])
async def test_a_condition_holds_or_not(routed, pick, when, request_, matches):
    async with routed(rule(when), MODELS) as (g, *_):
        _, exchange = await pick(g, **request_)
    assert (exchange.facts["route"]["rule"] == "r") is matches


async def test_the_first_rule_that_holds_wins(routed, pick):
    rules = [
        {"name": "first", "when": {"stream": True}, "use": {"tags": ["us"]}},
        {"name": "second", "use": {"tags": ["eu"]}},
    ]
    async with routed({"rules": rules}, MODELS) as (g, *_):
        assert (await pick(g, stream=True))[0] == ["two"]
        assert (await pick(g))[0] == ["one"]


async def test_a_rule_sends_the_request_to_another_model_and_the_record_says_so(routed):
    async with routed(rule({}), MODELS) as (g, provider, recorder):
        answer = await g.chat()
    assert answer.headers["x-junctor-target"] == "fake/big"
    assert provider.calls[0][0] == "fake/big"
    assert recorder.last.request.model == "test"
    assert recorder.last.facts["route"]["model"] == "smart"


async def test_a_rule_names_a_strategy(routed, pick):
    async with routed(rule({}, {"strategy": "ordered"}), MODELS) as (g, *_):
        names, exchange = await pick(g)
    assert names == ["one", "two"]
    assert exchange.facts["route"]["strategy"] == "ordered"


async def test_the_gateways_own_questions_are_not_sent_elsewhere_by_rules(routed):
    async with routed(rule({}), MODELS) as (g, provider, _):
        await g.gateway.ask("chat", {"model": "test", "messages": [{"role": "user", "content": "?"}]}, purpose="judge")
    assert provider.calls[0][0] != "fake/big"


async def test_a_canary_gets_its_share_and_the_same_key_stays_on_its_side(routed, pick):
    async with routed(rule({"percent": 10, "sticky_by": "key"}), MODELS) as (g, *_):

        async def canary(key):
            return (await pick(g, client=Client(key_id=key)))[1].facts["route"]["rule"] is not None

        first = {f"k{n}": await canary(f"k{n}") for n in range(1000)}
        again = {key: await canary(key) for key in first}
    assert first == again
    assert 70 <= sum(first.values()) <= 130


async def test_two_canaries_do_not_hit_the_same_clients(routed, pick):
    chosen = {}
    for name in ("a", "b"):
        async with routed(rule({"percent": 30, "sticky_by": "key"}, name=name), MODELS) as (g, *_):
            keys = [f"k{n}" for n in range(500)]
            chosen[name] = {k for k in keys if (await pick(g, client=Client(key_id=k)))[1].facts["route"]["rule"]}
    assert len(chosen["a"] & chosen["b"]) < 90  # 45 by chance, 150 if they were the same


async def test_a_canary_without_a_key_is_drawn_by_request(routed):
    async with routed(rule({"percent": 50}), MODELS) as (g, provider, _):
        for _ in range(100):
            await g.chat()
    assert 25 <= sum(target == "fake/big" for target, _ in provider.calls) <= 75


async def test_the_hours_of_a_rule_are_the_clocks(routed, pick):
    hour = time.gmtime().tm_hour
    now, later = f"{hour:02}:00-{(hour + 1) % 24:02}:00", f"{(hour + 2) % 24:02}:00-{(hour + 3) % 24:02}:00"
    async with routed(rule({"time": now}), MODELS) as (g, *_):
        inside = (await pick(g))[1].facts["route"]["rule"]
    async with routed(rule({"time": later}), MODELS) as (g, *_):
        outside = (await pick(g))[1].facts["route"]["rule"]
    if time.gmtime().tm_hour == hour:
        assert (inside, outside) == ("r", None)


async def test_a_plugin_before_routing_can_set_the_facts_that_rules_ask_for(routed):
    class Labels:
        @hookimpl
        async def pre_route(self, exchange):
            exchange.facts["sensitivity"] = "regulated"

    async with routed(rule({"sensitivity": "regulated"}), MODELS, FakeProvider(), [Labels()]) as (g, provider, _):
        await g.chat()
    assert provider.calls[0][0] == "fake/big"


async def test_the_header_states_the_task_where_it_is_trusted(routed, pick):
    settings = {**rule({"task": "code"}), "task": {"trust_header": True}}
    async with routed(settings, MODELS) as (g, *_):
        _, exchange = await pick(g, headers={"x-junctor-task": "code"})
    assert exchange.facts["task"] == {"name": "code", "confidence": 1.0, "source": "header"}
    assert exchange.facts["route"]["rule"] == "r"


async def test_the_header_is_ignored_where_it_is_not_trusted(routed, pick):
    async with routed(rule({"task": "code"}), MODELS) as (g, *_):
        _, exchange = await pick(g, headers={"x-junctor-task": "code"})
    assert exchange.facts["task"]["source"] == "classifier"
    assert exchange.facts["route"]["rule"] is None


async def test_a_task_that_does_not_exist_is_told_with_those_that_do(routed):
    settings = {**rule({"task": "code"}), "task": {"trust_header": True, "extra": ["legal"]}}
    async with routed(settings, MODELS) as (g, *_):
        answer = await g.chat(headers={"x-junctor-task": "cod"})
    assert answer.status == 400
    assert "legal" in answer.json()["error"]["message"]


async def test_always_classifying_leaves_the_task_for_the_log(routed, pick):
    async with routed({"task": {"classify": "always"}}, MODELS) as (g, *_):
        _, exchange = await pick(g, "Summarize the following article in three sentences: ...")
    assert exchange.facts["task"]["name"] == "summarising"
    assert exchange.facts["task"]["because"]
