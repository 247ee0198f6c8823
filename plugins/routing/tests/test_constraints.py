"""Constraints: what removes a target, and what the client is told when none is left."""

import pytest
from junctor import Client, hookimpl

TOOLS = [{"type": "function", "function": {"name": "f"}}]
IMAGE = [{"type": "image_url", "image_url": {"url": "data:"}}]
AUDIO = [{"type": "input_audio", "input_audio": {}}]
SCHEMA = {"type": "json_schema", "json_schema": {"name": "x"}}


def one(*targets):
    return [{"name": "test", "targets": list(targets)}]


def target(name, **fields):
    return {"target": f"fake/{name}", **fields}


@pytest.mark.parametrize(
    ("supports", "body", "lacks"),
    [
        (["streaming"], {"tools": TOOLS}, "tools"),
        (["streaming", "tools"], {"tools": TOOLS}, None),
        (["streaming", "function_calling"], {"tools": TOOLS}, None),
        (["streaming"], {"functions": TOOLS}, "tools"),
        (["tools"], {"text": IMAGE}, "vision"),
        (["vision"], {"text": IMAGE}, None),
        (["tools"], {"text": AUDIO}, "audio"),
        (["tools"], {"response_format": SCHEMA}, "json_schema"),
        (["response_schema"], {"response_format": SCHEMA}, None),
        (["tools"], {"response_format": {"type": "json_object"}}, None),
        (["tools"], {"stream": True}, "streaming"),
        (["streaming"], {"stream": True}, None),
        ([], {"tools": TOOLS}, "tools"),
    ],
)
async def test_a_target_must_be_able_to_do_what_the_request_needs(routed, pick, supports, body, lacks):
    async with routed({}, one(target("small", supports=supports), target("any"))) as (g, *_):
        names, exchange = await pick(g, **body)
    assert ("small" in names) is (lacks is None)
    dropped = [c for c in exchange.facts["route"]["candidates"] if "dropped" in c]
    assert dropped == ([] if lacks is None else [{"target": "fake/small", "dropped": f"does not support {lacks}"}])


async def test_a_target_of_which_nothing_is_known_is_kept(routed, pick):
    async with routed({}, one(target("unknown"))) as (g, *_):
        assert (await pick(g, tools=TOOLS, stream=True))[0] == ["unknown"]


async def test_a_target_of_which_nothing_is_known_is_dropped_where_that_is_wanted(routed):
    async with routed({"constraints": {"unknown_features": "drop"}}, one(target("unknown"))) as (g, *_):
        answer = await g.chat(tools=TOOLS)
    assert answer.status == 400
    assert "fake/unknown: does not support tools" in answer.json()["error"]["message"]


async def test_the_price_files_knowledge_counts_but_not_its_silence_on_streaming(routed, pick):
    models = one({"target": "openai/gpt-4o-mini"}, {"target": "openai/gpt-3.5-turbo"})
    async with routed({}, models) as (g, *_):
        assert len((await pick(g, stream=True))[0]) == 2
        vision, _ = await pick(g, text=IMAGE)
    assert vision == ["openai/gpt-4o-mini"]


async def test_the_estimated_input_must_fit_the_context_window(routed, pick):
    models = one(target("small", context_window=1000), target("large", context_window=100_000))
    async with routed({"strategies": {"default": "ordered"}}, models) as (g, *_):
        assert (await pick(g, "word " * 100))[0] == ["small", "large"]
        names, exchange = await pick(g, "word " * 2000)
    assert names == ["large"]
    reason = exchange.facts["route"]["candidates"][-1]["dropped"]
    assert reason.startswith("context window of 1000 tokens; about 25")


async def test_a_large_body_whose_text_is_short_fits(routed, pick):
    async with routed({}, one(target("small", context_window=1000))) as (g, *_):
        names, _ = await pick(g, [{"type": "text", "text": "hi"}], metadata={"x": "y" * 5000})
    assert names == ["small"]


async def test_an_estimate_of_another_plugin_is_used(routed):
    async with routed({}, one(target("small", context_window=500))) as (g, *_):
        text = "word " * 300  # about 375 by our own count
        assert (await g.chat(text)).status == 200

    class Counts:
        @hookimpl
        async def pre_route(self, exchange):
            exchange.facts["input_tokens_estimated"] = 501

    async with routed({}, one(target("small", context_window=500)), plugins=[Counts()]) as (g, *_):
        assert (await g.chat(text)).status == 400


