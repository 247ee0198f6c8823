"""What makes two requests the same one: the key of an entry, and who may see it.

A key has two parts, `scope.content`, both keyed digests. The scope says for whom an answer was made, the content is
everything that can change it. The scope goes into the second part as well, so that equal prompts of two teams have
nothing in common.
"""

from __future__ import annotations

import os
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, NamedTuple

from junctor.jsons import canonical
from junctor.sharing import decided_of, keys_brought, owner_of

if TYPE_CHECKING:
    from junctor import Exchange

    from junctor_exact_cache.settings import ExactCacheSettings

__all__ = ["Key", "Keys"]

_NOT_CONTENT = ("model", "stream", "stream_options", "user", "metadata")
_REMEMBERED = 4096


class Key(NamedTuple):
    """The entry's id, whose it is in plain words (kept with the entry and compared), and the template's version."""

    id: str
    scope: str
    template: str


class Keys:
    """Makes keys. `secret` keys the digests; without one they are good for this process only."""

    def __init__(self, settings: ExactCacheSettings) -> None:
        secret = settings.secret.get_secret_value().encode() if settings.secret else os.urandom(32)
        self._secret = blake2b(secret, digest_size=32, person=b"junctor-exact").digest()
        self._kind = settings.scope
        self._scope_header = settings.scope_header
        self._templates = settings.template_headers
        self._headers = sorted({*settings.key_headers, *settings.template_headers})
        self._left_out = frozenset((*_NOT_CONTENT, *settings.ignore))
        self._first_only = settings.targets == "first"
        self._scopes: dict[Any, tuple[str, str]] = {}

    def of(self, exchange: Exchange) -> Key:
        """The key of this request, as it would be sent to its targets now."""
        request = exchange.request
        headers = request.headers
        part, scope = self._scope(exchange)
        left_out = self._left_out
        template = next((headers[name] for name in self._templates if name in headers), "")
        content = [
            scope,
            request.wire.name,
            request.operation,
            decided_of(exchange, exchange.targets[:1] if self._first_only else exchange.targets),
            [[name, headers[name]] for name in self._headers if name in headers],
            {name: _plain(value) for name, value in request.body.items() if name not in left_out},
        ]
        digest = blake2b(canonical(content), digest_size=16, key=self._secret).hexdigest()
        return Key(f"{part}.{digest}", scope, template)

    def _scope(self, exchange: Exchange) -> tuple[str, str]:
        client, headers = exchange.client, exchange.request.headers
        tenant = headers.get(self._scope_header) if self._scope_header else None
        if (brought := keys_brought(exchange)) is not None:
            return self._scope_digest(self._own_scope(exchange, brought, tenant))
        known = (client.team, client.project, client.key_id, client.name, tenant)
        found = self._scopes.get(known)
        if found is None:
            if len(self._scopes) >= _REMEMBERED:
                self._scopes.clear()
            found = self._scopes[known] = self._scope_digest([*owner_of(client, self._kind), "tenant", tenant])
        return found

    def _own_scope(self, exchange: Exchange, brought: list[list[str]], tenant: str | None) -> list[Any]:
        """A client that brings its provider key shares with nobody who does not bring the same one."""
        kind = self._kind
        if not brought:  # in some other way: everything that looks like one counts
            kind = "key"
            headers = exchange.request.headers.items()
            brought = sorted([name, text] for name, text in headers if _is_credential(name))
            brought += [["", target.api_key or ""] for target in exchange.targets]
        digest = blake2b(canonical(brought), digest_size=16, key=self._secret).hexdigest()
        return ["byok", *owner_of(exchange.client, kind), digest, "tenant", tenant]

    def _scope_digest(self, scope: list[Any]) -> tuple[str, str]:
        text = canonical(scope)
        return blake2b(text, digest_size=8, key=self._secret).hexdigest(), text.decode()


def _is_credential(header: str) -> bool:
    return header == "authorization" or "key" in header or "token" in header


def _plain(value: Any) -> Any:
    """1.0 and 1 are the same number in JSON; SDKs differ in how they write a temperature."""
    return int(value) if type(value) is float and value.is_integer() and abs(value) < 2**53 else value
