"""What the builder makes of one exchange: every field its own, whatever plugins and clients put in."""

import orjson
import pytest
from junctor import Attempt, Client, Cost, ErrorKind, Exchange, ProviderError, Request, Response, Target, Usage
from junctor.prices import Price
from junctor.secrets import Secrets
from junctor.wire import OPENAI
from junctor_logging.build import Builder
from junctor_logging.capture import Capturer
from junctor_logging.record import Record, from_line
from junctor_logging.redact import Redactor
from msgspec.structs import replace

SECRET = "a secret of the configuration"
CLIENT = Client("k1", "search", "red", "shop", "sum", "gold", "me", tags={"centre": "42"})


def built(client=CLIENT, error=None, **facts):
    """The entry of an exchange of which every part has a value of its own."""
    target = Target("fake", "one", key_id="k2", price=Price(1, 2))
    request = Request(OPENAI, "chat", {}, "m", True, {"traceparent": f"00-{'ab' * 16}-{'cd' * 8}-01"}, "/v1/x", 11)
    exchange = Exchange("x", request, client=client, started=100.0, started_at=1e9, first_byte=100.5, purpose="judge")
    exchange.parent, exchange.facts = Exchange("p", request), facts
    usage = Usage(7, 5, 3, 2, 1, estimated=True)
    exchange.attempts = [Attempt(target, 100.125, 100.375, 100.625, usage=usage, cost=Cost(70, 50, 30, 20))]
    exchange.timings = {("auth", "pre_route"): 0.001, ("quotas", "post_call"): 0.002}
    answer = Response(b"four", target=target, usage=usage, finish_reason="stop", model="one-1", cached="exact")
    capturer = Capturer()
    return Builder({}, Redactor(Secrets([SECRET]))).build(capturer.take(exchange, answer, error))


def test_every_field_holds_what_is_its_own():
    data = built(cache={"saved": 9}, quota={"left": 1}, route={"rule": "r"}, task="sum", trace_id="").data
    usage = {"input": 7, "output": 5, "cache_read": 3, "cache_write": 2, "reasoning": 1, "estimated": True}
    cost = {"input": 70, "output": 50, "cache_read": 30, "cache_write": 20, "total": 170, "billed": 170}
    made = ("record", "parent_record", "instance", "duration_us", "attempts", "trace_id")
    assert {name: value for name, value in data.items() if name not in made} == {
        "id": "x",
        "time": "2001-09-09T01:46:40Z",
        "schema": 1,
        "purpose": "judge",
        "parent": "p",
        "key_id": "k1",
        "client": "search",
        "team": "red",
        "project": "shop",
        "feature": "sum",
        "tier": "gold",
        "end_user": "me",
        "tags": {"centre": "42"},
        "wire": "openai",
        "operation": "chat",
        "path": "/v1/x",
        "model": "m",
        "stream": True,
        "outcome": "cached",
        "status": 200,
        "error": None,
        "cancelled": False,
        "finish_reason": "stop",
        "target": "fake/one",
        "provider": "fake",
        "answered_model": "one-1",
        "first_byte_us": 500_001,
        "overhead_us": 250_000,
        "request_bytes": 11,
        "response_bytes": 4,
        "timings_us": {"auth.pre_route": 1000, "quotas.post_call": 2000},
        "usage": usage,
        "cost": cost,
        "unpriced": False,
        "saved": 9,
        "cache": {"saved": 9},
        "quota": {"left": 1},
        "route": {"rule": "r"},
        "facts": {"task": "sum", "trace_id": ""},
        "content": None,
    }
    (attempt,) = data["attempts"]
    assert (attempt["target"], attempt["provider"], attempt["key_id"], attempt["kind"]) == (
        "fake/one",
        "fake",
        "k2",
        "first",
    )
    assert (attempt["started_us"], attempt["first_byte_us"], attempt["duration_us"]) == (125_000, 250_001, 500_000)
    assert (attempt["usage"], attempt["cost"], attempt["price"]["output"]) == (usage, cost, 2)


