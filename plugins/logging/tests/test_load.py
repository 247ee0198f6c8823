"""Two thousand mixed requests: the records are what the provider counted, whatever happens to the sinks meanwhile."""

import asyncio
import gc
import random
import sqlite3
import time
import tracemalloc

import pytest
from junctor import Client, ErrorKind, ProviderError, Refused, hookimpl
from junctor.testing import FakeProvider, Recorder

BUSY = ProviderError("busy", kind=ErrorKind.OVERLOADED)
TEAMS, FEATURES = ("red", "green", "blue"), ("chat", "search", "sum", "rank", "tag")


class Who:
    """Three teams and five features; every thirteenth request is refused."""

    @hookimpl
    async def pre_route(self, exchange):
        number = int(exchange.request.headers["number"])
        exchange.client = Client(team=TEAMS[number % 3], feature=FEATURES[number % 5])
        exchange.facts["input_tokens_estimated"] = 7
        if number % 13 == 0:
            raise Refused("unlucky")


class Fallback:
    @hookimpl
    async def on_error(self, exchange, target, error):
        return exchange.targets[1] if len(exchange.attempts) == 1 else None


class Flaky(FakeProvider):
    """Fails one call in seven, whoever asks."""

    @hookimpl
    async def call(self, exchange, target):
        answer = await super().call(exchange, target)
        if len(self.calls) % 7 == 0:
            raise BUSY
        return answer


async def ask(g, number):
    how = {"stream": number % 2 == 0, "headers": {"number": str(number)}}
    if number % 10 == 4:
        how["hang_up_after"] = random.choice((1, 2, 3))
    await g.chat(f"request {number}", **how)


async def settled(g):
    """Until no record waits in memory or in a spool: what a sink has not taken when the gateway ends, stays on disk."""
    plugin = g.gateway.plugins.by_name["logging"]
    async with asyncio.timeout(30):
        while plugin.stats()["waiting"] or any(sink["waiting"] for sink in plugin.stats()["sinks"].values()):
            await asyncio.sleep(0.01)


async def run(g, count, *, at_once=50):
    for start in range(0, count, at_once):
        await asyncio.gather(*(ask(g, number) for number in range(start, min(start + at_once, count))))


def check(log, seen, provider, count):
    records, lines = log.records, log.lines
    assert len(records) == len({record["record"] for record in records}) == len(seen.ended) == count
    attempts = [attempt for record in records for attempt in record.get("attempts", ())]
    assert len(attempts) == len(provider.calls) == sum(line["line"] > 0 for line in lines)
    assert sum(line["requests"] for line in lines) == count
    counted = sum(exchange.cost.total for exchange, _, _ in seen.ended)
    assert counted == sum(line["cost"] or 0 for line in lines) == sum(r["cost"]["total"] for r in records)
    for team in TEAMS:
        of_team = sum(exchange.cost.total for exchange, _, _ in seen.ended if exchange.client.team == team)
        assert of_team == sum(line["cost"] or 0 for line in lines if line["team"] == team)


async def test_the_records_of_2000_mixed_requests_are_what_the_provider_counted(logged, log):
    seen, provider = Recorder(), Flaky(chunk_delay=0.0005)
    async with logged(Who(), seen, Fallback(), provider) as g:
        await run(g, 2000)
        await settled(g)
    check(log, seen, provider, 2000)
    assert {record["outcome"] for record in log.records} >= {"answered", "refused", "cancelled"}
    assert any(attempt.get("abandoned") for record in log.records for attempt in record.get("attempts", ()))


async def test_sinks_that_die_and_come_back_under_load_lose_nothing_and_double_nothing(logged, log):
    seen, provider = Recorder(), Flaky()
    target = log.folder / "file"
    out, link = log.folder / "out.jsonl", log.folder / "link"

    def point(where):
        link.symlink_to(where)
        link.replace(out)

    point(target)

    async def trouble():
        for _ in range(3):
            await asyncio.sleep(0.1)
            point("/dev/full")
            lock = sqlite3.connect(log.folder / "ledger.db", isolation_level=None, timeout=10)
            lock.execute("begin exclusive")
            await asyncio.sleep(0.1)
            lock.execute("rollback")
            lock.close()
            point(target)

    settings = {"batch": 20, "sinks": ["ledger", {"json_lines": {"path": str(out)}}]}
    async with logged(Who(), seen, Fallback(), provider, settings=settings) as g:
        troubled = asyncio.create_task(trouble())
        count = 0
        while not troubled.done():
            await asyncio.gather(*(ask(g, number) for number in range(count, count + 20)))
            count += 20
            await asyncio.sleep(0.005)
        await troubled
        await settled(g)
        stats = g.gateway.plugins.by_name["logging"].stats()["sinks"]
    assert stats["json_lines"]["failures"] > 0
    assert stats["json_lines"]["spooled"] > 0
    assert stats["ledger"]["dropped"] == stats["json_lines"]["dropped"] == 0
    check(log, seen, provider, count)


async def test_a_full_queue_drops_counts_and_says_so(logged, log, caplog):
    settings = {"queue": 100, "flush": 30}
    async with logged(FakeProvider(), settings=settings) as g:
        for _ in range(150):
            await g.chat()
        plugin = g.gateway.plugins.by_name["logging"]
        assert plugin.stats()["dropped"] == 50
    assert len(log.records) == 100
    assert "50 records dropped: the queue is full" in caplog.text


async def test_a_ledger_at_a_thousand_records_a_second_does_not_grow(logged, log):
    async with logged(FakeProvider(), settings={"sinks": ["ledger"], "flush": 0.1, "recent": 100}) as g:
        plugin = g.gateway.plugins.by_name["logging"]
        seen = Recorder()
        async with logged(seen, FakeProvider(), settings={"sinks": []}) as other:
            await other.chat()
        (one,) = seen.ended
        await offer(plugin, one, seconds=1)
        tracemalloc.start()
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        await offer(plugin, one, seconds=2)
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
        waiting = plugin.stats()["sinks"]["ledger"]["waiting"]
    assert grown < 2_000_000
    assert waiting < 1000
    assert log.sql("select count(*) as n from lines") == [{"n": 3000}]


async def offer(plugin, one, *, seconds):
    exchange, response, error = one
    begun = time.monotonic()
    for number in range(int(seconds * 100)):
        for _ in range(10):
            exchange.state.clear()
            await plugin.post_call(exchange, response, error)
        await asyncio.sleep(max(0, begun + (number + 1) / 100 - time.monotonic()))


@pytest.mark.parametrize("sinks", [["ledger"], []])
async def test_the_end_writes_what_the_last_requests_left(logged, log, sinks):
    both = [*sinks, {"json_lines": {"path": str(log.folder / "out.jsonl")}}]
    async with logged(FakeProvider(), settings={"flush": 30, "sinks": both}) as g:
        for _ in range(10):
            await g.chat()
    assert len(log.records) == 10
