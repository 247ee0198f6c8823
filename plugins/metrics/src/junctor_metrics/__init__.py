"""Prometheus metrics, OpenTelemetry traces and alerts."""
