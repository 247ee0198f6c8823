"""What is counted: outcomes, latencies, costs, targets, stories; by one worker, and by several together."""

import asyncio
import json
import time

import pytest
from junctor import ErrorKind, ProviderError, hookimpl
from junctor.testing import FakeProvider
from junctor_dashboard import Dashboard
from junctor_dashboard.merge import costs_of, targets_of, traffic_of
from junctor_dashboard.sketch import bucket, quantile
from junctor_dashboard.story import as_json

PRICED = [{"name": "test", "targets": [{"target": "fake/one", "price": {"input": 1, "output": 2}}]}]
KEYED = {"admin": {"key": "the-admin-key-of-this-test"}, "models": PRICED}


@pytest.fixture
def counted(gateway):
    """A gateway of one process, with what the dashboard knows as `traffic`."""

    def run(*plugins, **more):
        return gateway((Dashboard, {}), *plugins, config=json.dumps(KEYED | more))

    return run


def traffic(g):
    found = g.gateway.plugins.by_name["dashboard"]._traffic
    found.digest()
    return found


async def test_outcomes_costs_and_targets_are_counted(counted):
    error = ProviderError("no", kind=ErrorKind.OVERLOADED)
    async with counted(FakeProvider(script=[None, error, None])) as g:
        for _ in range(3):
            await g.chat()
        await g.chat(model="unknown")
        part = traffic(g).part()
        seen = traffic_of([part])
        (target,) = targets_of([part]).values()
    assert (seen["requests"], seen["failed"], seen["refused"]) == (4, 1, 1)
    assert seen["totals"]["answered"] == 2
    assert seen["cost_per_minute"] == 2 * (7 * 1000 + 5 * 2000)
    assert (target["requests"], target["share"]) == (3, 1)
    assert target["errors"] == pytest.approx(1 / 3)
    assert sum(map(sum, seen["seconds"])) == 4


async def test_costs_are_those_of_each_minute_and_name(counted):
    async with counted(FakeProvider()) as g:
        await g.chat()
        found = costs_of([traffic(g).spent(10)] * 2, "model")
    assert [(one["name"], one["total"]) for one in found["table"]] == [("test", 34_000)]
    assert found["series"][0]["values"][-1] + found["series"][0]["values"][-2] == 34_000


async def test_several_workers_are_added_up(counted):
    async with counted(FakeProvider()) as g:
        await g.chat()
        part = traffic(g).part()
    two = traffic_of([part, json.loads(json.dumps(part))])
    assert (two["requests"], two["totals"]["answered"]) == (2, 2)
    assert two["overhead"]["p50"] == traffic_of([part])["overhead"]["p50"]


async def test_the_story_has_decision_attempts_and_times(counted):
    async with counted(FakeProvider()) as g:
        await g.chat(headers={"x-request-id": "mine"}, stream=True)
        dashboard = traffic(g)
        (story,) = dashboard.stories
    assert (story["id"], story["target"], story["outcome"]) == ("mine", "fake/one", "answered")
    (attempt,) = story["attempts"]
    assert 0 <= attempt["start"] <= attempt["first_byte"] <= attempt["end"] <= story["duration"]
    assert story["tokens"] == [7, 5]


async def test_an_error_s_text_does_not_show_the_gateways_secrets(counted):
    error = ProviderError("key the-admin-key-of-this-test is bad", kind=ErrorKind.BAD_REQUEST)
    async with counted(FakeProvider(script=[error])) as g:
        await g.chat()
        (story,) = traffic(g).stories
    assert "the-admin-key" not in json.dumps(story)
    assert story["error"]["kind"] == "bad_request"


async def test_no_prompt_is_kept(counted):
    async with counted(FakeProvider("a secret answer")) as g:
        await g.chat("a secret question")
        await g.chat("a secret question", stream=True, hang_up_after=1)
        dashboard = g.gateway.plugins.by_name["dashboard"]._traffic
        waiting = repr(list(dashboard._pending))
        dashboard.digest()
        stories = json.dumps(list(dashboard.stories))
    assert len(json.loads(stories)) == 2
    assert "a secret" not in waiting + stories


