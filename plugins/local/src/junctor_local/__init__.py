"""Answers from a model on this machine: a target `local/<model>` needs no key and no network.

Every worker of the gateway has an engine of its own for each model it is asked for. The model's file is mapped, so the
system holds it once, whatever the number of engines; each has its context for itself.
Sharing one engine would need an election, a port file and a take-over when its owner is killed, for what two requests
keep busy anyway. For a large model use one worker, or run an engine by hand and reach it through `relay`.
"""

from __future__ import annotations

import importlib.util
import os
from contextlib import AsyncExitStack
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path  # noqa: TC003 (pydantic reads it)
from typing import TYPE_CHECKING, Annotated, Literal, Self

from junctor import (
    BadRequest,
    ConfigError,
    Duration,
    ErrorKind,
    PluginSettings,
    ProviderError,
    Section,
    TargetUnavailable,
    hookimpl,
)
from junctor.assets import locate
from junctor.errors import AssetError
from junctor.upstream import OpenAIUpstream
from pydantic import Field

from junctor_local.catalogue import CATALOGUE
from junctor_local.engine import Engine, Options

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from junctor import Exchange, Gateway, Response, Target
    from junctor.assets import Asset

__all__ = ["Local", "LocalModelSettings", "LocalSettings"]

_NOT_BROKEN = ("not support", "Failed to parse")
_REMEDY = 'xllamacpp, which runs it, is not installed; `pip install "junctor-local"` or `pip install ".[local]"`'


class LocalModelSettings(Section):
    """One model. What is not given is inherited from the plugin's section."""

    path: Annotated[Path | None, Field(description="A GGUF file; not needed for a model of the catalogue.")] = None
    template: Annotated[Path | None, Field(description="A Jinja file that replaces the model's chat template.")] = None
    embeddings: Annotated[bool, Field(description="It is an embedding model: it serves only embeddings.")] = False
    pooling: Annotated[
        Literal["mean", "cls", "last"] | None, Field(description="How embeddings are made, if the file does not say.")
    ] = None
    context: Annotated[int | None, Field(ge=256, description="Tokens for one request, prompt and answer.")] = None
    parallel: Annotated[int | None, Field(ge=1, le=64, description="Requests at a time.")] = None


class LocalSettings(PluginSettings):
    """The section `local`."""

    models: dict[str, LocalModelSettings] = Field(default_factory=dict, description="By the name after `local/`.")
    preload: Annotated[bool, Field(description="Load at start, not with the first request.")] = False
    context: Annotated[int, Field(ge=256, description="Tokens for one request, prompt and answer.")] = 4096
    max_tokens: Annotated[int, Field(ge=1, description="Longest answer if the client names no limit.")] = 1024
    parallel: Annotated[int, Field(ge=1, le=64, description="Requests at a time, for each model.")] = 2
    queue: Annotated[int, Field(ge=0, description="Requests that wait for their turn; more are refused.")] = 64
    threads: Annotated[int | None, Field(ge=1, description="Default: this machine's cores, shared by workers.")] = None
    start_timeout: Annotated[Duration, Field(description="Longest time to load a model.")] = 120.0
    health_interval: Annotated[Duration, Field(gt=0, description="Between two health checks, and for one.")] = 10.0


