"""The fast lane: litellm's classes translate, the gateway's own HTTP client calls."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from junctor import ErrorKind, GatewayError, ProviderError, Response, Stream, jsons

from junctor_litellm.answers import loads, scrubbed, unreadable
from junctor_litellm.errors import from_event, from_status
from junctor_litellm.parameters import as_chat, cannot, copied, sort

if TYPE_CHECKING:
    from collections.abc import Mapping

    from junctor import Exchange, Target
    from junctor.http import HTTPClient

    from junctor_litellm.answers import EventReader, Whole
    from junctor_litellm.parameters import Parameters

__all__ = ["Asked", "Dialect", "Raw", "Transformed", "Unheard"]

_MAX_ANSWER = 64 * 1024 * 1024
_MAX_ERROR = 256 * 1024


@dataclass(slots=True)
class Asked:
    """A request in the provider's dialect, and what its answer must be read with.

    `json_mode`: a tool stands for the JSON schema. `names`: tools' names that had to be changed, back to the client's.
    """

    headers: Mapping[str, str]
    body: dict[str, Any]
    json_mode: bool = False
    names: Mapping[str, str] = field(default_factory=dict)
    prefix: str | None = None
    choices: int = 1
    chat: bool = True


class Dialect(Protocol):
    """One provider's API, with the classes of litellm that know it. Made once, after litellm is there.

    `ask` may change `messages`. `whole` is given the parsed answer and returns the client's body.
    """

    provider: str
    address: str

    def supported(self, model: str) -> frozenset[str]: ...
    def url(self, base: str, model: str, *, stream: bool) -> str: ...
    def ask(self, target: Target, messages: list[Any], parameters: Parameters, *, stream: bool) -> Asked: ...
    def whole(self, answer: dict[str, Any], asked: Asked, *, model: str) -> Whole: ...
    def reader(self, asked: Asked, *, model: str, keep_usage: bool) -> EventReader: ...


class Raw:
    """What litellm's transformations read of an HTTP response. The body is parsed already."""

    status_code = 200
    headers: Mapping[str, str] = {}

    def __init__(self, parsed: dict[str, Any]) -> None:
        self._parsed = parsed
        self.text = ""

    def json(self) -> dict[str, Any]:
        return self._parsed


class Unheard:
    """Stands where litellm's transformations expect its logging object, and does nothing."""

    def __init__(self) -> None:
        self.optional_params: dict[str, Any] = {}
        self.litellm_params: dict[str, Any] = {}
        self.model_call_details: dict[str, Any] = {}

    def post_call(self, *args: Any, **kwargs: Any) -> None:
        """Nothing is logged."""


class Transformed:
    """Chat completions of one provider. A redirect is an error; the answer is OpenAI's wire."""

    def __init__(self, dialect: Dialect, http: HTTPClient, *, drop: bool) -> None:
        self._dialect = dialect
        self._http = http
        self._drop = drop
        self._supported: dict[str, frozenset[str]] = {}

    async def call(self, exchange: Exchange, target: Target) -> Response:
        """Answer the exchange from this target; raises `ProviderError`."""
        request = exchange.request
        dialect = self._dialect
        asked = self._ask(as_chat(request), target, stream=request.stream)
        asked.chat = request.operation == "chat"
        headers = {name.lower(): value for name, value in (*asked.headers.items(), *target.headers.items())}
        headers["accept-encoding"] = "identity"
        more = exchange.provider_headers
        answer = await self._http.request(
            "POST",
            dialect.url((target.base_url or dialect.address).rstrip("/"), target.model, stream=request.stream),
            headers=[*headers.items(), *more.items()] if more else tuple(headers.items()),  # the client keeps tuples
            body=jsons.dumps(asked.body),
            connect_timeout=target.timeouts.connect,
            read_timeout=target.timeouts.total,
            max_body=None,
        )
        if answer.status != 200:
            raise from_status(answer.status, answer.headers, await answer.read(_MAX_ERROR))
        kind = answer.headers.get("content-type", "")
        if request.stream and kind.startswith("text/event-stream"):
            asks = bool((request.body.get("stream_options") or {}).get("include_usage"))
            reader = dialect.reader(asked, model=target.model, keep_usage=asks)
            silence = target.timeouts.between_chunks
            stream = Stream(aiter(answer), reader, close=answer.aclose, silence=silence)
            return Response(stream=stream, provider_headers=answer.headers, target=target)
        parsed = _object(await answer.read(_MAX_ANSWER))
        if request.stream:
            if "error" in parsed:
                raise from_event(parsed["error"])
            raise ProviderError(f"a stream was asked for, the answer is {kind or 'untyped'}", kind=ErrorKind.PROTOCOL)
        return self._whole(parsed, asked, target, answer.headers)

    def _ask(self, body: Mapping[str, Any], target: Target, *, stream: bool) -> Asked:
        supported = self._supported.get(target.model)
        if supported is None:
            supported = self._supported[target.model] = self._dialect.supported(target.model)
        provider = self._dialect.provider
        parameters = sort(body, target.params, supported, provider=provider, drop=self._drop)
        translated, passed_on = parameters
        parameters = parameters._replace(translated=copied(translated))
        try:
            asked = self._dialect.ask(target, copied(body["messages"]), parameters, stream=stream)
        except GatewayError:
            raise
        except Exception as error:  # litellm's code, on what a client has sent
            raise cannot(f"the request cannot be put to {provider}: {_said(error)}", code="invalid_value") from error
        for name, value in passed_on.items():
            asked.body.setdefault(name, value)
        return asked

    def _whole(self, parsed: dict[str, Any], asked: Asked, target: Target, headers: Mapping[str, str]) -> Response:
        try:
            answer = self._dialect.whole(parsed, asked, model=target.model)
        except GatewayError:
            raise
        except Exception as error:  # litellm's code, on what a provider has sent
            raise unreadable(self._dialect.provider, error) from error
        if answer.finish_reason is None:
            raise ProviderError("the answer holds no result", kind=ErrorKind.PROTOCOL)
        return Response(
            answer.body,
            provider_headers=headers,
            target=target,
            usage=answer.usage,
            finish_reason=answer.finish_reason,
            model=answer.model,
        )


def _said(error: Exception) -> str:
    """An exception's own words, without the request that litellm quotes after them."""
    return str(getattr(error, "message", error)).partition("\nReceived Messages=")[0][:500]


def _object(body: bytes) -> dict[str, Any]:
    parsed, dirty = loads(body)
    if isinstance(parsed, list) and parsed:
        parsed = parsed[0]
    if not isinstance(parsed, dict):
        raise ProviderError("the answer is not a JSON object", kind=ErrorKind.PROTOCOL)
    return scrubbed(parsed) if dirty else parsed
