"""The general lane: providers that litellm calls itself, over the gateway's connections."""

from __future__ import annotations

import asyncio
import json

import pytest
from junctor.faults import FAULTS, answer, silence, status, stream_of
from junctor.faults import event as chunk

GROQ = "groq/llama-3.3-70b-versatile"
MISTRAL = "mistral/mistral-small-latest"
USAGE = {
    "prompt_tokens": 100,
    "completion_tokens": 20,
    "total_tokens": 120,
    "prompt_tokens_details": {"cached_tokens": 60},
}
WEATHER = {
    "type": "function",
    "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}


def completion(message=None, finish="stop", **more):
    message = {"role": "assistant", "content": "Hello", **(message or {})}
    choice = {"index": 0, "message": message, "finish_reason": finish}
    head = {"id": "c-1", "object": "chat.completion", "created": 1, "model": "served", "service_tier": "on_demand"}
    return {**head, "choices": [choice], "usage": USAGE, **more}


def last(**more):
    head = {"id": "c-1", "object": "chat.completion.chunk", "created": 1, "model": "served"}
    return b"data: " + json.dumps({**head, "choices": [], "usage": USAGE, **more}).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"
STREAM = (chunk({"role": "assistant", "content": "Hel"}), chunk({"content": "lo"}), chunk({}, "stop"), last(), DONE)


@pytest.mark.parametrize(
    "target", [GROQ, MISTRAL, "deepseek/deepseek-chat", "openrouter/x/y", "hosted_vllm/m", "perplexity/sonar"]
)
async def test_answers_whole_and_streamed(served, says, target):
    async with served(target, says(completion()), stream_of(*STREAM), suffix="/v1") as (gateway, server, recorder):
        whole = await gateway.chat(temperature=0.5)
        streamed = await gateway.chat(stream=True)
    assert whole.text == streamed.text == "Hello"
    assert whole.json()["choices"][0]["finish_reason"] == streamed.events[-2]["choices"][0]["finish_reason"] == "stop"
    assert streamed.events[-1] == "[DONE]"
    asked = server.requests[0]
    assert asked.path == "/v1/chat/completions"
    assert asked.headers["authorization"] == "Bearer provider-key"
    assert (asked.body["temperature"], asked.body["model"]) == (0.5, target.split("/", 1)[1])
    usages = [exchange.attempts[0].usage for exchange, _, _ in recorder.ended]
    assert [(u.input_tokens, u.output_tokens, u.cache_read_tokens) for u in usages] == [(100, 20, 60)] * 2


async def test_lets_a_model_repeat_itself(served):
    same = [chunk({"content": "again "})] * 150
    async with served(MISTRAL, stream_of(*same, chunk({}, "stop"), last(), DONE), suffix="/v1") as (gateway, _, _):
        assert (await gateway.chat(stream=True)).text == "again " * 150


async def test_costs_what_the_provider_counted(served, says):
    price = {"input": 1, "output": 4, "cache_read": 0.5}
    async with served(MISTRAL, says(completion()), suffix="/v1", price=price) as (gateway, _, recorder):
        await gateway.chat()
    assert recorder.last.cost.total == 40 * 1000 + 60 * 500 + 20 * 4000


async def test_streams_tool_calls(served):
    call = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": ""}}
    rest = {"index": 0, "function": {"arguments": '{"city": "Berlin"}'}}
    events = chunk({"role": "assistant", "tool_calls": [call]}), chunk({"tool_calls": [rest]}), chunk({}, "tool_calls")
    async with served(GROQ, stream_of(*events, last(), DONE), suffix="/v1") as (gateway, server, _):
        answer = await gateway.chat(stream=True, tools=[WEATHER], tool_choice="auto")
    got = [call for part in answer.events[:-1] for call in part["choices"][0]["delta"].get("tool_calls", [])]
    assert got[0]["id"] == "call_1"
    assert "".join(part["function"].get("arguments") or "" for part in got) == '{"city": "Berlin"}'
    assert answer.events[-2]["choices"][0]["finish_reason"] == "tool_calls"
    assert server.bodies[0]["tools"] == [WEATHER]


async def test_carries_reasoning_content(served, says):
    message = {"reasoning_content": "Let me see."}
    async with served("deepseek/deepseek-reasoner", says(completion(message)), suffix="/v1") as (gateway, _, _):
        answer = await gateway.chat()
    assert answer.json()["choices"][0]["message"]["reasoning_content"] == "Let me see."


async def test_gives_a_provider_its_own_parameters(served, says):
    async with served("hosted_vllm/m", says(completion()), suffix="/v1") as (gateway, server, _):
        await gateway.chat(min_p=0.1, chat_template_kwargs={"enable_thinking": False})
    assert server.bodies[0]["min_p"] == 0.1
    assert server.bodies[0]["chat_template_kwargs"] == {"enable_thinking": False}


@pytest.mark.parametrize("target", [GROQ, MISTRAL, "cerebras/x"])
async def test_takes_a_stream_without_a_finish_reason_for_broken(served, target):
    events = STREAM[:2]
    async with served(target, stream_of(*events, DONE), stream_of(*events), suffix="/v1") as (gateway, _, recorder):
        for _ in range(2):
            answer = await gateway.chat(stream=True)
            assert answer.events[-1]["error"]["code"] == "protocol"
            assert "[DONE]" not in answer.events
    assert [type(error).__name__ for _, _, error in recorder.ended] == ["ProviderError"] * 2


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("target", [GROQ, MISTRAL])
async def test_follows_no_redirect(served, target, stream):
    async with served(target, FAULTS["redirect"], answer(), suffix="/v1") as (gateway, server, _):
        got = await gateway.chat(stream=stream)
    assert got.status == 502
    assert len(server.requests) == 1


@pytest.mark.parametrize("fault", ["500", "429", "reset before headers"])
async def test_asks_once(served, fault):
    async with served(GROQ, FAULTS[fault], suffix="/v1") as (gateway, server, _):
        await gateway.chat()
    assert len(server.requests) == 1


@pytest.mark.parametrize("after", [0, 3])
async def test_closes_the_connection_when_the_client_hangs_up(served, after):
    gone = asyncio.Event()
    async with served(GROQ, silence(after=after), suffix="/v1") as (gateway, server, _):
        asking = asyncio.create_task(gateway.chat(stream=after > 0, hang_up=gone))
        while not server.requests:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        gone.set()
        await asyncio.wait_for(server.left.wait(), 5)
        await asking
    assert server.hung_up == 1


async def test_answers_embeddings_in_both_forms(served, says):
    data = [{"object": "embedding", "index": 0, "embedding": [0.25, -0.5]}]
    body = {"object": "list", "model": "served", "data": data, "usage": {"prompt_tokens": 3, "total_tokens": 3}}
    async with served("mistral/mistral-embed", says(body), suffix="/v1") as (gateway, server, recorder):
        asked = {"model": "test", "input": "one"}
        floats = await gateway.request("POST", "/v1/embeddings", asked)
        packed = await gateway.request("POST", "/v1/embeddings", {**asked, "encoding_format": "base64"})
    assert floats.json()["data"][0]["embedding"] == [0.25, -0.5]
    assert packed.json()["data"][0]["embedding"] == "AACAPgAAAL8="
    assert server.requests[0].path == "/v1/embeddings"
    assert recorder.last.attempts[0].usage.input_tokens == 3


async def test_calls_azure_with_the_version_from_the_file(served, says):
    settings = {"providers": {"azure": {"api_version": "2024-10-21"}}}
    async with served("azure/my-deployment", says(completion()), settings=settings) as (gateway, server, _):
        await gateway.chat(api_version="1999-01-01")
    path = server.requests[0].path
    assert path == "/openai/deployments/my-deployment/chat/completions?api-version=2024-10-21"
    assert server.requests[0].headers["api-key"] == "provider-key"


async def test_relays_what_the_sdk_alone_would_parse(served):
    odd = b'data: {"id":"c-1","choices":[{"index":0,"delta":{"content":"x","brand_new":1},"finish_reason":null}]}\n\n'
    async with served("cerebras/x", stream_of(odd, *STREAM[2:]), suffix="/v1") as (gateway, _, recorder):
        answer = await gateway.chat(stream=True)
    assert answer.body.startswith(odd)
    assert recorder.last.attempts[0].usage.input_tokens == 100


async def test_waits_as_the_provider_asks(served):
    fault = status(429, error="rate_limit_exceeded", retry_after="7")
    async with served(GROQ, fault, suffix="/v1") as (gateway, _, recorder):
        answer = await gateway.chat()
    assert answer.status == 429
    assert recorder.last.attempts[0].error.retry_after == 7
