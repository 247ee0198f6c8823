"""What only the plugin `logging` remembers: costs of days, and exchanges that are no longer in memory."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from junctor.errors import NotFound

from junctor_dashboard.merge import series
from junctor_dashboard.story import from_record

if TYPE_CHECKING:
    from junctor_dashboard.sources import Sources

__all__ = ["RANGES", "Ledger"]

RANGES = {"day": ("hour", 3600, 24), "month": ("day", 86400, 30)}
"""The column of the ledger, its width in seconds, and how many of them are shown."""

_KEEP = 10.0


class Ledger:
    """Asks the plugin `logging`; a report is kept for ten seconds, however many pages are open."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._kept: dict[tuple[str, str], tuple[float, dict[str, Any]]] = {}

    async def costs(self, by: str, span: str) -> dict[str, Any]:
        """Costs by name over time; raises `GatewayError` if there is no ledger, or it cannot be read now."""
        logging = self._sources.plugin("logging")
        if logging is None:
            raise NotFound("more than the last hour is in the ledger of the plugin `logging`; enable it")
        due, found = self._kept.get((by, span), (0.0, {}))
        if time.monotonic() >= due:
            found = await self._report(logging, by, span)
            self._kept[by, span] = (time.monotonic() + _KEEP, found)
        return found

    async def _report(self, logging: Any, by: str, span: str) -> dict[str, Any]:
        column, width, count = RANGES[span]
        first = (int(time.time()) // width - count + 1) * width
        report = await logging.costs([by, column], first * 1000)
        starts = [first + place * width for place in range(count)]
        by_name: dict[str, list[int]] = {}
        for row in report["rows"]:
            place = (_seconds(row[column]) - first) // width
            if 0 <= place < count and row["cost"]:
                by_name.setdefault(row[by], [0] * count)[place] += row["cost"]
        return {**series(starts, by_name, width), "unpriced": report["unpriced_targets"]}

    async def stories(self, name: str, value: str) -> list[dict[str, Any]]:
        """Exchanges by one attribute, the newest first; none if there is no log."""
        logging = self._sources.plugin("logging")
        if logging is None or not value:
            return []
        return [from_record(record) for record in await logging.find(20, {name: value})]


def _seconds(text: str) -> int:
    given = datetime.fromisoformat(text)
    return int((given if given.tzinfo else given.replace(tzinfo=UTC)).timestamp())
