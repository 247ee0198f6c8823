"""`junctor quotas show|set|reset`: straight to a shared store, or to the running gateway when its store is its own."""

from __future__ import annotations

import asyncio
import json
import sys
import urllib.error
import urllib.request
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from junctor import NanoDollars, config
from junctor.state import StateUnavailable, open_state
from pydantic import TypeAdapter

from junctor_quotas.limits import Limits, compile_limits
from junctor_quotas.reports import Book
from junctor_quotas.settings import QuotaSettings

if TYPE_CHECKING:
    import argparse

    from junctor.config import Config

    from junctor_quotas.limits import Limit

__all__ = ["add_commands"]

_DOLLARS = TypeAdapter(NanoDollars)
_AMOUNTS = ("limit", "used", "reserved", "remaining")
_MOMENTS = ("resets_at", "forecast")


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
    change.add_argument("--limit", help="in the limit's unit; money in dollars: 12.50")
    change.add_argument("--used", help="what counts as used in this window; money in dollars")


def _run(args: argparse.Namespace) -> int:
    read = config.read(args.config or config.default_file())
    try:
        limits = _limits(read)
        args.change = _change(args, limits)
        shared = read.settings.state.url.get_secret_value() != "memory://"
        rows = asyncio.run(_directly(args, read, limits)) if shared else _over_http(args, read)
    except KeyError:
        print(f"no limit '{args.name}' of {args.scope} was seen; see `junctor quotas show`", file=sys.stderr)
        return 1
    except (StateUnavailable, OSError, ValueError) as error:
        print(f"quotas: {error}", file=sys.stderr)
        return 1
    if rows is not None:
        _print(rows)
    return 0


def _limits(read: Config) -> Limits:
    for section in read.sections:
        if isinstance(section.settings, QuotaSettings):
            return Limits(compile_limits(section.settings.limits))
    raise ValueError("the file does not list the plugin `quotas`")


def _change(args: argparse.Namespace, limits: Limits) -> dict[str, int]:
    """What `set` and `reset` write, in the limit's unit; raises `KeyError` for a limit that is not in the file."""
    if args.action == "show":
        return {}
    limit = {limit.name: limit for limit in limits.all}[args.name]
    if args.action == "reset":
        return {"limit": -2, "used": 0}
    given = {name: getattr(args, name) for name in ("limit", "used") if getattr(args, name) is not None}
    if not given:
        raise ValueError("give --limit, --used, or both")
    return {name: _amount(f"--{name}", text, limit) for name, text in given.items()}


def _amount(option: str, text: str, limit: Limit) -> int:
    try:
        amount = int(_DOLLARS.validate_python(text)) if limit.dimension == "cost" else int(text)
    except ValueError:
        amount = -1
    if amount < 0:
        kind = "an amount of dollars, as 12.50" if limit.dimension == "cost" else "a whole number"
        raise ValueError(f"{option} {text}: '{limit.name}' counts {limit.dimension.replace('_', ' ')}; write {kind}")
    return amount


async def _directly(args: argparse.Namespace, read: Config, limits: Limits) -> list[dict[str, Any]] | None:
    state = open_state(read.settings.state.model_copy(update={"timeout": 5.0}))
    try:
        book = Book(state, limits)
        if args.action == "show":
            return await book.rows()
        await book.adjust(args.name, args.scope, **args.change)
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
        request.data = json.dumps({"name": args.name, "scope": args.scope, **args.change}).encode()
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
            body = json.load(answer)
    except urllib.error.HTTPError as error:
        if error.code == 404:
            raise KeyError(args.name) from None
        raise ValueError(f"the gateway answered {error.code}") from None
    return body if isinstance(body, list) else None


def _print(rows: list[dict[str, Any]]) -> None:
    columns = ("name", "scope", "window", *_AMOUNTS, *_MOMENTS, "queue")
    table = [columns, *(tuple(_cell(row, name) for name in columns) for row in rows)]
    widths = [max(len(line[place]) for line in table) for place in range(len(columns))]
    for line in table:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def _cell(row: dict[str, Any], name: str) -> str:
    value = row[name]
    if value is None:
        return "-"
    if name in _MOMENTS:
        return datetime.fromtimestamp(value, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return f"${value / 1e9:.6f}" if name in _AMOUNTS and row["dimension"] == "cost" else str(value)
