"""What the operator may see over HTTP: costs, the last exchanges with their stories, and those that end now."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import datetime
from typing import TYPE_CHECKING, Any

import orjson
from junctor.errors import BadRequest, GatewayError
from junctor.server import AdminRoute
from starlette.responses import JSONResponse, Response, StreamingResponse

from junctor_logging.record import from_line

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

    from sqlalchemy import URL, Connection
    from starlette.requests import Request

    from junctor_logging.costs import Question
    from junctor_logging.recent import Recent, Watcher

__all__ = ["Admin"]

_FILTERS = ("id", "record", "parent", "team", "project", "feature", "model", "target", "provider", "outcome", "purpose")
_IN_LEDGER = ("id", "record", "team", "model", "outcome", "purpose")
_MOST = 1000
_WATCHERS = 32
_WATCHER_QUEUE = 500
_HEARTBEAT = 10.0


class Admin:
    """The paths below `/admin`. Reads the ledger in a thread, on connections of its own, two at a time."""

    def __init__(self, recent: Recent, ledger: URL | None, stopping: Callable[[], bool]) -> None:
        self._recent = recent
        self._ledger = ledger
        self._stopping = stopping
        self._reading = asyncio.Semaphore(2)

    def routes(self) -> Sequence[AdminRoute]:
        return [
            AdminRoute("/admin/costs", self.costs, methods=["GET"]),
            AdminRoute("/admin/exchanges", self.exchanges, methods=["GET"]),
            AdminRoute("/admin/exchanges/stream", self.stream, methods=["GET"]),
        ]

    async def costs(self, request: Request) -> Response:
        """`by`, `since`, `until`, `format`, and any attribute to be equal to: `team=search`."""
        from junctor_logging.commands import as_csv
        from junctor_logging.costs import Question, parse_time

        given = dict(request.query_params)
        by = [name.strip() for name in given.pop("by", "team").split(",") if name.strip()]
        form = given.pop("format", "json")
        try:
            since, until = parse_time(given.pop("since", "30d")), given.pop("until", "")
            question = Question(by, since, parse_time(until) if until else 1 << 62, given, limit=10_000)
        except ValueError as error:
            raise BadRequest(str(error)) from None
        found = await self.report(question)
        if form == "csv":
            return Response(as_csv(found) + "\n", media_type="text/csv")
        return JSONResponse(found)

    async def report(self, question: Question) -> dict[str, Any]:
        """What the ledger says of costs; raises `GatewayError` if there is none, or it cannot be read now."""
        from junctor_logging.costs import report

        found: dict[str, Any] = await self._read(lambda connection: report(connection, question))
        return found

    async def exchanges(self, request: Request) -> Response:
        """The newest first: `limit`, `before` (a `record`), and attributes; `content=true` with one `record`."""
        given = dict(request.query_params)
        limit = _integer(given.pop("limit", "50"), "limit", _MOST)
        before = given.pop("before", "")
        with_content = given.pop("content", "") == "true"
        where = {name: value for name, value in given.items() if name in _FILTERS}
        if unknown := set(given) - set(where):
            raise BadRequest(f"'{min(unknown)}' is not known; there is {', '.join(_FILTERS)}, limit, before, content")
        stories = await self.find(limit, where, before=before)
        if with_content and len(stories) == 1:
            stories[0] = stories[0] | {"content": await self._content_of(stories[0]["record"])}
        answer = orjson.dumps({"exchanges": stories}, default=str, option=orjson.OPT_UTC_Z)
        return Response(answer, media_type="application/json")

    async def find(self, limit: int, where: Mapping[str, str], *, before: str = "") -> list[dict[str, Any]]:
        """Records as plain values, the newest first: those in memory, then those that only the ledger has."""
        found = {one.key: one.data for one in self._recent.find(limit, where, before=before)}
        if len(found) < limit and self._ledger is not None and set(where) <= set(_IN_LEDGER):
            with contextlib.suppress(GatewayError):  # a database that is down does not hide what is in memory
                for record, story in await self._read(lambda c: _stories(c, where, before, limit)):
                    found.setdefault(record, from_line(story).data)
        stories = sorted(found.values(), key=lambda story: (_instant(story["time"]), story["record"]), reverse=True)
        return stories[:limit]

    async def _content_of(self, record: str) -> Any:
        return await self._read(lambda connection: _content(connection, record))

    async def stream(self, request: Request) -> Response:
        """Server-sent events: `exchange` for every record, `missed` where the reader was too slow."""
        if self._recent.watching >= _WATCHERS:
            raise GatewayError("too many are watching already", status_code=503, code="too_many", retry_after=5)
        return StreamingResponse(self._events(), media_type="text/event-stream", headers={"cache-control": "no-cache"})

    async def _events(self) -> AsyncIterator[bytes]:
        watcher = self._recent.watch(_WATCHER_QUEUE)
        try:
            yield b": watching\n\n"
            quiet = 0.0
            while not self._stopping():
                try:
                    event = await asyncio.wait_for(_next(watcher), 1.0)
                except TimeoutError:
                    quiet += 1.0
                    if quiet < _HEARTBEAT:
                        continue
                    event = b": still here\n\n"
                quiet = 0.0
                yield event
        finally:
            self._recent.leave(watcher)

    async def _read(self, question: Callable[[Connection], Any]) -> Any:
        from sqlalchemy.exc import DBAPIError

        from junctor_logging.database import connect

        ledger = self._ledger
        if ledger is None:
            raise GatewayError("there is no ledger; add `ledger` to the sinks", status_code=404, code="no_ledger")

        def ask() -> Any:
            engine = connect(ledger)
            try:
                with engine.connect() as connection:
                    return question(connection)
            finally:
                engine.dispose()

        async with self._reading:
            try:
                return await asyncio.to_thread(ask)
            except (DBAPIError, OSError):
                raise GatewayError(
                    "the ledger cannot be read now", status_code=503, code="ledger_unavailable"
                ) from None


async def _next(watcher: Watcher) -> bytes:
    line = await watcher.queue.get()
    missed, watcher.missed = watcher.missed, 0
    head = b"event: missed\ndata: %d\n\n" % missed if missed else b""
    return head + b"event: exchange\ndata: " + line + b"\n\n"


def _instant(time: datetime | str) -> datetime:
    return time if isinstance(time, datetime) else datetime.fromisoformat(time)


def _stories(connection: Connection, where: Mapping[str, str], before: str, limit: int) -> list[tuple[str, bytes]]:
    from sqlalchemy import and_, or_, select

    from junctor_logging.tables import exchanges

    c = exchanges.c
    statement = select(c.record, c.story).where(*(c[name] == value for name, value in where.items()))
    if before:
        at = connection.execute(select(c.time).where(c.record == before)).scalar()
        if at is None:
            return []
        statement = statement.where(or_(c.time < at, and_(c.time == at, c.record < before)))
    rows = connection.execute(statement.order_by(c.time.desc(), c.record.desc()).limit(limit))
    return [(record, story.encode()) for record, story in rows]


def _content(connection: Connection, record: str) -> Any:
    from sqlalchemy import select

    from junctor_logging.tables import contents

    text = connection.execute(select(contents.c.content).where(contents.c.record == record)).scalar()
    return None if text is None else orjson.loads(text)


def _integer(text: str, name: str, most: int) -> int:
    if not text.isdigit() or not 1 <= int(text) <= most:
        raise BadRequest(f"'{name}' must be a number from 1 to {most}", param=name)
    return int(text)
