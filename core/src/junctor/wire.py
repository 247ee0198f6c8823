"""What a client speaks. The `Wire` protocol, and OpenAI's: chat completions, completions, embeddings, models."""

from __future__ import annotations

import re
import time
import uuid
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from junctor import jsons
from junctor.errors import BadRequest, ErrorKind, GatewayError, ProviderError
from junctor.exchange import Request, Usage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from junctor.stream import Reader

__all__ = ["OPENAI", "OpenAIReader", "OpenAIWire", "Reading", "Wire"]


class Reading(NamedTuple):
    """What a whole answer says about itself."""

    usage: Usage | None
    finish_reason: str | None
    model: str


class Wire(Protocol):
    """One API's way to ask and to answer. A plugin contributes another by serving it with `junctor.server.Endpoint`.

    `parse` raises `BadRequest` naming the field. `read` raises `ProviderError` for what is no answer of this operation.
    `to_stream` and `to_whole` turn a complete answer into the other form; the events are without the end marker.
    """

    name: str

    def parse(self, operation: str, body: bytes, headers: Mapping[str, str], *, max_depth: int) -> Request: ...
    def read(self, operation: str, body: bytes) -> Reading: ...
    def reader(self, request: Request) -> Reader: ...
    def to_stream(self, request: Request, body: bytes) -> bytes: ...
    def to_whole(self, request: Request, events: bytes) -> bytes: ...
    def error(self, error: GatewayError) -> bytes: ...
    def stream_error(self, error: GatewayError) -> bytes: ...


# What each operation cannot do without, and the types it may have.
_REQUIRED: dict[str, tuple[str, tuple[type, ...], str]] = {
    "chat": ("messages", (list,), "an array of messages"),
    "completions": ("prompt", (str, list), "a string or an array"),
    "embeddings": ("input", (str, list), "a string or an array"),
}


class OpenAIWire:
    """OpenAI's HTTP API, as its SDKs speak it."""

    name = "openai"

    def parse(self, operation: str, body: bytes, headers: Mapping[str, str], *, max_depth: int) -> Request:
        data = parse_object(body, max_depth=max_depth)
        model = data.get("model")
        if not isinstance(model, str) or not model:
            raise BadRequest(
                "'model' must be a string that names a model", param="model", code="missing_required_parameter"
            )
        field, types, form = _REQUIRED[operation]
        if field not in data:
            raise BadRequest(f"'{field}' is missing; it must be {form}", param=field, code="missing_required_parameter")
        if not isinstance(data[field], types):
            raise BadRequest(f"'{field}' must be {form}", param=field, code="invalid_type")
        if operation == "chat":
            _check_messages(data["messages"])
        stream = data.get("stream")
        if stream is not None and not isinstance(stream, bool):
            raise BadRequest("'stream' must be true or false", param="stream", code="invalid_type")
        options = data.get("stream_options")
        if options is not None and not isinstance(options, dict):
            raise BadRequest("'stream_options' must be an object", param="stream_options", code="invalid_type")
        return Request(
            self, operation, data, model, bool(stream) and operation != "embeddings", headers, size=len(body)
        )

    def read(self, operation: str, body: bytes) -> Reading:
        try:
            answer = jsons.loads(body)
        except ValueError:
            raise ProviderError("the answer is not JSON", kind=ErrorKind.PROTOCOL) from None
        if not isinstance(answer, dict):
            raise ProviderError("the answer is not a JSON object", kind=ErrorKind.PROTOCOL)
        if answer.get("error") and "choices" not in answer:
            raise error_in_answer(answer["error"])
        items = answer.get("data" if operation == "embeddings" else "choices")
        if not isinstance(items, list) or not items:
            raise ProviderError("the answer holds no result", kind=ErrorKind.PROTOCOL)
        finish = items[0].get("finish_reason") if isinstance(items[0], dict) else None
        return Reading(read_usage(answer.get("usage")), finish, str(answer.get("model") or ""))

    def reader(self, request: Request) -> OpenAIReader:
        options = request.body.get("stream_options") or {}
        return OpenAIReader(keep_usage=bool(options.get("include_usage")))

    def to_stream(self, request: Request, body: bytes) -> bytes:
        """The usage, if there is one, is the last event; the reader drops it for a client that did not ask for it."""
        answer = jsons.loads(body)
        chat = request.operation == "chat"
        head = {key: value for key, value in answer.items() if key not in ("object", "choices", "usage")}
        head["object"] = "chat.completion.chunk" if chat else "text_completion"
        asked = {"usage": None} if (request.body.get("stream_options") or {}).get("include_usage") else {}
        parts = [part for choice in answer["choices"] for part in (_chunks_of(choice) if chat else (choice,))]
        events = [{**head, "choices": [part], **asked} for part in parts]
        if answer.get("usage"):
            events.append({**head, "choices": [], "usage": answer["usage"]})
        return b"".join(b"data: " + jsons.dumps(event) + b"\n\n" for event in events)

    def to_whole(self, request: Request, events: bytes) -> bytes:
        chat = request.operation == "chat"
        choices: dict[int, _Choice] = {}
        answer: dict[str, Any] = {}
        for event in split_events(events):
            data = jsons.loads(event)
            for key, value in data.items():
                # Azure's first event has an empty id and model.
                if key not in ("choices", "obfuscation", "object") and value is not None and not answer.get(key):
                    answer[key] = value
            if data.get("usage"):
                answer["usage"] = data["usage"]
            for part in data.get("choices") or ():
                index = part.get("index") or 0
                choices.setdefault(index, _Choice(index, chat=chat)).add(part)
        answer["object"] = "chat.completion" if chat else "text_completion"
        answer["choices"] = [choices[index].whole() for index in sorted(choices)]
        return jsons.dumps(answer)

    def error(self, error: GatewayError) -> bytes:
        return jsons.dumps(
            {"error": {"message": error.message, "type": error.type, "param": error.param, "code": error.code}}
        )

    def stream_error(self, error: GatewayError) -> bytes:
        """One chunk with a top-level `error` and `finish_reason: "error"`; no `[DONE]` follows."""
        chunk = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": "",
            "choices": [{"index": 0, "delta": {}, "finish_reason": error.finish_reason}],
            "error": {"message": error.message, "type": error.type, "param": error.param, "code": error.code},
        }
        return b"data: " + jsons.dumps(chunk) + b"\n\n"


