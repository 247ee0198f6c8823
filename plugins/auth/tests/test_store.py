"""Keys in SQL, in both databases, and how fast a change of them is seen by every worker."""

import asyncio
import hashlib
import hmac
import os
import re
import sqlite3
import stat
import threading
import time
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa
from junctor import Client, ConfigError
from junctor.testing import FakeProvider, Recorder
from junctor_auth import Auth
from junctor_auth.grants import Grant
from junctor_auth.mirror import Mirror
from junctor_auth.settings import Rights, StoreSettings
from junctor_auth.store import NotThere
from sqlalchemy import event

RIGHTS = Rights(team="web", models=["test"], tags={"cost": "17"})


def bearer(key):
    return {"authorization": f"Bearer {key}"}


async def _status(g, key):
    return (await g.chat(headers=bearer(key))).status


@asynccontextmanager
async def two_workers(gateway, settings):
    async with gateway((Auth, {"store": settings}), FakeProvider()) as first:
        async with gateway((Auth, {"store": settings}), FakeProvider()) as second:
            yield first, second


def test_a_key_has_a_public_id_and_256_bits_of_secret(opened, store_settings):
    key, kept = opened(store_settings).create("search", RIGHTS)
    assert re.fullmatch(r"jct-[0-9a-f]{12}-[0-9A-Za-z]{43}", key)
    assert kept.public()["prefix"] == key[:17]
    assert key[17:] not in repr(kept) + str(kept.public())


def test_only_a_keyed_digest_is_kept(opened, sqlite_store):
    key, _ = opened(sqlite_store).create("search", RIGHTS)
    file = Path(sqlite_store["url"].removeprefix("sqlite:///"))
    bytes_kept = b"".join(other.read_bytes() for other in file.parent.iterdir())
    assert key.split("-")[2].encode() not in bytes_kept
    pepper = file.with_name("keys.sqlite.pepper").read_bytes()
    digest = sqlite3.connect(file).execute("select digest from junctor_auth_keys").fetchone()[0]
    assert digest == hmac.new(pepper, key.encode(), hashlib.sha256).digest()


