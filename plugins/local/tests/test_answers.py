"""The real model through the real hooks: what a client's SDK relies on."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
from junctor import config as configuration
from junctor.gateway import Gateway
from junctor.testing import Harness, Recorder

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    Run = Callable[..., AbstractAsyncContextManager[Harness]]

pytestmark = pytest.mark.anyio

CONFIG = """
models: [{name: test, targets: [{target: local/smollm2}]}]
plugins: [{local: {context: 2048, parallel: 2, threads: 1, preload: true}}]
"""
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 20}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
CLOCK = {
    "type": "function",
    "function": {
        "name": "get_time",
        "parameters": {
            "type": "object",
            "properties": {"zone": {"enum": ["utc", "cet"]}},
            "required": ["zone"],
            "additionalProperties": False,
        },
    },
}
ROOM = 400  # output tokens; nine gaps of 22 characters, and what `one_of` asks for


@pytest.fixture(scope="module")
async def shared(model_file: Path) -> AsyncIterator[Harness]:
    """One gateway for all tests of this module: the model is loaded once."""
    async with Gateway(configuration.parse(CONFIG)) as gateway:
        yield Harness(gateway)


def one_of(choices: list[Any], **schema: Any) -> dict[str, Any]:
    """A response format that leaves the model a choice between these values of `value`.

    llama.cpp's grammar lets the model put up to 22 characters of white space between any two tokens of the JSON, and a
    small model does: a test that reads the answer leaves room for all of it (`ROOM`), or it is cut off now and then.
    """
    properties = {"value": {"enum": choices}, **schema}
    wanted = {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
    return {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": wanted}}


async def test_answers_a_chat_and_counts_its_tokens(shared: Harness) -> None:
    answer = await shared.chat("Say hello.", max_tokens=5, temperature=0)
    body = answer.json()
    assert answer.status == 200
    assert body["choices"][0]["message"]["role"] == "assistant"
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["usage"]["completion_tokens"] == 5
    assert body["usage"]["prompt_tokens"] > 5


async def test_a_stream_says_the_same_as_the_whole_answer(shared: Harness) -> None:
    whole = await shared.chat("Name three colours.", max_tokens=25, temperature=0)
    stream = await shared.chat("Name three colours.", max_tokens=25, temperature=0, stream=True)
    assert stream.headers["content-type"].startswith("text/event-stream")
    assert stream.text == whole.text
    assert stream.events[-1] == "[DONE]"
    assert stream.events.count("[DONE]") == 1
    assert len(stream.chunks) > 5


async def test_a_stream_has_usage_if_the_client_asked_for_it(shared: Harness) -> None:
    asked = await shared.chat(max_tokens=4, stream=True, stream_options={"include_usage": True})
    silent = await shared.chat(max_tokens=4, stream=True)
    assert asked.events[-2]["usage"]["completion_tokens"] == 4
    assert asked.events[-2]["choices"] == []
    assert not any(event.get("usage") for event in silent.events[:-1])


async def test_answers_a_completion_whole_and_streamed(shared: Harness) -> None:
    body = {"model": "test", "prompt": "The sky is", "max_tokens": 6, "temperature": 0}
    whole = await shared.request("POST", "/v1/completions", body)
    stream = await shared.request("POST", "/v1/completions", {**body, "stream": True})
    text = "".join(event["choices"][0]["text"] for event in stream.events[:-1])
    assert whole.json()["object"] == "text_completion"
    assert whole.json()["choices"][0]["text"] == text
    assert text.strip()


async def test_calls_a_function_when_it_must(shared: Harness) -> None:
    answer = await shared.chat("Weather in Paris?", tools=[WEATHER, CLOCK], tool_choice="required", temperature=0)
    choice = answer.json()["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert [call["function"]["name"] for call in choice["message"]["tool_calls"]] == ["get_weather"]
    assert json.loads(choice["message"]["tool_calls"][0]["function"]["arguments"]) == {"city": "Paris"}


async def test_calls_the_function_that_the_client_names(shared: Harness) -> None:
    named = {"type": "function", "function": {"name": "get_time"}}
    answer = await shared.chat("Weather in Paris?", tools=[WEATHER, CLOCK], tool_choice=named)
    (call,) = answer.json()["choices"][0]["message"]["tool_calls"]
    assert call["function"]["name"] == "get_time"
    assert json.loads(call["function"]["arguments"])["zone"] in ("utc", "cet")


async def test_refuses_a_choice_of_a_function_that_is_not_there(shared: Harness) -> None:
    named = {"type": "function", "function": {"name": "get_money"}}
    answer = await shared.chat(tools=[WEATHER], tool_choice=named)
    assert answer.status == 400
    assert answer.json()["error"]["param"] == "tool_choice"


async def test_streams_the_arguments_of_a_call(shared: Harness) -> None:
    answer = await shared.chat("Weather in Paris?", tools=[WEATHER], tool_choice="required", stream=True, temperature=0)
    choices = [event["choices"][0] for event in answer.events[:-1] if event["choices"]]
    calls = [call for choice in choices for call in choice["delta"].get("tool_calls", [])]
    assert calls[0]["function"]["name"] == "get_weather"
    assert calls[0]["id"]
    assert json.loads("".join(call["function"]["arguments"] for call in calls)) == {"city": "Paris"}
    assert len(calls) > 2
    assert choices[-1]["finish_reason"] == "tool_calls"


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": "all"},
        {"tools": [1]},
        {"tools": [{}], "tool_choice": "required"},
        {"tools": [WEATHER], "tool_choice": {"function": "get_weather"}},
    ],
)
async def test_tools_that_make_no_sense_are_the_client_s_fault(shared: Harness, fields: dict[str, Any]) -> None:
    answer = await shared.chat(**fields, max_tokens=5)
    assert answer.status == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("choice", [None, "auto", "none"])
async def test_answers_with_words_where_a_call_is_not_demanded(shared: Harness, choice: str | None) -> None:
    fields: dict[str, Any] = {} if choice is None else {"tool_choice": choice}
    answer = await shared.chat("Weather in Paris?", tools=[WEATHER], max_tokens=10, **fields)
    assert answer.status == 200
    assert answer.text


async def test_takes_the_result_of_a_function(shared: Harness) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'}}
    messages = [
        {"role": "user", "content": "Weather in Paris?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "sunny"},
    ]
    answer = await shared.chat(messages=messages, tools=[WEATHER], max_tokens=10)
    assert answer.status == 200
    assert answer.text


async def test_keeps_to_a_json_schema(shared: Harness) -> None:
    wanted = one_of(["red", "green"], count={"type": "integer", "minimum": 1, "maximum": 9})
    whole = await shared.chat("A colour and a number.", response_format=wanted, max_tokens=ROOM)
    stream = await shared.chat("A colour and a number.", response_format=wanted, max_tokens=ROOM, stream=True)
    for answer in (whole, stream):
        parsed = json.loads(answer.text)
        assert parsed["value"] in ("red", "green")
        assert 1 <= parsed["count"] <= 9


async def test_characters_are_whole_though_their_tokens_are_not(shared: Harness) -> None:
    # None of these is one token: their bytes come in several.
    text = "𝕏 🧑‍🚀 ปลา ͼ"
    answer = await shared.chat("Answer.", response_format=one_of([text]), max_tokens=ROOM, stream=True)
    assert json.loads(answer.text) == {"value": text}
    for chunk in answer.chunks:
        chunk.decode()


async def test_parallel_streams_do_not_mix(shared: Harness) -> None:
    async def ask(number: int) -> Any:
        answer = await shared.chat("A number.", response_format=one_of([number]), max_tokens=ROOM, stream=True)
        return json.loads(answer.text)["value"]

    assert await asyncio.gather(*map(ask, range(100, 112))) == list(range(100, 112))


async def test_passes_on_what_junctor_does_not_know(shared: Harness) -> None:
    answer = await shared.chat(max_tokens=1, logprobs=True, top_logprobs=2, n=2)
    choices = answer.json()["choices"]
    assert len(choices) == 2
    assert len(choices[0]["logprobs"]["content"][0]["top_logprobs"]) == 2


async def test_refuses_embeddings_of_a_chat_model(shared: Harness) -> None:
    answer = await shared.request("POST", "/v1/embeddings", {"model": "test", "input": "hello"})
    assert answer.status == 400
    assert answer.json()["error"]["code"] == "unsupported_operation"
    assert "serves chat and completions, not embeddings" in answer.json()["error"]["message"]


async def test_refuses_an_image(shared: Harness) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
    answer = await shared.chat(messages=[{"role": "user", "content": [image]}])
    assert answer.status == 400
    assert "image input is not supported" in answer.json()["error"]["message"]


async def test_says_when_a_prompt_is_too_long(shared: Harness) -> None:
    answer = await shared.chat("word " * 5000)
    assert answer.status == 400
    assert answer.json()["error"]["code"] == "context_length_exceeded"


async def test_the_exchange_knows_the_usage_of_a_stream(run: Run) -> None:
    recorder = Recorder()
    async with run(recorder) as harness:
        await harness.chat(max_tokens=4, stream=True)
    _, response, error = recorder.ended[0]
    assert error is None
    assert response is not None
    assert response.usage is not None
    assert response.usage.output_tokens == 4
    assert str(response.target) == "local/smollm2"
