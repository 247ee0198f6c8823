"""The way of litellm's own HTTP clients to the network: over the gateway's client, within a call of this plugin only.

So redirects are not followed, the target's time-outs hold, nothing is sent again, and a call that is given up closes
its connections at once, whatever litellm and the SDKs beneath it do.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

import httpx
from junctor import ErrorKind, ProviderError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from junctor import Timeouts
    from junctor.http import HTTPClient, HTTPResponse

__all__ = ["Guard", "Outgoing"]

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
        return httpx.Response(answer.status, headers=list(answer.headers.items()), stream=_Body(answer))


class _Body(httpx.AsyncByteStream):
    def __init__(self, answer: HTTPResponse) -> None:
        self._answer = answer

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for piece in self._answer:
            yield piece

    async def aclose(self) -> None:
        await self._answer.aclose()
