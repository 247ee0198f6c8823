"""Equal requests in flight: one call, everybody answered at their own pace, nobody hurt by another's end."""

from __future__ import annotations

import asyncio
import time

import pytest
from junctor import ErrorKind, ProviderError, Response, Stream, hookimpl
from junctor.testing import FakeProvider, Recorder
from junctor_exact_cache import ExactCache

_PRICED = [{"name": "test", "targets": [{"target": "fake/one", "price": {"input": 1, "output": 2}}]}]
_COST = 7 * 1000 + 5 * 2000


class Paced:
    """Streams one event whenever the test lets it."""

    def __init__(self, count=4, *, size=1):
        self.count, self.size, self.calls, self.cancelled = count, size, 0, 0
        self.go = asyncio.Semaphore(0)
        self.sent = 0

    @hookimpl
    def claims(self, target):
        return True

    @hookimpl
    async def call(self, exchange, target):
        self.calls += 1
        return Response(stream=Stream(self._pieces(), exchange.request.wire.reader(exchange.request)))

    async def _pieces(self):
        try:
            for number in range(self.count):
                await self.go.acquire()
                self.sent += 1
                yield b'data: {"choices":[{"index":0,"delta":{"content":"%s"}}]}\n\n' % (
                    b"%d" % (number % 10) * self.size
                )
            yield b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled += 1
            raise

    def let(self, count):
        for _ in range(count):
            self.go.release()


async def _until(condition, seconds=5.0):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen"
        await asyncio.sleep(0.002)


def _cache(g):
    return g.gateway.plugins.by_name["exactcache"]


def _waiting(g):
    """How many take part in the flights of this gateway."""
    return sum(flight.clients for flight in _cache(g)._flights.values())


@pytest.mark.parametrize("delay", [0.03])
async def test_a_hundred_whole_and_streamed_clients_cost_one_call(gateway, delay):
    provider = FakeProvider("one two three four", script=[delay], chunk_delay=0.005)
    for leads_streaming in (False, True):
        async with gateway(ExactCache, provider) as g:
            first = asyncio.create_task(g.chat(f"{leads_streaming}", stream=leads_streaming))
            await asyncio.sleep(0)
            others = [g.chat(f"{leads_streaming}", stream=bool(n % 2)) for n in range(99)]
            answers = [*await asyncio.gather(*others), await first]
        assert {answer.text for answer in answers} == {"one two three four"}
        assert {answer.status for answer in answers} == {200}
        assert sum(answer.headers["x-junctor-cache"] == "miss" for answer in answers) == 1
    assert len(provider.calls) == 2


async def test_streams_fan_out_live(gateway):
    provider = Paced(3)
    async with gateway(ExactCache, provider) as g:
        leader = asyncio.create_task(g.chat(stream=True))
        provider.let(1)
        await _until(lambda: provider.sent == 1)
        event = asyncio.Event()
        follower = asyncio.create_task(g.chat(stream=True, hang_up=event, hang_up_after=1))
        await asyncio.wait_for(follower, 2)  # it had its first event while the provider was still at it
        assert provider.sent == 1
        provider.let(2)
        assert (await leader).text == "012"


async def test_one_who_comes_late_gets_it_from_the_beginning(gateway):
    provider = Paced(4)
    async with gateway(ExactCache, provider) as g:
        leader = asyncio.create_task(g.chat(stream=True))
        provider.let(3)
        await _until(lambda: provider.sent == 3)
        follower = asyncio.create_task(g.chat(stream=True, stream_options={"include_usage": True}))
        whole = asyncio.create_task(g.chat())
        await _until(lambda: _waiting(g) == 3)
        provider.let(1)
        texts = [answer.text for answer in await asyncio.gather(leader, follower, whole)]
    assert texts == ["0123"] * 3
    assert provider.calls == 1


async def test_every_follower_gets_the_usage_only_if_it_asked(gateway):
    provider = FakeProvider("one two", chunk_delay=0.01)
    async with gateway(ExactCache, provider) as g:
        plain, asking = await asyncio.gather(
            g.chat(stream=True), g.chat(stream=True, stream_options={"include_usage": True})
        )
    assert all("usage" not in event for event in plain.events[:-1])
    assert asking.events[-2]["usage"]["total_tokens"] == 12


async def test_the_leaders_hang_up_ends_nobody_else_and_its_answer_is_kept(gateway):
    provider, recorder = Paced(4), Recorder()
    async with gateway(ExactCache, recorder, provider) as g:
        gone = asyncio.Event()
        leader = asyncio.create_task(g.chat(stream=True, hang_up=gone))
        provider.let(2)
        await _until(lambda: provider.sent == 2)
        followers = [asyncio.create_task(g.chat(stream=True)) for _ in range(5)]
        await _until(lambda: _waiting(g) == 6)
        gone.set()
        await asyncio.sleep(0.02)
        provider.let(2)
        assert {answer.text for answer in await asyncio.gather(*followers)} == {"0123"}
        await leader
        await _until(lambda: len(recorder.ended) == 6)
        assert (await g.chat()).headers["x-junctor-cache"] == "hit"
    assert (provider.calls, provider.cancelled) == (1, 0)


