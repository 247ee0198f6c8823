"""What a call of the store costs and says while Redis is slow, dead, restarted, full, read-only or has moved."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import ssl
import subprocess
import time
from contextlib import contextmanager

import pytest
from junctor.redis_state import RedisState
from junctor.state import StateUnavailable
from junctor.testing import free_port, process, require, wait_for_port

from .test_state import TAKE


class Server:
    """A Redis of the test's own, that may be stopped and started again at the same port."""

    def __init__(self, folder, *options):
        self.binary = shutil.which("redis-server")
        require(self.binary, "no redis-server to start (install redis-server)")
        self.folder, self.port, self.options = folder, free_port(), options

    @property
    def url(self):
        return f"redis://127.0.0.1:{self.port}"

    @contextmanager
    def running(self, *options):
        arguments = [self.binary, "--port", str(self.port), "--save", "", *self.options, *options]
        with process(arguments, self.folder) as child:
            assert wait_for_port(self.port)
            yield child

    def cli(self, *words):
        return subprocess.run(["redis-cli", "-p", str(self.port), *words], check=True, capture_output=True).stdout


@pytest.fixture
def server(tmp_path):
    return Server(tmp_path)


async def _until_it_answers(state, key="k", seconds=8.0):
    until = time.monotonic() + seconds
    while True:
        try:
            return await state.get(key)
        except StateUnavailable:
            assert time.monotonic() < until
            await asyncio.sleep(0.05)


async def test_a_stopped_server_costs_a_deadline_and_then_nothing(server):
    with server.running() as child:
        state = RedisState(server.url, prefix="p:", timeout=0.05)
        await state.set("k", b"v")
        os.kill(child.pid, signal.SIGSTOP)
        try:
            for _ in range(3):
                with pytest.raises(StateUnavailable):
                    await state.get("k")
            started = time.monotonic()
            for _ in range(100):
                with pytest.raises(StateUnavailable):
                    await state.get("k")
            assert time.monotonic() - started < 0.15
        finally:
            os.kill(child.pid, signal.SIGCONT)
        assert await _until_it_answers(state) == b"v"
        await state.aclose()


async def test_calls_in_flight_fail_when_the_server_dies_and_work_when_it_is_back(server):
    state = RedisState(server.url, prefix="p:", timeout=0.1)
    with server.running():
        assert await state.run(TAKE, ["{s}u", "{s}l"], [1, 9]) == [1, 1]
    outcomes = await asyncio.gather(*(state.get("k") for _ in range(20)), return_exceptions=True)
    assert all(isinstance(outcome, StateUnavailable) for outcome in outcomes)
    with server.running():
        assert await _until_it_answers(state) is None
        assert await state.run(TAKE, ["{s}u", "{s}l"], [1, 9]) == [1, 1], "the script is sent again, the data is gone"
    await state.aclose()


async def test_a_script_that_the_server_forgot_is_sent_again(server):
    with server.running():
        state = RedisState(server.url, prefix="p:", timeout=1.0)
        await state.run(TAKE, ["{s}u", "{s}l"], [1, 9])
        server.cli("script", "flush")
        assert await state.run(TAKE, ["{s}u", "{s}l"], [1, 9]) == [1, 2]
        await state.aclose()


async def test_a_full_server_is_unavailable_and_not_a_fault_of_ours(server):
    with server.running("--maxmemory", "100kb", "--maxmemory-policy", "noeviction"):
        state = RedisState(server.url, prefix="p:", timeout=1.0)
        for _ in range(5):
            with pytest.raises(StateUnavailable, match="OOM"):
                await state.set("k", b"v")
        assert await state.get("k") is None, "what needs no memory still works"
        server.cli("config", "set", "maxmemory", "0")
        assert await state.set("k", b"v")
        await state.aclose()


async def test_follows_the_name_when_the_server_has_become_a_replica(server, tmp_path):
    with server.running():
        state = RedisState(server.url, prefix="p:", timeout=1.0)
        await state.set("k", b"v")
        server.cli("replicaof", "127.0.0.1", "1")
        for _ in range(4):
            with pytest.raises(StateUnavailable):
                await state.set("k", b"w")
        server.cli("replicaof", "no", "one")
        assert await _until_it_answers(state) == b"v"
        assert await state.set("k", b"w")
        await state.aclose()


async def test_a_wrong_type_is_unavailable_and_does_not_open_the_circuit(server):
    with server.running():
        state = RedisState(server.url, prefix="", timeout=1.0)
        server.cli("lpush", "list", "1")
        for _ in range(5):
            with pytest.raises(StateUnavailable, match="WRONGTYPE"):
                await state.increment("list")
        assert await state.set("k", b"v")
        await state.aclose()


