"""The fault-making provider does what its script says, as a raw client sees it."""

from __future__ import annotations

import asyncio
import json

import pytest
from junctor.faults import (
    FAULTS,
    answer,
    completion,
    error_event,
    large,
    reset,
    silence,
    slow,
    status,
    stream_of,
    trickle,
    wrong_length,
)
from junctor.faulty_server import FaultyServer


async def ask(server: FaultyServer, *, stream: bool = False, patience: float = 5.0) -> bytes:
    """All bytes of the answer to one request, as far as they come."""
    port = int(server.url.split(":")[2].split("/")[0])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = json.dumps({"model": "m", "stream": stream}).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nX-Test: yes\r\ncontent-length: %d\r\n\r\n"
    writer.write(head % len(body) + body)
    got = b""
    try:
        async with asyncio.timeout(patience):
            while data := await reader.read(1 << 20):
                got += data
                if got.endswith((b"0\r\n\r\n", b"}")) and not stream:
                    break
                if got.endswith(b"0\r\n\r\n"):
                    break
    except TimeoutError:
        pass
    finally:
        writer.close()
    return got


async def test_it_answers_whole_and_streamed_and_keeps_what_it_was_asked() -> None:
    async with FaultyServer(answer("well done")) as server:
        assert b"well done" in await ask(server)
        streamed = await ask(server, stream=True)
    assert streamed.count(b"data: ") == 6
    assert b"[DONE]" in streamed
    assert [asked.stream for asked in server.requests] == [False, True]
    assert server.requests[0].path == "/v1/chat/completions"
    assert server.requests[0].headers["x-test"] == "yes"
    assert server.connections == 2


async def test_the_last_fault_of_the_script_stays() -> None:
    async with FaultyServer(status(503), status(429, error="rate_limit_exceeded", retry_after="2")) as server:
        answers = [await ask(server) for _ in range(3)]
        server.become(answer())
        healed = await ask(server)
    assert answers[0].startswith(b"HTTP/1.1 503 ")
    assert all(b"retry-after: 2\r\n" in later and b"rate_limit_exceeded" in later for later in answers[1:])
    assert healed.endswith(completion())


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("where", ["before_headers", "after_headers", "mid_body", "mid_chunk"])
async def test_a_reset_is_one_and_comes_where_it_should(where: str, stream: bool) -> None:
    async with FaultyServer(reset(where)) as server:
        port = int(server.url.split(":")[2].split("/")[0])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        body = json.dumps({"stream": stream}).encode()
        writer.write(b"POST / HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        got = b""
        with pytest.raises(ConnectionResetError):
            while data := await reader.read(65536):
                got += data
        writer.close()
    assert (b"HTTP/1.1 200" in got) is (where != "before_headers")
    assert (b"chatcmpl-f" in got) is (where in ("mid_body", "mid_chunk"))


async def test_it_tells_that_a_client_has_left() -> None:
    async with FaultyServer(silence()) as server:
        assert await ask(server, patience=0.05) == b""
        async with asyncio.timeout(2):
            await server.left.wait()
        assert server.hung_up == 1
        assert server.running == 0


async def test_silence_may_come_in_the_middle() -> None:
    async with FaultyServer(silence(after=3)) as server:
        got = await ask(server, stream=True, patience=0.1)
    assert got.count(b"data: ") == 4
    assert b"[DONE]" not in got


async def test_a_slow_stream_takes_its_time() -> None:
    async with FaultyServer(slow(0.02, "a b c")) as server:
        started = asyncio.get_running_loop().time()
        assert b"[DONE]" in await ask(server, stream=True)
        assert asyncio.get_running_loop().time() - started >= 0.1


async def test_one_byte_at_a_time_is_a_good_answer() -> None:
    async with FaultyServer(trickle()) as server:
        assert (await ask(server)).endswith(completion())


@pytest.mark.parametrize("by", [50, -50])
async def test_a_wrong_length_is_wrong_by_that_much(by: int) -> None:
    async with FaultyServer(wrong_length(by)) as server:
        got = await ask(server, patience=0.3)
    assert b"content-length: %d\r\n" % (len(completion()) + by) in got


async def test_an_error_may_come_in_a_200_after_some_events() -> None:
    async with FaultyServer(error_event(after=3)) as server:
        got = await ask(server, stream=True)
    assert got.startswith(b"HTTP/1.1 200")
    assert got.count(b"data: ") == 4
    assert b'"error"' in got


async def test_a_large_answer_is_as_large_as_it_should_be() -> None:
    async with FaultyServer(large(1024 * 1024)) as server:
        assert len(await ask(server)) > 1024 * 1024


async def test_a_stream_of_given_bytes_is_given_back() -> None:
    async with FaultyServer(stream_of(b"data: x\n\n")) as server:
        assert b"data: x\n\n" in await ask(server, stream=True)


@pytest.mark.parametrize("name", [name for name in FAULTS if name[0].isdigit() and name[:3].isdigit()])
async def test_every_status_of_the_table_is_that_status(name: str) -> None:
    async with FaultyServer(FAULTS[name]) as server:
        assert (await ask(server, patience=0.5)).startswith(f"HTTP/1.1 {name[:3]} ".encode())


async def test_connections_are_kept_for_the_next_request() -> None:
    async with FaultyServer(answer()) as server:
        port = int(server.url.split(":")[2].split("/")[0])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(3):
            writer.write(b"POST / HTTP/1.1\r\ncontent-length: 2\r\n\r\n{}")
            await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(len(completion()))
        writer.close()
    assert (server.connections, len(server.requests)) == (1, 3)
