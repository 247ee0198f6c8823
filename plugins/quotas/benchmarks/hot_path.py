"""What reserving and settling costs a request: microseconds of CPU, and how long it takes. Prints JSON.

python hot_path.py [redis://127.0.0.1:6379/0]
"""

import asyncio
import json
import sys
import time
import uuid

from junctor.redis_state import RedisState
from junctor.state import MemoryState
from junctor_quotas.limits import Claims, Limits, compile_limits
from junctor_quotas.settings import LimitSettings
from junctor_quotas.store import Store

LIMITS = [
    {"name": "rpm", "per": "team", "requests": 10**9, "window": "minute"},
    {"name": "tpm", "per": "team", "tokens": 10**12, "window": "minute"},
    {"name": "budget", "per": "team", "cost": 10**6, "window": "month"},
]


async def measure(state, *, clients, scopes=100, requests=20_000):
    limits = Limits(compile_limits(LimitSettings(**limit) for limit in LIMITS))
    async with Store(state, lease=30.0, share=1) as store:
        now = await state.time()
        all_claims = [
            Claims("all", [limits.at(limit, f"team={number}", "all", now) for limit in limits.all])
            for number in range(scopes)
        ]

        async def client(number):
            for turn in range(requests // clients):
                outcome = await store.reserve(all_claims[(number + turn * clients) % scopes], [1, 900, 5000])
                await store.settle(outcome.lease, [1, 300, 2000])

        cpu, wall = time.process_time(), time.perf_counter()
        await asyncio.gather(*(client(number) for number in range(clients)))
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    await state.aclose()
    return {"cpu_us": round(cpu / requests * 1e6, 1), "wall_us": round(wall / requests * 1e6, 1)}


async def main():
    result = {"limits": len(LIMITS), "memory": await measure(MemoryState(), clients=1)}
    result["memory_10000_scopes"] = await measure(MemoryState(), clients=1, scopes=10_000)
    if len(sys.argv) > 1:
        for clients in (1, 64):
            state = RedisState(sys.argv[1], prefix=f"bench-{uuid.uuid4().hex[:8]}:", timeout=1.0)
            result[f"redis_{clients}_clients"] = await measure(state, clients=clients, requests=6400)
    print(json.dumps(result, indent=2))


asyncio.run(main())
