"""OpenTelemetry: a span for the request, one for each attempt, and the GenAI client metrics, by OTLP.

Spans are made when the exchange has ended, from the times that it holds; on its way only ids are drawn, so that the
provider can be told them. The SDK is imported where this is configured, and nowhere else.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, field
from functools import lru_cache
from random import getrandbits, random
from typing import TYPE_CHECKING, Any, Self

from junctor import ClientDisconnected, ConfigError, hookimpl
from junctor.outcome import outcome_of
from junctor.secrets import Secrets, secrets_in

from junctor_metrics.observe import kind_of
from junctor_metrics.semantics import DURATION_BOUNDS, TOKEN_BOUNDS, attempt_attributes, operation_of, usage_points

if TYPE_CHECKING:
    from junctor import Attempt, Exchange, Gateway, Response

    from junctor_metrics.settings import OpenTelemetrySettings

__all__ = ["Trace", "Tracer", "begin_hook"]

_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_STATE = re.compile(r"[\x20-\x7e]{1,512}")
_ROOM = "metrics"
_OWN_ID = re.compile(r"[0-9a-f]{32}")
_SCOPE = "junctor"


@dataclass(slots=True)
class Trace:
    """The ids of one request: its own span's, and of each attempt."""

    trace_id: int
    span_id: int
    parent: int
    remote: bool
    sampled: bool
    state: str = ""
    attempts: list[tuple[Attempt, int]] = field(default_factory=list)
    headers: dict[str, str] | None = None

    def begun(self, attempt: Attempt) -> None:
        """Draw the attempt's id, and have the provider told."""
        span_id = getrandbits(64) or 1
        self.attempts.append((attempt, span_id))
        if self.headers is not None:
            self.headers["traceparent"] = f"00-{self.trace_id:032x}-{span_id:016x}-{self.sampled:02x}"


def begin_hook(tracer: Tracer) -> Any:
    """The hook that only a gateway with OpenTelemetry has: the others save the call."""

    @hookimpl
    async def pre_route(exchange: Exchange) -> None:
        tracer.begin(exchange)

    return pre_route


class Tracer:
    """Draws ids while an exchange runs, makes its spans when it has ended. An async context manager."""

    def __init__(self, settings: OpenTelemetrySettings, gateway: Gateway) -> None:
        self._settings = settings
        self._secrets = Secrets([*gateway.config.secrets, *secrets_in(settings)])
        self._hidden = lru_cache(maxsize=1024)(self._secrets.hide)  # paths and features come again and again
        try:
            from junctor_metrics import otlp
        except ImportError:
            message = "opentelemetry: its SDK is not installed; `pip install 'junctor-metrics[otlp]'`"
            raise ConfigError(message) from None
        self._otlp = otlp
        self._export: Any = None

    async def __aenter__(self) -> Self:
        bounds = {"duration": DURATION_BOUNDS, "tokens": TOKEN_BOUNDS}
        self._export = self._otlp.Export(self._settings, _SCOPE, bounds)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await asyncio.to_thread(self._export.close)

    def begin(self, exchange: Exchange) -> Trace:
        """Continue the client's trace or begin one."""
        trace = exchange.state[_ROOM] = self._trace(exchange)
        exchange.facts["trace_id"] = f"{trace.trace_id:032x}"
        exchange.on_attempt.append(trace.begun)
        if self._settings.propagate:
            trace.headers = exchange.provider_headers
            if trace.state:
                trace.headers["tracestate"] = trace.state
        return trace

    def _trace(self, exchange: Exchange) -> Trace:
        own = getrandbits(64) or 1
        parent: Trace | None = exchange.parent.state.get(_ROOM) if exchange.parent is not None else None
        if parent is not None:
            return Trace(parent.trace_id, own, parent.span_id, remote=False, sampled=parent.sampled)
        headers = exchange.request.headers
        given = headers.get("traceparent")
        match = _TRACEPARENT.fullmatch(given) if given and self._settings.trust_parent else None
        if match is None or (given and given.startswith("00") and match[4]):
            return Trace(getrandbits(128) or 1, own, 0, remote=False, sampled=random() < self._settings.sample)
        state = headers.get("tracestate", "")
        kept = state if _STATE.fullmatch(state) else ""
        return Trace(int(match[1], 16), own, int(match[2], 16), True, bool(int(match[3], 16) & 1), kept)

    def end(self, exchange: Exchange, response: Response | None, error: BaseException | None) -> None:
        """Export what became of the exchange."""
        trace: Trace = exchange.state.get(_ROOM) or self.begin(exchange)
        offset = exchange.started_at - exchange.started
        operation = operation_of(exchange.request.operation)
        answered = response.attempt if response is not None else None
        spans = self._settings.traces and trace.sampled
        ids = {id(attempt): span_id for attempt, span_id in trace.attempts}
        last = exchange.first_byte or exchange.started
        if spans:
            self._export.server(trace, exchange, self._server(exchange, response, error), _failure(error))
        for number, attempt in enumerate(exchange.attempts, 1):
            last = attempt.ended or last
            answer = response if attempt is answered else None
            failure = kind_of(attempt.error) if attempt.error is not None else None
            attributes = attempt_attributes(exchange, attempt, answer, operation)
            if spans:
                extra = {"junctor.attempt.number": number}
                span_id = ids.get(id(attempt)) or getrandbits(64) or 1
                self._export.client(trace, span_id, attempt, offset, {**attributes.all, **extra}, failure)
            if self._settings.metrics:
                self._export.measure(attributes.metric, attempt.duration, usage_points(attempt))

    def _server(self, exchange: Exchange, response: Response | None, error: BaseException | None) -> dict[str, Any]:
        client, request = exchange.client, exchange.request
        known = exchange.model is not None
        outcome, status = outcome_of(response, error)
        hide = self._hidden
        cost = exchange.cost
        found = {
            "url.path": hide(request.path) if request.path else "",
            "http.request.method": "GET" if request.operation == "models" else "POST",
            "http.response.status_code": status,
            "junctor.request.id": exchange.id if _OWN_ID.fullmatch(exchange.id) else self._secrets.hide(exchange.id),
            "junctor.model": request.model if known else "",
            "junctor.team": client.team,
            "junctor.project": client.project,
            "junctor.feature": hide(client.feature) if client.feature else "",
            "junctor.purpose": exchange.purpose,
            "junctor.outcome": outcome,
            "junctor.cache": (response.cached or "") if response is not None else "",
            "junctor.attempts": len(exchange.attempts),
            "junctor.overhead_ms": round(exchange.overhead * 1000, 3),
            "junctor.cost.nano_dollars": cost.total if cost is not None else "",
        }
        return {name: value for name, value in found.items() if value != ""}


def _failure(error: BaseException | None) -> str | None:
    """The error of the span; a client that hung up is not the gateway's error."""
    return None if error is None or isinstance(error, ClientDisconnected) else kind_of(error)
