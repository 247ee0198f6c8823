"""One record for every exchange, whatever became of it."""

from dataclasses import replace
from datetime import UTC, datetime

import orjson
import pytest
from junctor import ErrorKind, Exchange, ProviderError, Refused, Request, Response, hookimpl
from junctor.secrets import Secrets
from junctor.testing import FakeProvider, Recorder
from junctor.wire import OPENAI
from junctor_logging.build import Builder
from junctor_logging.capture import Capturer
from junctor_logging.record import Record, from_line
from junctor_logging.redact import Redactor

BUSY = ProviderError("too busy", kind=ErrorKind.OVERLOADED, provider_status=503)


class Retry:
    """Once the same target (made anew, as with a client's own keys), then the next one."""

    @hookimpl
    async def on_error(self, exchange, target, error):
        again, other = replace(target), exchange.targets[1]
        return {1: again, 2: other}.get(len(exchange.attempts))


class Facts:
    """Says who calls, and what other plugins would say."""

    def __init__(self, **facts):
        self.facts = facts

    @hookimpl
    async def pre_route(self, exchange):
        exchange.facts.update(self.facts)


class Cache:
    @hookimpl
    async def cache_lookup(self, exchange):
        exchange.facts["cache"] = {"status": "hit", "cache": "exact", "saved": 1234}
        body = b'{"choices": [{"message": {"content": "x"}}]}'
        return Response(body, cached="exact", target=exchange.model.targets[0])


async def test_an_answered_chat_is_told_in_full(logged, log):
    async with logged(FakeProvider()) as g:
        answer = await g.chat(headers={"x-request-id": "mine", "traceparent": f"00-{'ab' * 16}-{'cd' * 8}-01"})
    record = log.record
    assert (record["id"], record["trace_id"], record["outcome"], record["status"]) == (
        "mine",
        "ab" * 16,
        "answered",
        200,
    )
    assert (record["model"], record["target"], record["provider"]) == ("test", "fake/one", "fake")
    assert record["usage"] == {
        "input": 7,
        "output": 5,
        "cache_read": 0,
        "cache_write": 0,
        "reasoning": 0,
        "estimated": False,
    }
    assert record["cost"]["total"] == record["cost"]["billed"] == 7_000 + 10_000
    assert record["response_bytes"] == len(answer.body)
    assert record["request_bytes"] > 0
    assert record["finish_reason"] == "stop"
    assert record["operation"] == "chat"
    assert 0 < record["overhead_us"] <= record["duration_us"]
    assert set(record["timings_us"]) == {"file_order.route", "fakeprovider.call"}
    assert abs(datetime.fromisoformat(record["time"]) - datetime.now(UTC)).total_seconds() < 60


async def test_a_stream_has_the_size_of_its_events_and_its_usage(logged, log):
    async with logged(FakeProvider()) as g:
        answer = await g.chat(stream=True)
    record = log.record
    assert record["stream"]
    assert record["response_bytes"] == len(answer.body) - len(b"data: [DONE]\n\n")
    assert record["cost"]["total"] == 17_000
    assert record["first_byte_us"] <= record["duration_us"]


async def test_every_attempt_is_a_line_with_its_error_and_its_kind(logged, log):
    async with logged(Retry(), FakeProvider(script=[BUSY, BUSY, None])) as g:
        await g.chat()
    attempts = log.record["attempts"]
    assert [attempt["kind"] for attempt in attempts] == ["first", "retry", "fallback"]
    assert [attempt["target"] for attempt in attempts] == ["fake/one", "fake/one", "fake/two"]
    assert attempts[0]["error"]["kind"] == "overloaded"
    assert attempts[0]["error"]["provider_status"] == 503
    assert attempts[2]["cost"]["total"] == 70_000 + 100_000
    assert attempts[2]["price"]["input"] == 10 * 10**9


async def test_a_refusal_is_a_record_without_attempts(logged, log):
    class No:
        @hookimpl
        async def pre_route(self, exchange):
            raise Refused("not you", status_code=429, code="quota_exceeded")

    async with logged(No(), FakeProvider()) as g:
        await g.chat()
    record = log.record
    assert (record["outcome"], record["status"]) == ("refused", 429)
    assert record["error"] == {"type": "Refused", "code": "quota_exceeded", "message": "not you"}
    assert "attempts" not in record


async def test_a_failure_has_the_kind_of_its_error(logged, log):
    async with logged(FakeProvider(script=[BUSY])) as g:
        await g.chat()
    record = log.record
    assert (record["outcome"], record["status"], record["error"]["kind"]) == ("failed", 503, "overloaded")


async def test_a_client_that_hangs_up_is_cancelled_and_its_estimate_is_marked(logged, log):
    async with logged(Facts(input_tokens_estimated=30), FakeProvider(chunk_delay=0.02)) as g:
        await g.chat(stream=True, hang_up_after=2)
    record = log.record
    assert (record["outcome"], record["status"], record["cancelled"]) == ("cancelled", 499, True)
    (attempt,) = record["attempts"]
    assert attempt["abandoned"]
    assert attempt["usage"]["estimated"]
    assert attempt["usage"]["input"] == 30
    assert record["cost"]["input"] == 30_000


