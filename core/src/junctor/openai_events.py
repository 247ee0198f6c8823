"""OpenAI's answers in pieces: read as they pass, taken apart, and put together."""

from __future__ import annotations

import re
from typing import Any

from junctor import jsons
from junctor.errors import ErrorKind, ProviderError
from junctor.exchange import Usage
from junctor.provider_errors import error_in_answer

__all__ = ["Choice", "OpenAIReader", "chunks_of", "read_usage", "split_events"]


def read_usage(usage: object) -> Usage | None:
    """OpenAI's `usage` object; counts that are no integers are taken as absent."""
    if not isinstance(usage, dict):
        return None

    def count(holder: object, key: str) -> int:
        value = holder.get(key) if isinstance(holder, dict) else None
        return value if isinstance(value, int) and value > 0 else 0

    prompt = usage.get("prompt_tokens_details")
    return Usage(
        input_tokens=count(usage, "prompt_tokens"),
        output_tokens=count(usage, "completion_tokens"),
        cache_read_tokens=count(prompt, "cached_tokens"),
        cache_write_tokens=count(prompt, "cache_creation_tokens"),
        reasoning_tokens=count(usage.get("completion_tokens_details"), "reasoning_tokens"),
    )


_INTERESTING = re.compile(rb'"usage"\s*:\s*\{|"finish_reason"\s*:\s*"|"error"\s*:|\[DONE\]')
_CRLF = re.compile(rb"\r\n|\r")
_MAX_EVENT = 16 * 1024 * 1024


class OpenAIReader:
    """Reads OpenAI's server-sent events. Only an event that says something about the answer is parsed.

    `withheld` is the event with the usage if the client did not ask for it: others who get the same answer may have.
    """

    def __init__(self, *, keep_usage: bool = True) -> None:
        self.usage: Usage | None = None
        self.finish_reason: str | None = None
        self.model = ""
        self.events = 0
        self.done = False
        self.withheld = b""
        self._keep_usage = keep_usage
        self._rest = b""

    def feed(self, data: bytes) -> bytes:
        if self._rest:
            data = self._rest + data
            self._rest = b""
        if b"\r" in data:
            data = _unify_line_ends(data)
        if data[-2:] != b"\n\n":
            end = data.rfind(b"\n\n") + 2
            if end == 1:
                self._keep(data)
                return b""
            self._keep(data[end:])
            data = data[:end]
        # Relayed unread, unless an event is cut short: what does not end as an object is parsed, and refused.
        whole = data.count(b"}\n\n") == data.count(b"\n\n")
        if self.events and whole and _INTERESTING.search(data) is None:
            self.events += data.count(b"data:")
            return data
        return b"".join([event for event in map(self._event, data[:-2].split(b"\n\n")) if event])

    def _keep(self, rest: bytes) -> None:
        if len(rest) > _MAX_EVENT:
            raise ProviderError(f"one event of the stream is over {_MAX_EVENT} bytes", kind=ErrorKind.PROTOCOL)
        self._rest = rest

    def _event(self, event: bytes) -> bytes:
        """One event as it is to be relayed; empty if it is not for the client."""
        payload = _payload(event)
        if self.done or payload is None:
            return b""
        if payload == b"[DONE]":
            self.done = True
            return b""
        self.events += 1
        if self.events > 1 and payload.endswith(b"}") and _INTERESTING.search(payload) is None:
            return event + b"\n\n"
        try:
            data = jsons.loads(payload)
        except ValueError:
            raise ProviderError("an event of the stream is not JSON", kind=ErrorKind.PROTOCOL) from None
        if self._note(data):
            return event + b"\n\n"
        self.withheld = event + b"\n\n"
        return b""

    def _note(self, data: Any) -> bool:
        """Take what the event says; False if the client did not ask for this event."""
        if not isinstance(data, dict):
            raise ProviderError("an event of the stream is not a JSON object", kind=ErrorKind.PROTOCOL)
        if data.get("error"):
            raise error_in_answer(data["error"])
        self.model = self.model or str(data.get("model") or "")
        choices = data.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, dict) and choice.get("finish_reason"):
                self.finish_reason = str(choice["finish_reason"])
        usage = read_usage(data.get("usage"))
        if usage is None:
            return True
        self.usage = usage
        return self._keep_usage or bool(choices)

    def finish(self) -> bytes:
        if self._rest.strip():
            rest, self._rest = self._rest, b""
            if self._event(rest):
                raise ProviderError("the stream was cut off within an event", kind=ErrorKind.PROTOCOL)
        if not self.done and self.finish_reason is None:
            raise ProviderError("the stream ended without a finish reason", kind=ErrorKind.PROTOCOL)
        return b"data: [DONE]\n\n"


