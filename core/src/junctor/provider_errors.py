"""What kind of error an OpenAI-compatible provider tells of, wherever it stands."""

from __future__ import annotations

import re

from junctor.errors import ErrorKind, ProviderError

__all__ = ["error_in_answer", "error_kind"]

# An OpenAI-compatible error's code or message → its kind. Codes first; words only where providers give no code.
_KIND_BY_CODE = {
    "context_length_exceeded": ErrorKind.CONTEXT_TOO_LONG,
    "string_above_max_length": ErrorKind.CONTEXT_TOO_LONG,
    "insufficient_quota": ErrorKind.QUOTA_EXHAUSTED,
    "billing_hard_limit_reached": ErrorKind.QUOTA_EXHAUSTED,
    "rate_limit_exceeded": ErrorKind.RATE_LIMITED,
    "rate_limit_error": ErrorKind.RATE_LIMITED,
    "overloaded_error": ErrorKind.OVERLOADED,
    "server_error": ErrorKind.OVERLOADED,
    "content_policy_violation": ErrorKind.CONTENT_POLICY,
    "content_filter": ErrorKind.CONTENT_POLICY,
    "invalid_api_key": ErrorKind.AUTHENTICATION,
    "authentication_error": ErrorKind.AUTHENTICATION,
    "model_not_found": ErrorKind.NOT_FOUND,
    "exceed_context_size_error": ErrorKind.CONTEXT_TOO_LONG,
}
_KIND_BY_STATUS = {
    400: ErrorKind.BAD_REQUEST,
    401: ErrorKind.AUTHENTICATION,
    402: ErrorKind.QUOTA_EXHAUSTED,
    403: ErrorKind.AUTHENTICATION,
    404: ErrorKind.NOT_FOUND,
    408: ErrorKind.TIMEOUT,
    409: ErrorKind.OVERLOADED,
    413: ErrorKind.CONTEXT_TOO_LONG,
    422: ErrorKind.BAD_REQUEST,
    429: ErrorKind.RATE_LIMITED,
    503: ErrorKind.OVERLOADED,
    504: ErrorKind.TIMEOUT,
    529: ErrorKind.OVERLOADED,
}
_TOO_LONG = re.compile(
    r"context (length|window|size)|maximum context|too many tokens|prompt is too long", re.IGNORECASE
)


def error_kind(status: int, *, code: str = "", message: str = "") -> ErrorKind:
    """The kind of a provider's error, from its code, then its status, then its words."""
    kind = _KIND_BY_CODE.get(code)
    if kind is not None:
        return kind
    kind = _KIND_BY_STATUS.get(status) or (ErrorKind.BAD_REQUEST if 400 <= status < 500 else ErrorKind.OVERLOADED)
    if kind is ErrorKind.BAD_REQUEST and _TOO_LONG.search(message):
        return ErrorKind.CONTEXT_TOO_LONG
    if 300 <= status < 400:
        return ErrorKind.PROTOCOL
    return kind


def error_in_answer(error: object, *, status: int = 0, retry_after: float | None = None) -> ProviderError:
    """An OpenAI-compatible `error` value, wherever it stood (an answer, a 200, the middle of a stream)."""
    fields = error if isinstance(error, dict) else {"message": str(error)}
    codes = [str(fields[key]) for key in ("code", "type") if fields.get(key)]
    code = next((code for code in codes if code in _KIND_BY_CODE), codes[0] if codes else "")
    if not status and code.isdigit() and 400 <= int(code) < 600:
        status = int(code)
    message = str(fields.get("message") or "the provider gave no reason")
    kind = error_kind(status or 500, code=code, message=message)
    own = kind in (ErrorKind.BAD_REQUEST, ErrorKind.NOT_FOUND) and 400 <= status < 500
    return ProviderError(
        message,
        kind=kind,
        provider_status=status or None,
        status_code=status if own else None,
        code=code if own and code else None,
        param=fields["param"] if isinstance(fields.get("param"), str) else None,
        retry_after=retry_after,
    )
