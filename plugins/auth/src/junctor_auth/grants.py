"""What a key stands for, and what a client may add to it."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from junctor import BadRequest, Client, NotFound, Refused

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from junctor import GatewayError, Request

    from junctor_auth.settings import ByokRule, Rights

__all__ = ["Grant", "attributed", "client_of", "expanded", "permit", "unauthorised"]

_ATTRIBUTE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@:/+=|-]{0,127}")
_HEADERS = {
    "feature": "x-junctor-feature",
    "project": "x-junctor-project",
    "end_user": "x-junctor-end-user",
}
# Anthropic's name for the same, on its wire.
_METADATA = {"feature": ("feature",), "project": ("project",), "end_user": ("end_user", "user_id")}


@dataclass(frozen=True, slots=True)
class Grant:
    """A key that is known. `digest` is the keyed digest it was found by, `expires` seconds since the epoch."""

    client: Client
    digest: bytes
    expires: float = float("inf")
    attribution: frozenset[str] = frozenset()
    byok: ByokRule = "off"


def unauthorised() -> GatewayError:
    """The one answer to a key that is missing, unknown, revoked, expired or doubtful: it tells nothing apart."""
    return Refused(
        "the API key is missing or not valid",
        status_code=401,
        type="authentication_error",
        code="invalid_api_key",
        headers={"www-authenticate": "Bearer"},
    )


def permit(client: Client, request: Request) -> None:
    """Refuse what the key does not allow. A model that it may not use does not exist for it.

    The list of models is open to every key: it shows no others than the key's own.
    """
    operation = request.operation
    if not request.for_model:
        return
    if client.endpoints is not None and operation not in client.endpoints:
        raise Refused(f"this key may not use '{operation}'", code="endpoint_not_allowed")
    if client.models is not None and request.model not in client.models:
        raise NotFound(f"the model '{request.model}' does not exist", code="model_not_found", param="model")


def expanded(patterns: Iterable[str] | None, models: Collection[str]) -> frozenset[str] | None:
    """The models that the patterns name; None is all of them."""
    if patterns is None:
        return None
    return frozenset(name for pattern in patterns for name in models if fnmatchcase(name, pattern))


def client_of(rights: Rights, models: Collection[str], *, key_id: str, name: str, expires: float | None) -> Client:
    """The client that a section of the file describes."""
    return Client(
        key_id=key_id,
        name=name,
        team=rights.team,
        project=rights.project,
        feature=rights.feature,
        tier=rights.tier,
        models=expanded(rights.models, models),
        endpoints=None if rights.endpoints is None else frozenset(rights.endpoints),
        tags=rights.tags,
        expires=expires,
    )


def attributed(client: Client, allowed: frozenset[str], request: Request) -> Client:
    """The client with what the request tells of itself, where the key allows it and says nothing itself.

    A header beats `metadata`, which beats OpenAI's `user`. What the key does not allow is not looked at; a header with
    other characters is refused, in the body (which is the provider's as well) it is passed over.
    """
    told: dict[str, Any] = {}
    metadata = request.body.get("metadata")
    for field in allowed:
        if not getattr(client, field):
            value = _from_header(field, request.headers) or _from_body(field, request.body, metadata)
            if value:
                told[field] = value
    return replace(client, **told) if told else client


def _from_header(field: str, headers: Mapping[str, str]) -> str | None:
    value = headers.get(_HEADERS[field])
    if value and not _ATTRIBUTE.fullmatch(value):
        raise BadRequest(
            f"the header {_HEADERS[field]} may have up to 128 letters, digits and _ . @ : / + = | -",
            code="invalid_attribution",
        )
    return value


def _from_body(field: str, body: Mapping[str, Any], metadata: object) -> str | None:
    candidates = [metadata.get(name) for name in _METADATA[field]] if isinstance(metadata, dict) else []
    if field == "end_user":
        candidates.append(body.get("user"))
    for value in candidates:
        if isinstance(value, str) and _ATTRIBUTE.fullmatch(value):
            return value
    return None
