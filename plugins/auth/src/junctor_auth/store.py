"""Keys in SQL, SQLite or PostgreSQL, through SQLAlchemy Core. Its calls wait; `mirror.py` makes them in a thread.

Every change takes the next number of `junctor_auth_version` in its own transaction and marks its rows with it. The row
of the counter is locked until the end of the transaction, so numbers become visible in their order: whoever knows all
rows up to a number asks for the greater ones only.
"""

from __future__ import annotations

import hmac
import json
import re
import secrets
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from junctor import ConfigError, JunctorError
from sqlalchemy import event
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from junctor_auth.secretbox import SecretBox, digest_of, new_key, pepper_beside

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy.engine import Connection, Engine, RowMapping

    from junctor_auth.settings import Rights, StoreSettings

__all__ = ["Changes", "KeyStore", "NotThere", "ProviderKeyRow", "StoreFailed", "StoredKey"]

_metadata = sa.MetaData()
_version = sa.Table(
    "junctor_auth_version",
    _metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("pepper_check", sa.String(64), nullable=False),
)
_keys = sa.Table(
    "junctor_auth_keys",
    _metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("name", sa.String(64), nullable=False),
    sa.Column("digest", sa.LargeBinary(32), nullable=False, unique=True),
    sa.Column("previous", sa.LargeBinary(32)),
    sa.Column("previous_expires", sa.Float),
    sa.Column("rights", sa.Text, nullable=False),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("expires", sa.Float),
    sa.Column("revoked", sa.Float),
    sa.Column("version", sa.BigInteger, nullable=False, index=True),
)
_provider_keys = sa.Table(
    "junctor_auth_provider_keys",
    _metadata,
    sa.Column("team", sa.String(64), primary_key=True),
    sa.Column("provider", sa.String(64), primary_key=True),
    sa.Column("sealed", sa.LargeBinary),
    sa.Column("hint", sa.String(8), nullable=False),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("version", sa.BigInteger, nullable=False, index=True),
)
_ID = re.compile(r"[0-9a-f]{12}")


class StoreFailed(JunctorError):
    """The database did not answer, or not in time. The message has no address and no value."""


class NotThere(JunctorError):
    """There is no such key."""


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A key of the store. Times are seconds since the epoch; the digests are not shown."""

    id: str
    name: str
    rights: Mapping[str, Any]
    created: float
    expires: float | None
    revoked: float | None
    digest: bytes = field(repr=False)
    previous: bytes | None = field(repr=False, default=None)
    previous_expires: float | None = None

    @property
    def state(self) -> str:
        if self.revoked is not None:
            return "revoked"
        return "expired" if self.expires is not None and self.expires <= time.time() else "active"

    def public(self) -> dict[str, Any]:
        """What may be shown of it."""
        return {
            "id": self.id,
            "prefix": f"jct-{self.id}-",
            "name": self.name,
            "state": self.state,
            "created": self.created,
            "expires": self.expires,
            "revoked": self.revoked,
            "rotating_until": self.previous_expires if (self.previous_expires or 0) > time.time() else None,
            **self.rights,
        }


@dataclass(frozen=True, slots=True)
class ProviderKeyRow:
    """A team's key for a provider; `key` is None once it was removed, or cannot be decrypted here."""

    team: str
    provider: str
    hint: str
    created: float
    key: str | None = field(repr=False, default=None)
    removed: bool = False


@dataclass(frozen=True, slots=True)
class Changes:
    """What has changed since a version."""

    version: int
    keys: Sequence[StoredKey] = ()
    provider_keys: Sequence[ProviderKeyRow] = ()


