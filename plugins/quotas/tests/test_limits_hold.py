"""Reserve, then settle: through the hooks of a running gateway, in memory and in Redis."""

from __future__ import annotations

import asyncio

import pytest
from junctor import ErrorKind, ProviderError
from junctor.testing import FakeProvider, Recorder

REQUESTS = [{"name": "rpm", "per": "team", "requests": 5, "window": "minute"}]
TOKENS = [{"name": "tpm", "per": "team", "tokens": 1000, "window": "minute"}]


async def test_admits_exactly_the_limit(limited):
    async with limited(FakeProvider(), limits=REQUESTS) as g:
        answers = await asyncio.gather(*(g.chat() for _ in range(30)))
    assert sorted(answer.status for answer in answers) == [200] * 5 + [429] * 25


async def test_each_team_has_its_own(limited):
    async with limited(FakeProvider(), limits=REQUESTS) as g:
        for team in ("a", "b"):
            answers = [await g.chat(headers={"x-team": team}) for _ in range(6)]
            assert [answer.status for answer in answers] == [200] * 5 + [429]


async def test_a_refusal_names_limit_scope_and_time(limited):
    async with limited(FakeProvider(), limits=REQUESTS) as g:
        for _ in range(5):
            await g.chat()
        answer = await g.chat()
    error = answer.json()["error"]
    assert answer.status == 429
    assert error["code"] == "rate_limit_exceeded"
    assert "'rpm'" in error["message"]
    assert "team=search" in error["message"]
    assert 55 <= int(answer.headers["retry-after"]) <= 64
    assert answer.headers["x-ratelimit-remaining-requests"] == "0"
    assert "x-should-retry" not in answer.headers


async def test_answers_tell_what_is_left(limited):
    async with limited(FakeProvider(), limits=REQUESTS) as g:
        answer = await g.chat()
    assert answer.headers["x-ratelimit-limit-requests"] == "5"
    assert answer.headers["x-ratelimit-remaining-requests"] == "4"
    assert answer.headers["x-ratelimit-reset-requests"] == "1m3s"


async def test_settles_to_what_was_used(limited, rows):
    async with limited(FakeProvider(usage=(7, 5)), limits=TOKENS) as g:
        await g.chat(max_tokens=500)
        row = (await rows(g))["tpm"]
    assert (row["used"], row["reserved"], row["remaining"]) == (12, 0, 988)


async def test_reserves_while_the_request_runs(limited, rows):
    async with limited(FakeProvider(script=[0.3]), limits=TOKENS) as g:
        running = asyncio.create_task(g.chat(max_tokens=900))
        await asyncio.sleep(0.1)
        assert (await rows(g))["tpm"]["reserved"] >= 900
        assert (await g.chat(max_tokens=900)).status == 429
        assert (await running).status == 200
        assert (await rows(g))["tpm"]["used"] == 12


async def test_all_or_nothing_over_several_limits(limited, rows):
    limits = [*TOKENS, {"name": "all", "requests": 1, "window": "minute"}]
    async with limited(FakeProvider(), limits=limits) as g:
        assert [(await g.chat(max_tokens=10)).status for _ in range(3)] == [200, 429, 429]
        found = await rows(g)
    assert (found["all"]["used"], found["tpm"]["used"], found["tpm"]["reserved"]) == (1, 12, 0)


async def test_a_failed_call_gives_everything_back(limited, rows):
    error = ProviderError("down", kind=ErrorKind.OVERLOADED)
    async with limited(FakeProvider(script=[error]), limits=[*REQUESTS, *TOKENS]) as g:
        assert [(await g.chat()).status for _ in range(8)] == [503] * 8
        found = await rows(g)
    assert [(row["used"], row["reserved"]) for row in found.values()] == [(0, 0)] * 2


async def test_a_stream_is_settled_at_its_end(limited, rows):
    async with limited(FakeProvider("a b c", usage=(7, 3)), limits=TOKENS) as g:
        assert (await g.chat(stream=True)).events[-1] == "[DONE]"
        assert (await rows(g))["tpm"]["used"] == 10


async def test_a_client_that_hangs_up_pays_for_what_was_produced(limited, rows):
    provider = FakeProvider("w " * 200, chunk_delay=0.005)
    async with limited(provider, limits=[*REQUESTS, *TOKENS]) as g:
        await g.chat(stream=True, max_tokens=400, hang_up_after=20)
        found = await rows(g)
    assert found["rpm"]["used"] == 1
    assert 20 <= found["tpm"]["used"] <= 120
    assert found["tpm"]["reserved"] == 0


async def test_money_is_counted_in_nano_dollars(limited, rows):
    limits = [{"name": "budget", "per": "team", "cost": 1, "window": "month"}]
    async with limited(FakeProvider(usage=(1000, 500)), limits=limits, price={"input": 2, "output": 10}) as g:
        await g.chat(max_tokens=10)
        row = (await rows(g))["budget"]
    assert row["used"] == 1000 * 2000 + 500 * 10000


