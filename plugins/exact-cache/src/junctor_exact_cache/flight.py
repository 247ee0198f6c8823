"""One answer on its way, and all who wait for it.

The first client's exchange, the leader, calls the provider. Its events pass through here into a buffer that everybody
reads at their own pace. While the leader is alone it reads the provider itself; as soon as somebody joins, a task of
the flight reads ahead, so that a leader whose client is slow holds up nobody.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from junctor import ErrorKind, ProviderError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from junctor import Exchange, Response

    from junctor_exact_cache.entry import Entry

__all__ = ["Flight", "Seat"]


class Seat:
    """One reader's place in the events. `leave` it once or more often; the leader goes on while one is taken.

    `late` says that it was taken when the answer was complete, `left` that it was given up before that.
    """

    def __init__(self, flight: Flight, exchange: Exchange | None) -> None:
        self.flight = flight
        self.position = 0
        self.behind = False
        self.late = flight.complete
        self.left = False
        self._held = exchange
        if exchange is not None:
            exchange.hold()

    def leave(self) -> None:
        held, self._held = self._held, None
        if held is not None and not self.flight.complete:
            self.left = True
            self.flight.clients -= 1
        self.flight.seats.discard(self)
        self.flight.stir()
        if held is not None:
            held.release()


class Flight:
    """The answer to one key. `limit` is in bytes: how far a reader may fall behind, and what a newcomer can be given.

    `patience` is in seconds: how long the others are kept waiting for a follower that has fallen behind that far.

    `begun` is set when it is known what becomes of it: `response` (whole or streamed), `entry` (another replica had
    it), or `failed`. `clients` counts those who wait for it, or waited until it was complete, the leader included.
    """

    def __init__(self, leader: Exchange, *, limit: int, patience: float = 5.0) -> None:
        self.leader = leader
        self.begun = asyncio.Event()
        self.response: Response | None = None
        self.entry: Entry | None = None
        self.failed = False
        self.complete = False
        self.clients = 1
        self.seats: set[Seat] = set()
        self._limit = limit
        self._patience = patience
        self._chunks: list[bytes] = []
        self._dropped = 0
        self._size = 0
        self._error: Exception | None = None
        self._news = asyncio.Event()
        self._events: AsyncIterator[bytes] | None = None
        self._reading = False
        self._ahead: asyncio.Task[None] | None = None

    # What the leader does.

    def begin(self, response: Response) -> None:
        """The answer begins: from now on it can be followed. `exchange.on_answer` calls this."""
        if self.failed or response.cached is not None or response.status != 200:
            self.fail()
            return
        self.response = response
        if response.stream is None:
            self._land(None)
        else:
            response.stream.share(self._through)
        self.begun.set()

    def resolve(self, entry: Entry) -> None:
        """Another replica has answered meanwhile."""
        self.entry = entry
        self.complete = True
        self.begun.set()

    def fail(self, error: Exception | None = None) -> None:
        """There is no answer, or not all of it. Those who have had nothing of it go on by themselves."""
        if self.complete:
            return
        self.failed = True
        self._error = self._error or error or ProviderError("the answer broke off", kind=ErrorKind.CONNECTION)
        self.begun.set()
        self.stir()

    async def close(self, error: BaseException | None) -> None:
        """The leader's exchange is over."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            ahead.cancel()
            with suppress(asyncio.CancelledError):
                await ahead
        self.fail(error if isinstance(error, ProviderError) else None)

    @property
    def can_be_joined(self) -> bool:
        """Whether somebody who comes now can have the whole of it."""
        return not self.failed and not self._dropped

    @property
    def recorded(self) -> bytes | None:
        """The events of a complete stream, with the one that the leader's client did not ask for; None if not kept."""
        if not self.complete or self._dropped or self.response is None or self.response.stream is None:
            return None
        withheld: bytes = getattr(self.response.stream.reader, "withheld", b"")
        return b"".join([*self._chunks, withheld])

    @property
    def cost(self) -> int | None:
        """What the provider took for the answer, in nano-dollars; None if unknown or not complete."""
        response = self.response
        if response is None or not self.complete:
            return None
        if response.cost is not None:
            return response.cost.total
        usage = response.stream.reader.usage if response.stream is not None else None
        price = response.target.price if response.target is not None else None
        return price.of(usage).total if usage is not None and price is not None else None

    # What followers do.

    def join(self) -> Seat:
        """Take part; the leader now goes on even if its own client hangs up."""
        seat = Seat(self, None if self.complete else self.leader)
        self.clients += not seat.late
        self.seats.add(seat)
        if self._events is not None and not self._reading and not self.complete:
            self._read_ahead()
        return seat

    async def follow(self, seat: Seat) -> AsyncIterator[bytes]:
        """The events from the first to the last, as they come; raises `ProviderError` where they break off."""
        while part := await self._next(seat):
            yield part
        assert self.response is not None
        assert self.response.stream is not None
        reader = self.response.stream.reader
        if withheld := getattr(reader, "withheld", b""):
            yield withheld
        if reader.finish_reason is None:
            yield reader.finish()

    async def landed(self) -> bool:
        """Wait for the whole answer; False if it failed."""
        while not self.complete and not self.failed:
            await self._news.wait()
        return self.complete and not self._dropped

    def stir(self) -> None:
        """Wake everybody who waits for news."""
        self._news.set()
        self._news.clear()

    # The events.

    async def _through(self, events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        self._events = events
        seat = Seat(self, None)
        self.seats.add(seat)
        try:
            while self._ahead is None:
                part = await self._read()
                if part is None:
                    return
                seat.position = self._dropped + len(self._chunks)
                if len(self.seats) > 1:
                    self._read_ahead()
                yield part
            while part := await self._next(seat):
                yield part
        finally:
            seat.leave()

    async def _read(self) -> bytes | None:
        """The next events, by the leader itself."""
        assert self._events is not None
        self._reading = True
        try:
            part = await anext(self._events)
        except StopAsyncIteration:
            self._land(None)
            return None
        except Exception as error:
            self._land(error)
            raise
        finally:
            self._reading = False
        self._append(part)
        return part

    def _read_ahead(self) -> None:
        if self._ahead is None and not self.complete and not self.failed:
            self._ahead = asyncio.create_task(self._all_of_it())

    async def _all_of_it(self) -> None:
        assert self._events is not None
        try:
            async for part in self._events:
                self._append(part)
                if self._size > self._limit:
                    await self._room()
        except Exception as error:  # whatever ended the answer ends it for the leader, who tells it
            self._land(error)
        else:
            self._land(None)

    def _land(self, error: Exception | None) -> None:
        if error is not None:
            self.fail(error)
            return
        self.complete = True
        # All is here: the leader only has to put it away, even if nobody waits for it any more.
        self.leader.hold()
        self.stir()

    def _append(self, part: bytes) -> None:
        self._chunks.append(part)
        self._size += len(part)
        if self._size > self._limit:
            self._trim()
        self.stir()

    def _trim(self) -> None:
        """Forget what everybody has had. From now on nobody can join."""
        read = min((seat.position for seat in self.seats), default=self._dropped + len(self._chunks))
        count = read - self._dropped
        if count > 0:
            self._size -= sum(map(len, self._chunks[:count]))
            del self._chunks[:count]
            self._dropped = read

    async def _room(self) -> None:
        """Wait for the slowest readers; a follower that does not move for long is cut off. The leader never is."""
        while self._size > self._limit:
            self._trim()
            slowest = min((seat.position for seat in self.seats), default=0)
            try:
                async with asyncio.timeout(self._patience):
                    while self._size > self._limit and slowest == min((s.position for s in self.seats), default=-1):
                        await self._news.wait()
            except TimeoutError:
                for seat in [s for s in self.seats if s.position == slowest and s._held is not None]:
                    seat.behind = True
                    self.seats.discard(seat)
                self.stir()

    async def _next(self, seat: Seat) -> bytes:
        """What has come since the seat's last look; empty at the end."""
        while True:
            if seat.behind:
                raise ProviderError("the client reads too slowly for this answer", kind=ErrorKind.INTERNAL)
            start = seat.position - self._dropped
            if start < len(self._chunks):
                seat.position = self._dropped + len(self._chunks)
                part = self._chunks[start] if start == len(self._chunks) - 1 else b"".join(self._chunks[start:])
                if self._ahead is not None and self._size > self._limit:
                    self.stir()
                return part
            if self.complete:
                return b""
            if self._error is not None:
                raise self._error
            await self._news.wait()
