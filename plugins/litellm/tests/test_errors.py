"""What a provider says of its failure, on each lane, and what becomes of it."""

from __future__ import annotations

import pytest
from junctor import ErrorKind, ProviderError
from junctor.faults import FAULTS, silence, stream_of
from junctor_litellm.errors import from_exception, from_status

CLAUDE, GEMINI, GROQ = "anthropic/claude-haiku-4-5", "gemini/gemini-2.5-flash", "groq/llama-3.3-70b-versatile"


def anthropic(kind, message="as scripted"):
    return {"type": "error", "error": {"type": kind, "message": message}}


def google(code, status, message="as scripted", *details):
    return {"error": {"code": code, "status": status, "message": message, "details": list(details)}}


SAID = [
    (CLAUDE, 429, anthropic("rate_limit_error"), ErrorKind.RATE_LIMITED, 429),
    (CLAUDE, 529, anthropic("overloaded_error"), ErrorKind.OVERLOADED, 503),
    (CLAUDE, 500, anthropic("api_error"), ErrorKind.OVERLOADED, 503),
    (CLAUDE, 400, anthropic("invalid_request_error", "Your credit balance is too low"), ErrorKind.QUOTA_EXHAUSTED, 429),
    (CLAUDE, 400, anthropic("invalid_request_error", "prompt is too long: 9 tokens"), ErrorKind.CONTEXT_TOO_LONG, 400),
    (CLAUDE, 400, anthropic("invalid_request_error", "Output blocked by content filtering policy"),
     ErrorKind.CONTENT_POLICY, 400),
    (CLAUDE, 400, anthropic("invalid_request_error", "max_tokens: must be positive"), ErrorKind.BAD_REQUEST, 400),
    (CLAUDE, 413, anthropic("request_too_large"), ErrorKind.CONTEXT_TOO_LONG, 400),
    (CLAUDE, 401, anthropic("authentication_error"), ErrorKind.AUTHENTICATION, 502),
    (CLAUDE, 403, anthropic("permission_error"), ErrorKind.AUTHENTICATION, 502),
    (CLAUDE, 404, anthropic("not_found_error"), ErrorKind.NOT_FOUND, 404),
    (CLAUDE, 504, anthropic("timeout_error"), ErrorKind.TIMEOUT, 504),
    (CLAUDE, 307, {}, ErrorKind.PROTOCOL, 502),
    (GEMINI, 429, google(429, "RESOURCE_EXHAUSTED"), ErrorKind.RATE_LIMITED, 429),
    (GEMINI, 429, google(429, "RESOURCE_EXHAUSTED", "You exceeded your current quota"), ErrorKind.QUOTA_EXHAUSTED, 429),
    (GEMINI, 503, google(503, "UNAVAILABLE"), ErrorKind.OVERLOADED, 503),
    (GEMINI, 500, google(500, "INTERNAL"), ErrorKind.OVERLOADED, 503),
    (GEMINI, 504, google(504, "DEADLINE_EXCEEDED"), ErrorKind.TIMEOUT, 504),
    (GEMINI, 400, google(400, "INVALID_ARGUMENT", "API key not valid."), ErrorKind.AUTHENTICATION, 502),
    (GEMINI, 400, google(400, "INVALID_ARGUMENT", "The input token count (9) exceeds the maximum number of tokens"),
     ErrorKind.CONTEXT_TOO_LONG, 400),
    (GEMINI, 400, google(400, "INVALID_ARGUMENT"), ErrorKind.BAD_REQUEST, 400),
    (GEMINI, 403, google(403, "PERMISSION_DENIED"), ErrorKind.AUTHENTICATION, 502),
    (GEMINI, 404, google(404, "NOT_FOUND"), ErrorKind.NOT_FOUND, 404),
    (GROQ, 429, {"error": {"code": "rate_limit_exceeded", "message": "m"}}, ErrorKind.RATE_LIMITED, 429),
    (GROQ, 429, {"error": {"code": "insufficient_quota", "message": "m"}}, ErrorKind.QUOTA_EXHAUSTED, 429),
    (GROQ, 400, {"error": {"code": "context_length_exceeded", "message": "m"}}, ErrorKind.CONTEXT_TOO_LONG, 400),
    (GROQ, 400, {"error": {"code": "content_filter", "message": "m"}}, ErrorKind.CONTENT_POLICY, 400),
    (GROQ, 401, {"error": {"code": "invalid_api_key", "message": "m"}}, ErrorKind.AUTHENTICATION, 502),
    (GROQ, 402, {"error": {"message": "pay"}}, ErrorKind.QUOTA_EXHAUSTED, 429),
    (GROQ, 404, {"error": {"code": "model_not_found", "message": "m"}}, ErrorKind.NOT_FOUND, 404),
    (GROQ, 422, {"error": {"message": "m"}}, ErrorKind.BAD_REQUEST, 422),
    (GROQ, 503, {"error": {"message": "m"}}, ErrorKind.OVERLOADED, 503),
]  # fmt: skip


