"""`junctor quotas show|set|reset`: straight to a shared store, or to the running gateway when its store is its own."""

from __future__ import annotations

import asyncio
import json
import sys
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

from junctor import config
from junctor.state import StateUnavailable, open_state

from junctor_quotas.limits import Limits, compile_limits
from junctor_quotas.reports import Book

if TYPE_CHECKING:
    import argparse

    from junctor.config import Config

__all__ = ["add_commands"]


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `quotas` and its actions."""
    parser = commands.add_parser("quotas", help="show, set and reset what limits have counted")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    actions.add_parser("show", help="every scope: used, reserved, remaining").set_defaults(run=_run)
    change = actions.add_parser("set", help="another limit, or another count, for one scope")
    reset = actions.add_parser("reset", help="the configured limit, and nothing used")
    for parser in (change, reset):
        parser.add_argument("name", help="the limit's name, as `show` prints it")
        parser.add_argument("scope", nargs="?", default="global", help="as `show` prints it: team=search")
        parser.set_defaults(run=_run)
    change.add_argument("--limit", type=int, default=-1, help="in the limit's unit; money in nano-dollars")
    change.add_argument("--used", type=int, default=-1, help="what counts as used in this window")


def _run(args: argparse.Namespace) -> int:
    read = config.read(args.config or config.default_file())
    if args.action == "reset":
        args.limit, args.used = -2, 0
    try:
        shared = read.settings.state.url.get_secret_value() != "memory://"
        rows = asyncio.run(_directly(args, read)) if shared else _over_http(args, read)
    except KeyError:
        print(f"no limit '{args.name}' of {args.scope} was seen; see `junctor quotas show`", file=sys.stderr)
        return 1
    except (StateUnavailable, OSError, ValueError) as error:
        print(f"quotas: {error}", file=sys.stderr)
        return 1
    if rows is not None:
        _print(rows)
    return 0


async def _directly(args: argparse.Namespace, read: Config) -> list[dict[str, Any]] | None:
    settings = next(section.settings for section in read.sections if section.name == "quotas")
    state = open_state(read.settings.state.model_copy(update={"timeout": 5.0}))
    try:
        book = Book(state, Limits(compile_limits(settings.limits)))  # type: ignore[attr-defined]
        if args.action == "show":
            return await book.rows()
        await book.adjust(args.name, args.scope, limit=args.limit, used=args.used)
        return None
    finally:
        await state.aclose()


def _over_http(args: argparse.Namespace, read: Config) -> list[dict[str, Any]] | None:
    settings = read.settings
    if settings.admin.key is None:
        raise ValueError("state.url is memory://, so the running gateway must be asked: set `admin.key`")
    request = urllib.request.Request(
        f"http://{settings.server.host}:{settings.server.port}/admin/quotas",
        headers={"authorization": f"Bearer {settings.admin.key.get_secret_value()}"},
    )
    if args.action != "show":
        change = {"name": args.name, "scope": args.scope, "limit": args.limit, "used": args.used}
        request.data = json.dumps(change).encode()
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
            body = json.load(answer)
    except urllib.error.HTTPError as error:
        if error.code == 404:
            raise KeyError(args.name) from None
        raise ValueError(f"the gateway answered {error.code}") from None
    return body if isinstance(body, list) else None


def _print(rows: list[dict[str, Any]]) -> None:
    columns = ("name", "scope", "window", "limit", "used", "reserved", "remaining", "queue")
    table = [columns, *(tuple("-" if row[name] is None else str(row[name]) for name in columns) for row in rows)]
    widths = [max(len(line[place]) for line in table) for place in range(len(columns))]
    for line in table:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())
