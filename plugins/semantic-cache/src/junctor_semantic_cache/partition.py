"""The exact part of a request: everything that can change the answer but the words of the last user turn.

Semantic search happens only among entries of the same partition, which also holds what a policy or a route has decided.
The scope (who may share) and the tenant are fields of their own, so that a filter, not a text, keeps them apart.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from junctor import jsons
from junctor.sharing import decided_of, keys_brought, owner_of

from junctor_semantic_cache.words import VOLATILE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from junctor import Exchange

    from junctor_semantic_cache.settings import SemanticCacheSettings

__all__ = ["Question", "Unfit", "namespace_of", "read_question"]

# What no answer depends on. The rest of the body belongs to the partition, known or not.
_IGNORED = frozenset(
    {
        "messages",
        "stream",
        "stream_options",
        "user",
        "metadata",
        "store",
        "temperature",
        "safety_identifier",
        "prompt_cache_key",
        "service_tier",
    }
)
_WORDS = re.compile(r"[a-z]+")


class Unfit(Exception):
    """The request cannot be looked up; the message says why, in a word or two."""


@dataclass(frozen=True, slots=True)
class Question:
    """A request, taken apart: `text` is compared by meaning, all else must be equal.

    `scope` and `tenant` say whose it is. `volatile`: the prompt asks for what changes by itself.
    """

    text: str
    scope: str
    tenant: str
    partition: str
    namespace: str
    model: str
    template: str
    volatile: bool


def read_question(
    exchange: Exchange, settings: SemanticCacheSettings, *, embedder: str, window: Callable[[str], int]
) -> Question:
    """Take the request apart; `window` tells how many characters of a text the embedder sees. Raises `Unfit`."""
    request = exchange.request
    body, headers = request.body, request.headers
    text, content, prior = _last_turn(body)
    seen = window(text)
    text, rest = text[:seen], text[seen:]
    template = headers.get(settings.template_header, "") if settings.template_header else ""
    tenant = headers.get(settings.tenant_header, "") if settings.tenant_header else ""
    partition = [
        embedder,
        request.wire.name,
        request.operation,
        decided_of(exchange, exchange.targets or (exchange.model.targets if exchange.model is not None else ())),
        template,
        _sampling(body, settings.max_temperature),
        {key: value for key, value in body.items() if key not in _IGNORED},
        prior,
        content,
        rest,
    ]
    return Question(
        text=text,
        scope=_scope(exchange, settings.scope),
        tenant=_digest(tenant) if tenant else "",
        partition=_digest(partition),
        namespace=namespace_of(exchange, settings),
        model=request.model,
        template=template,
        volatile=_volatile(text),
    )


def _volatile(text: str) -> bool:
    """Whether the answer changes by itself: it is asked for what is now. A current account is none of that."""
    words = _WORDS.findall(text.lower())
    if not VOLATILE.isdisjoint(words):
        return True
    return any(
        word == "current" and following != "account" for word, following in zip(words, [*words[1:], ""], strict=True)
    )


def namespace_of(exchange: Exchange, settings: SemanticCacheSettings) -> str:
    """What errors are counted by: a header if one is configured and sent, or an attribute of the request."""
    if settings.namespace_header and (named := exchange.request.headers.get(settings.namespace_header)):
        return named[:100]
    if settings.namespace == "model":
        return exchange.request.model
    return str(getattr(exchange.client, settings.namespace)) or "none"


def _last_turn(body: Mapping[str, Any]) -> tuple[str, list[Any], list[Any]]:
    """The text of the last user turn, its other parts (images, files), and all turns before."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise Unfit("no messages")
    *prior, last = messages
    if last.get("role") != "user":
        raise Unfit("last turn is not the user's")
    content = last.get("content")
    others = [{key: value for key, value in last.items() if key not in ("role", "content")}]
    if isinstance(content, str):
        text = content
    else:
        parts = content if isinstance(content, list) else []
        texts = [part["text"] for part in parts if _is_text(part)]
        text = "\n".join(texts)
        others += [part for part in parts if not _is_text(part)]
    if not text.strip():
        raise Unfit("no text")
    return text, others, prior


def _is_text(part: Any) -> bool:
    return (
        isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str) and len(part) == 2
    )


def _sampling(body: Mapping[str, Any], highest: float) -> str:
    """Cold and warm sampling do not share answers; hot sampling is asked for because answers should differ."""
    if body.get("n") not in (None, 1):
        raise Unfit("more than one choice")
    temperature = body.get("temperature")
    if temperature is None:
        return "warm"
    if not isinstance(temperature, (int, float)) or isinstance(temperature, bool):
        raise Unfit("temperature is no number")
    if temperature > highest:
        raise Unfit("temperature over the limit")
    return "cold" if temperature < 0.3 else "warm"


def _scope(exchange: Exchange, scope: str) -> str:
    """Who shares the entry."""
    owner, brought = owner_of(exchange.client, scope), keys_brought(exchange)
    if brought is None:
        return _digest(owner)
    if not brought:
        raise Unfit("a provider's key that is not known")
    return _digest(["byok", owner, brought])


def _digest(value: object) -> str:
    return hashlib.blake2b(jsons.canonical(value), digest_size=16).hexdigest()