async def test_what_is_kept_has_a_bound(counted):
    async with counted(FakeProvider()) as g:
        dashboard = g.gateway.plugins.by_name["dashboard"]._traffic
        async with asyncio.timeout(20):
            await asyncio.gather(*(g.chat() for _ in range(300)))
            one = await _ended(g)
        for _ in range(20_000):
            dashboard.put(*one)
        assert len(dashboard._pending) == 5000
        assert dashboard.missed >= 15_000
        assert len(dashboard.digest()) == 25
    assert len(dashboard.stories) <= 500


async def _ended(g):
    """An exchange that is over, as `post_call` was given it."""
    from junctor import Request
    from junctor.wire import OPENAI

    exchange = g.gateway.exchange(Request(OPENAI, "chat", {}, "test"))
    return exchange, None, ProviderError("no", kind=ErrorKind.OVERLOADED)


@pytest.mark.parametrize("seconds", [0.00005, 0.0012, 0.2, 3.7, 400])
def test_a_percentile_is_right_within_three_percent(seconds):
    assert quantile({bucket(seconds): 10}, 0.5) == pytest.approx(seconds, rel=0.03)


def test_percentiles_of_nothing_are_not_known():
    assert quantile({}, 0.5) is None


@pytest.mark.parametrize("watching", [0, 1])
async def test_workers_find_each_other_in_either_store(redis_url, prefix, watching):
    from junctor.redis_state import RedisState
    from junctor.state import MemoryState
    from junctor_dashboard.hub import ENROL

    redis = RedisState(redis_url, prefix=prefix, timeout=1.0)
    for state in (MemoryState(), redis):
        for worker, watched in (("a", watching), ("b", 0), ("a", 0)):
            found = await state.run(ENROL, ["dashboard:{workers}"], [worker, watched, 10_000, 10_000])
        assert found == [watching, b"a", b"b"]
        await asyncio.sleep(0.05)
        assert await state.run(ENROL, ["dashboard:{workers}"], ["b", 0, 20, 20]) == [0, b"b"]
    await redis.aclose()


async def test_the_page_of_one_worker_shows_the_sums_of_two(gateway, redis_url, prefix):
    config = json.dumps(KEYED | {"state": {"url": redis_url, "prefix": prefix, "timeout": 1.0}})
    async with gateway((Dashboard, {}), FakeProvider(), config=config) as one:
        async with gateway((Dashboard, {}), FakeProvider(), config=config) as two:
            hub = one.gateway.plugins.by_name["dashboard"]._hub
            watcher = hub.watch()
            await one.chat(headers={"x-request-id": "from-one"})
            await two.chat(headers={"x-request-id": "from-two"})
            await _until(lambda: b'"requests":2' in hub.sections.get("traffic", b""))
            await _until(lambda: {line["id"] for line in watcher.lines} == {"from-one", "from-two"})
            assert b'"workers":2' in hub.sections["meta"]
            await _until(lambda: hub._others)
            assert (await _costs(hub, 34_000))["total"] == 34_000


async def _costs(hub, total):
    for _ in range(80):
        found = await hub.costs("team")
        if found["total"] == total:
            break
        await asyncio.sleep(0.1)
    return found


async def _until(condition, seconds=6.0):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        await asyncio.sleep(0.02)


async def test_a_fact_that_is_not_json_does_not_hide_the_story(counted):
    class Odd:
        @hookimpl
        async def pre_route(self, exchange):
            exchange.facts["odd"] = {1, 2}

    async with counted(Odd(), FakeProvider()) as g:
        await g.chat()
        (story,) = traffic(g).stories
    assert json.loads(as_json(story))["facts"]["odd"] == "{1, 2}"
