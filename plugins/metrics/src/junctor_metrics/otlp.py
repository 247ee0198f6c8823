"""The SDK's side: exporters, batches and instruments. Imported only where OpenTelemetry is configured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from junctor.secrets import opened
from opentelemetry.context import Context
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
    set_span_in_context,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from junctor import Attempt, Exchange

    from junctor_metrics.settings import OpenTelemetrySettings
    from junctor_metrics.tracing import Trace

__all__ = ["Export"]


class _Drawn(IdGenerator):
    """Gives the ids that were drawn while the exchange ran: the providers have been told them."""

    trace_id = 0
    span_id = 0

    def generate_trace_id(self) -> int:
        return self.trace_id

    def generate_span_id(self) -> int:
        return self.span_id


class Export:
    """Spans and measurements on their way to the collector; threads of the SDK's batch them."""

    def __init__(self, settings: OpenTelemetrySettings, scope: str, bounds: Mapping[str, Iterable[float]]) -> None:
        resource = Resource.create({"service.name": settings.service_name})
        self._ids = _Drawn()
        self._traces = TracerProvider(
            sampler=ALWAYS_ON, resource=resource, shutdown_on_exit=False, id_generator=self._ids
        )
        if settings.traces:
            processor = BatchSpanProcessor(
                _exporter(settings, "trace"),
                max_queue_size=settings.queue,
                schedule_delay_millis=settings.delay * 1000,
                max_export_batch_size=min(512, settings.queue),
            )
            self._traces.add_span_processor(processor)
        self._tracer = self._traces.get_tracer(scope)
        readers = []
        if settings.metrics:
            interval, timeout = settings.interval * 1000, settings.timeout * 1000
            reader = PeriodicExportingMetricReader(
                _exporter(settings, "metric"), export_interval_millis=interval, export_timeout_millis=timeout
            )
            readers.append(reader)
        self._metrics = MeterProvider(metric_readers=readers, resource=resource, shutdown_on_exit=False)
        meter = self._metrics.get_meter(scope)
        self._duration = meter.create_histogram(
            "gen_ai.client.operation.duration",
            unit="s",
            description="GenAI operation duration.",
            explicit_bucket_boundaries_advisory=list(bounds["duration"]),
        )
        self._tokens = meter.create_histogram(
            "gen_ai.client.token.usage",
            unit="{token}",
            description="Number of input and output tokens used.",
            explicit_bucket_boundaries_advisory=list(bounds["tokens"]),
        )

    def server(self, trace: Trace, exchange: Exchange, attributes: dict[str, Any], failure: str | None) -> None:
        """The request's own span; it ends now."""
        context = Context()
        if trace.parent:
            context = _within(trace, trace.parent, remote=trace.remote)
        name = exchange.request.operation
        if exchange.model is not None:
            name = f"{name} {exchange.model.name}"
        kind = SpanKind.SERVER if exchange.parent is None else SpanKind.INTERNAL
        ended = max([exchange.first_byte, *(attempt.ended for attempt in exchange.attempts)]) or None
        offset = exchange.started_at - exchange.started
        end = None if ended is None else int((ended + offset) * 1e9)
        self._span(name, context, kind, (trace.trace_id, trace.span_id), exchange.started_at, end, attributes, failure)

    def client(
        self,
        trace: Trace,
        span_id: int,
        attempt: Attempt,
        offset: float,
        attributes: dict[str, Any],
        failure: str | None,
    ) -> None:
        """One call of a provider."""
        end = int(((attempt.ended or attempt.started) + offset) * 1e9)
        name = f"{attributes['gen_ai.operation.name']} {attempt.target.model}"
        context = _within(trace, trace.span_id, remote=False)
        start = attempt.started + offset
        self._span(name, context, SpanKind.CLIENT, (trace.trace_id, span_id), start, end, attributes, failure)

    def _span(
        self,
        name: str,
        context: Context,
        kind: SpanKind,
        ids: tuple[int, int],
        start: float,
        end: int | None,
        attributes: dict[str, Any],
        failure: str | None,
    ) -> None:
        self._ids.trace_id, self._ids.span_id = ids
        span = self._tracer.start_span(name, context, kind, attributes, start_time=int(start * 1e9))
        if failure is not None:
            span.set_attribute("error.type", failure)
            span.set_status(Status(StatusCode.ERROR))
        span.end(end)

    def measure(self, attributes: dict[str, Any], seconds: float, usage: Iterable[tuple[str, int]]) -> None:
        """One call of a provider, for the metrics."""
        self._duration.record(seconds, attributes)
        for kind, tokens in usage:
            self._tokens.record(tokens, {**attributes, "gen_ai.token.type": kind})

    def close(self) -> None:
        """Export what is left; waits for the collector, within the exporters' time-outs."""
        self._traces.shutdown()
        self._metrics.shutdown()


def _within(trace: Trace, span_id: int, *, remote: bool) -> Context:
    state = TraceState.from_header([trace.state]) if trace.state else None
    parent = SpanContext(trace.trace_id, span_id, remote, TraceFlags(TraceFlags.SAMPLED), state)
    return set_span_in_context(NonRecordingSpan(parent), Context())


def _exporter(settings: OpenTelemetrySettings, signal: str) -> Any:
    headers = {name.lower(): value for name, value in opened(settings.headers).items()}
    endpoint = settings.endpoint.rstrip("/")
    if settings.protocol == "http":
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        made: Any = OTLPSpanExporter if signal == "trace" else OTLPMetricExporter
        return made(endpoint=f"{endpoint}/v1/{signal}s", headers=headers, timeout=settings.timeout)
    from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter as GRPCMetricExporter
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GRPCSpanExporter

    made = GRPCSpanExporter if signal == "trace" else GRPCMetricExporter
    insecure = endpoint.startswith("http://")
    return made(endpoint=endpoint, insecure=insecure, headers=headers, timeout=settings.timeout)