def test_the_pepper_and_the_store_are_readable_by_their_owner_only(opened, sqlite_store, tmp_path):
    opened(sqlite_store)
    for name in ("keys.sqlite", "keys.sqlite.pepper"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600


def test_a_pepper_that_others_may_read_is_refused(opened, sqlite_store, tmp_path):
    opened(sqlite_store)
    (tmp_path / "keys.sqlite.pepper").chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        opened(sqlite_store)


def test_processes_that_start_at_once_agree_on_one_pepper(opened, sqlite_store, tmp_path):
    found = []
    threads = [threading.Thread(target=lambda: found.append(opened(sqlite_store).pepper)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1
    assert {path.name for path in tmp_path.iterdir()} <= {
        "keys.sqlite",
        "keys.sqlite.pepper",
        "keys.sqlite-wal",
        "keys.sqlite-shm",
    }


def test_another_pepper_is_a_mistake_and_not_a_store_without_keys(opened, store_settings):
    opened(store_settings)
    with pytest.raises(ConfigError, match="made with another one"):
        opened({**store_settings, "pepper": "another-pepper-0123456789abcdef-0123"})


def test_postgresql_wants_its_pepper_from_the_environment():
    with pytest.raises(ValueError, match="pepper"):
        StoreSettings.model_validate({"url": "postgresql://user:canary@host/database"})


def test_changes_are_told_once_and_in_order(opened, store_settings):
    one, two = opened(store_settings), opened(store_settings)
    before = two.changes(-1).version
    _, first = one.create("a", RIGHTS)
    two.revoke(first.id)
    changes = one.changes(before)
    assert [(key.id, key.state) for key in changes.keys] == [(first.id, "revoked")]
    assert not one.changes(changes.version).keys


def test_writers_at_once_lose_nothing(opened, store_settings):
    stores = [opened(store_settings) for _ in range(4)]
    before = stores[0].changes(-1).version
    threads = [threading.Thread(target=_create_some, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    changes = stores[0].changes(before)
    assert changes.version == before + 40
    assert len(changes.keys) == 40


def _create_some(store):
    for number in range(10):
        store.create(f"k{number}", RIGHTS)


@pytest.mark.parametrize("key_id", ["' OR '1'='1", "0123456789ab", "", "0" * 1000, "0123456789ab; drop table x"])
def test_an_id_that_is_not_there_changes_nothing(opened, store_settings, key_id):
    store = opened(store_settings)
    _, kept = store.create("a", RIGHTS)
    for change in (store.revoke, store.get, store.rotate, lambda key_id: store.expire(key_id, 0.0)):
        with pytest.raises(NotThere):
            change(key_id)
    assert store.get(kept.id).state == "active"


def test_names_that_look_like_sql_are_names(opened, store_settings):
    store = opened(store_settings)
    _, kept = store.create("Robert'); drop table junctor_auth_keys;--", Rights(tags={"x": "'; delete from a; --"}))
    assert store.get(kept.id).name.startswith("Robert')")


async def test_a_stored_key_resolves_to_its_client(gateway, opened, store_settings):
    key, kept = opened(store_settings).create("search", RIGHTS)
    recorder = Recorder()
    async with gateway((Auth, {"store": store_settings}), FakeProvider(), recorder) as g:
        assert await _status(g, key) == 200
    client = recorder.last.client
    assert (client.key_id, client.name, client.team) == (kept.id, "search", "web")
    assert (client.models, client.tags) == (frozenset({"test"}), {"cost": "17"})


async def test_a_key_that_was_just_made_works_at_once_in_every_worker(gateway, opened, store_settings):
    async with two_workers(gateway, store_settings) as (first, second):
        key, _ = await asyncio.to_thread(opened(store_settings).create, "new", Rights())
        assert await _status(first, key) == 200
        assert await _status(second, key) == 200


async def test_a_revoked_key_stops_within_a_second_in_every_worker(gateway, opened, store_settings):
    store = opened(store_settings)
    key, kept = store.create("a", Rights())
    async with two_workers(gateway, store_settings) as workers:
        assert [await _status(g, key) for g in workers] == [200, 200]
        await asyncio.to_thread(store.revoke, kept.id)
        revoked = time.monotonic()
        while [await _status(g, key) for g in workers] != [401, 401]:
            assert time.monotonic() - revoked < 1.0
            await asyncio.sleep(0.01)


async def test_a_worker_that_was_stuck_looks_before_it_grants(gateway, opened, sqlite_store):
    store = opened(sqlite_store)
    key, kept = store.create("a", Rights())
    async with gateway((Auth, {"store": sqlite_store}), FakeProvider()) as g:
        assert await _status(g, key) == 200
        store.revoke(kept.id)
        time.sleep(1.1)  # the event loop stands still: nobody polls
        assert await _status(g, key) == 401


async def test_a_key_ends_when_it_expires_and_can_be_given_more_time(gateway, opened, store_settings):
    store = opened(store_settings)
    key, kept = store.create("a", Rights(), expires=time.time() + 0.3)
    async with gateway((Auth, {"store": store_settings}), FakeProvider()) as g:
        assert await _status(g, key) == 200
        await asyncio.sleep(0.35)
        assert await _status(g, key) == 401
        await asyncio.to_thread(store.expire, kept.id, None)
        await asyncio.sleep(0.6)
        assert await _status(g, key) == 200


async def test_a_rotated_key_keeps_its_id_and_the_old_secret_ends_after_its_grace(gateway, opened, store_settings):
    store, recorder = opened(store_settings), Recorder()
    old, kept = store.create("a", RIGHTS)
    new, _ = store.rotate(kept.id, grace=0.3)
    async with gateway((Auth, {"store": store_settings}), FakeProvider(), recorder) as g:
        assert [await _status(g, old), await _status(g, new)] == [200, 200]
        await asyncio.sleep(0.35)
        assert [await _status(g, old), await _status(g, new)] == [401, 200]
    assert {exchange.client.key_id for exchange, _, _ in recorder.ended if exchange.client.team} == {kept.id}


async def test_a_rotation_without_grace_and_a_revocation_end_every_secret(gateway, opened, store_settings):
    store = opened(store_settings)
    old, kept = store.create("a", Rights())
    middle, _ = store.rotate(kept.id)
    new, _ = store.rotate(kept.id, grace=60)
    async with gateway((Auth, {"store": store_settings}), FakeProvider()) as g:
        assert [await _status(g, key) for key in (old, middle, new)] == [401, 200, 200]
    store.revoke(kept.id)
    async with gateway((Auth, {"store": store_settings}), FakeProvider()) as g:
        assert [await _status(g, key) for key in (old, middle, new)] == [401, 401, 401]
    with pytest.raises(NotThere, match="revoked"):
        store.rotate(kept.id)


async def test_ten_thousand_keys_are_found_without_asking_the_store(gateway, opened, sqlite_store):
    store = opened(sqlite_store)
    key, _ = store.create("first", Rights())
    _many(store, 10_000)
    async with gateway((Auth, {"store": sqlite_store}), FakeProvider()) as g:
        auth = g.gateway.plugins.by_name["auth"]
        started = time.perf_counter()
        for _ in range(1000):
            assert (await auth._resolve(bearer(key))).client.name == "first"
        assert time.perf_counter() - started < 0.5  # with a query for each it would be more


def _many(store, count):
    """Rows as `create` makes them, in one transaction."""
    file = store._url.database
    with sqlite3.connect(file) as connection:
        rows = [(f"{n:012x}", "n", os.urandom(32), '{"team":"t"}', 1.0, n) for n in range(count)]
        connection.executemany(
            "insert into junctor_auth_keys(id, name, digest, rights, created, version) values (?, ?, ?, ?, ?, ?)", rows
        )
    connection.close()


async def test_a_flood_of_invented_keys_reaches_the_store_a_few_times_only(sqlite_store):
    asked = []
    note = asked.append
    mirror = Mirror(StoreSettings.model_validate(sqlite_store), lambda key, digest: Grant(Client(), digest))
    async with mirror:
        event.listen(sa.Engine, "begin", note)
        started = time.monotonic()
        try:
            while time.monotonic() - started < 0.5:
                found = await asyncio.gather(*(mirror.grant(b"jct-%d" % n) for n in range(200)))
                assert found == [None] * 200
        finally:
            event.remove(sa.Engine, "begin", note)
    assert 1 <= len(asked) <= 15


async def test_a_store_that_is_gone_refuses_its_keys_until_it_is_back_and_never_those_of_the_file(
    gateway, opened, sqlite_store, tmp_path
):
    key, _ = opened(sqlite_store).create("a", Rights())
    clients = [{"name": "file", "key": "key-of-the-file-01234"}]
    async with gateway((Auth, {"store": sqlite_store, "clients": clients}), FakeProvider()) as g:
        assert await _status(g, key) == 200
        _rename(tmp_path, "junctor_auth_version", "away")
        await asyncio.sleep(1.1)
        answer = await g.chat(headers=bearer(key))
        assert await _status(g, "key-of-the-file-01234") == 200
        _rename(tmp_path, "away", "junctor_auth_version")
        await asyncio.sleep(0.6)
        assert await _status(g, key) == 200
    assert (answer.status, answer.json()["error"]["code"]) == (503, "auth_unavailable")
    assert answer.headers["retry-after"] == "1"


async def test_with_a_grace_known_keys_outlive_a_store_that_is_gone(gateway, opened, sqlite_store, tmp_path):
    key, _ = opened(sqlite_store).create("a", Rights())
    async with gateway((Auth, {"store": {**sqlite_store, "grace": "1m"}}), FakeProvider()) as g:
        _rename(tmp_path, "junctor_auth_version", "away")
        await asyncio.sleep(1.1)
        assert await _status(g, key) == 200
        assert await _status(g, "jct-0123456789ab-unknown") == 401


def _rename(folder, before, after):
    """What a database that cannot be used for a while is like."""
    with sqlite3.connect(folder / "keys.sqlite") as connection:
        connection.execute(f"alter table {before} rename to {after}")
    connection.close()


async def test_a_store_that_does_not_answer_ends_the_start_and_tells_no_password(gateway, free_port):
    url = f"postgresql://user:canary-password@127.0.0.1:{free_port}/none"
    with pytest.raises(ConfigError, match=r"store\.url") as error:
        async with gateway((Auth, {"store": {"url": url, "pepper": "p" * 32}}), FakeProvider()):
            pass
    assert "canary" not in str(error.value)


@pytest.fixture
def free_port():
    from junctor.testing import free_port

    return free_port()


async def test_a_row_that_is_not_understood_is_refused_and_stops_no_other(gateway, opened, sqlite_store, tmp_path):
    store = opened(sqlite_store)
    (key, _), (odd, kept) = store.create("a", Rights()), store.create("b", Rights())
    with sqlite3.connect(tmp_path / "keys.sqlite") as connection:
        connection.execute("update junctor_auth_keys set rights = ? where id = ?", ('{"power": "all"}', kept.id))
    connection.close()
    async with gateway((Auth, {"store": sqlite_store}), FakeProvider()) as g:
        assert [await _status(g, given) for given in (key, odd)] == [200, 401]


def test_the_number_of_keys_is_bounded(opened, sqlite_store):
    store = opened({**sqlite_store, "max_keys": 2})
    _, kept = store.create("a", Rights())
    store.create("b", Rights())
    with pytest.raises(ConfigError, match="max_keys"):
        store.create("c", Rights())
    store.revoke(kept.id)
    store.create("c", Rights())
