"""Usage-aware: a target's own limits, from the file and from the provider's headers, alone and together."""

import asyncio
import time
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from junctor import ErrorKind, ProviderError
from junctor.state import StateUnavailable
from junctor.testing import FakeProvider
from junctor_routing.live import Limits, Sketch, Window

AWARE = {"strategies": {"default": "usage_aware"}}


def limited(**limits):
    return [{"name": "test", "targets": [{"target": f"fake/{n}", **fields} for n, fields in limits.items()]}]


async def test_a_target_takes_no_more_requests_than_its_limit_while_another_has_room(routed):
    models = limited(one={"requests_per_minute": 5}, two={})
    async with routed(AWARE, models) as (g, provider, _):
        for _ in range(40):
            await g.chat()
    found = Counter(name for name, _ in provider.calls)
    assert 1 <= found["fake/one"] <= 5


async def test_tokens_per_minute_count_as_well(routed, pick):
    models = limited(one={"tokens_per_minute": 1000}, two={})
    async with routed(AWARE, models) as (g, *_):
        firsts = [(await pick(g, "word " * 2000))[0][0] for _ in range(10)]
    assert set(firsts) == {"two"}


async def test_what_was_expected_is_replaced_by_what_was_used(routed):
    models = limited(one={"tokens_per_minute": 10_000})
    async with routed(AWARE, models, FakeProvider(usage=(30, 20))) as (g, *_):
        await g.chat("word " * 1000)
        window = g.gateway.plugins.by_name["routing"]._lives["fake/one"].window
    assert window.now_counts[0] + window.before[0] == 1
    assert window.now_counts[1] + window.before[1] == pytest.approx(50)


async def test_a_request_that_was_never_sent_is_given_back(routed):
    refused = ProviderError("open", kind=ErrorKind.UNAVAILABLE, sent=False)
    async with routed(AWARE, limited(one={"requests_per_minute": 10}), FakeProvider(script=[refused])) as (g, *_):
        await g.chat()
        window = g.gateway.plugins.by_name["routing"]._lives["fake/one"].window
    assert window.now_counts[0] + window.before[0] == 0


async def test_when_all_are_full_it_still_tries_by_default(routed):
    async with routed(AWARE, limited(one={"requests_per_minute": 1})) as (g, *_):
        assert [(await g.chat()).status for _ in range(3)] == [200, 200, 200]


async def test_when_all_are_full_it_may_refuse_with_a_time_to_wait(routed):
    settings = {"strategies": {"default": {"usage_aware": {"when_full": "refuse"}}}}
    async with routed(settings, limited(one={"requests_per_minute": 1})) as (g, *_):
        answers = [await g.chat() for _ in range(3)]
    assert answers[-1].status == 429
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 61


async def test_a_rate_limited_target_comes_last_whatever_the_strategy(routed, pick, taught):
    error = ProviderError("slow down", kind=ErrorKind.RATE_LIMITED, retry_after=30)
    async with routed({"strategies": {"default": "ordered"}}, limited(one={}, two={})) as (g, *_):
        await taught(g, "one", error=error)
        assert (await pick(g))[0] == ["two", "one"]


HEADERS = {
    "x-ratelimit-limit-requests": "100",
    "x-ratelimit-remaining-requests": "0",
    "x-ratelimit-reset-requests": "1m30s",
}


async def test_the_providers_own_headers_are_mirrored(routed, pick, taught):
    async with routed({"strategies": {"default": "ordered"}}, limited(one={}, two={})) as (g, *_):
        await taught(g, "one", headers=HEADERS)
        assert (await pick(g))[0] == ["two", "one"]


def test_headers_of_both_forms_are_read():
    openai, anthropic = Limits(None, None), Limits(None, None)
    openai.read({**HEADERS, "x-ratelimit-remaining-requests": "25"}, 100.0, 0.0)
    wall = datetime(2026, 1, 1, tzinfo=UTC)
    headers = {
        "anthropic-ratelimit-tokens-limit": "40000",
        "anthropic-ratelimit-tokens-remaining": "10000",
        "anthropic-ratelimit-tokens-reset": (wall + timedelta(seconds=60)).isoformat().replace("+00:00", "Z"),
    }
    anthropic.read(headers, 100.0, wall.timestamp())
    assert openai.requests == 100
    assert openai.headroom((0, 0), 0, 100.0) == pytest.approx(0.25)
    assert openai.headroom((0, 0), 0, 145.0) == pytest.approx(0.625)  # half of its 90 s are over
    assert anthropic.tokens == 40000
    assert anthropic.headroom((0, 0), 0, 160.0) == pytest.approx(1.0)


