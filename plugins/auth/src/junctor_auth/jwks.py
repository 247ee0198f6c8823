"""The keys of an issuer: from a file or an address, kept, renewed, used for their own algorithm only."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from junctor import ConfigError, ProviderError, jsons

from junctor_auth.settings import key_family

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from junctor.http import HTTPClient

    from junctor_auth.settings import JWTSettings

__all__ = ["IssuerKey", "KeySet", "fixed_keys"]

_log = logging.getLogger("junctor.auth")
_MAX_SIZE = 512 * 1024
_MAX_KEYS = 100
_TIMEOUT = 5.0
_FAMILIES = ((RSAPublicKey, "RSA"), (EllipticCurvePublicKey, "EC"), (Ed25519PublicKey, "OKP"))
_CURVES = {"ES256": "secp256r1", "ES384": "secp384r1", "ES512": "secp521r1"}


@dataclass(frozen=True, slots=True)
class IssuerKey:
    """A key and what it may verify: `family` is its kind, `algorithm` the only one it is for, if it says so."""

    key: Any
    family: str
    kid: str | None = None
    algorithm: str | None = None

    def verifies(self, algorithm: str) -> bool:
        """Whether a token that names this algorithm may be checked with this key."""
        if key_family(algorithm) != self.family or self.algorithm not in (None, algorithm):
            return False
        return self.family != "EC" or self.key.curve.name == _CURVES[algorithm]


def fixed_keys(settings: JWTSettings) -> list[IssuerKey] | None:
    """The shared secret or the PEM file of the settings; None if the keys are a set. Raises `ConfigError`."""
    if settings.secret is not None:
        return [IssuerKey(settings.secret.get_secret_value().encode(), "oct")]
    if settings.public_key is None:
        if settings.jwks_file is not None and not Path(settings.jwks_file).is_file():
            raise ConfigError(f"jwt ({settings.name}): jwks_file: there is no file {settings.jwks_file}")
        return None
    try:
        key = load_pem_public_key(Path(settings.public_key).read_bytes())
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        what = f"{settings.public_key} is no public key in PEM"
        raise ConfigError(f"jwt ({settings.name}): public_key: {what}") from error
    found = _usable(IssuerKey(key, _family(key)))
    if found is None or not any(found.verifies(algorithm) for algorithm in settings.algorithms):
        what = f"this key does not go with {', '.join(settings.algorithms)}"
        raise ConfigError(f"jwt ({settings.name}): public_key: {what}")
    return [found]


class KeySet:
    """A JWKS. `open` loads it and keeps it fresh until `close`; a failure to renew keeps the old keys, up to `stale`.

    `generation` grows with every change of the keys.
    """

    def __init__(self, settings: JWTSettings, http: HTTPClient, fixed: list[IssuerKey] | None) -> None:
        self._settings = settings
        self._http = http
        self._fixed = fixed is not None
        self._keys: list[IssuerKey] = fixed or []
        self._raw = b""
        self.generation = 0
        self._loaded = float("-inf")
        self._asked = float("-inf")
        self._loading: asyncio.Task[None] | None = None
        self._renewing: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Load the keys; an issuer that does not answer yet does not stop the gateway."""
        if not self._fixed:
            await self._load_once()
            self._renewing = asyncio.create_task(self._renew())

    async def close(self) -> None:
        for task in (self._renewing, self._loading):
            if task is not None:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task

    @property
    def ready(self) -> bool:
        """Whether there are keys that are not too old."""
        return self._fixed or time.monotonic() - self._loaded <= self._settings.stale

    async def find(self, kid: object, algorithm: str) -> IssuerKey | None:
        """The key that a token's header names; looks once at the issuer's if it is not among those known."""
        found = self._known(kid, algorithm)
        if found is None and not self._fixed and self._may_ask():
            await self._load_once()
            found = self._known(kid, algorithm)
        return found if self.ready else None

    def _known(self, kid: object, algorithm: str) -> IssuerKey | None:
        fitting = [key for key in self._keys if key.verifies(algorithm)]
        if kid is not None and not self._fixed:
            fitting = [key for key in fitting if key.kid == kid]
        # Without a name there must be no choice: one that signs may not pick what it is checked with.
        return fitting[0] if len(fitting) == 1 else None

    def _may_ask(self) -> bool:
        if self._loading is not None and not self._loading.done():
            return True
        return time.monotonic() - self._asked >= self._settings.min_refresh

    async def _load_once(self) -> None:
        """Load, once for all who ask meanwhile."""
        if self._loading is None or self._loading.done():
            self._asked = time.monotonic()
            self._loading = asyncio.create_task(self._load())
        await asyncio.shield(self._loading)

    async def _load(self) -> None:
        try:
            async with asyncio.timeout(_TIMEOUT):
                raw = await self._read()
            if raw != self._raw:
                self._keys = list(_keys_of(raw))
                self._raw = raw
                self.generation += 1
        except (ProviderError, OSError, ValueError, TimeoutError) as error:
            place = self._settings.jwks_url or self._settings.jwks_file
            reason = type(error).__name__ if isinstance(error, OSError) else error
            _log.warning("the keys of issuer '%s' cannot be had from %s: %s", self._settings.issuer, place, reason)
            return
        self._loaded = time.monotonic()

    async def _read(self) -> bytes:
        if self._settings.jwks_file is not None:
            return await asyncio.to_thread(Path(self._settings.jwks_file).read_bytes)
        assert self._settings.jwks_url is not None
        answer = await self._http.request(
            "GET",
            self._settings.jwks_url,
            headers=(("accept", "application/json"),),
            connect_timeout=_TIMEOUT,
            read_timeout=_TIMEOUT,
            max_body=_MAX_SIZE,
        )
        body = await answer.read(_MAX_SIZE)
        if answer.status != 200:
            raise ValueError(f"the answer is {answer.status}")
        return body

    async def _renew(self) -> None:
        while True:
            retry = min(self._settings.refresh, 30.0)
            await asyncio.sleep(self._settings.refresh if self.ready else retry)
            await self._load_once()


def _keys_of(raw: bytes) -> Iterator[IssuerKey]:
    """The keys of a set that verify signatures with a public key. Raises ValueError if it is no set, or has none."""
    data = jsons.loads(raw)
    entries = data.get("keys") if isinstance(data, dict) else None
    if not isinstance(entries, list):
        raise ValueError("it is no key set")  # noqa: TRY004 (to the caller it is a bad value)
    found = [key for entry in entries[:_MAX_KEYS] if isinstance(entry, dict) and (key := _key_of(entry)) is not None]
    if not found:
        raise ValueError("it holds no usable key")
    yield from found


def _key_of(entry: Mapping[str, Any]) -> IssuerKey | None:
    """One key; None for what is not for signatures, is secret, weak, or not understood."""
    if entry.get("use", "sig") != "sig" or entry.get("kty") not in ("RSA", "EC", "OKP"):
        return None
    public = {name: value for name, value in entry.items() if name not in ("d", "p", "q", "dp", "dq", "qi", "oth")}
    try:
        key = jwt.PyJWK(public).key
    except (jwt.PyJWTError, ValueError, TypeError, KeyError):
        return None
    kid, algorithm = entry.get("kid"), entry.get("alg")
    return _usable(IssuerKey(key, _family(key), kid if isinstance(kid, str) else None, algorithm))


def _family(key: object) -> str:
    return next((name for kind, name in _FAMILIES if isinstance(key, kind)), "")


def _usable(key: IssuerKey) -> IssuerKey | None:
    if not key.family or (key.family == "RSA" and key.key.key_size < 2048):
        return None
    return key
