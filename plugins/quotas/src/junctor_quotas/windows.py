"""Windows: sliding for rates, aligned to the calendar of a time zone for quotas and budgets."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

__all__ = ["CALENDAR", "SUB_BUCKETS", "Window", "parse_window"]

CALENDAR = ("day", "week", "month")
SUB_BUCKETS = 20
"""A sliding window's parts. What was used returns up to one part late, and never early."""

_SLIDING = {"second": 1.0, "minute": 60.0, "hour": 3600.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|h|d)")
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_RATE_PARTS = {"day": 48, "week": 84, "month": 62}


@dataclass(frozen=True, slots=True)
class Window:
    """`seconds` is the length (of a month about); `width` that of a part, in milliseconds; `zone` None for sliding."""

    name: str
    seconds: float
    width: int
    zone: ZoneInfo | None = None

    @property
    def calendar(self) -> bool:
        return self.zone is not None

    @property
    def parts(self) -> int:
        """How many parts a sliding window has; 0 for a calendar window, of which nothing returns before its end."""
        return 0 if self.calendar else SUB_BUCKETS

    def period(self, now: float) -> tuple[int, int]:
        """Begin and end of the calendar period that holds `now`, in milliseconds since the epoch."""
        assert self.zone is not None
        here = datetime.fromtimestamp(now, self.zone)
        start = here.replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
        if self.name == "week":
            start -= timedelta(days=start.weekday())
        if self.name == "month":
            start = start.replace(day=1)
            end = start.replace(year=start.year + start.month // 12, month=start.month % 12 + 1)
        else:
            end = start + timedelta(days=7 if self.name == "week" else 1)
        return _milliseconds(start), _milliseconds(end)


def _milliseconds(moment: datetime) -> int:
    # Through UTC, so that a day on which the clocks change is 23 or 25 hours long.
    return round(moment.astimezone(UTC).timestamp() * 1000)


def parse_window(text: str, timezone: str) -> Window:
    """Read `minute`, `day`, `10s` …; raises `ValueError` that tells the remedy."""
    if text in CALENDAR:
        try:
            zone = ZoneInfo(timezone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError(f"'{timezone}' is not a time zone; write for example Europe/Berlin") from None
        seconds = {"day": 86400.0, "week": 604800.0, "month": 2_629_746.0}[text]
        return Window(text, seconds, round(seconds * 1000 / _RATE_PARTS[text]), zone)
    seconds = _SLIDING.get(text, 0.0)
    if not seconds and (match := _DURATION.fullmatch(text)):
        seconds = float(match[1]) * _UNITS[match[2]]
    if not 1.0 <= seconds <= 2_678_400:
        raise ValueError(f"'{text}' is not a window; write second, minute, hour, day, week, month, or 1s to 31d")
    return Window(text, seconds, round(seconds * 1000 / SUB_BUCKETS))
