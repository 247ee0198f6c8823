"""The ledger: exchanges and what they cost, in SQLite or PostgreSQL."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Annotated, Any

import orjson
from junctor import ConfigError, Duration, Section
from pydantic import Field, SecretStr
from sqlalchemy import delete
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError

from junctor_logging import tables
from junctor_logging.database import address, connect, migrate
from junctor_logging.record import without_content
from junctor_logging.rows import exchange_row, line_rows
from junctor_logging.sinks import Rejected

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection, Engine, Table

    from junctor_logging.record import Entry
    from junctor_logging.sinks import Context

__all__ = ["Ledger", "LedgerSettings"]

_CLEAN_EVERY = 600.0
_CLEAN_AT_ONCE = 5000


class LedgerSettings(Section):
    """The SQL sink."""

    url: Annotated[
        SecretStr, Field(description="`sqlite:///path` or `postgresql://…`; `ledger.db` in the folder without it.")
    ] = SecretStr("")
    migrate: Annotated[bool, Field(description="Create and change the tables at start-up.")] = True
    retention: Annotated[Duration | None, Field(gt=0, description="Exchanges and lines older than this go.")] = None
    content: Annotated[bool, Field(description="With prompts and answers, where those are recorded.")] = True


class Ledger:
    """Idempotent: a record that is there already is left as it is."""

    Settings = LedgerSettings

    def __init__(self, settings: LedgerSettings, context: Context) -> None:
        self.wants_content = settings.content
        self._settings = settings
        try:
            self.url = address(settings.url.get_secret_value(), context.folder)
            dialect = {"sqlite": sqlite, "postgresql": postgresql}.get(self.url.get_backend_name())
        except Exception:  # the message would quote the URL, which may hold a password
            raise ConfigError(
                "sinks (ledger).url: is not a database URL; write sqlite:///path or postgresql://…"
            ) from None
        if dialect is None:
            raise ConfigError(
                f"sinks (ledger).url: {self.url.get_backend_name()} is not known; use sqlite or postgresql"
            )
        self._insert = {table.name: _insert(table, dialect) for table in tables.METADATA.sorted_tables}
        self._engine: Engine | None = None
        self._connection: Connection | None = None
        self._prices: set[str] = set()
        self._clean_at = 0.0

    def open(self) -> None:
        self._engine = connect(self.url)
        self._connection = self._engine.connect()
        if self._settings.migrate:
            migrate(self._connection)
        self._connection.rollback()
        self._prices.clear()

    def write(self, batch: Sequence[Entry], *, again: bool) -> None:
        connection = self._connection
        assert connection is not None
        try:
            with connection.begin():
                self._put(connection, tables.exchanges, [exchange_row(without_content(entry)) for entry in batch])
                self._put(connection, tables.lines, [row for entry in batch for row in line_rows(entry)])
                self._put(connection, tables.contents, [row for entry in batch if (row := _content(entry)) is not None])
                fresh = self._fresh_prices(batch)
                self._put(connection, tables.prices, list(fresh.values()))
        except (DataError, IntegrityError) as error:
            raise Rejected(str(error.orig)) from None
        except ValueError as error:  # a text that the driver cannot encode
            raise Rejected(type(error).__name__) from None
        except DBAPIError as error:
            # Without the statement and its parameters, which SQLAlchemy puts into its messages.
            raise ConnectionError(str(error.orig).strip()) from None
        self._prices |= fresh.keys()
        if time.monotonic() >= self._clean_at:
            self._clean(connection)

    def _put(self, connection: Connection, table: Table, rows: list[tuple[Any, ...]]) -> None:
        if rows:
            connection.exec_driver_sql(self._insert[table.name], rows)

    def _fresh_prices(self, batch: Sequence[Entry]) -> dict[str, tuple[Any, ...]]:
        prices = [attempt.price for entry in batch for attempt in entry.brief.attempts]
        fresh = {price.id: price for price in prices if price is not None and price.id not in self._prices}
        columns = [column.name for column in tables.prices.c]
        return {name: tuple(getattr(price, column) for column in columns) for name, price in fresh.items()}

    def _clean(self, connection: Connection) -> None:
        """Delete what is over its time, a piece at a time."""
        now = int(time.time() * 1000)
        limits = [(tables.contents, tables.contents.c.expires, now)]
        if self._settings.retention is not None:
            oldest = now - int(self._settings.retention * 1000)
            limits += [(table, table.c.time, oldest) for table in (tables.exchanges, tables.lines)]
        more = False
        for table, column, limit in limits:
            old = table.c.record.in_(_select_some(table, column, limit))
            with connection.begin():
                more = connection.execute(delete(table).where(old)).rowcount >= _CLEAN_AT_ONCE or more
        self._clean_at = time.monotonic() + (1.0 if more else _CLEAN_EVERY)

    def close(self) -> None:
        with contextlib.suppress(Exception):
            if self._connection is not None:
                self._connection.close()
        if self._engine is not None:
            self._engine.dispose()
        self._connection = self._engine = None


def _select_some(table: Table, column: Any, limit: int) -> Any:
    return table.select().with_only_columns(table.c.record).where(column < limit).limit(_CLEAN_AT_ONCE)


def _insert(table: Table, dialect: Any) -> str:
    """The statement as text: the driver takes tuples for it, which is several times cheaper than parameters by name."""
    names = ", ".join(f'"{column.name}"' for column in table.columns)
    values = ", ".join(["?" if dialect is sqlite else "%s"] * len(table.columns))
    return f"INSERT INTO {table.name} ({names}) VALUES ({values}) ON CONFLICT DO NOTHING"  # noqa: S608


def _content(entry: Entry) -> tuple[Any, ...] | None:
    content = entry.content
    if content is None:
        return None
    return (entry.key, entry.at + int(content.get("retention", 0)) * 1000, orjson.dumps(content).decode())
