"""`junctor cache purge` and `junctor cache stats`."""

from __future__ import annotations

import asyncio
import http.client
import json
import sys
from typing import TYPE_CHECKING, Any

from junctor import ConfigError, config
from pydantic import ValidationError

from junctor_exact_cache.admin import Purge
from junctor_exact_cache.settings import ExactCacheSettings
from junctor_exact_cache.stores import StoreError, open_store

if TYPE_CHECKING:
    import argparse

    from junctor.config import Config

__all__ = ["add_commands"]

_FILTERS = {
    "tag": "entries that a client gave this tag (x-junctor-cache-tags)",
    "model": "entries of this model, by the name that clients use or as provider/model",
    "version": "entries of this model version, as the provider named it",
    "template": "entries of this version of a prompt template",
    "team": "entries of this team",
    "id": "this entry (x-junctor-cache-entry)",
    "older-than": "entries older than this: 30s, 10m, 1h, 7d",
}


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the word `cache` to the command line."""
    text = "Look at and empty the exact cache."
    parser = commands.add_parser("cache", help="look at and empty the exact cache", description=text)
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    purge = actions.add_parser(
        "purge",
        help="forget entries; all that is given must fit",
        description="Forget entries. A store in Redis or SQLite is emptied directly, one in memory through the running "
        "gateway (admin.key).",
    )
    for name, what in _FILTERS.items():
        purge.add_argument(f"--{name}", metavar=name.upper().replace("-", "_"), help=what)
    purge.add_argument("--all", action="store_true", help="everything")
    purge.set_defaults(run=_purge)
    stats = actions.add_parser("stats", help="what the store holds", description="What the store holds, as JSON.")
    stats.set_defaults(run=_stats)
    for action in (purge, stats):
        action.add_argument("--host", help="where the running gateway listens, instead of server.host")
        action.add_argument("--port", type=int, help="instead of server.port")


def _settings(read: Config) -> ExactCacheSettings:
    for section in read.sections:
        if isinstance(section.settings, ExactCacheSettings):
            return section.settings
    raise ConfigError(f"{read.file}: the plugin exact_cache is not enabled; add it under `plugins:`")


def _purge(args: argparse.Namespace) -> int:
    read = config.read(args.config or config.default_file())
    settings = _settings(read)
    given = {name.replace("-", "_"): getattr(args, name.replace("-", "_")) for name in _FILTERS}
    asked = {name: value for name, value in given.items() if value is not None} | {"all": args.all}
    try:
        which = Purge.model_validate(asked).filter()
    except ValidationError as error:
        print(f"--older-than: {error.errors()[0]['msg']}", file=sys.stderr)
        return 2
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2

    async def directly() -> dict[str, Any]:
        return {"purged": await store.purge(which)}

    store = open_store(settings.store)
    if store.shared:
        return _tell(_run(store, directly))
    return _tell(lambda: _ask(read, args, "POST", "/admin/cache/purge", json.dumps(asked)))


def _stats(args: argparse.Namespace) -> int:
    read = config.read(args.config or config.default_file())
    store = open_store(_settings(read).store)

    async def directly() -> dict[str, Any]:
        return (await store.stats())._asdict()

    if store.shared:
        return _tell(_run(store, directly))
    return _tell(lambda: _ask(read, args, "GET", "/admin/cache/stats", ""))


def _run(store: Any, directly: Any) -> Any:
    async def opened() -> dict[str, Any]:
        try:
            await store.open()
            found: dict[str, Any] = await directly()
            return found
        finally:
            await store.aclose()

    return lambda: asyncio.run(opened())


def _tell(ask: Any) -> int:
    try:
        print(json.dumps(ask()))
    except (StoreError, OSError, http.client.HTTPException) as error:
        print(f"the cache cannot be reached: {error}", file=sys.stderr)
        return 1
    return 0


def _ask(read: Config, args: argparse.Namespace, method: str, path: str, body: str) -> dict[str, Any]:
    """Ask the running gateway; raises OSError with its own words if it says no."""
    key = read.settings.admin.key
    if key is None:
        raise ConfigError(
            f"{read.file}: admin.key: is not set; the memory of a running gateway is reached through its admin paths: "
            "set `admin: {key: ${JUNCTOR_ADMIN_KEY}}`"
        )
    host = args.host or read.settings.server.host
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 (what it listens on, not what we do)
    connection = http.client.HTTPConnection(host, args.port or read.settings.server.port, timeout=60)
    try:
        headers = {"authorization": f"Bearer {key.get_secret_value()}", "content-type": "application/json"}
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        text = answer.read()
    finally:
        connection.close()
    if answer.status != 200:
        raise OSError(f"the gateway answered {answer.status}: {text[:500].decode('utf-8', 'replace')}")
    found: dict[str, Any] = json.loads(text)
    return found
