"""Opens the ledger's database: address, connection, and the migrations."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import create_engine, event, inspect, make_url, text
from sqlalchemy.pool import NullPool

from junctor_logging.tables import HEAD

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import URL, Connection, Engine

__all__ = ["address", "connect", "migrate"]

_ADVISORY_LOCK = 5_284_921_773
_SECONDS = 10


def address(url: str, folder: Path) -> URL:
    """The URL with the driver that is used; an empty one is `ledger.db` in the folder."""
    if not url:
        return make_url(f"sqlite:///{folder / 'ledger.db'}")
    parsed = make_url(url)
    if parsed.drivername in ("postgresql", "postgres"):
        return parsed.set(drivername="postgresql+psycopg")
    return parsed


def connect(url: URL) -> Engine:
    """An engine whose every wait is limited. Nothing is opened yet."""
    if url.get_backend_name() == "sqlite":
        if url.database and url.database != ":memory:":
            Path(url.database).expanduser().parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        engine = create_engine(url, poolclass=NullPool, connect_args={"timeout": 5, "check_same_thread": False})
        event.listen(engine, "connect", _prepare_sqlite)
        return engine
    arguments = {
        "connect_timeout": 5,
        "keepalives_idle": 10,
        "tcp_user_timeout": _SECONDS * 1000,
        "options": f"-c statement_timeout={_SECONDS * 1000} -c lock_timeout={_SECONDS * 1000}",
        "application_name": "junctor",
    }
    return create_engine(url, poolclass=NullPool, connect_args=arguments)


def _prepare_sqlite(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    # Readers do not hold up the writer. NORMAL: a killed process loses nothing, a power cut the last transactions.
    # Pages of 8 KiB, which only a new file takes on, hold a few whole stories: less is written twice.
    pragmas = ("page_size=8192", "journal_mode=WAL", "synchronous=NORMAL", "cache_size=-16000")
    for pragma in (*pragmas, "wal_autocheckpoint=4000"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def migrate(connection: Connection) -> None:
    """Bring the tables to the newest form; one process at a time. A database that is newer is an error."""
    if _version(connection) == HEAD:
        return
    with _alone(connection):
        if _version(connection) == HEAD:
            return
        # Alembic tells of its own plugins at INFO, once a process.
        logging.getLogger("alembic.runtime").setLevel(logging.WARNING)
        from alembic import command
        from alembic.config import Config

        config = Config()
        config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        connection.commit()


def _version(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


@contextlib.contextmanager
def _alone(connection: Connection) -> Iterator[None]:
    if connection.dialect.name == "postgresql":
        connection.execute(text(f"SELECT pg_advisory_lock({_ADVISORY_LOCK})"))
        try:
            yield
        finally:
            connection.execute(text(f"SELECT pg_advisory_unlock({_ADVISORY_LOCK})"))
            connection.commit()
        return
    database = connection.engine.url.database
    if not database or database == ":memory:":
        yield
        return
    lock = os.open(f"{database}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