async def test_a_whole_leaders_hang_up_ends_nobody_else(gateway):
    provider = FakeProvider("four", script=[0.05])
    async with gateway(ExactCache, provider) as g:
        gone = asyncio.Event()
        leader = asyncio.create_task(g.chat(hang_up=gone))
        await _until(lambda: provider.running == 1)
        followers = [asyncio.create_task(g.chat(stream=n % 2 == 0)) for n in range(4)]
        await _until(lambda: _waiting(g) == 5)
        gone.set()
        assert {answer.text for answer in await asyncio.gather(*followers)} == {"four"}
        await leader
    assert (len(provider.calls), provider.cancelled) == (1, 0)


async def test_when_the_last_one_hangs_up_the_provider_is_told(gateway):
    provider = FakeProvider("a b c d", script=[5.0])
    async with gateway(ExactCache, provider) as g:
        events = [asyncio.Event() for _ in range(3)]
        clients = [asyncio.create_task(g.chat(hang_up=event)) for event in events]
        await _until(lambda: _waiting(g) == 3)
        for event in events[:-1]:
            event.set()
        await asyncio.sleep(0.02)
        assert provider.running == 1
        events[-1].set()
        await asyncio.wait_for(asyncio.gather(*clients), 2)
        assert (provider.running, provider.cancelled, _cache(g)._flights) == (0, 1, {})


async def test_a_followers_hang_up_is_its_own(gateway):
    provider = Paced(3)
    async with gateway(ExactCache, provider) as g:
        leader = asyncio.create_task(g.chat(stream=True))
        provider.let(1)
        await _until(lambda: provider.sent == 1)
        await g.chat(stream=True, hang_up_after=1)
        provider.let(2)
        assert (await leader).text == "012"


async def test_a_failure_is_not_shared(gateway):
    error = ProviderError("down", kind=ErrorKind.OVERLOADED)

    class FailsOnce(FakeProvider):
        @hookimpl
        async def call(self, exchange, target):
            if not self.calls:
                self.calls.append((target.id, {}))
                await asyncio.sleep(0.03)
                raise error
            return await FakeProvider.call(self, exchange, target)

    provider = FailsOnce("fine", script=[0.01])
    async with gateway(ExactCache, provider) as g:
        answers = await asyncio.gather(*[g.chat(stream=n % 2 == 1) for n in range(20)])
    assert sorted(answer.status for answer in answers) == [200] * 19 + [503]
    assert len(provider.calls) == 2  # the one that failed, and a new leader's


async def test_a_provider_that_always_fails_is_not_asked_by_one_after_the_other(gateway):
    provider = FakeProvider(script=[ProviderError("down", kind=ErrorKind.OVERLOADED)])

    class Slow:
        @hookimpl
        async def call(self, exchange, target):
            await asyncio.sleep(0.05)

    async with gateway(ExactCache, Slow(), provider) as g:
        started = time.monotonic()
        answers = await asyncio.gather(*[g.chat() for _ in range(30)])
    assert {answer.status for answer in answers} == {503}
    assert time.monotonic() - started < 1.0


class CutsOnce(FakeProvider):
    """Breaks its first stream off after two events."""

    @hookimpl
    async def call(self, exchange, target):
        self.cut_after = None if self.calls else 2
        return await FakeProvider.call(self, exchange, target)

    async def _pieces(self, *args):
        cut = self.cut_after
        async for number, piece in _numbered(super()._pieces(*args)):
            if cut is not None and number >= cut:
                return
            yield piece


async def _numbered(pieces):
    number = 0
    async for piece in pieces:
        yield number, piece
        number += 1


async def test_when_a_stream_breaks_off_who_has_begun_is_told_and_who_has_not_asks_again(gateway):
    provider = CutsOnce("one two three", chunk_delay=0.02)
    async with gateway(ExactCache, provider) as g:
        leader = asyncio.create_task(g.chat(stream=True))
        await _until(lambda: provider.running == 1)
        streamed, whole = await asyncio.gather(g.chat(stream=True), g.chat())
        broken = await leader
    for answer in (broken, streamed):
        assert answer.events[-1]["choices"][0]["finish_reason"] == "error"
        assert "[DONE]" not in answer.events
    assert (whole.status, whole.text, len(provider.calls)) == (200, "one two three", 2)


async def test_a_slow_leader_holds_up_nobody(gateway):
    provider = Paced(5)
    async with gateway(ExactCache, provider) as g:
        block = asyncio.Event()
        leader = asyncio.create_task(_slow_client(g, block))
        provider.let(1)
        await _until(lambda: provider.sent == 1)
        follower = asyncio.create_task(g.chat(stream=True))
        provider.let(4)
        assert (await asyncio.wait_for(follower, 2)).text == "01234"
        assert not leader.done()
        block.set()
        assert b'"4"' in await leader


