"""Anthropic's wire, by its public specification: what is asked, what comes back, what it costs."""

from __future__ import annotations

import json

START = {
    "type": "message_start",
    "message": {
        "id": "msg_01", "type": "message", "role": "assistant", "content": [], "model": "claude-haiku-4-5-20251001",
        "stop_reason": None, "stop_sequence": None,
        "usage": {"input_tokens": 25, "cache_creation_input_tokens": 400, "cache_read_input_tokens": 1000,
                  "output_tokens": 1},
    },
}  # fmt: skip
STOP = {"type": "message_stop"}


def end(reason="end_turn", **usage):
    return {
        "type": "message_delta",
        "delta": {"stop_reason": reason, "stop_sequence": None},
        "usage": {"output_tokens": 40, **usage},
    }


def begin(index, **block):
    return {"type": "content_block_start", "index": index, "content_block": block}


def delta(index, kind, **fields):
    return {"type": "content_block_delta", "index": index, "delta": {"type": kind, **fields}}


def over(index):
    return {"type": "content_block_stop", "index": index}


TEXT = (
    START, {"type": "ping"}, begin(0, type="text", text=""), delta(0, "text_delta", text="Hel"),
    delta(0, "text_delta", text="lo"), over(0), end(), STOP,
)  # fmt: skip
THINKING = (
    START, begin(0, type="thinking", thinking="", signature=""), delta(0, "thinking_delta", thinking="Let me "),
    delta(0, "thinking_delta", thinking="see."), delta(0, "signature_delta", signature="c2ln"), over(0),
    begin(1, type="text", text=""), delta(1, "text_delta", text="42"), over(1),
    end(output_tokens_details={"thinking_tokens": 30}), STOP,
)  # fmt: skip
TOOLS = (
    START, begin(0, type="text", text=""), delta(0, "text_delta", text="I look."), over(0),
    begin(1, type="tool_use", id="toolu_1", name="get_weather", input={}),
    delta(1, "input_json_delta", partial_json='{"city": '), delta(1, "input_json_delta", partial_json='"Berlin"}'),
    over(1), begin(2, type="tool_use", id="toolu_2", name="get_time", input={}),
    delta(2, "input_json_delta", partial_json="{}"), over(2), end("tool_use"), STOP,
)  # fmt: skip
WHOLE = {
    "id": "msg_01", "type": "message", "role": "assistant", "model": "claude-haiku-4-5-20251001",
    "content": [{"type": "text", "text": "Hello"}], "stop_reason": "end_turn", "stop_sequence": None,
    "usage": {"input_tokens": 25, "cache_creation_input_tokens": 400, "cache_read_input_tokens": 1000,
              "output_tokens": 40},
}  # fmt: skip
TARGET = "anthropic/claude-haiku-4-5"
WEATHER = {
    "type": "function",
    "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}


async def test_asks_as_the_specification_says(served, says):
    async with served(TARGET, says(WHOLE)) as (gateway, server, _):
        messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}]
        await gateway.chat(messages=messages, max_tokens=20, stop="END", temperature=0.5)
    asked = server.requests[0]
    assert asked.path == "/v1/messages"
    assert asked.headers["x-api-key"] == "provider-key"
    assert asked.headers["anthropic-version"] == "2023-06-01"
    assert asked.body["system"][0]["text"] == "Be brief."
    assert asked.body["messages"][0]["role"] == "user"
    assert (asked.body["max_tokens"], asked.body["stop_sequences"], asked.body["temperature"]) == (20, ["END"], 0.5)


async def test_answers_whole_in_openai_wire(served, says):
    async with served(TARGET, says(WHOLE)) as (gateway, _, recorder):
        answer = (await gateway.chat()).json()
    assert answer["object"] == "chat.completion"
    assert answer["id"] == "msg_01"
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": "Hello"}
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"]["prompt_tokens"] == 1425
    assert answer["usage"]["prompt_tokens_details"] == {"cached_tokens": 1000, "cache_creation_tokens": 400}
    assert recorder.last.attempts[0].usage.input_tokens == 1425


