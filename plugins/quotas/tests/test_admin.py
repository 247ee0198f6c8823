"""`GET` and `POST /admin/quotas`, the stream of them, and the forecast."""

from __future__ import annotations

import asyncio
import json

import pytest
from junctor.testing import FakeProvider

KEY = {"authorization": "Bearer admin-key-0123456789"}
REQUESTS = {"name": "rpm", "per": "team", "requests": 100, "window": "minute", "soft": "80%"}
PLACES = {"name": "places", "concurrency": 1}


async def _change(g, **body):
    return await g.request("POST", "/admin/quotas", body, headers=KEY)


async def test_a_row_tells_all_of_a_scope(limited, rows):
    async with limited(FakeProvider(), limits=[REQUESTS]) as g:
        for _ in range(3):
            await g.chat()
        row = (await rows(g))["rpm"]
        now = await g.gateway.state.time()
    assert now + 60 <= row.pop("resets_at") <= now + 64
    assert row == {
        "name": "rpm",
        "scope": "team=search",
        "dimension": "requests",
        "window": "minute",
        "limit": 100,
        "soft": 80,
        "used": 3,
        "reserved": 0,
        "remaining": 97,
        "forecast": row["forecast"],
        "queue": 0,
    }


async def test_the_forecast_is_when_the_present_rate_reaches_the_limit(limited, rows):
    async with limited(FakeProvider(), limits=[REQUESTS]) as g:
        await asyncio.gather(*(g.chat() for _ in range(60)))
        fast, now = (await rows(g))["rpm"]["forecast"], await g.gateway.state.time()
        assert now < fast < now + 5  # 60 of 100 within the last six seconds at the most
        await _change(g, name="rpm", scope="team=search", limit=1_000_000)
        assert (await rows(g))["rpm"]["forecast"] is None


async def test_there_is_no_forecast_without_use_nor_for_places(limited, rows):
    budget = {"name": "budget", "cost": 1, "window": "month"}
    async with limited(FakeProvider(), limits=[budget, PLACES]) as g:
        await g.chat()
        found = await rows(g)
    assert found["budget"]["forecast"] is None
    assert (found["places"]["forecast"], found["places"]["resets_at"], found["places"]["window"]) == (None, None, None)


async def test_the_queue_is_counted_for_its_scope(limited, rows):
    async with limited(FakeProvider(script=[0.3]), limits=[PLACES]) as g:
        running = [asyncio.create_task(g.chat()) for _ in range(4)]
        await asyncio.sleep(0.15)
        row = (await rows(g))["places"]
        assert (row["reserved"], row["remaining"], row["queue"]) == (1, 0, 3)
        await asyncio.gather(*running)


async def test_a_scope_can_have_another_limit_and_get_its_own_back(limited):
    async with limited(FakeProvider(), limits=[REQUESTS]) as g:
        await g.chat()
        await g.request("GET", "/admin/quotas", headers=KEY)
        assert (await _change(g, name="rpm", scope="team=search", limit=2)).status == 200
        assert [(await g.chat()).status for _ in range(2)] == [200, 429]
        assert (await g.chat(headers={"x-team": "other"})).headers["x-ratelimit-limit-requests"] == "100"
        assert (await _change(g, name="rpm", scope="team=search", limit=-2, used=99)).status == 200
        assert [(await g.chat()).status for _ in range(2)] == [200, 429]


@pytest.mark.parametrize(
    "body",
    [
        {"name": "rpm", "scope": "team=search"},
        {"scope": "team=search", "limit": 5},
        {"name": "rpm", "scope": "team=search", "limit": "many"},
        {"name": "rpm", "scope": "team=search", "limit": -3},
        {"name": "rpm", "scope": "team=search", "used": -2},
        [],
        b"{",
    ],
)
async def test_a_change_that_says_nothing_is_refused(limited, body):
    async with limited(FakeProvider(), limits=[REQUESTS]) as g:
        assert (await g.request("POST", "/admin/quotas", body, headers=KEY)).status == 400


async def test_a_scope_that_nobody_has_seen_is_not_found(limited):
    async with limited(FakeProvider(), limits=[REQUESTS]) as g:
        assert (await _change(g, name="rpm", scope="team=nobody", limit=5)).status == 404
        assert (await _change(g, name="nope", scope="global", limit=5)).status == 404


@pytest.mark.parametrize(("method", "path"), [("GET", ""), ("POST", ""), ("GET", "/stream")])
async def test_nobody_without_the_admin_key_is_let_in(limited, method, path):
    async with limited(FakeProvider(), limits=[REQUESTS]) as g:
        wrong = {"authorization": "Bearer wrong-key-0123456789"}
        assert (await g.request(method, f"/admin/quotas{path}", headers=wrong)).status == 401


async def test_the_stream_tells_what_changes(limited):
    async with limited(FakeProvider(), limits=[REQUESTS]) as g:
        await g.chat()
        watching = asyncio.create_task(g.request("GET", "/admin/quotas/stream", headers=KEY, hang_up_after=2))
        await asyncio.sleep(0.2)
        await g.chat()
        answer = await asyncio.wait_for(watching, 5)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert [event[0]["used"] for event in answer.events] == [1, 2]


async def test_without_the_store_the_operator_is_told(limited, free_store):
    async with limited(FakeProvider(), limits=[REQUESTS], state=free_store) as g:
        answers = [await g.request("GET", "/admin/quotas", headers=KEY), await _change(g, name="rpm", limit=5)]
        stream = await g.request("GET", "/admin/quotas/stream", headers=KEY, hang_up_after=1)
    assert [answer.status for answer in answers] == [503, 503]
    assert json.loads(answers[0].body)["error"]["message"] == "the store does not answer"
    assert stream.body.startswith(b": the store does not answer")
