"""Where a streamed event carries text, in the wires that Junctor speaks: OpenAI's two, Anthropic's and Google's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

__all__ = ["Delta", "deltas", "ended"]

_OPENAI = ("content", "reasoning_content", "reasoning", "refusal")
_ANTHROPIC = {"text": False, "thinking": False, "partial_json": True}


@dataclass(slots=True)
class Delta:
    """A piece of a text: `holder[key]`. Pieces of one `channel` belong together, channels of one `group` in order.

    `alone` makes an event with only this piece, with another text in it. `in_json` says that the text is itself JSON.
    """

    channel: Any
    group: Any
    holder: Any
    key: str
    in_json: bool
    alone: Callable[[str], dict[str, Any]]


def deltas(event: dict[str, Any]) -> Iterator[Delta]:
    """The pieces of text in one event."""
    kind = event.get("type")
    if isinstance(event.get("choices"), list):
        for choice in event["choices"]:
            if isinstance(choice, dict):
                yield from _of_choice(event, choice)
    elif kind == "content_block_delta":
        yield from _of_block(event)
    elif isinstance(kind, str) and kind.startswith("response.") and isinstance(event.get("delta"), str):
        channel = (kind, event.get("item_id"), event.get("output_index"), event.get("content_index"))
        in_json = kind == "response.function_call_arguments.delta"
        yield Delta(channel, channel[1:], event, "delta", in_json, lambda text: {**event, "delta": text})
    elif isinstance(event.get("candidates"), list):
        for candidate in event["candidates"]:
            yield from _of_candidate(event, candidate)


def _of_choice(event: dict[str, Any], choice: dict[str, Any]) -> Iterator[Delta]:
    index = choice.get("index", 0)
    head = {name: value for name, value in event.items() if name not in ("choices", "usage")}

    def alone(part: dict[str, Any]) -> dict[str, Any]:
        return {**head, "choices": [{"index": index, **part, "finish_reason": None}]}

    if isinstance(choice.get("text"), str) and choice["text"]:
        yield Delta((index, "text"), index, choice, "text", False, lambda text: alone({"text": text}))
    delta = choice.get("delta")
    if not isinstance(delta, dict):
        return
    for field in _OPENAI:
        if isinstance(delta.get(field), str) and delta[field]:
            yield Delta((index, field), index, delta, field, False, lambda text, f=field: alone({"delta": {f: text}}))  # type: ignore[misc]
    for call in delta.get("tool_calls") or ():
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict) and isinstance(function.get("arguments"), str) and function["arguments"]:
            number = call.get("index", 0)
            yield _of_call(index, number, function, alone)


def _of_call(
    index: Any, number: Any, function: dict[str, Any], alone: Callable[[dict[str, Any]], dict[str, Any]]
) -> Delta:
    def event(text: str) -> dict[str, Any]:
        return alone({"delta": {"tool_calls": [{"index": number, "function": {"arguments": text}}]}})

    return Delta((index, "call", number), index, function, "arguments", True, event)


def _of_block(event: dict[str, Any]) -> Iterator[Delta]:
    part = event.get("delta")
    if not isinstance(part, dict):
        return
    for field, in_json in _ANTHROPIC.items():
        if isinstance(part.get(field), str) and part[field]:
            index = event.get("index")

            def alone(text: str, field: str = field, part: dict[str, Any] = part) -> dict[str, Any]:
                return {**event, "delta": {**part, field: text}}

            yield Delta((index, field), index, part, field, in_json, alone)


def _of_candidate(event: dict[str, Any], candidate: Any) -> Iterator[Delta]:
    content = candidate.get("content") if isinstance(candidate, dict) else None
    parts = content.get("parts") if isinstance(content, dict) else None
    index = candidate.get("index", 0) if isinstance(candidate, dict) else 0
    for part in parts if isinstance(parts, list) else ():
        if isinstance(part, dict) and isinstance(part.get("text"), str) and part["text"]:

            def alone(text: str, part: dict[str, Any] = part) -> dict[str, Any]:
                answer = {"index": index, "content": {**(content or {}), "parts": [{**part, "text": text}]}}
                head = {name: value for name, value in event.items() if name not in ("candidates", "usageMetadata")}
                return {**head, "candidates": [answer]}

            yield Delta((index, bool(part.get("thought"))), index, part, "text", False, alone)


def ended(event: dict[str, Any]) -> Collection[Any] | bool:
    """The groups whose text is complete with this event; True for all of them, False for none."""
    kind = event.get("type")
    if kind in ("message_delta", "message_stop", "response.completed"):
        return True
    if kind == "content_block_stop":
        return [event.get("index")]
    if isinstance(kind, str) and kind.startswith("response.") and kind.endswith(".done"):
        return True
    choices = event.get("choices") or event.get("candidates")
    if not isinstance(choices, list):
        return False
    over = [c for c in choices if isinstance(c, dict) and (c.get("finish_reason") or c.get("finishReason"))]
    return [choice.get("index", 0) for choice in over]
