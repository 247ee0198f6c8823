"""Connections: reuse, limits, what is closed when, back-pressure."""

from __future__ import annotations

import asyncio
import gc
import os
import re
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING, Any

import pytest
from junctor.errors import ErrorKind, ProviderError
from junctor.http import HTTPClient, HTTPLimits

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.anyio

Handler = Callable[["Peer"], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": request.param}


class Peer:  # the server's end of one connection
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, server: RawServer) -> None:
        self.reader, self.writer, self.server = reader, writer, server

    async def request(self) -> bytes:
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head)
        self.server.requests += 1
        return head + (await self.reader.readexactly(int(length[1])) if length else b"")

    async def answer(self, data: bytes = OK) -> None:
        await self.request()
        self.writer.write(data)
        await self.writer.drain()

    async def gone(self) -> None:
        await self.reader.read()

    def reset(self) -> None:
        """Close with a reset, not with an end of file."""
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


class RawServer:
    """Counts what the client opens; `handler` runs for each connection."""

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self.opened = self.open = self.peak = self.requests = 0
        self.gone = asyncio.Event()
        self.url = ""
        self._tasks: set[asyncio.Task[Any]] = set()

    async def run(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.opened += 1
        self.open += 1
        self.peak = max(self.peak, self.open)
        try:
            await self.handler(Peer(reader, writer, self))
        except (OSError, EOFError, asyncio.CancelledError):
            pass
        finally:
            self.open -= 1
            self.gone.set()
            writer.transport.abort()

    async def end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.sleep(0.01)


Start = Callable[..., Awaitable[RawServer]]


@pytest.fixture
async def raw_server() -> AsyncIterator[Start]:
    async with AsyncExitStack() as stack:

        async def start(handler: Handler, *, port: int = 0) -> RawServer:
            server = RawServer(handler)
            listener = await asyncio.start_server(server.run, "127.0.0.1", port)
            await stack.enter_async_context(listener)
            stack.push_async_callback(server.end)
            server.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/"
            return server

        yield start


async def forever(peer: Peer) -> None:
    while True:
        await peer.answer()


async def stuck(peer: Peer) -> None:
    await peer.answer(CHUNKED + b"2\r\nab\r\n")
    await peer.gone()


async def silent(peer: Peer) -> None:
    await peer.request()
    await peer.gone()


async def fetch(client: HTTPClient, server: RawServer, **options: Any) -> bytes:
    response = await client.request("POST", server.url, **{"body": b"x", "max_body": None, **options})
    return await response.read()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(2):
        while not condition():
            await asyncio.sleep(0.005)


# Reuse


async def test_a_connection_is_used_again(raw_server: Start) -> None:
    server = await raw_server(forever)
    async with HTTPClient() as client:
        assert [await fetch(client, server) for _ in range(5)] == [b"ok"] * 5
    assert (server.opened, server.requests) == (1, 5)


async def test_the_connection_used_last_is_used_first(raw_server: Start) -> None:
    ports: list[int] = []

    async def handler(peer: Peer) -> None:
        while True:
            await peer.request()
            ports.append(peer.writer.get_extra_info("peername")[1])
            peer.writer.write(OK)

    server = await raw_server(handler)
    async with HTTPClient() as client:
        await asyncio.gather(*(fetch(client, server) for _ in range(3)))
        for _ in range(4):
            await fetch(client, server)
    assert len(set(ports[:3])) == 3
    assert len(set(ports[3:])) == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok",
        OK + b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil",
        OK + b"garbage",
    ],
    ids=["close", "1.0", "second answer", "garbage"],
)
async def test_a_connection_that_says_too_much_or_will_close_is_not_used_again(
    raw_server: Start, answer: bytes
) -> None:
    async def handler(peer: Peer) -> None:
        await peer.answer(answer)
        await peer.answer()

    server = await raw_server(handler)
    async with HTTPClient() as client:
        assert [await fetch(client, server) for _ in range(2)] == [b"ok"] * 2
    assert server.opened == 2


