"""An answer that came whole is given in pieces, and the other way round."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from junctor.exchange import Request
from junctor.wire import OPENAI

_USAGE = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12, "prompt_tokens_details": {"cached_tokens": 2}}


def _request(operation: str = "chat", **body: Any) -> Request:
    return Request(OPENAI, operation, body, "test", bool(body.get("stream")))


def _answer(*choices: dict[str, Any], **more: Any) -> dict[str, Any]:
    head = {"id": "chatcmpl-1", "object": "chat.completion", "created": 12, "model": "m-1"}
    return {**head, "choices": list(choices), "usage": _USAGE, **more}


def _choice(index: int = 0, finish: str = "stop", **message: Any) -> dict[str, Any]:
    content = {"role": "assistant", "content": "hi", **message}
    return {"index": index, "message": content, "finish_reason": finish, "logprobs": None}


def _events(*deltas: Any, finish: str | None = "stop", **more: Any) -> bytes:
    parts = [{"index": 0, "delta": delta, "finish_reason": None} for delta in deltas]
    if finish:
        parts.append({"index": 0, "delta": {}, "finish_reason": finish})
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 12, "model": "m-1", **more}
    return _raw(*[{**head, "choices": [part]} for part in parts])


def _raw(*events: dict[str, Any]) -> bytes:
    return b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)


def _streamed(answer: dict[str, Any], operation: str = "chat", **body: Any) -> list[dict[str, Any]]:
    """What a client gets that asked for the stream of this answer: the reader has its say."""
    request = _request(operation, stream=True, **body)
    reader = request.wire.reader(request)
    out = reader.feed(request.wire.to_stream(request, json.dumps(answer).encode()))
    assert reader.finish() == b"data: [DONE]\n\n"
    return [json.loads(line[5:]) for line in out.split(b"\n\n") if line]


def _whole(events: bytes, operation: str = "chat") -> Any:
    return json.loads(OPENAI.to_whole(_request(operation), events))


def test_the_first_piece_has_the_role_and_every_piece_the_head() -> None:
    events = _streamed(_answer(_choice(), system_fingerprint="fp_1"))
    assert events[0]["choices"][0]["delta"] == {"role": "assistant", "content": "hi"}
    assert {(e["id"], e["created"], e["model"], e["system_fingerprint"]) for e in events} == {
        ("chatcmpl-1", 12, "m-1", "fp_1")
    }
    assert {e["object"] for e in events} == {"chat.completion.chunk"}


@pytest.mark.parametrize("finish", ["stop", "length", "tool_calls", "content_filter"])
def test_only_the_last_piece_of_a_choice_says_why_it_ended(finish: str) -> None:
    events = _streamed(_answer(_choice(finish=finish)))
    assert [e["choices"][0]["finish_reason"] for e in events] == [None, finish]


def test_the_usage_is_an_event_of_its_own_for_those_who_ask() -> None:
    events = _streamed(_answer(_choice()), stream_options={"include_usage": True})
    assert events[-1]["choices"] == []
    assert events[-1]["usage"] == _USAGE
    assert [e["usage"] for e in events[:-1]] == [None, None]


def test_nobody_else_sees_the_usage_but_the_reader_knows_it() -> None:
    request = _request(stream=True)
    reader = request.wire.reader(request)
    out = reader.feed(request.wire.to_stream(request, json.dumps(_answer(_choice())).encode()))
    assert b"usage" not in out
    assert reader.usage is not None
    assert (reader.usage.input_tokens, reader.usage.cache_read_tokens) == (7, 2)
    assert b'"prompt_tokens":7' in reader.withheld


def test_an_answer_without_usage_has_no_event_for_it() -> None:
    answer = _answer(_choice())
    del answer["usage"]
    events = _streamed(answer, stream_options={"include_usage": True})
    assert all(event["choices"] for event in events)


def test_tool_calls_get_an_index_in_the_stream() -> None:
    calls = [{"id": f"call_{n}", "type": "function", "function": {"name": "f", "arguments": "{}"}} for n in (0, 1)]
    events = _streamed(_answer(_choice(finish="tool_calls", content=None, tool_calls=calls)))
    assert [call["index"] for call in events[0]["choices"][0]["delta"]["tool_calls"]] == [0, 1]
    assert "content" not in events[0]["choices"][0]["delta"]


def test_what_a_provider_adds_to_answer_and_choice_is_in_the_stream() -> None:
    choice = {**_choice(), "content_filter_results": {"hate": {"filtered": False}}, "stop_reason": 128}
    events = _streamed(_answer(choice, citations=["a", "b"], service_tier="default"))
    assert events[-1]["choices"][0]["content_filter_results"] == {"hate": {"filtered": False}}
    assert events[-1]["choices"][0]["stop_reason"] == 128
    assert events[0]["citations"] == ["a", "b"]


def test_a_completion_is_streamed_with_its_text() -> None:
    answer = {
        **_answer(),
        "object": "text_completion",
        "choices": [{"index": 0, "text": "hi", "finish_reason": "stop"}],
    }
    events = _streamed(answer, "completions")
    assert events == [
        {
            **{k: answer[k] for k in ("id", "created", "model")},
            "object": "text_completion",
            "choices": answer["choices"],
        }
    ]


def test_text_in_pieces_becomes_one_message() -> None:
    whole = _whole(_events({"role": "assistant", "content": ""}, {"content": "Grü"}, {"content": "ße 🦀"}))
    assert whole["object"] == "chat.completion"
    assert whole["choices"] == [
        {"index": 0, "message": {"role": "assistant", "content": "Grüße 🦀"}, "finish_reason": "stop", "logprobs": None}
    ]


def test_the_usage_of_the_last_event_is_the_answers() -> None:
    events = _events({"role": "assistant", "content": "hi"}, usage=None)
    whole = _whole(events + _raw({"id": "chatcmpl-1", "choices": [], "usage": _USAGE}))
    assert whole["usage"] == _USAGE
    assert OPENAI.read("chat", json.dumps(whole).encode()).finish_reason == "stop"


def test_an_empty_head_is_filled_in_by_later_events() -> None:
    azure = _raw({"id": "", "model": "", "created": 0, "choices": [], "prompt_filter_results": [{"prompt_index": 0}]})
    whole = _whole(azure + _events({"role": "assistant", "content": "hi"}))
    assert (whole["id"], whole["model"], whole["created"]) == ("chatcmpl-1", "m-1", 12)
    assert whole["prompt_filter_results"] == [{"prompt_index": 0}]


def test_a_tool_call_is_put_together_from_its_pieces() -> None:
    first = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "look", "arguments": ""}}
    pieces = [{"index": 0, "function": {"arguments": text}} for text in ('{"a":', " 1}")]
    other = {"index": 1, "id": "call_2", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    deltas = [{"tool_calls": [call]} for call in (first, *pieces, other)]
    message = _whole(_events(*deltas, finish="tool_calls"))["choices"][0]["message"]
    assert [call["function"]["arguments"] for call in message["tool_calls"]] == ['{"a": 1}', "{}"]
    assert [call["id"] for call in message["tool_calls"]] == ["call_1", "call_2"]
    assert message["content"] is None
    assert "index" not in message["tool_calls"][0]


def test_a_name_said_twice_or_left_empty_later_is_said_once() -> None:
    again = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "look", "arguments": "{"}}
    empty = {"index": 0, "id": "", "function": {"name": "", "arguments": "}"}}
    message = _whole(_events({"tool_calls": [again]}, {"tool_calls": [empty]}))["choices"][0]["message"]
    assert message["tool_calls"] == [
        {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    ]


def test_tool_calls_without_an_index_are_told_apart_by_their_ids() -> None:
    calls = [{"id": f"call_{n}", "type": "function", "function": {"name": "f", "arguments": "{}"}} for n in (0, 1)]
    message = _whole(_events({"tool_calls": [calls[0]]}, {"tool_calls": [calls[1]]}))["choices"][0]["message"]
    assert message["tool_calls"] == calls


def test_an_absurd_index_of_a_tool_call_costs_no_memory() -> None:
    call = {"index": 10**12, "id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    message = _whole(_events({"tool_calls": [call]}))["choices"][0]["message"]
    assert len(message["tool_calls"]) == 1


def test_choices_that_come_mixed_are_sorted_by_index() -> None:
    parts = [(1, "b"), (0, "a"), (1, "B"), (0, "A")]
    events = [{"id": "x", "choices": [{"index": i, "delta": {"content": text}}]} for i, text in parts]
    events += [{"id": "x", "choices": [{"index": i, "delta": {}, "finish_reason": "stop"}]} for i in (1, 0)]
    whole = _whole(_raw(*events))
    assert [choice["message"]["content"] for choice in whole["choices"]] == ["aA", "bB"]


def test_logprobs_are_strung_together() -> None:
    def event(token: str) -> dict[str, Any]:
        logprobs = {"content": [{"token": token, "logprob": -0.1}], "refusal": None}
        return {"choices": [{"index": 0, "delta": {"content": token}, "logprobs": logprobs, "finish_reason": None}]}

    end = {"choices": [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}]}
    whole = _whole(_raw(event("a"), event("b"), end))
    assert [part["token"] for part in whole["choices"][0]["logprobs"]["content"]] == ["a", "b"]


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning", "refusal"])
def test_reasoning_and_refusals_are_kept_apart_from_the_content(field: str) -> None:
    message = _whole(_events({"role": "assistant", field: "be"}, {field: "cause"}, {"content": "yes"}))
    assert message["choices"][0]["message"][field] == "because"
    assert message["choices"][0]["message"]["content"] == "yes"


def test_content_that_changes_from_parts_to_text_loses_nothing() -> None:
    thought = [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]
    message = _whole(_events({"content": ""}, {"content": thought}, {"content": "yes"}))["choices"][0]["message"]
    assert message["content"] == [*thought, {"type": "text", "text": "yes"}]


def test_a_completion_in_pieces_becomes_whole() -> None:
    events = [
        {"id": "c", "choices": [{"index": 0, "text": t, "finish_reason": f}]} for t, f in (("a", None), ("b", "stop"))
    ]
    whole = _whole(_raw(*events), "completions")
    assert whole["object"] == "text_completion"
    assert whole["choices"] == [{"index": 0, "text": "ab", "finish_reason": "stop", "logprobs": None}]


_TEXT = st.text(max_size=40)
_CALL = st.builds(
    lambda id_, name, arguments: {
        "id": "call_" + id_,
        "type": "function",
        "function": {"name": "f" + name, "arguments": arguments},
    },
    _TEXT,
    _TEXT,
    _TEXT,
)
_CHOICE = st.builds(
    lambda text, reasoning, calls, finish: _choice(
        finish=finish, content=text, reasoning_content=reasoning, **({"tool_calls": calls} if calls else {})
    ),
    _TEXT,
    _TEXT,
    st.lists(_CALL, max_size=3),
    st.sampled_from(["stop", "length", "tool_calls"]),
)


@given(st.lists(_CHOICE, min_size=1, max_size=3))
def test_there_and_back_again_it_is_the_same_answer(choices: list[dict[str, Any]]) -> None:
    answer = _answer(*[{**choice, "index": index} for index, choice in enumerate(choices)])
    events = OPENAI.to_stream(_request(stream=True), json.dumps(answer).encode())
    assert _whole(events) == answer


@given(st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=20))
def test_however_the_text_is_cut_the_whole_is_the_same(pieces: list[str]) -> None:
    events = _events({"role": "assistant", "content": ""}, *[{"content": piece} for piece in pieces])
    assert _whole(events)["choices"][0]["message"]["content"] == "".join(pieces)
