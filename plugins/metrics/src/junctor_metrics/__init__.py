"""Prometheus metrics, OpenTelemetry traces and alerts."""

from junctor_metrics.plugin import Metrics
from junctor_metrics.settings import MetricsSettings

__all__ = ["Metrics", "MetricsSettings"]
