"""One request through the six hooks, and every way in which it can end."""

import asyncio

import pytest
from junctor import DeadlineExceeded, ErrorKind, PluginSettings, ProviderError, Refused, Response, hookimpl
from junctor.testing import FakeProvider, Recorder

OVERLOADED = ProviderError("too busy", kind=ErrorKind.OVERLOADED)


class NextTarget:
    """Falls back to the next target, as long as there is one."""

    @hookimpl
    async def on_error(self, exchange, target, error):
        left = list(exchange.targets)[list(exchange.targets).index(target) + 1 :]
        return left[0] if left else None


class Order:
    """Notes which hook ran when."""

    def __init__(self, name, log):
        self.name, self.log = name, log

    @hookimpl
    async def pre_route(self, exchange):
        self.log.append(f"{self.name}.pre_route")

    @hookimpl
    async def route(self, exchange):
        self.log.append(f"{self.name}.route")

    @hookimpl
    async def cache_lookup(self, exchange):
        self.log.append(f"{self.name}.cache_lookup")

    @hookimpl
    async def call(self, exchange, target):
        self.log.append(f"{self.name}.call")

    @hookimpl
    async def post_call(self, exchange):
        self.log.append(f"{self.name}.post_call")


class First(Order): ...


class Second(Order): ...


async def test_answers_a_plain_chat(gateway):
    async with gateway(FakeProvider("four")) as g:
        answer = await g.chat("2+2?")
    assert answer.status == 200
    assert answer.text == "four"
    assert answer.headers["x-junctor-target"] == "fake/one"


async def test_streams_and_ends_with_one_done(gateway):
    async with gateway(FakeProvider("one two three")) as g:
        answer = await g.chat(stream=True)
    assert answer.text == "one two three"
    assert answer.events.count("[DONE]") == 1
    assert len(answer.chunks) > 3


async def test_runs_the_hooks_in_the_order_of_the_list_and_post_call_in_reverse(gateway):
    log = []
    async with gateway(First("a", log), Second("b", log), FakeProvider()) as g:
        await g.chat()
    hooks = ["pre_route", "route", "cache_lookup", "call"]
    assert log == [f"{name}.{hook}" for hook in hooks for name in "ab"] + ["b.post_call", "a.post_call"]


async def test_a_refusal_answers_at_once_and_is_settled(gateway):
    class Refuser:
        @hookimpl
        async def pre_route(self, exchange):
            raise Refused("not today", code="closed")

    provider, recorder = FakeProvider(), Recorder()
    async with gateway(Refuser(), provider, recorder) as g:
        answer = await g.chat()
    assert (answer.status, answer.json()["error"]["code"]) == (403, "closed")
    assert provider.calls == []
    assert isinstance(recorder.ended[0][2], Refused)


async def test_a_cached_answer_reaches_no_provider(gateway):
    class Cache:
        @hookimpl
        async def cache_lookup(self, exchange):
            return Response(b'{"cached": true}', cached="exact")

    provider, recorder = FakeProvider(), Recorder()
    async with gateway(Cache(), provider, recorder) as g:
        answer = await g.chat()
    assert answer.json() == {"cached": True}
    assert provider.calls == []
    assert recorder.last.attempts == []


async def test_falls_back_to_the_target_that_a_plugin_names(gateway):
    provider, recorder = FakeProvider("second", script=[OVERLOADED, None]), Recorder()
    async with gateway(NextTarget(), provider, recorder) as g:
        answer = await g.chat()
    assert answer.text == "second"
    assert [target for target, _ in provider.calls] == ["fake/one", "fake/two"]
    assert answer.headers["x-junctor-attempts"] == "2"
    assert [a.error is None for a in recorder.last.attempts] == [False, True]


async def test_without_a_fallback_the_client_gets_the_providers_error(gateway):
    async with gateway(FakeProvider(script=[OVERLOADED])) as g:
        answer = await g.chat()
    assert answer.status == 503
    assert answer.json()["error"] == {
        "message": "too busy",
        "type": "api_error",
        "param": None,
        "code": "overloaded",
    }


async def test_stops_after_the_most_attempts_that_are_allowed(gateway):
    class Stubborn:
        @hookimpl
        async def on_error(self, exchange, target, error):
            return target

    provider = FakeProvider(script=[OVERLOADED])
    async with gateway(Stubborn(), provider) as g:
        g.gateway.pipeline._max_attempts = 3
        answer = await g.chat()
    assert answer.status == 503
    assert len(provider.calls) == 3


