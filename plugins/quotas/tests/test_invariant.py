"""The bound as an invariant, and both sides of every step against each other."""

from __future__ import annotations

import asyncio
import uuid

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from junctor.redis_state import RedisState
from junctor.state import MemoryState
from junctor_quotas.limits import Claims, Limits, compile_limits
from junctor_quotas.settings import LimitSettings
from junctor_quotas.store import Store

LIMITS = [
    {"name": "rpm", "requests": 6, "window": "hour"},
    {"name": "tpm", "tokens": 100, "window": "hour"},
    {"name": "day", "output_tokens": 300, "window": "day"},
    {"name": "places", "concurrency": 3},
]
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("reserve"), st.integers(1, 120)),
        st.tuples(st.just("settle"), st.integers(0, 60)),
        st.tuples(st.just("fail"), st.just(0)),
        st.tuples(st.just("extend"), st.integers(1, 40)),
    ),
    max_size=25,
)


async def _play(state, steps):
    """The counts after every step; on the way, that no limit is exceeded beyond what was under-estimated."""
    limits = Limits(compile_limits(LimitSettings(**limit) for limit in LIMITS))
    running, told, under = [], [], 0
    async with Store(state, lease=60.0, share=1) as store:
        claims = Claims("all", [limits.at(limit, "global", "all", await state.time()) for limit in limits.all])
        for step, amount in steps:
            if step == "reserve":
                outcome = await store.reserve(claims, [1, amount, amount, 1])
                if outcome.lease is not None:
                    running.append(outcome.lease)
                told.append((outcome.lease is not None, outcome.counts))
                for used, held, hard in outcome.counts[:1] + outcome.counts[3:]:
                    assert used + held <= hard
                for used, held, hard in outcome.counts[1:3]:
                    assert used + held <= hard + under
            elif running and step == "extend":
                outcome = await store.extend(running[0], [0, amount, amount, 0])
                told.append((outcome.lease is not None, outcome.counts))
            elif running:
                lease = running.pop(0)
                under += max(0, amount - lease.amounts[1])
                told.append(await store.settle(lease, [int(step == "settle"), amount, amount, 0]))
        for lease in running:
            await store.settle(lease, [0, 0, 0, 0])
        told.append((await store.reserve(claims, [0, 0, 0, 0])).counts)
    return told


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STEPS)
def test_no_limit_is_exceeded_and_redis_counts_as_memory_does(redis_url, steps):
    async def both():
        redis = RedisState(redis_url, prefix=f"test-{uuid.uuid4().hex}:", timeout=2.0)
        try:
            assert await _play(MemoryState(), steps) == await _play(redis, steps)
        finally:
            await redis.aclose()

    asyncio.run(both())
