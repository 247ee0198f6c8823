"""Two gateways, one Redis: one entry, one flight, one purge."""

from __future__ import annotations

import asyncio
import json
import time

import pytest
from junctor.state import MemoryState
from junctor.testing import FakeProvider
from junctor_exact_cache import ExactCache
from junctor_exact_cache.entry import Filter
from junctor_exact_cache.leases import Leases


@pytest.fixture
def config(redis_url, prefix):
    state = {"url": redis_url, "prefix": prefix, "timeout": 1.0}
    return json.dumps({"state": state, "models": [{"name": "test", "targets": [{"target": "fake/one"}]}]})


@pytest.fixture
def cache(redis_url, prefix):
    store = {"url": redis_url, "prefix": prefix + "e:", "timeout": 1.0}
    return ExactCache, {"store": store, "secret": "the same for both of us", "ttl": "20s"}


def _plugin(g):
    return g.gateway.plugins.by_name["exactcache"]


async def test_an_entry_of_one_is_a_hit_for_the_other(gateway, config, cache):
    here, there = FakeProvider("four"), FakeProvider("five")
    async with gateway(cache, here, config=config) as one, gateway(cache, there, config=config) as two:
        await one.chat()
        answer = await two.chat()
        assert await _plugin(two).purge(Filter()) == 1
        assert (await one.chat()).headers["x-junctor-cache"] == "miss"
    assert (answer.headers["x-junctor-cache"], answer.text, there.calls) == ("hit", "four", [])


async def test_a_hundred_clients_of_two_gateways_cost_one_call(gateway, config, cache):
    here, there = (FakeProvider("one two", script=[0.15], chunk_delay=0.02) for _ in range(2))
    async with gateway(cache, here, config=config) as one, gateway(cache, there, config=config) as two:
        answers = await asyncio.gather(*[(one, two)[n % 2].chat(stream=n % 4 < 2) for n in range(100)])
    assert {answer.text for answer in answers} == {"one two"}
    assert len(here.calls) + len(there.calls) == 1


async def test_an_answer_that_is_not_kept_makes_nobody_wait(gateway, config, cache):
    factory, settings = cache
    plugin = (factory, {**settings, "max_entry": 1024})
    here, there = (FakeProvider("x" * 3000, script=[0.1]) for _ in range(2))
    async with gateway(plugin, here, config=config) as one, gateway(plugin, there, config=config) as two:
        started = time.monotonic()
        await asyncio.gather(one.chat(), two.chat())
    assert len(here.calls) + len(there.calls) == 2
    assert time.monotonic() - started < 1.5


async def test_the_other_one_tries_itself_when_the_first_fails(gateway, config, cache):
    here = FakeProvider(script=[RuntimeError("boom")])
    there = FakeProvider("fine")
    async with gateway(cache, here, config=config) as one, gateway(cache, there, config=config) as two:
        assert (await one.chat()).status == 500
        assert (await two.chat()).text == "fine"


async def test_a_wait_for_another_replica_has_an_end(gateway, config, cache):
    factory, settings = cache
    plugin = (factory, {**settings, "flight_wait": 0.1})
    here, there = FakeProvider("late", script=[1.0]), FakeProvider("soon")
    async with gateway(plugin, here, config=config) as one, gateway(plugin, there, config=config) as two:
        slow = asyncio.create_task(one.chat())
        await asyncio.sleep(0.05)
        started = time.monotonic()
        assert (await two.chat()).text == "soon"
        assert time.monotonic() - started < 0.6
        await slow


async def test_a_purge_reaches_the_memory_of_every_process(gateway, config):
    async with gateway(ExactCache, FakeProvider(), config=config) as one:
        async with gateway(ExactCache, FakeProvider(), config=config) as two:
            await asyncio.sleep(0.1)
            await two.chat()
            await _plugin(one).purge(Filter(model="test"))
            for _ in range(100):
                if not (await _plugin(two).stats())["entries"]:
                    break
                await asyncio.sleep(0.02)
            assert (await two.chat()).headers["x-junctor-cache"] == "miss"


@pytest.fixture(params=["memory", "redis"])
async def state(request, prefix):
    if request.param == "memory":
        opened = MemoryState()
    else:
        from junctor.redis_state import RedisState

        opened = RedisState(request.getfixturevalue("redis_url"), prefix=prefix, timeout=1.0)
    yield opened
    await opened.aclose()


async def _nothing():
    return None


async def test_a_lease_is_held_by_one_and_ends_by_itself(state):
    ours, theirs = Leases(state, ttl=0.3), Leases(state, ttl=0.3)
    soon = asyncio.get_running_loop().time() + 5
    assert await ours.take_or_wait("k", _nothing, until=soon) is None
    assert await state.get("k") is not None
    started = time.monotonic()
    await theirs.take_or_wait("k", _nothing, until=soon)
    assert 0.15 < time.monotonic() - started < 2


async def test_a_lease_that_is_kept_does_not_end(state):
    ours = Leases(state, ttl=0.3)
    await ours.take_or_wait("k", _nothing, until=0)
    task = asyncio.create_task(ours.keep())
    await asyncio.sleep(0.6)
    assert await state.get("k") is not None
    task.cancel()
    await ours.give_back("k", kept=True, failed=False)
    assert await state.get("k") is None


async def test_nobody_gives_back_the_lease_of_another(state):
    ours = Leases(state, ttl=0.05)
    await ours.take_or_wait("k", _nothing, until=0)
    await asyncio.sleep(0.1)
    await state.set("k", b"theirs")
    await ours.give_back("k", kept=True, failed=False)
    assert await state.get("k") == b"theirs"