async def test_scripts_with_a_token_a_character_are_counted_as_such(routed, pick):
    models = one(target("small", context_window=1000), target("large"))
    async with routed({}, models) as (g, *_):
        assert (await pick(g, "漢字" * 600))[0] == ["large"]


async def test_embeddings_are_many_inputs_each_with_its_own_window(routed):
    async with routed({}, one(target("embed", context_window=100))) as (g, *_):
        answer = await g.request("POST", "/v1/embeddings", {"model": "test", "input": ["word " * 50] * 20})
    assert answer.status == 200


async def test_too_long_for_every_target_is_a_400_that_says_so(routed):
    async with routed({}, one(target("a", context_window=100), target("b", context_window=200))) as (g, *_):
        answer = await g.chat("word " * 1000)
    error = answer.json()["error"]
    assert (answer.status, error["code"]) == (400, "context_length_exceeded")
    assert "fake/a: context window of 100" in error["message"]
    assert "fake/b: context window of 200" in error["message"]


async def test_what_no_target_can_do_is_a_400_that_names_each(routed):
    models = one(target("a", supports=["vision"]), target("b", supports=["tools"]))
    async with routed({}, models) as (g, _, recorder):
        answer = await g.chat(IMAGE, tools=TOOLS)
    error = answer.json()["error"]
    assert (answer.status, error["code"]) == (400, "unsupported_by_model")
    assert "fake/a: does not support tools; fake/b: does not support vision" in error["message"]
    assert recorder.last.facts["route"]["strategy"] == "none"


EU = one(target("here", tags=["eu", "zdr"]), target("there", tags=["us"]), target("both", tags=["eu"]))
REQUIRE = {
    "constraints": {
        "require": [{"when": {"team": "law"}, "tags": ["eu"]}, {"when": {"sensitivity": "regulated"}, "tags": ["zdr"]}]
    }
}


@pytest.mark.parametrize(
    ("team", "facts", "expected"),
    [
        ("shop", {}, {"here", "there", "both"}),
        ("law", {}, {"here", "both"}),
        ("law", {"sensitivity": "regulated"}, {"here"}),
        ("shop", {"require_tags": ["us"]}, {"there"}),
    ],
)
async def test_all_required_tags_hold_together(routed, pick, team, facts, expected):
    async with routed(REQUIRE, EU) as (g, *_):
        names, _ = await pick(g, client=Client(team=team), facts=facts)
    assert set(names) == expected


async def test_residency_that_leaves_nothing_is_a_403_that_says_who_wants_what(routed):
    class Policy:
        @hookimpl
        async def pre_route(self, exchange):
            exchange.facts["require_tags"] = ["inhouse"]

    async with routed({}, EU, plugins=[Policy()]) as (g, provider, _):
        answer = await g.chat()
    error = answer.json()["error"]
    assert (answer.status, error["code"]) == (403, "no_target_allowed")
    assert "fake/there: lacks the tag 'inhouse' (content policy)" in error["message"]
    assert not provider.calls


async def test_required_tags_are_told_to_whoever_falls_back(routed, pick):
    async with routed(REQUIRE, EU) as (g, *_):
        _, exchange = await pick(g, client=Client(team="law"), facts={"require_tags": ["zdr"]})
    assert exchange.facts["require_tags"] == ["zdr", "eu"]


async def test_a_rules_tags_are_a_constraint_with_the_rules_name(routed, pick):
    rules = [{"name": "only zdr", "use": {"tags": ["zdr"]}}]
    async with routed({"rules": rules}, EU) as (g, *_):
        names, exchange = await pick(g)
    assert names == ["here"]
    assert exchange.facts["route"]["candidates"][1]["dropped"] == "lacks the tag 'zdr' (rule 'only zdr')"


async def test_the_policy_holds_for_the_gateways_questions_about_the_request_too(routed):
    class Judge:
        @hookimpl
        async def pre_route(self, exchange):
            if not exchange.purpose:
                exchange.facts["require_tags"] = ["zdr"]
                body = {"model": "test", "messages": [{"role": "user", "content": "?"}]}
                await g.gateway.ask("chat", body, purpose="judge", parent=exchange)

    async with routed({}, EU, plugins=[Judge()]) as (g, provider, _):
        await g.chat()
    assert [name for name, _ in provider.calls] == ["fake/here", "fake/here"]


async def test_constraints_can_be_turned_off(routed, pick):
    settings = {"constraints": {"features": False, "context_window": False}}
    models = one(target("small", supports=["none"], context_window=10))
    async with routed(settings, models) as (g, *_):
        assert (await pick(g, "word " * 100, tools=TOOLS))[0] == ["small"]
