"""`/admin/keys` and `/admin/provider-keys`: what `junctor keys` does, over HTTP, for the operator."""

from __future__ import annotations

import logging
import re
import time
from typing import TYPE_CHECKING, Any, TypeVar

from junctor import BadRequest, ConfigError, Duration, GatewayError, NotFound, Section, jsons
from junctor.own_port import OwnPort
from junctor.problems import problems_of
from junctor.server import AdminRoute
from pydantic import SecretStr, ValidationError, field_validator
from starlette.responses import Response

from junctor_auth.byok import PROVIDER_KEY
from junctor_auth.settings import NAME, Moment, NewKey
from junctor_auth.store import KeyStore, NotThere, StoreFailed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from starlette.requests import Request
    from starlette.routing import BaseRoute

    from junctor_auth.mirror import Mirror
    from junctor_auth.settings import AuthSettings

__all__ = ["admin_port", "admin_routes"]

_log = logging.getLogger("junctor.auth")
_MAX_BODY = 64 * 1024
_Model = TypeVar("_Model", bound=Section)


class _Rotate(Section):
    grace: Duration = 0.0


class _Expire(Section):
    at: Moment | None = None
    within: Duration | None = None
    never: bool = False


class _ProviderKey(Section):
    key: SecretStr

    @field_validator("key")
    @classmethod
    def _is_a_key(cls, key: SecretStr) -> SecretStr:
        if not PROVIDER_KEY.fullmatch(key.get_secret_value()):
            raise ValueError("is no key: 8 to 1024 characters without spaces")
        return key


class _Keys:
    """The operations, each as a Starlette endpoint. Every change is seen by this worker before it is answered."""

    def __init__(self, mirror: Mirror) -> None:
        self._mirror = mirror

    async def list(self, request: Request) -> Response:
        team = request.query_params.get("team")
        keys = await self._mirror.run(lambda store: store.all_keys(team=team))
        return _json({"data": [key.public() for key in keys]})

    async def create(self, request: Request) -> Response:
        asked = await _body(request, NewKey)
        ends = asked.ends(time.time())
        key, kept = await self._mirror.run(lambda store: store.create(asked.name, asked.rights, expires=ends))
        _log.info("key %s ('%s') was made", kept.id, kept.name)
        return _json({"key": key, **kept.public()}, 201)

    async def show(self, request: Request) -> Response:
        return await self._one(request, KeyStore.get)

    async def revoke(self, request: Request) -> Response:
        _log.info("key %s is revoked", _shown(request))
        return await self._one(request, KeyStore.revoke)

    async def rotate(self, request: Request) -> Response:
        asked = await _body(request, _Rotate)
        key_id = request.path_params["id"]
        key, kept = await self._mirror.run(lambda store: store.rotate(key_id, grace=asked.grace))
        _log.info("key %s has a new secret", kept.id)
        return _json({"key": key, **kept.public()})

    async def expire(self, request: Request) -> Response:
        asked = await _body(request, _Expire)
        at: float | None = time.time() + (asked.within or 0.0)
        if asked.at is not None:
            at = asked.at.timestamp()
        end = None if asked.never else at
        return await self._one(request, lambda store, key_id: store.expire(key_id, end))

    async def _one(self, request: Request, change: Callable[[KeyStore, str], Any]) -> Response:
        key_id = request.path_params["id"]
        kept = await self._mirror.run(lambda store: change(store, key_id))
        return _json(kept.public())

    async def provider_keys(self, request: Request) -> Response:
        rows = await self._mirror.run(KeyStore.provider_keys)
        shown = [{"team": r.team, "provider": r.provider, "hint": r.hint, "created": r.created} for r in rows]
        return _json({"data": shown})

    async def set_provider_key(self, request: Request) -> Response:
        team, provider = _place(request)
        asked = await _body(request, _ProviderKey)
        await self._mirror.run(lambda store: store.set_provider_key(team, provider, asked.key.get_secret_value()))
        _log.info("team '%s' has a key for '%s'", team, provider)
        return _json({"team": team, "provider": provider})

    async def remove_provider_key(self, request: Request) -> Response:
        team, provider = _place(request)
        await self._mirror.run(lambda store: store.remove_provider_key(team, provider))
        _log.info("the key of team '%s' for '%s' was removed", team, provider)
        return _json({"team": team, "provider": provider, "removed": True})


def admin_routes(mirror: Mirror, key: SecretStr | None) -> list[BaseRoute]:
    """The paths, guarded by `key`, or by `admin.key` without one."""
    keys = _Keys(mirror)
    paths: Sequence[tuple[str, str, Callable[[Request], Awaitable[Response]]]] = (
        ("GET", "/admin/keys", keys.list),
        ("POST", "/admin/keys", keys.create),
        ("GET", "/admin/keys/{id}", keys.show),
        ("DELETE", "/admin/keys/{id}", keys.revoke),
        ("POST", "/admin/keys/{id}/revoke", keys.revoke),
        ("POST", "/admin/keys/{id}/rotate", keys.rotate),
        ("POST", "/admin/keys/{id}/expire", keys.expire),
        ("GET", "/admin/provider-keys", keys.provider_keys),
        ("PUT", "/admin/provider-keys/{team}/{provider}", keys.set_provider_key),
        ("DELETE", "/admin/provider-keys/{team}/{provider}", keys.remove_provider_key),
    )
    return [AdminRoute(path, _answering(endpoint), methods=[method], key=key) for method, path, endpoint in paths]


def _answering(endpoint: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    """The endpoint, with the store's errors as answers."""

    async def answer(request: Request) -> Response:
        try:
            return await endpoint(request)
        except NotThere as error:
            raise NotFound(str(error), code="key_not_found") from error
        except ConfigError as error:
            raise BadRequest(str(error), status_code=409, code="not_configured") from error
        except StoreFailed as error:
            raise GatewayError(str(error), status_code=503, code="store_unavailable", retry_after=1.0) from error

    return answer


async def _body(request: Request, model: type[_Model]) -> _Model:
    raw = b""
    async for part in request.stream():
        raw += part
        if len(raw) > _MAX_BODY:
            raise BadRequest("the body is too large", status_code=413, code="request_too_large")
    try:
        return model.model_validate(jsons.loads(raw) if raw else {})
    except ValidationError as error:
        raise BadRequest("; ".join(problems_of(error, model)), code="invalid_request") from None
    except ValueError:
        raise BadRequest("the body is not JSON", code="invalid_json") from None


def _place(request: Request) -> tuple[str, str]:
    team, provider = request.path_params["team"], request.path_params["provider"]
    if not re.match(NAME, team) or not re.match(NAME, provider):
        raise BadRequest("team and provider are up to 64 letters, digits and _ . @ : / -", code="invalid_name")
    return team, provider


def _shown(request: Request) -> str:
    return re.sub(r"[^0-9a-f]", "?", str(request.path_params["id"]))[:12]


def _json(value: Any, status: int = 200) -> Response:
    return Response(jsons.dumps(value), status, {"cache-control": "no-store"}, "application/json")


def admin_port(settings: AuthSettings, routes: Sequence[BaseRoute]) -> OwnPort:
    """The admin paths on a port of their own; all workers see the same store."""
    for route in routes:
        if isinstance(route, AdminRoute):
            route.guard(settings.admin_key)
    return OwnPort(settings.admin_host, settings.admin_port or 0, routes, setting="auth: admin_port")
