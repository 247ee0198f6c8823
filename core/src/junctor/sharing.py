"""Who may share an answer with whom: what keeps two requests apart, besides what they say.

Every cache asks here, so that a new border is drawn for all of them at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from junctor.exchange import Client, Exchange, Target

__all__ = ["decided_of", "keys_brought", "owner_of"]


def owner_of(client: Client, kind: str) -> list[str]:
    """Whose an answer is, for the scope `key`, `team`, `project` or `global`.

    What the client does not have narrows the scope: no team, then its key.
    """
    if kind == "global":
        return ["global"]
    if kind == "team" and client.team:
        return ["team", client.team]
    if kind == "project" and client.project:
        return ["project", client.team, client.project]
    if client.key_id or client.team or client.project:
        return ["key", client.team, client.project, client.key_id, client.name]
    return ["anonymous", client.name]


def keys_brought(exchange: Exchange) -> list[list[str]] | None:
    """The provider's keys that the client brings, as (provider, key); it shares with those who bring the same only.

    None if it brings none, empty if it brings one in a way that is not known here. They are secrets: digest them.
    """
    if not exchange.facts.get("byok"):
        return None
    brought = exchange.provider_keys
    return [] if brought is None else sorted(map(list, brought.keys.items()))


def decided_of(exchange: Exchange, targets: Iterable[Target]) -> list[Any]:
    """What was decided for the request: its model, who of `targets` may answer, and what a policy asks for."""
    facts = exchange.facts
    policy = [facts.get("sensitivity"), sorted(map(str, facts.get("require_tags") or ()))]
    return [exchange.request.model, sorted({target.form for target in targets}), policy]
