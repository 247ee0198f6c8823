"""`exactness: leased`: slices of a limit, also while the store is away."""

from __future__ import annotations

import asyncio

import pytest
from junctor.state import MemoryState, StateUnavailable
from junctor.testing import FakeProvider
from junctor_quotas.limits import Claims, Limits, compile_limits
from junctor_quotas.settings import LimitSettings
from junctor_quotas.slices import Slices
from junctor_quotas.store import Store, StoreDown


class Failing(MemoryState):
    """A store that can be away, and counts how often it is asked."""

    def __init__(self):
        super().__init__()
        self.away = False
        self.asked = 0

    async def run(self, script, keys, arguments):
        self.asked += 1
        if self.away:
            raise StateUnavailable("away")
        return await super().run(script, keys, arguments)

    async def time(self):
        if self.away:
            raise StateUnavailable("away")
        return await super().time()


def _claims(*amounts, **fields):
    entries = [
        LimitSettings(name=f"l{n}", requests=amount, window="hour", exactness="leased", **fields)
        for n, amount in enumerate(amounts)
    ]
    limits = Limits(compile_limits(entries))
    return Claims("all", [limits.at(limit, "global", "all", 0.0) for limit in limits.all])


@pytest.fixture
async def slices():
    state = Failing()
    async with Store(state, lease=30.0, share=2) as store:
        yield Slices(store, 0.1), state
        state.away = False


async def _admit(slices, claims, times):
    """How many of so many requests got in, each of them used up at once."""
    admitted = 0
    for _ in range(times):
        if await slices.take(claims, [1] * len(claims.claims)) is None:
            admitted += 1
            slices.give_back(claims, [1] * len(claims.claims), [1] * len(claims.claims))
    return admitted


async def test_most_requests_ask_nobody(slices):
    held, state = slices
    assert await _admit(held, _claims(1000), 500) == 500
    assert state.asked <= 10


async def test_the_refusal_names_the_limit_that_has_no_room(slices):
    held, _ = slices
    claims = _claims(100, 2)
    assert await _admit(held, claims, 5) == 2
    refused = await held.take(claims, [1, 1])
    assert refused.refused == 1
    assert [hard for _, _, hard in refused.counts] == [100, 2]


async def test_a_closed_limit_goes_on_with_what_it_holds_and_is_refused_beyond_it(slices):
    held, state = slices
    claims = _claims(100)
    assert await _admit(held, claims, 1) == 1
    state.away = True
    assert await _admit(held, claims, 9) == 9  # the rest of the slice
    with pytest.raises(StoreDown):
        await held.take(claims, [1])
    state.away = False
    assert await _admit(held, claims, 200) == 90


async def test_what_one_slice_gave_goes_back_when_another_cannot_be_filled(slices):
    held, state = slices
    both = _claims(100, 100)
    first = Claims("all", both.claims[:1])
    assert await _admit(held, first, 1) == 1
    state.away = True
    for _ in range(20):
        with pytest.raises(StoreDown):
            await held.take(both, [1, 1])
    assert await _admit(held, first, 9) == 9


async def test_a_local_limit_is_shared_out_and_told_to_the_store_when_it_is_back(slices):
    held, state = slices
    claims = _claims(100, on_store_failure="local")
    state.away = True
    assert await _admit(held, claims, 80) == 50  # one of two workers
    state.away = False
    await asyncio.sleep(0.6)  # until it is noticed
    assert await _admit(held, claims, 80) == 50


async def test_two_workers_never_take_more_than_the_limit_together():
    state = MemoryState()
    claims = _claims(100)
    async with Store(state, lease=30.0, share=2) as one, Store(state, lease=30.0, share=2) as other:
        workers = [Slices(one, 0.1), Slices(other, 0.1)]
        admitted = await asyncio.gather(*(_admit(worker, claims, 80) for worker in workers))
        assert sum(admitted) == 100
        await asyncio.gather(*(worker.aclose() for worker in workers))


async def test_a_worker_that_ends_gives_its_slice_back():
    state = MemoryState()
    claims = _claims(10)
    for _ in range(5):
        async with Store(state, lease=30.0, share=1) as store:
            slices = Slices(store, 0.5)
            assert await _admit(slices, claims, 1) == 1
            await slices.aclose()
    async with Store(state, lease=30.0, share=1) as store:
        assert await _admit(Slices(store, 0.5), claims, 10) == 5


async def test_the_second_of_two_leased_limits_refuses_with_its_name(limited):
    limits = [
        {"name": "wide", "requests": 100, "window": "minute", "exactness": "leased"},
        {"name": "narrow", "requests": 2, "window": "day", "exactness": "leased"},
    ]
    async with limited(FakeProvider(), limits=limits) as g:
        answers = [await g.chat() for _ in range(3)]
    assert [answer.status for answer in answers] == [200, 200, 429]
    assert "'narrow'" in answers[2].json()["error"]["message"]
