"""The plugin's section."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 (pydantic reads it)
from typing import Annotated, Any, Literal

from junctor import Duration, PluginSettings, Section
from junctor.secrets import Headers  # noqa: TC002 (pydantic reads it)
from pydantic import BeforeValidator, Field, SecretStr, model_validator

__all__ = [
    "AlertsSettings",
    "BreakerRule",
    "BudgetRule",
    "ErrorsRule",
    "MetricsSettings",
    "OpenTelemetrySettings",
    "ProviderKeyRule",
    "Rule",
    "UnpricedRule",
    "WebhookSettings",
]


def _share(value: Any) -> Any:
    if isinstance(value, str) and value.strip().endswith("%"):
        try:
            return float(value.strip().removesuffix("%")) / 100
        except ValueError:
            raise ValueError(f"{value!r} is not a share; write for example 80% or 0.8") from None
    return value


Share = Annotated[float, BeforeValidator(_share), Field(gt=0, le=1)]


class OpenTelemetrySettings(Section):
    """Traces, and the GenAI client metrics, by OTLP."""

    endpoint: Annotated[str, Field(pattern=r"^https?://", description="Of the collector, without `/v1/traces`.")]
    protocol: Annotated[Literal["http", "grpc"], Field(description="OTLP over HTTP (4318) or gRPC (4317).")] = "http"
    headers: Annotated[Headers, Field(description="Sent with every export.")] = Field(default_factory=dict)
    timeout: Annotated[Duration, Field(gt=0, description="For one export.")] = 10.0
    sample: Annotated[Share | Literal[0], Field(description="Share of the traces that begin here.")] = 1.0
    trust_parent: Annotated[bool, Field(description="A client's `traceparent` is continued, with its decision.")] = True
    propagate: Annotated[bool, Field(description="Send `traceparent` on to providers.")] = True
    service_name: str = "junctor"
    traces: bool = True
    metrics: bool = True
    interval: Annotated[Duration, Field(gt=0, description="Between exports of metrics.")] = 60.0
    delay: Annotated[Duration, Field(gt=0, description="Longest time until a span is exported.")] = 5.0
    queue: Annotated[int, Field(ge=1, description="Spans that wait; what is more is dropped.")] = 2048


class BudgetRule(Section):
    """A team has used this share of its tightest budget."""

    when: Literal["budget"]
    above: Share = 0.8


class ErrorsRule(Section):
    """This share of the requests of a model, or of the attempts of a target, fails."""

    when: Literal["errors"]
    above: Share = 0.2
    window: Annotated[Duration, Field(gt=0)] = 300.0
    min_requests: Annotated[int, Field(ge=1, description="Fewer tell nothing.")] = 20
    per: Literal["model", "target"] = "model"


class BreakerRule(Section):
    """A target's circuit is open."""

    when: Literal["breaker"]


class UnpricedRule(Section):
    """Tokens of a target without a price were used within the window."""

    when: Literal["unpriced"]
    window: Annotated[Duration, Field(gt=0)] = 3600.0


class ProviderKeyRule(Section):
    """A provider has refused one of the gateway's keys within the window."""

    when: Literal["provider_key"]
    window: Annotated[Duration, Field(gt=0)] = 600.0


Rule = Annotated[BudgetRule | ErrorsRule | BreakerRule | UnpricedRule | ProviderKeyRule, Field(discriminator="when")]


class WebhookSettings(Section):
    """Where alerts are posted. `x-junctor-signature` is the HMAC-SHA256 of timestamp, a dot and the body."""

    url: Annotated[str, Field(pattern=r"^https?://")]
    secret: Annotated[SecretStr, Field(min_length=16, description="Signs what is sent.")]
    timeout: Annotated[Duration, Field(gt=0)] = 5.0
    retries: Annotated[int, Field(ge=0, le=20)] = 5
    backoff: Annotated[Duration, Field(gt=0, description="Before the first retry; doubles.")] = 1.0
    queue: Annotated[int, Field(ge=1, description="Alerts that wait; the oldest go first.")] = 100


class AlertsSettings(Section):
    """What is told to the log, and to a webhook."""

    rules: Annotated[list[Rule], Field(min_length=1)]
    cooldown: Annotated[Duration, Field(description="Until the same alert may fire again.")] = 900.0
    every: Annotated[Duration, Field(gt=0, description="Between two looks at the figures.")] = 5.0
    webhook: WebhookSettings | None = None


class MetricsSettings(PluginSettings):
    """Prometheus, OpenTelemetry and alerts."""

    on_failure: Literal["open", "closed"] = "open"
    path: Annotated[str | None, Field(pattern=r"^/\S+$", description="Of the exposition; null: none.")] = "/metrics"
    port: Annotated[int | None, Field(ge=0, le=65535, description="Serve it on a port of its own.")] = None
    host: Annotated[str, Field(description="The address of that port.")] = "127.0.0.1"
    admin: Annotated[
        bool | None, Field(description="Ask for the admin key. Left out: unless the address is loopback only.")
    ] = None
    max_label_values: Annotated[int, Field(ge=1, description="Values of a label; the others are `other`.")] = 500
    max_series: Annotated[int, Field(ge=1, description="Label sets of a metric.")] = 5000
    interval: Annotated[Duration, Field(gt=0, description="Between two words of a worker to the others.")] = 1.0
    directory: Annotated[Path | None, Field(description="Where workers meet; null: memory of the machine.")] = None
    opentelemetry: OpenTelemetrySettings | None = None
    alerts: AlertsSettings | None = None

    @model_validator(mode="after")
    def _port_needs_path(self) -> MetricsSettings:
        if self.port is not None and self.path is None:
            raise ValueError("port: needs a path")
        return self
