"""Streams that break off, stop, garble or fall silent; clients that hang up."""

from __future__ import annotations

import asyncio

import pytest
from junctor import ErrorKind
from junctor.faults import silence

CLAUDE, GEMINI = "anthropic/claude-haiku-4-5", "gemini/gemini-2.5-flash"
START = {"type": "message_start", "message": {"id": "m", "model": "c", "usage": {"input_tokens": 9}}}
END = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 4}}


def say(target, text):
    if target == CLAUDE:
        return {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}}
    return {
        "candidates": [{"content": {"parts": [{"text": text}]}, "index": 0}],
        "usageMetadata": {"promptTokenCount": 9},
    }


def opening(target):
    return (
        [START, say(target, "one"), say(target, "two")]
        if target == CLAUDE
        else [say(target, "one"), say(target, "two")]
    )


def closing(target):
    if target == CLAUDE:
        return [END, {"type": "message_stop"}]
    return [{"candidates": [{"finishReason": "STOP", "index": 0}],
             "usageMetadata": {"promptTokenCount": 9, "candidatesTokenCount": 4}}]  # fmt: skip


@pytest.mark.parametrize("target", [CLAUDE, GEMINI])
@pytest.mark.parametrize("broken", [False, True])
async def test_a_cut_off_answer_is_never_a_clean_end(served, sse, target, broken):
    async with served(target, sse(*opening(target), close=broken)) as (gateway, _, recorder):
        answer = await gateway.chat(stream=True)
    assert answer.text == "onetwo"
    assert answer.events[-1]["choices"][0]["finish_reason"] == "error"
    assert "[DONE]" not in answer.events
    error = recorder.last.attempts[0].error
    assert error.kind in ((ErrorKind.CONNECTION, ErrorKind.PROTOCOL) if broken else (ErrorKind.PROTOCOL,))


@pytest.mark.parametrize("target", [CLAUDE, GEMINI])
async def test_an_empty_stream_is_an_error_before_the_first_byte(served, sse, target):
    async with served(target, sse()) as (gateway, _, recorder):
        answer = await gateway.chat(stream=True)
    assert answer.status == 502
    assert recorder.last.attempts[0].error.kind is ErrorKind.PROTOCOL


@pytest.mark.parametrize("target", [CLAUDE, GEMINI])
async def test_events_may_arrive_byte_by_byte_and_with_crlf(served, sse, target):
    async def trickle(reply):
        import json

        raw = b"".join(b"data: " + json.dumps(event, ensure_ascii=False).encode() + b"\r\n\r\n" for event in
                       [*opening(target), say(target, "é😀"), *closing(target)])  # fmt: skip
        await reply.head(length=len(raw), content_type="text/event-stream")
        for place in range(len(raw)):
            await reply.send(raw[place : place + 1])
            if place % 64 == 0:
                await asyncio.sleep(0)

    async with served(target, trickle) as (gateway, _, _):
        answer = await gateway.chat(stream=True)
    assert answer.text == "onetwoé😀"
    assert answer.events[-1] == "[DONE]"


@pytest.mark.parametrize("target", [CLAUDE, GEMINI])
async def test_a_lone_surrogate_does_not_end_the_stream(served, sse, target):
    raw = b'data: {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "a\\ud83d"}}\n\n'
    if target == GEMINI:
        raw = b'data: {"candidates": [{"content": {"parts": [{"text": "a\\ud83d"}]}, "index": 0}]}\n\n'
    async with served(target, sse(*opening(target), raw, *closing(target))) as (gateway, _, _):
        answer = await gateway.chat(stream=True)
    assert answer.text == "onetwoa\ud83d"
    assert answer.events[-1] == "[DONE]"


async def test_a_lone_surrogate_in_a_whole_answer_is_replaced(served, says):
    body = b'{"id": "m", "model": "c", "content": [{"type": "text", "text": "a\\ud83d"}], "stop_reason": "end_turn"}'
    async with served(CLAUDE, says(body)) as (gateway, _, _):
        assert (await gateway.chat()).text == "a\ufffd"


async def test_a_lone_surrogate_in_a_tools_arguments_is_replaced(served, sse):
    use = {"type": "tool_use", "id": "t", "name": "f", "input": {}}
    begin = {"type": "content_block_start", "index": 0, "content_block": use}
    raw = (b'data: {"type": "content_block_delta", "index": 0, "delta": {"type": "input_json_delta", '
           b'"partial_json": "{\\"a\\": \\"\\ud83d\\"}"}}\n\n')  # fmt: skip
    async with served(CLAUDE, sse(START, begin, raw, *closing(CLAUDE))) as (gateway, _, _):
        answer = await gateway.chat(stream=True)
    assert answer.events[1]["choices"][0]["delta"]["tool_calls"][0]["function"]["arguments"] == '{"a": "\ufffd"}'
    assert answer.events[-1] == "[DONE]"


@pytest.mark.parametrize("target", [CLAUDE, GEMINI])
async def test_silence_in_the_middle_is_a_time_out(served, sse, target):
    hang = sse(*opening(target), then=lambda reply: asyncio.sleep(30))
    async with served(target, hang, timeouts={"between_chunks": 0.3}) as (gateway, server, recorder):
        answer = await gateway.chat(stream=True)
        await asyncio.wait_for(server.left.wait(), 5)
    assert answer.events[-1]["error"]
    assert recorder.last.attempts[0].error.kind is ErrorKind.TIMEOUT


@pytest.mark.parametrize("target", [CLAUDE, GEMINI])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_hangs_up_is_seen_by_the_provider(served, target, stream):
    gone = asyncio.Event()
    async with served(target, silence()) as (gateway, server, _):
        asking = asyncio.create_task(gateway.chat(stream=stream, hang_up=gone))
        while not server.requests:
            await asyncio.sleep(0.01)
        gone.set()
        await asyncio.wait_for(server.left.wait(), 5)
        await asking


@pytest.mark.parametrize("target", [CLAUDE, GEMINI])
async def test_a_client_that_hangs_up_in_the_middle_is_seen_by_the_provider(served, sse, target):
    hang = sse(*opening(target), then=lambda reply: asyncio.sleep(30))
    async with served(target, hang) as (gateway, server, recorder):
        await gateway.chat(stream=True, hang_up_after=1)
        await asyncio.wait_for(server.left.wait(), 5)
    assert recorder.last.attempts[0].abandoned


@pytest.mark.parametrize("target", [CLAUDE, GEMINI])
async def test_parallel_streams_do_not_mix(served, sse, target):
    async def echo(reply):
        said = str(reply.asked.body).split("number ")[1].split("'")[0]
        await sse(*opening(target), say(target, said), *closing(target))(reply)

    async with served(target, echo) as (gateway, _, _):
        answers = await asyncio.gather(*(gateway.chat(f"number {n}", stream=True) for n in range(20)))
    assert [answer.text for answer in answers] == [f"onetwo{n}" for n in range(20)]
