"""The steps on the way to a limit: warn, prefer cheaper targets, shorten answers."""

from __future__ import annotations

import logging
from collections import OrderedDict
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from junctor import Exchange

    from junctor_quotas.answers import Reading
    from junctor_quotas.estimate import Estimate
    from junctor_quotas.limits import Claim

__all__ = ["Ladder"]

_log = logging.getLogger("junctor.quotas")
_MAX_WARNED = 10_000


class Ladder:
    """Does what the rungs say that a request has reached. Each warning is logged once a window and scope."""

    def __init__(self) -> None:
        self._warned: OrderedDict[tuple[str, float], None] = OrderedDict()

    def climb(self, exchange: Exchange, readings: Sequence[Reading], estimate: Estimate) -> None:
        """Apply the rungs of all limits to an admitted request."""
        for claim, (used, held, hard) in readings:
            if not claim.limit.rungs:
                continue
            share = (used + held) / hard if hard else 1.0
            for rung in claim.limit.rungs:
                if share < rung.share:
                    break
                if rung.action == "warn":
                    self._warn(exchange, claim, share, rung.share)
                elif rung.action == "prefer_cheaper":
                    exchange.facts["prefer_cheaper"] = True
                elif rung.action == "cap_max_tokens" and estimate.output > rung.tokens:
                    _cap(exchange, rung.tokens)

    def capped(self, exchange: Exchange, claim: Claim, estimate: Estimate) -> Estimate | None:
        """The estimate with the answer as short as the limit's ladder makes it; None if it makes it no shorter."""
        caps = [rung.tokens for rung in claim.limit.rungs if rung.action == "cap_max_tokens"]
        if not caps or min(caps) >= estimate.output:
            return None
        _cap(exchange, min(caps))
        return replace(estimate, output=min(caps), bounded=True)

    def _warn(self, exchange: Exchange, claim: Claim, share: float, rung: float) -> None:
        exchange.headers["x-junctor-quota-warning"] = f"{claim.limit.name} {share:.0%}"
        key = (claim.key, rung)
        if key not in self._warned:
            self._warned[key] = None
            if len(self._warned) > _MAX_WARNED:
                self._warned.popitem(last=False)
            _log.warning("limit '%s' of %s is used to %.0f %%", claim.limit.name, claim.scope, share * 100)


def _cap(exchange: Exchange, tokens: int) -> None:
    """Shorten the answer, and say so."""
    body = exchange.request.body
    name = "max_completion_tokens" if "max_completion_tokens" in body else "max_tokens"
    asked = body.get(name)
    if not isinstance(asked, int) or asked > tokens:
        body[name] = tokens
        exchange.headers["x-junctor-max-tokens-capped"] = str(tokens)
