"""What the client is told: headers of the tightest limit, and refusals that name limit, scope and time of reset."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from junctor import Refused

from junctor_quotas.limits import CONCURRENCY

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from junctor_quotas.limits import Claim

__all__ = ["Overrun", "Reading", "duration", "limit_headers", "refusal", "seconds_to_reset", "store_down", "waited"]

Reading = tuple["Claim", tuple[int, int, int]]
"""A claim, and what the store said of it: used, held, limit in force."""

_UNITS = {"requests": "requests", "concurrency": "concurrent requests", "cost": "dollars"}
_HEADERS = (("requests", ("requests",)), ("tokens", ("tokens", "input_tokens", "output_tokens")))


class Overrun(Refused):
    """A stream has reached a hard limit: it ends as if its length had been limited."""

    status_code = 429
    type = "rate_limit_error"
    code = "quota_exceeded"
    finish_reason = "length"


def seconds_to_reset(claim: Claim, now: float) -> float:
    """Seconds until nothing of what is used now counts any more; `now` is the store's time."""
    window = claim.limit.window
    if window is None:
        return 0.0
    if claim.until:
        return max(0.0, claim.until / 1000 - now)
    return window.seconds + window.width / 1000


def limit_headers(readings: Iterable[Reading], now: float, wire: str) -> dict[str, str]:
    """Limit, remaining and reset of the tightest limit of requests and of tokens, under the wire's names."""
    tightest: dict[str, tuple[float, Reading]] = {}
    for claim, counts in readings:
        dimension = claim.limit.dimension
        group = "requests" if dimension == "requests" else "tokens" if dimension.endswith("tokens") else None
        if group is None:
            continue
        left = (counts[2] - counts[0] - counts[1]) / max(1, counts[2])
        if group not in tightest or left < tightest[group][0]:
            tightest[group] = left, (claim, counts)
    headers: dict[str, str] = {}
    for group, (_, (claim, (used, held, hard))) in tightest.items():
        remaining = max(0, hard - used - held)
        reset = seconds_to_reset(claim, now) if used + held else 0.0
        if wire == "anthropic":
            name = f"anthropic-ratelimit-{group}-"
            moment = datetime.fromtimestamp(now + reset, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            headers |= {f"{name}limit": str(hard), f"{name}remaining": str(remaining), f"{name}reset": moment}
        else:
            headers[f"x-ratelimit-limit-{group}"] = str(hard)
            headers[f"x-ratelimit-remaining-{group}"] = str(remaining)
            headers[f"x-ratelimit-reset-{group}"] = duration(reset)
    return headers


def duration(seconds: float) -> str:
    """As OpenAI writes it: `120ms`, `1.5s`, `6m0s`, `2h30m0s`."""
    seconds = round(seconds, 3)
    if seconds < 1:
        return f"{round(seconds * 1000)}ms"
    if seconds < 60:
        return f"{seconds:.3f}".rstrip("0").rstrip(".") + "s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{rest}s" if hours else f"{minutes}m{rest}s"


def refusal(reading: Reading, wait: float | None, now: float, readings: Sequence[Reading], wire: str) -> Refused:
    """The refusal of a limit. `wait`: seconds until there is room, None if not known, -1 if never in this window."""
    claim, (used, held, hard) = reading
    limit = claim.limit
    headers = limit_headers(readings, now, wire)
    message = (
        f"limit '{limit.name}' of {claim.scope} is reached: {_amount(limit.dimension, used + held)} of "
        f"{_amount(limit.dimension, hard)} {_UNITS.get(limit.dimension, limit.dimension.replace('_', ' '))}"
    )
    if limit.window is not None:
        message += f" per {limit.window.name}"
    if wait == -1:
        headers["x-should-retry"] = "false"
        return _refused(f"{message}; this request alone is larger than the limit", "request_exceeds_limit", headers)
    if limit.window is not None and limit.window.calendar:
        reset = _moment(claim.until / 1000)
        headers["x-should-retry"] = "false"
        return _refused(f"{message}; it resets at {reset}", "insufficient_quota", headers, type_="insufficient_quota")
    pause = max(0.001, wait) if wait is not None else 1.0
    if limit.kind != CONCURRENCY:
        message += f"; there is room again at {_moment(now + pause)}"
    return _refused(f"{message}, retry in {duration(pause)}", "rate_limit_exceeded", headers, pause=pause)


def waited(claim: Claim, reason: str, seconds: float) -> Refused:
    """The refusal of the queue."""
    message = f"limit '{claim.limit.name}' of {claim.scope} has no room, and {reason}; retry in {duration(seconds)}"
    return _refused(message, "rate_limit_exceeded", {}, pause=seconds)


def store_down() -> Refused:
    """The refusal while the store is away and a limit must not do without."""
    return Refused(
        "the limits cannot be checked now, and must be; retry in 1s",
        status_code=503,
        type="api_error",
        code="quota_store_unavailable",
        retry_after=1.0,
    )


def _refused(
    message: str, code: str, headers: dict[str, str], *, type_: str = "rate_limit_error", pause: float | None = None
) -> Refused:
    return Refused(message, status_code=429, type=type_, code=code, headers=headers, retry_after=pause)


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _amount(dimension: str, value: int) -> str:
    return f"{value / 1e9:.6f}".rstrip("0").rstrip(".") if dimension == "cost" else str(value)
