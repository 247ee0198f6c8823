"""Placeholders go out, values come back: whole, streamed, cut anywhere, in every wire."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from junctor_content_policy import Placeholders, Restorer

VALUES = {"email": "jane@example.com", "secret": 'a"b\\c\n-----END', "card": "4111 1111 1111 1111"}


def made():
    placeholders = Placeholders("")
    for kind, value in VALUES.items():
        placeholders.for_value(kind, value)
    return placeholders


def chunk(field, text, index=0):
    return {
        "id": "1",
        "object": "chat.completion.chunk",
        "choices": [{"index": index, "delta": {field: text}, "finish_reason": None}],
    }


def arguments(text, call=0, **more):
    calls = [{"index": call, "function": {"arguments": text}, **more}]
    return {"id": "1", "choices": [{"index": 0, "delta": {"tool_calls": calls}, "finish_reason": None}]}


def finish(reason="stop", index=0):
    return {"id": "1", "choices": [{"index": index, "delta": {}, "finish_reason": reason}]}


def sent(*events, names=None):
    """The bytes of a stream; `names` for wires whose events have one."""
    parts = []
    for event in events:
        head = f"event: {event['type']}\n" if names else ""
        parts.append(f"{head}data: {json.dumps(event)}\n\n".encode())
    return parts


def through(parts):
    """What the client gets, parsed."""
    restorer = Restorer(made())
    out = b"".join([*map(restorer.feed, parts), restorer.flush()])
    return [json.loads(line[5:]) for line in out.split(b"\n") if line.startswith(b"data:")]


def text_of(events, field="content", index=0):
    choices = [c for e in events for c in e["choices"] if c["index"] == index]
    return "".join(c["delta"].get(field) or "" for c in choices)


def calls_of(events):
    calls = {}
    for event in events:
        for choice in event["choices"]:
            for call in choice["delta"].get("tool_calls") or ():
                calls[call["index"]] = calls.get(call["index"], "") + call["function"]["arguments"]
    return calls


@given(cuts=st.lists(st.integers(0, 80), max_size=12), joined=st.booleans())
@settings(max_examples=200, deadline=None)
def test_a_placeholder_is_restored_wherever_the_stream_cuts_it(cuts, joined):
    text = "to [EMAIL_1] and [SECRET_1], [CARD_1] [x] [EMAIL_9] [["
    edges = [0, *sorted(min(c, len(text)) for c in cuts), len(text)]
    pieces = [text[a:b] for a, b in pairwise(edges)]
    parts = sent(*(chunk("content", piece) for piece in pieces), finish())
    events = through([b"".join(parts)] if joined else parts)
    wanted = f"to {VALUES['email']} and {VALUES['secret']}, {VALUES['card']} [x] [EMAIL_9] [["
    assert text_of(events) == wanted
    assert events[-1]["choices"][0]["finish_reason"] == "stop"


@given(cuts=st.lists(st.integers(0, 60), max_size=10))
@settings(max_examples=100, deadline=None)
def test_arguments_of_a_tool_call_stay_json(cuts):
    text = '{"to": "[EMAIL_1]", "key": "x [SECRET_1]"}'
    edges = [0, *sorted(min(c, len(text)) for c in cuts), len(text)]
    pieces = [text[a:b] for a, b in pairwise(edges)]
    events = through(sent(*map(arguments, pieces), finish("tool_calls")))
    assert json.loads(calls_of(events)[0]) == {"to": VALUES["email"], "key": "x " + VALUES["secret"]}


def test_what_was_held_back_comes_before_the_finish():
    events = through(sent(chunk("content", "see [EMA"), finish()))
    assert text_of(events) == "see [EMA"
    assert events[-1]["choices"][0]["finish_reason"] == "stop"


def test_what_was_held_back_comes_before_a_tool_call():
    events = through(sent(chunk("content", "see ["), arguments("{}", id="c1"), finish("tool_calls")))
    kinds = [next(iter(e["choices"][0]["delta"]), "finish") for e in events]
    assert kinds == ["content", "content", "tool_calls", "finish"]
    assert text_of(events) == "see ["


def test_two_answers_and_two_calls_at_once_do_not_mix():
    parts = sent(
        chunk("content", "a [EMA"),
        chunk("content", "b [CA", 1),
        chunk("content", "IL_1]"),
        chunk("content", "RD_1]", 1),
    )
    events = through(
        [*parts, *sent(arguments('"[EM', 0), arguments('"[CA', 1), arguments('RD_1]"', 1), arguments('AIL_1]"', 0))]
    )
    assert text_of(events) == "a " + VALUES["email"]
    assert text_of(events, index=1) == "b " + VALUES["card"]
    assert calls_of(events) == {0: f'"{VALUES["email"]}"', 1: f'"{VALUES["card"]}"'}


@pytest.mark.parametrize("field", ["reasoning_content", "refusal"])
def test_other_texts_of_a_delta_are_restored_too(field):
    events = through(sent(chunk(field, "[EMAIL"), chunk(field, "_1]!"), finish()))
    assert text_of(events, field) == VALUES["email"] + "!"


def test_a_stream_that_ends_within_a_placeholder_loses_nothing():
    assert text_of(through(sent(chunk("content", "x [CARD_"), chunk("content", "")))) == "x [CARD_"


def test_events_without_a_bracket_pass_byte_for_byte():
    restorer = Restorer(made())
    event = b'data:  {"choices":[{"delta":{"content":"plain"}}]}\n\n: comment\n\n'
    assert restorer.feed(event) is event


def test_an_event_that_is_not_json_passes():
    assert Restorer(made()).feed(b"data: [EMAIL_1] {\n\n") == b"data: [EMAIL_1] {\n\n"


def block(text, field="text", index=0):
    kind = {"text": "text_delta", "partial_json": "input_json_delta", "thinking": "thinking_delta"}[field]
    return {"type": "content_block_delta", "index": index, "delta": {"type": kind, field: text}}


def test_anthropics_stream_is_restored_with_its_event_names():
    parts = sent(block("[EMA"), block("IL_1] ["), {"type": "content_block_stop", "index": 0}, names=True)
    restorer = Restorer(made())
    out = b"".join([*map(restorer.feed, parts), restorer.flush()])
    events = [json.loads(line[5:]) for line in out.split(b"\n") if line.startswith(b"data:")]
    assert "".join(e["delta"]["text"] for e in events if "delta" in e) == VALUES["email"] + " ["
    assert events[-1]["type"] == "content_block_stop"
    assert out.count(b"event: content_block_delta\n") == 3


def test_anthropics_tool_input_stays_json():
    parts = sent(block('{"k": "[SECR', "partial_json"), block('ET_1]"}', "partial_json"), names=True)
    events = through(parts)
    assert json.loads("".join(e["delta"]["partial_json"] for e in events)) == {"k": VALUES["secret"]}


def test_the_responses_api_is_restored():
    kind = "response.output_text.delta"
    pieces = [{"type": kind, "item_id": "i", "delta": d} for d in ("to [EMAIL", "_1]", " [")]
    done = {"type": "response.output_text.done", "item_id": "i", "text": "to [EMAIL_1] ["}
    events = through(sent(*pieces, done, names=True))
    assert "".join(e["delta"] for e in events if "delta" in e) == f"to {VALUES['email']} ["
    assert events[-1]["text"] == f"to {VALUES['email']} ["


def test_googles_stream_is_restored():
    pieces = [{"candidates": [{"content": {"role": "model", "parts": [{"text": t}]}}]} for t in ("[CAR", "D_1]")]
    events = through(sent(*pieces))
    found = [p["text"] for e in events for c in e["candidates"] for p in c["content"]["parts"]]
    assert "".join(found) == VALUES["card"]


def test_a_whole_answer_is_restored_with_its_tool_calls():
    call = {"id": "c", "function": {"name": "f", "arguments": '{"k": "[SECRET_1]"}'}}
    answer = {"choices": [{"message": {"content": "[EMAIL_1]!", "tool_calls": [call]}}]}
    message = json.loads(Restorer(made()).whole(json.dumps(answer).encode()))["choices"][0]["message"]
    assert message["content"] == VALUES["email"] + "!"
    assert json.loads(message["tool_calls"][0]["function"]["arguments"]) == {"k": VALUES["secret"]}


def test_a_whole_answer_without_a_placeholder_is_left_alone():
    body = b'{"choices": [{"message": {"content": "x"}}]}'
    assert Restorer(made()).whole(body) is body
    assert Restorer(made()).whole(b"[EMAIL_1] no json") == b"[EMAIL_1] no json"


def test_equal_values_have_equal_placeholders():
    placeholders = Placeholders("")
    names = [placeholders.for_value("email", v) for v in ("a@x.org", "b@x.org", "a@x.org")]
    assert names == ["[EMAIL_1]", "[EMAIL_2]", "[EMAIL_1]"]


def test_a_placeholder_that_the_client_wrote_is_not_used():
    placeholders = Placeholders("what does [EMAIL_1] mean?")
    assert placeholders.for_value("email", "a@x.org") == "[EMAILX_1]"
    assert placeholders.restore("[EMAIL_1] [EMAILX_1]", in_json=False) == "[EMAIL_1] a@x.org"


def test_kinds_whose_names_look_alike_are_kept_apart():
    placeholders = Placeholders("")
    names = {placeholders.for_value("a b", "1"), placeholders.for_value("a-b", "2"), placeholders.for_value("9", "3")}
    assert len(names) == 3
    assert all(name[1].isupper() for name in names)
