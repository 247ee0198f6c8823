"""One contract for the coordination state: the same answers in memory, in Redis and in a cluster."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import time
from contextlib import ExitStack

import pytest
from junctor.errors import ConfigError
from junctor.redis_state import RedisState
from junctor.settings import StateSettings
from junctor.state import Entries, MemoryState, Script, open_state
from junctor.testing import free_port, process, require, wait_for_port


def _take(entries, keys, arguments):
    used = int(entries.get(keys[0]) or 0)
    if used + int(arguments[0]) > int(arguments[1]):
        return [0, used]
    entries.set(keys[0], b"%d" % (used + int(arguments[0])), 60.0)
    entries.set(keys[1], b"last", 60.0)
    return [1, used + int(arguments[0])]


TAKE = Script(
    "take",
    """
    local used = tonumber(redis.call('GET', KEYS[1]) or '0')
    if used + tonumber(ARGV[1]) > tonumber(ARGV[2]) then return {0, used} end
    redis.call('SET', KEYS[1], used + tonumber(ARGV[1]), 'PX', 60000)
    redis.call('SET', KEYS[2], 'last', 'PX', 60000)
    return {1, used + tonumber(ARGV[1])}
    """,
    _take,
)


@pytest.fixture(scope="session")
def cluster_url(tmp_path_factory):
    binary, client = shutil.which("redis-server"), shutil.which("redis-cli")
    require(binary and client, "no redis-server and redis-cli to start a cluster with (install redis-server)")
    ports = [free_port() for _ in range(3)]
    hosts = [f"127.0.0.1:{port}" for port in ports]
    with ExitStack() as stack:
        for port in ports:
            arguments = [binary, "--port", str(port), "--save", "", "--cluster-enabled", "yes"]
            arguments += ["--cluster-port", str(free_port()), "--cluster-node-timeout", "2000"]
            stack.enter_context(process(arguments, tmp_path_factory.mktemp("node")))
        assert all(wait_for_port(port) for port in ports)
        create = [client, "--cluster", "create", *hosts, "--cluster-yes"]
        subprocess.run(create, check=True, capture_output=True, timeout=60)
        _until_cluster_is_up(client, ports)
        yield "redis+cluster://" + ",".join(hosts)


def _until_cluster_is_up(client, ports):
    until = time.monotonic() + 20
    for port in ports:
        while (
            b"cluster_state:ok"
            not in subprocess.run([client, "-p", str(port), "cluster", "info"], capture_output=True, check=False).stdout
        ):
            assert time.monotonic() < until
            time.sleep(0.1)


@pytest.fixture(params=["memory", "redis", "cluster"])
async def state(request, prefix):
    if request.param == "memory":
        store = MemoryState()
    else:
        url = request.getfixturevalue(f"{request.param}_url")
        store = RedisState(url, prefix=prefix, timeout=1.0)
    yield store
    await store.aclose()


async def test_keeps_a_value(state):
    assert await state.get("{a}k") is None
    assert await state.set("{a}k", b"v\x00\xff")
    assert await state.get("{a}k") == b"v\x00\xff"


async def test_forgets_a_value_after_its_time(state):
    await state.set("{a}k", b"v", ttl=0.05)
    await asyncio.sleep(0.1)
    assert await state.get("{a}k") is None
    assert await state.delete("{a}k") == 0


async def test_sets_only_what_is_absent(state):
    assert await state.set("{a}k", b"1", only_if_absent=True)
    assert not await state.set("{a}k", b"2", only_if_absent=True)
    assert await state.get("{a}k") == b"1"


async def test_deletes_keys_wherever_they_live_and_counts_them(state):
    for key in ("a", "b", "c", "d"):
        await state.set(key, b"1")
    assert await state.delete("a", "b", "c", "d", "e") == 4


async def test_increments_and_decrements(state):
    assert await state.increment("n") == 1
    assert await state.increment("n", 41) == 42
    assert await state.increment("n", -2) == 40
    assert await state.get("n") == b"40"


async def test_incrementing_keeps_the_expiry_that_a_counter_has(state):
    await state.increment("n", ttl=0.1)
    await state.increment("n")
    await asyncio.sleep(0.15)
    assert await state.increment("n") == 1


async def test_increments_of_many_at_once_are_all_counted(state):
    counts = await asyncio.gather(*(state.increment("n") for _ in range(200)))
    assert sorted(counts) == list(range(1, 201))


async def test_a_script_is_one_step_for_many_at_once(state):
    answers = await asyncio.gather(*(state.run(TAKE, ["{s}used", "{s}last"], [1, 50]) for _ in range(200)))
    assert sum(admitted for admitted, _ in answers) == 50
    assert max(used for _, used in answers) == 50
    assert await state.get("{s}last") == b"last"


async def test_scripts_of_many_tags_find_their_nodes(state):
    answers = await asyncio.gather(*(state.run(TAKE, [f"{{{i}}}u", f"{{{i}}}l"], [1, 1]) for i in range(50)))
    assert answers == [[1, 1]] * 50


async def test_tells_the_time(state):
    assert abs(await state.time() - time.time()) < 5


async def test_a_message_reaches_all_who_listen(state):
    heard = []

    async def listen():
        async for message in state.subscribe("news"):
            heard.append(message)
            return

    listeners = [asyncio.create_task(listen()) for _ in range(2)]
    for _ in range(100):
        await asyncio.sleep(0.05)
        await state.publish("news", b"hello")
        if all(task.done() for task in listeners):
            break
    await asyncio.gather(*listeners)
    assert heard == [b"hello"] * 2


def test_memory_is_bounded_and_the_oldest_go_first():
    entries = Entries(3)
    for number in range(5):
        entries.set(str(number), b"x")
    assert len(entries) == 3
    assert entries.get("1") is None
    assert entries.get("4") == b"x"


async def test_memory_forgets_a_channel_that_nobody_hears():
    store = MemoryState()
    heard = aiter(store.subscribe("c"))
    waiting = asyncio.ensure_future(anext(heard))
    await asyncio.sleep(0)
    await store.publish("c", b"1")
    assert await waiting == b"1"
    await heard.aclose()
    assert store._listeners == {}


@pytest.mark.parametrize(
    "url", ["http://x", "redis+cluster://host", "redis+sentinel://h:1", "redis://h:port", "redis://h:1/x"]
)
def test_a_wrong_url_is_told_at_start_up(url):
    with pytest.raises(ConfigError, match=r"state\.url"):
        open_state(StateSettings(url=url))
