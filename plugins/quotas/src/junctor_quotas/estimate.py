"""How many tokens a request will take, before anybody has counted: learned from what providers reported."""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from junctor import Exchange, Request, Usage

__all__ = ["Estimate", "Estimator"]

_BYTES_PER_TOKEN = 4.0
_LEARNING = 0.05
_LARGE_BODY = 16_384
_TOKENS_PER_ATTACHMENT = 1500
_MAX_LEARNED = 4096
_QUANTILE = 0.9
_ENOUGH = 8
_FULL = 256
_STEPS = 48  # steps of the square root of two: up to 2**24 tokens


@dataclass(frozen=True, slots=True)
class Estimate:
    """Tokens. `bounded` when the client itself said how long the answer may be."""

    input: int
    output: int
    bounded: bool
    size: int


@dataclass(slots=True)
class _Ratio:
    """A mean, and how far from it values usually are."""

    mean: float
    deviation: float = 0.0

    def learn(self, value: float) -> None:
        change = value - self.mean
        self.mean += _LEARNING * change
        self.deviation += _LEARNING * (abs(change) - self.deviation)


@dataclass(slots=True)
class _Lengths:
    """A histogram of output lengths that forgets slowly; `usual` is not exceeded by nine in ten."""

    counts: list[int] = field(default_factory=lambda: [0] * _STEPS)
    total: int = 0
    usual: int = 0

    def learn(self, tokens: int) -> None:
        self.counts[min(_STEPS - 1, round(2 * math.log2(max(1, tokens))))] += 1
        self.total += 1
        if self.total > _FULL:
            self.counts = [count // 2 for count in self.counts]
            self.total = sum(self.counts)
        if self.total < _ENOUGH or self.total % 4 == 0:
            self.usual = self._quantile()

    def _quantile(self) -> int:
        missing = self.total * _QUANTILE
        for step, count in enumerate(self.counts):
            missing -= count
            if missing <= 0:
                return math.ceil(2 ** ((step + 0.5) / 2))
        return 1


class Estimator:
    """Estimates by model, and for the output by model and client. `expected` is used until something is known."""

    def __init__(self, expected: int) -> None:
        self._expected = expected
        self._bytes: OrderedDict[str, _Ratio] = OrderedDict()
        self._per_event: OrderedDict[str, _Ratio] = OrderedDict()
        self._lengths: OrderedDict[tuple[str, str], _Lengths] = OrderedDict()

    def estimate(self, exchange: Exchange) -> Estimate:
        """What the request will probably take; the client's own `max_tokens` counts as it is."""
        request = exchange.request
        size = _size(request)
        ratio = self._bytes.get(request.model)
        per_token = max(1.0, ratio.mean - ratio.deviation) if ratio is not None else _BYTES_PER_TOKEN
        tokens = math.ceil(size / per_token)
        if request.operation == "embeddings":
            return Estimate(tokens, 0, True, size)
        asked = _asked(request.body)
        if asked is not None:
            return Estimate(tokens, asked, True, size)
        return Estimate(tokens, self._output(request.model, exchange.client.key_id), False, size)

    def _output(self, model: str, client: str) -> int:
        for key in ((model, client), (model, "")):
            lengths = self._lengths.get(key)
            if lengths is not None and lengths.total >= _ENOUGH:
                return lengths.usual
        return self._expected

    @property
    def remembered(self) -> int:
        """How many figures it keeps: of models, and of clients at models."""
        return len(self._bytes) + len(self._lengths) + len(self._per_event)

    def per_event(self, model: str) -> float:
        """Tokens of output in one event of a stream."""
        ratio = self._per_event.get(model)
        return ratio.mean if ratio is not None else 1.0

    def learn(self, exchange: Exchange, estimate: Estimate, usage: Usage, events: int) -> None:
        """Take what a provider reported; `events` is how many a stream had, 0 for a whole answer."""
        model = exchange.request.model
        if usage.input_tokens > 0 and estimate.size > 0:
            _of(self._bytes, model, _first_ratio).learn(estimate.size / usage.input_tokens)
        if usage.output_tokens <= 0:
            return
        for key in {(model, exchange.client.key_id), (model, "")}:
            _of(self._lengths, key, _Lengths).learn(usage.output_tokens)
        if events > 2:
            _of(self._per_event, model, _first_event).learn(usage.output_tokens / (events - 1))


def _first_ratio() -> _Ratio:
    return _Ratio(_BYTES_PER_TOKEN, 1.0)


def _first_event() -> _Ratio:
    return _Ratio(1.0)


def _of(learned: OrderedDict[Any, Any], key: Any, make: Any) -> Any:
    found = learned.get(key)
    if found is None:
        found = learned[key] = make()
        if len(learned) > _MAX_LEARNED:
            learned.popitem(last=False)
    return found


def _asked(body: Mapping[str, Any]) -> int | None:
    asked = body.get("max_completion_tokens")
    if asked is None:
        asked = body.get("max_tokens")
    if not isinstance(asked, int) or asked < 1:
        return None
    choices = body.get("n")
    return asked * (choices if isinstance(choices, int) and choices > 1 else 1)


def _size(request: Request) -> int:
    """The body's bytes; of a large one without what is no text: an image is not as long as its bytes."""
    if request.size <= _LARGE_BODY:
        return request.size or 256
    hidden = _attachments(request.body.get("messages"))
    return max(256, request.size - hidden[0]) + round(hidden[1] * _TOKENS_PER_ATTACHMENT * _BYTES_PER_TOKEN)


def _attachments(messages: Any) -> tuple[int, int]:
    """Bytes and number of the parts that are data: images, sound, files."""
    size = number = 0
    for message in messages if isinstance(messages, list) else ():
        content = message.get("content") if isinstance(message, dict) else None
        for part in content if isinstance(content, list) else ():
            data = _data(part)
            if data > 1024:
                size, number = size + data, number + 1
    return size, number


def _data(part: Any) -> int:
    """The length of a part's longest value two levels down, if the part is no text."""
    if not isinstance(part, dict) or part.get("type") in ("text", "input_text"):
        return 0
    longest = 0
    for value in part.values():
        inner = value.values() if isinstance(value, dict) else (value,)
        longest = max([longest, *(len(text) for text in inner if isinstance(text, str))])
    return longest
