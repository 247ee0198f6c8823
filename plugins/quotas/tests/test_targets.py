"""Limits of a target or a tag: they apply once the target is known."""

from __future__ import annotations

import asyncio

import pytest
from junctor import ErrorKind, ProviderError, hookimpl
from junctor.testing import FakeProvider

TARGETS = [{"target": "fake/one", "tags": ["premium", "eu"]}, {"target": "fake/two", "tags": ["eu"]}]
MODELS = [{"name": "test", "targets": TARGETS}]


class Next:
    """Falls back to the other target."""

    @hookimpl
    async def on_error(self, exchange, target, error):
        return next((other for other in exchange.targets if other is not target and len(exchange.attempts) < 2), None)


def _by(rows, name):
    return {row["scope"]: row["used"] for row in rows if row["name"] == name}


@pytest.fixture
def every_row():
    async def read(g):
        answer = await g.request("GET", "/admin/quotas", headers={"authorization": "Bearer admin-key-0123456789"})
        return answer.json()

    return read


async def test_a_target_at_its_limit_is_refused_without_a_fallback(limited):
    limits = [{"name": "t", "per": "target", "requests": 2, "window": "hour"}]
    async with limited(FakeProvider(), limits=limits, models=MODELS) as g:
        answers = [await g.chat() for _ in range(3)]
    assert [answer.status for answer in answers] == [200, 200, 429]
    assert "limit 't' of target=fake/one" in answers[2].json()["error"]["message"]
    assert "retry-after" in answers[2].headers


async def test_another_target_is_tried_when_one_is_at_its_limit(limited, every_row):
    provider = FakeProvider()
    limits = [{"name": "t", "per": "target", "requests": 2, "window": "hour"}]
    async with limited(Next(), provider, limits=limits, models=MODELS) as g:
        statuses = [(await g.chat()).status for _ in range(5)]
        rows = await every_row(g)
    assert statuses == [200] * 4 + [429]
    assert [target for target, _ in provider.calls] == ["fake/one"] * 2 + ["fake/two"] * 2
    assert _by(rows, "t") == {"target=fake/one": 2, "target=fake/two": 2}


async def test_a_failed_target_gives_back_and_the_one_that_answered_pays(limited, every_row):
    provider = FakeProvider(script=[ProviderError("down", kind=ErrorKind.OVERLOADED), None])
    limits = [{"name": "t", "per": "target", "tokens": 1000, "window": "hour"}]
    async with limited(Next(), provider, limits=limits, models=MODELS) as g:
        assert (await g.chat()).status == 200
        rows = await every_row(g)
    assert _by(rows, "t") == {"target=fake/one": 0, "target=fake/two": 12}
    assert all(row["reserved"] == 0 for row in rows)


async def test_a_tag_s_limit_counts_every_target_that_has_it(limited, every_row):
    limits = [{"name": "tag", "per": "tag", "requests": 3, "window": "hour"}]
    async with limited(Next(), FakeProvider(), limits=limits, models=MODELS) as g:
        statuses = [(await g.chat()).status for _ in range(4)]
        rows = await every_row(g)
    assert statuses == [200, 200, 200, 429]  # both targets have the tag that is used up
    assert _by(rows, "tag") == {"tag=eu": 3, "tag=premium": 3}


async def test_a_limit_for_one_tag_leaves_other_targets_alone(limited):
    provider = FakeProvider()
    limits = [{"name": "tag", "match": {"tag": "premium"}, "requests": 1, "window": "hour"}]
    async with limited(Next(), provider, limits=limits, models=MODELS) as g:
        statuses = [(await g.chat()).status for _ in range(4)]
    assert statuses == [200] * 4
    assert [target for target, _ in provider.calls] == ["fake/one", "fake/two", "fake/two", "fake/two"]


async def test_places_at_a_target_are_waited_for_within_the_call(limited):
    provider = FakeProvider(script=[0.03])
    limits = [{"name": "places", "per": "target", "concurrency": 1}]
    async with limited(provider, limits=limits, models=MODELS) as g:
        answers = await asyncio.gather(*(g.chat() for _ in range(4)))
    assert [answer.status for answer in answers] == [200] * 4
    assert sum("x-junctor-queue-position" in answer.headers for answer in answers) == 3


async def test_headers_tell_the_tightest_of_the_request_s_and_the_target_s_limits(limited):
    wide = {"name": "t", "per": "target", "requests": 100, "window": "hour"}
    narrow = {"name": "team", "per": "team", "requests": 3, "window": "hour"}
    async with limited(FakeProvider(), limits=[wide, narrow], models=MODELS) as g:
        assert (await g.chat()).headers["x-ratelimit-remaining-requests"] == "2"