async def test_an_exhausted_budget_is_not_worth_retrying(limited):
    limits = [{"name": "budget", "per": "team", "cost": "0.001", "window": "month"}]
    async with limited(FakeProvider(usage=(100, 100)), limits=limits, price={"input": 2, "output": 10}) as g:
        await g.chat(max_tokens=10)
        answer = await g.chat(max_tokens=10)
    assert answer.status == 429
    assert answer.headers["x-should-retry"] == "false"
    assert answer.json()["error"]["code"] == "insufficient_quota"


async def test_a_long_stream_reserves_more_as_it_goes(limited, rows):
    provider = FakeProvider("w " * 300, chunk_delay=0.001, usage=(7, 300))
    async with limited(provider, limits=TOKENS, expected_output=40) as g:
        assert (await g.chat(stream=True)).events[-1] == "[DONE]"
        assert (await rows(g))["tpm"]["used"] == 307


async def test_a_stream_as_long_as_it_may_be_is_not_cut(limited, rows):
    limits = [{"name": "out", "output_tokens": 100, "window": "minute"}]
    provider = FakeProvider("w " * 99, usage=(7, 100))
    async with limited(provider, limits=limits) as g:
        assert (await g.chat(stream=True, max_tokens=100)).events[-1] == "[DONE]"
        assert (await rows(g))["out"]["used"] == 100


async def test_a_provider_that_ignores_the_maximum_is_cut(limited):
    limits = [{"name": "out", "output_tokens": 100, "window": "minute"}]
    provider = FakeProvider("w " * 600, chunk_delay=0.001, usage=(7, 600))
    async with limited(provider, limits=limits) as g:
        answer = await g.chat(stream=True, max_tokens=100)
    assert answer.events[-1]["error"]["code"] == "quota_exceeded"
    assert len(answer.events) < 300


@pytest.mark.parametrize("overrun", ["cut", "finish"])
async def test_a_stream_beyond_the_limit_ends_as_configured(limited, overrun):
    limits = [{"name": "out", "output_tokens": 100, "window": "minute", "overrun": overrun}]
    provider = FakeProvider("w " * 600, chunk_delay=0.001, usage=(7, 600))
    async with limited(provider, limits=limits, expected_output=40) as g:
        answer = await g.chat(stream=True)
    last = answer.events[-1]
    if overrun == "finish":
        assert last == "[DONE]"
    else:
        assert last["error"]["code"] == "quota_exceeded"
        assert last["choices"][0]["finish_reason"] == "length"


async def test_concurrency_queues_and_everyone_gets_through(limited):
    recorder = Recorder()
    provider = FakeProvider(script=[0.02])
    limits = [{"name": "places", "concurrency": 3}]
    async with limited(provider, recorder, limits=limits) as g:
        answers = await asyncio.gather(*(g.chat() for _ in range(12)))
    assert [answer.status for answer in answers] == [200] * 12
    assert any("x-junctor-queue-position" in answer.headers for answer in answers)


async def test_a_full_queue_refuses_at_once(limited):
    limits = [{"name": "places", "concurrency": 1}]
    async with limited(FakeProvider(script=[0.2]), limits=limits, queue={"max_length": 2}) as g:
        answers = await asyncio.gather(*(g.chat() for _ in range(6)))
    statuses = sorted(answer.status for answer in answers)
    assert statuses == [200] * 3 + [429] * 3
    assert all("retry-after" in answer.headers for answer in answers if answer.status == 429)


async def test_the_ladder_warns_prefers_cheaper_and_caps(limited):
    recorder = Recorder()
    limits = [
        {
            "name": "tpm",
            "tokens": 1000,
            "window": "minute",
            "at": {"10%": "warn", "20%": "prefer_cheaper", "30%": {"cap_max_tokens": 16}},
        }
    ]
    provider = FakeProvider()
    async with limited(provider, recorder, limits=limits) as g:
        answer = await g.chat(max_tokens=500)
    assert answer.headers["x-junctor-quota-warning"].startswith("tpm")
    assert answer.headers["x-junctor-max-tokens-capped"] == "16"
    assert provider.calls[0][1]["max_tokens"] == 16
    assert recorder.last.facts["prefer_cheaper"] is True


async def test_leased_limits_hold_and_settle(limited, rows):
    limits = [{"name": "rpm", "requests": 100, "window": "minute", "exactness": "leased"}]
    async with limited(FakeProvider(), limits=limits) as g:
        answers = await asyncio.gather(*(g.chat() for _ in range(150)))
        await asyncio.sleep(1.2)
        row = (await rows(g))["rpm"]
    assert sum(answer.status == 200 for answer in answers) == 100
    assert row["used"] == 100