@pytest.mark.parametrize("value", ["", "soon", "-1", "1e999999", "٣"])
def test_headers_that_make_no_sense_are_left_alone(value):
    limits = Limits(None, None)
    limits.read({"x-ratelimit-limit-requests": value, "x-ratelimit-remaining-requests": "5"}, 1.0, 1.0)
    limits.read({**HEADERS, "x-ratelimit-reset-requests": value, "x-ratelimit-remaining-requests": "9"}, 1.0, 1.0)
    assert 0.0 <= limits.headroom((0, 0), 0, 2.0) <= 1.0


def test_a_window_lets_the_minute_before_fade():
    window = Window()
    window.add(60.0, 30, 300)
    assert window.used(119.0) == (30, 300)
    assert window.used(135.0) == (22.5, 225)
    assert window.used(240.0) == (0, 0)


def test_a_sketch_is_right_within_its_buckets_and_forgets():
    sketch = Sketch()
    for n in range(1, 101):
        sketch.add(n / 100, now=1000.0)
    assert sketch.quantile(95, 1000.0) == pytest.approx(0.95, rel=0.16)
    assert sketch.quantile(50, 1000.0) == pytest.approx(0.50, rel=0.16)
    assert sketch.quantile(95, 1070.0) is not None
    assert sketch.quantile(95, 1200.0) is None


@pytest.fixture
def two(routed, redis_url, prefix):
    """Two workers on one Redis, and a way to let both tell and hear."""
    import json
    from contextlib import asynccontextmanager

    @asynccontextmanager
    async def run(models):
        config = json.dumps({"models": models, "state": {"url": redis_url, "prefix": prefix, "timeout": "2s"}})
        settings = {**AWARE, "share_every": "1h"}
        async with routed(settings, config=config) as (a, *_), routed(settings, config=config) as (b, *_):

            async def tell():
                for worker in (a, b, a):
                    await worker.gateway.plugins.by_name["routing"]._sharing.exchange()

            yield a, b, tell

    return run


def window_of(harness, target):
    return harness.gateway.plugins.by_name["routing"]._lives[f"fake/{target}"].window


async def test_workers_hear_what_the_others_used(two, pick):
    async with two(limited(one={"requests_per_minute": 10}, two={})) as (a, b, tell):
        for _ in range(60):
            window_of(a, "one").add(time.time(), 1, 0)
        await tell()
        window = window_of(b, "one")
        heard = window.others[0] + window.others_before[0]
        told = window_of(a, "one").now_counts[0] + window_of(a, "one").before[0]
        firsts = {(await pick(b))[0][0] for _ in range(30)}
    assert heard == told >= 60
    assert firsts == {"two"}


async def test_workers_hear_that_a_target_is_full(two, pick, taught):
    error = ProviderError("slow down", kind=ErrorKind.RATE_LIMITED, retry_after=30)
    async with two(limited(one={}, two={})) as (a, b, tell):
        await taught(a, "one", error=error)
        await tell()
        firsts = {(await pick(b))[0][0] for _ in range(10)}
    assert firsts == {"two"}


async def test_a_store_that_is_down_costs_nothing_but_the_sharing(routed):
    config = (
        '{"models": [{"name": "test", "targets": [{"target": "fake/one", "requests_per_minute": 5}]}],'
        ' "state": {"url": "redis://127.0.0.1:1/0"}}'
    )
    async with routed({**AWARE, "share_every": "10ms"}, config=config) as (g, *_):
        await asyncio.sleep(0.1)
        answer = await g.chat()
        sharing = g.gateway.plugins.by_name["routing"]._sharing
        with pytest.raises(StateUnavailable):
            await sharing.exchange()
    assert answer.status == 200
    assert sharing.failures
