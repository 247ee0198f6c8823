"""A streamed answer on its way: first chunk, whole events, usage, silence, end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, NamedTuple, Protocol, Self

from junctor.errors import ErrorKind, ProviderError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from junctor.exchange import Transform, Usage

__all__ = ["Continuation", "Reader", "Silence", "Stream"]


class Reader(Protocol):
    """Reads a stream in one wire without rebuilding it.

    `feed` takes bytes as they arrive and returns what the client is to get of them: whole events only, without the
    end marker and without what Junctor itself asked for. It raises `ProviderError` when an event is an error. `events`
    counts events, as an estimate of the tokens of an answer that is cut off. `finish` ends the stream: it returns the
    end marker, and raises `ProviderError` if the answer was not complete.
    """

    usage: Usage | None
    finish_reason: str | None
    model: str
    events: int
    done: bool

    def feed(self, data: bytes) -> bytes: ...
    def finish(self) -> bytes: ...


class Continuation(NamedTuple):
    """What a broken stream goes on with: more bytes, the reader they go through, and what releases their connection."""

    source: AsyncIterator[bytes]
    reader: Reader
    close: Callable[[], Awaitable[None]]


class Stream:
    """The answer in pieces. Iterate it once; afterwards `reader` knows usage and finish reason.

    `source` yields the provider's bytes as they arrive; `close` releases its connection, at once if it is not at its
    end. `exhausted` is true when the client was given a clean end.
    `size` counts the bytes that came, before any transform. `recorded` holds the events as they came, before any
    transform and without the end marker, up to the limit that was asked for; None if there were more.
    """

    def __init__(
        self,
        source: AsyncIterator[bytes],
        reader: Reader,
        *,
        close: Callable[[], Awaitable[None]] | None = None,
        silence: float = float("inf"),
    ) -> None:
        self.reader = reader
        self.exhausted = False
        self.size = 0
        self.last = time.monotonic()
        self.sending = False
        self._source = source
        self._close = close
        self._closed: list[Callable[[], None]] = []
        self._rescue: Callable[[ProviderError], Awaitable[Continuation | None]] | None = None
        self._silence = silence
        self._first: bytes | None = None
        self._end = b""
        self._iteration: AsyncGenerator[bytes] | None = None
        self._share: Callable[[AsyncIterator[bytes]], AsyncIterator[bytes]] | None = None
        self._transforms: Sequence[Transform] = ()
        self._limit = 0
        self._kept: list[bytes] | None = None

    @property
    def recorded(self) -> bytes | None:
        return None if self._kept is None else b"".join(self._kept)

    async def prime(self) -> None:
        """Wait for the first whole event. A failure here is still within the attempt."""
        if self._first is not None:
            return
        async for data in self._source:
            events = self.reader.feed(data)
            if events:
                self._first = events
                return
        self.reader.finish()
        self._first = b""

    def prepare(self, transforms: Sequence[Transform], record_limit: int) -> None:
        """Say what is to happen to the events that pass. Before the iteration begins."""
        self._transforms = transforms
        self._limit = record_limit
        self._kept = [] if record_limit else None

    def __aiter__(self) -> AsyncGenerator[bytes]:
        self._iteration = self._events(self._pass, last=True) if self._share is None else self._shared(self._share)
        return self._iteration

    async def _events(self, through: Callable[[bytes], bytes], *, last: bool) -> AsyncGenerator[bytes]:
        """The provider's events to their clean end; `last` says that nothing comes between them and the client."""
        await self.prime()
        if self._first and (out := through(self._first)):
            yield out
        while True:
            try:
                with Silence(self, self._silence) as silence:
                    async for data in self._source:
                        self.last = time.monotonic()
                        events = self.reader.feed(data)
                        if events and (out := through(events)):
                            self.sending = True
                            yield out
                            self.sending = False
                            self.last = time.monotonic()
                            silence.resume()
                self._end = self.reader.finish()
                break
            except ProviderError as error:
                if self.reader.done:  # the answer was whole; only the connection did not end as it should
                    self._end = self.reader.finish()
                    break
                if not await self._continued(error):
                    raise
        if last:
            yield self._ending()

    async def _shared(self, share: Callable[[AsyncIterator[bytes]], AsyncIterator[bytes]]) -> AsyncGenerator[bytes]:
        async for part in share(self._events(self._keep, last=False)):
            if out := self._transformed(part):
                yield out
        yield self._ending()

    def _ending(self) -> bytes:
        tail = b""
        for transform in self._transforms:
            tail = (transform.feed(tail) if tail else b"") + transform.flush()
        self.exhausted = True
        return tail + self._end

    @property
    def shared(self) -> bool:
        """Whether others read it as well, and perhaps faster than the client: `recorded` is what was read."""
        return self._share is not None

    def share(self, through: Callable[[AsyncIterator[bytes]], AsyncIterator[bytes]]) -> None:
        """Have the events pass through this on their way to the client, who is then not their only reader.

        It is given the events as the provider sent them, before any transform, and may read ahead of the client, in a
        task of its own. Before the iteration begins.
        """
        self._share = through

    def on_break(self, rescue: Callable[[ProviderError], Awaitable[Continuation | None]]) -> None:
        """Have this asked, once, when the provider breaks off after the first event; None leaves it at the error.

        What it returns is read in the place of the rest of the answer.
        """
        self._rescue = rescue

    async def _continued(self, error: ProviderError) -> bool:
        rescue, self._rescue = self._rescue, None
        continuation = await rescue(error) if rescue is not None else None
        if continuation is None:
            return False
        close, self._close = self._close, continuation.close
        self._source, self.reader = continuation.source, continuation.reader
        if close is not None:
            await close()
        return True

    def read_ahead(self, source: Callable[[AsyncIterator[bytes]], AsyncIterator[bytes]]) -> None:
        """Put a reader of the provider's bytes between the provider and this stream. Before the first event."""
        self._source = source(self._source)

    def _pass(self, events: bytes) -> bytes:
        return self._transformed(self._keep(events))

    def _keep(self, events: bytes) -> bytes:
        if self._kept is not None:
            self._limit -= len(events)
            if self._limit < 0:
                self._kept = None
            else:
                self._kept.append(events)
        return events

    def _transformed(self, events: bytes) -> bytes:
        self.size += len(events)
        for transform in self._transforms:
            events = transform.feed(events)
        return events

    def on_close(self, callback: Callable[[], None]) -> None:
        """Have this called once, when the stream is closed: at its end, or where it is given up."""
        self._closed.append(callback)

    async def aclose(self) -> None:
        """Release the provider's connection. Idempotent."""
        close, self._close = self._close, None
        closed, self._closed = self._closed, []
        self._share = None
        try:
            if close is not None:
                await close()
            if self._iteration is not None:
                await self._iteration.aclose()
            if isinstance(self._source, AsyncGenerator):
                await self._source.aclose()
        finally:
            for callback in closed:
                callback()


class Silence:
    """Ends a stream whose source has been silent for too long, at the cost of one timer a stream.

    The timer looks when the last data came and sleeps again for the rest, so a chunk costs nothing.
    """

    def __init__(self, stream: Stream, seconds: float) -> None:
        self._stream = stream
        self._seconds = seconds
        self._task: asyncio.Task[object] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._expired = False

    def __enter__(self) -> Self:
        if self._seconds != float("inf"):
            self._task = asyncio.current_task()
            self._stream.last = time.monotonic()
            self._sleep(self._seconds)
        return self

    def resume(self) -> None:
        """The task that reads on is the one to end; it need not be the one that began."""
        self._task = asyncio.current_task()

    def _sleep(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self._look)

    def _look(self) -> None:
        # A client that reads slowly is not a provider that is silent.
        left = self._seconds if self._stream.sending else self._stream.last + self._seconds - time.monotonic()
        if left > 0:
            self._sleep(left)
        elif self._task is not None:
            self._expired = True
            self._task.cancel()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._expired and self._task is not None and kind is asyncio.CancelledError and self._task.uncancel() == 0:
            raise ProviderError(
                f"no data for {self._seconds:g} s in the middle of the stream", kind=ErrorKind.TIMEOUT
            ) from error
