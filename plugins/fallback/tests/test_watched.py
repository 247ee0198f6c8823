"""Hedging, the slow-stream guard, and streams that are continued elsewhere."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

import pytest
from junctor import ConfigError, Exchange, ProviderKeys, hookimpl
from junctor.faults import answer, error_event, event, reset, silence, slow, status, stream_of
from junctor.faulty_server import FaultyServer
from junctor.testing import FakeProvider
from junctor_fallback import Fallback

if TYPE_CHECKING:
    from collections.abc import Callable

HEDGE = {"hedge": {"models": ["test"], "after": "50ms", "max_extra": "100%"}}
PRICE = {"input": 1, "output": 2}


@pytest.mark.parametrize("stream", [False, True])
async def test_a_hedge_answers_for_a_slow_target_and_the_loser_is_cancelled(
    world: Callable[..., Any], stream: bool
) -> None:
    async with FaultyServer(silence()) as lame, FaultyServer(answer("second")) as quick:
        targets = [
            {"target": f"faulty/{n}", "base_url": s.url, "price": PRICE} for n, s in (("one", lame), ("two", quick))
        ]
        async with world(*targets, settings=HEDGE) as w:
            got = await w.chat(stream=stream)
            assert {line["in_flight"] for line in w.plugin.snapshot()} == {0}
            async with asyncio.timeout(2):
                await lame.left.wait()
    assert (got.text, got.headers["x-junctor-target"]) == ("second", "faulty/two")
    loser, winner = w.attempts
    assert (loser.abandoned, winner.abandoned, winner.of) == (True, False, "hedge")
    assert loser.usage.estimated
    assert loser.cost.total > 0
    assert w.recorder.last.cost.total == loser.cost.total + winner.cost.total


@pytest.mark.parametrize("stream", [False, True])
async def test_a_first_target_that_wins_after_all_costs_the_hedge(world: Callable[..., Any], stream: bool) -> None:
    first, second = FaultyServer(answer("first", delay=0.15)), FaultyServer(silence())
    async with world(first, second, settings=HEDGE) as w:
        got = await w.chat(stream=stream)
        await second.left.wait()
    assert got.text == "first"
    assert [attempt.abandoned for attempt in w.attempts] == [False, True]
    assert w.attempts[1].usage is not None


async def test_a_hedge_stands_in_for_a_target_that_fails_meanwhile(world: Callable[..., Any]) -> None:
    async def late_503(reply: Any) -> None:
        await asyncio.sleep(0.1)
        await status(503)(reply)

    async with world(FaultyServer(late_503), FaultyServer(answer("second", delay=0.15)), settings=HEDGE) as w:
        assert (await w.chat()).text == "second"
        assert w.target("faulty/one")["failures"] == {"overloaded": 1}


async def test_when_both_fail_the_planner_goes_on(world: Callable[..., Any]) -> None:
    async def late_503(reply: Any) -> None:
        await asyncio.sleep(0.1)
        await status(503)(reply)

    servers = [FaultyServer(late_503), FaultyServer(status(500)), FaultyServer(answer("third"))]
    async with world(*servers, settings=HEDGE) as w:
        assert (await w.chat()).text == "third"


async def test_hedges_are_a_small_part_of_all_requests(world: Callable[..., Any]) -> None:
    settings = {"hedge": {"models": ["test"], "after": "1ms", "max_extra": "3%"}}
    first, second = FaultyServer(answer(delay=0.01)), FaultyServer(answer(delay=0.01))
    async with world(first, second, settings=settings) as w:
        await asyncio.gather(*(w.chat() for _ in range(200)))
    assert 1 <= len(second.requests) <= 6


async def test_a_hedge_goes_only_where_the_clients_own_keys_do(gateway: Callable[..., Any]) -> None:
    class Own:
        @hookimpl
        async def pre_route(self, exchange: Exchange) -> None:
            exchange.provider_keys = ProviderKeys({"fake": "sk-own-0123456789"}, only=True)

    models = [{"name": name, "targets": [{"target": target}]} for name, target in (("test", "fake/1"), ("more", "a/2"))]
    provider = FakeProvider(script=[0.2])
    async with gateway(Own(), (Fallback, {**HEDGE, "models": {"test": ["more"]}}), provider, models=models) as g:
        assert (await g.chat()).status == 200
    assert [target for target, _ in provider.calls] == ["fake/1#byok"]


async def test_without_enough_samples_nothing_is_hedged(world: Callable[..., Any]) -> None:
    settings = {"hedge": {"models": ["test"], "min_samples": 5, "max_extra": "100%"}}
    first, second = FaultyServer(*[answer()] * 5, answer("late", delay=0.2)), FaultyServer(answer("second"))
    async with world(first, second, settings=settings) as w:
        texts = [(await w.chat()).text for _ in range(6)]
    assert texts[-1] == "second"
    assert len(second.requests) == 1


SLOW = {"slow_stream": {"tokens_per_second": 20, "within": "200ms"}}


async def test_a_stream_that_drips_is_given_up_for_the_next_target(world: Callable[..., Any]) -> None:
    lame = FaultyServer(slow(0.15, "a b c d e f g h"))
    async with world(lame, FaultyServer(answer("quick")), settings=SLOW) as w:
        got = await w.chat(stream=True)
        await lame.left.wait()
    assert got.text == "quick"
    assert w.attempts[0].error.kind == "timeout"


async def test_a_fast_or_a_short_stream_passes_whole(world: Callable[..., Any]) -> None:
    for text in ("one two three four five six seven eight nine ten", "short"):
        async with world(FaultyServer(slow(0.01, text)), settings=SLOW) as w:
            got = await w.chat(stream=True)
        assert got.text == text
        assert len(w.attempts) == 1


BEGIN = "The quick brown fox jumps "
CONTINUE = {"continue": {"models": ["test"]}}


def broken_after(*deltas: dict[str, Any]) -> Any:
    async def act(reply: Any) -> None:
        await stream_of(*(event(delta) for delta in deltas), end=False)(reply)
        await asyncio.sleep(0.02)
        reply.reset()

    return act


def rest(text: str) -> Any:
    return answer(text)


async def spliced(world: Callable[..., Any], second: Any, *, tag: str = "prefill", **body: Any) -> tuple[Any, Any, Any]:
    """One request whose first target breaks off after BEGIN: the answer, the world, the second server."""
    async with FaultyServer(broken_after({"role": "assistant"}, {"content": BEGIN})) as one:
        async with FaultyServer(second) as two:
            targets = [
                {"target": "faulty/one", "base_url": one.url, "price": PRICE},
                {"target": "faulty/two", "base_url": two.url, "price": PRICE, "tags": [tag]},
            ]
            async with world(*targets, settings=CONTINUE) as w:
                return await w.chat("Tell me", stream=True, **body), w, two


@pytest.mark.parametrize("text", ["over the lazy dog", "brown fox jumps over the lazy dog"], ids=["plain", "overlap"])
async def test_a_text_that_breaks_off_is_continued_as_one_answer(world: Callable[..., Any], text: str) -> None:
    got, w, two = await spliced(world, rest(text), stream_options={"include_usage": True})
    assert got.text == BEGIN + "over the lazy dog"
    assert got.events[-1] == "[DONE]"
    assert len({e["id"] for e in got.events[:-1]}) == 1
    assert [e["junctor"] for e in got.events[:-1] if "junctor" in e] == [
        {"continued": {"from": "faulty/one", "to": "faulty/two"}}
    ]
    assert two.bodies[0]["messages"][-1] == {"role": "assistant", "content": BEGIN.rstrip()}
    assert w.recorder.last.facts["continued"]["to"] == "faulty/two"
    assert "assistant" not in json.dumps(w.recorder.last.request.body)


async def test_the_usage_of_both_attempts_is_summed_for_the_client_and_kept_apart_in_the_log(
    world: Callable[..., Any],
) -> None:
    got, w, _ = await spliced(world, rest("over the lazy dog"), stream_options={"include_usage": True})
    usage = next(e["usage"] for e in got.events[:-1] if e.get("usage"))
    first, second = w.attempts
    assert (first.error.kind, second.of, second.error) == ("connection", "continue", None)
    assert usage["prompt_tokens"] == first.usage.input_tokens + second.usage.input_tokens
    assert usage["completion_tokens"] == first.usage.output_tokens + second.usage.output_tokens
    assert (second.usage.input_tokens, second.usage.output_tokens) == (9, 6)
    assert w.recorder.last.cost.total == first.cost.total + second.cost.total


@pytest.mark.parametrize(
    ("tag", "message", "body"),
    [
        ("prefill:prefix", {"prefix": True}, {}),
        ("prefill:vllm", {}, {"continue_final_message": True, "add_generation_prompt": False}),
    ],
)
async def test_each_dialect_of_prefill_is_spoken(
    world: Callable[..., Any], tag: str, message: dict[str, Any], body: dict[str, Any]
) -> None:
    _, _, two = await spliced(world, rest("over"), tag=tag, max_tokens=50)
    assert two.bodies[0]["messages"][-1].items() >= message.items()
    assert two.bodies[0].items() >= body.items()
    assert two.bodies[0]["max_tokens"] < 50


UNSAFE: dict[str, dict[str, Any]] = {
    "tools": {"tools": [{"type": "function", "function": {"name": "f"}}]},
    "schema": {"response_format": {"type": "json_schema", "json_schema": {}}},
    "json": {"response_format": {"type": "json_object"}},
    "choices": {"n": 2},
    "logprobs": {"logprobs": True},
    "reasoning": {"reasoning_effort": "high"},
}


@pytest.mark.parametrize("name", UNSAFE)
async def test_what_is_asked_for_may_forbid_it(world: Callable[..., Any], name: str) -> None:
    got, _, two = await spliced(world, rest("over"), **UNSAFE[name])
    assert got.events[-1]["error"]["code"] == "connection"
    assert not two.requests


async def test_a_model_without_such_a_target_is_a_mistake_of_the_file(world: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match=r"continue\.models\[0\]: no target of 'test' has the tag `prefill`"):
        async with world(FaultyServer(), settings=CONTINUE):
            pass


FLIGHT: dict[str, dict[str, Any]] = {
    "tool call": {"tool_calls": [{"index": 0, "function": {"name": "f"}}]},
    "reasoning": {"reasoning_content": "hm"},
    "refusal": {"refusal": "no"},
}


@pytest.mark.parametrize("name", FLIGHT)
async def test_what_was_sent_may_forbid_it(world: Callable[..., Any], name: str) -> None:
    async with FaultyServer(broken_after({"content": BEGIN}, FLIGHT[name])) as one, FaultyServer(rest("x")) as two:
        targets = [
            {"target": "faulty/one", "base_url": one.url},
            {"target": "faulty/two", "base_url": two.url, "tags": ["prefill"]},
        ]
        async with world(*targets, settings=CONTINUE) as w:
            got = await w.chat(stream=True)
    assert got.events[-1]["error"]["code"] == "connection"
    assert not two.requests


@pytest.mark.parametrize(
    "second",
    [
        status(503),
        error_event(after=3),
        reset("mid_body"),
        stream_of(event(FLIGHT["tool call"]), event({}, "tool_calls")),
    ],
    ids=["503", "error", "reset", "tool call"],
)
async def test_a_continuation_that_fails_ends_in_one_typed_error(world: Callable[..., Any], second: Any) -> None:
    got, w, _ = await spliced(world, second)
    assert got.status == 200
    assert "error" in got.events[-1]
    assert got.text.startswith(BEGIN)
    assert {line["in_flight"] for line in w.plugin.snapshot()} == {0}


async def test_an_answer_that_begins_anew_is_not_glued_on(world: Callable[..., Any]) -> None:
    long = "Once upon a time there was a gateway that everybody trusted with "
    one = FaultyServer(broken_after({"content": long}))
    async with one, FaultyServer(rest(long + "their keys")) as two:
        targets = [
            {"target": "faulty/one", "base_url": one.url},
            {"target": "faulty/two", "base_url": two.url, "tags": ["prefill"]},
        ]
        async with world(*targets, settings=CONTINUE) as w:
            got = await w.chat(stream=True)
    assert got.text == long
    assert got.events[-1]["error"]["code"] == "protocol"


async def test_silence_in_the_middle_is_continued_too(world: Callable[..., Any]) -> None:
    async with FaultyServer(silence(after=3)) as one, FaultyServer(rest("and more")) as two:
        targets = [
            {"target": "faulty/one", "base_url": one.url},
            {"target": "faulty/two", "base_url": two.url, "tags": ["prefill"]},
        ]
        started = time.monotonic()
        async with world(*targets, settings=CONTINUE, timeouts={"between_chunks": 0.2}) as w:
            got = await w.chat(stream=True)
    assert got.text == "one two three and more"
    assert time.monotonic() - started < 5
