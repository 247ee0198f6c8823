"""What became of an exchange, in one word: the same in logs, metrics, traces and on the dashboard."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from junctor.errors import ClientDisconnected, DeadlineExceeded, GatewayError, NoTarget, PluginFailed, ProviderError

if TYPE_CHECKING:
    from junctor.exchange import Response

__all__ = ["OUTCOMES", "outcome_of"]

OUTCOMES = ("answered", "cached", "refused", "failed", "timeout", "cancelled")


def outcome_of(response: Response | None, error: BaseException | None) -> tuple[str, int]:
    """One of `OUTCOMES`, and the status that the client was given. `error` is how it ended: see `Exchange.as_told`."""
    if error is None:
        if response is None:
            return "answered", 200
        return "answered" if response.cached is None else "cached", response.status
    if isinstance(error, asyncio.CancelledError):  # the gateway itself is going down
        return "cancelled", 503
    if not isinstance(error, GatewayError):
        return "failed", 500
    if isinstance(error, ClientDisconnected):
        return "cancelled", error.status_code
    if isinstance(error, DeadlineExceeded):
        return "timeout", error.status_code
    return "failed" if isinstance(error, (ProviderError, NoTarget, PluginFailed)) else "refused", error.status_code
