"""A configuration brought to life: models, state, HTTP client, plugins and pipeline, opened and closed together."""

from __future__ import annotations

import time
from contextlib import AsyncExitStack
from random import getrandbits
from typing import TYPE_CHECKING, Any, Self, cast

from junctor import prices
from junctor.errors import ConfigError, JunctorError
from junctor.exchange import Client, Exchange, Request, Response
from junctor.hookspecs import hookimpl
from junctor.http import HTTPClient
from junctor.pipeline import Pipeline
from junctor.plugins import Plugins, load, out_of_order
from junctor.problems import close_match
from junctor.settings import PluginSettings
from junctor.state import open_state
from junctor.wire import OPENAI

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from junctor.assets import Asset
    from junctor.config import Config
    from junctor.exchange import Model, Target
    from junctor.plugins import Hook, Section
    from junctor.settings import Settings
    from junctor.state import State

__all__ = ["Gateway"]


class FileOrder:
    """The core's own route: the model's targets, as the file lists them. Asked last."""

    @hookimpl(trylast=True)
    async def route(self, exchange: Exchange) -> Sequence[Target] | None:
        return exchange.model.targets if exchange.model is not None else None


class Gateway:
    """What plugins are given, and what the server serves. An async context manager: enter it to open everything.

    Building it opens nothing and raises `ConfigError` with every problem found. `previous` is the gateway that this one
    replaces at a reload. `warnings` are oddities that do not forbid to serve. `models` by name; `state` for
    coordination between workers and replicas; `http` is the one client for the outside world. `kept` is what plugins
    keep over a reload, in this process, under their own name: it must fit any settings.
    """

    def __init__(self, config: Config, *, extra: Sequence[Section] = (), previous: Gateway | None = None) -> None:
        self.config = config
        self.settings: Settings = config.settings
        self.models: Mapping[str, Model] = config.models
        problems: list[str] = []
        self.state: State = self._shared_state(previous)
        self.kept: dict[str, Any] = {} if previous is None else previous.kept
        self.http = HTTPClient()
        self.plugins = Plugins()
        built = load([*config.sections, *extra], self, problems)
        try:
            self.plugins.register([*built, ("file_order", FileOrder(), PluginSettings())])
        except ConfigError as error:
            problems += error.problems
        else:
            problems += self._checks()
        self.warnings = [f"{config.file}: {warning}" for warning in out_of_order(config.sections)]
        problems = [*config.problems, *(f"{config.file}: {problem}" for problem in problems)]
        if problems:
            raise ConfigError(problems)
        self.pipeline = Pipeline(
            self.plugins.hook,
            self.models,
            max_attempts=self.settings.server.max_attempts,
            settle_timeout=self.settings.server.settle_timeout,
        )
        self._stack = AsyncExitStack()
        prices.forget()

    def _shared_state(self, previous: Gateway | None) -> State:
        """What is counted in this process's memory outlives a reload of the configuration."""
        if previous is not None and previous.settings.state == self.settings.state and not previous.state.shared:
            return previous.state
        return open_state(self.settings.state)

    def _checks(self) -> list[str]:
        problems = []
        paths = {section.name: section.path for section in self.config.sections}
        for implementation in reversed(self.plugins.manager.hook.check.get_hookimpls()):
            path = paths.get(implementation.plugin_name, implementation.plugin_name)
            found = cast("Iterable[str]", implementation.function())
            problems += [f"{path}: {problem}" for problem in found]
        for index, model in enumerate(self.settings.models):
            for place, target in enumerate(self.models[model.name].targets):
                if not any(self.plugins.manager.hook.claims(target=target)):
                    problems.append(
                        f"models[{index}].targets[{place}]: no enabled plugin takes target '{target}'; "
                        f"enable one (relay, litellm, local) under `plugins:`, or correct the name"
                    )
        if self.settings.server.workers > 1 and not self.state.shared:
            problems.append("server.workers: more than one worker needs a shared store; set `state.url: redis://…`")
        if not self.authenticates and self.settings.server.host not in ("127.0.0.1", "::1", "localhost"):
            problems.append(
                f"server.host: {self.settings.server.host} is reachable for others and no client is configured; "
                "enable the plugin `auth` with clients, or use 127.0.0.1"
            )
        return problems

    @property
    def authenticates(self) -> bool:
        """Whether a plugin makes sure who calls (it has a true attribute `authenticates`)."""
        return any(getattr(plugin, "authenticates", False) for plugin in self.plugins.by_name.values())

    def assets(self) -> list[Asset]:
        """The files that this configuration needs."""
        return [asset for group in self.plugins.manager.hook.assets() for asset in group]

    def unknown_model(self, name: str) -> str | None:
        """What to say of a model's name that is not in the file, with a suggestion; None if it is there."""
        return None if name in self.models else f"no model is named '{name}'{close_match(name, self.models)}"

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self.state.aclose)
            await stack.enter_async_context(self.http)
            for name, plugin in self.plugins.by_name.items():
                if hasattr(plugin, "__aenter__"):
                    await _open(stack, name, plugin)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    def exchange(self, request: Request, *, id: str = "", **fields: Any) -> Exchange:  # noqa: A002
        """A new exchange for the request, with its deadline."""
        model = self.models.get(request.model)
        total = model.timeouts.total if model is not None else self.settings.timeouts.total or 600.0
        started = time.monotonic()
        return Exchange(id or _new_id(), request, model, started=started, deadline=started + total, **fields)

    async def ask(
        self,
        operation: str,
        body: dict[str, Any],
        *,
        purpose: str,
        parent: Exchange | None = None,
        timeout: float = 30.0,
    ) -> Response:
        """A question of the gateway's own to one of its models (a judge, an embedding), answered whole.

        It is an exchange of its own, marked with `purpose` and `parent`: logged and paid for as its own line. `timeout`
        is in seconds; the parent's deadline holds as well.
        """
        request = Request(OPENAI, operation, body, str(body["model"]))
        exchange = self.exchange(request, purpose=purpose, parent=parent, client=parent.client if parent else Client())
        exchange.deadline = min(time.monotonic() + timeout, parent.deadline if parent else float("inf"))
        return await self.pipeline.run(exchange, _not_delivered)

    async def attempt(self, exchange: Exchange, target: Target, *, after: object, of: str = "") -> Response:
        """One attempt within a plugin's own `call` (a hedge): asks the `call` hooks of the plugins after that one."""
        return await self.pipeline.attempt(exchange, target, self.steps_after(after), of=of)

    def steps_after(self, plugin: object, hook: str = "call") -> Hook:
        """The implementations of a hook that come after this plugin's own; for `junctor.plugins.first`."""
        steps = self.plugins.hook[hook]
        name = next(name for name, other in self.plugins.by_name.items() if other is plugin)
        place = next(index for index, step in enumerate(steps) if step.plugin == name)
        return steps[place + 1 :]


def _new_id() -> str:
    """32 hex digits. The time in milliseconds comes first, so that the index of a log grows at its end."""
    return f"{time.time_ns() // 1_000_000:012x}{getrandbits(80):020x}"


async def _open(stack: AsyncExitStack, name: str, plugin: Any) -> None:
    try:
        await stack.enter_async_context(plugin)
    except JunctorError:
        raise
    except Exception as error:  # someone else's code
        raise ConfigError(f"plugin '{name}' cannot be opened: {type(error).__name__}: {error}") from error


async def _not_delivered(exchange: Exchange, response: Response) -> None:
    """A question of the gateway's own: whoever asked reads the response."""
