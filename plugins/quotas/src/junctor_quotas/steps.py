"""What the atomic steps are asked and what they answer: the rows that `lua.py` and `memory.py` take and give."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from junctor_quotas.limits import COUNTED, HELD, Claims

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Lease", "Outcome", "counts_of", "outcome_of", "reserving", "settling"]


@dataclass(slots=True)
class Lease:
    """What one request holds: an amount of each claim, in their order. `local` when this worker alone holds it."""

    id: str
    claims: Claims
    amounts: list[int]
    local: bool = False
    cautious: bool = False


@dataclass(slots=True)
class Outcome:
    """What the store said: per claim what is used, held, and the limit in force. `lease` is None for a refusal.

    A refusal names the claim by its place and how long until there may be room, in seconds: -1 never in this window,
    None not known.
    """

    counts: list[tuple[int, int, int]]
    now: float
    lease: Lease | None = None
    refused: int = 0
    wait: float | None = None
    local: bool = False
    admitted: bool = False
    sliced: list[tuple[int, int, int]] = field(default_factory=list)


def reserving(
    lease: Lease,
    more: Sequence[int],
    charge: Sequence[int],
    *,
    ttl: int,
    epoch: str = "",
    force: int = 0,
    hards: Sequence[int] = (),
) -> list[Any]:
    """The arguments of `RESERVE`; `ttl` is in milliseconds, `hards` stands in for the limits of the claims."""
    arguments: list[Any] = [epoch, lease.id, lease.id, ttl, force]
    for place, (claim, amount, used) in enumerate(zip(lease.claims.claims, more, charge, strict=True)):
        row = claim.cautious if lease.cautious else claim.row
        arguments += (claim.kind, used, amount, hards[place] if hards else row[0], *row[1:])
    return arguments


def settling(lease: Lease, finals: Sequence[int], *, epoch: str = "") -> list[Any]:
    """The arguments of `SETTLE`."""
    arguments: list[Any] = [epoch, lease.id, lease.id]
    late = not lease.amounts
    for claim, final in zip(lease.claims.claims, finals, strict=True):
        kind = claim.kind
        arguments += (HELD if late and kind == COUNTED else kind, final, *claim.settle)
    return arguments


def outcome_of(answer: Sequence[Any], lease: Lease) -> Outcome:
    """What `RESERVE` answered."""
    now = answer[1] / 1000
    if answer[0] == 2:
        return Outcome([], now)
    if answer[0] == 0:
        wait = answer[4]
        seconds = -1.0 if wait == -1 else None if wait < 0 else wait / 1000
        return Outcome(_triples(answer, 5), now, refused=answer[3] - 1, wait=seconds)
    return Outcome(_triples(answer, 3), now, lease)


def counts_of(answer: Sequence[Any], claims: Claims) -> list[tuple[int, int, int]]:
    """What `SETTLE` answered: per claim what is used, held, and the limit."""
    rows = zip(claims.claims, range(3, len(answer), 2), strict=True)
    return [(answer[i], answer[i + 1], claim.row[0]) for claim, i in rows]


def _triples(answer: Sequence[Any], start: int) -> list[tuple[int, int, int]]:
    return [(answer[i], answer[i + 1], answer[i + 2]) for i in range(start, len(answer), 3)]
