"""What the configuration and the client say of a request: whether it passes by, and how long its answer lives."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from junctor import Exchange

    from junctor_exact_cache.control import Control
    from junctor_exact_cache.settings import ExactCacheSettings

__all__ = ["passes_by", "ttl_of"]


def ttl_of(exchange: Exchange, control: Control, settings: ExactCacheSettings) -> float:
    """Seconds: as the client says, within the limit, or by the first rule that matches."""
    if control.ttl is not None:
        return min(control.ttl, settings.max_ttl)
    facts, client, request = exchange.facts, exchange.client, exchange.request
    for rule in settings.rules:
        match = rule.match
        if (
            (not match.model or request.model in match.model)
            and (not match.team or client.team in match.team)
            and (not match.operation or request.operation in match.operation)
            and (not match.task or (facts.get("task") or {}).get("name") in match.task)
        ):
            return rule.ttl
    return settings.ttl


def passes_by(exchange: Exchange, control: Control, ttl: float, settings: ExactCacheSettings) -> str:
    """Why this request has nothing to do with the cache; empty if it has."""
    if control.no_store:
        return "no-store"
    if ttl <= 0:
        return "ttl"
    limit = settings.max_temperature
    if limit is not None:
        asked = exchange.request.body.get("temperature")
        if asked is None:
            asked = max([t.params.get("temperature") or 0 for t in exchange.targets if t.params], default=0)
        if isinstance(asked, (int, float)) and asked > limit:
            return "temperature"
    return ""
