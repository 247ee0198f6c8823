"""The way of litellm's own HTTP clients to the network: over the gateway's client, within a call of this plugin only.

So redirects are not followed, the target's time-outs hold, nothing is sent again, and a call that is given up closes
its connections at once, whatever litellm and the SDKs beneath it do. What a provider says of its failure is read here,
from its own bytes, before litellm makes one of its exceptions of it.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

import httpx
from junctor import ErrorKind, ProviderError
from junctor.openai_events import OpenAIReader

from junctor_litellm.errors import from_status

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from junctor import Timeouts
    from junctor.http import HTTPClient, HTTPResponse

__all__ = ["Guard", "Heard", "Outgoing"]

_MAX_ERROR = 256 * 1024
_MAX_BEGIN = 64 * 1024

# The client's own to set, and hop by hop.
_OURS = frozenset({"host", "content-length", "transfer-encoding", "connection", "upgrade", "accept-encoding"})


class Outgoing:
    """What one call may send: over which client, how long it may wait, and what it has opened.

    litellm runs parts of a call in threads and tasks of its own; they see this through their context.
    """

    def __init__(self, http: HTTPClient, timeouts: Timeouts) -> None:
        self.http = http
        self.timeouts = timeouts
        self.opened: list[HTTPResponse] = []
        self.heard = Heard()

    @contextmanager
    def let_through(self) -> Iterator[None]:
        """Within the block, and what is started in it, the network can be reached."""
        token = _outgoing.set(self)
        try:
            yield
        finally:
            _outgoing.reset(token)

    async def aclose(self) -> None:
        """Close what is still open. Idempotent."""
        opened, self.opened = self.opened, []
        for answer in opened:
            await answer.aclose()


_outgoing: ContextVar[Outgoing | None] = ContextVar("junctor_litellm_outgoing", default=None)


class Guard(httpx.AsyncBaseTransport):
    """Sends with the client of the call that it is used in. One serves the whole process: it holds nothing."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        outgoing = _outgoing.get()
        if outgoing is None:
            message = "litellm wanted to reach the network outside of a call; it may not"
            raise ProviderError(message, kind=ErrorKind.INTERNAL, sent=False)
        headers = [(k.decode("latin-1"), v.decode("latin-1")) for k, v in request.headers.raw]
        answer = await outgoing.http.request(
            request.method,
            str(request.url),
            headers=[(name, value) for name, value in headers if name.lower() not in _OURS],
            body=await request.aread(),
            connect_timeout=outgoing.timeouts.connect,
            read_timeout=outgoing.timeouts.total,
            max_body=None,
        )
        outgoing.opened.append(answer)
        if answer.status >= 300:
            raise from_status(answer.status, answer.headers, await answer.read(_MAX_ERROR))
        streamed = answer.headers.get("content-type", "").startswith("text/event-stream")
        body = _Body(answer, outgoing.heard if streamed else None)
        return httpx.Response(answer.status, headers=list(answer.headers.items()), stream=body)


class Heard:
    """What a stream in OpenAI's wire said itself, by its bytes: litellm makes up an end for one that has none.

    `reader` is None for streams in other wires.
    """

    def __init__(self) -> None:
        self.reader: OpenAIReader | None = None
        self._begin: bytes | None = b""

    def feed(self, piece: bytes) -> None:
        """The next bytes; raises `ProviderError` for an event that is an error."""
        if self.reader is not None:
            self.reader.feed(piece)
        elif self._begin is not None:
            self._begin += piece
            if b'"choices"' in self._begin:
                self.reader = OpenAIReader()
                self.reader.feed(self._begin)
            if self.reader is not None or b"\n\n" in self._begin or len(self._begin) > _MAX_BEGIN:
                self._begin = None


class _Body(httpx.AsyncByteStream):
    def __init__(self, answer: HTTPResponse, heard: Heard | None) -> None:
        self._answer = answer
        self._heard = heard

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for piece in self._answer:
            if self._heard is not None:
                self._heard.feed(piece)
            yield piece

    async def aclose(self) -> None:
        await self._answer.aclose()
