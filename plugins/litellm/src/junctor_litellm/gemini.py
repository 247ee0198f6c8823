"""Google AI Studio's Gemini API through litellm's classes: what is asked, and what comes back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from junctor import ErrorKind, ProviderError, Usage

from junctor_litellm.answers import EventReader, count, message_of, plain, scrubbed, whole
from junctor_litellm.errors import from_event
from junctor_litellm.parameters import refuse_remote_media
from junctor_litellm.transformed import Asked, Raw, Unheard

if TYPE_CHECKING:
    from collections.abc import Mapping

    from junctor import Target

    from junctor_litellm.answers import Answering, Whole
    from junctor_litellm.parameters import Parameters

__all__ = ["Gemini"]

# Parameters that are Google's, which litellm puts where they belong in the request.
_NATIVE = ("top_k", "thinking", "safety_settings", "cached_content")
_FILES = ("https://generativelanguage.googleapis.com/",)


class Gemini:
    """A dialect; see `transformed.Dialect`."""

    provider = "gemini"
    address = "https://generativelanguage.googleapis.com"

    def __init__(self, litellm: Any) -> None:
        from litellm.llms.vertex_ai.gemini import transformation  # imported by now
        from litellm.llms.vertex_ai.gemini import vertex_and_google_ai_studio_gemini as module

        self._config: Any = litellm.GoogleAIStudioGeminiConfig()
        self._answer = litellm.ModelResponse
        self._transform = transformation.transform_request_body
        self._iterator: Any = module.ModelResponseIterator

    def supported(self, model: str) -> frozenset[str]:
        names = self._config.get_supported_openai_params(model=model)
        return frozenset({*names, *_NATIVE, "top_logprobs"} - {"stream", "stream_options"})

    def url(self, base: str, model: str, *, stream: bool) -> str:
        versioned = base if base.endswith(("/v1", "/v1beta", "/v1alpha")) else f"{base}/v1beta"
        how = "streamGenerateContent?alt=sse" if stream else "generateContent"
        return f"{versioned}/models/{model}:{how}"

    def ask(self, target: Target, messages: list[Any], parameters: Parameters, *, stream: bool) -> Asked:
        refuse_remote_media(messages, _FILES, provider="Gemini")
        given = dict(parameters.translated)
        options = {name: given.pop(name) for name in ("safety_settings", "cached_content") if name in given}
        options = self._config.map_openai_params(
            non_default_params=given, optional_params=options, model=target.model, drop_params=False
        )
        cached = options.pop("cached_content", None)
        body = self._transform(
            messages=messages,
            model=target.model,
            optional_params=options,
            custom_llm_provider="gemini",
            litellm_params={},
            cached_content=cached,
        )
        headers = {"content-type": "application/json", "x-goog-api-key": target.api_key or "none"}
        return Asked(headers, dict(body), choices=int(given.get("n") or 1))

    def whole(self, answer: dict[str, Any], asked: Asked, *, model: str) -> Whole:
        if "error" in answer:
            raise from_event(answer["error"])
        candidates = answer.get("candidates") or []
        blocked = (answer.get("promptFeedback") or {}).get("blockReason")
        if not blocked and not (candidates and all(candidate.get("finishReason") for candidate in candidates)):
            raise ProviderError("the answer is without candidates, or without their finishReason", kind=_PROTOCOL)
        usage = _usage(answer.get("usageMetadata"))
        answer.setdefault("usageMetadata", {})
        translated = self._config.transform_google_generate_content_to_openai_model_response(
            completion_response=answer,
            model_response=self._answer(),
            model=model,
            logging_obj=Unheard(),
            raw_response=Raw(answer),
        )
        return whole(translated, usage, model=model, chat=asked.chat)

    def reader(self, asked: Asked, *, model: str, keep_usage: bool) -> EventReader:
        parser = self._iterator(streaming_response=None, sync_stream=False, logging_obj=Unheard())
        return EventReader(_Events(parser, asked.choices), self.provider, model, keep_usage=keep_usage, chat=asked.chat)


_PROTOCOL = ErrorKind.PROTOCOL


def _usage(usage: object) -> Usage | None:
    """Google's `promptTokenCount` has the cached tokens in it; thoughts are mostly, not always, counted apart."""
    if not isinstance(usage, dict) or not usage:
        return None
    prompt = count(usage, "promptTokenCount") + count(usage, "toolUsePromptTokenCount")
    candidates, thoughts = count(usage, "candidatesTokenCount"), count(usage, "thoughtsTokenCount")
    apart = count(usage, "totalTokenCount") != prompt + candidates
    return Usage(
        input_tokens=prompt,
        output_tokens=candidates + (thoughts if apart else 0),
        cache_read_tokens=count(usage, "cachedContentTokenCount"),
        reasoning_tokens=thoughts,
    )


class _Events:
    """Plain text is carried over here; everything else is what litellm's parser knows about."""

    def __init__(self, parser: Any, choices: int) -> None:
        self._parser = parser
        self._open = choices

    def feed(self, event: dict[str, Any], answering: Answering, *, dirty: bool) -> None:
        if "error" in event:
            raise from_event(event["error"])
        answering.usage = _usage(event.get("usageMetadata")) or answering.usage
        answering.id = str(event.get("responseId") or answering.id)
        answering.model = str(event.get("modelVersion") or answering.model)
        candidates: list[dict[str, Any]] = event.get("candidates") or []
        text = _only_text(candidates)
        if text is not None:
            if text:
                answering.add({"content": text}, index=candidates[0].get("index") or 0)
            return
        blocked = (event.get("promptFeedback") or {}).get("blockReason")
        if not candidates and not blocked:
            return
        ended = {place: bool(c.get("finishReason")) for place, c in enumerate(candidates)}
        ended = {candidates[place].get("index") or 0: value for place, value in ended.items()}
        chunk = self._parser.chunk_parser(scrubbed(event) if dirty else event)
        for choice in chunk.choices:
            self._choice(choice, answering, ended=bool(blocked) or ended.get(choice.index, False))
        if self._open <= 0 or blocked:
            answering.report_usage()

    def _choice(self, choice: Any, answering: Answering, *, ended: bool) -> None:
        delta = message_of(choice.delta)
        delta.pop("role", None)
        if not delta.get("content"):
            delta.pop("content", None)
        self._open -= ended
        if delta or ended:
            reason = (choice.finish_reason or "stop") if ended else None
            logprobs = plain(getattr(choice, "logprobs", None))
            answering.add(delta, index=choice.index or 0, finish_reason=reason, logprobs=logprobs)


_PLAIN = {"content", "index"}


def _only_text(candidates: list[dict[str, Any]]) -> str | None:
    """The text of an event that has one part of text and nothing else to say; None for all others."""
    if len(candidates) != 1 or not candidates[0].keys() <= _PLAIN:
        return None
    parts = (candidates[0].get("content") or {}).get("parts")
    if not parts or len(parts) != 1 or parts[0].keys() != {"text"}:
        return None
    text: Mapping[str, Any] = parts[0]
    return str(text["text"])