async def test_a_slow_follower_holds_up_nobody_and_gets_all_of_it(gateway):
    provider = Paced(50, size=1000)
    async with gateway(ExactCache, provider) as g:
        block = asyncio.Event()
        leader = asyncio.create_task(g.chat(stream=True))
        provider.let(1)
        await _until(lambda: provider.sent == 1)
        follower = asyncio.create_task(_slow_client(g, block))
        await _until(lambda: _waiting(g) == 2)
        provider.let(49)
        assert len((await asyncio.wait_for(leader, 2)).text) == 50_000
        block.set()
        assert (await follower).count(b'"content"') == 50


async def test_a_follower_that_falls_too_far_behind_is_cut_off_and_the_rest_goes_on(gateway):
    provider = Paced(60, size=1000)
    settings = {"flight_buffer": 8192, "max_entry": 8192, "flight_patience": 0.05}
    async with gateway((ExactCache, settings), provider) as g:
        block = asyncio.Event()
        leader = asyncio.create_task(g.chat(stream=True))
        provider.let(1)
        await _until(lambda: provider.sent == 1)
        follower = asyncio.create_task(_slow_client(g, block))
        await _until(lambda: _waiting(g) == 2)
        flight = next(iter(_cache(g)._flights.values()))
        provider.let(59)
        assert len((await asyncio.wait_for(leader, 5)).text) == 60_000
        assert flight._size < 20_000
        block.set()
        assert b"reads too slowly" in await follower


async def _slow_client(g, block):
    """Streams, but takes nothing after the first piece until it is let."""
    body = b'{"model":"test","messages":[{"role":"user","content":"hi"}],"stream":true}'
    got, asked = [], False

    async def receive():
        nonlocal asked
        if asked:
            await asyncio.Event().wait()
        asked = True
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message):
        if message.get("body"):
            got.append(message["body"])
            await block.wait()

    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": [], "query_string": b""}
    await g.app({**scope, "raw_path": b"", "root_path": ""}, receive, send)
    return b"".join(got)


@pytest.mark.parametrize(("rule", "shares"), [("leader", (_COST, 0)), ("split", (_COST - _COST // 3 * 2, _COST // 3))])
@pytest.mark.parametrize("stream", [False, True])
async def test_costs_are_attributed_by_rule(gateway, rule, shares, stream):
    recorder = Recorder()
    provider = FakeProvider("a b", script=[0.03], chunk_delay=0.01)
    async with gateway((ExactCache, {"flight_cost": rule}), recorder, provider, models=_PRICED) as g:
        await asyncio.gather(*[g.chat(stream=stream) for _ in range(3)])
    facts = [exchange.facts["cache"] for exchange, _, _ in recorder.ended]
    flights = {fact["flight"]["role"]: fact["flight"] for fact in facts}
    assert (flights["leader"]["share"], flights["follower"]["share"]) == shares
    assert {flight["clients"] for flight in flights.values()} == {3}
    assert sum(fact["flight"]["share"] for fact in facts) == _COST
    assert sum(exchange.cost.total for exchange, _, _ in recorder.ended) == _COST


async def test_requests_that_may_call_tools_are_not_put_together(gateway):
    provider = FakeProvider(script=[0.02])
    tools = [{"type": "function", "function": {"name": "f"}}]
    async with gateway(ExactCache, provider) as g:
        await asyncio.gather(*[g.chat(tools=tools) for _ in range(3)])
    assert len(provider.calls) == 3


async def test_one_flight_can_be_switched_off(gateway):
    provider = FakeProvider(script=[0.02])
    async with gateway((ExactCache, {"one_flight": False}), provider) as g:
        await asyncio.gather(*[g.chat() for _ in range(3)])
        assert (await g.chat()).headers["x-junctor-cache"] == "hit"
    assert len(provider.calls) == 3


async def test_nobody_waits_longer_than_configured(gateway):
    provider = FakeProvider(script=[0.4, None])
    async with gateway((ExactCache, {"flight_wait": 0.05}), provider) as g:
        leader = asyncio.create_task(g.chat())
        await _until(lambda: provider.running == 1)
        started = time.monotonic()
        assert (await g.chat()).status == 200
        assert time.monotonic() - started < 0.3
        await leader
    assert len(provider.calls) == 2


async def test_an_answer_of_another_cache_is_not_passed_on(gateway):
    class Similar:
        asked = 0

        @hookimpl
        async def cache_lookup(self, exchange):
            self.asked += 1
            await asyncio.sleep(0.02)
            return Response(b'{"choices":[]}', cached="semantic")

    similar = Similar()
    async with gateway(ExactCache, similar, FakeProvider()) as g:
        await asyncio.gather(*[g.chat() for _ in range(3)])
        assert similar.asked == 3
        await g.chat()
    assert similar.asked == 4


async def test_nothing_is_left_behind(gateway):
    provider = FakeProvider("a b c", chunk_delay=0.001)
    async with gateway(ExactCache, provider) as g:
        await asyncio.gather(*[g.chat(f"q{n % 7}", stream=n % 2 == 0, hang_up_after=n % 3 or None) for n in range(60)])
        await _until(lambda: not _cache(g)._flights)
        assert provider.running == 0
    assert [task for task in asyncio.all_tasks() if "_all_of_it" in repr(task)] == []
