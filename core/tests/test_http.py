"""Requests and answers over real sockets, on both event loops; pooling and TLS have files of their own."""

from __future__ import annotations

import asyncio
import gzip
import re
import zlib
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from junctor.errors import ErrorKind, ProviderError
from junctor.http import HTTPClient, HTTPLimits, HTTPResponse

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.anyio

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
RawServer = Callable[..., Awaitable[str]]
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": request.param}


@pytest.fixture
async def raw_server() -> AsyncIterator[RawServer]:
    """Start a server for a handler of (reader, writer); the result is its URL."""
    async with AsyncExitStack() as stack:

        async def start(handler: Handler, host: str = "127.0.0.1") -> str:
            return await stack.enter_async_context(_served(handler, host))

        yield start


@asynccontextmanager
async def _served(handler: Handler, host: str) -> AsyncIterator[str]:
    tasks: set[asyncio.Task[None]] = set()

    async def run(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())  # type: ignore[arg-type]  # a stream's callback is a task
        try:
            await handler(reader, writer)
        except (OSError, EOFError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(run, host, 0)
    async with server:
        bracketed = f"[{host}]" if ":" in host else host
        yield f"http://{bracketed}:{server.sockets[0].getsockname()[1]}"
        for task in tasks:
            task.cancel()
        await asyncio.sleep(0.01)


async def read_request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head)
    return head + (await reader.readexactly(int(length[1])) if length else b"")


