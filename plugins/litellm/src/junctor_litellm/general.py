"""The general lane: `litellm.acompletion` and `litellm.aembedding`, for every provider without a dialect here."""

from __future__ import annotations

import base64
import inspect
import struct
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from junctor import ErrorKind, GatewayError, ProviderError, Response, Stream, jsons

from junctor_litellm.answers import whole
from junctor_litellm.chunks import Made, Relayed, Tap, events, is_untouched, usage_of
from junctor_litellm.errors import from_exception
from junctor_litellm.parameters import as_chat, copied, refuse_remote_media, sort
from junctor_litellm.transport import Outgoing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from junctor import Exchange, Target
    from junctor.http import HTTPClient
    from junctor.stream import Reader

    from junctor_litellm.settings import LiteLLMSettings

__all__ = ["General"]

# These know no `extra_body`: what litellm does not know of the arguments it puts into their request.
_BY_NAME = frozenset({"bedrock", "sagemaker", "sagemaker_chat"})
# They report no tokens for embeddings: the count is litellm's estimate.
_UNCOUNTED = frozenset({"gemini"})
_EMBEDDINGS = frozenset({"input", "model", "dimensions", "encoding_format", "user"})


class General:
    """Any provider, at the price of litellm's whole machinery: some milliseconds of CPU a request."""

    def __init__(self, litellm: Any, http: HTTPClient, settings: LiteLLMSettings) -> None:
        from litellm.types.utils import is_litellm_owned_kwarg  # imported by now

        self._litellm = litellm
        self._http = http
        self._settings = settings
        self._is_owned = is_litellm_owned_kwarg
        # Beneath its wrapper, which times, counts, logs and caches in tasks and threads that nobody owns.
        self._chat = inspect.unwrap(litellm.acompletion)
        self._embed = inspect.unwrap(litellm.aembedding)
        self._log = _quiet_log()
        self._passing = frozenset({"openai", "azure", *litellm.openai_compatible_providers})
        self._supported: dict[tuple[str, str, str], frozenset[str]] = {}

    async def call(self, exchange: Exchange, target: Target) -> Response:
        """Answer the exchange from this target; raises `ProviderError`."""
        request = exchange.request
        outgoing = Outgoing(self._http, target.timeouts)
        embeddings = request.operation == "embeddings"
        try:
            arguments = self._embedding(exchange, target) if embeddings else self._completion(exchange, target)
            with outgoing.let_through():
                answer = await (self._embed if embeddings else self._chat)(**arguments)
            if request.stream and not embeddings:
                return self._streamed(answer, exchange, target, outgoing)
            return self._vectors(answer, exchange, target) if embeddings else self._whole(answer, exchange, target)
        except GatewayError:
            await outgoing.aclose()
            raise
        except Exception as error:  # litellm's code
            answered = bool(outgoing.opened)
            await outgoing.aclose()
            raise from_exception(error, answered=answered) from error
        except BaseException:
            await outgoing.aclose()
            raise

    def _completion(self, exchange: Exchange, target: Target) -> dict[str, Any]:
        request, provider = exchange.request, target.provider
        body = as_chat(request)
        allowed = ("http:", "https:") if provider in self._passing else ()
        refuse_remote_media(body["messages"], allowed, provider=provider)
        supported = self._supports(target, "chat_completion")
        arguments = self._common(exchange, target, body, supported - {"stream_options", "stream"})
        arguments["messages"] = copied(body["messages"])
        arguments["stream"] = request.stream
        if request.stream and "stream_options" in supported:
            arguments["stream_options"] = {"include_usage": True}
        arguments["litellm_logging_obj"] = self._quiet(exchange, target, "acompletion", arguments["messages"])
        return arguments

    def _embedding(self, exchange: Exchange, target: Target) -> dict[str, Any]:
        body = {name: value for name, value in exchange.request.body.items() if name != "encoding_format"}
        supported = (self._supports(target, "embeddings") & _EMBEDDINGS) - {"input", "model", "encoding_format"}
        given = {name: value for name, value in body.items() if name != "input"}
        arguments = self._common(exchange, target, given, supported, known=_EMBEDDINGS)
        arguments["input"] = copied(body["input"])
        arguments["litellm_logging_obj"] = self._quiet(exchange, target, "aembedding", arguments["input"])
        return arguments

    def _common(
        self, exchange: Exchange, target: Target, body: Mapping[str, Any], supported: frozenset[str], **known: Any
    ) -> dict[str, Any]:
        """The arguments of a call, one by one: none of them is chosen by the client but those that are translated."""
        provider = target.provider
        drop = self._settings.unsupported == "drop"
        translated, passed_on = sort(body, target.params, supported, provider=provider, drop=drop, **known)
        arguments: dict[str, Any] = copied(translated)
        if provider in _BY_NAME:
            arguments |= {name: value for name, value in passed_on.items() if not self._is_owned(name)}
        elif passed_on:
            arguments["extra_body"] = copied(passed_on)
        settings = self._settings.providers.get(provider)
        keys = exchange.provider_keys
        if settings is not None:
            arguments |= settings.arguments(secrets=keys is None or not keys.covers(target))
        return arguments | {
            "model": target.model,
            "custom_llm_provider": provider,
            "api_key": target.api_key,
            "api_base": target.base_url,
            "extra_headers": dict(target.headers) or None,
            "timeout": target.timeouts.total,
            "max_retries": 0,
            "drop_params": drop,
            "_skip_mcp_handler": True,  # it would connect to the servers that a client's tools name
        }

    def _supports(self, target: Target, kind: str) -> frozenset[str]:
        """OpenAI's parameters that litellm can translate for this model."""
        key = (target.provider, target.model, kind)
        found = self._supported.get(key)
        if found is None:
            names = self._litellm.get_supported_openai_params(
                model=target.model, custom_llm_provider=target.provider, request_type=kind
            )
            found = self._supported[key] = frozenset(names or ()) - {"extra_headers"}
        return found

    def _quiet(self, exchange: Exchange, target: Target, kind: str, said: Any) -> Any:
        return self._log(
            model=target.model,
            messages=said,
            stream=exchange.request.stream,
            call_type=kind,
            start_time=datetime.now(),  # litellm subtracts naive ones
            litellm_call_id=exchange.id,
            function_id="",
        )

    def _whole(self, answer: Any, exchange: Exchange, target: Target) -> Response:
        usage = usage_of(getattr(answer, "usage", None))
        made = whole(answer, usage, model=target.model, chat=exchange.request.operation == "chat")
        if made.finish_reason is None:
            raise ProviderError("the answer holds no result", kind=ErrorKind.PROTOCOL)
        return Response(made.body, target=target, usage=usage, finish_reason=made.finish_reason, model=made.model)

    def _vectors(self, answer: Any, exchange: Exchange, target: Target) -> Response:
        packed = exchange.request.body.get("encoding_format") == "base64"
        data = []
        for place, item in enumerate(answer.data or ()):
            fields = item if isinstance(item, dict) else item.model_dump()
            vector = _packed(fields["embedding"]) if packed else _unpacked(fields["embedding"])
            data.append({"object": "embedding", "index": fields.get("index", place), "embedding": vector})
        if not data:
            raise ProviderError("the answer holds no result", kind=ErrorKind.PROTOCOL)
        usage = usage_of(answer.usage)
        if usage is not None and target.provider in _UNCOUNTED:
            usage = replace(usage, estimated=True)
        model = answer.model or target.model
        body: dict[str, Any] = {"object": "list", "data": data, "model": model}
        tokens = usage.input_tokens if usage else 0
        body["usage"] = {"prompt_tokens": tokens, "total_tokens": tokens}
        return Response(jsons.dumps(body), target=target, usage=usage, model=model)

    def _streamed(self, wrapper: Any, exchange: Exchange, target: Target, outgoing: Outgoing) -> Response:
        request = exchange.request

        async def close() -> None:
            await outgoing.aclose()
            with suppress(Exception):  # litellm's code, on a connection that is closed already
                await wrapper.aclose()

        asks = bool((request.body.get("stream_options") or {}).get("include_usage"))
        source: AsyncIterator[bytes]
        reader: Reader
        if request.operation == "chat" and is_untouched(wrapper) and outgoing.opened:
            source, reader = aiter(outgoing.opened[-1]), Relayed(keep_usage=asks)
        else:
            reader = made = Made(target.model, keep_usage=asks, chat=request.operation == "chat")
            source = events(wrapper, made, Tap(wrapper), outgoing)
        silence = target.timeouts.between_chunks
        return Response(stream=Stream(source, reader, close=close, silence=silence), target=target)


def _packed(vector: Any) -> str:
    """As OpenAI's `base64`: little-endian 32-bit floats."""
    if isinstance(vector, str):
        return vector
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def _unpacked(vector: Any) -> list[float]:
    if not isinstance(vector, str):
        return list(vector)
    raw = base64.b64decode(vector)
    return list(struct.unpack(f"<{len(raw) // 4}f", raw))


def _quiet_log() -> Any:
    """litellm's logging object, which its calls cannot do without, with everything that it does taken out."""
    from litellm.litellm_core_utils.litellm_logging import Logging  # imported by now

    def nothing(self: Any, *args: Any, **kwargs: Any) -> None:
        return None

    async def nothing_later(self: Any, *args: Any, **kwargs: Any) -> None:
        return None

    sync = ("pre_call", "post_call", "success_handler", "failure_handler", "_surface_response_headers_from_result")
    later = ("async_success_handler", "async_failure_handler", "dispatch_success_handlers",
             "dispatch_failure_handlers")  # fmt: skip
    return type("Quiet", (Logging,), dict.fromkeys(sync, nothing) | dict.fromkeys(later, nothing_later))
