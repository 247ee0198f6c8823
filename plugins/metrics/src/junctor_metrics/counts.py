"""Plain numbers in plain lists: what the request's path adds to. Nothing is formatted before it is asked for."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, Any

import orjson

from junctor_metrics.catalogue import METRICS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from junctor_metrics.catalogue import Metric

__all__ = ["OTHER", "Registry", "Row", "Rows", "Series", "load", "merge", "observe"]

OTHER = "other"
"""Stands for every value beyond a label's cap, and for names that the configuration does not have."""
_FREE = frozenset({"outcome", "status", "type", "state", "rule"})  # few values, all of them the code's own

Row = list[float]
Series = dict[str, dict[tuple[str, ...], Row]]


def observe(row: Row, bounds: tuple[float, ...], value: float) -> None:
    """Count a value in a histogram's row."""
    row[0] += value
    row[1 + bisect_left(bounds, value)] += 1


class Rows(dict[tuple[str, ...], Row]):
    """The rows of one metric by their labels' values; one that is not there is made, within the caps."""

    def __init__(self, metric: Metric, registry: Registry) -> None:
        super().__init__()
        self.metric = metric
        self._registry = registry

    def __missing__(self, labels: tuple[str, ...]) -> Row:
        capped = self._registry.capped(self.metric, labels)
        if capped not in self and len(self) >= self._registry.max_series:
            self._registry.overflow("series")
            capped = (OTHER,) * len(labels)
        if capped not in self:
            self[capped] = [0] * self.metric.width
        return self[capped]


class Registry:
    """All counts of this process. `known` names, for a label, the only values that it may have."""

    def __init__(self, *, max_values: int, max_series: int, known: Mapping[str, Iterable[str]]) -> None:
        self.max_values = max_values
        self.max_series = max_series
        self._snapshots = 0
        self._seen: dict[str, set[str]] = {}
        self._known: dict[str, frozenset[str]] = {}
        self.rows = {metric.name: Rows(metric, self) for metric in METRICS}
        self.configure(max_values, max_series, known)

    def configure(self, max_values: int, max_series: int, known: Mapping[str, Iterable[str]]) -> None:
        """Take another configuration; what was counted stays."""
        self.max_values = max_values
        self.max_series = max_series
        self._known = {label: frozenset(values) for label, values in known.items()}

    def __getitem__(self, name: str) -> Rows:
        return self.rows[name]

    def overflow(self, label: str) -> None:
        self.rows["junctor_labels_capped_total"][(label,)][0] += 1

    def capped(self, metric: Metric, labels: tuple[str, ...]) -> tuple[str, ...]:
        """The labels' values with `other` for what is beyond the caps."""
        return tuple(map(self._cap, metric.labels, labels))

    def _cap(self, label: str, value: str) -> str:
        if label in _FREE or value in ("", OTHER):
            return value
        known = self._known.get(label)
        seen = self._seen.setdefault(label, set())
        if value in seen and (known is None or value in known):
            return value
        if (known is not None and value not in known) or len(seen) >= self.max_values:
            if label != "label":
                self.overflow(label)
            return OTHER
        seen.add(value)
        return value

    def set(self, name: str, values: Mapping[tuple[str, ...], float]) -> None:
        """Replace all rows of a gauge."""
        rows = self.rows[name]
        rows.clear()
        for labels, value in values.items():
            rows[labels][0] = value

    def snapshot(self) -> tuple[int, bytes]:
        """Its number, and everything as JSON, taken in one step."""
        self._snapshots += 1
        tree = {name: list(rows.items()) for name, rows in self.rows.items() if rows}
        return self._snapshots, orjson.dumps(tree)


def load(data: bytes) -> Series:
    """The counterpart of `Registry.snapshot`."""
    tree: dict[str, list[Any]] = orjson.loads(data)
    return {name: {tuple(labels): row for labels, row in rows} for name, rows in tree.items()}


def merge(parts: Iterable[tuple[bool, Series]]) -> Series:
    """One set of figures of several workers': (whether it is alive, its figures). Gauges die with their worker."""
    kinds = {metric.name: metric for metric in METRICS}
    total: Series = {}
    for alive, series in parts:
        for name, rows in series.items():
            metric = kinds.get(name)
            if metric is None or (metric.kind == "gauge" and not alive):
                continue
            into = total.setdefault(name, {})
            for labels, row in rows.items():
                before = into.get(labels)
                if before is None or len(before) != len(row):
                    into[labels] = list(row)
                elif metric.merge == "max":
                    into[labels] = [max(row[0], before[0])]
                else:
                    into[labels] = [a + b for a, b in zip(before, row, strict=True)]
    return total
