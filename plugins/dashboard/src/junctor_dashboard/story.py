"""The story of one exchange for the page: plain values. Times are milliseconds, money nano-dollars."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from junctor import jsons

if TYPE_CHECKING:
    from collections.abc import Iterable

    from junctor import Usage
    from junctor.secrets import Secrets

    from junctor_dashboard.capture import AttemptTaken, Taken

__all__ = ["SUMMARY", "as_json", "cost_of", "from_record", "overhead_of", "story_of", "summary_of"]

SUMMARY = (
    *("key", "id", "time", "team", "feature", "model", "target", "outcome", "status", "stream", "purpose"),
    *("ttft", "duration", "overhead", "tokens", "cost", "saved", "attempts_made", "called"),
)
"""What a line of the list shows."""

# These wait for the provider, or for the pause before a retry: the attempts show that time.
_WAITING = ("call", "on_error")


def summary_of(story: dict[str, Any]) -> dict[str, Any]:
    """The line of the list."""
    return {name: story[name] for name in SUMMARY}


def as_json(value: Any) -> bytes:
    """The value as JSON; what a plugin left in the facts that is none is shown as text."""
    try:
        return jsons.dumps(value)
    except (TypeError, ValueError):
        return json.dumps(value, default=str, skipkeys=True).encode()


def overhead_of(taken: Taken) -> float:
    """Seconds until the answer began that were not spent waiting for a provider; as `Exchange.overhead`."""
    until = taken.first_byte or taken.ended
    spent = until - taken.started
    for attempt in taken.attempts:
        spent -= (attempt.first_byte or attempt.ended or until) - attempt.started
    return max(0.0, spent)


def cost_of(taken: Taken) -> int | None:
    """Nano-dollars of all attempts; None if one that used tokens has no price."""
    total = 0
    for attempt in taken.attempts:
        if attempt.cost is not None:
            total += attempt.cost.total
        elif attempt.usage is not None:
            return None
    return total


def saved_of(taken: Taken) -> int:
    """Nano-dollars that a cache avoided."""
    for name in ("cache", "semantic_cache"):
        fact = taken.facts.get(name)
        if isinstance(fact, dict) and fact.get("saved"):
            return int(fact["saved"])
    return 0


def story_of(taken: Taken, key: str, secrets: Secrets) -> dict[str, Any]:
    """Everything that the page tells of an exchange; `key` is unique among all workers."""
    client, started = taken.client, taken.started
    facts = dict(taken.facts)
    return {
        "key": key,
        "id": taken.id,
        "time": round(taken.started_at, 3),
        "client": client.name,
        "key_id": client.key_id,
        "team": client.team,
        "project": client.project,
        "feature": client.feature,
        "model": taken.model,
        "operation": taken.operation,
        "target": taken.target.name if taken.target is not None else "",
        "outcome": taken.outcome,
        "status": taken.status,
        "error": _error(taken.error, secrets),
        "stream": taken.stream,
        "purpose": taken.purpose,
        "finish_reason": taken.finish_reason or "",
        "ttft": _ms(taken.first_byte - started) if taken.first_byte else None,
        "duration": _ms(taken.ended - started),
        "overhead": _ms(overhead_of(taken)),
        "tokens": _tokens(taken.usage),
        "cost": cost_of(taken),
        "saved": saved_of(taken),
        "attempts_made": len(taken.attempts),
        "called": _names(attempt.target.name for attempt in taken.attempts),
        "attempts": [_attempt(attempt, started, secrets) for attempt in taken.attempts],
        "timings": [
            [plugin, hook, round(seconds * 1e6)]
            for (plugin, hook), seconds in taken.timings.items()
            if hook not in _WAITING
        ],
        "route": facts.pop("route", None),
        "cache": facts.pop("cache", None) or facts.pop("semantic_cache", None),
        "quota": facts.pop("quota", None),
        "facts": facts,
    }


def _attempt(attempt: AttemptTaken, started: float, secrets: Secrets) -> dict[str, Any]:
    ended = attempt.ended or attempt.started
    return {
        "target": attempt.target.name,
        "key_id": attempt.target.key_id,
        "start": _ms(attempt.started - started),
        "first_byte": _ms(attempt.first_byte - started) if attempt.first_byte else None,
        "end": _ms(ended - started),
        "error": _error(attempt.error, secrets),
        "tokens": _tokens(attempt.usage),
        "cost": attempt.cost.total if attempt.cost is not None else None,
        "abandoned": attempt.abandoned,
        "of": attempt.of,
    }


def _error(error: tuple[str, str] | None, secrets: Secrets) -> dict[str, str] | None:
    return None if error is None else {"kind": error[0], "message": secrets.hide(error[1])[:1000]}


def _tokens(usage: Usage | None) -> list[int] | None:
    return None if usage is None else [usage.input_tokens, usage.output_tokens]


def _names(targets: Iterable[str]) -> str:
    """The targets that were called, each once."""
    return ", ".join(dict.fromkeys(targets))


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 2)


def from_record(record: dict[str, Any]) -> dict[str, Any]:
    """The story of an exchange that only the log still knows; `record` is one of the plugin `logging`."""
    error, usage, cost = record.get("error"), record.get("usage"), record.get("cost")
    story = {name: record.get(name) or "" for name in ("id", "key_id", "client", "team", "project", "feature")}
    story |= {name: record.get(name) or "" for name in ("model", "operation", "target", "outcome", "finish_reason")}
    first = record.get("first_byte_us")
    return story | {
        "key": record["record"],
        "time": record["time"].timestamp() if hasattr(record["time"], "timestamp") else record["time"],
        "status": record.get("status"),
        "error": None if not error else {"kind": error.get("kind") or error.get("code"), "message": error["message"]},
        "stream": bool(record.get("stream")),
        "purpose": record.get("purpose") or "",
        "ttft": first / 1000 if first else None,
        "duration": (record.get("duration_us") or 0) / 1000,
        "overhead": (record.get("overhead_us") or 0) / 1000,
        "tokens": _pair(usage),
        "cost": cost["total"] if cost else None if record.get("unpriced") else 0,
        "saved": record.get("saved") or 0,
        "attempts_made": len(record.get("attempts") or ()),
        "called": _names(attempt.get("target") or "" for attempt in record.get("attempts") or ()),
        "attempts": [_recorded(attempt) for attempt in record.get("attempts") or ()],
        "timings": [
            [*name.rsplit(".", 1), spent]
            for name, spent in (record.get("timings_us") or {}).items()
            if name.rsplit(".", 1)[-1] not in _WAITING
        ],
        "route": record.get("route"),
        "cache": record.get("cache"),
        "quota": record.get("quota"),
        "facts": record.get("facts") or {},
    }


def _recorded(attempt: dict[str, Any]) -> dict[str, Any]:
    start, first = attempt.get("started_us") or 0, attempt.get("first_byte_us")
    error, kind = attempt.get("error"), attempt.get("kind") or ""
    return {
        "target": attempt.get("target") or "",
        "key_id": attempt.get("key_id") or "",
        "start": start / 1000,
        "first_byte": (start + first) / 1000 if first else None,
        "end": (start + (attempt.get("duration_us") or 0)) / 1000,
        "error": None if not error else {"kind": error.get("kind") or error.get("code"), "message": error["message"]},
        "tokens": _pair(attempt.get("usage")),
        "cost": (attempt.get("cost") or {}).get("total"),
        "abandoned": bool(attempt.get("abandoned")),
        "of": kind if kind not in ("first", "retry", "fallback") else "",
    }


def _pair(usage: dict[str, Any] | None) -> list[int] | None:
    return None if not usage else [usage.get("input") or 0, usage.get("output") or 0]