async def test_bytes_on_an_idle_connection_close_it(raw_server: Start) -> None:
    async def handler(peer: Peer) -> None:
        await peer.answer()
        await asyncio.sleep(0.02)
        peer.writer.write(b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 4\r\n\r\nevil")
        await peer.gone()

    server = await raw_server(handler)
    async with HTTPClient() as client:
        await fetch(client, server)
        await asyncio.wait_for(server.gone.wait(), 2)
        assert await fetch(client, server) == b"ok"
    assert server.opened == 2


async def test_an_answer_before_the_request_is_written_is_not_followed_by_another(raw_server: Start) -> None:
    async def handler(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        peer.writer.write(b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nno")
        await asyncio.sleep(0.1)

    server = await raw_server(handler)
    async with HTTPClient() as client:
        for _ in range(2):
            assert await fetch(client, server, body=b"x" * 20_000_000) == b"no"
    assert server.opened == 2


async def test_idle_connections_expire(raw_server: Start) -> None:
    server = await raw_server(forever)
    async with HTTPClient(HTTPLimits(idle_seconds=0.05)) as client:
        await fetch(client, server)
        assert not server.gone.is_set()
        await asyncio.wait_for(server.gone.wait(), 2)


async def test_no_more_than_the_limit_lie_idle(raw_server: Start) -> None:
    server = await raw_server(forever)
    async with HTTPClient(HTTPLimits(max_idle_per_origin=2)) as client:
        await asyncio.gather(*(fetch(client, server) for _ in range(10)))
        await until(lambda: server.open == 2)
        assert server.opened > 2


async def test_origins_do_not_share_connections(raw_server: Start) -> None:
    servers = [await raw_server(forever), await raw_server(forever)]
    async with HTTPClient() as client:
        for server in servers * 2:
            await fetch(client, server)
    assert [server.opened for server in servers] == [1, 1]


# Stale connections


@pytest.mark.parametrize("how", ["eof", "reset"])
@pytest.mark.parametrize("seen", [True, False], ids=["seen by the loop", "pending in the kernel"])
async def test_a_connection_closed_while_idle_costs_no_error(how: str, *, seen: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(2)
        stale = RawServer(forever)
        stale.url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        async with HTTPClient() as client:
            request = asyncio.ensure_future(fetch(client, stale))
            sock = await asyncio.to_thread(_answer_one, listener)
            assert await request == b"ok"
            if how == "reset":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()
            if seen:
                await asyncio.sleep(0.05)
            request = asyncio.ensure_future(fetch(client, stale))
            (await asyncio.to_thread(_answer_one, listener)).close()
            assert await request == b"ok"


def _answer_one(listener: socket.socket) -> socket.socket:
    """Accept and answer one request; the socket stays open."""
    sock, _ = listener.accept()
    data = b""
    while not data.endswith(b"x"):
        data += sock.recv(65536)
    sock.sendall(OK)
    return sock


async def test_a_request_whose_write_failed_goes_once_more_over_a_fresh_connection(raw_server: Start) -> None:
    async def handler(peer: Peer) -> None:
        await peer.answer()
        await peer.gone()
        peer.server.gone.set()
        await asyncio.sleep(10)  # the server's direction stays open: only a write can tell

    server = await raw_server(handler)
    async with HTTPClient() as client:
        await fetch(client, server)
        with _client_socket(server) as sock:
            sock.shutdown(socket.SHUT_WR)
        await server.gone.wait()
        assert await fetch(client, server) == b"ok"
    assert (server.opened, server.requests) == (2, 2)


def _client_socket(server: RawServer) -> socket.socket:
    """This process's own end of the one connection to the server."""
    port = int(server.url.rpartition(":")[2].strip("/"))
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            sock = socket.socket(fileno=os.dup(int(name)))
            with suppress(OSError, IndexError):  # not connected, or not of the Internet
                if sock.getpeername()[1] == port:
                    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
                    return sock
            sock.close()
    raise AssertionError("no connection")


@pytest.mark.parametrize("how", ["eof", "reset"])
async def test_a_request_that_may_have_been_seen_is_never_sent_again(raw_server: Start, how: str) -> None:
    async def handler(peer: Peer) -> None:
        await peer.answer()
        await peer.request()
        if how == "reset":
            peer.reset()

    server = await raw_server(handler)
    async with HTTPClient() as client:
        await fetch(client, server)
        with pytest.raises(ProviderError) as caught:
            await fetch(client, server)
    assert (caught.value.kind, caught.value.sent) == (ErrorKind.CONNECTION, True)
    assert (server.opened, server.requests) == (1, 2)


# Limits


async def test_the_limit_of_connections_holds_and_all_are_answered(raw_server: Start) -> None:
    server = await raw_server(forever)
    async with HTTPClient(HTTPLimits(max_connections_per_origin=4)) as client:
        answers = await asyncio.gather(*(fetch(client, server) for _ in range(200)))
        assert answers == [b"ok"] * 200
        assert server.peak <= 4
    await until(lambda: server.open == 0)


async def test_the_limit_holds_when_connections_are_not_kept(raw_server: Start) -> None:
    server = await raw_server(lambda peer: peer.answer(b"HTTP/1.0 200 OK\r\n\r\nok"))
    async with HTTPClient(HTTPLimits(max_connections_per_origin=3)) as client:
        answers = await asyncio.gather(*(fetch(client, server) for _ in range(60)))
    assert answers == [b"ok"] * 60
    assert server.opened == 60
    assert server.peak <= 4  # the server sees an end of file a moment after the client has closed


async def test_who_waits_is_served_in_order(raw_server: Start) -> None:
    server = await raw_server(forever)
    order: list[int] = []

    async def one(client: HTTPClient, number: int) -> None:
        await fetch(client, server)
        order.append(number)

    async with HTTPClient(HTTPLimits(max_connections_per_origin=1)) as client:
        await asyncio.gather(*(one(client, number) for number in range(20)))
    assert order == list(range(20))


async def test_waiting_counts_against_the_connect_timeout_and_the_place_in_line_goes(raw_server: Start) -> None:
    server = await raw_server(forever)
    async with HTTPClient(HTTPLimits(max_connections_per_origin=1, max_waiting_per_origin=1)) as client:
        slow = await raw_server(stuck)
        held = await client.request("GET", slow.url, max_body=None)
        for _ in range(2):
            with pytest.raises(ProviderError) as caught:
                await fetch(client, slow, connect_timeout=0.03)
            assert (caught.value.kind, caught.value.sent) == (ErrorKind.TIMEOUT, False)
        await held.aclose()
        assert await fetch(client, server) == b"ok"


async def test_the_line_is_bounded(raw_server: Start) -> None:
    server = await raw_server(stuck)
    async with HTTPClient(HTTPLimits(max_connections_per_origin=1, max_waiting_per_origin=1)) as client:
        held = await client.request("GET", server.url, max_body=None)
        waiting = asyncio.ensure_future(client.request("GET", server.url, max_body=None))
        await asyncio.sleep(0)
        with pytest.raises(ProviderError, match="1 requests wait") as caught:
            await fetch(client, server)
        assert caught.value.sent is False
        await held.aclose()
        assert (await waiting).status == 200


@pytest.mark.parametrize("given", [True, False], ids=["with a connection in hand", "in the line"])
async def test_who_is_cancelled_while_waiting_takes_nothing_along(raw_server: Start, *, given: bool) -> None:
    server = await raw_server(forever)
    async with HTTPClient(HTTPLimits(max_connections_per_origin=1)) as client:
        first = asyncio.ensure_future(fetch(client, server))
        await until(lambda: server.opened == 1)
        second, third = (asyncio.ensure_future(fetch(client, server)) for _ in range(2))
        if given:
            await first
        else:
            await asyncio.sleep(0)
        second.cancel()
        with suppress(asyncio.CancelledError):
            await second
        assert await asyncio.wait_for(third, 2) == b"ok"
        assert await first == b"ok"


async def test_a_failed_connection_frees_its_place(raw_server: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    async with HTTPClient(HTTPLimits(max_connections_per_origin=1)) as client:
        dead = RawServer(forever)
        dead.url = f"http://127.0.0.1:{port}/"
        errors = await asyncio.gather(*(fetch(client, dead) for _ in range(5)), return_exceptions=True)
        assert [getattr(error, "sent", None) for error in errors] == [False] * 5
        server = await raw_server(forever, port=port)
        assert await fetch(client, server) == b"ok"


# Closing


async def test_cancelling_before_the_head_closes_the_socket(raw_server: Start) -> None:
    server = await raw_server(silent)
    async with HTTPClient() as client:
        task = asyncio.ensure_future(fetch(client, server))
        await until(lambda: server.requests == 1)
        task.cancel()
        await asyncio.wait_for(server.gone.wait(), 2)
        with pytest.raises(asyncio.CancelledError):
            await task


@pytest.mark.parametrize("how", ["cancel", "aclose", "drop", "leave"])
async def test_giving_up_in_the_middle_of_a_body_closes_the_socket(raw_server: Start, how: str) -> None:
    server = await raw_server(stuck)
    async with HTTPClient() as client:
        response = await client.request("GET", server.url, max_body=None)
        assert await anext(aiter(response)) == b"ab"
        if how == "cancel":
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(response.read(), 0.02)
            with pytest.raises(ProviderError, match="cancelled"):
                await response.read()
        elif how == "aclose":
            await response.aclose()
        elif how == "drop":
            del response
            gc.collect()
        else:
            await client.__aexit__(None, None, None)
        await asyncio.wait_for(server.gone.wait(), 2)


async def test_an_answer_that_has_arrived_whole_need_not_be_read(raw_server: Start) -> None:
    server = await raw_server(forever)
    async with HTTPClient() as client:
        for _ in range(3):
            response = await client.request("GET", server.url, max_body=None)
            await response.aclose()
    assert server.opened == 1


async def test_leaving_the_client_ends_requests_and_those_who_wait(raw_server: Start) -> None:
    server = await raw_server(silent)
    async with HTTPClient(HTTPLimits(max_connections_per_origin=1)) as client:
        tasks = [asyncio.ensure_future(fetch(client, server)) for _ in range(3)]
        await until(lambda: server.requests == 1)
    errors = await asyncio.gather(*tasks, return_exceptions=True)
    assert [error.sent for error in errors if isinstance(error, ProviderError)] == [True, False, False]
    await until(lambda: server.open == 0)
    with pytest.raises(RuntimeError, match="not open"):
        await fetch(client, server)


async def test_a_body_over_the_limit_of_read_closes_the_socket(raw_server: Start) -> None:
    server = await raw_server(stuck)
    async with HTTPClient() as client:
        response = await client.request("GET", server.url, max_body=None)
        with pytest.raises(ProviderError, match="more than 1 bytes") as caught:
            await response.read(1)
        assert caught.value.kind is ErrorKind.PROTOCOL
        await asyncio.wait_for(server.gone.wait(), 2)


# Back-pressure


async def test_a_consumer_that_does_not_read_stops_the_server(raw_server: Start) -> None:
    written = 0

    async def handler(peer: Peer) -> None:
        nonlocal written
        await peer.request()
        peer.writer.transport.set_write_buffer_limits(0)
        peer.writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 50000000\r\n\r\n")
        for _ in range(500):
            peer.writer.write(b"x" * 100_000)
            await peer.writer.drain()
            written += 100_000
        await peer.gone()

    server = await raw_server(handler)
    async with HTTPClient() as client:
        response = await client.request("GET", server.url, max_body=None)
        before = -1
        while before != written:
            before = written
            await asyncio.sleep(0.05)
        assert written < 20_000_000  # what the kernel's buffers take, and one read
        assert sum([len(piece) async for piece in response]) == 50_000_000
