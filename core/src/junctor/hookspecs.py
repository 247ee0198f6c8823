"""The contract between the core and its plugins.

The six hooks of a request's life, in the order they run. Every one is a coroutine. A plugin implements the ones it
needs and takes only the arguments it uses. Plugins run in the order of the `plugins:` list; `post_call` runs in the
reverse order, so that the first plugin in is the last one out.

There are two kinds. **Each**: all plugins run (`pre_route`, `post_call`). **First**: the first answer that is not None
wins, and nobody after it is asked (`route`, `cache_lookup`, `call`, `on_error`).

What a plugin contributes besides (paths, commands, checks) is asked once, at start-up, by the plain functions below.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Sequence

    from starlette.routing import BaseRoute

    from junctor.assets import Asset
    from junctor.errors import ProviderError
    from junctor.exchange import Exchange, Response, Target

__all__ = [
    "assets",
    "cache_lookup",
    "call",
    "check",
    "claims",
    "cli_commands",
    "hookimpl",
    "hookspec",
    "http_routes",
    "on_error",
    "post_call",
    "pre_route",
    "route",
]

hookspec = pluggy.HookspecMarker("junctor")
hookimpl = pluggy.HookimplMarker("junctor")


@hookspec
async def pre_route(exchange: Exchange) -> None:
    """Inspect, change or refuse a request before a target is chosen.

    Every plugin runs. Raise `Refused` (or another `GatewayError`) to answer the client now; the plugins after yours are
    not asked, `post_call` still runs for all. Put a `Transform` on `exchange.transforms` to change the answer later.

    The list of models comes here too, and a request that cannot be read, before its 400: `exchange.request.for_model`
    is False there, and `body` has nothing to look into.

        @hookimpl
        async def pre_route(self, exchange):
            if exchange.client.team not in self.teams:
                raise Refused("this gateway is for the search team")
    """


@hookspec(firstresult=True)
async def route(exchange: Exchange) -> Sequence[Target] | None:
    """Choose where the request goes: targets, best first. The rest may be fallen back to.

    Return None to leave the choice to the next plugin; the core's own is last and takes the model's targets as the file
    lists them. Raise a `GatewayError` to refuse.

        @hookimpl
        async def route(self, exchange):
            return sorted(exchange.model.targets, key=lambda target: -target.weight)
    """


@hookspec(firstresult=True)
async def cache_lookup(exchange: Exchange) -> Response | None:
    """Answer the request from a cache: a `Response` whose `cached` names the cache. None is a miss.

    An error here is logged and counted, and treated as a miss.

        @hookimpl
        async def cache_lookup(self, exchange):
            return self.answers.get(exchange.request.model)
    """


@hookspec(firstresult=True)
async def call(exchange: Exchange, target: Target) -> Response | None:
    """Send the request to the target. Return None if the target is not yours.

    Return as soon as the answer begins: the core waits for a stream's first chunk, inside the attempt. Raise a
    `ProviderError` when the provider fails; `on_error` then decides. Cancellation must reach the provider.

        @hookimpl
        async def call(self, exchange, target):
            if target.provider != "echo":
                return None
            return Response(body=..., usage=Usage(input_tokens=3, output_tokens=3))
    """


@hookspec(firstresult=True)
async def on_error(exchange: Exchange, target: Target, error: ProviderError) -> Target | None:
    """Choose the target to try next after a failed call.

    The same target is a retry, another one a fallback. None leaves the decision to the next plugin; if all decline, the
    client gets the error. Raise a `GatewayError` to end the exchange with that one. Wait here for a backoff.

        @hookimpl
        async def on_error(self, exchange, target, error):
            return next((t for t in exchange.targets if t != target), None)
    """


@hookspec
async def post_call(exchange: Exchange, response: Response | None, error: BaseException | None) -> None:
    """Observe the outcome: store it, account for it, log it.

    Runs exactly once for every exchange that entered `pre_route`, whatever became of it: answered, served from a cache,
    refused, failed, timed out, abandoned by the client (`error` is then `ClientDisconnected`). A streamed response is
    complete here, and the client has its last byte. Plugins run in reverse order; an error is logged with the plugin's
    name, and the others still run.

    Where others waited for the same answer, it may have come though this client has left: `error` is None then, and
    `exchange.as_told(error)` is how it ended for the client. `junctor.outcome.outcome_of` puts that into one word.

        @hookimpl
        async def post_call(self, exchange, response, error):
            self.count[type(error).__name__ if error else "answered"] += 1
    """


@hookspec
def claims(target: Target) -> bool:  # type: ignore[empty-body]
    """Tell whether this plugin's `call` would take the target. Asked at start-up, for `junctor check`."""


@hookspec
def check() -> Iterable[str]:  # type: ignore[empty-body]
    """Tell what is wrong with this plugin's configuration beyond its own section, such as a model that is not there.

    One line a problem, with the path inside the section first: `limits[0].model: no model is named 'gpt5'`.
    """


@hookspec
def assets() -> Iterable[Asset]:  # type: ignore[empty-body]
    """Name the files that this configuration of the plugin needs before it can serve."""


@hookspec
def http_routes() -> Iterable[BaseRoute]:  # type: ignore[empty-body]
    """Add paths to the server: Starlette routes, or `AdminRoute` for what only the operator may see."""


@hookspec
def cli_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add commands to `junctor`: `commands.add_parser("keys").set_defaults(run=…)`.

    `run(args)` is given the parsed arguments and returns the exit code. A plugin's class is asked, not an object: the
    command must work without a running gateway, so implement this as a static method. `args.config` is the file.
    """
