"""Strategies: who comes first, and what the record says."""

import asyncio
from collections import Counter

import pytest
from junctor import Client, ErrorKind, ProviderError
from junctor.testing import FakeProvider

THREE = [{"name": "test", "targets": [{"target": f"fake/{n}"} for n in ("one", "two", "three")]}]


def priced(**prices):
    targets = [{"target": f"fake/{n}", "price": p} if p else {"target": f"fake/{n}"} for n, p in prices.items()]
    return [{"name": "test", "targets": targets}]


def by(strategy):
    return {"strategies": {"default": strategy}}


def scores(exchange):
    return {
        c["target"].removeprefix("fake/"): c.get("score", c.get("dropped"))
        for c in exchange.facts["route"]["candidates"]
    }


async def firsts(pick, g, times=300, **request):
    return Counter([(await pick(g, **request))[0][0] for _ in range(times)])


async def test_weighted_follows_the_weights_and_leaves_zero_for_last(routed, pick):
    targets = [{"target": "fake/a", "weight": 3}, {"target": "fake/b", "weight": 1}, {"target": "fake/c", "weight": 0}]
    async with routed(by("weighted"), [{"name": "test", "targets": targets}]) as (g, *_):
        found = await firsts(pick, g, 1000)
        last = {(await pick(g))[0][-1] for _ in range(20)}
    assert 680 <= found["a"] <= 820
    assert found["c"] == 0
    assert last == {"c"}


async def test_ordered_is_the_files_order(routed, pick):
    async with routed(by("ordered"), THREE) as (g, *_):
        assert (await pick(g))[0] == ["one", "two", "three"]


async def test_ordered_goes_tier_by_tier_of_names_and_tags(routed, pick):
    targets = [{"target": "fake/a"}, {"target": "fake/b", "tags": ["own"]}, {"target": "fake/c", "tags": ["own"]}]
    strategy = {"ordered": {"tiers": [["own"], ["fake/a"]]}}
    async with routed(by(strategy), [{"name": "test", "targets": targets}]) as (g, *_):
        orders = {tuple((await pick(g))[0]) for _ in range(50)}
    assert orders == {("b", "c", "a"), ("c", "b", "a")}


async def test_least_busy_spreads_what_is_in_flight_and_counts_it_off_again(routed):
    provider = FakeProvider(script=[0.02])
    async with routed(by("least_busy"), THREE, provider) as (g, *_):
        await asyncio.gather(*(g.chat() for _ in range(9)))
        figures = g.gateway.plugins.by_name["routing"].figures()
    assert set(Counter(name for name, _ in provider.calls).values()) == {3}
    assert all(f["in_flight"] == 0 for f in figures.values())


async def test_least_busy_counts_streams_until_their_last_byte(routed):
    provider = FakeProvider("a b c d", chunk_delay=0.02)
    async with routed(by("least_busy"), THREE, provider) as (g, *_):
        running = [asyncio.create_task(g.chat(stream=True)) for _ in range(3)]
        await asyncio.sleep(0.03)
        counts = [f["in_flight"] for f in g.gateway.plugins.by_name["routing"].figures().values()]
        await asyncio.gather(*running)
    assert counts == [1, 1, 1]


async def test_a_fallback_is_counted_where_it_runs(routed):
    from junctor import hookimpl

    class Next:
        @hookimpl
        async def on_error(self, exchange, target):
            return next((t for t in exchange.targets if t.name == "fake/two" and t is not target), None)

    seen = []

    class Watch(FakeProvider):
        async def _look(self):
            figures = g.gateway.plugins.by_name["routing"].figures()
            seen.append({k.removeprefix("fake/"): f["in_flight"] for k, f in figures.items()})

        @hookimpl
        async def call(self, exchange, target):
            await self._look()
            return await super().call(exchange, target)

    down = ProviderError("down", kind=ErrorKind.OVERLOADED)
    provider = Watch(script=[down, None])
    async with routed(by("ordered"), THREE, provider, [Next()]) as (g, *_):
        assert (await g.chat()).status == 200
    assert seen == [{"one": 1, "two": 0, "three": 0}, {"one": 0, "two": 1, "three": 0}]