OPENAI = OpenAIWire()


def parse_object(body: bytes, *, max_depth: int) -> dict[str, Any]:
    """A request's body as a JSON object, or `BadRequest`."""
    try:
        data = jsons.loads(body)
    except ValueError as error:
        deep = any(word in str(error).lower() for word in ("deep", "depth", "recursion"))
        message = "the body's JSON is nested too deep" if deep else f"the body is not JSON: {error}"
        raise BadRequest(message, code="invalid_json") from None
    if not isinstance(data, dict):
        raise BadRequest("the body must be a JSON object", code="invalid_json")
    # A body cannot be nested deeper than it has opening brackets: most need no walk.
    if body.count(b"{") + body.count(b"[") > max_depth and jsons.depth_over(data, max_depth):
        raise BadRequest(f"the body's JSON is nested too deep (more than {max_depth} levels)", code="invalid_json")
    return data


def _check_messages(messages: list[Any]) -> None:
    if not messages:
        raise BadRequest("'messages' must not be empty", param="messages", code="invalid_value")
    for index, message in enumerate(messages):
        if not isinstance(message, dict):
            raise BadRequest(f"'messages[{index}]' must be an object", param=f"messages[{index}]", code="invalid_type")
        if not isinstance(message.get("role"), str):
            param = f"messages[{index}].role"
            raise BadRequest(f"'{param}' must be a string", param=param, code="missing_required_parameter")
        content = message.get("content")
        if content is not None and not isinstance(content, (str, list)):
            param = f"messages[{index}].content"
            raise BadRequest(f"'{param}' must be a string or an array of parts", param=param, code="invalid_type")


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


