"""One worker process of `test_processes.py`: admits what it can, prints how many, settles or holds them."""

import asyncio
import json
import sys
import time

from junctor.redis_state import RedisState
from junctor_quotas.limits import Claims, Limits, compile_limits
from junctor_quotas.settings import LimitSettings
from junctor_quotas.store import Store


async def main(job):
    limits = Limits(compile_limits(LimitSettings(**limit) for limit in job["limits"]))
    state = RedisState(job["url"], prefix=job["prefix"], timeout=5.0)
    async with Store(state, lease=1.0, share=1) as store:
        store._offset = job["skew"]
        claims = Claims("all", [limits.at(limit, "global", "all", time.time() + job["skew"]) for limit in limits.all])
        outcomes = await asyncio.gather(*(store.reserve(claims, [1, 100]) for _ in range(job["clients"])))
        leases = [outcome.lease for outcome in outcomes if outcome.lease is not None]
        print(len(leases), flush=True)
        await asyncio.sleep(60 if job["hold"] else 0)
        await asyncio.gather(*(store.settle(lease, [1, 70]) for lease in leases))
    await state.aclose()


asyncio.run(main(json.loads(sys.argv[1])))