async def test_costs_the_same_to_the_nano_dollar_whole_and_streamed(served, says, sse):
    # 25 plain, 400 written and 1000 read of input at $1, $1.25 and $0.10 a million, 40 of output at $5.
    price = {"input": 1, "output": 5, "cache_read": 0.1, "cache_write": 1.25}
    expected = 25 * 1_000 + 400 * 1_250 + 1000 * 100 + 40 * 5_000
    async with served(TARGET, says(WHOLE), sse(*TEXT, named=True), price=price) as (gateway, _, recorder):
        await gateway.chat()
        await gateway.chat(stream=True)
    assert [exchange.cost.total for exchange, _, _ in recorder.ended] == [expected, expected]


async def test_streams_text_and_ends_once(served, sse):
    async with served(TARGET, sse(*TEXT, named=True)) as (gateway, server, recorder):
        answer = await gateway.chat(stream=True)
    assert answer.text == "Hello"
    assert answer.events[-1] == "[DONE]"
    assert [event["choices"][0]["finish_reason"] for event in answer.events[:-1]] == [None, None, "stop"]
    assert answer.events[0]["choices"][0]["delta"]["role"] == "assistant"
    assert server.bodies[0]["stream"] is True
    usage = recorder.last.attempts[0].usage
    assert (usage.input_tokens, usage.output_tokens, usage.cache_read_tokens) == (1425, 40, 1000)


async def test_gives_the_usage_to_a_client_that_asks_for_it(served, sse):
    async with served(TARGET, sse(*TEXT)) as (gateway, _, _):
        answer = await gateway.chat(stream=True, stream_options={"include_usage": True})
    assert answer.events[-2]["choices"] == []
    assert answer.events[-2]["usage"]["total_tokens"] == 1465


async def test_streams_thinking_as_reasoning_content(served, sse):
    async with served(TARGET, sse(*THINKING)) as (gateway, _, recorder):
        thinking = {"type": "enabled", "budget_tokens": 1024}
        answer = await gateway.chat(stream=True, max_tokens=2048, thinking=thinking)
    deltas = [event["choices"][0]["delta"] for event in answer.events[:-1]]
    assert "".join(part.get("reasoning_content", "") for part in deltas) == "Let me see."
    assert [block["signature"] for part in deltas for block in part.get("thinking_blocks", []) if "signature" in block]
    assert answer.text == "42"
    assert recorder.last.attempts[0].usage.reasoning_tokens == 30


async def test_streams_parallel_tool_calls(served, sse):
    async with served(TARGET, sse(*TOOLS)) as (gateway, server, _):
        answer = await gateway.chat(stream=True, tools=[WEATHER], tool_choice="required", parallel_tool_calls=True)
        whole = json.loads(gateway_whole(answer))
    calls = whole["choices"][0]["message"]["tool_calls"]
    assert [(call["id"], call["function"]["name"]) for call in calls] == [
        ("toolu_1", "get_weather"),
        ("toolu_2", "get_time"),
    ]
    assert json.loads(calls[0]["function"]["arguments"]) == {"city": "Berlin"}
    assert whole["choices"][0]["finish_reason"] == "tool_calls"
    assert server.bodies[0]["tool_choice"]["type"] == "any"


def gateway_whole(answer):
    from junctor.wire import OPENAI

    request = OPENAI.parse("chat", b'{"model": "m", "messages": [{"role": "user"}]}', {}, max_depth=50)
    return OPENAI.to_whole(request, answer.body)