def test_the_builder_makes_every_field_of_the_schema():
    assert list(built().data) == list(Record.__struct_fields__)


def test_what_a_sink_is_given_in_brief_is_what_the_line_says():
    entry = built(task="sum")
    read = from_line(entry.line)
    assert read.at == entry.at
    assert replace(read.brief, facts={}) == entry.brief


@pytest.mark.parametrize("client", [Client(tags={"a": "1"}), Client(tags={"a": "2"}), Client(tags={})])
def test_clients_that_differ_in_their_tags_only_are_told_apart(client):
    builder, capturer = Builder({}, Redactor(Secrets())), Capturer()
    for one in (Client(tags={"a": "0"}), client):
        taken = capturer.take(Exchange("x", Request(OPENAI, "chat", {}, "m"), client=one), None, None)
        assert builder.build(taken).data["tags"] == one.tags


def test_steps_that_come_in_another_order_keep_their_times():
    builder, capturer = Builder({}, Redactor(Secrets())), Capturer()
    for steps in ({("a", "call"): 0.001, ("b", "call"): 0.002}, {("b", "call"): 0.003, ("a", "call"): 0.004}):
        exchange = Exchange("x", Request(OPENAI, "chat", {}, "m"), timings=steps)
        data = builder.build(capturer.take(exchange, None, None)).data
        assert data["timings_us"] == {".".join(step): round(seconds * 1e6) for step, seconds in steps.items()}


def test_what_is_remembered_is_bounded():
    builder, capturer = Builder({}, Redactor(Secrets())), Capturer()
    for number in range(5000):
        client = Client(end_user=f"user-{number}")
        exchange = Exchange("x", Request(OPENAI, "chat", {}, "m"), client=client, timings={(f"p{number}", "call"): 1.0})
        builder.build(capturer.take(exchange, None, None))
    assert all(len(memo) <= 4096 for memo in (builder._texts, builder._steps, builder._targets))


def test_a_secret_in_a_fact_that_is_not_json_is_found_and_hidden():
    builder = Builder({}, Redactor(Secrets([SECRET])))
    plain, telling = built(task="sum"), built(odd=SECRET.encode(), more={SECRET})
    assert builder.knows_of([plain, telling])
    assert not builder.knows_of([plain])
    assert builder.cleaned(plain) is plain
    assert SECRET.encode() not in builder.cleaned(telling).line
    assert builder.cleaned(telling).key == telling.key


def test_a_text_with_half_a_character_is_recorded_wherever_it_comes_from():
    error = ProviderError("half \ud800", kind=ErrorKind.OVERLOADED, provider_status=503)
    data = built(Client(key_id="\ud800", name="\ud800"), error, task="\ud800").data
    assert (data["key_id"], data["client"], data["facts"]["task"]) == ("?", "?", "?")
    assert data["error"]["message"] == "half ?"


def test_a_line_of_a_newer_gateway_is_taken_as_it_is():
    given = {"record": "r", "id": "i", "time": "2026-01-02T03:04:05Z", "new": 1, "usage": {"input": 1.5, "new": 2}}
    entry = from_line(orjson.dumps(given | {"attempts": [{"target": "a", "new": 1}]}))
    assert (entry.key, entry.brief.usage.input, entry.brief.attempts[0].target) == ("r", 1.5, "a")
    assert entry.data["new"] == 1


def test_an_attempt_that_failed_says_so_though_the_exchange_was_answered():
    error = ProviderError("too busy", kind=ErrorKind.OVERLOADED, provider_status=503)
    exchange = Exchange("x", Request(OPENAI, "chat", {}, "m"), started=100.0)
    exchange.attempts = [Attempt(Target("fake", "one"), 100.1, ended=100.2, error=error)]
    entry = Builder({}, Redactor(Secrets())).build(Capturer().take(exchange, Response(b"stale"), None))
    assert entry.data["outcome"] == "answered"
    assert entry.data["attempts"][0]["error"]["kind"] == "overloaded"