# An OpenAI-compatible error's code or message → its kind. Codes first; words only where providers give no code.
_KIND_BY_CODE = {
    "context_length_exceeded": ErrorKind.CONTEXT_TOO_LONG,
    "string_above_max_length": ErrorKind.CONTEXT_TOO_LONG,
    "insufficient_quota": ErrorKind.QUOTA_EXHAUSTED,
    "billing_hard_limit_reached": ErrorKind.QUOTA_EXHAUSTED,
    "rate_limit_exceeded": ErrorKind.RATE_LIMITED,
    "rate_limit_error": ErrorKind.RATE_LIMITED,
    "overloaded_error": ErrorKind.OVERLOADED,
    "server_error": ErrorKind.OVERLOADED,
    "content_policy_violation": ErrorKind.CONTENT_POLICY,
    "content_filter": ErrorKind.CONTENT_POLICY,
    "invalid_api_key": ErrorKind.AUTHENTICATION,
    "authentication_error": ErrorKind.AUTHENTICATION,
    "model_not_found": ErrorKind.NOT_FOUND,
    "exceed_context_size_error": ErrorKind.CONTEXT_TOO_LONG,
}
_KIND_BY_STATUS = {
    400: ErrorKind.BAD_REQUEST,
    401: ErrorKind.AUTHENTICATION,
    402: ErrorKind.QUOTA_EXHAUSTED,
    403: ErrorKind.AUTHENTICATION,
    404: ErrorKind.NOT_FOUND,
    408: ErrorKind.TIMEOUT,
    409: ErrorKind.OVERLOADED,
    413: ErrorKind.CONTEXT_TOO_LONG,
    422: ErrorKind.BAD_REQUEST,
    429: ErrorKind.RATE_LIMITED,
    503: ErrorKind.OVERLOADED,
    504: ErrorKind.TIMEOUT,
    529: ErrorKind.OVERLOADED,
}
_TOO_LONG = re.compile(
    r"context (length|window|size)|maximum context|too many tokens|prompt is too long", re.IGNORECASE
)


def error_kind(status: int, *, code: str = "", message: str = "") -> ErrorKind:
    """The kind of a provider's error, from its code, then its status, then its words."""
    kind = _KIND_BY_CODE.get(code)
    if kind is not None:
        return kind
    kind = _KIND_BY_STATUS.get(status) or (ErrorKind.BAD_REQUEST if 400 <= status < 500 else ErrorKind.OVERLOADED)
    if kind is ErrorKind.BAD_REQUEST and _TOO_LONG.search(message):
        return ErrorKind.CONTEXT_TOO_LONG
    if 300 <= status < 400:
        return ErrorKind.PROTOCOL
    return kind


def error_in_answer(error: object, *, status: int = 0, retry_after: float | None = None) -> ProviderError:
    """An OpenAI-compatible `error` value, wherever it stood (an answer, a 200, the middle of a stream)."""
    fields = error if isinstance(error, dict) else {"message": str(error)}
    codes = [str(fields[key]) for key in ("code", "type") if fields.get(key)]
    code = next((code for code in codes if code in _KIND_BY_CODE), codes[0] if codes else "")
    if not status and code.isdigit() and 400 <= int(code) < 600:
        status = int(code)
    message = str(fields.get("message") or "the provider gave no reason")
    kind = error_kind(status or 500, code=code, message=message)
    own = kind in (ErrorKind.BAD_REQUEST, ErrorKind.NOT_FOUND) and 400 <= status < 500
    return ProviderError(
        message,
        kind=kind,
        provider_status=status or None,
        status_code=status if own else None,
        code=code if own and code else None,
        param=fields["param"] if isinstance(fields.get("param"), str) else None,
        retry_after=retry_after,
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


def _chunks_of(choice: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A whole chat choice as two parts of a stream: everything at once, then why it ended."""
    more = {key: value for key, value in choice.items() if key not in ("message", "finish_reason", "logprobs", "index")}
    delta = {key: value for key, value in choice["message"].items() if value is not None}
    if delta.get("tool_calls"):
        delta["tool_calls"] = [{"index": number, **call} for number, call in enumerate(delta["tool_calls"])]
    index, logprobs = choice.get("index", 0), choice.get("logprobs")
    begin = {"index": index, "delta": delta, "finish_reason": None, "logprobs": logprobs}
    return begin, {"index": index, "delta": {}, "finish_reason": choice.get("finish_reason"), "logprobs": None, **more}


class _Choice:
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
