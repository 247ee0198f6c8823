"""The plugin: which targets are its own, and which lane each of them takes."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Self

from junctor import hookimpl
from junctor.problems import close_match

from junctor_litellm.anthropic import Anthropic
from junctor_litellm.gemini import Gemini
from junctor_litellm.general import General
from junctor_litellm.library import Library
from junctor_litellm.providers import known_providers
from junctor_litellm.settings import LiteLLMSettings
from junctor_litellm.transformed import Transformed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from junctor import Exchange, Gateway, Response, Target

__all__ = ["TRANSFORMED", "LiteLLM"]

TRANSFORMED = (Anthropic, Gemini)
"""The dialects: providers whose chat completions go over the gateway's own HTTP client."""

# They cannot be called without; the environment is read where the file says so, and nowhere else.
_KEYS = {"anthropic": "ANTHROPIC_API_KEY", "gemini": "GEMINI_API_KEY"}
_NEEDS = {"bedrock": "botocore", "sagemaker": "botocore", "sagemaker_chat": "botocore", "vertex_ai": "google.auth"}
_OPERATIONS = frozenset({"chat", "completions", "embeddings"})


class LiteLLM:
    """Takes every target whose provider litellm knows, from clients that speak OpenAI's wire."""

    Settings = LiteLLMSettings
    stage = "call"

    def __init__(self, settings: LiteLLMSettings, gateway: Gateway) -> None:
        self._settings = settings
        self._gateway = gateway
        self._providers = known_providers()
        self._library = Library()
        self._lanes: dict[str, Transformed] | None = None
        self._general: General | None = None

    async def __aenter__(self) -> Self:
        if any(self.claims(target) and not self._is_relayed(target) for target in self._targets()):
            self._library.warm_up()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._library.aclose()

    @hookimpl
    def claims(self, target: Target) -> bool:
        return target.provider in self._providers

    @hookimpl
    def check(self) -> Iterable[str]:
        if not self._providers:
            yield "litellm is not installed: `pip install junctor-litellm`"
        for name in self._settings.providers:
            if name not in self._providers:
                yield f"providers.{name}: litellm knows no provider '{name}'{close_match(name, self._providers)}"
        for provider in sorted({target.provider for target in self._targets()}):
            yield from self._check_provider(provider)

    def _check_provider(self, provider: str) -> Iterable[str]:
        targets = [target for target in self._targets() if target.provider == provider]
        claims = self._gateway.plugins.manager.hook.claims
        if provider not in self._providers:
            for target in targets:
                if not any(claims(target=target)):
                    hint = close_match(provider, self._providers)
                    yield f"target '{target}': litellm knows no provider '{provider}'{hint}"
            return
        module = _NEEDS.get(provider)
        if module is not None and not _installed(module):
            extra = "bedrock" if module == "botocore" else "vertex"
            yield f"provider '{provider}' needs {module}: `pip install 'junctor-litellm[{extra}]'`"
        name = _KEYS.get(provider)
        for target in targets:
            if name and not (target.api_key or target.base_url):
                yield f"target '{target}': has no api_key; add `api_key: ${{{name}}}`"

    @hookimpl
    async def call(self, exchange: Exchange, target: Target) -> Response | None:
        request = exchange.request
        if target.provider not in self._providers or request.wire.name != "openai":
            return None
        if request.operation not in _OPERATIONS:
            return None
        if self._lanes is None or self._general is None:
            self._lanes, self._general = await self._open()
        lane = self._lanes.get(target.provider) if request.operation != "embeddings" else None
        return await (lane or self._general).call(exchange, target)

    async def _open(self) -> tuple[dict[str, Transformed], General]:
        litellm = await self._library.ready()
        drop = self._settings.unsupported == "drop"
        http = self._gateway.http
        lanes = {dialect.provider: Transformed(dialect(litellm), http, drop=drop) for dialect in TRANSFORMED}
        return lanes, General(litellm, http, self._settings)

    def _targets(self) -> Iterable[Target]:
        return [target for model in self._gateway.models.values() for target in model.targets]

    def _is_relayed(self, target: Target) -> bool:
        """Whether another plugin is likely to take it first: nobody should pay for an import that nobody needs."""
        claims = self._gateway.plugins.manager.hook.claims.get_hookimpls()
        own = next(place for place, hook in enumerate(claims) if hook.plugin is self)
        # pluggy asks what was registered last first: our elders stand after us.
        return any(hook.function(target) for hook in claims[own + 1 :])


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False
