"""The plugin's section of the YAML file."""

from __future__ import annotations

from typing import Annotated

from junctor import Duration, ErrorKind, NanoDollars, PluginSettings, Section
from pydantic import BeforeValidator, ConfigDict, Field

__all__ = [
    "BackoffSettings",
    "BudgetSettings",
    "CircuitSettings",
    "ContinueSettings",
    "FallbackSettings",
    "HedgeSettings",
    "KeySettings",
    "SlowStreamSettings",
]


def _share(value: object) -> object:
    if isinstance(value, str) and value.strip().endswith("%"):
        try:
            return float(value.strip()[:-1]) / 100
        except ValueError:
            raise ValueError(f"{value!r} is not a share; write for example 20% or 0.2") from None
    return value


Share = Annotated[float, BeforeValidator(_share), Field(ge=0, le=1)]
"""A part of the whole, 0 to 1; in the file also `20%`."""


def _bases() -> dict[ErrorKind, float]:
    return {ErrorKind.RATE_LIMITED: 1.0, ErrorKind.OVERLOADED: 0.5}


class BackoffSettings(Section):
    """How long to wait before a target is tried again: exponential, with full jitter."""

    base: Annotated[Duration, Field(description="Bound of the first wait.")] = 0.25
    by_kind: Annotated[
        dict[ErrorKind, Duration], Field(default_factory=_bases, description="The same, for one kind of error.")
    ]
    max: Annotated[Duration, Field(description="Bound of any wait that the provider did not ask for.")] = 8.0
    max_wait: Annotated[Duration, Field(description="Longest `retry-after` that is waited for.")] = 10.0


class BudgetSettings(Section):
    """The retry budget of a target: a bucket of retries."""

    share: Annotated[Share, Field(description="Retries that each first call of the target adds.")] = 0.2
    burst: Annotated[float, Field(ge=1, description="Size of the bucket; it is full at the start.")] = 10.0
    per_second: Annotated[float, Field(ge=0, description="Retries that time adds.")] = 0.1


class CircuitSettings(Section):
    """When a target is left alone, and how it comes back."""

    window: Annotated[Duration, Field(gt=0, description="Length of the sliding window.")] = 30.0
    min_requests: Annotated[int, Field(ge=1, description="Fewer requests in the window decide nothing.")] = 10
    failure_share: Annotated[Share, Field(gt=0, description="Failed requests that open the circuit.")] = 0.5
    shares: Annotated[
        dict[ErrorKind, Share], Field(default_factory=dict, description="The same, for one kind of error alone.")
    ]
    slow_call: Annotated[Duration | None, Field(gt=0, description="An answer that begins later is slow.")] = None
    slow_share: Annotated[Share, Field(gt=0, description="Slow requests that open the circuit.")] = 0.8
    open_for: Annotated[Duration, Field(gt=0, description="First stay; doubles with each failed return.")] = 5.0
    max_open: Annotated[Duration, Field(gt=0, description="Longest stay.")] = 60.0
    probes: Annotated[int, Field(ge=1, description="Requests let through on return; all must succeed.")] = 3
    ramp: Annotated[Duration, Field(description="Time over which traffic then grows from 10 % to all.")] = 10.0


class KeySettings(Section):
    """How long a provider's key is not used."""

    authentication: Annotated[Duration, Field(gt=0, description="After the provider refused it.")] = 600.0
    quota: Annotated[Duration, Field(gt=0, description="After its quota was exhausted.")] = 300.0


class HedgeSettings(Section):
    """A second attempt beside a slow first one."""

    models: Annotated[list[str], Field(min_length=1, description="Models whose requests are hedged.")]
    after: Annotated[Duration | None, Field(description="Instead of the target's live p95.")] = None
    max_extra: Annotated[Share, Field(description="Extra spend, as a share of the hedged models'.")] = 0.03
    min_samples: Annotated[int, Field(ge=5, le=200, description="Answers seen before the p95 is used.")] = 20


class SlowStreamSettings(Section):
    """A stream slower than this, before anything of it was sent, is given up for the next target."""

    models: Annotated[list[str] | None, Field(description="Only these; without it all.")] = None
    tokens_per_second: Annotated[float, Field(gt=0, description="The floor.")]
    within: Annotated[Duration, Field(gt=0, description="How long to look, from the first token on.")] = 2.0


class ContinueSettings(Section):
    """A plain text that broke off is continued by a target tagged `prefill`."""

    models: Annotated[list[str], Field(min_length=1, description="Models whose streams may be continued.")]
    max_text: Annotated[int, Field(gt=0, description="Characters; a longer beginning is not continued.")] = 200_000


class FallbackSettings(PluginSettings):
    """Retry, fall back, break circuits."""

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True)

    max_attempts: Annotated[int, Field(ge=1, le=20, description="Calls of providers in one exchange.")] = 4
    retries: Annotated[int, Field(ge=0, le=10, description="Calls of one target again, when no other is left.")] = 2
    retry_first: Annotated[int, Field(ge=0, le=10, description="Of these, before another target is tried.")] = 0
    max_cost: Annotated[
        NanoDollars | None, Field(description="Dollars that all attempts of one exchange may cost, as estimated.")
    ] = None
    backoff: Annotated[BackoffSettings, Field(default_factory=lambda: BackoffSettings.model_validate({}))]
    retry_budget: BudgetSettings = BudgetSettings()
    circuit: Annotated[CircuitSettings, Field(default_factory=lambda: CircuitSettings.model_validate({}))]
    keys: KeySettings = KeySettings()
    models: Annotated[
        dict[str, list[str]],
        Field(default_factory=dict, description="Models whose targets are tried after a model's own."),
    ]
    content_policy: Annotated[
        list[str],
        Field(default_factory=list, description="Targets (or `tag:NAME`) for what another provider's filter refused."),
    ]
    hedge: HedgeSettings | None = None
    slow_stream: SlowStreamSettings | None = None
    continue_: Annotated[ContinueSettings | None, Field(alias="continue")] = None
    sync: Annotated[Duration, Field(gt=0, description="How often circuits are compared between workers.")] = 1.0
