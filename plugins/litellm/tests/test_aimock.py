"""Against an independent mock of the providers' APIs: nobody who wrote this plugin wrote that."""

from __future__ import annotations

import json

import pytest
from junctor.testing import Recorder
from junctor_litellm import LiteLLM

WEATHER = {
    "type": "function",
    "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}
TARGETS = {
    "anthropic": {"target": "anthropic/claude-haiku-4-5", "wire": "anthropic"},
    "gemini": {"target": "gemini/gemini-2.5-flash", "wire": "gemini"},
    "openai": {"target": "openai/gpt-4o-mini", "suffix": "/v1"},
    "groq": {"target": "groq/llama-3.3-70b-versatile", "suffix": "/v1"},
    "cohere": {"target": "cohere/command-r", "suffix": "/v2/chat"},
    "ollama": {"target": "ollama_chat/llama3"},
}
BOTH_LANES = ("anthropic", "gemini", "openai")


@pytest.fixture
def mocked(gateway, aimock):
    def run(*plugins):
        models = []
        for name, entry in TARGETS.items():
            base = aimock + entry.get("suffix", "")
            target = {key: value for key, value in entry.items() if key != "suffix"}
            models.append({"name": name, "targets": [{**target, "api_key": "key", "base_url": base}]})
        models.append(
            {"name": "embed", "targets": [{"target": "openai/e", "api_key": "key", "base_url": aimock + "/v1"}]}
        )
        return gateway(LiteLLM, *plugins, models=models)

    return run


@pytest.mark.parametrize("model", [*BOTH_LANES, "ollama"])
async def test_chats_whole_and_streamed(mocked, model):
    recorder = Recorder()
    async with mocked(recorder) as gateway:
        whole = await gateway.chat("hello", model=model)
        streamed = await gateway.chat("hello", model=model, stream=True)
    assert whole.text == streamed.text == "Hello! How can I help you today?"
    assert whole.json()["choices"][0]["finish_reason"] == streamed.events[-2]["choices"][0]["finish_reason"] == "stop"
    assert streamed.events[-1] == "[DONE]"
    if model == "ollama":  # the mock counts nothing there
        return
    usages = [exchange.attempts[0].usage for exchange, _, _ in recorder.ended]
    assert [(usage.input_tokens, usage.output_tokens) for usage in usages] == [(11, 9)] * 2


@pytest.mark.parametrize("model", BOTH_LANES)
async def test_calls_tools_whole_and_streamed(mocked, model):
    async with mocked() as gateway:
        whole = (await gateway.chat("weather", model=model, tools=[WEATHER])).json()
        streamed = await gateway.chat("weather", model=model, tools=[WEATHER], stream=True)
    calls = whole["choices"][0]["message"]["tool_calls"]
    assert [call["function"]["name"] for call in calls] == ["get_weather", "get_time"]
    assert json.loads(calls[0]["function"]["arguments"]) == {"city": "Berlin"}
    parts = [call for event in streamed.events[:-1] for call in event["choices"][0]["delta"].get("tool_calls") or ()]
    said = {
        index: "".join(p["function"].get("arguments") or "" for p in parts if p["index"] == index) for index in (0, 1)
    }
    assert [json.loads(said[index]) for index in (0, 1)] == [{"city": "Berlin"}, {"zone": "CET"}]
    reasons = {whole["choices"][0]["finish_reason"], streamed.events[-2]["choices"][0]["finish_reason"]}
    assert reasons == {"tool_calls"}


@pytest.mark.parametrize("model", BOTH_LANES)
async def test_passes_a_rate_limit_on(mocked, model):
    async with mocked() as gateway:
        for stream in (False, True):
            answer = await gateway.chat("slow down", model=model, stream=stream)
            assert answer.status == 429
            assert answer.json()["error"]["type"] == "rate_limit_error"


@pytest.mark.parametrize("model", ["anthropic", "gemini"])
async def test_passes_reasoning_on(mocked, model):
    async with mocked() as gateway:
        whole = (await gateway.chat("think", model=model)).json()["choices"][0]["message"]
        streamed = await gateway.chat("think", model=model, stream=True)
    thought = "".join(event["choices"][0]["delta"].get("reasoning_content") or "" for event in streamed.events[:-1])
    assert whole["reasoning_content"] == thought == "Let me think"
    assert whole["content"] == streamed.text == "42"


async def test_chats_with_cohere(mocked):
    async with mocked() as gateway:
        assert (await gateway.chat("hello", model="cohere")).text == "Hello! How can I help you today?"


async def test_embeds(mocked):
    async with mocked() as gateway:
        answer = await gateway.request("POST", "/v1/embeddings", {"model": "embed", "input": "embed me"})
    assert answer.json()["data"][0]["embedding"] == [0.25, -0.5, 1.0]
