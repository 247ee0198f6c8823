"""What nobody waited for is still billed: an abandoned attempt has the estimate of its input."""

import asyncio

import pytest
from junctor import TargetUnavailable, hookimpl
from junctor.testing import FakeProvider, Recorder

MODELS = [{"name": "test", "targets": [{"target": "fake/one", "price": {"input": 1, "output": 2}}]}]


class Estimate:
    @hookimpl
    async def pre_route(self, exchange):
        exchange.facts["input_tokens_estimated"] = 40


async def test_a_cut_off_stream_costs_its_estimated_input_too(gateway):
    seen = Recorder()
    async with gateway(Estimate(), seen, FakeProvider(chunk_delay=0.02), models=MODELS) as g:
        await g.chat(stream=True, hang_up_after=2)
    usage = seen.last.attempts[0].usage
    assert (usage.input_tokens, usage.estimated) == (40, True)
    assert usage.output_tokens > 0
    assert seen.last.cost.input == 40_000


@pytest.mark.parametrize(("plugins", "cost"), [([Estimate()], 40_000), ([], 0)])
async def test_an_attempt_that_was_given_up_costs_what_is_known_of_it(gateway, plugins, cost):
    seen, gone = Recorder(), asyncio.Event()
    async with gateway(*plugins, seen, FakeProvider(script=[5.0]), models=MODELS) as g:
        asyncio.get_running_loop().call_later(0.02, gone.set)
        await g.chat(hang_up=gone)
    assert seen.last.attempts[0].abandoned
    assert seen.last.cost.total == cost


async def test_an_attempt_that_was_held_back_until_nobody_waited_costs_nothing(gateway):
    class Holds:
        @hookimpl
        async def call(self, exchange, target):
            try:
                await asyncio.sleep(5)
            except asyncio.CancelledError:
                exchange.attempts[-1].error = TargetUnavailable("held back")
                raise

    seen, gone = Recorder(), asyncio.Event()
    async with gateway(Estimate(), seen, Holds(), FakeProvider(), models=MODELS) as g:
        asyncio.get_running_loop().call_later(0.02, gone.set)
        await g.chat(hang_up=gone)
    attempt = seen.last.attempts[0]
    assert (attempt.abandoned, attempt.usage, seen.last.cost.total) == (False, None, 0)


async def test_a_stream_counts_its_bytes(gateway):
    seen = Recorder()
    async with gateway(seen, FakeProvider(), models=MODELS) as g:
        answer = await g.chat(stream=True)
    assert seen.ended[0][1].stream.size == len(answer.body) - len(b"data: [DONE]\n\n")
