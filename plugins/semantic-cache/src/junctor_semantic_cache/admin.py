"""What the operator sees and does: `junctor semantic-cache …` and `/admin/semantic-cache`."""

from __future__ import annotations

import asyncio
import json
import sys
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

from junctor.errors import BadRequest, ConfigError
from junctor.server import AdminRoute
from starlette.responses import JSONResponse

from junctor_semantic_cache.store import Selection, StoreError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Mapping

    from starlette.requests import Request
    from starlette.routing import BaseRoute

    from junctor_semantic_cache.plugin import SemanticCache

__all__ = ["add_commands", "routes"]

_MATCHES = {"tag": "tags", "model": "model", "template": "template", "namespace": "namespace", "scope": "scope"}


def routes(cache: SemanticCache) -> Iterable[BaseRoute]:
    """`GET /admin/semantic-cache` reports, `POST /admin/semantic-cache/purge` empties."""

    async def report(request: Request) -> JSONResponse:
        ready = cache.engine is not None
        state = {"ready": ready, "trouble": None if ready else cache.trouble, "dropped": cache.keeper.dropped}
        return JSONResponse(state | {"namespaces": cache.namespaces.reports()})

    async def purge(request: Request) -> JSONResponse:
        try:
            body = json.loads(await request.body() or b"{}")
        except ValueError:
            raise BadRequest("the body is no JSON") from None
        if not isinstance(body, dict):
            raise BadRequest("the body must be an object")
        selection = read_selection(body)
        if cache.engine is None:
            raise BadRequest(f"the cache is not ready: {cache.trouble}", status_code=503)
        try:
            found = await cache.purges.purge(selection, cache.engine.store)
        except StoreError as error:
            raise BadRequest(str(error), status_code=503) from error
        return JSONResponse({"purged": found})

    yield AdminRoute("/admin/semantic-cache", report, methods=["GET"])
    yield AdminRoute("/admin/semantic-cache/purge", purge, methods=["POST"])


def read_selection(body: Mapping[str, Any]) -> Selection:
    """`{"tag": …, "model": …, "template": …, "namespace": …, "id": …, "older_than": seconds}`, or `{"all": true}`."""
    known = {*_MATCHES, "older_than", "all"}
    if unknown := set(body) - known:
        raise BadRequest(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(sorted(known))}")
    match = {field: str(body[name]) for name, field in _MATCHES.items() if name in body}
    before: dict[str, float] = {}
    if "older_than" in body:
        if not isinstance(body["older_than"], (int, float)):
            raise BadRequest("'older_than' must be a number of seconds", param="older_than")
        before["created"] = time.time() - body["older_than"]
    if not match and not before and body.get("all") is not True:
        raise BadRequest('say what to purge, or {"all": true}')
    return Selection(match, before)


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`junctor semantic-cache report | calibrate FILE | purge`."""
    parser = commands.add_parser("semantic-cache", help="report on, calibrate or purge the semantic cache")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    report = actions.add_parser("report", help="hits, estimated wrong answers with their bound, money, by namespace")
    report.add_argument("--json", action="store_true", help="as JSON")
    report.set_defaults(run=_report)
    calibrate = actions.add_parser("calibrate", help="learn from recorded traffic before serving")
    calibrate.add_argument("file", type=Path, help="JSON lines: request, response or answer, optional headers")
    calibrate.set_defaults(run=_calibrate)
    purge = actions.add_parser("purge", help="drop entries of the running gateway")
    for name in _MATCHES:
        purge.add_argument(f"--{name}")
    purge.add_argument("--older-than", type=float, metavar="SECONDS")
    purge.add_argument("--all", action="store_true", default=None)
    purge.set_defaults(run=_purge)


def _report(args: argparse.Namespace) -> int:
    cache = _cache(args)
    cache.namespaces.load()
    reports = cache.namespaces.reports()
    if args.json:
        print(json.dumps(reports, indent=1))
        return 0
    row = "{:<24}{:>7}{:>10}{:>8}{:>9}{:>9}{:>9}{:>9}{:>10}"
    print(row.format("namespace", "mode", "requests", "hits", "exact", "wrong", "bound", "labels", "net $"))
    for name, r in reports.items():
        shares = (f"{r['wrong_estimate']:.2%}", f"{r['wrong_bound_95']:.2%}")
        counts = (r["requests"], r["hits"], r["exact_hits"])
        print(row.format(name[:23], r["mode"], *counts, *shares, r["labels"], f"{r['net']:.2f}"))
    return 0


def _calibrate(args: argparse.Namespace) -> int:
    from junctor_semantic_cache.calibrate import calibrate

    cache = _cache(args)
    if not args.file.is_file():
        raise ConfigError(f"{args.file}: no such file")
    learned = asyncio.run(calibrate(cache, args.file))
    for name, labels in learned.items():
        print(f"{name}: {labels} labels")
    return 0


def _purge(args: argparse.Namespace) -> int:
    cache = _cache(args)
    names = [*_MATCHES, "older_than", "all"]
    body = {name: value for name in names if (value := getattr(args, name)) is not None}
    try:
        read_selection(body)
    except BadRequest as error:
        print(error, file=sys.stderr)
        return 2
    settings = cache.gateway.settings
    if settings.admin.key is None:
        raise ConfigError("admin.key: purging asks the running gateway, which needs an admin key")
    request = urllib.request.Request(
        f"http://{settings.server.host}:{settings.server.port}/admin/semantic-cache/purge",
        json.dumps(body).encode(),
        {"authorization": f"Bearer {settings.admin.key.get_secret_value()}", "content-type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            print(f"purged {json.load(answer)['purged']} entries")
    except OSError as error:
        print(f"the gateway does not answer: {error}", file=sys.stderr)
        return 1
    return 0


def _cache(args: argparse.Namespace) -> SemanticCache:
    """The plugin as the file configures it, not opened."""
    from junctor import config
    from junctor.gateway import Gateway

    gateway = Gateway(config.read(args.config or config.default_file()))
    return gateway.plugins.by_name["semantic_cache"]  # type: ignore[return-value]