async def test_lowest_latency_prefers_what_answers_fast(routed, pick, taught):
    async with routed(by({"lowest_latency": {"explore": 0}}), THREE) as (g, *_):
        await taught(g, "one", ttft=0.5, duration=2.0)
        await taught(g, "two", ttft=0.1, duration=0.6)
        await taught(g, "three", ttft=0.2, duration=9.0)
        names, exchange = await pick(g, max_tokens=10)
    assert names == ["two", "one", "three"]
    assert scores(exchange)["two"] == pytest.approx(0.6, rel=0.01)


async def test_lowest_latency_weighs_first_token_and_speed_by_the_length_expected(routed, pick, taught):
    async with routed(by({"lowest_latency": {"explore": 0}}), THREE) as (g, *_):
        await taught(g, "one", ttft=0.1, duration=1.1, output=10)  # begins at once, 0.1 s a token
        await taught(g, "two", ttft=1.0, duration=1.1, output=10)  # begins late, 0.01 s a token
        await taught(g, "three", ttft=5.0, duration=9.0)
        assert (await pick(g, max_tokens=2))[0][0] == "one"
        g.gateway.plugins.by_name["routing"]._expected["test"] = 500
        assert (await pick(g, max_tokens=400))[0][0] == "two"


async def test_an_unmeasured_target_is_tried_first_by_one_request_at_a_time(routed):
    provider = FakeProvider(script=[0.03])
    async with routed(by({"lowest_latency": {"explore": 0}}), THREE, provider) as (g, *_):
        await asyncio.gather(*(g.chat() for _ in range(3)))
    assert {name for name, _ in provider.calls} == {"fake/one", "fake/two", "fake/three"}


async def test_a_target_that_was_slow_is_tried_again(routed, pick, taught):
    async with routed(by({"lowest_latency": {"explore": 0.2}}), THREE) as (g, *_):
        for name, ttft in (("one", 3.0), ("two", 0.1), ("three", 0.5)):
            await taught(g, name, ttft=ttft, duration=ttft + 1)
        for live in g.gateway.plugins.by_name["routing"]._lives.values():
            live.seen -= 60
        g.gateway.plugins.by_name["routing"]._lives["fake/one"].seen -= 60
        found = await firsts(pick, g, 500)
    assert 50 <= found["one"] <= 160
    assert found["two"] >= 300


async def test_failing_makes_a_target_slow_not_fast(routed, pick, taught):
    async with routed(by({"lowest_latency": {"explore": 0}}), THREE) as (g, *_):
        await taught(g, "one", ttft=0.1, duration=0.5)
        await taught(g, "two", ttft=0.3, duration=0.9)
        await taught(g, "three", ttft=0.4, duration=1.5)
        await taught(g, "one", times=5, error=ProviderError("no", kind=ErrorKind.OVERLOADED), duration=0.01)
        assert (await pick(g))[0][0] == "two"


async def test_a_clients_own_mistakes_are_not_held_against_the_target(routed, pick, taught):
    async with routed(by({"lowest_latency": {"explore": 0}}), THREE) as (g, *_):
        for name, ttft in (("one", 0.1), ("two", 0.3), ("three", 0.4)):
            await taught(g, name, ttft=ttft, duration=ttft + 0.5)
        await taught(g, "one", times=9, error=ProviderError("no", kind=ErrorKind.BAD_REQUEST))
        assert (await pick(g))[0][0] == "one"


async def test_near_equals_share_by_what_is_in_flight(routed):
    provider = FakeProvider(script=[0.02])
    async with routed(by({"lowest_latency": {"explore": 0, "tolerance": "100%"}}), THREE, provider) as (g, *_):
        for _ in range(3):
            await g.chat()
        provider.calls.clear()
        await asyncio.gather(*(g.chat() for _ in range(6)))
    assert set(Counter(name for name, _ in provider.calls).values()) == {2}


async def test_cheapest_counts_input_and_output_and_puts_unpriced_last(routed, pick):
    models = priced(free=None, talk={"input": 0.1, "output": 9}, read={"input": 2, "output": 1})
    async with routed(by("cheapest"), models) as (g, *_):
        long_answer, _ = await pick(g, "hi")
        long_question, exchange = await pick(g, "word " * 4000, max_tokens=10)
    assert long_answer == ["read", "talk", "free"]
    assert long_question == ["talk", "read", "free"]
    assert scores(exchange)["free"] is None
    assert scores(exchange)["talk"] == pytest.approx((5004 * 0.1 + 10 * 9) / 1e6, rel=0.02)


