"""What a client speaks. The `Wire` protocol, and OpenAI's: chat completions, completions, embeddings, models."""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from junctor import jsons
from junctor.errors import BadRequest, ErrorKind, GatewayError, ProviderError
from junctor.exchange import Request, Usage
from junctor.openai_events import Choice, OpenAIReader, chunks_of, read_usage, split_events
from junctor.provider_errors import error_in_answer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from junctor.stream import Reader

__all__ = ["OPENAI", "OpenAIWire", "Reading", "Wire"]


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
        parts = [part for choice in answer["choices"] for part in (chunks_of(choice) if chat else (choice,))]
        events = [{**head, "choices": [part], **asked} for part in parts]
        if answer.get("usage"):
            events.append({**head, "choices": [], "usage": answer["usage"]})
        return b"".join(b"data: " + jsons.dumps(event) + b"\n\n" for event in events)

    def to_whole(self, request: Request, events: bytes) -> bytes:
        chat = request.operation == "chat"
        choices: dict[int, Choice] = {}
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
                choices.setdefault(index, Choice(index, chat=chat)).add(part)
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
