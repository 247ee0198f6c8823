"""The paths below `/dashboard`: the page and its files, login and logout, events, costs and stories."""

from __future__ import annotations

import asyncio
import hashlib
import time
from importlib import resources
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from junctor import jsons
from junctor.errors import GatewayError
from starlette.responses import RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from junctor_dashboard.ledger import RANGES, Ledger
from junctor_dashboard.session import COOKIE
from junctor_dashboard.story import as_json
from junctor_dashboard.traffic import DIMENSIONS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from starlette.requests import Request

    from junctor_dashboard.hub import Hub
    from junctor_dashboard.session import Session, Sessions
    from junctor_dashboard.traffic import Traffic

__all__ = ["Pages"]

_KINDS = {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8", "svg": "image/svg+xml"}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    # With no-referrer a browser says `Origin: null` even of the page's own forms.
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
_MOST_BODY = 8192
_HEARTBEAT = 10.0


class Pages:
    """Answers for the page. `secure` is None for: as the request came."""

    def __init__(
        self, sessions: Sessions, hub: Hub, traffic: Traffic, ledger: Ledger, *, secure: bool | None, watchers: int
    ) -> None:
        self._sessions = sessions
        self._hub = hub
        self._traffic = traffic
        self._ledger = ledger
        self._secure = secure
        self._watchers = watchers
        folder = resources.files("junctor_dashboard") / "static"
        self._files = {file.name: file.read_bytes() for file in folder.iterdir() if "." in file.name}
        self._tags = {name: f'"{hashlib.sha256(data).hexdigest()[:20]}"' for name, data in self._files.items()}

    def routes(self) -> list[Route]:
        return [
            Route("/dashboard", self._page, methods=["GET"]),
            Route("/dashboard/login", self._login_page, methods=["GET"]),
            Route("/dashboard/login", self._login, methods=["POST"]),
            Route("/dashboard/logout", self._logout, methods=["POST"]),
            Route("/dashboard/static/{name}", self._file, methods=["GET"]),
            Route("/dashboard/events", self._guarded(self._events), methods=["GET"]),
            Route("/dashboard/costs", self._guarded(self._costs), methods=["GET"]),
            Route("/dashboard/exchanges", self._guarded(self._find), methods=["GET"]),
            Route("/dashboard/exchanges/{key}", self._guarded(self._story), methods=["GET"]),
        ]

    # ---- the page, and who may see it

    async def _session(self, request: Request) -> Session | None:
        return await self._sessions.of(request.cookies.get(COOKIE))

    def _guarded(self, answer: Callable[[Request, Session], Awaitable[Response]]) -> Callable[..., Awaitable[Response]]:
        async def guarded(request: Request) -> Response:
            session = await self._session(request)
            if session is None:
                return _json({"error": "log in at /dashboard"}, 401)
            return await answer(request, session)

        return guarded

    async def _page(self, request: Request) -> Response:
        session = await self._session(request)
        if session is None:
            return RedirectResponse("/dashboard/login", 303, headers=_never_kept())
        return self._html("index.html", csrf=session.csrf)

    async def _login_page(self, request: Request) -> Response:
        if await self._session(request) is not None:
            return RedirectResponse("/dashboard", 303, headers=_never_kept())
        return self._html("login.html", message="")

    async def _login(self, request: Request) -> Response:
        if not _same_origin(request):
            return self._html("login.html", 403, message="This form was sent from another site.")
        address = request.client.host if request.client else ""
        if not await self._sessions.may_try(address):
            page = self._html("login.html", 429, message="Too many attempts. Wait a minute, then try again.")
            page.headers["retry-after"] = "60"
            return page
        form = await _form(request)
        if not self._sessions.right(form.get("key", "")):
            return self._html("login.html", 401, message="This is not the admin key.")
        _, cookie = self._sessions.begin()
        answer = RedirectResponse("/dashboard", 303, headers=_never_kept())
        self._set_cookie(request, answer, cookie, int(self._sessions.lifetime))
        return answer

    async def _logout(self, request: Request) -> Response:
        session = await self._session(request)
        form = await _form(request)
        if session is not None:
            # Equal only for the page that was given this session's own word.
            if not _same_origin(request) or not self._sessions.equal(form.get("csrf", ""), session.csrf):
                return _json({"error": "this action did not come from the page"}, 403)
            await self._sessions.end(session)
        answer = RedirectResponse("/dashboard/login", 303, headers=_never_kept())
        self._set_cookie(request, answer, "", 0)
        return answer

    def _set_cookie(self, request: Request, answer: Response, value: str, seconds: int) -> None:
        secure = request.url.scheme == "https" if self._secure is None else self._secure
        answer.set_cookie(
            COOKIE, value, max_age=seconds, path="/dashboard", httponly=True, samesite="strict", secure=secure
        )

    def _html(self, name: str, status: int = 200, **words: str) -> Response:
        text = self._files[name].decode()
        for word, value in words.items():
            text = text.replace("{{" + word + "}}", value)
        return Response(text, status, _never_kept(), media_type="text/html")

    async def _file(self, request: Request) -> Response:
        name = request.path_params["name"]
        kind = _KINDS.get(name.rpartition(".")[2])
        if kind is None or name not in self._files:
            return _json({"error": "there is no such file"}, 404)
        headers = {**_HEADERS, "cache-control": "no-cache", "etag": self._tags[name]}
        if request.headers.get("if-none-match") == self._tags[name]:
            return Response(b"", 304, headers)
        return Response(self._files[name], 200, headers, media_type=kind)

    # ---- what it shows

    async def _events(self, request: Request, session: Session) -> Response:
        if len(self._hub.watchers) >= self._watchers:
            return _json({"error": "too many pages are open already"}, 503)
        headers = _never_kept() | {"x-accel-buffering": "no"}
        return StreamingResponse(self._told(request, session), 200, headers, media_type="text/event-stream")

    async def _told(self, request: Request, session: Session) -> AsyncIterator[bytes]:
        """`exchanges` has new lines of the list, `snapshot` the sections that have changed."""
        watcher = self._hub.watch()
        cookie = request.cookies.get(COOKIE)
        heard = checked = time.monotonic()
        try:
            yield b": watching\n\n"
            while time.time() < session.expires:
                try:
                    async with asyncio.timeout(1.0):
                        await watcher.news.wait()
                except TimeoutError:
                    pass
                watcher.news.clear()
                now = time.monotonic()
                if now - checked > 1.0:  # a logout anywhere ends it
                    checked = now
                    if await self._sessions.of(cookie) is None:
                        break
                for event in _events_of(watcher, self._hub.sections):
                    heard = now
                    yield event
                if now - heard > _HEARTBEAT:
                    heard = now
                    yield b": still here\n\n"
            yield b"event: over\ndata: {}\n\n"
        finally:
            self._hub.leave(watcher)

    async def _costs(self, request: Request, session: Session) -> Response:
        by, span = request.query_params.get("by", "team"), request.query_params.get("range", "hour")
        if by not in DIMENSIONS or span not in ("hour", *RANGES):
            return _json({"error": f"by: {', '.join(DIMENSIONS)}; range: hour, {', '.join(RANGES)}"}, 400)
        if span == "hour":
            return _json(await self._hub.costs(by))
        try:
            return _json(await self._ledger.costs(by, span))
        except GatewayError as error:
            return _json({"error": error.message}, error.status_code)

    async def _find(self, request: Request, session: Session) -> Response:
        """Exchanges by their request id: those in memory, then those that the log knows."""
        wanted = request.query_params.get("id", "")[:200]
        found = [story for story in self._traffic.stories if story["id"] == wanted]
        return _json({"exchanges": found[::-1] or await self._ledger.stories("id", wanted)})

    async def _story(self, request: Request, session: Session) -> Response:
        key = request.path_params["key"]
        found = next((story for story in self._traffic.stories if story["key"] == key), None)
        if found is None:
            return _json({"error": "this exchange is no longer in memory"}, 404)
        return _json(found)


def _events_of(watcher: Any, sections: Mapping[str, bytes]) -> list[bytes]:
    found = []
    if watcher.lines:
        lines = list(watcher.lines)
        watcher.lines.clear()
        found.append(b"event: exchanges\ndata: " + jsons.dumps(lines) + b"\n\n")
    snapshot = watcher.fresh(sections)
    if snapshot is not None:
        found.append(b"event: snapshot\ndata: " + snapshot + b"\n\n")
    return found


def _never_kept() -> dict[str, str]:
    return {**_HEADERS, "cache-control": "no-store"}


def _json(value: Any, status: int = 200) -> Response:
    return Response(as_json(value), status, _never_kept(), media_type="application/json")


def _same_origin(request: Request) -> bool:
    """Whether the browser says that the form is the page's own; what sends neither header is no browser."""
    origin = request.headers.get("origin")
    if origin is not None:
        return urlsplit(origin).netloc == request.headers.get("host")
    return request.headers.get("sec-fetch-site", "none") in ("same-origin", "none")


async def _form(request: Request) -> dict[str, str]:
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > _MOST_BODY:
            return {}
    fields = parse_qs(body.decode("utf-8", "replace"), max_num_fields=8, keep_blank_values=True)
    return {name: values[0] for name, values in fields.items()}
