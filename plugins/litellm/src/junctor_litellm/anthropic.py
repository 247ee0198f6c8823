"""Anthropic's messages API through litellm's classes: what is asked, and what comes back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from junctor import ErrorKind, ProviderError, Usage

from junctor_litellm.answers import EventReader, count, message_of, scrubbed, whole
from junctor_litellm.errors import from_event
from junctor_litellm.parameters import refuse_remote_media
from junctor_litellm.transformed import Asked, Raw

if TYPE_CHECKING:
    from collections.abc import Mapping

    from junctor import Target

    from junctor_litellm.answers import Answering, Whole
    from junctor_litellm.parameters import Parameters

__all__ = ["Anthropic"]

_NATIVE = ("thinking", "top_k", "cache_control", "context_management", "speed")


class Anthropic:
    """A dialect; see `transformed.Dialect`."""

    provider = "anthropic"
    address = "https://api.anthropic.com"

    def __init__(self, litellm: Any) -> None:
        from litellm.llms.anthropic.chat.handler import ModelResponseIterator  # imported by now
        from litellm.llms.anthropic.chat.transformation import ANTHROPIC_TOOL_NAME_REVERSE_MAP_KEY

        self._config = litellm.AnthropicConfig()
        self._answer = litellm.ModelResponse
        self._iterator = ModelResponseIterator
        self._names = ANTHROPIC_TOOL_NAME_REVERSE_MAP_KEY

    def supported(self, model: str) -> frozenset[str]:
        names = self._config.get_supported_openai_params(model=model)
        return frozenset({*names, *_NATIVE} - {"extra_headers", "stream", "stream_options"})

    def url(self, base: str, model: str, *, stream: bool) -> str:
        return f"{base.removesuffix('/messages').removesuffix('/v1')}/v1/messages"

    def ask(self, target: Target, messages: list[Any], parameters: Parameters, *, stream: bool) -> Asked:
        refuse_remote_media(messages, ("https:", "HTTPS:"), provider="Anthropic")
        given = dict(parameters.translated)
        top_k = given.pop("top_k", None)
        options: dict[str, Any] = self._config.map_openai_params(
            non_default_params=given, optional_params={}, model=target.model, drop_params=False
        )
        if top_k is not None:
            options["top_k"] = top_k
        options.pop("stream", None)
        json_mode = bool(options.pop("json_mode", False))
        notes: dict[str, Any] = {}
        headers = self._config.validate_environment(
            headers={},
            model=target.model,
            messages=messages,
            optional_params=options,
            litellm_params=notes,
            api_key=target.api_key or "none",
            api_base=self.address,
        )
        prefix = self._config.get_prefix_prompt(messages)
        body = self._config.transform_request(
            model=target.model, messages=messages, optional_params=options, litellm_params=notes, headers=headers
        )
        if stream:
            body["stream"] = True
        return Asked(headers, body, json_mode=json_mode, names=notes.get(self._names) or {}, prefix=prefix)

    def whole(self, answer: dict[str, Any], asked: Asked, *, model: str) -> Whole:
        if answer.get("type") == "error" or "error" in answer:
            raise from_event(answer.get("error"))
        if not answer.get("stop_reason"):
            raise ProviderError("the answer has no stop_reason", kind=ErrorKind.PROTOCOL)
        reported = answer.get("usage")
        usage = _usage(reported) if reported else None
        answer["usage"] = {"input_tokens": 0, "output_tokens": 0, **_NOT_COUNTED}
        translated = self._config.transform_parsed_response(
            completion_response=answer,
            raw_response=Raw(answer),
            model_response=self._answer(),
            json_mode=asked.json_mode,
            prefix_prompt=asked.prefix,
            tool_name_reverse_map=asked.names,
        )
        translated.id = answer.get("id") or translated.id
        return whole(translated, usage, model=model, chat=asked.chat)

    def reader(self, asked: Asked, *, model: str, keep_usage: bool) -> EventReader:
        iterator = self._iterator(None, False, json_mode=asked.json_mode, tool_name_reverse_map=dict(asked.names))
        return EventReader(
            _Events(iterator, asked.prefix or ""), self.provider, model, keep_usage=keep_usage, chat=asked.chat
        )


# Else litellm counts the tokens of the thinking itself, with a tokenizer. The provider's own count is what is reported.
_NOT_COUNTED = {"output_tokens_details": {"thinking_tokens": 0}}


def _usage(usage: Mapping[str, Any]) -> Usage:
    """Anthropic's `input_tokens` are without those read from and written to its cache."""
    read, written = count(usage, "cache_read_input_tokens"), count(usage, "cache_creation_input_tokens")
    details = usage.get("output_tokens_details")
    return Usage(
        input_tokens=count(usage, "input_tokens") + read + written,
        output_tokens=count(usage, "output_tokens"),
        cache_read_tokens=read,
        cache_write_tokens=written,
        reasoning_tokens=count(details, "thinking_tokens") if isinstance(details, dict) else 0,
    )


class _Events:
    """Text is carried over here; blocks, tools and thinking are what litellm's parser knows about."""

    def __init__(self, parser: Any, prefix: str) -> None:
        self._parser = parser
        self._usage: dict[str, Any] = {}
        self._prefix = prefix

    def feed(self, event: dict[str, Any], answering: Answering, *, dirty: bool) -> None:
        kind = event.get("type")
        if kind == "content_block_delta":
            delta = event.get("delta") or {}
            if delta.get("type") == "text_delta":
                text = delta.get("text")
                if text:
                    answering.add({"content": self._with_prefix(text)})
                return
        elif kind == "message_start":
            self._begin(event.get("message") or {}, answering)
            return
        elif kind == "message_stop":
            answering.report_usage()
            answering.done = answering.finish_reason is not None
            return
        elif kind == "error":
            raise from_event(event.get("error"))
        elif kind == "ping":
            return
        self._parsed(scrubbed(event) if dirty else event, answering)

    def _with_prefix(self, text: str) -> str:
        """A prefilled answer goes on where the request ended; OpenAI's clients expect it from its beginning."""
        prefix, self._prefix = self._prefix, ""
        return text if text.startswith(prefix) else prefix + text

    def _begin(self, message: Mapping[str, Any], answering: Answering) -> None:
        answering.id = str(message.get("id") or answering.id)
        answering.model = str(message.get("model") or answering.model)
        self._count(message.get("usage"), answering)

    def _count(self, usage: object, answering: Answering) -> None:
        """The counts of a later event are cumulative; what it leaves out stands as it was."""
        if isinstance(usage, dict):
            self._usage.update({name: value for name, value in usage.items() if value is not None})
            answering.usage = _usage(self._usage)

    def _parsed(self, event: dict[str, Any], answering: Answering) -> None:
        ended = None
        if event.get("type") == "message_delta":
            self._count(event.pop("usage", None), answering)
            ended = (event.get("delta") or {}).get("stop_reason")
        chunk = self._parser.chunk_parser(event)
        choice = chunk.choices[0]
        delta = message_of(choice.delta)
        if not delta.get("content"):
            delta.pop("content", None)
        if delta or ended:
            answering.add(delta, finish_reason=choice.finish_reason if ended else None)
