"""Google AI Studio's wire, by its public specification."""

from __future__ import annotations

import json

TARGET = "gemini/gemini-2.5-flash"
USAGE = {"promptTokenCount": 1200, "cachedContentTokenCount": 1000, "candidatesTokenCount": 40,
         "thoughtsTokenCount": 60, "totalTokenCount": 1300}  # fmt: skip
HEAD = {"modelVersion": "gemini-2.5-flash", "responseId": "resp-1"}
WEATHER = {
    "type": "function",
    "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}


def event(*parts, finish=None, index=0, **more):
    candidate = {"content": {"role": "model", "parts": list(parts)}, "index": index}
    if finish:
        candidate["finishReason"] = finish
    return {"candidates": [candidate], **HEAD, **more}


def text(said, **more):
    return event({"text": said}, **more)


TEXT = (
    text("Hel", usageMetadata={"promptTokenCount": 1200, "totalTokenCount": 1200}),
    text("lo"),
    text("", finish="STOP", usageMetadata=USAGE),
)
WHOLE = text("Hello", finish="STOP", usageMetadata=USAGE)


async def test_asks_as_the_specification_says(served, says):
    async with served(TARGET, says(WHOLE)) as (gateway, server, _):
        messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}]
        await gateway.chat(messages=messages, max_tokens=20, stop="END", top_k=5, n=1)
    asked = server.requests[0]
    assert asked.path == "/v1beta/models/gemini-2.5-flash:generateContent"
    assert asked.headers["x-goog-api-key"] == "provider-key"
    assert "authorization" not in asked.headers
    assert asked.body["system_instruction"]["parts"][0]["text"] == "Be brief."
    assert asked.body["contents"] == [{"role": "user", "parts": [{"text": "hi"}]}]
    config = asked.body["generationConfig"]
    assert (config["max_output_tokens"], config["stop_sequences"], config["top_k"]) == (20, ["END"], 5)


async def test_takes_an_address_with_its_version(served, says):
    async with served(TARGET, says(WHOLE), suffix="/v1beta/") as (gateway, server, _):
        await gateway.chat()
    assert server.requests[0].path == "/v1beta/models/gemini-2.5-flash:generateContent"


async def test_counts_thoughts_as_output_and_cached_tokens_as_input(served, says, sse):
    # 200 plain and 1000 cached of input at $0.30 and $0.03 a million, 100 of output at $2.50.
    price = {"input": 0.3, "output": 2.5, "cache_read": 0.03}
    expected = 200 * 300 + 1000 * 30 + 100 * 2500
    async with served(TARGET, says(WHOLE), sse(*TEXT), price=price) as (gateway, _, recorder):
        await gateway.chat()
        await gateway.chat(stream=True)
    for exchange, _, _ in recorder.ended:
        usage = exchange.attempts[0].usage
        assert (usage.input_tokens, usage.output_tokens, usage.reasoning_tokens) == (1200, 100, 60)
        assert exchange.cost.total == expected


async def test_counts_thoughts_once_where_the_candidates_have_them_in(served, says):
    usage = {"promptTokenCount": 10, "candidatesTokenCount": 100, "thoughtsTokenCount": 60, "totalTokenCount": 110}
    async with served(TARGET, says(text("x", finish="STOP", usageMetadata=usage))) as (gateway, _, recorder):
        await gateway.chat()
    assert recorder.last.attempts[0].usage.output_tokens == 100


async def test_streams_text_and_ends_once(served, sse):
    async with served(TARGET, sse(*TEXT)) as (gateway, server, _):
        answer = await gateway.chat(stream=True, stream_options={"include_usage": True})
    assert server.requests[0].path == "/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse"
    assert answer.text == "Hello"
    assert [event["choices"][0]["finish_reason"] for event in answer.events[:-2]] == [None, None, "stop"]
    assert answer.events[-2]["usage"]["completion_tokens_details"] == {"reasoning_tokens": 60}
    assert answer.events[-1] == "[DONE]"
    assert {event["id"] for event in answer.events[:-1]} == {"resp-1"}


async def test_streams_thoughts_as_reasoning_content(served, sse):
    thought = event({"text": "Let me see.", "thought": True})
    async with served(TARGET, sse(thought, *TEXT)) as (gateway, _, _):
        answer = await gateway.chat(stream=True, reasoning_effort="low")
    assert answer.events[0]["choices"][0]["delta"]["reasoning_content"] == "Let me see."
    assert answer.text == "Hello"


