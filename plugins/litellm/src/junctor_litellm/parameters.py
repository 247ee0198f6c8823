"""What of a client's body goes where: to litellm's translation, to the provider as it is, or nowhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from junctor import ErrorKind, ProviderError, jsons

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from junctor import Request

__all__ = ["CHAT", "Parameters", "as_chat", "cannot", "copied", "refuse_remote_media", "sort"]

CHAT = frozenset({
    "audio", "frequency_penalty", "function_call", "functions", "logit_bias", "logprobs", "max_completion_tokens",
    "max_tokens", "messages", "metadata", "modalities", "model", "n", "parallel_tool_calls", "prediction",
    "presence_penalty", "prompt_cache_key", "prompt_cache_retention", "reasoning_effort", "response_format",
    "safety_identifier", "seed", "service_tier", "stop", "store", "stream", "stream_options", "temperature",
    "tool_choice", "tools", "top_logprobs", "top_p", "user", "verbosity", "web_search_options",
})  # fmt: skip
"""OpenAI's parameters of a chat completion."""

_OURS = frozenset({"model", "messages", "stream", "stream_options"})
# They tell the provider something; the answer is not another one without them.
_HINTS = frozenset({
    "metadata", "prediction", "prompt_cache_key", "prompt_cache_retention", "safety_identifier", "service_tier",
    "store", "user", "verbosity", "parallel_tool_calls",
})  # fmt: skip
_NEUTRAL: Mapping[str, Any] = {
    "n": 1, "logprobs": False, "frequency_penalty": 0, "presence_penalty": 0, "logit_bias": {}, "top_logprobs": 0,
    "modalities": ["text"], "tools": [], "functions": [], "response_format": {"type": "text"},
}  # fmt: skip

# Addresses, credentials and switches of litellm and of the SDKs beneath it. Neither OpenAI nor a provider has such a
# parameter in its body: from a client they are never read, and not passed on either.
_CONTROL = frozenset({
    "acompletion", "allowed_openai_params", "api_base", "api_key", "api_type", "api_version", "azure_ad_token",
    "azure_ad_token_provider", "base_url", "cache", "caching", "callbacks", "client", "complete_response",
    "context_window_fallback_dict", "cooldown_time", "custom_llm_provider", "deployment_id", "drop_params",
    "extra_body", "extra_headers", "fallbacks", "force_timeout", "headers", "hf_model_name", "input_cost_per_token",
    "litellm_call_id", "litellm_credential_name", "litellm_logging_obj", "litellm_metadata", "litellm_params",
    "logger_fn", "max_retries", "merge_reasoning_content_in_choices", "mock_delay", "mock_response", "mock_timeout",
    "mock_tool_calls", "model_file_id_mapping", "model_info", "model_list", "model_response", "no-log", "num_retries",
    "optional_params", "organization", "output_cost_per_token", "preset_cache_key", "prompt_id", "prompt_variables",
    "provider_specific_header", "proxy_server_request", "request_timeout", "retry_policy", "retry_strategy",
    "shared_session", "ssl_verify", "text_completion", "timeout", "use_in_pass_through", "verbose",
})  # fmt: skip
_CONTROL_PREFIXES = ("aws_", "vertex_", "azure_", "litellm_", "s3_", "watsonx_", "sagemaker_", "_")


# Parameters of a plain completion that a chat completion does not have, or has in another form.
_COMPLETIONS = ("best_of", "echo", "suffix", "logprobs")


class Parameters(NamedTuple):
    """`translated` are OpenAI's, for litellm to map; `passed_on` are the provider's own, for it to read as they are."""

    translated: dict[str, Any]
    passed_on: dict[str, Any]


def cannot(message: str, *, param: str | None = None, code: str = "unsupported_value") -> ProviderError:
    """The request is not for this target. Nothing was sent, and another target may be able to answer it."""
    return ProviderError(message, kind=ErrorKind.BAD_REQUEST, code=code, param=param, sent=False)


def is_control(name: str) -> bool:
    """Whether litellm would take it as an instruction about the call."""
    return name in _CONTROL or name.startswith(_CONTROL_PREFIXES)


def sort(
    body: Mapping[str, Any],
    defaults: Mapping[str, Any],
    supported: Collection[str],
    *,
    provider: str,
    drop: bool,
    known: Collection[str] = CHAT,
) -> Parameters:
    """Sort the body over the target's defaults; an error for a parameter of OpenAI's that the provider lacks.

    With `drop` such a parameter is left out. `stream`, `messages` and `model` are in neither part.
    """
    translated: dict[str, Any] = {}
    passed_on: dict[str, Any] = {}
    for name, value in ({**defaults, **body} if defaults else body).items():
        if value is None or name in _OURS:
            continue
        if name in supported:
            translated[name] = value
        elif name in known:
            if not (drop or name in _HINTS or _NEUTRAL.get(name, _NEUTRAL) == value):
                message = f"'{name}' cannot be honoured: {provider} has nothing like it"
                raise cannot(message, param=name, code="unsupported_parameter")
        elif not is_control(name):
            passed_on[name] = value
    return Parameters(translated, passed_on)


def as_chat(request: Request) -> dict[str, Any]:
    """The body as that of a chat completion: a plain completion's prompt is a user's only message."""
    if request.operation == "chat":
        return request.body
    prompt = request.body["prompt"]
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if not isinstance(prompt, str):
        raise cannot("'prompt' must be one text for this target", param="prompt")
    rest = {name: value for name, value in request.body.items() if name not in ("prompt", *_COMPLETIONS)}
    for name in _COMPLETIONS:
        if request.body.get(name) not in (None, False, "", 0, 1):
            raise cannot(f"'{name}' cannot be honoured by this target", param=name, code="unsupported_parameter")
    return {**rest, "messages": [{"role": "user", "content": prompt}]}


def copied(value: Any) -> Any:
    """A deep copy of JSON: litellm changes what it is given, and the next attempt needs it as it was."""
    return jsons.loads(jsons.dumps(value))


def refuse_remote_media(messages: list[Any], allowed: tuple[str, ...], *, provider: str) -> None:
    """Refuse addresses in messages that litellm would fetch: no client chooses where this gateway connects to.

    `allowed` are beginnings of addresses that go to the provider unread.
    """
    for number, message in enumerate(messages):
        content = message.get("content")
        for part in content if isinstance(content, list) else ():
            if not isinstance(part, dict) or part.get("type") == "text":
                continue
            for text in _texts(part):
                if text[:5].lower() in ("http:", "https", "gs://", "file:", "s3://") and not text.startswith(allowed):
                    raise cannot(
                        f"this gateway does not fetch addresses, and {provider} cannot: send the content as a data URI",
                        param=f"messages[{number}].content",
                        code="unsupported_value",
                    )


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for child in value.values():
            yield from _texts(child)
    elif isinstance(value, list):
        for child in value:
            yield from _texts(child)