async def test_a_failure_before_the_first_chunk_still_falls_back(gateway):
    provider = FakeProvider("rescued", cut_after=0)

    class Mend(NextTarget):
        @hookimpl
        async def on_error(self, exchange, target, error):
            provider.cut_after = None
            return list(exchange.targets)[1]

    async with gateway(Mend(), provider) as g:
        answer = await g.chat(stream=True)
    assert answer.text == "rescued"


async def test_a_failure_after_the_first_chunk_ends_the_stream_with_an_error_and_no_done(gateway):
    recorder = Recorder()
    async with gateway(NextTarget(), FakeProvider("one two three", cut_after=2), recorder) as g:
        answer = await g.chat(stream=True)
    last = answer.events[-1]
    assert last["error"]["code"] == "protocol"
    assert last["choices"][0]["finish_reason"] == "error"
    assert "[DONE]" not in answer.events
    assert len(recorder.ended) == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_hangs_up_before_the_first_token_cancels_the_call(gateway, stream):
    provider, recorder = FakeProvider(script=[30.0]), Recorder()
    async with gateway(provider, recorder) as g:
        await asyncio.wait_for(g.chat(stream=stream, hang_up_after=0), 5)
    assert (provider.cancelled, provider.running) == (1, 0)
    assert [type(error).__name__ for _, _, error in recorder.ended] == ["ClientDisconnected"]
    assert recorder.last.attempts[0].abandoned


async def test_a_client_that_hangs_up_in_the_middle_of_a_stream_cancels_it(gateway):
    provider, recorder = FakeProvider("word " * 200, chunk_delay=0.02), Recorder()
    async with gateway(provider, recorder) as g:
        answer = await asyncio.wait_for(g.chat(stream=True, hang_up_after=3), 5)
    assert provider.running == 0
    assert len(answer.chunks) < 20
    exchange, response, error = recorder.ended[0]
    assert type(error).__name__ == "ClientDisconnected"
    assert response.usage.estimated
    assert 0 < response.usage.output_tokens < 20
    assert exchange.attempts[0].abandoned


async def test_a_held_exchange_runs_to_its_end_without_its_client(gateway):
    class Holder:
        @hookimpl
        async def pre_route(self, exchange):
            exchange.hold()

    provider, recorder = FakeProvider("a b c d e f", chunk_delay=0.02), Recorder()
    async with gateway(Holder(), provider, recorder) as g:
        await asyncio.wait_for(g.chat(stream=True, hang_up_after=1), 5)
    assert recorder.ended[0][1].finish_reason == "stop"
    assert provider.cancelled == 0


async def test_the_deadline_ends_the_exchange_with_504(gateway):
    config = "{timeouts: {total: 0.05}, models: [{name: test, targets: [{target: fake/one}]}]}"
    provider, recorder = FakeProvider(script=[30.0]), Recorder()
    async with gateway(provider, recorder, config=config) as g:
        answer = await g.chat()
    assert (answer.status, answer.json()["error"]["code"]) == (504, "deadline_exceeded")
    assert isinstance(recorder.ended[0][2], DeadlineExceeded)


async def test_a_target_that_does_not_begin_in_time_is_a_failed_attempt(gateway):
    targets = "[{target: fake/one, timeouts: {first_byte: 0.05}}, {target: fake/two}]"
    provider = FakeProvider("rescued", script=[30.0, None])
    async with gateway(NextTarget(), provider, config=f"{{models: [{{name: test, targets: {targets}}}]}}") as g:
        answer = await g.chat()
    assert answer.text == "rescued"


async def test_silence_in_a_stream_ends_it_with_an_error(gateway):
    from junctor.stream import Stream
    from junctor.wire import OPENAI

    class Silent(FakeProvider):
        def _answer(self, exchange, text):
            stream = super()._answer(exchange, text).stream
            return Response(stream=Stream(stream._source, OPENAI.reader(exchange.request), silence=0.1))

    async with gateway(Silent("a b", chunk_delay=5.0)) as g:
        answer = await asyncio.wait_for(g.chat(stream=True), 4)
    assert answer.events[-1]["error"]["code"] == "timeout"


async def test_a_slow_client_is_not_a_silent_provider(gateway):
    from junctor.stream import Stream
    from junctor.wire import OPENAI

    async def source():
        for word in ("a", "b"):
            event = {"choices": [{"index": 0, "delta": {"content": word}}]}
            yield f"data: {__import__('json').dumps(event)}\n\n".encode()
        yield b'data: {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}\n\n'

    stream = Stream(
        source(),
        OPENAI.reader(OPENAI.parse("chat", b'{"model":"m","messages":[{"role":"user"}]}', {}, max_depth=9)),
        silence=0.05,
    )
    taken = []
    async for chunk in stream:
        taken.append(chunk)
        await asyncio.sleep(0.12)
    assert stream.exhausted
    assert len(taken) == 4


