"""Constraints: which of a model's targets may take a request at all, and the refusal when none may."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from junctor import BadRequest, Refused

from junctor_routing.view import AUDIO, IMAGES, JSON_SCHEMA, STREAMING, TOOLS

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from junctor import GatewayError, Price, Target

    from junctor_routing.live import Live
    from junctor_routing.view import View

__all__ = ["Candidate", "Pool", "abilities", "refusal"]

# What a request may need, what the error calls it, and the words of `supports` that grant it.
_NEEDS = (
    (STREAMING, "streaming", frozenset({"streaming", "native_streaming"})),
    (TOOLS, "tools", frozenset({"tools", "function_calling"})),
    (IMAGES, "vision", frozenset({"vision", "image_input", "multimodal"})),
    (JSON_SCHEMA, "json_schema", frozenset({"json_schema", "response_schema", "native_structured_output"})),
    (AUDIO, "audio", frozenset({"audio", "audio_input"})),
)
ALL = STREAMING | TOOLS | IMAGES | JSON_SCHEMA | AUDIO


def abilities(target: Target, *, configured: bool, keep_unknown: bool) -> int:
    """The needs that a target can meet.

    A list that the operator wrote is the whole truth. The price file's is the truth for what it records; it does not
    record streaming, so nothing is concluded from its silence. An empty set is no knowledge at all.
    """
    if not target.supports:
        return ALL if keep_unknown and not configured else 0
    able = sum(bit for bit, _, words in _NEEDS if target.supports & words)
    return able if configured else able | STREAMING


class Candidate:
    """A target with what the hot path needs of it, worked out at start-up."""

    __slots__ = ("abilities", "id", "live", "price", "seed", "tags", "target", "weight", "window")

    def __init__(self, target: Target, live: Live, able: int, seed: int) -> None:
        self.target = target
        self.live = live
        self.id = target.id
        self.weight = target.weight
        self.window = target.context_window
        self.tags = target.tags
        self.abilities = able
        self.price: Price | None = target.price
        self.seed = seed

    def cost(self, view: View) -> float | None:
        """Expected nano-dollars, with what the provider's cache usually saves here; None if unpriced."""
        price = self.price
        if price is None:
            return None
        tokens = view.tokens
        if price.above is not None and tokens > price.above[0]:
            price = price.above[1]
        read = price.input if price.cache_read is None else price.cache_read
        cached = tokens * self.live.cached_share
        return ((tokens - cached) * price.input + cached * read + view.output_tokens * price.output) / 1e6


class Pool:
    """The candidates that static facts leave, and why the others were dropped. Kept for all equal requests."""

    __slots__ = ("candidates", "dropped", "kinds", "smallest_window")

    def __init__(self, candidates: Sequence[Candidate], features: int, tags: Iterable[tuple[str, str]]) -> None:
        """`tags` are (tag, who wants it)."""
        self.candidates: list[Candidate] = []
        self.dropped: list[dict[str, Any]] = []
        self.kinds: set[str] = set()
        wanted = tuple(tags)
        for candidate in candidates:
            missing = next(((tag, why) for tag, why in wanted if tag not in candidate.tags), None)
            lacking = features & ~candidate.abilities
            if missing is not None:
                self.drop(candidate, "tag", f"lacks the tag '{missing[0]}' ({missing[1]})")
            elif lacking:
                names = ", ".join(name for bit, name, _ in _NEEDS if lacking & bit)
                self.drop(candidate, "feature", f"does not support {names}")
            else:
                self.candidates.append(candidate)
        windows = [c.window for c in self.candidates if c.window is not None]
        self.smallest_window = min(windows, default=None)

    def drop(self, candidate: Candidate, kind: str, reason: str) -> None:
        self.kinds.add(kind)
        self.dropped.append({"target": candidate.id, "dropped": reason})

    def fitting(self, view: View) -> tuple[list[Candidate], list[dict[str, Any]]]:
        """Those whose context window holds the estimated input, and all that were dropped."""
        smallest, size = self.smallest_window, view.request.size
        # A token is at least a byte: a body smaller than the smallest window needs no estimate.
        if smallest is None or 0 < size <= smallest or view.tokens <= smallest:
            return self.candidates, self.dropped
        fit = [c for c in self.candidates if c.window is None or view.tokens <= c.window]
        over = [c for c in self.candidates if c.window is not None and view.tokens > c.window]
        reason = "context window of {} tokens; about {} are needed"
        dropped = [{"target": c.id, "dropped": reason.format(c.window, view.tokens)} for c in over]
        return fit, [*self.dropped, *dropped]


def refusal(model: str, kinds: Collection[str], dropped: Sequence[dict[str, Any]]) -> GatewayError:
    """400 if the request asks for what no target can do, 403 if a tag or a ceiling of the operator's forbids the last.

    `kinds` are the constraints that removed something: `tag`, `cost`, `feature`, `window`.
    """
    reasons = "; ".join(f"{entry['target']}: {entry['dropped']}" for entry in dropped)
    message = f"no target of model '{model}' may take this request: {reasons}"
    if "window" in kinds:
        return BadRequest(message, code="context_length_exceeded", param="messages")
    if "tag" in kinds or "cost" in kinds:
        return Refused(message, code="no_target_allowed")
    return BadRequest(message, code="unsupported_by_model")
