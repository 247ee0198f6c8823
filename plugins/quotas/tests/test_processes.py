"""Many clients over several processes, one of them killed: the counts in Redis stay right."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from junctor.redis_state import RedisState
from junctor_quotas.limits import Limits, compile_limits
from junctor_quotas.reports import Book
from junctor_quotas.settings import LimitSettings
from junctor_quotas.store import Store

WORKER = Path(__file__).with_name("worker.py")
LIMITS = [
    {"name": "rpm", "requests": 50, "window": "hour"},
    {"name": "tpm", "tokens": 1_000_000, "window": "hour"},
]


def _start(url, prefix, clients, *, hold=False, skew=0, requests=50):
    limits = [{**LIMITS[0], "requests": requests}, LIMITS[1]]
    job = {"url": url, "prefix": prefix, "clients": clients, "hold": hold, "skew": skew, "limits": limits}
    return subprocess.Popen([sys.executable, str(WORKER), json.dumps(job)], stdout=subprocess.PIPE, text=True)


async def _rows(url, prefix, requests=50):
    limits = Limits(compile_limits([LimitSettings(**{**LIMITS[0], "requests": requests}), LimitSettings(**LIMITS[1])]))
    state = RedisState(url, prefix=prefix, timeout=2.0)
    try:
        book = Book(state, limits)
        now = await state.time()
        return {
            row["name"]: row
            for row in await book._read("all", [limits.at(one, "global", "all", now) for one in limits.all])
        }
    finally:
        await state.aclose()


async def test_500_clients_in_4_processes_get_50_places(redis_url, prefix):
    workers = [_start(redis_url, prefix, 125, skew=3600 if number == 0 else 0) for number in range(4)]
    admitted = sum(int(worker.communicate(timeout=60)[0]) for worker in workers)
    rows = await _rows(redis_url, prefix)
    assert admitted == 50
    assert (rows["rpm"]["used"], rows["rpm"]["reserved"]) == (50, 0)
    assert (rows["tpm"]["used"], rows["tpm"]["reserved"]) == (50 * 70, 0)


async def test_a_killed_workers_reservations_return_when_they_expire(redis_url, prefix):
    victim = _start(redis_url, prefix, 20, hold=True, requests=100)
    assert victim.stdout.readline().strip() == "20"
    assert (await _rows(redis_url, prefix, 100))["tpm"]["reserved"] == 20 * 100
    os.kill(victim.pid, signal.SIGKILL)
    victim.communicate()
    until = time.monotonic() + 5
    while (row := (await _rows(redis_url, prefix, 100))["tpm"])["reserved"]:
        assert time.monotonic() < until
        await asyncio.sleep(0.1)
    assert row["used"] == 0


async def test_leases_are_renewed_while_their_requests_run(redis_url, prefix):
    limits = Limits(compile_limits([LimitSettings(name="places", concurrency=2)]))
    state = RedisState(redis_url, prefix=prefix, timeout=1.0)
    async with Store(state, lease=0.6, share=1) as store:
        from junctor_quotas.limits import Claims

        claims = Claims("all", [limits.at(limits.all[0], "global", "all", store.now())])
        held = await store.reserve(claims, [1])
        await asyncio.sleep(1.5)
        assert (await store.reserve(claims, [1])).counts[0][1] == 2
        assert (await store.reserve(claims, [1])).lease is None
        await store.settle(held.lease, [0])
        assert (await store.reserve(claims, [1])).lease is not None
    await state.aclose()
