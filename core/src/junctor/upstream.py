"""Send a request to a server that speaks the client's own wire, and relay its answer byte for byte.

The body is changed only where it must be: the model's name, the target's defaults, and `stream_options.include_usage`,
so that a stream can be accounted for. `relay` and `local` both call through here.
"""

from __future__ import annotations

import email.utils
import time
from typing import TYPE_CHECKING, Any

from junctor import jsons
from junctor.errors import ErrorKind, ProviderError
from junctor.exchange import Response
from junctor.provider_errors import error_in_answer, error_kind
from junctor.stream import Stream

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from junctor.exchange import Exchange, Request, Target
    from junctor.http import HTTPClient, HTTPResponse

__all__ = ["OpenAIUpstream", "retry_after"]

_PATHS = {"chat": "/chat/completions", "completions": "/completions", "embeddings": "/embeddings"}
_MAX_ANSWER = 64 * 1024 * 1024
_MAX_ERROR = 256 * 1024


class OpenAIUpstream:
    """One server at one address. Made once for a target, used for all its requests.

    `base_url` goes up to and with `/v1`. A redirect is an error: it is never followed.
    """

    def __init__(self, http: HTTPClient, base_url: str, *, api_key: str | None, headers: Mapping[str, str]) -> None:
        self._http = http
        self._urls = {operation: base_url.rstrip("/") + path for operation, path in _PATHS.items()}
        self._headers: Sequence[tuple[str, str]] = tuple(
            {
                "content-type": "application/json",
                "accept-encoding": "identity",
                **({"authorization": f"Bearer {api_key}"} if api_key else {}),
                **{name.lower(): value for name, value in headers.items()},
            }.items()
        )

    async def call(self, exchange: Exchange, target: Target) -> Response:
        """Answer the exchange from this server; raises `ProviderError`."""
        request = exchange.request
        headers = self._headers
        if exchange.provider_headers:  # a list: what differs with every call is not to be remembered by the client
            headers = [*headers, *exchange.provider_headers.items()]
        answer = await self._http.request(
            "POST",
            self._urls[request.operation],
            headers=headers,
            body=_body(request, target),
            connect_timeout=target.timeouts.connect,
            read_timeout=target.timeouts.total,
            max_body=None,  # a stream has no size; what is read whole has its own limit
        )
        if answer.status != 200:
            raise await _failure(answer)
        if request.stream:
            return await _streamed(request, target, answer)
        body = await answer.read(_MAX_ANSWER)
        reading = request.wire.read(request.operation, body)
        return Response(
            body,
            provider_headers=answer.headers,
            target=target,
            usage=reading.usage,
            finish_reason=reading.finish_reason,
            model=reading.model,
        )


def _body(request: Request, target: Target) -> bytes:
    body: dict[str, Any] = {**target.params, **request.body, "model": target.model}
    if request.stream:
        body["stream_options"] = {**(body.get("stream_options") or {}), "include_usage": True}
    return jsons.dumps(body)


async def _streamed(request: Request, target: Target, answer: HTTPResponse) -> Response:
    kind = answer.headers.get("content-type", "")
    if not kind.startswith("text/event-stream"):
        body = await answer.read(_MAX_ANSWER)
        request.wire.read(request.operation, body)  # an error that was sent with 200 says so itself
        raise ProviderError(f"a stream was asked for, the answer is {kind or 'untyped'}", kind=ErrorKind.PROTOCOL)
    stream = Stream(
        aiter(answer), request.wire.reader(request), close=answer.aclose, silence=target.timeouts.between_chunks
    )
    return Response(stream=stream, provider_headers=answer.headers, target=target)


async def _failure(answer: HTTPResponse) -> ProviderError:
    wait = retry_after(answer.headers)
    body = await answer.read(_MAX_ERROR)
    try:
        parsed = jsons.loads(body)
    except ValueError:
        parsed = None
    error = parsed.get("error") if isinstance(parsed, dict) else None
    if error:
        return error_in_answer(error, status=answer.status, retry_after=wait)
    kind = error_kind(answer.status, message=body[:2000].decode("utf-8", "replace"))
    return ProviderError(
        f"the provider answered {answer.status}", kind=kind, provider_status=answer.status, retry_after=wait
    )


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait, from `retry-after-ms` or `retry-after` (seconds or an HTTP date, RFC 9110 10.2.3)."""
    try:
        if text := headers.get("retry-after-ms"):
            return max(0.0, float(text) / 1000)
        text = headers.get("retry-after")
        if not text:
            return None
        if text.strip().replace(".", "", 1).isdigit():
            return float(text)
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return None
