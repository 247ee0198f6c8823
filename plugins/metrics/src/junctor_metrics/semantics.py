"""OpenTelemetry's names for generative AI (semantic conventions 1.41, `gen_ai.*`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from junctor_metrics.observe import kind_of

if TYPE_CHECKING:
    from junctor import Attempt, Exchange, Response, Usage

__all__ = [
    "DURATION_BOUNDS",
    "TOKEN_BOUNDS",
    "Attributes",
    "attempt_attributes",
    "operation_of",
    "provider_of",
    "usage_points",
]

DURATION_BOUNDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
"""Of `gen_ai.client.operation.duration`, in seconds."""

TOKEN_BOUNDS = tuple(4**power for power in range(14))
"""Of `gen_ai.client.token.usage`: 1, 4, 16 … 67108864."""

_PROVIDERS = {
    "azure": "azure.ai.openai",
    "azure_ai": "azure.ai.inference",
    "bedrock": "aws.bedrock",
    "gemini": "gcp.gemini",
    "mistral": "mistral_ai",
    "vertex_ai": "gcp.vertex_ai",
    "watsonx": "ibm.watsonx.ai",
    "xai": "x_ai",
}
_OPERATIONS = {"completions": "text_completion", "messages": "chat", "responses": "chat"}
_NUMBERS = {"max_tokens": int, "temperature": float, "top_p": float}


def provider_of(provider: str) -> str:
    """The convention's name of a provider; others keep their own."""
    return _PROVIDERS.get(provider, provider)


def operation_of(operation: str) -> str:
    """The convention's name of an operation."""
    return _OPERATIONS.get(operation, operation)


class Attributes(NamedTuple):
    """Of a span, and the few of them that a metric has."""

    all: dict[str, Any]
    metric: dict[str, Any]


def attempt_attributes(exchange: Exchange, attempt: Attempt, answer: Response | None, operation: str) -> Attributes:
    """What is told of one call of a provider; `answer` is what the client was given of it."""
    target = attempt.target
    metric: dict[str, Any] = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": provider_of(target.provider),
        "gen_ai.request.model": target.model,
    }
    if answer is not None and answer.model:
        metric["gen_ai.response.model"] = answer.model
    if target.base_url:
        parts = urlsplit(target.base_url)
        if parts.hostname:
            metric["server.address"] = parts.hostname
            metric["server.port"] = parts.port or (443 if parts.scheme == "https" else 80)
    if attempt.error is not None:
        metric["error.type"] = kind_of(attempt.error)
    elif attempt.abandoned:
        metric["error.type"] = "abandoned"
    found = {**metric, **_request(exchange)}
    if attempt.usage is not None:
        found |= _usage(attempt.usage)
    if exchange.request.stream and attempt.first_byte:
        found["gen_ai.response.time_to_first_chunk"] = attempt.first_byte - attempt.started
    if answer is not None and answer.finish_reason:
        found["gen_ai.response.finish_reasons"] = (answer.finish_reason,)
    if attempt.of:
        found["junctor.attempt.of"] = attempt.of
    return Attributes(found, metric)


def _request(exchange: Exchange) -> dict[str, Any]:
    body = exchange.request.body
    found: dict[str, Any] = {"gen_ai.request.stream": True} if exchange.request.stream else {}
    for name, kind in _NUMBERS.items():
        value = body.get(name)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            found[f"gen_ai.request.{name}"] = kind(value)
    return found


def _usage(usage: Usage) -> dict[str, int]:
    found = {"gen_ai.usage.input_tokens": usage.input_tokens, "gen_ai.usage.output_tokens": usage.output_tokens}
    if usage.cache_read_tokens:
        found["gen_ai.usage.cache_read.input_tokens"] = usage.cache_read_tokens
    if usage.cache_write_tokens:
        found["gen_ai.usage.cache_creation.input_tokens"] = usage.cache_write_tokens
    if usage.reasoning_tokens:
        found["gen_ai.usage.reasoning.output_tokens"] = usage.reasoning_tokens
    return found


def usage_points(attempt: Attempt) -> tuple[tuple[str, int], ...]:
    """(Type, tokens) for `gen_ai.client.token.usage`; estimates are nobody's count and left out."""
    usage = attempt.usage
    if usage is None or usage.estimated:
        return ()
    return ("input", usage.input_tokens), ("output", usage.output_tokens)