async def test_an_answer_out_of_a_cache_costs_nothing_and_says_what_it_saved(logged, log):
    async with logged(Cache(), FakeProvider()) as g:
        await g.chat()
    record = log.record
    assert (record["outcome"], record["saved"], record["cost"]["total"]) == ("cached", 1234, 0)
    assert record["cache"]["cache"] == "exact"
    (line,) = log.lines
    assert (line["line"], line["kind"], line["saved"], line["cost"], line["requests"]) == (0, "cache", 1234, None, 1)


async def test_the_list_of_models_and_an_unknown_model_are_records_too(logged, log):
    async with logged(FakeProvider()) as g:
        await g.request("GET", "/v1/models")
        await g.chat(model="nobody")
    assert [(record["operation"], record["outcome"]) for record in log.records] == [
        ("models", "answered"),
        ("chat", "refused"),
    ]


async def test_the_gateways_own_questions_are_lines_of_their_own_under_their_parent(logged, log):
    class Judge:
        @hookimpl
        async def post_call(self, exchange):
            if not exchange.purpose:
                body = {"model": "test", "messages": [{"role": "user", "content": "good?"}]}
                await self.gateway.ask("chat", body, purpose="judge", parent=exchange)

    judge = Judge()
    async with logged(judge, FakeProvider()) as g:
        judge.gateway = g.gateway
        await g.chat(headers={"x-request-id": "outer"})
    own, outer = log.records
    assert (own["purpose"], own["parent"], own["parent_record"]) == ("judge", "outer", outer["record"])
    assert {line["purpose"] for line in log.lines} == {"", "judge"}
    assert sum(line["cost"] for line in log.lines) == 2 * 17_000


async def test_facts_of_plugins_are_kept_and_what_is_not_json_is_shown_as_text(logged, log):
    facts = {"task": {"name": "sum"}, "route": {"rule": "r1"}, "quota": {"left": 3}, "odd": {1, 2}, "deep": {3: object}}
    async with logged(Facts(**facts), FakeProvider()) as g:
        await g.chat()
    record = log.record
    assert (record["route"], record["quota"], record["facts"]["task"]) == ({"rule": "r1"}, {"left": 3}, {"name": "sum"})
    assert record["facts"]["odd"] == ["1", "2"]


async def test_a_request_id_that_a_client_uses_twice_makes_two_records(logged, log):
    async with logged(FakeProvider()) as g:
        for _ in range(3):
            await g.chat(headers={"x-request-id": "again"})
    assert len(log.lines) == 3
    assert len({record["record"] for record in log.records}) == 3


@pytest.mark.parametrize("model", ["\ud800 half a character", "with\x00nul", "x" * 100_000])
async def test_a_model_name_that_no_database_takes_is_recorded_in_a_form_that_it_does(logged, log, model):
    async with logged(FakeProvider()) as g:
        await g.chat(model=model)
    assert len(log.record["model"]) <= 300
    assert len(log.lines) == 1


async def test_a_target_without_a_price_is_unpriced_and_never_free(logged, log):
    async with logged(FakeProvider()) as g:
        await g.chat(model="free")
    assert log.record["unpriced"]
    assert "cost" not in log.record
    assert [(line["cost"], line["unpriced"], line["input_tokens"]) for line in log.lines] == [(None, 1, 7)]


async def test_the_sum_of_the_lines_is_what_the_core_counted(logged, log):
    seen = Recorder()
    script = [BUSY, None, "text", BUSY, BUSY, None]
    async with logged(Retry(), seen, FakeProvider(script=script)) as g:
        for number in range(4):
            await g.chat(stream=bool(number % 2))
    counted = sum(exchange.cost.total for exchange, _, _ in seen.ended)
    assert counted == sum(line["cost"] or 0 for line in log.lines) == sum(r["cost"]["total"] for r in log.records)


def test_overhead_is_the_cores_own():
    exchange = Exchange("x", Request(OPENAI, "chat", {}, "m"), started=100.0, first_byte=100.5)
    entry = Builder({}, Redactor(Secrets())).build(Capturer().take(exchange, None, None))
    assert entry.data["overhead_us"] == int(exchange.overhead * 1e6)


async def test_a_line_of_the_file_becomes_the_same_record_again(logged, log):
    async with logged(Retry(), FakeProvider(script=[BUSY, None])) as g:
        await g.chat()
    line = (log.folder / "out.jsonl").read_bytes().strip()
    entry = from_line(line)
    record = entry.record
    assert isinstance(record, Record)
    assert (record.attempts[0].error["kind"], record.attempts[1].cost.total) == ("overloaded", 17_000)
    given = orjson.loads(line)
    assert entry.data | {"attempts": given["attempts"]} == entry.data | given


def test_what_is_no_record_is_told_as_such():
    for line in (b"{}", b"[]", b'{"time": 3}', b'{"record": "x", "ti'):
        with pytest.raises(ValueError):
            from_line(line)
