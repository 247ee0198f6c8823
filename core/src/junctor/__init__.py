"""Junctor: an AI gateway. These are the names that plugins are written with."""

from junctor.errors import (
    BadRequest,
    ClientDisconnected,
    ConfigError,
    DeadlineExceeded,
    ErrorKind,
    GatewayError,
    JunctorError,
    NoTarget,
    NotFound,
    PluginFailed,
    ProviderError,
    Refused,
    TargetUnavailable,
)
from junctor.exchange import (
    Attempt,
    Client,
    Exchange,
    Model,
    ProviderKeys,
    Request,
    Response,
    Target,
    Timeouts,
    Transform,
    Usage,
)
from junctor.gateway import Gateway
from junctor.hookspecs import hookimpl
from junctor.prices import Cost, Price
from junctor.settings import Duration, NanoDollars, PluginSettings, Section
from junctor.stream import Stream

__all__ = [
    "Attempt",
    "BadRequest",
    "Client",
    "ClientDisconnected",
    "ConfigError",
    "Cost",
    "DeadlineExceeded",
    "Duration",
    "ErrorKind",
    "Exchange",
    "Gateway",
    "GatewayError",
    "JunctorError",
    "Model",
    "NanoDollars",
    "NoTarget",
    "NotFound",
    "PluginFailed",
    "PluginSettings",
    "Price",
    "ProviderError",
    "ProviderKeys",
    "Refused",
    "Request",
    "Response",
    "Section",
    "Stream",
    "Target",
    "TargetUnavailable",
    "Timeouts",
    "Transform",
    "Usage",
    "hookimpl",
]