class KeyStore:
    """The tables, opened with their secrets. Methods raise `StoreFailed`, `NotThere` or `ConfigError`."""

    def __init__(self, settings: StoreSettings) -> None:
        self._max_keys = settings.max_keys
        self._url = sa.make_url(settings.url.get_secret_value())
        sqlite = self._url.get_backend_name() == "sqlite"
        given = settings.pepper.get_secret_value().encode() if settings.pepper else None
        # The settings make sure that a pepper is given where there is no file to keep one beside.
        self.pepper = given or pepper_beside(Path(str(self._url.database)))
        self._box = SecretBox(settings.encryption_key.get_secret_value()) if settings.encryption_key else None
        self._engine = self._sqlite() if sqlite else self._postgresql()

    def _sqlite(self) -> Engine:
        try:
            Path(str(self._url.database)).touch(0o600)
        except OSError as error:
            raise ConfigError(f"store.url: {self._url.database}: {error.strerror}") from error
        engine = sa.create_engine(self._url, hide_parameters=True, connect_args={"timeout": 3})
        event.listen(engine, "connect", _set_up_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine

    def _postgresql(self) -> Engine:
        return sa.create_engine(
            self._url.set(drivername="postgresql+psycopg"),
            hide_parameters=True,
            pool_size=1,
            max_overflow=2,
            pool_pre_ping=True,
            connect_args={"connect_timeout": 3, "options": "-c statement_timeout=3000 -c lock_timeout=3000"},
        )

    def prepare(self) -> None:
        """Make the tables if they are not there; raises `ConfigError` if they were made with another pepper."""
        check = digest_of(self.pepper, b"junctor store").hex()
        with self._write() as connection:
            if connection.dialect.name == "postgresql":  # two at once would both find no tables
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(0x6A63746B)))
            _metadata.create_all(connection)
            kept = connection.execute(sa.select(_version.c.pepper_check)).scalar_one_or_none()
            if kept is None:
                connection.execute(_version.insert().values(id=1, version=0, pepper_check=check))
            elif not hmac.compare_digest(kept, check):
                raise ConfigError("store.pepper: this store's keys were made with another one; give that one")

    def close(self) -> None:
        self._engine.dispose()

    def _read(self) -> _Transaction:
        return _Transaction(self._engine)

    def _write(self) -> _Transaction:
        return _Transaction(self._engine.execution_options(writes=True))

    def changes(self, known: int) -> Changes:
        """What has changed since the version `known`; -1 is everything."""
        with self._read() as connection:
            version = int(connection.execute(sa.select(_version.c.version)).scalar_one())
            if version == known:
                return Changes(version)
            keys = connection.execute(sa.select(_keys).where(_keys.c.version > known)).mappings()
            rows = connection.execute(sa.select(_provider_keys).where(_provider_keys.c.version > known)).mappings()
            return Changes(version, [_stored(row) for row in keys], [self._provider_row(row) for row in rows])

    def create(self, name: str, rights: Rights, *, expires: float | None = None) -> tuple[str, StoredKey]:
        """Make a key; returns it, this once, and what is kept of it."""
        key_id = secrets.token_hex(6)
        key = new_key(key_id)
        given = rights.model_dump(exclude_defaults=True, mode="json")
        with self._write() as connection:
            counting = sa.select(sa.func.count()).select_from(_keys).where(_keys.c.revoked.is_(None))
            count = connection.execute(counting).scalar_one()
            if count >= self._max_keys:
                raise ConfigError(f"store.max_keys: there are {count} keys; revoke old ones, or raise it")
            row = {
                "id": key_id,
                "name": name,
                "digest": digest_of(self.pepper, key.encode()),
                "rights": json.dumps(given),
                "created": time.time(),
                "expires": expires,
                "version": _next_version(connection),
            }
            connection.execute(_keys.insert().values(row))
        return key, self.get(key_id)

    def get(self, key_id: str) -> StoredKey:
        """One key by its id."""
        if not _ID.fullmatch(key_id):
            raise NotThere("there is no key with this id")
        with self._read() as connection:
            row = connection.execute(sa.select(_keys).where(_keys.c.id == key_id)).mappings().one_or_none()
        if row is None:
            raise NotThere("there is no key with this id")
        return _stored(row)

    def all_keys(self, *, team: str | None = None) -> list[StoredKey]:
        """All keys, the oldest first."""
        with self._read() as connection:
            rows = connection.execute(sa.select(_keys).order_by(_keys.c.created)).mappings()
            keys = [_stored(row) for row in rows]
        return [key for key in keys if team is None or key.rights.get("team", "") == team]

    def revoke(self, key_id: str) -> StoredKey:
        """End a key for ever, and what it was before a rotation."""
        return self._change(key_id, revoked=sa.func.coalesce(_keys.c.revoked, time.time()))

    def expire(self, key_id: str, at: float | None) -> StoredKey:
        """Let a key end at a time (seconds since the epoch); None: never. A revoked key stays revoked."""
        return self._change(key_id, expires=at)

    def rotate(self, key_id: str, *, grace: float = 0.0) -> tuple[str, StoredKey]:
        """Give a key another secret, keeping its id; the old one works for `grace` seconds more."""
        current = self.get(key_id)
        if current.state != "active":
            raise NotThere(f"the key is {current.state}; make a new one")
        key = new_key(key_id)
        previous: dict[str, Any] = {"previous": None, "previous_expires": None}
        if grace > 0:
            previous = {"previous": _keys.c.digest, "previous_expires": time.time() + grace}
        return key, self._change(key_id, digest=digest_of(self.pepper, key.encode()), **previous)

    def _change(self, key_id: str, **values: Any) -> StoredKey:
        if not _ID.fullmatch(key_id):
            raise NotThere("there is no key with this id")
        with self._write() as connection:
            values["version"] = _next_version(connection)
            changed = connection.execute(_keys.update().where(_keys.c.id == key_id).values(values))
            if changed.rowcount == 0:
                raise NotThere("there is no key with this id")
        return self.get(key_id)

    def set_provider_key(self, team: str, provider: str, key: str) -> None:
        """Keep a team's key for a provider, encrypted."""
        if self._box is None:
            raise ConfigError("store.encryption_key: is needed to keep provider keys; `${JUNCTOR_ENCRYPTION_KEY}`")
        sealed = self._box.seal(key, _sealed_name(team, provider))
        self._put_provider_key(team, provider, sealed, key[-4:] if len(key) >= 20 else "")

    def remove_provider_key(self, team: str, provider: str) -> None:
        """Forget a team's key for a provider; its row stays, empty, so that every worker hears of it."""
        if not any(row.team == team and row.provider == provider for row in self.provider_keys()):
            raise NotThere("the team has no key for this provider")
        self._put_provider_key(team, provider, None, "")

    def _put_provider_key(self, team: str, provider: str, sealed: bytes | None, hint: str) -> None:
        with self._write() as connection:
            values = {"sealed": sealed, "hint": hint, "created": time.time(), "version": _next_version(connection)}
            table = _provider_keys
            place = (table.c.team == team) & (table.c.provider == provider)
            if connection.execute(table.update().where(place).values(values)).rowcount == 0:
                connection.execute(table.insert().values(team=team, provider=provider, **values))

    def provider_keys(self) -> list[ProviderKeyRow]:
        """The teams' keys; show of them team, provider and hint only."""
        with self._read() as connection:
            rows = connection.execute(sa.select(_provider_keys).order_by(_provider_keys.c.team)).mappings()
            found = [self._provider_row(row) for row in rows]
        return [row for row in found if not row.removed]

    def _provider_row(self, row: RowMapping) -> ProviderKeyRow:
        sealed: bytes | None = row["sealed"]
        key = None
        if sealed is not None and self._box is not None:
            key = self._box.open(bytes(sealed), _sealed_name(row["team"], row["provider"]))
        return ProviderKeyRow(row["team"], row["provider"], row["hint"], row["created"], key, removed=sealed is None)


