"""Answers in OpenAI's wire, made from what a provider's translation gives. Nothing is parsed twice."""

from __future__ import annotations

import json
import time
import uuid
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import orjson
from junctor import ErrorKind, GatewayError, ProviderError, Usage, jsons

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = [
    "Answering",
    "EventReader",
    "Translator",
    "Whole",
    "count",
    "loads",
    "message_of",
    "plain",
    "scrubbed",
    "unreadable",
    "usage_object",
    "whole",
]

_MAX_EVENT = 16 * 1024 * 1024


def usage_object(usage: Usage) -> dict[str, Any]:
    """OpenAI's `usage`."""
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {
            "cached_tokens": usage.cache_read_tokens,
            "cache_creation_tokens": usage.cache_write_tokens,
        },
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


class Whole(NamedTuple):
    """A whole answer in OpenAI's wire, and what it says about itself."""

    body: bytes
    usage: Usage | None
    finish_reason: str | None
    model: str


def whole(answer: Any, usage: Usage | None, *, model: str, chat: bool = True) -> Whole:
    """A `ModelResponse` of litellm's as the body of a chat completion, with the usage that the provider reported."""
    choices = []
    for place, choice in enumerate(answer.choices):
        message = {"role": "assistant", "content": None, **message_of(choice.message)}
        entry = {
            "index": getattr(choice, "index", place) or 0,
            **({"message": message} if chat else {"text": message["content"] or ""}),
            "finish_reason": choice.finish_reason,
            "logprobs": plain(getattr(choice, "logprobs", None)),
        }
        choices.append(entry)
    body: dict[str, Any] = {
        "id": getattr(answer, "id", None) or f"chatcmpl-{uuid.uuid4().hex}",
        "object": "chat.completion" if chat else "text_completion",
        "created": int(getattr(answer, "created", None) or time.time()),
        "model": getattr(answer, "model", None) or model,
        "choices": choices,
    }
    if usage is not None:
        body["usage"] = usage_object(usage)
    return Whole(jsons.dumps(body), usage, choices[0]["finish_reason"] if choices else None, body["model"])


def message_of(message: Any) -> dict[str, Any]:
    """A message or a delta of litellm's as plain values, without what is not there."""
    dumped = message.model_dump(exclude_none=True, warnings=False)
    fields = {name: value for name, value in dumped.items() if value or name == "content"}
    specific = {name: value for name, value in (fields.pop("provider_specific_fields", None) or {}).items() if value}
    if specific:
        fields["provider_specific_fields"] = specific
    return fields


def plain(value: Any) -> Any:
    """A model of pydantic's as plain values; anything else as it is."""
    return value.model_dump(exclude_none=True, warnings=False) if hasattr(value, "model_dump") else value


def loads(data: bytes) -> tuple[Any, bool]:
    """The JSON of an event, and whether it has surrogates without their other half.

    litellm's own models take no such text: what goes through them is cleaned first.
    """
    try:
        return orjson.loads(data), False
    except ValueError:
        try:
            return jsons.loads(data), True
        except ValueError:
            raise ProviderError("an event of the provider is not JSON", kind=ErrorKind.PROTOCOL) from None


def scrubbed(value: Any) -> Any:
    """The same with U+FFFD in the place of every lone surrogate."""
    text = json.dumps(value, ensure_ascii=False).encode("utf-16-le", "surrogatepass")
    return json.loads(text.decode("utf-16-le", "replace"))


class Translator(Protocol):
    """Turns one provider's events into OpenAI's. `feed` is given them parsed, in order.

    It calls `answering.add` for what the client gets and sets `usage`, `model`, `done` there. It raises `ProviderError`
    for an event that is an error. `dirty`: the event has lone surrogates.
    """

    def feed(self, event: dict[str, Any], answering: Answering, *, dirty: bool) -> None: ...


