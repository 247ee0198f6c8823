"""OTLP logs over HTTP, with OpenTelemetry's own SDK and exporter (extra `otlp`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from junctor import ConfigError, Duration, Section
from junctor.secrets import Headers, opened
from pydantic import Field

from junctor_logging.sinks import Unavailable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from junctor_logging.record import Entry, Record
    from junctor_logging.sinks import Context

__all__ = ["OTLP", "OTLPSettings"]

_ERRORS = ("failed", "timeout")


class OTLPSettings(Section):
    """The OTLP sink."""

    endpoint: Annotated[str, Field(pattern=r"^https?://", description="Up to and with `/v1/logs`.")] = (
        "http://localhost:4318/v1/logs"
    )
    headers: Annotated[Headers, Field(description="Sent with every request.")] = Field(default_factory=dict)
    timeout: Annotated[Duration, Field(gt=0, description="For one request.")] = 10.0
    content: Annotated[bool, Field(description="With prompts and answers, where those are recorded.")] = False


class OTLP:
    """Each record is a log record: the line of JSON as its body, the main fields as attributes.

    An answer that is lost on its way makes a batch go twice; `log.record.uid` tells the receiver.
    """

    Settings = OTLPSettings

    def __init__(self, settings: OTLPSettings, context: Context) -> None:
        self.wants_content = settings.content
        self._settings = settings
        try:
            import opentelemetry.exporter.otlp.proto.http._log_exporter
            import opentelemetry.sdk._logs  # noqa: F401
        except ImportError:
            raise ConfigError("sinks (otlp): is not installed; `pip install 'junctor-logging[otlp]'`") from None
        self._exporter: Any = None
        self._made: Any = None

    def open(self) -> None:
        from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
        from opentelemetry.sdk._logs import ReadableLogRecord
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope

        self._exporter = OTLPLogExporter(
            endpoint=self._settings.endpoint,
            headers=opened(self._settings.headers),
            timeout=self._settings.timeout,
        )
        resource = Resource.create({"service.name": "junctor"})
        scope = InstrumentationScope("junctor.logging")
        self._made = lambda record: ReadableLogRecord(record, resource, scope)

    def write(self, batch: Sequence[Entry], *, again: bool) -> None:
        from opentelemetry.sdk._logs.export import LogRecordExportResult

        result = self._exporter.export([self._made(_log_record(entry)) for entry in batch])
        if result is not LogRecordExportResult.SUCCESS:
            raise Unavailable(f"{self._settings.endpoint} did not take the records")

    def close(self) -> None:
        exporter, self._exporter = self._exporter, None
        if exporter is not None:
            exporter.shutdown()


def _log_record(entry: Entry) -> Any:
    from opentelemetry._logs import LogRecord, SeverityNumber
    from opentelemetry.context import Context as TraceContext

    record = entry.record
    error = record.outcome in _ERRORS
    at = int(record.time.timestamp() * 1e9)
    return LogRecord(
        timestamp=at,
        observed_timestamp=at + int(record.duration_us * 1000),
        context=TraceContext(),
        severity_number=SeverityNumber.ERROR if error else SeverityNumber.INFO,
        severity_text="ERROR" if error else "INFO",
        body=entry.line.decode(),
        attributes={name: value for name, value in _attributes(record).items() if value not in ("", None)},
        event_name="junctor.exchange",
    )


def _attributes(record: Record) -> dict[str, Any]:
    """OpenTelemetry's GenAI names where there is one."""
    usage, cost = record.usage, record.cost
    return {
        "log.record.uid": record.record,
        "junctor.request.id": record.id,
        "junctor.outcome": record.outcome,
        "junctor.team": record.team,
        "junctor.project": record.project,
        "junctor.feature": record.feature,
        "junctor.purpose": record.purpose,
        "junctor.cost.nano_dollars": None if cost is None else cost.total,
        "http.response.status_code": record.status,
        "gen_ai.operation.name": record.operation,
        "gen_ai.provider.name": record.provider,
        "gen_ai.request.model": record.model,
        "gen_ai.response.model": record.answered_model,
        "gen_ai.usage.input_tokens": None if usage is None else usage.input,
        "gen_ai.usage.output_tokens": None if usage is None else usage.output,
        "error.type": None if record.error is None else record.error.get("kind") or record.error["code"],
    }
