"""The store's keys in memory, never older than a second.

All keys are kept, so that a request asks no database and a flood of invented keys reaches none. Every `poll` seconds
one small query asks for the store's version; what has changed since is fetched. Nothing is granted from a copy that is
older than `_MAX_AGE`: if polling has fallen behind, the request itself looks first.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self

from junctor import ConfigError, Refused
from pydantic import ValidationError

from junctor_auth.secretbox import digest_of
from junctor_auth.store import KeyStore, StoreFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from junctor_auth.grants import Grant
    from junctor_auth.settings import StoreSettings
    from junctor_auth.store import Changes, StoredKey

__all__ = ["Mirror"]

_log = logging.getLogger("junctor.auth")
_MAX_AGE = 0.9
_MISS_PAUSE = 0.05  # a key that is not known may have just been made; so often is the store asked for such ones


class Mirror:
    """An async context manager. `grant_of` turns a stored key into what it stands for, one for each of its digests."""

    def __init__(self, settings: StoreSettings, grant_of: Callable[[StoredKey, bytes], Grant]) -> None:
        self._settings = settings
        self._grant_of = grant_of
        self._threads = ThreadPoolExecutor(2, "junctor-auth")
        self._store: KeyStore | None = None
        self._pepper = b""
        self._grants: dict[bytes, Grant] = {}
        self._digests: dict[str, Sequence[bytes]] = {}
        self.provider_keys: dict[str, dict[str, str]] = {}
        self._version = -1
        self._fresh = float("-inf")
        self._failing = False
        self._syncing: asyncio.Task[None] | None = None
        self._polling: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        try:
            self._store = await self._in_thread(self._open)
            self._pepper = self._store.pepper
            await self.sync()
            if self._failing:
                raise ConfigError("auth: store.url: the key store does not answer")
        except BaseException:
            await self._close()
            raise
        self._polling = asyncio.create_task(self._poll())
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._polling is not None:
            self._polling.cancel()
            with suppress(asyncio.CancelledError):
                await self._polling
        await self._close()

    def _open(self) -> KeyStore:
        store = KeyStore(self._settings)
        try:
            store.prepare()
        except StoreFailed as error:
            store.close()
            raise ConfigError(f"auth: store.url: {error}") from error
        except BaseException:
            store.close()
            raise
        return store

    async def _close(self) -> None:
        if self._syncing is not None:
            await asyncio.wait({self._syncing})
        if self._store is not None:
            await self._in_thread(self._store.close)
        await asyncio.to_thread(self._threads.shutdown)

    async def _in_thread(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)

    async def run(self, change: Callable[[KeyStore], Any]) -> Any:
        """Call the store in a thread, and see the change here at once."""
        assert self._store is not None
        result = await self._in_thread(change, self._store)
        await self.at_least(time.monotonic())
        return result

    async def grant(self, key: bytes) -> Grant | None:
        """What a key stands for; None if it is not known. Raises `Refused` (503) if that cannot be told now."""
        digest = digest_of(self._pepper, key)
        await self._not_too_old()
        grant = self._grants.get(digest)
        if grant is None:
            asked = time.monotonic()
            await asyncio.sleep(max(0.0, self._fresh + _MISS_PAUSE - asked))
            await self.at_least(asked)
            grant = self._grants.get(digest)
        return grant if grant is not None and hmac.compare_digest(grant.digest, digest) else None

    async def _not_too_old(self) -> None:
        if time.monotonic() - self._fresh <= _MAX_AGE:
            return
        if not self._failing:
            await self.at_least(time.monotonic() - _MAX_AGE)
        age = time.monotonic() - self._fresh
        if age > _MAX_AGE and age > self._settings.grace:
            raise Refused(
                "keys cannot be checked now",
                status_code=503,
                type="api_error",
                code="auth_unavailable",
                retry_after=1.0,
            )

    async def at_least(self, moment: float) -> None:
        """See what the store held at a moment (monotonic seconds), unless it does not answer."""
        for _ in range(2):  # one that runs already may have begun before
            if self._fresh >= moment or self._failing:
                return
            await self.sync()

    async def sync(self) -> None:
        """Fetch what has changed; all who ask meanwhile wait for the same answer."""
        if self._syncing is None or self._syncing.done():
            self._syncing = asyncio.create_task(self._sync())
        await asyncio.shield(self._syncing)

    async def _sync(self) -> None:
        started = time.monotonic()
        try:
            changes, built = await self._in_thread(self._changes)
        except Exception as error:  # also what nobody thought of: nothing is granted on a guess
            if not self._failing:
                reason = error if isinstance(error, StoreFailed) else f"the key store fails: {type(error).__name__}"
                _log.error("%s; keys of the store are taken for %g s more", reason, max(_MAX_AGE, self._settings.grace))
            self._failing = True
            return
        if self._failing:
            _log.warning("the key store answers again")
        self._failing = False
        self._apply(changes, built)
        self._fresh = started

    def _changes(self) -> tuple[Changes, dict[str, list[Grant]]]:
        assert self._store is not None
        changes = self._store.changes(self._version)
        return changes, {key.id: list(self._grants_of(key)) for key in changes.keys}

    def _grants_of(self, key: StoredKey) -> list[Grant]:
        if key.revoked is not None:
            return []
        try:
            digests = [key.digest] if key.previous is None else [key.digest, key.previous]
            return [self._grant_of(key, digest) for digest in digests]
        except ValidationError:
            _log.error("key %s has rights that this version does not know; it is refused", key.id)
            return []

    def _apply(self, changes: Changes, built: dict[str, list[Grant]]) -> None:
        for key_id, grants in built.items():
            for digest in self._digests.pop(key_id, ()):
                self._grants.pop(digest, None)
            if grants:
                self._digests[key_id] = tuple(grant.digest for grant in grants)
                self._grants.update((grant.digest, grant) for grant in grants)
        for row in changes.provider_keys:
            keys = self.provider_keys.setdefault(row.team, {})
            keys.pop(row.provider, None)
            if row.key is not None:
                keys[row.provider] = row.key
            elif not row.removed:
                _log.error(
                    "the key of team '%s' for '%s' cannot be decrypted here; see store.encryption_key", *_of(row)
                )
            if not keys:
                del self.provider_keys[row.team]
        self._version = changes.version

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(self._settings.poll)
            await self.sync()


def _of(row: Any) -> tuple[str, str]:
    return row.team, row.provider
