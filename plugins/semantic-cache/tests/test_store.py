"""One suite over every engine: embedded, the fake server, and a real one where QDRANT_URL names it."""

import asyncio
import contextlib
import os
import time
import uuid
from contextlib import asynccontextmanager
from dataclasses import replace

import numpy as np
import pytest
from junctor_semantic_cache.edge_store import EdgeStore
from junctor_semantic_cache.qdrant_server import ServerStore
from junctor_semantic_cache.store import Entry, Selection, StoreError, collection_name, entry_id

ENGINES = ["embedded", "fake server", *(["server"] if "QDRANT_URL" in os.environ else [])]
FAR = 4e9


@pytest.fixture(params=ENGINES)
def engine(request, tmp_path):
    """`engine(dimension=4, embedder="words")` makes a store, not yet open."""
    prefix = f"test-{uuid.uuid4().hex[:8]}"
    if request.param == "embedded":
        return lambda dimension=4, embedder="words": EdgeStore(
            tmp_path, collection=prefix, embedder=embedder, dimension=dimension, timeout=5.0
        )
    url = os.environ["QDRANT_URL"] if request.param == "server" else request.getfixturevalue("fake").url
    return lambda dimension=4, embedder="words": ServerStore(
        url, collection_name(prefix, embedder, dimension), prefix=prefix, dimension=dimension, timeout=5.0
    )


@asynccontextmanager
async def opened(store):
    await store.open()
    try:
        yield store
    finally:
        await store.aclose()


def vector(*values):
    array = np.array(values, np.float32)
    return array / np.linalg.norm(array)


def entry(text="why", *, scope="s", tenant="t", partition="p", **fields):
    identity = entry_id(scope, tenant, partition, text)
    return Entry(identity, scope, tenant, partition, "ns", text, "g", "answer", expires=FAR, **fields)


WHERE = {"scope": "s", "tenant": "t", "partition": "p"}


async def test_gives_back_what_was_put(engine):
    kept = entry(tags=("a", "b"), cost=7, right=2, floor=0.25, created=5.0)
    async with opened(engine()) as store:
        await store.put(kept, vector(1, 0, 0, 0))
        assert await store.get(kept.id) == kept
        assert await store.get(str(uuid.uuid4())) is None


async def test_finds_the_nearest_first_and_leaves_the_answer_behind(engine):
    async with opened(engine()) as store:
        await store.put(entry("near"), vector(1, 0.1, 0, 0))
        await store.put(entry("far"), vector(0, 1, 0, 0))
        found = await store.search(vector(1, 0, 0, 0), where=WHERE, limit=5)
    assert [candidate.entry.text for candidate in found] == ["near", "far"]
    assert found[0].similarity == pytest.approx(0.995, abs=0.001)
    assert found[0].entry.answer == ""


@pytest.mark.parametrize("other", [{"scope": "x"}, {"tenant": "x"}, {"partition": "x"}])
async def test_never_looks_across_a_border(engine, other):
    async with opened(engine()) as store:
        await store.put(entry(**other), vector(1, 0, 0, 0))
        assert await store.search(vector(1, 0, 0, 0), where=WHERE, limit=5) == []


async def test_without_conditions_all_is_dropped(engine):
    async with opened(engine()) as store:
        await store.put(entry(), vector(1, 0, 0, 0))
        await store.delete(Selection())
        assert await store.count(Selection()) == 0


async def test_finds_the_nearest_of_many_although_signs_are_compared_first(tmp_path):
    store = EdgeStore(tmp_path, collection="c", embedder="e", dimension=384, timeout=5.0)
    made = np.random.default_rng(1).normal(size=(600, 384)).astype(np.float32)
    async with opened(store):
        for number, row in enumerate(made):
            await store.put(entry(str(number)), vector(*row))
        near = vector(*(made[77] + 0.5 * made[78]))
        found = await store.search(near, where=WHERE, limit=2)
    assert [candidate.entry.text for candidate in found] == ["77", "78"]
    assert found[0].similarity == pytest.approx(float(near @ vector(*made[77])), abs=1e-4)


async def test_puts_over_what_has_the_same_id(engine):
    async with opened(engine()) as store:
        await store.put(entry(cost=1), vector(1, 0, 0, 0))
        await store.put(entry(cost=2), vector(0, 1, 0, 0))
        assert (await store.get(entry().id)).cost == 2
        assert await store.count(Selection()) == 1


async def test_changes_some_fields_and_keeps_the_others(engine):
    async with opened(engine()) as store:
        await store.put(entry(cost=3), vector(1, 0, 0, 0))
        await store.update(entry().id, {"wrong": 4, "floor": 0.5})
        assert await store.get(entry().id) == replace(entry(cost=3), wrong=4, floor=0.5)


async def test_an_update_of_what_is_gone_makes_no_entry(engine):
    async with opened(engine()) as store:
        with contextlib.suppress(StoreError):
            await store.update(entry().id, {"wrong": 4})
        assert await store.get(entry().id) is None


