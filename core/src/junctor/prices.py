"""What tokens cost. Money is integer nano-dollars (1e-9 US dollar); an unknown price is None, never zero.

List prices and context windows come from the price file that litellm ships, read as a file: litellm itself is never
imported here. Without it, a target has the price that its YAML gives, or none.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from junctor.exchange import Usage

__all__ = ["Card", "Cost", "Price", "card"]

_MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Cost:
    """Nano-dollars, in the parts that a provider bills."""

    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_write: int = 0

    @property
    def total(self) -> int:
        return self.input + self.output + self.cache_read + self.cache_write

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.input + other.input,
            self.output + other.output,
            self.cache_read + other.cache_read,
            self.cache_write + other.cache_write,
        )


@dataclass(frozen=True, slots=True)
class Price:
    """Nano-dollars per million tokens. `above` holds (tokens of input, price) for a dearer tier, if there is one."""

    input: int
    output: int = 0
    cache_read: int | None = None
    cache_write: int | None = None
    above: tuple[int, Price] | None = None
    source: str = "config"

    def of(self, usage: Usage) -> Cost:
        """The cost of this usage, each part rounded to the nearest nano-dollar."""
        if self.above is not None and usage.input_tokens > self.above[0]:
            return self.above[1].of(usage)
        read, write = usage.cache_read_tokens, usage.cache_write_tokens
        plain = max(0, usage.input_tokens - read - write)
        return Cost(
            _times(plain, self.input),
            _times(usage.output_tokens, self.output),
            _times(read, self.input if self.cache_read is None else self.cache_read),
            _times(write, self.input if self.cache_write is None else self.cache_write),
        )


def _times(tokens: int, per_million: int) -> int:
    return (tokens * per_million + _MILLION // 2) // _MILLION


@dataclass(frozen=True, slots=True)
class Card:
    """What is known of a provider's model: price, context window in tokens, and what it supports."""

    price: Price | None = None
    context_window: int | None = None
    supports: frozenset[str] = field(default_factory=frozenset)


def card(provider: str, model: str) -> Card:
    """Look a model up in the price file; an empty card if it is not there."""
    entries = _entries()
    entry = entries.get(f"{provider}/{model}") or entries.get(model)
    if entry is None or entry.get("litellm_provider", provider).split("-")[0] != provider.split("-")[0]:
        return Card()
    window = entry.get("max_input_tokens") or entry.get("max_tokens")
    supports = frozenset(key.removeprefix("supports_") for key, value in entry.items() if value is True)
    return Card(_price(entry), window if isinstance(window, int) else None, supports)


def _price(entry: dict[str, Any], suffix: str = "") -> Price | None:
    def nano(key: str) -> int | None:
        value = entry.get(key + suffix)
        return None if value is None else round(float(value) * 1e9 * _MILLION)

    given = nano("input_cost_per_token")
    if given is None:
        return None
    above = None
    if not suffix:
        for key in entry:
            if key.startswith("input_cost_per_token_above_") and key.endswith("k_tokens"):
                tier = key.removeprefix("input_cost_per_token")
                dearer = _price(entry, tier)
                size = tier.removeprefix("_above_").removesuffix("k_tokens")
                if dearer is not None and size.isdigit():
                    above = (int(size) * 1000, dearer)
    return Price(
        input=given,
        output=nano("output_cost_per_token") or 0,
        cache_read=nano("cache_read_input_token_cost"),
        cache_write=nano("cache_creation_input_token_cost"),
        above=above,
        source="litellm",
    )


@lru_cache(maxsize=1)
def _entries() -> dict[str, dict[str, Any]]:
    """The price file, parsed once while the configuration is read; `forget` releases its memory."""
    spec = importlib.util.find_spec("litellm")
    if spec is None or spec.origin is None:
        return {}
    try:
        entries: dict[str, dict[str, Any]] = orjson.loads(
            (Path(spec.origin).parent / "model_prices_and_context_window_backup.json").read_bytes()
        )
    except (OSError, ValueError):
        return {}
    return entries


def forget() -> None:
    """Release the parsed price file."""
    _entries.cache_clear()