async def test_an_unknown_model_is_404_with_openais_code(gateway):
    async with gateway(FakeProvider()) as g:
        answer = await g.chat(model="gpt-9")
    assert answer.status == 404
    assert answer.json()["error"]["code"] == "model_not_found"


async def test_a_transform_changes_the_answer_and_post_call_sees_the_providers_own(gateway):
    class Shout:
        def feed(self, events):
            return events.replace(b"hello", b"HELLO")

        def flush(self):
            return b""

        whole = feed

    class Shouter:
        @hookimpl
        async def pre_route(self, exchange):
            exchange.transforms.append(Shout())
            exchange.record(100_000)

    recorder = Recorder()
    async with gateway(Shouter(), FakeProvider("hello you"), recorder) as g:
        assert (await g.chat()).text == "HELLO you"
        assert (await g.chat(stream=True)).text == "HELLO you"
    assert b"hello" in recorder.ended[0][1].body
    assert b"hello" in recorder.ended[1][1].stream.recorded


async def test_usage_and_cost_are_on_the_response_in_both_forms(gateway):
    price = {"input": 1, "output": 2}
    models = [{"name": "test", "targets": [{"target": "fake/one", "price": price}]}]
    recorder = Recorder()
    async with gateway(FakeProvider(usage=(1000, 500)), recorder, models=models) as g:
        plain = await g.chat()
        await g.chat(stream=True)
    assert plain.headers["x-junctor-cost"] == "0.002000000"
    assert [response.cost.total for _, response, _ in recorder.ended] == [2_000_000, 2_000_000]


async def test_a_target_without_a_price_is_unpriced_not_free(gateway):
    recorder = Recorder()
    async with gateway(FakeProvider(), recorder) as g:
        answer = await g.chat()
    assert answer.headers["x-junctor-cost"] == "unpriced"
    assert recorder.last.cost is None


async def test_a_failing_post_call_does_not_keep_the_others_from_running(gateway, caplog):
    class Broken:
        @hookimpl
        async def post_call(self, exchange):
            raise RuntimeError("disk full")

    recorder = Recorder()
    async with gateway(recorder, Broken(), FakeProvider()) as g:
        answer = await g.chat()
        failures = g.gateway.plugins.failures
    assert answer.status == 200
    assert len(recorder.ended) == 1
    assert failures["broken", "post_call"] == 1
    assert "plugin 'broken': post_call failed: RuntimeError" in caplog.text


@pytest.mark.parametrize(("policy", "status"), [("closed", 503), ("open", 200)])
async def test_on_failure_decides_what_a_broken_pre_route_means(gateway, policy, status):
    class Broken:
        Settings = PluginSettings

        def __init__(self, settings):
            pass

        @hookimpl
        async def pre_route(self, exchange):
            raise RuntimeError("bug")

    async with gateway((Broken, {"on_failure": policy}), FakeProvider()) as g:
        assert (await g.chat()).status == status


async def test_a_hook_that_takes_too_long_is_a_failure(gateway):
    class Slow:
        Settings = PluginSettings

        def __init__(self, settings):
            pass

        @hookimpl
        async def cache_lookup(self, exchange):
            await asyncio.sleep(30)

    recorder = Recorder()
    async with gateway((Slow, {"timeout": "20ms"}), FakeProvider("fresh"), recorder) as g:
        answer = await asyncio.wait_for(g.chat(), 5)
        assert g.gateway.plugins.failures["slow", "cache_lookup"] == 1
    assert answer.text == "fresh"
    assert recorder.last.timings["slow", "cache_lookup"] >= 0.02


async def test_a_bug_in_call_is_an_internal_error_that_can_be_fallen_back_from(gateway):
    provider = FakeProvider("rescued", script=[ZeroDivisionError(), None])
    async with gateway(NextTarget(), provider) as g:
        answer = await g.chat()
    assert answer.text == "rescued"


async def test_a_question_of_the_gateways_own_is_an_exchange_with_its_purpose(gateway):
    recorder = Recorder()
    async with gateway(FakeProvider("yes"), recorder) as g:
        body = {"model": "test", "messages": [{"role": "user", "content": "same?"}]}
        response = await g.gateway.ask("chat", body, purpose="judge")
    assert b"yes" in response.body
    assert recorder.last.purpose == "judge"