async def test_sends_tool_results_back(served, says):
    call = {"id": "toolu_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Berlin"}'}}
    messages = [
        {"role": "user", "content": "weather?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "toolu_1", "content": "12 degrees"},
    ]
    async with served(TARGET, says(WHOLE)) as (gateway, server, _):
        await gateway.chat(messages=messages, tools=[WEATHER])
    sent = server.bodies[0]["messages"]
    assert sent[1]["content"][0]["type"] == "tool_use"
    assert sent[2]["content"][0] == {"type": "tool_result", "tool_use_id": "toolu_1", "content": "12 degrees"}


async def test_puts_a_json_schema_in_and_content_out(served, says, sse):
    tool = {"type": "tool_use", "id": "toolu_1", "name": "json_tool_call", "input": {"city": "Berlin"}}
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    asked = {"type": "json_schema", "json_schema": {"name": "place", "schema": schema}}
    whole = says({**WHOLE, "content": [tool], "stop_reason": "tool_use"})
    events = [START, begin(0, **{**tool, "input": {}}), delta(0, "input_json_delta", partial_json='{"city": "Berlin"}'),
              over(0), end("tool_use"), STOP]  # fmt: skip
    # A model of the time before Anthropic took schemas itself: a tool stands for it.
    async with served("anthropic/claude-3-haiku-20240307", whole, sse(*events)) as (gateway, _, _):
        plain = await gateway.chat(response_format=asked)
        streamed = await gateway.chat(response_format=asked, stream=True)
    assert json.loads(plain.text) == json.loads(streamed.text) == {"city": "Berlin"}
    assert plain.json()["choices"][0]["finish_reason"] == streamed.events[-2]["choices"][0]["finish_reason"] == "stop"


async def test_sends_an_image_as_bytes(served, says):
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
    async with served(TARGET, says(WHOLE)) as (gateway, server, _):
        answer = await gateway.chat(messages=[{"role": "user", "content": [{"type": "text", "text": "?"}, part]}])
    assert answer.status == 200
    source = server.bodies[0]["messages"][0]["content"][1]["source"]
    assert (source["type"], source["media_type"], source["data"]) == ("base64", "image/png", "iVBORw0KGgo=")


async def test_answers_plain_completions(served, says, sse):
    async with served(TARGET, says(WHOLE), sse(*TEXT)) as (gateway, server, _):
        body = {"model": "test", "prompt": "Say hello", "max_tokens": 9}
        whole = await gateway.request("POST", "/v1/completions", body)
        streamed = await gateway.request("POST", "/v1/completions", {**body, "stream": True})
    assert whole.json()["object"] == "text_completion"
    assert whole.json()["choices"][0]["text"] == "Hello"
    assert "".join(event["choices"][0]["text"] for event in streamed.events[:-1]) == "Hello"
    assert server.bodies[0]["messages"][0]["content"][0]["text"] == "Say hello"


async def test_leaves_the_request_as_it_was_for_the_next_attempt(served, says):
    messages = [
        {"role": "system", "content": "s"},
        {"role": "developer", "content": "d"},
        {"role": "user", "content": "u"},
    ]
    async with served(TARGET, says(WHOLE)) as (gateway, _, recorder):
        await gateway.chat(messages=messages, tools=[WEATHER])
    assert recorder.last.request.body["messages"] == messages
    assert recorder.last.request.body["tools"] == [WEATHER]


async def test_gives_tools_their_own_names_back(served, says, sse):
    tool = {
        "type": "function",
        "function": {"name": "files/read.v1", "parameters": {"type": "object", "properties": {}}},
    }
    use = {"type": "tool_use", "id": "toolu_1", "name": "files_read_v1", "input": {}}
    events = [START, begin(0, **use), over(0), end("tool_use"), STOP]
    whole = says({**WHOLE, "content": [use], "stop_reason": "tool_use"})
    async with served(TARGET, whole, sse(*events)) as (gateway, server, _):
        plain = (await gateway.chat(tools=[tool])).json()["choices"][0]["message"]["tool_calls"]
        streamed = (await gateway.chat(tools=[tool], stream=True)).events[0]["choices"][0]["delta"]["tool_calls"]
    assert server.bodies[0]["tools"][0]["name"] == "files_read_v1"
    assert plain[0]["function"]["name"] == streamed[0]["function"]["name"] == "files/read.v1"
