"""The small languages within the YAML: words, ranges, shares and hours of the week, parsed at start-up."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase, translate
from math import inf
from typing import TYPE_CHECKING, Annotated, Any
from zoneinfo import ZoneInfo

from pydantic import BeforeValidator, WithJsonSchema

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

__all__ = ["Hours", "HoursText", "Range", "RangeText", "ShareText", "Words", "WordsText"]

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_SCALE = {"": 1.0, "k": 1e3, "m": 1e6, "%": 0.01}
_NUMBER = r"(\d+(?:\.\d+)?)\s*([km%]?)"
_COMPARISON = re.compile(rf"(>=|<=|>|<)?\s*{_NUMBER}", re.IGNORECASE)
_SPAN = re.compile(rf"{_NUMBER}\s*\.\.\s*{_NUMBER}", re.IGNORECASE)
_HOURS = re.compile(r"(?:([A-Za-z,\-]+)\s+)?(\d\d?):(\d\d)\s*-\s*(\d\d?):(\d\d)(?:\s+(\S+))?")


@dataclass(frozen=True, slots=True)
class Words:
    """Some values, any of which fits; `*` stands for any text."""

    plain: frozenset[str]
    patterns: tuple[str, ...] = ()

    def matcher(self) -> Callable[[str], bool]:
        """The fastest test for these words."""
        if not self.patterns:
            return self.plain.__contains__
        regex = re.compile("|".join(map(translate, self.patterns)))
        plain = self.plain
        return lambda value: value in plain or regex.match(value) is not None

    def covers(self, other: Words) -> bool:
        """Whether everything that `other` fits is fitted by these too (cautiously: False if it is not certain)."""
        words = all(w in self.plain or any(fnmatchcase(w, p) for p in self.patterns) for w in other.plain)
        return words and all(p in self.patterns or "*" in self.patterns for p in other.patterns)


@dataclass(frozen=True, slots=True)
class Range:
    """Numbers from `low` to `high`; each end may be open."""

    low: float = -inf
    high: float = inf
    low_open: bool = False
    high_open: bool = False

    def matcher(self) -> Callable[[float], bool]:
        low, high, low_open, high_open = self.low, self.high, self.low_open, self.high_open
        return lambda n: (n > low if low_open else n >= low) and (n < high if high_open else n <= high)

    def covers(self, other: Range) -> bool:
        low = self.low < other.low or (self.low == other.low and (other.low_open or not self.low_open))
        return low and (self.high > other.high or (self.high == other.high and (other.high_open or not self.high_open)))


@dataclass(frozen=True, slots=True)
class Hours:
    """Hours of the week in a time zone: `22:00-06:00 Europe/Berlin`, `Mon-Fri 09:00-18:00`; UTC if none is named."""

    days: frozenset[int]
    start: int
    end: int
    zone: str

    def contains(self, moment: datetime) -> bool:
        """A span over midnight belongs to the day on which it begins."""
        local = moment.astimezone(ZoneInfo(self.zone))
        minute = local.hour * 60 + local.minute
        day = local.weekday()
        if self.start < self.end:
            return day in self.days and self.start <= minute < self.end
        return (day in self.days and minute >= self.start) or ((day - 1) % 7 in self.days and minute < self.end)

    def minutes(self) -> frozenset[int]:
        """The minutes of the week that are within."""
        length = (self.end - self.start) % 1440 or 1440
        return frozenset((d * 1440 + self.start + m) % 10080 for d in self.days for m in range(length))

    def covers(self, other: Hours) -> bool:
        return self.zone == other.zone and self.minutes() >= other.minutes()


def _words(value: Any) -> Any:
    if isinstance(value, Words):
        return value
    values = value if isinstance(value, list) else [value]
    texts = [str(v) for v in values if isinstance(v, (str, int, float)) and not isinstance(v, bool)]
    if not texts or len(texts) != len(values):
        raise ValueError("write a word or a list of words (quote what YAML takes for true, false or a date)")
    return Words(frozenset(t for t in texts if "*" not in t), tuple(t for t in texts if "*" in t))


def _number(text: str, unit: str) -> float:
    return float(text) * _SCALE[unit.lower()]


def _range(value: Any) -> Any:
    if isinstance(value, Range):
        return value
    text = str(value).strip()
    if span := _SPAN.fullmatch(text):
        found = Range(_number(span[1], span[2]), _number(span[3], span[4]))
        if found.low > found.high:
            raise ValueError(f"{text!r} is empty: the lower end comes first")
        return found
    match = _COMPARISON.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a range; write for example '>8000', '<=20k', '80%..95%'")
    number = _number(match[2], match[3])
    sides = {">": Range(number, low_open=True), ">=": Range(number), "<": Range(high=number, high_open=True)}
    sides |= {"<=": Range(high=number), "": Range(number, number)}
    return sides[match[1] or ""]


def _hours(value: Any) -> Any:
    if isinstance(value, Hours):
        return value
    match = _HOURS.fullmatch(str(value).strip())
    if match is None:
        raise ValueError(
            f"{value!r} is no time; write for example '22:00-06:00 Europe/Berlin' or 'Mon-Fri 09:00-18:00'"
        )
    start, end = int(match[2]) * 60 + int(match[3]), int(match[4]) * 60 + int(match[5])
    if start > 1439 or end > 1440 or int(match[3]) > 59 or int(match[5]) > 59:
        raise ValueError(f"{value!r}: hours go from 00:00 to 24:00")
    zone = match[6] or "UTC"
    try:
        ZoneInfo(zone)
    except (OSError, ValueError, KeyError):  # what ZoneInfo raises depends on the name
        raise ValueError(f"'{zone}' is not a time zone; write for example Europe/Berlin") from None
    return Hours(_days(match[1]), start, end % 1440, zone)


def _days(text: str | None) -> frozenset[int]:
    if not text:
        return frozenset(range(7))
    days: set[int] = set()
    for part in text.lower().split(","):
        first, _, last = part.partition("-")
        if first[:3] not in _DAYS or (last and last[:3] not in _DAYS):
            raise ValueError(f"'{part}' is not a day; write Mon, Tue, Wed, Thu, Fri, Sat, Sun")
        start = _DAYS.index(first[:3])
        stop = _DAYS.index(last[:3]) if last else start
        days.update((start + d) % 7 for d in range((stop - start) % 7 + 1))
    return frozenset(days)


def _share(value: Any) -> Any:
    if isinstance(value, str) and value.strip().endswith("%"):
        return float(value.strip()[:-1]) / 100
    return value


WordsText = Annotated[
    Words,
    BeforeValidator(_words, json_schema_input_type=str | list[str]),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
]
"""A word or a list of words; `*` stands for any text."""
RangeText = Annotated[
    Range, BeforeValidator(_range, json_schema_input_type=str), WithJsonSchema({"type": ["string", "number"]})
]
"""`>8000`, `<=20k`, `80%..95%`, `5`."""
HoursText = Annotated[Hours, BeforeValidator(_hours, json_schema_input_type=str), WithJsonSchema({"type": "string"})]
"""`Mon-Fri 09:00-18:00 Europe/Berlin`."""
ShareText = Annotated[float, BeforeValidator(_share), WithJsonSchema({"type": ["number", "string"]})]
"""A share of one: `0.05` or `5%`."""
