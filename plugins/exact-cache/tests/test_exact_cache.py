"""The cache in a running gateway: what is answered from it, what is kept, and what clients say."""

from __future__ import annotations

import asyncio
import json

import pytest
from junctor import Client, ErrorKind, ProviderError, Response, hookimpl, jsons
from junctor.testing import FakeProvider, Recorder
from junctor_exact_cache import ExactCache

_PRICED = [
    {"name": "test", "targets": [{"target": "fake/one", "price": {"input": 1, "output": 2}}]},
    {"name": "other", "targets": [{"target": "fake/one"}]},
]
_CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}


class As:
    """Says who calls, by the header x-as: `team/project/key`; and what others would have found out."""

    def __init__(self, **facts):
        self.facts = facts

    @hookimpl
    async def pre_route(self, exchange):
        team, project, key = (exchange.request.headers.get("x-as", "") + "//").split("/")[:3]
        exchange.client = Client(key_id=key, team=team, project=project)
        exchange.facts.update(self.facts)


class Answers:
    """A provider that answers with these choices, whole."""

    def __init__(self, *choices):
        self.choices, self.calls = choices, 0

    @hookimpl
    def claims(self, target):
        return True

    @hookimpl
    async def call(self, exchange, target):
        self.calls += 1
        body = jsons.dumps({"id": "x", "object": "chat.completion", "model": "m", "choices": list(self.choices)})
        reading = exchange.request.wire.read("chat", body)
        return Response(body, finish_reason=reading.finish_reason, model="m")


def _choice(finish="stop", index=0, **message):
    return {"index": index, "finish_reason": finish, "message": {"role": "assistant", "content": "x", **message}}


def _status(answer):
    return answer.headers["x-junctor-cache"]


async def test_the_second_request_is_a_hit_and_costs_no_call(gateway):
    provider = FakeProvider("four")
    async with gateway(ExactCache, provider) as g:
        first, second = await g.chat("2+2?"), await g.chat("2+2?")
    assert (_status(first), _status(second)) == ("miss", "hit")
    assert first.body == second.body
    assert len(provider.calls) == 1
    assert second.headers["age"] == "0"
    assert "." in second.headers["x-junctor-cache-entry"]


async def test_the_second_stream_is_a_hit_and_the_same_text(gateway):
    provider = FakeProvider("one two three")
    async with gateway(ExactCache, provider) as g:
        first, second = await g.chat(stream=True), await g.chat(stream=True)
    assert (_status(second), second.text, len(provider.calls)) == ("hit", "one two three", 1)
    assert second.events == first.events
    assert second.headers["content-type"].startswith("text/event-stream")


@pytest.mark.parametrize("usage", [True, False])
async def test_a_whole_answer_serves_a_stream(gateway, usage):
    recorder = Recorder()
    async with gateway(ExactCache, recorder, FakeProvider("one two")) as g:
        await g.chat()
        answer = await g.chat(stream=True, stream_options={"include_usage": usage})
    assert (_status(answer), answer.text, answer.events[-1]) == ("hit", "one two", "[DONE]")
    assert any(e != "[DONE]" and e.get("usage") for e in answer.events) is usage
    assert recorder.ended[-1][1].usage.input_tokens == 7
    assert not recorder.ended[-1][1].usage.estimated


