"""What an exchange has really used, whatever became of it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from junctor import ClientDisconnected, TargetUnavailable, Usage

if TYPE_CHECKING:
    from junctor import Attempt, Exchange, Price, Response

    from junctor_quotas.estimate import Estimate

__all__ = ["Amounts", "final_amounts"]

_BYTES_PER_TOKEN = 4


@dataclass(slots=True)
class Amounts:
    """An amount for each dimension; cost in nano-dollars. `targets` has the parts of single targets, by their id."""

    requests: int = 0
    input: int = 0
    output: int = 0
    cost: int = 0
    concurrency: int = 0
    targets: dict[str, Amounts] = field(default_factory=dict)

    @classmethod
    def expected(cls, input_tokens: int, output_tokens: int, price: Price | None) -> Amounts:
        """One request of this size."""
        cost = price.of(Usage(input_tokens, output_tokens)).total if price is not None else 0
        return cls(1, input_tokens, output_tokens, cost, 1)

    def of(self, dimension: str) -> int:
        """The amount of a limit's dimension."""
        match dimension:
            case "requests":
                return self.requests
            case "tokens":
                return self.input + self.output
            case "input_tokens":
                return self.input
            case "output_tokens":
                return self.output
            case "cost":
                return self.cost
            case _:
                return self.concurrency

    def at(self, target: str) -> Amounts:
        """The part of one target; nothing if it used nothing."""
        return self.targets.get(target, Amounts())

    def add(self, usage: Usage, cost: int) -> None:
        """Count what an attempt used."""
        self.requests = 1
        self.input += usage.input_tokens
        self.output += usage.output_tokens
        self.cost += cost


def final_amounts(
    exchange: Exchange,
    response: Response | None,
    error: BaseException | None,
    estimate: Estimate,
    price: Price | None,
) -> Amounts:
    """All attempts together. A cached answer is a request without tokens; a refusal and a failure are nothing.

    A client that hung up pays for what was produced, and has made a request if a provider was asked.
    """
    final = Amounts()
    charged = not exchange.facts.get("byok")
    for attempt in exchange.attempts:
        usage = _usage(attempt, response, estimate)
        if usage is None:
            continue
        cost = _cost(attempt, usage, price) if charged else 0
        final.add(usage, cost)
        final.targets.setdefault(attempt.target.id, Amounts()).add(usage, cost)
    asked = any(not isinstance(attempt.error, TargetUnavailable) for attempt in exchange.attempts)
    gave_up = asked and isinstance(error, (ClientDisconnected, asyncio.CancelledError))
    if error is None or gave_up:
        final.requests = 1
        for attempt in exchange.attempts[-1:]:
            final.targets.setdefault(attempt.target.id, Amounts()).requests = 1
    return final


def _usage(attempt: Attempt, response: Response | None, estimate: Estimate) -> Usage | None:
    usage = attempt.usage
    if usage is None:
        answered = response is not None and response.target is attempt.target and response.cached is None
        if not answered or attempt.error is not None or not response or not response.body:
            return None
        return Usage(estimate.input, len(response.body) // _BYTES_PER_TOKEN, estimated=True)
    if usage.estimated and not usage.input_tokens:
        return Usage(estimate.input, usage.output_tokens, estimated=True)
    return usage


def _cost(attempt: Attempt, usage: Usage, price: Price | None) -> int:
    if attempt.cost is not None and usage is attempt.usage:
        return attempt.cost.total
    own = attempt.target.price or price
    return own.of(usage).total if own is not None else 0
