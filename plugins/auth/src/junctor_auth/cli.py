"""`junctor keys`: make, list, revoke, rotate and expire the keys of the store, with or without a running gateway."""

from __future__ import annotations

import json
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from junctor import ConfigError, Duration
from junctor.problems import close_match, problems_of
from pydantic import TypeAdapter, ValidationError

from junctor_auth.byok import PROVIDER_KEY
from junctor_auth.settings import AuthSettings, Moment, NewKey

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable

    from junctor.config import Config

    from junctor_auth.store import KeyStore, StoredKey

__all__ = ["add_commands"]

_LISTS = ("models", "endpoints", "allow_attribution")


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `keys` and the actions below it."""
    keys = commands.add_parser("keys", help="client keys of the store", description="Client keys of the store.")
    actions = keys.add_subparsers(dest="action", required=True, metavar="ACTION")
    _add_create(_action(actions, "create", "make a key; it is printed this once", _create))
    listing = _action(actions, "list", "show the keys, without their secrets", _list)
    listing.add_argument("--team", help="only this team's")
    listing.add_argument("--json", action="store_true", help="one JSON object a line")
    _id(_action(actions, "revoke", "end a key for ever, within a second everywhere", _revoke))
    rotate = _action(actions, "rotate", "give a key another secret; its id and rights stay", _rotate)
    _id(rotate)
    rotate.add_argument("--grace", default="0s", metavar="DURATION", help="how long the old secret still works")
    expire = _action(actions, "expire", "let a key end now, or at a time", _expire)
    _id(expire)
    when = expire.add_mutually_exclusive_group()
    when.add_argument("--in", dest="within", metavar="DURATION", help="for example 7d")
    when.add_argument("--at", metavar="TIME", help="for example 2030-01-31 or 2030-01-31T12:00+01:00")
    when.add_argument("--never", action="store_true", help="take the end away")
    _add_provider(_action(actions, "provider", "keys that teams have at providers", None))


def _action(actions: Any, name: str, text: str, run: Callable[..., int] | None) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    if run is not None:
        parser.set_defaults(run=_guarded(run))
    return parser


def _id(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("id", metavar="ID", help="the key's id, as `keys list` shows it")


def _add_create(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="names the key in logs and reports")
    for name in ("team", "project", "feature", "tier"):
        parser.add_argument(f"--{name}", default="")
    parser.add_argument("--models", metavar="A,B", help="models that it may use; all without it")
    parser.add_argument("--endpoints", metavar="A,B", help="chat, completions, embeddings …; all without it")
    parser.add_argument("--tag", action="append", default=[], metavar="NAME=VALUE", help="may be given several times")
    parser.add_argument("--allow-attribution", metavar="A,B", help="of feature, project, end_user")
    parser.add_argument("--byok", choices=("off", "allowed", "required"), help="provider keys of its own")
    parser.add_argument("--expires", metavar="TIME", help="for example 2030-01-31")
    parser.add_argument("--expires-in", metavar="DURATION", help="for example 90d")


def _add_provider(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="provider_action", required=True, metavar="ACTION")
    _action(actions, "list", "show whose keys are kept", _list_provider_keys)
    for name, text, run in (
        ("set", "keep a team's key, read from standard input, encrypted", _set_provider_key),
        ("remove", "forget a team's key", _remove_provider_key),
    ):
        action = _action(actions, name, text, run)
        action.add_argument("team", metavar="TEAM")
        action.add_argument("provider", metavar="PROVIDER")


def _guarded(run: Callable[[argparse.Namespace, KeyStore, Config], int]) -> Callable[[argparse.Namespace], int]:
    """The command with the store open, and its failures told in a line."""

    def guarded(args: argparse.Namespace) -> int:
        from junctor.config import read

        from junctor_auth.store import KeyStore, NotThere, StoreFailed

        config = read(args.config)
        settings = next((s.settings for s in config.sections if isinstance(s.settings, AuthSettings)), None)
        if settings is None:
            raise ConfigError(config.problems or f"{config.file}: `plugins:` does not list `auth`")
        if settings.store is None:
            raise ConfigError(f"{config.file}: auth.store: is not set; `store: true` keeps keys in an SQLite file")
        store = KeyStore(settings.store)
        try:
            store.prepare()
            return run(args, store, config)
        except (NotThere, StoreFailed) as error:
            raise ConfigError(f"keys: {error}") from error
        except ValidationError as error:
            raise ConfigError([f"keys: {problem}" for problem in problems_of(error, NewKey)]) from None
        finally:
            store.close()

    return guarded


def _create(args: argparse.Namespace, store: KeyStore, config: Config) -> int:
    given = {name: getattr(args, name) for name in NewKey.model_fields if getattr(args, name, None)}
    given |= {name: given[name].split(",") for name in _LISTS if name in given}
    given["tags"] = dict(tag.partition("=")[::2] for tag in args.tag)
    asked = NewKey.model_validate(given)
    for name in asked.models or ():
        if name not in config.models and not any(mark in name for mark in "*?["):
            raise ConfigError(f"keys: --models: no model is named '{name}'{close_match(name, config.models)}")
    key, kept = store.create(asked.name, asked.rights, expires=asked.ends(time.time()))
    print(f"key {kept.id} is made; this is the only time that it is shown:", file=sys.stderr)
    print(key)
    return 0


def _list(args: argparse.Namespace, store: KeyStore, config: Config) -> int:
    keys = store.all_keys(team=args.team)
    if args.json:
        for key in keys:
            print(json.dumps(key.public()))
        return 0
    _table(("ID", "NAME", "TEAM", "STATE", "EXPIRES", "MODELS"), [_row(key) for key in keys])
    return 0


def _row(key: StoredKey) -> tuple[str, ...]:
    models = key.rights.get("models")
    shown = "all" if models is None else ",".join(models) or "none"
    return key.id, key.name, key.rights.get("team", "") or "-", key.state, _time(key.expires), shown


def _revoke(args: argparse.Namespace, store: KeyStore, config: Config) -> int:
    store.revoke(args.id)
    print(f"key {args.id} is revoked")
    return 0


def _rotate(args: argparse.Namespace, store: KeyStore, config: Config) -> int:
    grace = _seconds(args.grace)
    key, _ = store.rotate(args.id, grace=grace)
    until = f" until {_time(time.time() + grace)}" if grace else " no more"
    print(f"key {args.id} has a new secret, shown only now; the old one works{until}:", file=sys.stderr)
    print(key)
    return 0


def _expire(args: argparse.Namespace, store: KeyStore, config: Config) -> int:
    at: float | None = time.time() + (_seconds(args.within) if args.within else 0.0)
    if args.at:
        at = _parsed(Moment, args.at, "time").timestamp()
    kept = store.expire(args.id, None if args.never else at)
    print(f"key {args.id} ends {_time(kept.expires)}")
    return 0


def _set_provider_key(args: argparse.Namespace, store: KeyStore, config: Config) -> int:
    providers = {target.provider for model in config.models.values() for target in model.targets}
    if args.provider not in providers:
        raise ConfigError(f"keys: no target is of '{args.provider}'{close_match(args.provider, providers)}")
    key = sys.stdin.readline().strip()
    if not PROVIDER_KEY.fullmatch(key):
        raise ConfigError('keys: standard input does not hold a key; for example `echo "$KEY" | junctor keys …`')
    store.set_provider_key(args.team, args.provider, key)
    print(f"team '{args.team}' has a key for '{args.provider}'")
    return 0


def _remove_provider_key(args: argparse.Namespace, store: KeyStore, config: Config) -> int:
    store.remove_provider_key(args.team, args.provider)
    print(f"the key of team '{args.team}' for '{args.provider}' was removed")
    return 0


def _list_provider_keys(args: argparse.Namespace, store: KeyStore, config: Config) -> int:
    rows = [(row.team, row.provider, f"…{row.hint}", _time(row.created)) for row in store.provider_keys()]
    _table(("TEAM", "PROVIDER", "KEY", "SINCE"), rows)
    return 0


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    lines = [head, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _time(seconds: float | None) -> str:
    return "never" if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _seconds(text: str) -> float:
    return float(_parsed(Duration, text, "duration"))


def _parsed(kind: Any, text: str, what: str) -> Any:
    try:
        return TypeAdapter(kind).validate_python(text)
    except ValidationError:
        raise ConfigError(f"keys: '{text}' is no {what}") from None