async def test_a_busy_event_loop_is_not_a_slow_server(redis_url, prefix):
    state = RedisState(redis_url, prefix=prefix, timeout=0.02)
    await state.get("k")
    call = asyncio.ensure_future(state.get("k"))
    await asyncio.sleep(0)
    time.sleep(0.1)
    assert await call is None
    await state.aclose()


async def test_a_caller_that_gives_up_does_not_shift_the_answers_of_others(redis_url, prefix):
    state = RedisState(redis_url, prefix=prefix, timeout=1.0)
    await asyncio.gather(*(state.set(str(n), b"%d" % n) for n in range(50)))
    calls = [asyncio.ensure_future(state.get(str(n))) for n in range(50)]
    await asyncio.sleep(0)
    for call in calls[::2]:
        call.cancel()
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert answers[1::2] == [b"%d" % n for n in range(1, 50, 2)]
    await state.aclose()


async def test_a_password_and_a_database_are_used(server):
    with server.running("--requirepass", "s3cret/+"):
        state = RedisState(f"redis://:s3cret%2F%2B@127.0.0.1:{server.port}/3", prefix="p:", timeout=1.0)
        await state.set("k", b"v")
        assert b"db3" in server.cli("-a", "s3cret/+", "info", "keyspace")
        await state.aclose()
        wrong = RedisState(f"redis://:no@127.0.0.1:{server.port}", prefix="p:", timeout=1.0)
        with pytest.raises(StateUnavailable, match="WRONGPASS"):
            await wrong.get("k")
        await wrong.aclose()


async def test_what_is_no_redis_is_unavailable():
    async def talk(reader, writer):
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        writer.close()

    listener = await asyncio.start_server(talk, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    state = RedisState(f"redis://127.0.0.1:{port}", prefix="", timeout=0.2)
    with pytest.raises(StateUnavailable):
        await state.get("k")
    await state.aclose()
    listener.close()
    await listener.wait_closed()


def _certificate(folder):
    require(shutil.which("openssl"), "no openssl to make a certificate with (install openssl)")
    names = [
        "-keyout",
        str(folder / "key.pem"),
        "-out",
        str(folder / "cert.pem"),
        "-days",
        "2",
        "-subj",
        "/CN=localhost",
    ]
    names += ["-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *names], check=True, capture_output=True
    )


async def test_speaks_tls_and_refuses_an_unknown_certificate(server, tmp_path):
    _certificate(tmp_path)
    tls = free_port()
    options = ["--tls-port", str(tls), "--tls-auth-clients", "no", "--tls-cert-file", str(tmp_path / "cert.pem")]
    options += ["--tls-key-file", str(tmp_path / "key.pem"), "--tls-ca-cert-file", str(tmp_path / "cert.pem")]
    with server.running(*options):
        ca = tmp_path / "cert.pem"
        state = RedisState(f"rediss://127.0.0.1:{tls}?ssl_ca_certs={ca}", prefix="p:", timeout=1.0)
        assert await state.set("k", b"v")
        await state.aclose()
        stranger = RedisState(f"rediss://127.0.0.1:{tls}", prefix="p:", timeout=1.0)
        with pytest.raises(StateUnavailable) as raised:
            await stranger.get("k")
        assert isinstance(raised.value.__cause__, ssl.SSLCertVerificationError)
        await stranger.aclose()


async def test_a_sentinel_leads_to_the_new_master(tmp_path):
    require(shutil.which("redis-server"), "no redis-server to start (install redis-server)")
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first, second, port = Server(tmp_path / "a"), Server(tmp_path / "b"), free_port()
    lines = [f"port {port}", f"sentinel monitor main 127.0.0.1 {first.port} 1"]
    lines += ["sentinel down-after-milliseconds main 500", "sentinel failover-timeout main 3000"]
    (tmp_path / "sentinel.conf").write_text("\n".join(lines) + "\n")
    with second.running("--replicaof", "127.0.0.1", str(first.port)):
        with first.running():
            for _ in range(100):
                if b"master_link_status:up" in second.cli("info", "replication"):
                    break
                time.sleep(0.1)
            sentinel = process([first.binary, str(tmp_path / "sentinel.conf"), "--sentinel"], tmp_path)
            sentinel.__enter__()
            assert wait_for_port(port)
            time.sleep(1.0 if b"connected_slaves:1" in first.cli("info", "replication") else 2.0)
            state = RedisState(f"redis+sentinel://127.0.0.1:{port}/main", prefix="p:", timeout=1.0)
            await state.set("k", b"v")
            first.cli("wait", "1", "1000")
        try:
            assert await _until_it_answers(state, seconds=25) == b"v"
            assert await _until_it_takes(state)
        finally:
            await state.aclose()
            sentinel.__exit__(None, None, None)


async def _until_it_takes(state):
    for _ in range(200):
        try:
            return await state.set("k", b"w")
        except StateUnavailable:
            await asyncio.sleep(0.1)
    return False
