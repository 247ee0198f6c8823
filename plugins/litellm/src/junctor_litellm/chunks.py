"""litellm's streams as OpenAI's events, with the end and the usage that the provider gave and no others."""

from __future__ import annotations

import inspect
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from junctor import ErrorKind, GatewayError, ProviderError, Usage
from junctor.openai_events import OpenAIReader, read_usage

from junctor_litellm.answers import Answering, message_of, plain
from junctor_litellm.errors import from_exception

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from junctor_litellm.transport import Outgoing

__all__ = ["Made", "Relayed", "Tap", "events", "is_untouched", "usage_of"]


def is_untouched(wrapper: Any) -> bool:
    """Whether the chunks come from the provider as the OpenAI SDK parses them, with no litellm parser between.

    Then the provider's bytes are what the client is to get, and nobody has read any of them yet.
    """
    return type(wrapper.completion_stream).__module__.partition(".")[0] == "openai"


class Relayed(OpenAIReader):
    """The reader of a stream that is relayed as it came: an end marker is not enough of an end."""

    def finish(self) -> bytes:
        end = super().finish()
        if self.finish_reason is None:
            raise ProviderError("the stream ended without a finish reason", kind=ErrorKind.PROTOCOL)
        return end


class Made(Answering):
    """The reader of events that were made in this process: they are whole, and known."""

    def feed(self, data: bytes) -> bytes:
        return data

    def finish(self) -> bytes:
        return b"data: [DONE]\n\n"


async def events(wrapper: Any, made: Made, tap: Tap, outgoing: Outgoing) -> AsyncIterator[bytes]:
    """litellm's chunks as OpenAI's events; raises `ProviderError` if the provider never said that it was done."""
    reason = None
    while True:
        try:
            with outgoing.let_through():
                chunk = await anext(wrapper, None)
        except GatewayError:
            raise
        except Exception as error:  # litellm's code
            raise from_exception(error, answered=bool(outgoing.opened)) from error
        if chunk is None:
            break
        reason = _add(chunk, made) or reason
        if out := made.taken():
            yield out
        if wrapper.sent_last_chunk:  # beyond it litellm only counts and logs
            await tap.drain()
            break
    heard = outgoing.heard.reader
    # Where the provider gave no reason, litellm says "stop".
    if not (heard.finish_reason if heard else tap.reasons or wrapper.received_finish_reason):
        raise ProviderError("the stream ended without a finish reason", kind=ErrorKind.PROTOCOL)
    made.usage = (heard and heard.usage) or tap.usage
    made.add({}, finish_reason=reason or tap.reasons.get(0) or "stop")
    for index in sorted(tap.reasons.keys() - {0}):
        made.add({}, index=index, finish_reason=tap.reasons[index])
    made.report_usage()
    made.done = True
    yield made.taken()


def _add(chunk: Any, made: Made) -> str | None:
    """Add a chunk without its finish reason, which is returned: it comes last, when the whole is known."""
    made.model = getattr(chunk, "model", None) or made.model
    reason = None
    for choice in getattr(chunk, "choices", None) or ():
        delta = message_of(choice.delta)
        delta.pop("role", None)
        if not delta.get("content"):
            delta.pop("content", None)
        if choice.finish_reason and not choice.index:
            reason = str(choice.finish_reason)
        logprobs = getattr(choice, "logprobs", None)
        if delta or logprobs:
            made.add(delta, index=choice.index or 0, logprobs=plain(logprobs))
    return reason


class Tap:
    """Sees the provider's own chunks before litellm puts an end to them that they did not have."""

    def __init__(self, wrapper: Any) -> None:
        self.usage: Usage | None = None
        self.reasons: dict[int, str] = {}
        self._chunks: Any = None
        self._into(wrapper)

    def _into(self, wrapper: Any) -> None:
        """Take the place of the wrapper's source, now or when it is opened."""
        if wrapper.completion_stream is not None:
            self._chunks, wrapper.completion_stream = wrapper.completion_stream, self
            return
        opened = wrapper.make_call

        async def make_call(client: Any) -> Tap:
            self._chunks = await opened(client=client)
            return self

        wrapper.make_call = make_call

    def __aiter__(self) -> Tap:
        self._chunks = aiter(self._chunks)
        return self

    async def __anext__(self) -> Any:
        chunk = await anext(self._chunks)
        if isinstance(chunk, dict):
            self._note(chunk.get("usage"), {0: chunk.get("finish_reason")})
        elif chunk is not None:
            choices = getattr(chunk, "choices", None) or ()
            self._note(getattr(chunk, "usage", None), {c.index or 0: c.finish_reason for c in choices})
        return chunk

    async def drain(self) -> None:
        """Take what comes after the last piece of the answer: the usage. The answer is whole, whatever happens now."""
        with suppress(Exception):  # litellm's code
            async for _ in self:
                pass

    def _note(self, usage: Any, reasons: Mapping[int, Any]) -> None:
        self.usage = usage_of(usage) or self.usage
        self.reasons |= {index: str(reason) for index, reason in reasons.items() if reason}

    async def aclose(self) -> None:
        close = getattr(self._chunks, "aclose", None) or getattr(self._chunks, "close", None)
        if close is not None and inspect.isawaitable(closing := close()):
            await closing


def usage_of(usage: Any) -> Usage | None:
    """litellm's `Usage`, or the SDK's: OpenAI's fields, and Anthropic's beside them."""
    if usage is None:
        return None
    fields = usage if isinstance(usage, dict) else usage.model_dump()
    details = dict(fields.get("prompt_tokens_details") or {})
    details["cached_tokens"] = details.get("cached_tokens") or fields.get("cache_read_input_tokens")
    details["cache_creation_tokens"] = details.get("cache_creation_tokens") or fields.get("cache_creation_input_tokens")
    read = read_usage({**fields, "prompt_tokens_details": details})
    return read if read is not None and read.total_tokens else None