class Answering:
    """A streamed answer in the making: the chunks' common part, and what is known of the whole."""

    def __init__(self, model: str, *, keep_usage: bool, chat: bool = True) -> None:
        self.usage: Usage | None = None
        self.finish_reason: str | None = None
        self.model = model
        self.events = 0
        self.done = False
        self.withheld = b""
        self.id = f"chatcmpl-{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._keep_usage = keep_usage
        self._chat = chat
        self._head: bytes | None = None
        self._begun: set[int] = set()
        self._out: list[bytes] = []

    def add(
        self, delta: dict[str, Any], *, index: int = 0, finish_reason: str | None = None, logprobs: Any = None
    ) -> None:
        """One chunk. The first one of a choice has the role."""
        if index not in self._begun:
            self._begun.add(index)
            delta = {"role": "assistant", **delta}
        if finish_reason is not None:
            self.finish_reason = self.finish_reason or finish_reason
        said = {"delta": delta} if self._chat else {"text": delta.get("content") or ""}
        choice: dict[str, Any] = {"index": index, **said, "finish_reason": finish_reason}
        if logprobs is not None:
            choice["logprobs"] = logprobs
        self.events += 1
        self._out.append(b'data: %b,"choices":[%b]}\n\n' % (self._start(), jsons.dumps(choice)))

    def report_usage(self) -> None:
        """The chunk with the usage, as the last one; withheld from a client that did not ask for it."""
        if self.usage is None or self.withheld:
            return
        usage = jsons.dumps(usage_object(self.usage))
        self.withheld = b'data: %b,"choices":[],"usage":%b}\n\n' % (self._start(), usage)
        if self._keep_usage:
            self._out.append(self.withheld)

    def _start(self) -> bytes:
        if self._head is None:
            kind = "chat.completion.chunk" if self._chat else "text_completion"
            head = {"id": self.id, "object": kind, "created": self._created, "model": self.model}
            self._head = jsons.dumps(head)[:-1]
        return self._head

    def taken(self) -> bytes:
        out, self._out = self._out, []
        return b"".join(out)


class EventReader(Answering):
    """A `Reader` over a provider's server-sent events."""

    def __init__(
        self, translator: Translator, provider: str, model: str, *, keep_usage: bool, chat: bool = True
    ) -> None:
        super().__init__(model, keep_usage=keep_usage, chat=chat)
        self._translator = translator
        self._provider = provider
        self._rest = b""

    def feed(self, data: bytes) -> bytes:
        if self._rest:
            data = self._rest + data
        if b"\r" in data:
            # A CR at the very end may be half of a CRLF: it stays until the other half is there.
            half = data.endswith(b"\r")
            data = (data[:-1] if half else data).replace(b"\r\n", b"\n").replace(b"\r", b"\n") + b"\r" * half
        end = data.rfind(b"\n\n")
        if end < 0:
            end = -2
        self._rest = data[end + 2 :]
        if len(self._rest) > _MAX_EVENT:
            raise ProviderError(f"one event of the stream is over {_MAX_EVENT} bytes", kind=ErrorKind.PROTOCOL)
        if end >= 0:
            for payload in _payloads(data[:end].split(b"\n\n")):
                self._event(payload)
        return self.taken()

    def _event(self, payload: bytes) -> None:
        if self.done:
            return
        event, dirty = loads(payload)
        if isinstance(event, list) and event:
            event = event[0]
        if not isinstance(event, dict):
            raise ProviderError("an event of the provider is not a JSON object", kind=ErrorKind.PROTOCOL)
        try:
            self._translator.feed(event, self, dirty=dirty)
        except GatewayError:
            raise
        except Exception as error:  # litellm's code, on what a provider has sent
            raise unreadable(self._provider, error) from error

    def finish(self) -> bytes:
        """The end marker; `ProviderError` if the provider never said that, and why, it ended."""
        rest, self._rest = self._rest.strip(), b""
        for payload in _payloads([rest]):
            self._event(payload)
        if self.finish_reason is None:
            raise ProviderError("the stream ended without a finish reason", kind=ErrorKind.PROTOCOL)
        return self.taken() + b"data: [DONE]\n\n"


def _payloads(events: Iterable[bytes]) -> Iterable[bytes]:
    """The data of the events that have some."""
    for event in events:
        lines = [line[5:].strip() for line in event.split(b"\n") if line.startswith(b"data:")]
        payload = lines[0] if len(lines) == 1 else b"\n".join(lines)
        if payload and payload != b"[DONE]":
            yield payload


def unreadable(provider: str, error: Exception) -> ProviderError:
    """What a provider has sent is not what its API is known to send."""
    return ProviderError(f"{provider}'s answer cannot be read: {type(error).__name__}", kind=ErrorKind.PROTOCOL)


def count(holder: Mapping[str, Any], *names: str) -> int:
    """The first of these that is a positive integer, or 0."""
    for name in names:
        value = holder.get(name)
        if isinstance(value, int) and value > 0:
            return value
    return 0
