"""OpenAI's stream, read without being rebuilt."""

import json

import pytest
from junctor import ErrorKind, ProviderError
from junctor.openai_events import OpenAIReader
from junctor.provider_errors import error_in_answer
from junctor.wire import OPENAI


def event(text="", finish=None, **more):
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    return b"data: " + json.dumps({"choices": [choice], **more}, ensure_ascii=False).encode() + b"\n\n"


USAGE = {"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 8}}
USAGE_EVENT = b"data: " + json.dumps({"choices": [], "usage": USAGE}).encode() + b"\n\n"
DONE = b"data: [DONE]\n\n"


def relay(pieces, **options):
    reader = OpenAIReader(**options)
    return b"".join(reader.feed(piece) for piece in pieces) + reader.finish(), reader


def test_relays_events_byte_for_byte_and_reads_usage_and_finish():
    stream = [event("é"), event("中"), event(finish="stop"), USAGE_EVENT, DONE]
    out, reader = relay(stream)
    assert out == b"".join(stream)
    assert (reader.usage.input_tokens, reader.usage.cache_read_tokens, reader.finish_reason) == (9, 8, "stop")


def test_takes_out_the_usage_event_that_the_client_did_not_ask_for():
    out, reader = relay([event("a"), event(finish="stop"), USAGE_EVENT, DONE], keep_usage=False)
    assert b"usage" not in out
    assert reader.usage.output_tokens == 4


@pytest.mark.parametrize("size", [1, 2, 3, 7, 50])
def test_events_cut_anywhere_come_out_whole(size):
    stream = b"".join([event("é🎉"), event("中"), event(finish="stop"), DONE])
    out, _ = relay([stream[i : i + size] for i in range(0, len(stream), size)])
    assert out == stream


def test_never_relays_half_an_event():
    reader = OpenAIReader()
    reader.feed(event("a"))
    assert reader.feed(event("b")[:-5]) == b""


def test_crlf_line_ends_and_comments_are_understood():
    stream = b": ping\r\n\r\n" + event("a").replace(b"\n", b"\r\n") + event(finish="stop").replace(b"\n", b"\r\n")
    out, reader = relay([stream[i : i + 1] for i in range(len(stream))])
    assert out == event("a") + event(finish="stop") + DONE
    assert reader.finish_reason == "stop"


def test_done_is_sent_once_even_if_the_provider_sent_it_twice_or_not_at_all():
    for ending in ([], [DONE], [DONE, DONE]):
        out, _ = relay([event("a"), event(finish="stop"), *ending])
        assert out.count(b"[DONE]") == 1


def test_a_stream_without_a_finish_reason_is_a_protocol_error():
    with pytest.raises(ProviderError, match="without a finish reason") as caught:
        relay([event("a")])
    assert caught.value.kind is ErrorKind.PROTOCOL


def test_a_stream_that_is_cut_within_an_event_is_a_protocol_error():
    with pytest.raises(ProviderError):
        relay([event("a"), event("b")[:20]])


def test_an_error_event_is_raised_with_its_kind():
    reader = OpenAIReader()
    with pytest.raises(ProviderError, match="too many") as caught:
        reader.feed(b'data: {"error": {"message": "too many", "code": "rate_limit_exceeded"}}\n\n')
    assert caught.value.kind is ErrorKind.RATE_LIMITED


def test_text_that_looks_like_an_error_is_only_text():
    said = event('"error": "usage": {} [DONE]')
    out, reader = relay([event("a"), said, event(finish="stop")])
    assert said in out
    assert reader.usage is None


def test_an_event_that_never_ends_is_refused():
    reader = OpenAIReader()
    with pytest.raises(ProviderError, match="over"):
        for _ in range(20):
            reader.feed(b"data: " + b"x" * 1024 * 1024)


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        ({"code": "context_length_exceeded"}, 400, ErrorKind.CONTEXT_TOO_LONG),
        ({"message": "This model's maximum context length is 8192 tokens"}, 400, ErrorKind.CONTEXT_TOO_LONG),
        ({"code": "insufficient_quota"}, 429, ErrorKind.QUOTA_EXHAUSTED),
        ({"type": "rate_limit_error"}, 429, ErrorKind.RATE_LIMITED),
        ({"code": "invalid_api_key"}, 401, ErrorKind.AUTHENTICATION),
        ({"message": "no"}, 403, ErrorKind.AUTHENTICATION),
        ({"message": "no"}, 404, ErrorKind.NOT_FOUND),
        ({"message": "no"}, 500, ErrorKind.OVERLOADED),
        ({"message": "no"}, 529, ErrorKind.OVERLOADED),
        ({"code": "content_filter"}, 400, ErrorKind.CONTENT_POLICY),
        ("just text", 422, ErrorKind.BAD_REQUEST),
    ],
)
def test_the_kind_of_an_error_comes_from_its_code_then_its_status(error, status, kind):
    assert error_in_answer(error, status=status).kind is kind


def test_a_bad_request_keeps_the_providers_own_code_and_field():
    error = error_in_answer({"message": "bad", "code": "invalid_value", "param": "top_p"}, status=400)
    assert (error.status_code, error.code, error.param) == (400, "invalid_value", "top_p")


@pytest.mark.parametrize("body", [b"", b"<html>", b"[1]", b"{}", b'{"choices": []}'])
def test_what_is_no_answer_is_a_protocol_error(body):
    with pytest.raises(ProviderError) as caught:
        OPENAI.read("chat", body)
    assert caught.value.kind is ErrorKind.PROTOCOL


def test_the_error_body_has_openais_four_fields_and_a_string_code():
    body = json.loads(OPENAI.error(ProviderError("no", kind=ErrorKind.TIMEOUT)))
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert isinstance(body["error"]["code"], str)
