"""JSON Web Tokens: whose they are, whether they hold, and what they stand for."""

from __future__ import annotations

import hashlib
import logging
import re
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, NamedTuple

import jwt
from junctor import Client, Refused

from junctor_auth.grants import Grant, expanded
from junctor_auth.jwks import KeySet, fixed_keys

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from junctor.http import HTTPClient

    from junctor_auth.settings import ByokRule, JWTSettings, Rights

__all__ = ["Tokens"]

_log = logging.getLogger("junctor.auth")
_VALUE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@:/+=| -]{0,127}")
_REMEMBERED = 4096
_REMEMBER_SECONDS = 60.0
_MAX_SIZE = 16 * 1024
# What a token may hold and a library does not want: each is the token's fault.
_BAD = (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError)


class _Bad(Exception):
    """The token does not hold; the reason is for the log only."""


class _Checked(NamedTuple):
    """A token that held, and for how long that is remembered (monotonic seconds), at this state of the keys."""

    grant: Grant
    until: float
    generation: int
    keys: KeySet


class Tokens:
    """All issuers. A token that held is remembered for a while, so that its signature is not computed each time."""

    def __init__(
        self,
        issuers: Collection[JWTSettings],
        http: HTTPClient,
        models: Collection[str],
        byok: Callable[[Rights, str], ByokRule],
    ) -> None:
        self._issuers = {s.issuer: _Issuer(s, KeySet(s, http, fixed_keys(s)), models, byok) for s in issuers}
        self._checked: OrderedDict[bytes, _Checked] = OrderedDict()

    async def open(self) -> None:
        for issuer in self._issuers.values():
            await issuer.keys.open()

    async def close(self) -> None:
        for issuer in self._issuers.values():
            await issuer.keys.close()

    async def grant(self, token: bytes) -> Grant | None:
        """What a token stands for; None if it does not hold. Raises `Refused` (503) while an issuer has no keys."""
        digest = hashlib.sha256(token).digest()
        known = self._checked.get(digest)
        if known is not None:
            if time.monotonic() < known.until and known.generation == known.keys.generation and known.keys.ready:
                return known.grant
            del self._checked[digest]
        if len(token) > _MAX_SIZE:
            return None
        try:
            issuer, grant = await self._check(token.decode("ascii"), digest)
        except _Bad as bad:
            _log.info("a token was refused: %s", bad)
            return None
        except _BAD as error:
            _log.info("a token was refused: %s", type(error).__name__)
            return None
        until = time.monotonic() + min(_REMEMBER_SECONDS, grant.expires - time.time())
        self._checked[digest] = _Checked(grant, until, issuer.keys.generation, issuer.keys)
        if len(self._checked) > _REMEMBERED:
            self._checked.popitem(last=False)
        return grant

    async def _check(self, token: str, digest: bytes) -> tuple[_Issuer, Grant]:
        header = jwt.get_unverified_header(token)
        # Not verified yet: it only says whose keys to verify with.
        claimed = jwt.decode(token, options={"verify_signature": False}).get("iss")
        issuer = self._issuers.get(claimed) if isinstance(claimed, str) else None
        if issuer is None:
            raise _Bad("its issuer is not one of ours")
        return issuer, issuer.grant(await issuer.verified(token, header), digest)


class _Issuer:
    """One issuer's keys and the meaning of its claims."""

    def __init__(
        self,
        settings: JWTSettings,
        keys: KeySet,
        models: Collection[str],
        byok: Callable[[Rights, str], ByokRule],
    ) -> None:
        self.keys = keys
        self._settings = settings
        self._models = models
        self._byok = byok
        self._options: Any = {"require": list({"exp", "iss", "aud", *settings.required})}

    async def verified(self, token: str, header: Mapping[str, Any]) -> dict[str, Any]:
        """The claims of a token whose signature, times, issuer and audience are right."""
        algorithm = header.get("alg")
        if algorithm not in self._settings.algorithms or "crit" in header:
            raise _Bad("its algorithm is not allowed, or it asks for an extension")
        key = await self.keys.find(header.get("kid"), algorithm)
        if key is None:
            if not self.keys.ready:
                raise Refused(
                    "tokens cannot be checked now",
                    status_code=503,
                    type="api_error",
                    code="auth_unavailable",
                    retry_after=2.0,
                )
            raise _Bad("no key of its issuer fits")
        settings = self._settings
        return jwt.decode(
            token,
            key.key,
            algorithms=[algorithm],
            audience=settings.audience,
            issuer=settings.issuer,
            leeway=settings.leeway,
            options=self._options,
        )

    def grant(self, claims: Mapping[str, Any], digest: bytes) -> Grant:
        """What the claims stand for, within the rights of the settings."""
        settings, names = self._settings, self._settings.claims
        expires = float(claims["exp"]) + settings.leeway
        team = self._text(claims, "team") or settings.team
        client = Client(
            key_id=f"{settings.name}:{self._needed(claims, names.key_id)}",
            name=self._needed(claims, names.name),
            team=team,
            project=self._text(claims, "project") or settings.project,
            feature=self._text(claims, "feature") or settings.feature,
            tier=self._text(claims, "tier") or settings.tier,
            end_user=self._text(claims, "end_user"),
            models=self._within(claims, "models", expanded(settings.models, self._models)),
            endpoints=self._within(claims, "endpoints", _set(settings.endpoints)),
            tags=settings.tags,
            expires=expires,
        )
        return Grant(client, digest, expires, frozenset(settings.allow_attribution), self._byok(settings, team))

    def _needed(self, claims: Mapping[str, Any], name: str) -> str:
        value = _claim(claims, name)
        if not isinstance(value, str) or not _VALUE.fullmatch(value):
            raise _Bad(f"its claim '{name}' is missing or no name")
        return value

    def _text(self, claims: Mapping[str, Any], field: str) -> str:
        """A mapped claim. One that gives a right must be there, unless the settings have a value in its place."""
        name = getattr(self._settings.claims, field)
        if not name:
            return ""
        optional = field in ("feature", "end_user") or getattr(self._settings, field)
        return "" if optional and _claim(claims, name) is None else self._needed(claims, name)

    def _within(self, claims: Mapping[str, Any], field: str, bound: frozenset[str] | None) -> frozenset[str] | None:
        """What a claim lists, without what the settings do not allow; they alone hold where it is absent."""
        name = getattr(self._settings.claims, field)
        value = _claim(claims, name) if name else None
        if value is None:
            if name and bound is None:
                raise _Bad(f"its claim '{name}' is missing")
            return bound
        listed = frozenset(_words(value, name))
        if field == "models":
            listed = expanded(listed, self._models) or frozenset()
        return listed if bound is None else listed & bound


def _words(value: object, name: str) -> Iterator[str]:
    words = value.split() if isinstance(value, str) else value
    if not isinstance(words, list):
        raise _Bad(f"its claim '{name}' is no list")
    for word in words:
        if not isinstance(word, str):
            raise _Bad(f"its claim '{name}' is no list of texts")
        yield word


def _set(values: Collection[str] | None) -> frozenset[str] | None:
    return None if values is None else frozenset(values)


def _claim(claims: Mapping[str, Any], name: str) -> Any:
    """A claim by its name, which may itself have dots, or by its path."""
    if name in claims:
        return claims[name]
    value: Any = claims
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value
