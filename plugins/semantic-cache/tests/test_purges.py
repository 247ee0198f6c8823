"""A purge of one process reaches the others, those that are closed, and answers that are still on their way."""

import asyncio
import json
import time
from pathlib import Path

import pytest
from junctor.state import MemoryState
from junctor_semantic_cache.purges import Purge, Purges
from junctor_semantic_cache.store import Selection

KEY = "sixteen-letters-x"
TREE = {"models": [{"name": "test", "targets": [{"target": "fake/one"}]}], "admin": {"key": KEY}}
PLAIN = json.dumps(TREE)


async def purge(g, status=200, **which):
    headers = {"authorization": f"Bearer {KEY}"}
    answer = await g.harness.request("POST", "/admin/semantic-cache/purge", which, headers=headers)
    assert answer.status == status, answer.text
    return answer.json()


async def said(g, text):
    return (await g.ask(text)).headers["x-junctor-cache"]


async def emptied(g, entries=0):
    """Wait until the store holds no more."""
    async with asyncio.timeout(10):
        while await g.cache.engine.store.count(Selection()) > entries:
            await asyncio.sleep(0.02)


async def test_a_purge_by_one_worker_empties_the_shards_of_all(running):
    async with running(config=PLAIN) as one, running(config=PLAIN) as two:
        for g in (one, two):
            await g.ask("Why is tin soft?", headers={"x-junctor-cache-tags": "metals"})
            await g.ask("Why is jam sweet?")
        assert await purge(one, tag="metals") == {"purged": 1}
        await emptied(two, 1)
        assert await said(two, "Why is jam sweet?") == "semantic-hit"
        assert await said(two, "Why is tin soft?") == "miss"
        assert await said(two, "Why is tin soft?") == "semantic-hit", "what is asked afterwards is kept"


async def test_a_shard_that_was_closed_is_emptied_when_it_is_opened(running):
    async with running(config=PLAIN) as one:
        async with running(config=PLAIN) as two:
            await two.ask("Why is tin soft?")
        assert await purge(one, all=True) == {"purged": 0}
        async with running(config=PLAIN) as two:
            assert await said(two, "Why is tin soft?") == "miss"


@pytest.mark.parametrize("how", ["by this process", "by another"])
async def test_an_answer_that_was_asked_for_before_the_purge_is_not_kept(running, knows, how):
    slow = knows(script=[1.5])
    async with running(config=PLAIN) as one, running(config=PLAIN, provider=slow) as two:
        asking = asyncio.create_task(two.ask("Why is tin soft?"))
        async with asyncio.timeout(10):
            while not slow.calls:
                await asyncio.sleep(0.01)
        await purge(two if how == "by this process" else one, all=True)
        await asking
        await emptied(two)
        assert await said(two, "Why is tin soft?") == "miss"


@pytest.fixture
def machines(running, redis_url, prefix, tmp_path):
    """`machines(name)`: a gateway with a folder of its own, which shares only Redis with the others."""

    def start(name, url=redis_url):
        state = {"url": url, "prefix": prefix, "timeout": 0.2 if url != redis_url else 2.0}
        store = {"store": {"path": str(tmp_path / name), "timeout": "5s"}}
        return running(store, config=json.dumps(TREE | {"state": state}))

    return start


async def test_a_purge_reaches_other_machines_through_redis(machines):
    async with machines("one") as one, machines("two") as two:
        await two.ask("Why is tin soft?")
        await purge(one, model="test")
        await emptied(two)
        assert await said(two, "Why is tin soft?") == "miss"


async def test_a_machine_that_was_away_learns_of_the_purge_when_it_starts(machines):
    async with machines("one") as one:
        async with machines("two") as two:
            await two.ask("Why is tin soft?")
        await purge(one, all=True)
        async with machines("two") as two:
            assert await said(two, "Why is tin soft?") == "miss"


async def test_without_redis_this_machine_is_purged_and_the_operator_told(machines):
    gone = "redis://127.0.0.1:9"
    async with machines("one", gone) as one, machines("one", gone) as two:
        await one.ask("Why is tin soft?")
        await two.ask("Why is tin soft?")
        assert "others may not learn of it" in (await purge(one, 503, all=True))["error"]["message"]
        await emptied(two)
        assert await said(one, "Why is tin soft?") == "miss"


async def test_a_store_that_could_not_purge_is_asked_again_and_serves_nothing_until_then(running, fake):
    async with running({"store": {"url": fake.url, "timeout": "2s"}}, config=PLAIN) as g:
        await g.ask("Why is tin soft?")
        fake.broken = True
        await purge(g, 503, all=True)
        fake.broken = False
        assert await said(g, "Why is tin soft?") == "miss"


async def test_what_is_no_record_is_passed_over(running, tmp_path):
    folder = tmp_path / "store" / "purges"
    folder.mkdir(parents=True)
    (folder / "a.json").write_text("no json")
    (folder / "b.json").write_text('{"id": "b", "at": "soon", "match": {}, "before": {}}')
    (folder / "opening.json").write_text("[]")
    async with running(config=PLAIN) as g:
        await g.ask("Why is tin soft?")
        assert await said(g, "Why is tin soft?") == "semantic-hit"


async def test_the_same_purge_again_takes_the_place_of_the_first(running, tmp_path):
    async with running(config=PLAIN) as g:
        for _ in range(3):
            await purge(g, model="test")
        await purge(g, tag="x")
    assert len(list((tmp_path / "store" / "purges").glob("*.json"))) == 2


class Empty:
    """A store that remembers what it was to delete."""

    def __init__(self):
        self.deleted = []

    async def count(self, selection):
        return 0

    async def delete(self, selection):
        self.deleted.append(selection)


async def test_of_very_many_purges_the_oldest_become_one_for_shards_that_are_opened(tmp_path):
    tmp_path = Path(tmp_path / "purges")
    tmp_path.mkdir()
    for number in range(1003):
        record = Purge(f"n{number}", 1000.0 + number, Selection({"tags": str(number)}))
        (tmp_path / f"n{number}.json").write_text(record.dump())
    store = Empty()
    await Purges(tmp_path, None, own_shard=True).purge(Selection({"tags": "new"}), store)
    assert len(list(tmp_path.glob("*.json"))) == 1001
    opened = Empty()
    await Purges(tmp_path, None, own_shard=True).open(opened)
    assert opened.deleted[0] == Selection({}, {"created": 1003.0})
    assert len(opened.deleted) == 1001


@pytest.fixture(params=["memory", "redis"])
async def state(request, prefix):
    if request.param == "memory":
        opened = MemoryState()
    else:
        from junctor.redis_state import RedisState

        opened = RedisState(request.getfixturevalue("redis_url"), prefix=prefix, timeout=2.0)
    yield opened
    await opened.aclose()


async def test_records_in_the_state_are_bounded_and_the_newest_are_read(state, tmp_path):
    teller = Purges(tmp_path / "one", state, own_shard=True)
    for number in range(3):
        await teller.purge(Selection({"tags": str(number) * 30_000}), Empty())
    store = Empty()
    await Purges(tmp_path / "two", state, own_shard=True).open(store)
    assert [selection.match["tags"][0] for selection in store.deleted] == ["2", "1"]
    assert all(selection.before["created"] <= time.time() for selection in store.deleted)
