"""The figures in Prometheus' text format, made by its own client library when they are asked for."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    SummaryMetricFamily,
)
from prometheus_client.exposition import choose_encoder

from junctor_metrics.catalogue import METRICS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from junctor_metrics.catalogue import Metric
    from junctor_metrics.counts import Row, Series

__all__ = ["render"]


class _Figures:
    """A collector of what was counted elsewhere."""

    def __init__(self, series: Series) -> None:
        self._series = series

    def collect(self) -> Iterator[Any]:
        for metric in METRICS:
            family = _FAMILIES[metric.kind](metric.name, metric.help, labels=metric.labels)
            rows = self._series.get(metric.name, {})
            if not rows and not metric.labels and metric.kind != "histogram":
                rows = {(): [0] * metric.width}
            for labels, row in rows.items():
                _add(family, metric, labels, row)
            yield family


_FAMILIES: dict[str, Any] = {
    "counter": CounterMetricFamily,
    "gauge": GaugeMetricFamily,
    "histogram": HistogramMetricFamily,
    "summary": SummaryMetricFamily,
}


def _add(family: Any, metric: Metric, labels: tuple[str, ...], row: Row) -> None:
    if metric.kind == "histogram":
        counts = accumulate(row[1:])
        names = [*map(str, metric.bounds), "+Inf"]
        family.add_metric(labels, buckets=list(zip(names, counts, strict=True)), sum_value=row[0])
    elif metric.kind == "summary":
        family.add_metric(labels, count_value=row[0], sum_value=row[1])
    else:
        family.add_metric(labels, row[0] * metric.scale if metric.scale != 1.0 else row[0])


def render(series: Series, accept: str) -> tuple[bytes, str]:
    """The exposition, and its content type: OpenMetrics for whoever accepts it."""
    encode, content_type = choose_encoder(accept)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Figures(series))
    return encode(registry), content_type
