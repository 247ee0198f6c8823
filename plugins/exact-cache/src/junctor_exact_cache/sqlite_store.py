"""Entries in a SQLite file: survives restarts, shared by the processes of one machine.

Three threads of its own, each with one connection: look-ups never wait for writes (WAL), and a purge holds up neither.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from junctor_exact_cache.entry import Stats, decode, encode
from junctor_exact_cache.stores import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable

    from junctor_exact_cache.entry import Entry, Filter

__all__ = ["SQLiteStore"]

_T = TypeVar("_T")
_BATCH = 1000
_MAX_WAITING = 256
# How stale an entry's last use may be before a hit is worth a write; seconds.
_USED_STEP = 60.0
_SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (
    number INTEGER PRIMARY KEY, id BLOB NOT NULL UNIQUE, used REAL NOT NULL, expires REAL NOT NULL,
    created REAL NOT NULL, size INTEGER NOT NULL, team TEXT NOT NULL, model TEXT NOT NULL, target TEXT NOT NULL,
    version TEXT NOT NULL, template TEXT NOT NULL, tags TEXT NOT NULL, head BLOB NOT NULL, answer BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS entries_used ON entries (used);
CREATE INDEX IF NOT EXISTS entries_expires ON entries (expires);
CREATE TABLE IF NOT EXISTS totals (one INTEGER PRIMARY KEY CHECK (one = 1), entries INTEGER, bytes INTEGER);
INSERT OR IGNORE INTO totals VALUES (1, 0, 0);
CREATE TRIGGER IF NOT EXISTS entries_added AFTER INSERT ON entries BEGIN
    UPDATE totals SET entries = entries + 1, bytes = bytes + NEW.size; END;
CREATE TRIGGER IF NOT EXISTS entries_removed AFTER DELETE ON entries BEGIN
    UPDATE totals SET entries = entries - 1, bytes = bytes - OLD.size; END;
PRAGMA user_version = 1;
"""
_INSERT = "INSERT INTO entries VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"


