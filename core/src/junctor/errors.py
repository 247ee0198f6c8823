"""Every error that crosses a module border.

JunctorError
├── ConfigError               ends the start-up; carries every problem found
├── AssetError                an asset cannot be had
└── GatewayError              becomes an HTTP answer in the client's wire
    ├── BadRequest            400  the client's request is malformed
    ├── NotFound              404  no such path, or no such model (`model_not_found`)
    ├── PayloadTooLarge       413  the body is over the limit
    ├── Refused               403  a plugin says no (401, 403, 429, 503: it chooses)
    ├── NoTarget              503  nothing is there to answer the request
    ├── PluginFailed          503  a plugin that must not fail has failed
    ├── DeadlineExceeded      504  the exchange took longer than it may
    ├── ClientDisconnected    499  the client hung up; nobody sees the answer
    └── ProviderError         5xx  a provider failed; `kind` says how
        └── TargetUnavailable 503  not called at all: its circuit is open, its process is down
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = [
    "AssetError",
    "BadRequest",
    "ClientDisconnected",
    "ConfigError",
    "DeadlineExceeded",
    "ErrorKind",
    "GatewayError",
    "JunctorError",
    "NoTarget",
    "NotFound",
    "PayloadTooLarge",
    "PluginFailed",
    "ProviderError",
    "Refused",
    "TargetUnavailable",
]


class JunctorError(Exception):
    """The root of the tree."""


class ConfigError(JunctorError):
    """The configuration cannot be used. `problems` has one line each: file, path, what is wrong, remedy."""

    def __init__(self, problems: Sequence[str] | str) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class AssetError(JunctorError):
    """An asset cannot be fetched or is not what it should be; the message holds the remedy."""


class GatewayError(JunctorError):
    """An answer that is not the one the client hoped for.

    `type`, `code` and `param` are the fields of OpenAI's error body; `headers` go with the answer; `retry_after` is in
    seconds.
    """

    status_code = 500
    type = "api_error"
    code = "internal_error"
    finish_reason = "error"
    """What the last event of a stream says that this error ends."""

    def __init__(
        self,
        message: str,
        *,
        status_code: int | None = None,
        type: str | None = None,  # noqa: A002 (OpenAI's field)
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status_code = status_code or self.status_code
        self.type = type or self.type
        self.code = code or self.code
        self.param = param
        self.headers = dict(headers or {})
        self.retry_after = retry_after


class BadRequest(GatewayError):
    """The client's request cannot be understood; `param` names the field."""

    status_code = 400
    type = "invalid_request_error"
    code = "invalid_request"


class NotFound(GatewayError):
    """There is no such path or model."""

    status_code = 404
    type = "invalid_request_error"
    code = "not_found"


class PayloadTooLarge(GatewayError):
    """The body of the request is larger than `server.max_body`."""

    status_code = 413
    type = "invalid_request_error"
    code = "request_too_large"


class Refused(GatewayError):
    """A plugin refuses the request. It chooses status, code and headers."""

    status_code = 403
    type = "permission_error"
    code = "refused"


class NoTarget(GatewayError):
    """No target is left, or no enabled plugin claims the one chosen."""

    status_code = 503
    code = "no_target"


class PluginFailed(GatewayError):
    """A plugin whose `on_failure` is `closed` raised something unexpected or took too long."""

    status_code = 503
    code = "plugin_failed"


class DeadlineExceeded(GatewayError):
    """The exchange's total time is over."""

    status_code = 504
    type = "timeout_error"
    code = "deadline_exceeded"


class ClientDisconnected(GatewayError):
    """The client hung up before it had the whole answer."""

    status_code = 499
    code = "client_disconnected"


class ErrorKind(StrEnum):
    """What went wrong at a provider. Plugins decide on this, not on the status alone."""

    RATE_LIMITED = "rate_limited"
    OVERLOADED = "overloaded"
    QUOTA_EXHAUSTED = "quota_exhausted"
    CONTEXT_TOO_LONG = "context_too_long"
    CONTENT_POLICY = "content_policy"
    BAD_REQUEST = "bad_request"
    AUTHENTICATION = "authentication"
    NOT_FOUND = "not_found"
    TIMEOUT = "timeout"
    CONNECTION = "connection"
    PROTOCOL = "protocol"
    UNAVAILABLE = "unavailable"
    INTERNAL = "internal"


# What the client is told. A provider's 401 is the operator's problem, never the client's: 502.
_STATUS = {
    ErrorKind.RATE_LIMITED: 429,
    ErrorKind.OVERLOADED: 503,
    ErrorKind.QUOTA_EXHAUSTED: 429,
    ErrorKind.CONTEXT_TOO_LONG: 400,
    ErrorKind.CONTENT_POLICY: 400,
    ErrorKind.BAD_REQUEST: 400,
    ErrorKind.AUTHENTICATION: 502,
    ErrorKind.NOT_FOUND: 404,
    ErrorKind.TIMEOUT: 504,
    ErrorKind.CONNECTION: 502,
    ErrorKind.PROTOCOL: 502,
    ErrorKind.UNAVAILABLE: 503,
    ErrorKind.INTERNAL: 500,
}
_TYPE = {400: "invalid_request_error", 404: "invalid_request_error", 422: "invalid_request_error"}
_TYPE |= {429: "rate_limit_error", 504: "timeout_error"}
_CODE = {ErrorKind.CONTEXT_TOO_LONG: "context_length_exceeded", ErrorKind.RATE_LIMITED: "rate_limit_exceeded"}
_CODE |= {ErrorKind.QUOTA_EXHAUSTED: "insufficient_quota", ErrorKind.CONTENT_POLICY: "content_policy_violation"}


class ProviderError(GatewayError):
    """A provider failed. `on_error` decides what follows.

    `provider_status` is the status that the provider sent, None if there was none; `retry_after` is what it asked for,
    in seconds. `sent` is False when it is certain that the provider never saw the request.
    """

    def __init__(
        self,
        message: str,
        *,
        kind: ErrorKind,
        provider_status: int | None = None,
        status_code: int | None = None,
        code: str | None = None,
        param: str | None = None,
        retry_after: float | None = None,
        sent: bool = True,
    ) -> None:
        status = status_code or _STATUS[kind]
        super().__init__(
            message,
            status_code=status,
            type=_TYPE.get(status, "api_error"),
            code=code or _CODE.get(kind, kind.value),
            param=param,
            retry_after=retry_after,
        )
        self.kind = kind
        self.provider_status = provider_status
        self.sent = sent


class TargetUnavailable(ProviderError):
    """The target was not called: its circuit is open, or its process is not running."""

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message, kind=ErrorKind.UNAVAILABLE, retry_after=retry_after, sent=False)
