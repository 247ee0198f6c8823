"""One contract for all stores, and what a store that fails may cost."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from contextlib import asynccontextmanager

import pytest
from junctor import Usage
from junctor.testing import FakeProvider
from junctor_exact_cache import ExactCache
from junctor_exact_cache.entry import Entry, Filter, compress
from junctor_exact_cache.redis_store import RedisStore
from junctor_exact_cache.settings import StoreSettings
from junctor_exact_cache.sqlite_store import SQLiteStore
from junctor_exact_cache.stores import Guard, MemoryStore, StoreError, open_store

_MIB = 1024 * 1024


def _entry(number=1, **fields):
    now = time.time()
    given = {
        "id": f"{number:016x}.{number:032x}",
        "scope": '["team","t"]',
        "team": "t",
        "model": "m",
        "target": "fake/one",
        "version": "m-2024",
        "template": "",
        "tags": (),
        "created": now,
        "expires": now + 60,
        "form": "whole",
        "finish_reason": "stop",
        "usage": Usage(7, 5, cache_read_tokens=2),
        "saved": 123,
        "content_type": "application/json",
        "answer": b'{"a":1}',
    }
    return Entry(**{**given, **fields})


@pytest.fixture(params=["memory", "sqlite", "redis"])
async def store(request, tmp_path, prefix):
    if request.param == "redis":
        opened = RedisStore(request.getfixturevalue("redis_url"), prefix=prefix, timeout=5.0)
    elif request.param == "sqlite":
        opened = SQLiteStore(str(tmp_path / "c.db"), max_bytes=_MIB, page_cache=_MIB, timeout=5.0)
    else:
        opened = MemoryStore(_MIB)
    await opened.open()
    yield opened
    if request.param == "redis":
        await opened.purge(Filter())
    await opened.aclose()


async def test_what_was_put_comes_back_as_it_was(store):
    entry = _entry(tags=("a", "b"), usage=None, saved=None, finish_reason=None, answer=bytes(range(256)))
    await store.put(entry)
    assert await store.get(entry.id) == entry
    assert await store.get(_entry(2).id) is None


async def test_usage_survives(store):
    await store.put(_entry())
    found = await store.get(_entry().id)
    assert found.usage == Usage(7, 5, cache_read_tokens=2)


async def test_the_last_one_put_counts(store):
    await store.put(_entry())
    await store.put(_entry(answer=b"new"))
    assert (await store.get(_entry().id)).answer == b"new"
    assert (await store.stats()).entries == 1


async def test_an_entry_whose_time_is_over_is_not_there(store):
    await store.put(_entry(expires=time.time() + 0.05))
    await store.put(_entry(2, expires=time.time() - 1))
    await asyncio.sleep(0.06)
    assert await store.get(_entry().id) is None
    assert await store.get(_entry(2).id) is None


@pytest.mark.parametrize(
    ("which", "gone"),
    [
        (Filter(tag="b"), {2}),
        (Filter(model="other"), {3}),
        (Filter(model="fake/two"), {4}),
        (Filter(version="m-2025"), {5}),
        (Filter(template="v2"), {6}),
        (Filter(team="u"), {7}),
        (Filter(id=_entry(1).id), {1}),
        (Filter(before=1000.0), {8}),
        (Filter(team="t", tag="b"), {2}),
        (Filter(team="u", tag="b"), set()),
        (Filter(tag="' OR 1=1 --"), set()),
        (Filter(id="nonsense"), set()),
        (Filter(), {1, 2, 3, 4, 5, 6, 7, 8}),
    ],
)
async def test_a_purge_takes_what_fits_and_nothing_else(store, which, gone):
    different = [{}, {"tags": ("a", "b")}, {"model": "other"}, {"target": "fake/two"}, {"version": "m-2025"}]
    different += [{"template": "v2"}, {"team": "u"}, {"created": 1000.0}]
    for number, fields in enumerate(different, 1):
        await store.put(_entry(number, **fields))
    assert await store.purge(which) == len(gone)
    left = {number for number in range(1, 9) if await store.get(_entry(number).id) is not None}
    assert left == set(range(1, 9)) - gone


async def test_many_are_purged_in_batches(store):
    for number in range(1, 2301):
        await store.put(_entry(number, answer=b"", usage=None, scope="", team="odd" if number % 2 else "even"))
        if isinstance(store, (MemoryStore, SQLiteStore)) and number == 700:
            break  # as many as fit into the store
    held = (await store.stats()).entries
    assert await store.purge(Filter(team="odd")) == held // 2
    assert (await store.stats()).entries == held // 2


async def test_many_at_once_do_not_disturb_each_other(store):
    await asyncio.gather(*[store.put(_entry(n % 20, answer=b"%d" % (n % 20))) for n in range(200)])
    found = await asyncio.gather(*[store.get(_entry(n).id) for n in range(20)])
    assert [entry.answer for entry in found] == [b"%d" % n for n in range(20)]


@pytest.fixture(params=["memory", "sqlite"])
async def small(request, tmp_path):
    path = str(tmp_path / "c.db")
    made = (
        MemoryStore(_MIB)
        if request.param == "memory"
        else SQLiteStore(path, max_bytes=_MIB, page_cache=_MIB, timeout=5)
    )
    yield made
    await made.aclose()


async def test_a_bounded_store_forgets_what_was_not_used(small):
    for number in range(1, 31):
        await small.put(_entry(number, answer=b"x" * 100_000))
        assert (await small.stats()).bytes <= _MIB
    assert await small.get(_entry(30).id) is not None
    assert await small.get(_entry(1).id) is None
    assert (await small.stats()).entries == 10


async def test_what_is_used_stays_in_memory():
    store = MemoryStore(_MIB)
    for number in range(1, 31):
        await store.put(_entry(number, answer=b"x" * 100_000))
        assert await store.get(_entry(1).id) is not None


async def test_an_entry_larger_than_the_memory_is_not_kept():
    store = MemoryStore(_MIB)
    await store.put(_entry())
    await store.put(_entry(2, answer=b"x" * 2 * _MIB))
    assert (await store.stats()).entries == 1


async def test_a_file_is_read_again_after_a_restart_and_by_another_process(tmp_path):
    path = str(tmp_path / "c.db")
    settings = StoreSettings(url=f"sqlite:///{path}")
    first, second = open_store(settings), open_store(settings)
    await first.put(_entry())
    assert (await second.get(_entry().id)).answer == b'{"a":1}'
    await first.aclose()
    await second.aclose()
    third = open_store(settings)
    assert (await third.stats()).entries == 1
    await third.aclose()


@pytest.mark.parametrize("answer", [b"", b"short", b"word " * 1000, bytes(range(256)) * 4, b"y" * 400_000])
async def test_what_is_compressed_comes_back_the_same(answer):
    kept, packed = await compress(answer, above=100)
    assert await _entry(answer=kept, packed=packed).body() == answer
    assert len(kept) <= len(answer)
    assert packed == (answer.startswith((b"word", b"y", b"\0")))


async def test_a_store_that_failed_three_times_is_left_alone_for_a_while():
    async def fail():
        raise StoreError("gone")

    guard = Guard(1.0)
    for _ in range(3):
        assert not guard.resting
        with pytest.raises(StoreError):
            await guard(fail())
    assert (guard.resting, guard.failures) == (True, 3)


async def test_many_calls_that_fail_at_once_are_one_reason_to_rest():
    guard = Guard(0.01)
    await asyncio.gather(*(guard(asyncio.sleep(5)) for _ in range(50)), return_exceptions=True)
    assert guard.resting
    await asyncio.sleep(1.05)
    assert not guard.resting


async def test_one_good_answer_makes_the_store_trusted_again():
    guard = Guard(0.01)
    with pytest.raises(StoreError, match="in time"):
        await guard(asyncio.sleep(5))
    assert await guard(asyncio.sleep(0, "fine")) == "fine"
    assert not guard.resting


def _sqlite(path):
    return ExactCache, {"store": {"url": f"sqlite:///{path}", "timeout": 0.05}, "secret": "s" * 16}


def _redis(url, prefix):
    return ExactCache, {"store": {"url": url, "prefix": prefix, "timeout": 0.05}, "secret": "s" * 16}


async def _timed(g, **fields):
    started = time.monotonic()
    answer = await g.chat(**fields)
    assert answer.status == 200
    return answer.headers["x-junctor-cache"], time.monotonic() - started


async def test_a_locked_file_costs_a_bounded_delay_and_no_answer(gateway, tmp_path):
    async with gateway(_sqlite(tmp_path / "c.db"), FakeProvider()) as g:
        await g.chat("kept")
        other = sqlite3.connect(tmp_path / "c.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        results = [await _timed(g, text=f"q{n}") for n in range(6)]
        hit, _ = await _timed(g, text="kept")
        other.close()
    assert {status for status, _ in results} == {"miss"}
    assert hit == "hit"  # it can still be read
    assert max(seconds for _, seconds in results) < 0.5
    assert results[-1][1] < 0.04  # and is written to no more


async def test_what_is_no_database_makes_requests_pass_by(gateway, tmp_path):
    (tmp_path / "c.db").write_bytes(b"this is no database, but long enough to be looked at" * 100)
    async with gateway(_sqlite(tmp_path / "c.db"), FakeProvider()) as g:
        assert [(await _timed(g))[0] for _ in range(5)] == ["bypass"] * 5


async def test_a_folder_that_cannot_be_made_makes_requests_pass_by(gateway, tmp_path):
    (tmp_path / "file").write_text("")
    async with gateway(_sqlite(tmp_path / "file" / "c.db"), FakeProvider()) as g:
        assert (await _timed(g))[0] == "bypass"


@asynccontextmanager
async def _silent_server():
    held = []

    async def accept(reader, writer):
        held.append(writer)
        await reader.read()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        for writer in held:
            writer.close()
        server.close()


async def test_a_redis_that_is_slow_costs_a_bounded_delay(gateway, prefix):
    async with _silent_server() as port:
        async with gateway(_redis(f"redis://127.0.0.1:{port}", prefix), FakeProvider()) as g:
            results = [await _timed(g) for _ in range(6)]
    assert {status for status, _ in results} == {"bypass"}
    assert max(seconds for _, seconds in results) < 0.5
    assert results[-1][1] < 0.04  # it is left alone by now


async def test_a_redis_that_is_gone_makes_requests_pass_by(gateway, prefix):
    async with gateway(_redis("redis://127.0.0.1:1", prefix), FakeProvider()) as g:
        assert {(await _timed(g))[0] for _ in range(5)} == {"bypass"}


async def test_only_if_cached_is_answered_also_when_the_store_is_gone(gateway, prefix):
    async with gateway(_redis("redis://127.0.0.1:1", prefix), FakeProvider()) as g:
        answer = await g.chat(headers={"cache-control": "only-if-cached"})
    assert (answer.status, answer.headers["x-junctor-cache"]) == (504, "bypass")


async def test_hits_come_from_redis_and_from_a_file(gateway, redis_url, prefix, tmp_path):
    for plugin in (_redis(redis_url, prefix), _sqlite(tmp_path / "c.db")):
        async with gateway(plugin, FakeProvider("a b")) as g:
            assert [(await _timed(g, stream=stream))[0] for stream in (True, True, False)] == ["miss", "hit", "hit"]