def _unify_line_ends(data: bytes) -> bytes:
    # A lone CR at the very end may be half of a CRLF: it stays until its other half is there.
    if data.endswith(b"\r"):
        return _CRLF.sub(b"\n", data[:-1]) + b"\r"
    return _CRLF.sub(b"\n", data)


def _payload(event: bytes) -> bytes | None:
    """The data of one event; None for a comment or an event without data."""
    if event.startswith(b"data:") and b"\n" not in event:
        return event[5:].strip()
    lines = [line[5:].strip() for line in event.split(b"\n") if line.startswith(b"data:")]
    return b"\n".join(lines) if lines else None


def split_events(events: bytes) -> list[bytes]:
    """The payloads of whole events."""
    return [payload for event in events.split(b"\n\n") if (payload := _payload(event)) and payload != b"[DONE]"]


def chunks_of(choice: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A whole chat choice as two parts of a stream: everything at once, then why it ended."""
    more = {key: value for key, value in choice.items() if key not in ("message", "finish_reason", "logprobs", "index")}
    delta = {key: value for key, value in choice["message"].items() if value is not None}
    if delta.get("tool_calls"):
        delta["tool_calls"] = [{"index": number, **call} for number, call in enumerate(delta["tool_calls"])]
    index, logprobs = choice.get("index", 0), choice.get("logprobs")
    begin = {"index": index, "delta": delta, "finish_reason": None, "logprobs": logprobs}
    return begin, {"index": index, "delta": {}, "finish_reason": choice.get("finish_reason"), "logprobs": None, **more}


class Choice:
    """One choice, put together from its parts."""

    def __init__(self, index: int, *, chat: bool) -> None:
        self._chat = chat
        self._fields: dict[str, Any] = {"index": index}
        self._message: dict[str, Any] = {"role": "assistant", "content": None}
        self._calls: dict[int, dict[str, Any]] = {}
        self._text: list[str] = []

    def add(self, part: dict[str, Any]) -> None:
        for key, value in part.items():
            if key in ("index", "delta", "text"):
                continue
            if key == "logprobs" and value:
                logprobs = self._fields.get("logprobs") or {}
                _merge(logprobs, value)
                self._fields["logprobs"] = logprobs
            elif value is not None:
                self._fields[key] = value
            else:
                self._fields.setdefault(key, None)
        if not self._chat:
            self._text.append(part.get("text") or "")
            return
        delta = dict(part.get("delta") or {})
        for call in delta.pop("tool_calls", None) or ():
            _merge(self._call(call), {key: value for key, value in call.items() if key != "index"})
        _merge(self._message, delta)

    def _call(self, call: dict[str, Any]) -> dict[str, Any]:
        """The tool call that this piece belongs to. Without an index, another id begins another call."""
        index = call.get("index")
        if not isinstance(index, int):
            last = max(self._calls, default=-1)
            begins = last < 0 or (call.get("id") and call["id"] != self._calls[last].get("id"))
            index = last + 1 if begins else last
        return self._calls.setdefault(index, {})

    def whole(self) -> dict[str, Any]:
        fields = {"finish_reason": None, "logprobs": None, **self._fields}
        if not self._chat:
            return {**fields, "text": "".join(self._text)}
        if self._calls:
            self._message["tool_calls"] = [self._calls[index] for index in sorted(self._calls)]
        return {**fields, "message": self._message}


# Said again in every piece, or in the first one only; never in pieces themselves.
_ATOMS = ("id", "type", "role", "name")


def _merge(into: dict[str, Any], part: dict[str, Any]) -> None:
    """Deltas: text is appended, lists are extended, the rest is set."""
    for key, value in part.items():
        old = into.get(key)
        if value is None or (value == "" and key in _ATOMS):
            into.setdefault(key, value)
        elif isinstance(old, str) and isinstance(value, str) and key not in _ATOMS:
            into[key] = old + value
        elif isinstance(old, list) and isinstance(value, list):
            old.extend(value)
        elif isinstance(old, dict) and isinstance(value, dict):
            _merge(old, value)
        elif isinstance(old, str) and isinstance(value, list):
            into[key] = [{"type": "text", "text": old}, *value] if old else value
        elif isinstance(old, list) and isinstance(value, str):
            if value:
                old.append({"type": "text", "text": value})
        else:
            into[key] = value