class _Transaction:
    """A transaction whose failures come out as `StoreFailed`, without the driver's words: they may hold the address."""

    def __init__(self, engine: Engine) -> None:
        self._context = engine.begin()

    def __enter__(self) -> Connection:
        try:
            return self._context.__enter__()
        except (SQLAlchemyError, OSError) as error:
            raise StoreFailed(f"the key store does not answer ({_kind(error)})") from None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        failure = error if isinstance(error, (SQLAlchemyError, OSError)) else None
        try:
            self._context.__exit__(kind, error, trace)
        except (SQLAlchemyError, OSError) as late:
            failure = failure or late
        if isinstance(failure, IntegrityError):
            raise StoreFailed("the key store was changed at the same time; try again") from None
        if failure is not None:
            raise StoreFailed(f"the key store does not answer ({_kind(failure)})") from None


def _kind(error: Exception) -> str:
    """The driver's name for it, as `ConnectionTimeout` or `InsufficientPrivilege`; never its text."""
    return type(getattr(error, "orig", None) or error).__name__


def _set_up_sqlite(connection: Any, _: object) -> None:
    connection.isolation_level = None  # transactions are begun below: sqlite3 would begin them too late
    for pragma in ("journal_mode=wal", "synchronous=normal"):
        connection.execute(f"pragma {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql("begin immediate" if connection.get_execution_options().get("writes") else "begin")


def _next_version(connection: Connection) -> int:
    statement = _version.update().values(version=_version.c.version + 1).returning(_version.c.version)
    return int(connection.execute(statement).scalar_one())


def _stored(row: RowMapping) -> StoredKey:
    return StoredKey(
        id=row["id"],
        name=row["name"],
        rights=json.loads(row["rights"]),
        created=row["created"],
        expires=row["expires"],
        revoked=row["revoked"],
        digest=bytes(row["digest"]),
        previous=bytes(row["previous"]) if row["previous"] is not None else None,
        previous_expires=row["previous_expires"],
    )


def _sealed_name(team: str, provider: str) -> str:
    return json.dumps([team, provider])