async def test_streams_parallel_tool_calls(served, sse):
    calls = [{"functionCall": {"name": name, "args": args}} for name, args in
             (("get_weather", {"city": "Berlin"}), ("get_time", {}))]  # fmt: skip
    async with served(TARGET, sse(event(*calls), text("", finish="STOP", usageMetadata=USAGE))) as (gateway, server, _):
        answer = await gateway.chat(stream=True, tools=[WEATHER], tool_choice="required")
    got = [call for part in answer.events[:-1] for call in part["choices"][0]["delta"].get("tool_calls", [])]
    assert [call["function"]["name"] for call in got] == ["get_weather", "get_time"]
    assert json.loads(got[0]["function"]["arguments"]) == {"city": "Berlin"}
    assert [call["index"] for call in got] == [0, 1]
    assert answer.events[-2]["choices"][0]["finish_reason"] == "tool_calls"
    assert server.bodies[0]["toolConfig"]["functionCallingConfig"]["mode"] == "ANY"


async def test_answers_more_than_one_choice(served, says, sse):
    two = {"candidates": [{**text(said, finish="STOP")["candidates"][0], "index": place}
                          for place, said in enumerate(("one", "two"))], "usageMetadata": USAGE, **HEAD}  # fmt: skip
    events = text("one", index=0), text("two", index=1), text("", index=0, finish="STOP", usageMetadata=USAGE), \
             text("", index=1, finish="MAX_TOKENS", usageMetadata=USAGE)  # fmt: skip
    async with served(TARGET, says(two), sse(*events)) as (gateway, server, _):
        whole = (await gateway.chat(n=2)).json()
        streamed = await gateway.chat(n=2, stream=True, stream_options={"include_usage": True})
    assert [choice["message"]["content"] for choice in whole["choices"]] == ["one", "two"]
    assert server.bodies[0]["generationConfig"]["candidate_count"] == 2
    parts = [event["choices"][0] for event in streamed.events[:-2]]
    assert [(part["index"], part["finish_reason"]) for part in parts] == [
        (0, None),
        (1, None),
        (0, "stop"),
        (1, "length"),
    ]
    assert streamed.events[-2]["usage"]["prompt_tokens"] == 1200


async def test_carries_log_probabilities(served, says):
    logprobs = {"chosenCandidates": [{"token": "Hi", "logProbability": -0.1}],
                "topCandidates": [{"candidates": [{"token": "Hi", "logProbability": -0.1}]}]}  # fmt: skip
    whole = text("Hi", finish="STOP", usageMetadata=USAGE)
    whole["candidates"][0]["logprobsResult"] = logprobs
    async with served(TARGET, says(whole)) as (gateway, server, _):
        answer = (await gateway.chat(logprobs=True, top_logprobs=1)).json()
    assert server.bodies[0]["generationConfig"]["responseLogprobs"] is True
    content = answer["choices"][0]["logprobs"]["content"][0]
    assert (content["token"], content["logprob"], content["top_logprobs"][0]["token"]) == ("Hi", -0.1, "Hi")


async def test_asks_for_a_json_schema(served, says):
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    asked = {"type": "json_schema", "json_schema": {"name": "place", "schema": schema}}
    async with served(TARGET, says(text('{"city": "Berlin"}', finish="STOP"))) as (gateway, server, _):
        answer = await gateway.chat(response_format=asked)
    config = server.bodies[0]["generationConfig"]
    assert config["response_mime_type"] == "application/json"
    assert "city" in json.dumps(config)
    assert json.loads(answer.text) == {"city": "Berlin"}


async def test_sends_an_image_as_bytes(served, says):
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
    async with served(TARGET, says(WHOLE)) as (gateway, server, _):
        await gateway.chat(messages=[{"role": "user", "content": [{"type": "text", "text": "?"}, part]}])
    assert server.bodies[0]["contents"][0]["parts"][1]["inline_data"]["data"] == "iVBORw0KGgo="


async def test_says_that_a_prompt_was_blocked(served, says, sse):
    blocked = {"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": 5}, **HEAD}
    async with served(TARGET, says(blocked), sse(blocked)) as (gateway, _, _):
        whole = (await gateway.chat()).json()
        streamed = await gateway.chat(stream=True)
    assert whole["choices"][0]["finish_reason"] == "content_filter"
    assert streamed.events[-2]["choices"][0]["finish_reason"] == "content_filter"


async def test_answers_embeddings(served, says):
    answer = {"embeddings": [{"values": [0.25, -0.5]}, {"values": [1.0, 2.0]}]}
    async with served("gemini/gemini-embedding-001", says(answer), suffix="/v1beta") as (gateway, server, recorder):
        body = {"model": "test", "input": ["one", "two"]}
        floats = await gateway.request("POST", "/v1/embeddings", body)
        packed = await gateway.request("POST", "/v1/embeddings", {**body, "encoding_format": "base64"})
    assert [item["embedding"] for item in floats.json()["data"]] == [[0.25, -0.5], [1.0, 2.0]]
    assert packed.json()["data"][0]["embedding"] == "AACAPgAAAL8="
    assert recorder.last.attempts[0].usage.estimated
    assert server.requests[0].headers["x-goog-api-key"] == "provider-key"