async def test_cheapest_knows_what_the_providers_cache_saves(routed, pick, taught):
    models = priced(one={"input": 1, "cache_read": 0.1}, two={"input": 0.8, "cache_read": 0.8})
    async with routed(by("cheapest"), models) as (g, *_):
        assert (await pick(g, "word " * 1000))[0][0] == "two"
        await taught(g, "one", times=30, cached=90)
        assert (await pick(g, "word " * 1000))[0][0] == "one"


QUALITY = [
    {
        "name": "test",
        "targets": [
            {"target": "fake/std", "tags": ["standard"], "price": {"input": 0.1, "output": 0.1}},
            {"target": "fake/pre", "tags": ["premium"], "price": {"input": 1, "output": 1}},
            {"target": "fake/lux", "tags": ["premium"], "price": {"input": 50, "output": 50}},
        ],
    }
]


async def test_quality_takes_the_wanted_tier_then_those_below_under_the_ceiling(routed, pick):
    async with routed(by({"quality": {"tier": "premium", "max_cost": 0.005}}), QUALITY) as (g, *_):
        names, exchange = await pick(g)
    assert names == ["pre", "std"]
    assert scores(exchange)["lux"].startswith("would cost about $0.01")


async def test_quality_of_the_lower_tier_goes_up_only_when_it_must(routed, pick):
    async with routed(by({"quality": {"tier": "standard"}}), QUALITY) as (g, *_):
        assert (await pick(g))[0] == ["std", "pre", "lux"]


async def test_a_ceiling_that_leaves_nothing_is_told(routed):
    async with routed(by({"quality": {"tier": "premium", "max_cost": 0.0000001}}), QUALITY) as (g, *_):
        answer = await g.chat()
    assert answer.status == 403
    assert "over the ceiling" in answer.json()["error"]["message"]


async def test_sticky_keeps_a_session_on_its_target_and_spreads_sessions(routed, pick):
    async with routed(by("sticky"), THREE) as (g, *_):
        orders = {}
        for n in range(300):
            orders[n] = [(await pick(g, headers={"x-junctor-session": f"s{n}"}))[0] for _ in range(2)]
    assert all(first == second for first, second in orders.values())
    found = Counter(order[0][0] for order in orders.values())
    assert all(70 <= found[name] <= 130 for name in ("one", "two", "three"))


async def test_a_conversation_is_a_session_by_its_first_messages(routed, pick):
    async with routed(by("sticky"), THREE) as (g, *_):
        for n in range(20):
            start = [{"role": "system", "content": f"you are {n}"}, {"role": "user", "content": "hi"}]
            grown = [*start, {"role": "assistant", "content": "x"}, {"role": "user", "content": "more"}]
            assert (await pick(g, messages=start))[0] == (await pick(g, messages=grown))[0]


async def test_only_the_sessions_of_a_target_that_goes_move(routed, pick):
    async def homes(models):
        async with routed(by("sticky"), models) as (g, *_):
            return {n: (await pick(g, user=f"u{n}"))[0][0] for n in range(200)}

    before, after = await homes(THREE), await homes([{"name": "test", "targets": THREE[0]["targets"][:2]}])
    assert all(before[n] == after[n] for n in before if before[n] != "three")


@pytest.mark.parametrize("key", ["key", "team", "header:x-tenant", "metadata:app"])
async def test_sticky_may_go_by_another_key(routed, pick, key):
    async with routed(by({"sticky": {"by": key}}), THREE) as (g, *_):
        found = set()
        for n in range(20):
            client = Client(key_id=f"k{n}", team=f"t{n}")
            same = {"client": client, "headers": {"x-tenant": f"h{n}"}, "metadata": {"app": f"a{n}"}}
            orders = {tuple((await pick(g, f"text {m}", **same))[0]) for m in range(3)}
            assert len(orders) == 1
            found |= orders
    assert len(found) > 1


async def test_slo_takes_the_cheapest_that_is_fast_enough_and_says_so(routed, pick, taught):
    models = priced(one={"input": 1, "output": 1}, two={"input": 2, "output": 2}, three={"input": 3, "output": 3})
    async with routed(by({"slo": {"ttft_p95": "800ms", "explore": 0}}), models) as (g, *_):
        for name, ttft in (("one", 2.0), ("two", 0.3), ("three", 0.1)):
            await taught(g, name, times=10, ttft=ttft)
        names, exchange = await pick(g)
    assert names == ["two", "three", "one"]
    said = exchange.facts["route"]["slo"]
    assert said["met"] is True
    assert said["objectives"] == {"ttft_p95": 0.8}
    assert said["measured"]["fake/one"]["ttft_p95"] == pytest.approx(2.0, rel=0.16)