def answering(*answers: bytes, seen: list[bytes] | None = None, close: bool = False) -> Handler:
    """A handler that answers the requests of every connection with these bytes, in turn."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            request = await read_request(reader)
            if seen is not None:
                seen.append(request)
            writer.write(answer)
            await writer.drain()
        if close:
            writer.close()
        await reader.read()

    return handler


async def fetch(url: str, *, limits: HTTPLimits | None = None, **options: Any) -> tuple[HTTPResponse, bytes]:
    async with HTTPClient(limits) as client:
        response = await client.request(options.pop("method", "GET"), url, **{"max_body": None, **options})
        return response, await response.read()


async def failure(url: str, **options: Any) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        await fetch(url, **options)
    return caught.value


# What is sent


async def test_a_request_is_one_head_with_host_and_length(raw_server: RawServer) -> None:
    seen: list[bytes] = []
    url = await raw_server(answering(OK, seen=seen))
    await fetch(url + "/v1/x?a=b#part", method="POST", headers=[("x-a", "1"), ("x-b", "caf\xe9")], body=b"body")
    host = url.removeprefix("http://").encode()
    assert seen == [
        b"POST /v1/x?a=b HTTP/1.1\r\nhost: " + host + b"\r\nx-a: 1\r\nx-b: caf\xe9\r\ncontent-length: 4\r\n\r\nbody"
    ]


async def test_head_and_body_go_out_in_one_segment(raw_server: RawServer) -> None:
    first: list[bytes] = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first.append(await reader.read(65536))
        writer.write(OK)

    await fetch(await raw_server(handler), method="POST", body=b"x" * 1000)
    assert first[0].endswith(b"x" * 1000)


async def test_a_post_without_a_body_says_so_and_a_get_does_not(raw_server: RawServer) -> None:
    seen: list[bytes] = []
    url = await raw_server(answering(OK, seen=seen))
    await fetch(url, method="POST")
    await fetch(url)
    assert b"content-length: 0\r\n" in seen[0]
    assert b"content-length" not in seen[1]
    assert seen[1].startswith(b"GET / HTTP/1.1\r\n")


async def test_the_same_tuple_of_headers_can_be_sent_again_with_another_body(raw_server: RawServer) -> None:
    seen: list[bytes] = []
    url = await raw_server(answering(OK, OK, seen=seen))
    headers = (("authorization", "Bearer one"),)
    async with HTTPClient() as client:
        for body in (b"first", b"second one"):
            await (await client.request("POST", url, headers=headers, body=body, max_body=None)).read()
    assert [request.rpartition(b"\r\n\r\n")[2] for request in seen] == [b"first", b"second one"]
    assert all(b"authorization: Bearer one\r\n" in request for request in seen)


@pytest.mark.parametrize("value", ["a\r\nx-evil: 1", "a\nb", "a\rb", "a\0b", "\u20ac"])
async def test_a_header_cannot_smuggle_another_and_its_value_is_not_repeated(value: str) -> None:
    with pytest.raises(ValueError, match="'x-a'") as caught:
        await fetch("http://127.0.0.1:1", headers=[("x-a", value)])
    assert value not in str(caught.value)


@pytest.mark.parametrize("name", ["a b", "", "a:", "a\r\nb", "Host", "content-length", "Transfer-Encoding"])
async def test_a_header_name_must_be_a_token_and_not_one_of_the_clients_own(name: str) -> None:
    with pytest.raises(ValueError, match="header"):
        await fetch("http://127.0.0.1:1", headers=[(name, "1")])


@pytest.mark.parametrize(
    "url", ["ftp://h/", "h/x", "http:///x", "http://u:secret@h/", "http://h/a b", "http://h/a\r\nb", "http://h:99999/"]
)
async def test_a_url_that_is_not_one_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ValueError) as caught:
        await fetch(url)
    assert "secret" not in str(caught.value)


async def test_a_method_must_be_a_token() -> None:
    with pytest.raises(ValueError, match="method"):
        await fetch("http://127.0.0.1:1", method="GET / HTTP/1.1\r\nx:")


async def test_a_client_that_is_not_open_sends_nothing() -> None:
    client = HTTPClient()
    with pytest.raises(RuntimeError, match="not open"):
        await client.request("GET", "http://127.0.0.1:1", max_body=None)


async def test_proxies_of_the_environment_are_not_used(raw_server: RawServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert (await fetch(await raw_server(answering(OK))))[1] == b"ok"


async def test_an_ipv6_host_is_bracketed(raw_server: RawServer) -> None:
    seen: list[bytes] = []
    try:
        url = await raw_server(answering(OK, seen=seen), "::1")
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    assert (await fetch(url))[1] == b"ok"
    assert f"host: {url.removeprefix('http://')}\r\n".encode() in seen[0]


# What comes back


async def test_headers_are_lower_case_and_repeated_ones_joined(raw_server: RawServer) -> None:
    answer = (
        b"HTTP/1.1 201 Created\r\nX-A: 1\r\nSet-Cookie: a\r\nset-cookie: b\r\nX-Empty:\r\nContent-Length: 0\r\n\r\n"
    )
    response, body = await fetch(await raw_server(answering(answer)))
    assert (response.status, body) == (201, b"")
    assert response.headers == {"x-a": "1", "set-cookie": "a, b", "x-empty": "", "content-length": "0"}


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\nhello world",
        CHUNKED + b"5;ext=1\r\nhello\r\n6\r\n world\r\n0\r\nx-trailer: 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nhello world",
        b"HTTP/1.0 200 OK\r\n\r\nhello world",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nhello world",
    ],
    ids=["length", "chunked", "close", "http/1.0", "1xx"],
)
@pytest.mark.parametrize("step", [1, 1_000_000], ids=["byte by byte", "at once"])
async def test_every_framing_of_a_body_is_understood(raw_server: RawServer, answer: bytes, step: int) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        for start in range(0, len(answer), step):
            writer.write(answer[start : start + step])
            await asyncio.sleep(0)
        if b"length" not in answer.lower() and b"chunked" not in answer:
            writer.close()
        await reader.read()

    response, body = await fetch(await raw_server(handler))
    assert (response.status, body) == (200, b"hello world")
    assert "link" not in response.headers
    assert "x-trailer" not in response.headers


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        ("HEAD", b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n"),
        ("HEAD", CHUNKED),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", b"HTTP/1.1 304 Not Modified\r\ncontent-length: 500\r\n\r\n"),
    ],
)
async def test_answers_without_a_body_end_at_their_head(raw_server: RawServer, method: str, answer: bytes) -> None:
    url = await raw_server(answering(answer, OK))
    async with HTTPClient() as client:
        assert await (await client.request(method, url, max_body=10)).read() == b""
        assert await (await client.request("GET", url, max_body=10)).read() == b"ok"


async def test_a_redirect_is_an_answer_like_any_other(raw_server: RawServer) -> None:
    answer = b"HTTP/1.1 307 Temporary Redirect\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n"
    response, _ = await fetch(await raw_server(answering(answer)))
    assert (response.status, response.headers["location"]) == (307, "http://127.0.0.1:1/")


async def test_pieces_come_as_they_arrive(raw_server: RawServer) -> None:
    read = asyncio.Event()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(CHUNKED)
        for piece in (b"3\r\none\r\n", b"3\r\ntwo\r\n3\r\n+++\r\n", b"0\r\n\r\n"):
            writer.write(piece)
            await read.wait()
            read.clear()

    url = await raw_server(handler)
    pieces = []
    async with HTTPClient() as client:
        async for piece in await client.request("GET", url, max_body=None):
            pieces.append(piece)
            read.set()
    assert pieces == [b"one", b"two+++"]


async def test_the_head_is_there_before_the_body(raw_server: RawServer) -> None:
    go = asyncio.Event()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(OK[:-2])
        await go.wait()
        writer.write(b"ok")
        await reader.read()

    url = await raw_server(handler)
    async with HTTPClient() as client:
        response = await client.request("GET", url, max_body=None)
        assert response.status == 200
        go.set()
        assert await response.read() == b"ok"
        assert await response.read() == b""


async def test_a_closed_response_cannot_be_mistaken_for_an_empty_one(raw_server: RawServer) -> None:
    url = await raw_server(answering(OK[:-1]))
    async with HTTPClient() as client:
        response = await client.request("GET", url, max_body=None)
        await response.aclose()
        await response.aclose()
        with pytest.raises(RuntimeError, match="closed"):
            await response.read()


# What goes wrong


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 200 OK\r\nbad header\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\nab",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-encoding: br\r\ncontent-length: 2\r\n\r\nab",
        CHUNKED + b"zz\r\nab\r\n",
        CHUNKED + b"2\r\nabcd\r\n",
        CHUNKED + b"ffffffffffffffffff\r\nab",
    ],
)
async def test_what_is_not_http_is_a_protocol_error(raw_server: RawServer, answer: bytes) -> None:
    url = await raw_server(answering(answer))
    error = await failure(url + "/path?key=secret")
    assert (error.kind, error.sent) == (ErrorKind.PROTOCOL, True)
    assert url.removeprefix("http://") in error.message
    assert "secret" not in error.message


@pytest.mark.parametrize("answer", [OK[:-1], OK[:20], CHUNKED + b"2\r\nab\r\n", CHUNKED + b"2\r\na"])
async def test_an_answer_that_breaks_off_is_a_protocol_error(raw_server: RawServer, answer: bytes) -> None:
    error = await failure(await raw_server(answering(answer, close=True)))
    assert (error.kind, error.sent) == (ErrorKind.PROTOCOL, True)


async def test_what_arrived_before_a_break_is_delivered_first(raw_server: RawServer) -> None:
    url = await raw_server(answering(CHUNKED + b"2\r\nab\r\n", close=True))
    pieces = []
    async with HTTPClient() as client:
        response = await client.request("GET", url, max_body=None)
        for _ in range(2):
            with pytest.raises(ProviderError, match="before the end of the body"):
                async for piece in response:
                    pieces.append(piece)
    assert pieces == [b"ab"]


async def test_a_peer_that_hangs_up_without_an_answer_may_have_seen_the_request(raw_server: RawServer) -> None:
    error = await failure(await raw_server(answering(b"", close=True)))
    assert (error.kind, error.sent) == (ErrorKind.CONNECTION, True)
    assert error.provider_status is None


async def test_a_refused_connection_was_not_sent() -> None:
    error = await failure("http://127.0.0.1:1/x?key=secret")
    assert (error.kind, error.sent) == (ErrorKind.CONNECTION, False)
    assert error.message.startswith("127.0.0.1:1: cannot connect")
    assert "secret" not in error.message


@pytest.mark.parametrize("host", ["does-not-exist.invalid", "a" * 70, "a..b"])
async def test_a_name_that_does_not_resolve_was_not_sent(host: str) -> None:
    error = await failure(f"http://{host}/")
    assert (error.kind, error.sent) == (ErrorKind.CONNECTION, False)


@pytest.mark.parametrize("answer", [b"", OK[:20], OK[:-1], CHUNKED + b"2\r\nab\r\n"])
async def test_silence_is_a_timeout_wherever_it_falls(raw_server: RawServer, answer: bytes) -> None:
    error = await failure(await raw_server(answering(answer)), read_timeout=0.05)
    assert (error.kind, error.sent, error.status_code) == (ErrorKind.TIMEOUT, True, 504)


async def test_a_shorter_timeout_applies_after_a_longer_one(raw_server: RawServer) -> None:
    url = await raw_server(answering(OK, b""))
    async with HTTPClient() as client:
        await (await client.request("GET", url, max_body=None)).read()
        with pytest.raises(ProviderError, match=r"no data for 0\.05 s"):
            await client.request("GET", url, read_timeout=0.05, max_body=None)


async def test_a_slow_but_steady_answer_is_no_timeout(raw_server: RawServer) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(CHUNKED)
        for _ in range(8):
            writer.write(b"1\r\nx\r\n")
            await asyncio.sleep(0.03)
        writer.write(b"0\r\n\r\n")
        await reader.read()

    assert (await fetch(await raw_server(handler), read_timeout=0.15))[1] == b"x" * 8


# What is too much


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nx: " + b"a" * 5000,
        b"HTTP/1.1 200 OK\r\n" + b"x-a: b\r\n" * 600 + b"content-length: 2\r\n\r\nok",
        b"HTTP/1.1 103 E\r\n\r\n" * 300,
        CHUNKED + b"1\r\na\r\n0\r\n" + b"x-a: b\r\n" * 100_000,
        CHUNKED + b"1;" + b"e" * 20000,
    ],
    ids=["unfinished", "whole", "1xx", "trailers", "extension"],
)
async def test_headers_are_bounded(raw_server: RawServer, answer: bytes) -> None:
    limits = HTTPLimits(max_header_bytes=4096, max_buffer=1024)
    error = await failure(await raw_server(answering(answer)), limits=limits, read_timeout=2)
    assert error.kind is ErrorKind.PROTOCOL
    assert "4096 bytes of headers" in error.message


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\nhello world",
        b"HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\n",
        CHUNKED + b"b\r\nhello world\r\n",
        b"HTTP/1.0 200 OK\r\n\r\nhello world",
    ],
)
async def test_a_body_over_max_body_is_a_protocol_error(raw_server: RawServer, answer: bytes) -> None:
    error = await failure(await raw_server(answering(answer)), max_body=10)
    assert error.kind is ErrorKind.PROTOCOL
    assert "more than 10 bytes" in error.message


# Compressed bodies


def compressed(name: str, data: bytes) -> bytes:
    if name == "raw":
        packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        return packer.compress(data) + packer.flush()
    return gzip.compress(data) if name == "gzip" else zlib.compress(data)


def packed(name: str, body: bytes) -> bytes:
    encoding = b"gzip" if name == "gzip" else b"deflate"
    return b"HTTP/1.1 200 OK\r\ncontent-encoding: %b\r\ncontent-length: %d\r\n\r\n%b" % (encoding, len(body), body)


@pytest.mark.parametrize("name", ["gzip", "zlib", "raw"])
@pytest.mark.parametrize("size", [0, 1, 64 * 1024, 1_000_003])
async def test_a_compressed_body_is_unpacked_and_its_headers_go(raw_server: RawServer, name: str, size: int) -> None:
    data = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    response, body = await fetch(await raw_server(answering(packed(name, compressed(name, data)))))
    assert body == data
    assert response.headers == {}


async def test_compressed_pieces_come_as_they_arrive_and_members_follow_each_other(raw_server: RawServer) -> None:
    packer = zlib.compressobj(wbits=zlib.MAX_WBITS | 16)
    parts = [packer.compress(b"one") + packer.flush(zlib.Z_SYNC_FLUSH), packer.flush() + gzip.compress(b"two")]
    read = asyncio.Event()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.0 200 OK\r\ncontent-encoding: GZIP\r\n\r\n" + parts[0])
        await read.wait()
        writer.write(parts[1])
        writer.close()

    url = await raw_server(handler)
    pieces = []
    async with HTTPClient() as client:
        async for piece in await client.request("GET", url, max_body=None):
            pieces.append(piece)
            read.set()
    assert pieces == [b"one", b"two"]


@pytest.mark.parametrize(
    "spoil", [lambda b: b[:-3], lambda b: b[:-6] + b"\0" * 6, lambda b: b + b"x", lambda b: b"xx" + b]
)
@pytest.mark.parametrize("name", ["gzip", "zlib"])
async def test_a_broken_compressed_body_is_a_protocol_error(
    raw_server: RawServer, spoil: Callable[[bytes], bytes], name: str
) -> None:
    error = await failure(await raw_server(answering(packed(name, spoil(compressed(name, b"hello" * 100))))))
    assert error.kind is ErrorKind.PROTOCOL
    assert "broken" in error.message


async def test_a_bomb_is_defused(raw_server: RawServer) -> None:
    bomb = packed("gzip", gzip.compress(b"\0" * 50_000_000))
    url = await raw_server(answering(bomb))
    assert "more than 100000 bytes" in (await failure(url, max_body=100_000)).message
    sizes: list[int] = []
    async with HTTPClient() as client:
        sizes.extend([len(piece) async for piece in await client.request("GET", url, max_body=None)])
    assert sum(sizes) == 50_000_000
    assert max(sizes) <= 64 * 1024
