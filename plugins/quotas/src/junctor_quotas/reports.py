"""What is used, held and left, for every scope that was seen: `GET /admin/quotas`, and a stream of the same."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from junctor import BadRequest, NotFound, jsons
from junctor.server import AdminRoute
from junctor.state import StateUnavailable
from starlette.responses import Response, StreamingResponse

from junctor_quotas.memory import ADJUST, INDEX, LIST, READ

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence

    from junctor.state import State
    from starlette.requests import Request
    from starlette.routing import BaseRoute

    from junctor_quotas.answers import Reading
    from junctor_quotas.limits import Claim, Limits
    from junctor_quotas.queue import Queues

__all__ = ["Book", "Reports"]

_INDEX = ["quotas:{index}:seen", "quotas:{index}:tags"]
_FORGET_MS = 35 * 86_400_000
_MOST = 20_000
_BATCH = 200
_EVERY = 1.0


class Book:
    """Reads and changes the counts of any scope, with or without a running gateway. Raises `StateUnavailable`."""

    def __init__(self, state: State, limits: Limits) -> None:
        self._state = state
        self._limits = {limit.name: limit for limit in limits.all}
        self._compiled = limits

    async def rows(self, *, most: int = _MOST) -> list[dict[str, Any]]:
        """All scopes, as the documentation of `GET /admin/quotas` describes them."""
        listed = await self._state.run(LIST, _INDEX, [most])
        now = await self._state.time()
        by_tag: dict[str, list[Claim]] = {}
        for name, tag in zip(listed[::2], listed[1::2], strict=True):
            limit, _, scope = name.decode().partition("|")
            if limit in self._limits:
                claim = self._compiled.at(self._limits[limit], scope, tag.decode(), now)
                by_tag.setdefault(tag.decode(), []).append(claim)
        rows = []
        for tag, claims in by_tag.items():
            for start in range(0, len(claims), _BATCH):
                rows += await self._read(tag, claims[start : start + _BATCH])
        return sorted(rows, key=lambda row: (row["name"], row["scope"]))

    async def _read(self, tag: str, claims: Sequence[Claim]) -> list[dict[str, Any]]:
        arguments: list[Any] = []
        for claim in claims:
            arguments += (claim.row[1], claim.row[2], claim.row[6])
        answer = await self._state.run(READ, [*_base(tag), *(claim.key for claim in claims)], arguments)
        return [
            _row(claim, answer[1 + place * 5 : 6 + place * 5], answer[0] / 1000) for place, claim in enumerate(claims)
        ]

    async def adjust(self, name: str, scope: str, *, limit: int = -1, used: int = -1) -> None:
        """Set another limit for one scope (-2: as configured), or what it has used. Raises `KeyError`."""
        listed = await self._state.run(LIST, _INDEX, [_MOST])
        tags = dict(zip(listed[::2], listed[1::2], strict=True))
        found = self._limits[name]
        tag = tags[f"{name}|{scope}".encode()].decode()
        claim = self._compiled.at(found, scope, tag, await self._state.time())
        arguments = [claim.row[6], limit, used, *claim.settle]
        await self._state.run(ADJUST, [*_base(tag), claim.key], arguments)


def _base(tag: str) -> list[str]:
    return [f"quotas:{{{tag}}}:{name}" for name in ("leases", "records", "epoch", "overrides")]


def _row(claim: Claim, values: Sequence[int], now: float) -> dict[str, Any]:
    used, held, override, last, current = values
    limit = claim.limit
    hard = limit.hard if override < 0 else override
    window = limit.window
    resets = None
    if window is not None:
        resets = claim.until / 1000 if claim.until else now + window.seconds + window.width / 1000
    return {
        "name": limit.name,
        "scope": claim.scope,
        "dimension": limit.dimension,
        "window": window.name if window is not None else None,
        "limit": hard,
        "soft": None if limit.soft is None else round(hard * limit.soft),
        "used": used,
        "reserved": held,
        "remaining": max(0, hard - used - held),
        "resets_at": resets,
        "forecast": _forecast(claim, (hard, hard - used - held), last + current, now),
        "queue": None,
    }


def _forecast(claim: Claim, room: tuple[int, int], recent: int, now: float) -> float | None:
    """When the limit is reached at the rate of the last two parts of the window; None if not within it.

    `room` is the limit in force, and what is left of it.
    """
    window = claim.limit.window
    if window is None or recent <= 0:
        return None
    width = window.width / 1000
    rate = recent / (width + now % width)
    hard, remaining = room
    at = now + max(0, remaining) / rate
    if claim.until:
        return at if at < claim.until / 1000 else None
    return at if rate * window.seconds > hard else None


class Reports:
    """The admin paths, and the list of scopes that this worker has seen since it told last."""

    def __init__(self, state: State, limits: Limits, queues: Queues) -> None:
        self._state = state
        self._queues = queues
        self._book = Book(state, limits)
        self._seen: OrderedDict[str, str] = OrderedDict()
        self._told: OrderedDict[str, float] = OrderedDict()

    def seen(self, readings: Iterable[Reading]) -> None:
        """Note scopes for the list; each is told once an hour."""
        for claim, _ in readings:
            name = claim.row[6]
            if name not in self._told and len(self._seen) < _MOST:
                self._seen[name] = claim.key.partition("{")[2].partition("}")[0]

    async def publish(self) -> None:
        """Tell the store what was seen."""
        now = asyncio.get_running_loop().time()
        while self._told and next(iter(self._told.values())) < now - 3600:
            self._told.popitem(last=False)
        while self._seen:
            batch = list(self._seen.items())[:_BATCH]
            await self._state.run(INDEX, _INDEX, [_FORGET_MS, _MOST, *(part for entry in batch for part in entry)])
            for name, _ in batch:
                self._seen.pop(name, None)
                self._told[name] = now
        while len(self._told) > _MOST:
            self._told.popitem(last=False)

    async def rows(self) -> list[dict[str, Any]]:
        """All scopes, with the requests that wait in this worker."""
        await self.publish()
        rows = await self._book.rows()
        for row in rows:
            row["queue"] = self._queues.length_of(row["name"], row["scope"])
        return rows

    def routes(self) -> list[BaseRoute]:
        return [
            AdminRoute("/admin/quotas", self._show, methods=["GET"]),
            AdminRoute("/admin/quotas", self._change, methods=["POST"]),
            AdminRoute("/admin/quotas/stream", self._stream, methods=["GET"]),
        ]

    async def _show(self, request: Request) -> Response:
        try:
            body = jsons.dumps(await self.rows())
        except StateUnavailable:
            return _away()
        return Response(body, media_type="application/json")

    async def _change(self, request: Request) -> Response:
        try:
            body = jsons.loads(await request.body())
            name, scope = str(body["name"]), str(body.get("scope", "global"))
            limit, used = int(body.get("limit", -1)), int(body.get("used", -1))
            if limit < -2 or used < -1 or (limit, used) == (-1, -1):
                raise ValueError("nothing to change, or less than nothing")
        except (ValueError, KeyError, TypeError, AttributeError):
            raise BadRequest(
                'write {"name": …, "scope": …, "limit": … or "used": …}; a limit of -2 is the configured one'
            ) from None
        try:
            await self._book.adjust(name, scope, limit=limit, used=used)
        except KeyError:
            raise NotFound(f"no limit '{name}' of {scope} was seen") from None
        except StateUnavailable:
            return _away()
        return Response(b'{"ok":true}', media_type="application/json")

    async def _stream(self, request: Request) -> Response:
        return StreamingResponse(self._events(), media_type="text/event-stream", headers={"cache-control": "no-cache"})

    async def _events(self) -> AsyncIterator[bytes]:
        while True:
            try:
                yield b"data: " + jsons.dumps(await self.rows()) + b"\n\n"
            except StateUnavailable:
                yield b": the store does not answer\n\n"
            await asyncio.sleep(_EVERY)


def _away() -> Response:
    body = b'{"error":{"message":"the store does not answer"}}'
    return Response(body, 503, {"retry-after": "1"}, media_type="application/json")