@pytest.mark.parametrize(
    "selection",
    [
        Selection({"model": "m"}),
        Selection({"tags": "b"}),
        Selection(before={"created": 10.0}),
        Selection({"namespace": "ns"}, {"created": 10.0}),
    ],
)
async def test_deletes_what_is_selected_and_nothing_else(engine, selection):
    async with opened(engine()) as store:
        await store.put(entry("one", model="m", tags=("a", "b"), created=5.0), vector(1, 0, 0, 0))
        await store.put(entry("two", model="n", tags=("a",), created=50.0), vector(1, 0, 0, 0))
        assert await store.count(selection) == 1
        await store.delete(selection)
        assert [c.entry.text for c in await store.search(vector(1, 0, 0, 0), where=WHERE, limit=5)] == ["two"]


async def test_names_those_of_least_worth_and_removes_them(engine):
    async with opened(engine()) as store:
        for worth in (30.0, 10.0, 20.0):
            await store.put(entry(f"w{worth}", worth=worth), vector(1, 0, 0, 0))
        least = await store.least(2)
        assert least == [entry("w10.0").id, entry("w20.0").id]
        await store.remove(least)
        assert await store.count(Selection()) == 1


async def test_keeps_entries_over_a_restart(engine):
    async with opened(engine()) as store:
        await store.put(entry(), vector(1, 0, 0, 0))
    async with opened(engine()) as store:
        assert await store.get(entry().id) == entry()


@pytest.mark.parametrize("change", [{"dimension": 5}, {"embedder": "other"}])
async def test_another_embedder_or_dimension_begins_a_new_collection(engine, change):
    async with opened(engine()) as store:
        await store.put(entry(), vector(1, 0, 0, 0))
    async with opened(engine(**change)) as store:
        assert await store.count(Selection()) == 0
    async with opened(engine()) as store:  # the old one was dropped
        assert await store.count(Selection()) == 0


async def test_a_vector_of_another_dimension_is_refused(engine):
    async with opened(engine()) as store:
        with pytest.raises(StoreError, match="dimension"):
            await store.put(entry(), vector(1, 0))
        with pytest.raises(StoreError, match="dimension"):
            await store.search(vector(1, 0), where=WHERE, limit=1)


async def test_a_second_process_gets_a_shard_of_its_own(tmp_path):
    stores = [EdgeStore(tmp_path, collection="c", embedder="e", dimension=4, timeout=5.0) for _ in range(2)]
    async with opened(stores[0]) as first, opened(stores[1]) as second:
        await first.put(entry(), vector(1, 0, 0, 0))
        assert await second.count(Selection()) == 0


async def test_a_shard_that_cannot_be_read_is_begun_anew(tmp_path):
    make = lambda: EdgeStore(tmp_path, collection="c", embedder="e", dimension=4, timeout=5.0)  # noqa: E731
    async with opened(make()) as store:
        await store.put(entry(), vector(1, 0, 0, 0))
    for file in (tmp_path / "c-e-4" / "shard-0").rglob("*"):
        if file.is_file():
            file.write_bytes(b"broken")
    async with opened(make()) as store:
        assert await store.count(Selection()) == 0


async def test_the_server_is_asked_for_indexes_on_every_filtered_field(fake):
    with pytest.warns(UserWarning, match="insecure"):  # the client's, rightly
        store = ServerStore(fake.url, "j-e-4", prefix="j", dimension=4, api_key="secret", timeout=5.0)
    async with opened(store):
        assert {"place", "scope", "tenant", "partition", "tags", "expires", "worth", "created"} <= fake.indexes["j-e-4"]
    assert fake.keys == {"secret"}


async def test_a_server_that_is_slow_is_given_up_in_time(fake):
    store = ServerStore(fake.url, "j-e-4", prefix="j", dimension=4, timeout=0.1)
    async with opened(store):
        fake.delay = 1.0
        started = time.monotonic()
        with pytest.raises(StoreError, match=r"within 0.1 s"):
            await store.get(entry().id)
        assert time.monotonic() - started < 0.6
        fake.delay = 0.0


async def test_a_server_that_fails_or_is_gone_is_a_store_error(fake):
    store = ServerStore(fake.url, "j-e-4", prefix="j", dimension=4, timeout=2.0)
    async with opened(store):
        fake.broken = True
        with pytest.raises(StoreError):
            await store.get(entry().id)
    nobody = ServerStore("http://127.0.0.1:9", "j-e-4", prefix="j", dimension=4, timeout=2.0)
    with pytest.raises(StoreError):
        await nobody.open()
    await nobody.aclose()


async def test_an_embedded_store_that_hangs_gathers_no_calls(tmp_path):
    store = EdgeStore(tmp_path, collection="c", embedder="e", dimension=4, timeout=0.05)
    async with opened(store):
        hanging = [asyncio.create_task(store._run(lambda: time.sleep(0.01))) for _ in range(200)]
        results = await asyncio.gather(*hanging, return_exceptions=True)
        refused = [r for r in results if isinstance(r, StoreError) and "too many" in str(r)]
        assert len(refused) >= 100
        await asyncio.sleep(1.0)


def test_the_fake_refuses_what_the_document_does_not_know(fake):
    fake.answer("put", "/collections/c", {"vectors": {"size": 4, "distance": "Cosine"}})
    assert fake.answer("put", "/collections/c/points", {"points": [{"id": "x"}]})[0] == 400
    assert fake.answer("post", "/collections/c/points/query?never=1", {"query": [1.0]})[0] == 400
    assert fake.answer("post", "/collections/c/points/count", {"exact": "yes"})[0] == 400