class _Worker:
    """One thread and its connection, opened with the first call, and again after it could not be."""

    def __init__(self, path: str, *, page_cache: int, timeout: float) -> None:
        self._path = path
        self._page_cache = page_cache
        self._timeout = timeout
        self._connection: sqlite3.Connection | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="junctor-exact-cache")
        self.waiting = 0

    async def run(self, function: Callable[..., _T], *arguments: Any) -> _T:
        """Call the function with the connection, in the thread; raises `StoreError`."""
        if self.waiting >= _MAX_WAITING:
            raise StoreError("too many calls wait for the SQLite file")
        self.waiting += 1
        try:
            future = asyncio.get_running_loop().run_in_executor(self._thread, self._call, function, arguments)
        except RuntimeError as error:
            self.waiting -= 1
            raise StoreError("the SQLite file is closed") from error
        # Counted until the thread is done with it, also if nobody waits any more.
        future.add_done_callback(self._done)
        return await future

    def _done(self, future: asyncio.Future[Any]) -> None:
        self.waiting -= 1

    def _call(self, function: Callable[..., _T], arguments: tuple[Any, ...]) -> _T:
        try:
            if self._connection is None:
                self._connection = self._open()
            return function(self._connection, *arguments)
        except (sqlite3.Error, OSError) as error:
            raise StoreError(f"SQLite failed: {error}") from error

    def _open(self) -> sqlite3.Connection:
        Path(self._path).parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self._path, timeout=self._timeout, isolation_level=None)
        try:
            # A lost entry is a miss: a crash of the machine may cost the last few, an fsync a commit would cost all.
            connection.executescript(
                "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA journal_size_limit = 67108864;"
                f"PRAGMA cache_size = -{self._page_cache // 1024}; PRAGMA temp_store = MEMORY;"
            )
            if connection.execute("PRAGMA user_version").fetchone()[0] == 0:
                connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    async def aclose(self) -> None:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._thread, self._close)
        self._thread.shutdown(wait=False)

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class SQLiteStore:
    """At most `max_bytes` of entries; those used least recently go first. `timeout` (seconds) is for locks.

    `page_cache` bounds, in bytes, the memory that each of the connections keeps of the file.
    """

    shared = True

    def __init__(self, path: str, *, max_bytes: int, page_cache: int, timeout: float) -> None:
        self._max = max_bytes
        small = max(64 * 1024, page_cache // 8)
        self._reader = _Worker(path, page_cache=page_cache - 2 * small, timeout=timeout)
        self._writer = _Worker(path, page_cache=small, timeout=timeout)
        self._sweeper = _Worker(path, page_cache=small, timeout=max(timeout, 1.0))
        self._touched: dict[int, float] = {}
        self._writes = 0

    async def open(self) -> None:
        await self._writer.run(lambda connection: None)

    async def get(self, id: str) -> Entry | None:  # noqa: A002
        return await self._reader.run(self._get, _packed(id))

    def _get(self, connection: sqlite3.Connection, id: bytes) -> Entry | None:  # noqa: A002
        now = time.time()
        query = "SELECT number, used, head, answer FROM entries WHERE id = ? AND expires > ?"
        row = connection.execute(query, (id, now)).fetchone()
        if row is None:
            return None
        number, used, head, answer = row
        if used + _USED_STEP < now and len(self._touched) < 10 * _BATCH:
            self._touched[number] = now
        try:
            return decode(head, answer)
        except ValueError:  # of another version of this plugin
            return None

    async def put(self, entry: Entry) -> None:
        await self._writer.run(self._put, entry)

    def _put(self, connection: sqlite3.Connection, entry: Entry) -> None:
        head, answer = encode(entry)
        now, id_ = time.time(), _packed(entry.id)
        tags = "".join(f"\n{tag}" for tag in entry.tags) + "\n"
        facts = (entry.team, entry.model, entry.target, entry.version, entry.template, tags)
        row = (id_, now, entry.expires, entry.created, entry.size, *facts, head, answer)
        with _Transaction(connection):
            connection.execute("DELETE FROM entries WHERE id = ?", (id_,))
            connection.execute(_INSERT, row)
            self._touch(connection)
            self._make_room(connection, now)

    def _touch(self, connection: sqlite3.Connection) -> None:
        touched, self._touched = self._touched, {}
        if touched:
            rows = [(used, number) for number, used in touched.items()]
            connection.executemany("UPDATE entries SET used = ? WHERE number = ?", rows)

    def _make_room(self, connection: sqlite3.Connection, now: float) -> None:
        self._writes += 1
        if self._writes % 100 == 0:
            expired = "SELECT number FROM entries WHERE expires <= ? LIMIT ?"
            connection.execute(f"DELETE FROM entries WHERE number IN ({expired})", (now, _BATCH))  # noqa: S608
        over = connection.execute("SELECT bytes FROM totals").fetchone()[0] - self._max
        if over <= 0:
            return
        doomed, freed = [], 0
        for number, size in connection.execute("SELECT number, size FROM entries ORDER BY used"):
            doomed.append((number,))
            freed += size
            if freed >= over or len(doomed) >= _BATCH:
                break
        connection.executemany("DELETE FROM entries WHERE number = ?", doomed)

    async def purge(self, which: Filter) -> int:
        """A batch at a time, so that nothing else waits long."""
        gone, after = 0, 0
        while True:
            count, last = await self._sweeper.run(_purge, which, after)
            gone += count
            if last is None:
                return gone
            after = last

    async def stats(self) -> Stats:
        return await self._sweeper.run(_stats)

    async def aclose(self) -> None:
        for worker in (self._reader, self._sweeper, self._writer):
            await worker.aclose()


def _stats(connection: sqlite3.Connection) -> Stats:
    entries, size = connection.execute("SELECT entries, bytes FROM totals").fetchone()
    return Stats(entries, size)


def _purge(connection: sqlite3.Connection, which: Filter, after: int) -> tuple[int, int | None]:
    """Delete one batch; how many, and the last one's number, or None when there are no more."""
    where, values = _condition(which)
    query = f"SELECT number FROM entries WHERE number > ? {where} ORDER BY number LIMIT ?"  # noqa: S608
    numbers = connection.execute(query, (after, *values, _BATCH)).fetchall()
    with _Transaction(connection):
        connection.executemany("DELETE FROM entries WHERE number = ?", numbers)
    return len(numbers), numbers[-1][0] if len(numbers) == _BATCH else None


def _condition(which: Filter) -> tuple[str, list[Any]]:
    """What `Filter.fits` says, as SQL: only constants of this module, the values beside it."""
    conditions: dict[str, list[Any]] = {
        "AND instr(tags, ?) > 0": [] if which.tag is None else [f"\n{which.tag}\n"],
        "AND (model = ? OR target = ?)": [] if which.model is None else [which.model, which.model],
        "AND version = ?": [] if which.version is None else [which.version],
        "AND template = ?": [] if which.template is None else [which.template],
        "AND team = ?": [] if which.team is None else [which.team],
        "AND id = ?": [] if which.id is None else [_packed(which.id)],
        "AND created <= ?": [] if which.before is None else [which.before],
    }
    used = {text: values for text, values in conditions.items() if values}
    return " ".join(used), [value for values in used.values() for value in values]


def _packed(id: str) -> bytes:  # noqa: A002
    try:
        return bytes.fromhex(id.replace(".", ""))
    except ValueError:
        return id.encode()


class _Transaction:
    """BEGIN IMMEDIATE … COMMIT, or ROLLBACK."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        self._connection.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        try:
            if error is None:
                self._connection.execute("COMMIT")
        finally:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