class Local:
    """Claims the targets `local/<model>`; owns one engine for each model (`engines`, by name, while it is open)."""

    Settings = LocalSettings
    stage = "call"

    def __init__(self, settings: LocalSettings, gateway: Gateway) -> None:
        self._settings, self._gateway = settings, gateway
        targets = [target for model in gateway.models.values() for target in model.targets]
        # By name, in the file's order; the set of engines is what the configuration can ask for.
        self._wanted = dict.fromkeys(target.model for target in targets if target.provider == "local")
        self.engines: dict[str, Engine] = {}
        self._upstreams: dict[tuple[str, str], OpenAIUpstream] = {}
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        for name in self._wanted:
            engine = self.engines[name] = self._engine(name)
            self._stack.push_async_callback(engine.aclose)
        try:
            for engine in self.engines.values() if self._settings.preload else ():
                await engine.address()
        except TargetUnavailable as error:
            await self._stack.aclose()
            raise ConfigError(f"plugin 'local': preload: {error.message}") from error
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()
        self.engines.clear()

    @hookimpl
    def claims(self, target: Target) -> bool:
        """Every local target: what is wrong with one is told by `check`."""
        return target.provider == "local"

    @hookimpl
    def assets(self) -> Iterable[Asset]:
        """The files of the catalogue's models in use, but for those that the configuration has elsewhere."""
        return [CATALOGUE[name].asset for name in self._wanted if name in CATALOGUE and not self._model(name).path]

    @hookimpl
    def check(self) -> Iterable[str]:
        """Say which local target cannot be had, and how to get it."""
        for name in self._wanted:
            if importlib.util.find_spec("xllamacpp") is None:
                yield f"target 'local/{name}' is unavailable: {_REMEDY}"
            if name not in CATALOGUE and self._model(name).path is None:
                near = get_close_matches(name, {*CATALOGUE, *self._settings.models}, n=1)
                hint = f"did you mean 'local/{near[0]}'?" if near else f"known: {', '.join(sorted(CATALOGUE))}"
                yield f"target 'local/{name}' is no known model ({hint}); or give `models.{name}.path: FILE.gguf`"
        for name, model in self._settings.models.items():
            for key, path in (("path", model.path), ("template", model.template)):
                if path is not None and not path.expanduser().exists():
                    yield f"models.{name}.{key}: there is no file {path}"

    @hookimpl
    async def call(self, exchange: Exchange, target: Target) -> Response | None:
        """Relay the request to the model's engine, once one of its places is free."""
        if target.provider != "local":
            return None
        engine = self.engines.get(target.model)
        if engine is None:
            raise TargetUnavailable(f"{target} was not in the configuration that this gateway started with")
        exchange = self._fitted(exchange, target)
        address = await engine.enter()
        try:
            response = await self._relayed(exchange, target, engine=engine, address=address)
        except BaseException:
            engine.leave()
            raise
        if response.stream is None:
            engine.leave()
        else:
            response.stream.on_close(engine.leave)
        return response

    async def _relayed(self, exchange: Exchange, target: Target, *, engine: Engine, address: str) -> Response:
        upstream = self._upstreams.get((engine.name, address))
        if upstream is None:  # a new process has a new port; the old one's is of no use any more
            self._upstreams = {key: old for key, old in self._upstreams.items() if key[0] != engine.name}
            upstream = OpenAIUpstream(self._gateway.http, address, api_key=engine.api_key, headers={})
            self._upstreams[engine.name, address] = upstream
        try:
            try:
                return await upstream.call(exchange, target)
            except ProviderError as error:
                # The engine closes idle connections after 5 s; a request that crosses with that costs nothing twice.
                if error.kind is not ErrorKind.CONNECTION:
                    raise
                return await upstream.call(exchange, target)
        except ProviderError as error:
            raise _explained(error) from error

    def _model(self, name: str) -> LocalModelSettings:
        return self._settings.models.get(name) or LocalModelSettings()

    def _engine(self, name: str) -> Engine:
        settings, model, entry = self._settings, self._model(name), CATALOGUE.get(name)
        template = entry.template if entry and not model.path else ""
        cores = max(1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
        options = Options(
            parallel=model.parallel or settings.parallel,
            queue=settings.queue,
            context=model.context or settings.context,
            max_tokens=settings.max_tokens,
            threads=settings.threads or max(1, cores // self._gateway.settings.server.workers),
            embeddings=model.embeddings,
            pooling=model.pooling or "",
            template=model.template.expanduser().read_text("utf-8") if model.template else template,
            start_timeout=settings.start_timeout,
            health_interval=settings.health_interval,
        )
        return Engine(name, lambda: self._file(name), options)

    def _file(self, name: str) -> Path:
        path, entry = self._model(name).path, CATALOGUE.get(name)
        try:
            found = locate(entry.asset, path) if entry else path and path.expanduser()
        except AssetError as error:
            raise TargetUnavailable(str(error)) from error
        if importlib.util.find_spec("xllamacpp") is None:
            raise TargetUnavailable(_REMEDY)
        if found is None:
            raise TargetUnavailable(f"its file is not there; run `junctor assets fetch {name}`")
        return found

    def _fitted(self, exchange: Exchange, target: Target) -> Exchange:
        """The exchange with a body that the engine understands; refuses what the model cannot do."""
        request, model = exchange.request, self._model(target.model)
        if (request.operation == "embeddings") != model.embeddings:
            can = "embeddings" if model.embeddings else "chat and completions"
            message = f"{target} serves {can}, not {request.operation}"
            raise _refusal(message, param="model", code="unsupported_operation")
        if not request.body.get("tools"):
            return exchange
        entry = CATALOGUE.get(target.model)
        body = _with_forced_tools(request.body, limited=bool(entry and entry.forced_tools and not model.path))
        return replace(exchange, request=replace(request, body=body))


def _with_forced_tools(body: Mapping[str, Any], *, limited: bool) -> dict[str, Any]:
    """The engine knows no choice of one function by name. A limited model calls a function only when it must."""
    body, tools, choice = dict(body), body["tools"], body.get("tool_choice", "auto")
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise BadRequest("'tools' must be an array of objects", param="tools", code="invalid_type")
    if isinstance(choice, dict):
        name = _name(choice)
        body["tools"] = [tool for tool in tools if _name(tool) == name]
        if not body["tools"]:
            raise BadRequest(f"'tool_choice' names a function that is not in 'tools': {name!r}", param="tool_choice")
        body["tool_choice"] = choice = "required"
    if limited and choice == "required":
        body["parallel_tool_calls"] = False  # it would call and call
    elif limited:
        del body["tools"]
        body.pop("tool_choice", None)
        given = body.get("chat_template_kwargs")
        functions = {"functions": tools if choice == "auto" else []}
        body["chat_template_kwargs"] = {**given, **functions} if isinstance(given, dict) else functions
    return body


def _name(tool: dict[str, Any]) -> object:
    function = tool.get("function")
    return function.get("name") if isinstance(function, dict) else None


def _refusal(message: str, *, param: str, code: str) -> ProviderError:
    return ProviderError(message, kind=ErrorKind.BAD_REQUEST, param=param, code=code, sent=False)


def _explained(error: ProviderError) -> ProviderError:
    """The engine answers what it cannot read or its model cannot do with 500 or 501, as if it were broken."""
    if error.provider_status in (500, 501) and any(words in error.message for words in _NOT_BROKEN):
        return ProviderError(error.message, kind=ErrorKind.BAD_REQUEST, provider_status=error.provider_status)
    return error
