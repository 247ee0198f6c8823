"""What the operator does: `POST /admin/cache/purge`, `GET /admin/cache/stats`, and a purge in every process."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Annotated, Any

from junctor import BadRequest, Duration, GatewayError, Section, jsons
from junctor.errors import PayloadTooLarge
from junctor.problems import problems_of
from junctor.server import AdminRoute
from junctor.state import StateUnavailable
from pydantic import Field, ValidationError
from starlette.responses import JSONResponse

from junctor_exact_cache.entry import Filter
from junctor_exact_cache.stores import StoreError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from junctor.state import State
    from starlette.requests import Request

    from junctor_exact_cache.plugin import ExactCache

__all__ = ["Admin", "Purge", "announce", "listen"]

_log = logging.getLogger("junctor.exact_cache")
_CHANNEL = "exact-cache:purge"
_MAX_BODY = 64 * 1024
_Text = Annotated[str | None, Field(max_length=512)]


class Purge(Section):
    """Which entries to forget: all that is given must fit an entry. `all` is needed to forget everything."""

    tag: _Text = None
    model: _Text = None
    version: _Text = None
    template: _Text = None
    team: _Text = None
    id: _Text = None
    older_than: Duration | None = None
    all: bool = False

    def filter(self) -> Filter:
        """Raises ValueError if nothing says which."""
        before = None if self.older_than is None else time.time() - self.older_than
        which = Filter(self.tag, self.model, self.version, self.template, self.team, self.id, before)
        if which == Filter() and not self.all:
            raise ValueError("say which: tag, model, version, template, team, id, older_than, or all")
        return which


class Admin:
    """The paths below `/admin/cache`."""

    def __init__(self, cache: ExactCache) -> None:
        self._cache = cache

    def routes(self) -> list[AdminRoute]:
        return [
            AdminRoute("/admin/cache/purge", self._purge, methods=["POST"]),
            AdminRoute("/admin/cache/stats", self._stats, methods=["GET"]),
        ]

    async def _purge(self, request: Request) -> JSONResponse:
        which = read_purge(await _body(request))
        try:
            gone = await self._cache.purge(which)
        except (StoreError, StateUnavailable) as error:
            raise _unavailable(error) from error
        _log.info("%d entries of the exact cache were purged", gone)
        return JSONResponse({"purged": gone})

    async def _stats(self, request: Request) -> JSONResponse:
        try:
            return JSONResponse(await self._cache.stats())
        except StoreError as error:
            raise _unavailable(error) from error


async def _body(request: Request) -> bytes:
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > _MAX_BODY:
            raise PayloadTooLarge(f"the body is larger than {_MAX_BODY} bytes")
    return body


def read_purge(body: bytes) -> Filter:
    """The filter that a request's body describes; raises `BadRequest`."""
    try:
        return Purge.model_validate(jsons.loads(body or b"{}")).filter()
    except ValidationError as error:
        raise BadRequest("; ".join(problems_of(error, Purge)), code="invalid_value") from None
    except ValueError as error:
        raise BadRequest(str(error), code="invalid_value") from None


def _unavailable(error: Exception) -> GatewayError:
    return GatewayError(str(error), status_code=503, code="store_unavailable")


async def announce(state: State, which: Filter) -> None:
    """Tell the other processes, each of which has a memory of its own."""
    await state.publish(_CHANNEL, jsons.dumps(which._asdict()))


async def listen(state: State, purge: Callable[[Filter], Awaitable[Any]]) -> None:
    """Do what other processes announce. Cancel this task at the end."""
    async for message in state.subscribe(_CHANNEL):
        try:
            await purge(Filter(**jsons.loads(message)))
        except (ValueError, TypeError, StoreError) as error:
            _log.warning("a purge of another process was not understood or not done: %s", error)
