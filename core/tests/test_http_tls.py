"""TLS: verification, ALPN, the name sent, closing."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import re
import ssl
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from junctor.errors import ErrorKind, ProviderError
from junctor.http import HTTPClient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.anyio

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
BEGUN = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n"


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": request.param}


class TLSServer:
    """Answers every request with `answer`; notes what was negotiated."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.url = ""
        self.requests = 0
        self.alpn: list[str | None] = []
        self.gone = asyncio.Event()

    async def run(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.alpn.append(writer.get_extra_info("ssl_object").selected_alpn_protocol())
        with suppress(OSError, EOFError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"content-length: (\d+)", head)
                await reader.readexactly(int(length[1]) if length else 0)
                self.requests += 1
                writer.write(self.answer)
        self.gone.set()
        writer.transport.abort()


Start = Callable[..., Awaitable[TLSServer]]


@pytest.fixture
async def tls_server() -> AsyncIterator[Start]:
    async with AsyncExitStack() as stack:

        async def start(context: ssl.SSLContext, *, answer: bytes = OK) -> TLSServer:
            server = TLSServer(answer)
            stack.push_async_callback(asyncio.sleep, 0.01)  # so that both ends have seen the end
            listener = await asyncio.start_server(server.run, "127.0.0.1", 0, ssl=context)
            await stack.enter_async_context(listener)
            server.url = f"https://127.0.0.1:{listener.sockets[0].getsockname()[1]}/"
            return server

        yield start


async def fetch(client: HTTPClient, server: TLSServer, body: bytes = b"x") -> bytes:
    response = await client.request("POST", server.url, body=body, max_body=None)
    return await response.read()


class Authority:
    """A certificate authority for one test run."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.certificate = self.sign(self.key, "Test Authority", issuer_key=self.key)

    def sign(
        self, key: ec.EllipticCurvePrivateKey, name: str, *, issuer_key: Any, host: Any = None
    ) -> x509.Certificate:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Test Authority")])
        now = datetime.datetime.now(datetime.UTC)
        day = datetime.timedelta(days=1)
        builder = x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
        builder = builder.not_valid_before(now - day).not_valid_after(now + day)
        builder = builder.add_extension(x509.BasicConstraints(ca=host is None, path_length=None), critical=True)
        if host is not None:
            builder = builder.add_extension(x509.SubjectAlternativeName([host]), critical=False)
        return builder.sign(issuer_key, hashes.SHA256())

    def server(self, folder: Path, host: Any) -> ssl.SSLContext:
        key = ec.generate_private_key(ec.SECP256R1())
        pem = serialization.Encoding.PEM
        text = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        text += self.sign(key, "server", issuer_key=self.key, host=host).public_bytes(pem)
        (folder / "server.pem").write_bytes(text)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "server.pem")
        context.set_alpn_protocols(["h2", "http/1.1"])
        return context

    def client(self) -> ssl.SSLContext:
        text = self.certificate.public_bytes(serialization.Encoding.PEM).decode()
        return ssl.create_default_context(cadata=text)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


LOOPBACK = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))


async def test_tls_is_verified_and_speaks_http_1_1(tls_server: Start, authority: Authority, tmp_path: Path) -> None:
    server = await tls_server(authority.server(tmp_path, LOOPBACK))
    async with HTTPClient(ssl_context=authority.client()) as client:
        assert [await fetch(client, server, b"x" * 300_000) for _ in range(5)] == [b"ok"] * 5
    assert server.alpn == ["http/1.1"]  # one connection, though the server would rather have spoken h2


async def test_tls_sends_the_name_of_the_host(tls_server: Start, authority: Authority, tmp_path: Path) -> None:
    names: list[str | None] = []
    context = authority.server(tmp_path, x509.DNSName("localhost"))
    context.sni_callback = lambda _socket, name, _context: names.append(name)
    server = await tls_server(context)
    server.url = server.url.replace("127.0.0.1", "localhost")
    async with HTTPClient(ssl_context=authority.client()) as client:
        assert await fetch(client, server) == b"ok"
    assert names == ["localhost"]


@pytest.mark.parametrize("trusted", [True, False], ids=["another host", "another authority"])
async def test_a_certificate_that_does_not_fit_is_refused(
    tls_server: Start, authority: Authority, tmp_path: Path, *, trusted: bool
) -> None:
    host = x509.DNSName("example.org") if trusted else LOOPBACK
    server = await tls_server(authority.server(tmp_path, host))
    async with HTTPClient(ssl_context=authority.client() if trusted else None) as client:
        with pytest.raises(ProviderError, match="TLS failed") as caught:
            await fetch(client, server)
    assert (caught.value.kind, caught.value.sent, server.requests) == (ErrorKind.CONNECTION, False, 0)


async def test_giving_up_closes_a_tls_socket_at_once(tls_server: Start, authority: Authority, tmp_path: Path) -> None:
    server = await tls_server(authority.server(tmp_path, LOOPBACK), answer=BEGUN)
    async with HTTPClient(ssl_context=authority.client()) as client:
        response = await client.request("GET", server.url, max_body=None)
        await response.aclose()
        await asyncio.wait_for(server.gone.wait(), 2)


async def test_a_handshake_that_hangs_is_given_up_and_its_socket_closed() -> None:
    gone = asyncio.Event()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            await reader.read()
        gone.set()
        writer.transport.abort()

    server = await asyncio.start_server(handler, "127.0.0.1", 0)
    async with server, HTTPClient() as client:
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        with pytest.raises(ProviderError) as caught:
            await client.request("GET", url, connect_timeout=0.1, max_body=None)
        await asyncio.wait_for(gone.wait(), 2)
    assert (caught.value.kind, caught.value.sent) == (ErrorKind.TIMEOUT, False)
