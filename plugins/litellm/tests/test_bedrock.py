"""Amazon Bedrock: signed requests, and an answer in binary frames, by AWS's public specification of both."""

from __future__ import annotations

import asyncio
import json
import re
import struct
from zlib import crc32

import pytest
from junctor import ErrorKind
from junctor.testing import require

TARGET = "bedrock/anthropic.claude-3-haiku-20240307-v1:0"
SETTINGS = {
    "providers": {
        "bedrock": {
            "aws_region_name": "eu-central-1",
            "aws_access_key_id": "AKIAEXAMPLE",
            "aws_secret_access_key": "secret-of-the-operator",
        }
    }
}
USAGE = {"inputTokens": 25, "outputTokens": 40, "totalTokens": 1465, "cacheReadInputTokens": 1000,
         "cacheWriteInputTokens": 400}  # fmt: skip


@pytest.fixture(autouse=True)
def botocore():
    from importlib.util import find_spec

    require(find_spec("botocore"), "botocore is not installed: `pip install 'junctor-litellm[bedrock]'`")


def frame(kind, payload, *, message="event"):
    """One message of AWS's event stream: lengths, their checksum, headers of strings, payload, checksum."""
    name = "exception-type" if message == "exception" else "event-type"
    names = {":message-type": message, f":{name}": kind, ":content-type": "application/json"}
    headers = b"".join(
        struct.pack(">B", len(key)) + key.encode() + struct.pack(">BH", 7, len(value)) + value.encode()
        for key, value in names.items()
    )
    body = json.dumps(payload).encode()
    prelude = struct.pack(">II", 16 + len(headers) + len(body), len(headers))
    data = prelude + struct.pack(">I", crc32(prelude)) + headers + body
    return data + struct.pack(">I", crc32(data))


TEXT = (
    frame("messageStart", {"role": "assistant"}),
    frame("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": "Hel"}}),
    frame("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": "lo"}}),
    frame("contentBlockStop", {"contentBlockIndex": 0}),
)
END = frame("messageStop", {"stopReason": "end_turn"}), frame("metadata", {"usage": USAGE, "metrics": {"latencyMs": 1}})


def frames(*pieces, hang=False):
    async def act(reply):
        await reply.head(content_type="application/vnd.amazon.eventstream")
        for piece in pieces:
            await reply.chunk(piece)
        await (asyncio.sleep(30) if hang else reply.end())

    return act


WHOLE = {"output": {"message": {"role": "assistant", "content": [{"text": "Hello"}]}}, "stopReason": "end_turn",
         "usage": USAGE, "metrics": {"latencyMs": 1}}  # fmt: skip


async def test_signs_with_the_keys_of_the_file_and_no_others(served, says):
    async with served(TARGET, says(WHOLE), settings=SETTINGS, api_key=None) as (gateway, server, _):
        answer = await gateway.chat(aws_region_name="us-east-1", aws_access_key_id="AKIAEVIL")
    assert answer.text == "Hello"
    asked = server.requests[0]
    assert asked.path.endswith("/converse")
    signature = asked.headers["authorization"]
    assert re.match(r"AWS4-HMAC-SHA256 Credential=AKIAEXAMPLE/\d{8}/eu-central-1/bedrock/", signature)
    assert "EVIL" not in json.dumps(asked.body)


async def test_streams_and_counts_what_the_frames_say(served, says):
    price = {"input": 1, "output": 5, "cache_read": 0.1, "cache_write": 1.25}
    script = frames(*TEXT, *END), says(WHOLE)
    async with served(TARGET, *script, settings=SETTINGS, api_key=None, price=price) as (gateway, server, recorder):
        streamed = await gateway.chat(stream=True)
        await gateway.chat()
    assert streamed.text == "Hello"
    assert streamed.events[-2]["choices"][0]["finish_reason"] == "stop"
    assert server.requests[0].path.endswith("/converse-stream")
    assert [exchange.cost.total for exchange, _, _ in recorder.ended] == [25_000 + 500_000 + 100_000 + 200_000] * 2


async def test_takes_a_stream_without_its_end_for_broken(served):
    async with served(TARGET, frames(*TEXT), settings=SETTINGS, api_key=None) as (gateway, _, recorder):
        answer = await gateway.chat(stream=True)
    assert answer.events[-1]["error"]
    assert recorder.last.attempts[0].error.kind is ErrorKind.PROTOCOL


async def test_closes_the_connection_when_the_client_hangs_up(served):
    async with served(TARGET, frames(*TEXT, hang=True), settings=SETTINGS, api_key=None) as (gateway, server, _):
        await gateway.chat(stream=True, hang_up_after=1)
        await asyncio.wait_for(server.left.wait(), 5)


async def test_reads_an_exception_among_the_frames(served):
    thrown = frame("throttlingException", {"message": "Too many requests"}, message="exception")
    async with served(TARGET, frames(thrown), settings=SETTINGS, api_key=None) as (gateway, _, recorder):
        await gateway.chat(stream=True)
    assert recorder.last.attempts[0].error.kind is ErrorKind.RATE_LIMITED


@pytest.mark.parametrize(("code", "name", "kind"), [
    (429, "ThrottlingException", ErrorKind.RATE_LIMITED),
    (400, "ServiceQuotaExceededException", ErrorKind.QUOTA_EXHAUSTED),
    (403, "AccessDeniedException", ErrorKind.AUTHENTICATION),
    (424, "ModelTimeoutException", ErrorKind.TIMEOUT),
    (400, "ValidationException", ErrorKind.BAD_REQUEST),
])  # fmt: skip
async def test_tells_the_kinds_of_failure_apart(served, says, code, name, kind):
    fault = says({"message": "as scripted"}, code, x_amzn_errortype=f"{name}:http://internal.amazon.com/")
    async with served(TARGET, fault, settings=SETTINGS, api_key=None) as (gateway, _, recorder):
        await gateway.chat()
    assert recorder.last.attempts[0].error.kind is kind


async def test_a_clients_own_key_signs_nothing_with_the_operators(served, says):
    from junctor import ProviderKeys, hookimpl

    class Own:
        @hookimpl
        async def pre_route(self, exchange):
            exchange.provider_keys = ProviderKeys({"bedrock": "key-of-the-client"})

    async with served(TARGET, says(WHOLE), settings=SETTINGS, api_key=None, others=(Own(),)) as (gateway, server, _):
        await gateway.chat()
    assert server.requests[0].headers["authorization"] == "Bearer key-of-the-client"