async def test_slo_does_not_need_prices_and_waits_for_enough_answers(routed, pick, taught):
    async with routed(by({"slo": {"ttft_p95": "800ms", "explore": 0}}), THREE) as (g, *_):
        await taught(g, "one", times=4, ttft=2.0, duration=3.0)
        g.gateway.plugins.by_name["routing"].figures()
        assert (await pick(g))[0] == ["one", "two", "three"]
        await taught(g, "one", ttft=2.0, duration=3.0)
        assert (await pick(g))[0] == ["two", "three", "one"]


async def test_slo_is_judged_at_the_percentile_not_on_average(routed, pick, taught):
    models = priced(one={"input": 1}, two={"input": 2})
    async with routed(by({"slo": {"ttft_p95": "800ms", "explore": 0}}), models) as (g, *_):
        await taught(g, "one", times=18, ttft=0.1)
        await taught(g, "one", times=3, ttft=5.0, duration=6.0)
        await taught(g, "two", times=20, ttft=0.5)
        assert (await pick(g))[0][0] == "two"


async def test_slo_that_nobody_meets_takes_the_nearest_and_says_so(routed, pick, taught):
    models = priced(one={"input": 1}, two={"input": 2})
    async with routed(by({"slo": {"ttft_p95": "10ms", "explore": 0}}), models) as (g, *_):
        await taught(g, "one", times=10, ttft=2.0, duration=3.0)
        await taught(g, "two", times=10, ttft=0.2)
        names, exchange = await pick(g)
    assert names == ["two", "one"]
    assert exchange.facts["route"]["slo"]["met"] is False


async def test_slo_holds_the_cost_of_a_thousand_requests(routed, pick, taught):
    models = priced(one={"input": 1, "output": 1}, two={"input": 1000, "output": 1000})
    settings = by({"slo": {"duration_p90": "2s", "cost_per_1k_requests": "$3", "explore": 0}})
    async with routed(settings, models) as (g, *_):
        await taught(g, "one", times=10, ttft=3.0, duration=5.0)
        await taught(g, "two", times=10, ttft=0.1, duration=1.0)
        names, exchange = await pick(g)
    assert exchange.facts["route"]["slo"]["met"] is False
    assert exchange.facts["route"]["slo"]["objectives"] == {"duration_p90": 2.0, "cost_per_1k_requests": 3.0}
    assert names == ["one", "two"]  # more than twice too slow, five times too dear


async def test_slo_tries_a_target_again_that_missed(routed, pick, taught):
    models = priced(one={"input": 1}, two={"input": 2})
    async with routed(by({"slo": {"ttft_p95": "800ms", "explore": 0.2}}), models) as (g, *_):
        await taught(g, "one", times=10, ttft=2.0, duration=3.0)
        await taught(g, "two", times=10, ttft=0.2)
        g.gateway.plugins.by_name["routing"]._lives["fake/one"].seen -= 60
        found = await firsts(pick, g, 300)
    assert 30 <= found["one"] <= 100


async def test_a_budget_that_is_nearly_spent_makes_it_the_cheapest(routed, pick):
    models = priced(dear={"input": 9}, cheap={"input": 1})
    async with routed(by("ordered"), models) as (g, *_):
        assert (await pick(g))[0][0] == "dear"
        names, exchange = await pick(g, facts={"prefer_cheaper": True})
    assert names[0] == "cheap"
    assert exchange.facts["route"]["because"] == "prefer_cheaper"


async def test_each_model_may_have_a_strategy_of_its_own(routed, pick):
    models = [*THREE, {"name": "other", "targets": [{"target": "fake/x"}]}]
    settings = {"strategies": {"default": "ordered", "models": {"other": "least_busy"}}}
    async with routed(settings, models) as (g, *_):
        assert (await pick(g))[1].facts["route"]["strategy"] == "ordered"
        assert (await pick(g, name="other"))[1].facts["route"]["strategy"] == "least_busy"