@pytest.mark.parametrize("usage", [True, False])
async def test_a_streamed_answer_serves_whole_ones_with_its_usage(gateway, usage):
    async with gateway(ExactCache, FakeProvider("one two")) as g:
        await g.chat(stream=True, stream_options={"include_usage": usage})
        whole, again = await g.chat(), await g.chat(stream=True, stream_options={"include_usage": True})
    assert (_status(whole), whole.text) == ("hit", "one two")
    assert whole.json()["usage"] == {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
    assert whole.json()["choices"][0]["finish_reason"] == "stop"
    assert again.events[-2]["usage"]["total_tokens"] == 12


@pytest.mark.parametrize(
    ("path", "body"),
    [("/v1/embeddings", {"input": ["a", "b"]}), ("/v1/completions", {"prompt": "a"})],
)
async def test_embeddings_and_completions_are_kept_too(gateway, path, body):
    provider = FakeProvider("x")
    async with gateway(ExactCache, provider) as g:
        answers = [await g.request("POST", path, {"model": "test", **body}) for _ in range(2)]
    assert _status(answers[1]) == "hit"
    assert answers[0].body == answers[1].body
    assert len(provider.calls) == 1


async def test_a_hit_is_free_and_tells_what_it_saved(gateway):
    recorder = Recorder()
    async with gateway(ExactCache, recorder, FakeProvider(), models=_PRICED) as g:
        await g.chat()
        await g.chat()
    exchange, response, _ = recorder.ended[-1]
    assert (exchange.attempts, response.cached, response.cost) == ([], "exact", None)
    assert exchange.facts["cache"]["saved"] == 7 * 1000 + 5 * 2000
    assert exchange.facts["cache"]["status"] == "hit"
    assert response.target.name == "fake/one"


async def test_what_an_unpriced_answer_saves_is_unknown(gateway):
    recorder = Recorder()
    async with gateway(ExactCache, recorder, FakeProvider(), models=_PRICED) as g:
        await g.chat(model="other")
        await g.chat(model="other")
    assert recorder.last.facts["cache"]["saved"] is None


@pytest.mark.parametrize(
    ("choice", "kept"),
    [
        ([_choice("stop")], True),
        ([_choice("length")], False),
        ([_choice("content_filter")], False),
        ([_choice("tool_calls", tool_calls=[_CALL])], False),
        ([_choice("stop", tool_calls=[_CALL])], False),
        ([_choice("stop", tool_calls=[])], True),
        ([_choice("stop", tool_calls=None, refusal=None)], True),
        ([_choice("stop", content='say "tool_calls": [{')], True),
        ([_choice("stop", refusal="no")], False),
        ([_choice(None)], False),
    ],
)
async def test_only_complete_answers_are_kept(gateway, choice, kept):
    provider = Answers(*choice)
    async with gateway(ExactCache, provider) as g:
        answers = [await g.chat() for _ in range(2)]
    assert _status(answers[1]) == ("hit" if kept else "miss")


async def test_with_several_choices_each_must_be_complete(gateway):
    for second, status in (("length", "miss"), ("stop", "hit")):
        async with gateway(ExactCache, Answers(_choice("stop"), _choice(second, 1))) as g:
            await g.chat(n=2)
            assert _status(await g.chat(n=2)) == status


async def test_tool_calls_are_kept_if_configured(gateway):
    async with gateway((ExactCache, {"tool_calls": True}), Answers(_choice("tool_calls", tool_calls=[_CALL]))) as g:
        await g.chat()
        whole, stream = await g.chat(), await g.chat(stream=True)
    assert (_status(whole), _status(stream)) == ("hit", "hit")
    assert stream.events[0]["choices"][0]["delta"]["tool_calls"] == [{**_CALL, "index": 0}]


async def test_a_failure_and_a_stream_that_breaks_off_are_not_kept(gateway):
    error = ProviderError("down", kind=ErrorKind.OVERLOADED)
    async with gateway(ExactCache, FakeProvider("a b c", script=[error, None])) as g:
        assert (await g.chat()).status == 503
        assert _status(await g.chat()) == "miss"
    async with gateway(ExactCache, FakeProvider("a b c", cut_after=2)) as g:
        await g.chat(stream=True)
        assert _status(await g.chat(stream=True)) == "miss"


async def test_an_answer_that_the_client_did_not_wait_for_is_not_kept(gateway):
    provider = FakeProvider("a b c d", chunk_delay=0.01)
    async with gateway(ExactCache, provider) as g:
        await g.chat(stream=True, hang_up_after=2)
        assert _status(await g.chat(stream=True)) == "miss"
    assert provider.cancelled == 1


@pytest.mark.parametrize(("temperature", "status"), [(0, "hit"), (1, "hit"), (1.0, "hit"), (1.01, "bypass")])
async def test_a_temperature_above_the_limit_passes_by(gateway, temperature, status):
    async with gateway(ExactCache, FakeProvider()) as g:
        await g.chat(temperature=temperature)
        assert _status(await g.chat(temperature=temperature)) == status


async def test_the_targets_own_temperature_counts_where_the_client_is_silent(gateway):
    models = [{"name": "test", "targets": [{"target": "fake/one", "params": {"temperature": 1.5}}]}]
    async with gateway(ExactCache, FakeProvider(), models=models) as g:
        assert _status(await g.chat()) == "bypass"


async def test_answers_that_are_too_large_are_not_kept(gateway):
    async with gateway((ExactCache, {"max_entry": 1024}), FakeProvider("x" * 2000)) as g:
        for stream in (False, True):
            await g.chat(stream=stream)
            assert _status(await g.chat(stream=stream)) == "miss"


async def test_a_large_answer_is_kept_compressed(gateway):
    async with gateway((ExactCache, {"compress_above": 1024}), FakeProvider("word " * 2000)) as g:
        first, second = await g.chat(), await g.chat()
        stats = await g.gateway.plugins.by_name["exactcache"].stats()
    assert (_status(second), second.body == first.body) == ("hit", True)
    assert stats["bytes"] < 2000


async def test_an_entry_lives_as_long_as_the_first_matching_rule_says(gateway):
    rules = [{"match": {"team": "search", "task": "news"}, "ttl": 0}, {"match": {"model": "test"}, "ttl": "50ms"}]
    async with gateway(As(task={"name": "news"}), (ExactCache, {"rules": rules}), FakeProvider()) as g:
        assert _status(await g.chat(headers={"x-as": "search"})) == "bypass"
        await g.chat()
        assert _status(await g.chat()) == "hit"
        await asyncio.sleep(0.06)
        assert _status(await g.chat()) == "miss"


async def test_a_rule_for_a_model_that_is_not_there_is_a_configuration_error(gateway):
    from junctor import ConfigError

    with pytest.raises(ConfigError, match=r"rules\[0\].match.model"):
        async with gateway((ExactCache, {"rules": [{"match": {"model": "tset"}, "ttl": 1}]}), FakeProvider()):
            pass


@pytest.mark.parametrize(
    ("value", "then", "later"),
    [
        ("no-cache", "bypass", "hit"),
        ("no-store", "bypass", "hit"),
        ("max-age=0", "hit", "hit"),
        ("max-age=60, something-else", "hit", "hit"),
        ("max-age=nonsense", "hit", "hit"),
    ],
)
async def test_a_client_controls_its_own_request(gateway, value, then, later):
    async with gateway(ExactCache, FakeProvider()) as g:
        await g.chat()
        controlled = await g.chat(headers={"cache-control": value})
        assert _status(controlled) == (then if value != "max-age=0" else _status(controlled))
        assert _status(await g.chat()) == later


async def test_max_age_passes_over_older_entries(gateway):
    async with gateway(ExactCache, FakeProvider()) as g:
        await g.chat()
        await asyncio.sleep(0.02)
        assert _status(await g.chat(headers={"cache-control": "max-age=0"})) == "miss"
        assert _status(await g.chat(headers={"cache-control": "max-age=5"})) == "hit"


async def test_no_cache_renews_the_entry_and_no_store_keeps_nothing(gateway):
    provider = FakeProvider(script=["one", "two", "three"])
    async with gateway(ExactCache, provider) as g:
        await g.chat()
        await g.chat(headers={"cache-control": "no-cache"})
        assert (await g.chat()).text == "two"
        assert (await g.chat(headers={"cache-control": "no-store"})).text == "three"
        assert (await g.chat()).text == "two"


async def test_only_if_cached_never_calls_the_provider(gateway):
    provider = FakeProvider()
    only = {"cache-control": "only-if-cached"}
    async with gateway(ExactCache, provider) as g:
        miss = await g.chat(headers=only)
        assert (miss.status, miss.json()["error"]["code"], provider.calls) == (504, "not_cached", [])
        await g.chat()
        assert _status(await g.chat(headers=only)) == "hit"
        both = await g.chat(headers={"cache-control": "only-if-cached, no-store"})
    assert (both.status, len(provider.calls)) == (504, 1)


async def test_a_client_says_how_long_its_answer_lives_up_to_a_limit(gateway):
    async with gateway((ExactCache, {"ttl": 0.05, "max_ttl": 0.05}), FakeProvider()) as g:
        await g.chat(headers={"x-junctor-cache-ttl": "1h"})
        assert _status(await g.chat()) == "hit"
        await asyncio.sleep(0.06)
        assert _status(await g.chat()) == "miss"
        assert _status(await g.chat(headers={"x-junctor-cache-ttl": "0"})) == "bypass"


@pytest.mark.parametrize(
    "headers",
    [
        {"x-junctor-cache-ttl": "soon"},
        {"x-junctor-cache-ttl": "-1"},
        {"x-junctor-cache-tags": "a b"},
        {"x-junctor-cache-tags": ",".join(f"t{n}" for n in range(17))},
        {"x-junctor-cache-tags": "x" * 65},
    ],
)
async def test_nonsense_in_our_own_headers_is_a_bad_request(gateway, headers):
    async with gateway(ExactCache, FakeProvider()) as g:
        answer = await g.chat(headers=headers)
    assert (answer.status, answer.json()["error"]["param"]) == (400, next(iter(headers)))


async def test_what_clients_say_can_be_switched_off(gateway):
    async with gateway((ExactCache, {"client_control": False}), FakeProvider()) as g:
        await g.chat(headers={"cache-control": "no-store", "x-junctor-cache-ttl": "nonsense"})
        assert _status(await g.chat(headers={"cache-control": "no-cache"})) == "hit"


async def test_the_gateways_own_questions_pass_by(gateway):
    recorder = Recorder()
    body = {"model": "test", "messages": [{"role": "user", "content": "hi"}]}
    async with gateway(ExactCache, recorder, FakeProvider()) as g:
        for _ in range(2):
            assert (await g.gateway.ask("chat", body, purpose="judge")).cached is None
    assert "cache" not in recorder.last.facts


async def test_a_redaction_is_undone_in_what_comes_from_the_cache(gateway):
    class Undo:
        def __init__(self, name):
            self.name = name

        def feed(self, events):
            return events.replace(b"NAME", self.name)

        def flush(self):
            return b""

        def whole(self, body):
            return self.feed(body)

    class Redacts:
        @hookimpl
        async def pre_route(self, exchange):
            name = exchange.request.body["messages"][0]["content"]
            exchange.request.body["messages"] = [{"role": "user", "content": "NAME"}]
            exchange.transforms.append(Undo(name.encode()))

    provider = FakeProvider("hello NAME")
    async with gateway(Redacts(), ExactCache, provider) as g:
        texts = [
            (await g.chat(name, stream=stream)).text for name, stream in (("Ann", True), ("Bob", True), ("Eve", False))
        ]
    assert texts == ["hello Ann", "hello Bob", "hello Eve"]
    assert len(provider.calls) == 1


async def test_another_target_behind_the_alias_is_another_answer(gateway):
    class Moves:
        target = 0

        @hookimpl
        async def route(self, exchange):
            return [exchange.model.targets[self.target]]

    moves = Moves()
    async with gateway(moves, ExactCache, FakeProvider()) as g:
        await g.chat()
        moves.target = 1
        assert _status(await g.chat()) == "miss"
        moves.target = 0
        assert _status(await g.chat()) == "hit"


async def test_with_targets_first_the_order_counts_and_a_fallbacks_answer_is_not_kept(gateway):
    class Falls:
        @hookimpl
        async def on_error(self, exchange, target, error):
            return exchange.targets[1]

    error = ProviderError("down", kind=ErrorKind.OVERLOADED)
    for setting, status in (("first", "miss"), ("set", "hit")):
        async with gateway(Falls(), (ExactCache, {"targets": setting}), FakeProvider(script=[error, None])) as g:
            await g.chat()
            assert _status(await g.chat()) == status


async def test_another_version_of_the_prompt_template_is_another_answer(gateway):
    async with gateway(ExactCache, FakeProvider()) as g:
        await g.chat(headers={"x-prompt-version": "1"})
        assert _status(await g.chat(headers={"x-prompt-version": "1"})) == "hit"
        assert _status(await g.chat(headers={"x-prompt-version": "2"})) == "miss"
        assert _status(await g.chat()) == "miss"


async def test_settings_say_what_is_wrong_with_them():
    for raw, message in (
        ({"store": "redis://x"}, "secret"),
        ({"store": "ftp://x", "secret": "s" * 16}, "store.url"),
        ({"ttl": "9d"}, "max_ttl"),
        ({"scope": "everyone"}, "scope"),
        ({"stroe": {}}, "stroe"),
    ):
        with pytest.raises(ValueError, match=message):
            ExactCache.Settings.model_validate(raw)


@pytest.mark.parametrize("store", [None, "x"])
async def test_a_hit_needs_no_wire_of_its_own_when_the_form_is_the_same(gateway, store):
    """What was stored whole is given back byte by byte."""
    body = {"model": "test", "messages": [{"role": "user", "content": json.dumps({"store": store})}]}
    async with gateway(ExactCache, FakeProvider("ü 🦀")) as g:
        answers = [await g.request("POST", "/v1/chat/completions", body) for _ in range(2)]
    assert answers[0].body == answers[1].body


async def test_an_answer_that_two_targets_pieced_together_is_not_kept(gateway):
    class Continued:
        @hookimpl
        async def pre_route(self, exchange):
            exchange.facts["continued"] = {"from": "a/b", "to": "c/d"}

    provider = FakeProvider()
    async with gateway(Continued(), ExactCache, provider) as g:
        await g.chat("same")
        await g.chat("same")
    assert len(provider.calls) == 2
