"""One resolver for every endpoint and wire: who is calling, and what that allows. Deny by default."""

from __future__ import annotations

import hashlib
import hmac
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Self

from junctor import ConfigError, hookimpl

from junctor_auth import cli
from junctor_auth.byok import HEADER, Byok, byok_not_allowed
from junctor_auth.grants import Grant, attributed, client_of, permit, unauthorised
from junctor_auth.settings import AuthSettings, Rights

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Mapping

    from junctor import Exchange, Gateway
    from starlette.routing import BaseRoute

    from junctor_auth.mirror import Mirror
    from junctor_auth.settings import ByokRule
    from junctor_auth.store import StoredKey
    from junctor_auth.tokens import Tokens

__all__ = ["Auth"]

# After they are read, no plugin and no log sees them any more.
_CREDENTIALS = ("authorization", "x-api-key", "x-goog-api-key", "proxy-authorization", "cookie")
_NO_KEYS: Mapping[str, Mapping[str, str]] = {}


class Auth:
    """Turns the key of a request into `exchange.client`, or refuses it.

    With no clients, no store and no issuer everyone is let pass, and the core serves this machine only.
    """

    Settings = AuthSettings
    stage = "identify"

    def __init__(self, settings: AuthSettings, gateway: Gateway) -> None:
        self._settings = settings
        self._gateway = gateway
        self._models = gateway.models
        self.authenticates = bool(settings.clients or settings.store or settings.jwt)
        self._keys = self._file_grants()
        team_keys = {
            team: {provider: key.get_secret_value() for provider, key in rules.provider_keys.items()}
            for team, rules in settings.teams.items()
        }
        self._byok = Byok(gateway.models, team_keys)
        self._byok_always = any(team_keys.values()) or settings.store is not None
        self._mirror = self._new_mirror()
        self._tokens = self._new_tokens()
        self._stack = AsyncExitStack()

    def _file_grants(self) -> dict[bytes, Grant]:
        grants: dict[bytes, Grant] = {}
        for index, settings in enumerate(self._settings.clients):
            if settings.key is not None:
                digest = hashlib.sha256(settings.key.get_secret_value().encode()).digest()
            else:
                digest = bytes.fromhex(settings.key_sha256 or "")
            expires = settings.expires.timestamp() if settings.expires else None
            client = client_of(settings, self._models, key_id=settings.name, name=settings.name, expires=expires)
            same = grants.setdefault(digest, self._grant(client, settings, digest, expires)).client
            if same is not client:
                raise ConfigError(f"clients[{index}]: has the same key as '{same.name}'")
        return grants

    def _grant(self, client: Any, rights: Rights, digest: bytes, expires: float | None) -> Grant:
        until = float("inf") if expires is None else expires
        return Grant(client, digest, until, frozenset(rights.allow_attribution), self._byok_rule(rights, client.team))

    def _byok_rule(self, rights: Rights, team: str) -> ByokRule:
        if rights.byok is not None:
            return rights.byok
        rules = self._settings.teams.get(team)
        return rules.byok if rules is not None else "off"

    def _new_mirror(self) -> Mirror | None:
        if self._settings.store is None:
            return None
        from junctor_auth.mirror import Mirror  # SQLAlchemy is a heavy import

        return Mirror(self._settings.store, self._stored_grant)

    def _stored_grant(self, key: StoredKey, digest: bytes) -> Grant:
        rights = Rights.model_validate(key.rights)
        ends = [key.expires, key.previous_expires if digest == key.previous else None]
        expires = min((end for end in ends if end is not None), default=None)
        client = client_of(rights, self._models, key_id=key.id, name=key.name, expires=expires)
        return self._grant(client, rights, digest, expires)

    def _new_tokens(self) -> Tokens | None:
        if not self._settings.jwt:
            return None
        from junctor_auth.tokens import Tokens  # so is cryptography

        return Tokens(self._settings.jwt, self._gateway.http, self._models, self._byok_rule)

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            if self._mirror is not None:
                await stack.enter_async_context(self._mirror)
                if self._settings.admin_port is not None:
                    from junctor_auth.admin import admin_port

                    await stack.enter_async_context(admin_port(self._settings, self._routes(self._mirror)))
            if self._tokens is not None:
                stack.push_async_callback(self._tokens.close)
                await self._tokens.open()
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    @hookimpl
    async def pre_route(self, exchange: Exchange) -> None:
        if exchange.purpose:
            return
        request = exchange.request
        headers = request.headers
        request.headers, own_keys = _without_credentials(headers)
        if not self.authenticates:
            if own_keys:
                raise byok_not_allowed()
            return
        grant = await self._resolve(headers)
        if grant is None or grant.expires <= time.time():
            raise unauthorised()
        client = grant.client
        if grant.attribution:
            client = attributed(client, grant.attribution, request)
        exchange.client = client
        permit(client, request)
        if (own_keys or self._byok_always or grant.byok == "required") and request.for_model:
            self._byok.apply(exchange, grant, own_keys, self._mirror.provider_keys if self._mirror else _NO_KEYS)

    async def _resolve(self, headers: Mapping[str, str]) -> Grant | None:
        key = _key_of(headers)
        if key is None:
            return None
        digest = hashlib.sha256(key).digest()
        grant = self._keys.get(digest)
        if grant is not None:
            return grant if hmac.compare_digest(grant.digest, digest) else None
        if self._mirror is not None and key.startswith(b"jct-"):
            return await self._mirror.grant(key)
        if self._tokens is not None and key.count(b".") == 2:
            return await self._tokens.grant(key)
        return None

    @hookimpl
    def check(self) -> Iterable[str]:
        for index, client in enumerate(self._settings.clients):
            for place, name in enumerate(client.models or ()):
                if not any(mark in name for mark in "*?[") and (problem := self._gateway.unknown_model(name)):
                    yield f"clients[{index}].models[{place}]: {problem}"
        plugins = self._gateway.plugins
        for step in plugins.hook["pre_route"]:
            if plugins.by_name.get(step.plugin) is self:
                break
            if step.closed:
                yield f"is listed after '{step.plugin}', which would act for clients that nobody knows; list it first"

    @hookimpl
    def http_routes(self) -> Iterable[BaseRoute]:
        if self._mirror is None or self._settings.admin_port is not None:
            return ()
        return self._routes(self._mirror)

    def _routes(self, mirror: Mirror) -> list[BaseRoute]:
        from junctor_auth.admin import admin_routes

        return admin_routes(mirror, self._settings.admin_key)

    @staticmethod
    @hookimpl
    def cli_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
        cli.add_commands(commands)


def _key_of(headers: Mapping[str, str]) -> bytes | None:
    """The key that the request shows; None if it shows none, or two that differ."""
    found = {headers[name] for name in ("x-api-key", "x-goog-api-key") if headers.get(name)}
    authorization = headers.get("authorization")
    if authorization:
        scheme, _, credentials = authorization.partition(" ")
        found.add(credentials.strip() if scheme.lower() == "bearer" else "")
    if len(found) != 1:
        return None
    key = found.pop().encode("latin-1", "replace")
    return key or None


def _without_credentials(headers: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """The headers that others may see, and the provider keys among the rest."""
    own_keys = {name: value for name, value in headers.items() if name.startswith(HEADER)}
    left = dict(headers)
    for name in _CREDENTIALS:
        left.pop(name, None)
    for name in own_keys:
        del left[name]
    return left, own_keys