@pytest.mark.parametrize(("target", "code", "body", "kind", "status"), SAID)
async def test_tells_the_kinds_of_failure_apart(served, says, target, code, body, kind, status):
    async with served(target, says(body, code, request_id="r", location="/")) as (gateway, server, recorder):
        answer = await gateway.chat()
        streamed = await gateway.chat(stream=True)
    error = recorder.last.attempts[0].error
    assert (error.kind, error.provider_status) == (kind, code)
    assert answer.status == streamed.status == status
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert len(server.requests) == 2


@pytest.mark.parametrize(("target", "field", "value", "seconds"), [
    (CLAUDE, "retry_after", "17", 17.0),
    (GEMINI, "retry_after_ms", "1500", 1.5),
    (GROQ, "retry_after", "3", 3.0),
])  # fmt: skip
async def test_passes_on_how_long_to_wait(served, says, target, field, value, seconds):
    async with served(target, says({"error": {"message": "m"}}, 429, **{field: value})) as (gateway, _, recorder):
        answer = await gateway.chat()
    assert recorder.last.attempts[0].error.retry_after == seconds
    assert "retry-after" in answer.headers


def test_reads_googles_own_way_to_ask_for_patience():
    retry = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "34.5s"}
    body = b"[" + str(google(429, "RESOURCE_EXHAUSTED", "m", retry)).replace("'", '"').encode() + b"]"
    assert from_status(429, {}, body).retry_after == 34.5


@pytest.mark.parametrize("target", [CLAUDE, GEMINI, GROQ])
@pytest.mark.parametrize(("fault", "kind"), [
    ("reset before headers", ErrorKind.CONNECTION),
    ("reset after headers", ErrorKind.CONNECTION),
    ("html with 200", ErrorKind.PROTOCOL),
    ("empty body", ErrorKind.PROTOCOL),
    ("half json", ErrorKind.PROTOCOL),
    ("502 html", ErrorKind.OVERLOADED),
    ("redirect", ErrorKind.PROTOCOL),
])  # fmt: skip
async def test_survives_what_is_no_answer(served, target, fault, kind):
    async with served(target, FAULTS[fault]) as (gateway, server, recorder):
        for stream in (False, True):
            answer = await gateway.chat(stream=stream)
            assert answer.status >= 500 or answer.events[-1]["error"]
            assert recorder.last.attempts[0].error.kind is kind
    assert len(server.requests) == 2


@pytest.mark.parametrize("target", [CLAUDE, GEMINI, GROQ])
@pytest.mark.parametrize("stream", [False, True])
async def test_gives_a_silent_provider_up(served, target, stream):
    async with served(target, silence(), timeouts={"first_byte": 0.3}) as (gateway, server, recorder):
        answer = await gateway.chat(stream=stream)
    assert answer.status == 504
    assert recorder.last.attempts[0].error.kind is ErrorKind.TIMEOUT
    assert server.hung_up == 1


@pytest.mark.parametrize(("target", "start", "error"), [
    (CLAUDE, [], anthropic("overloaded_error")),
    (CLAUDE, [{"type": "message_start", "message": {"id": "m", "usage": {}}}], anthropic("overloaded_error")),
    (GEMINI, [], google(503, "UNAVAILABLE")),
])  # fmt: skip
async def test_can_still_fall_back_when_the_stream_begins_with_an_error(served, sse, target, start, error):
    async with served(target, sse(*start, error)) as (gateway, _, recorder):
        answer = await gateway.chat(stream=True)
    assert answer.status == 503
    assert recorder.last.attempts[0].error.kind is ErrorKind.OVERLOADED


async def test_reads_an_openai_error_in_a_stream(served):
    bad = b'data: {"error": {"message": "m", "code": "overloaded_error"}}\n\n'
    good = b'data: {"choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": null}]}\n\n'
    async with served(GROQ, stream_of(good, bad)) as (gateway, _, recorder):
        answer = await gateway.chat(stream=True)
    assert answer.status == 503
    assert recorder.last.attempts[0].error.kind is ErrorKind.OVERLOADED


def test_finds_the_gateways_own_error_beneath_those_of_libraries():
    own = ProviderError("reset", kind=ErrorKind.CONNECTION)
    wrapped = RuntimeError("wrapped")
    wrapped.__cause__ = ValueError("wrapped as well")
    wrapped.__cause__.__context__ = own
    assert from_exception(wrapped, answered=True) is own


def test_quotes_no_traceback_and_no_class_of_litellms():
    error = RuntimeError(
        'litellm.BadRequestError: GroqException - tools: too many\nTraceback (most recent call last)\n  File "/x"'
    )
    error.status_code = 400
    found = from_exception(error, answered=False)
    assert (found.message, found.kind) == ("tools: too many", ErrorKind.BAD_REQUEST)


def test_takes_what_it_does_not_know_for_a_breach_of_the_protocol():
    assert from_exception(KeyError("choices"), answered=True).kind is ErrorKind.PROTOCOL


def test_takes_what_fails_before_the_provider_is_asked_for_a_fault_of_this_side():
    error = from_exception(KeyError("choices"), answered=False)
    assert (error.kind, error.sent) == (ErrorKind.INTERNAL, False)
