"""The one place where a provider's failure, or an exception of litellm's, becomes a `ProviderError`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from junctor import ErrorKind, GatewayError, ProviderError, jsons
from junctor.provider_errors import error_kind
from junctor.upstream import retry_after as wait_in_headers

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["from_event", "from_exception", "from_status"]

# What providers call it → what it is. Anthropic's types, Google's and AWS's codes; OpenAI's codes are the core's.
_KIND_BY_CODE = {
    "overloaded_error": ErrorKind.OVERLOADED,
    "api_error": ErrorKind.OVERLOADED,
    "rate_limit_error": ErrorKind.RATE_LIMITED,
    "billing_error": ErrorKind.QUOTA_EXHAUSTED,
    "permission_error": ErrorKind.AUTHENTICATION,
    "authentication_error": ErrorKind.AUTHENTICATION,
    "not_found_error": ErrorKind.NOT_FOUND,
    "request_too_large": ErrorKind.CONTEXT_TOO_LONG,
    "timeout_error": ErrorKind.TIMEOUT,
    "RESOURCE_EXHAUSTED": ErrorKind.RATE_LIMITED,
    "UNAVAILABLE": ErrorKind.OVERLOADED,
    "INTERNAL": ErrorKind.OVERLOADED,
    "DEADLINE_EXCEEDED": ErrorKind.TIMEOUT,
    "UNAUTHENTICATED": ErrorKind.AUTHENTICATION,
    "PERMISSION_DENIED": ErrorKind.AUTHENTICATION,
    "NOT_FOUND": ErrorKind.NOT_FOUND,
    "ThrottlingException": ErrorKind.RATE_LIMITED,
    "TooManyRequestsException": ErrorKind.RATE_LIMITED,
    "ServiceQuotaExceededException": ErrorKind.QUOTA_EXHAUSTED,
    "ServiceUnavailableException": ErrorKind.OVERLOADED,
    "InternalServerException": ErrorKind.OVERLOADED,
    "ModelNotReadyException": ErrorKind.OVERLOADED,
    "ModelTimeoutException": ErrorKind.TIMEOUT,
    "ModelStreamErrorException": ErrorKind.OVERLOADED,
    "AccessDeniedException": ErrorKind.AUTHENTICATION,
    "UnrecognizedClientException": ErrorKind.AUTHENTICATION,
    "ResourceNotFoundException": ErrorKind.NOT_FOUND,
}
_STATUS_BY_CODE = {"overloaded_error": 529, "api_error": 500, "rate_limit_error": 429, "invalid_request_error": 400}
_STATUS_BY_CODE |= {"authentication_error": 401, "permission_error": 403, "not_found_error": 404, "timeout_error": 504}
# Words that tell what a 400, 401 or 429 is about where the provider's code does not.
_WORDS = (
    (ErrorKind.CONTEXT_TOO_LONG, re.compile(
        r"prompt is too long|input token count|too many tokens|maximum context|context (length|window|limit|size)"
        r"|input is too long|exceeds? the (maximum )?(number of tokens|token limit)", re.IGNORECASE)),
    (ErrorKind.AUTHENTICATION, re.compile(r"api[ _]key (not valid|is invalid|expired)|invalid api[ _-]?key",
                                          re.IGNORECASE)),
    (ErrorKind.QUOTA_EXHAUSTED, re.compile(
        r"credit balance|insufficient[_ ](quota|credit|balance|funds)|exceeded your current quota|billing"
        r"|per ?day|RequestsPerDay|spend(ing)? limit", re.IGNORECASE)),
    (ErrorKind.CONTENT_POLICY, re.compile(
        r"content (management )?polic|content filter|safety (system|setting)|responsible ai|blocked by",
        re.IGNORECASE)),
)  # fmt: skip
_VAGUE = frozenset({ErrorKind.BAD_REQUEST, ErrorKind.RATE_LIMITED, ErrorKind.AUTHENTICATION})
_MAX_MESSAGE = 2000


def from_status(status: int, headers: Mapping[str, str], body: bytes) -> ProviderError:
    """An answer that is not 200; `headers` have lower-case names."""
    try:
        parsed = jsons.loads(body)
    except ValueError:
        parsed = None
    if isinstance(parsed, list) and parsed:  # Google wraps an error in a list where a stream was asked for
        parsed = parsed[0]
    if not isinstance(parsed, dict):
        return _error(f"the provider answered {status}", status=status, wait=wait_in_headers(headers))
    error = parsed.get("error", parsed)
    code = headers.get("x-amzn-errortype", "").split(":")[0]
    return _from_object(error, status=status, code=code, wait=wait_in_headers(headers))


def from_event(error: object) -> ProviderError:
    """An error that came with status 200: as the answer, or in the middle of a stream."""
    return _from_object(error, status=0, code="", wait=None)


def from_exception(error: Exception, *, answered: bool) -> Exception:
    """What litellm, or what lies beneath it, has raised. A `GatewayError` of our own comes back as it went in.

    A provider's refusal is such an error: `transport` has read it. What is left is litellm's judgement of a request
    that it cannot translate, or of an answer, which the provider had begun to give if `answered`.
    """
    own = _own_cause(error)
    if own is not None:
        return own
    beneath = getattr(error, "original_exception", None)  # litellm's MidStreamFallbackError
    error = beneath if isinstance(beneath, Exception) else error
    name = type(error).__name__
    if isinstance(error, TimeoutError) or name in ("Timeout", "APITimeoutError"):
        return ProviderError("the provider did not answer in time", kind=ErrorKind.TIMEOUT)
    status = getattr(error, "status_code", None)
    # litellm makes these two, with a status, of any exception at all.
    told = isinstance(status, int) and status >= 400 and name not in ("APIConnectionError", "InternalServerError")
    if not told:
        said = f"litellm cannot read the answer: {name}" if answered else f"litellm failed: {_words(error)}"
        kind = ErrorKind.PROTOCOL if answered else ErrorKind.INTERNAL
        return ProviderError(said[:_MAX_MESSAGE], kind=kind, sent=answered)
    found = _from_object(_quoted(_words(error)), status=int(status or 0), code="", wait=None)
    kind = _KIND_BY_CLASS.get(name, found.kind) if found.kind in _VAGUE else found.kind
    return ProviderError(found.message, kind=kind, provider_status=status if answered else None, sent=answered)


# litellm decides on these by words in the providers' messages; they are taken where its status alone says little.
_KIND_BY_CLASS = {
    "ContextWindowExceededError": ErrorKind.CONTEXT_TOO_LONG,
    "ContentPolicyViolationError": ErrorKind.CONTENT_POLICY,
}


def _own_cause(error: BaseException | None) -> GatewayError | None:
    """The error of the gateway's own HTTP client that litellm and its libraries have wrapped in theirs."""
    for _ in range(12):
        if error is None or isinstance(error, GatewayError):
            return error
        error = error.__cause__ or error.__context__
    return None


def _words(error: Exception) -> str:
    """What an exception says, without the names of litellm's classes before it and the traceback that it quotes."""
    return re.sub(r"^(litellm\.\w+: |\w+(Error|Exception)( -|:) )+", "", str(error).partition("\nTraceback")[0])


def _quoted(text: str) -> object:
    """The provider's error object within the text of an exception of litellm's, or the text."""
    place = text.find("{")
    while 0 <= place < _MAX_MESSAGE:
        end = text.rfind("}")
        try:
            found = jsons.loads(text[place : end + 1])
        except ValueError:
            place = text.find("{", place + 1)
            continue
        return found.get("error", found) if isinstance(found, dict) else text
    return text


def _from_object(error: object, *, status: int, code: str, wait: float | None) -> ProviderError:
    """Anthropic's `{type, message}`, Google's `{code, status, message, details}`, AWS's `{message}`, or OpenAI's."""
    if not isinstance(error, dict):
        return _error(str(error) or "the provider gave no reason", status=status, code=code, wait=wait)
    number = error.get("code")
    if isinstance(number, int) and 400 <= number < 600:
        status = status or number
    names = (code, error.get("status"), error.get("code"), error.get("type"))
    texts = [name for name in names if isinstance(name, str) and name and not name.isdigit()]
    code = next((name for name in texts if name in _KIND_BY_CODE), texts[0] if texts else "")
    message = error.get("message") or error.get("Message") or "the provider gave no reason"
    details = error.get("details")
    wait = wait if wait is not None else _retry_delay(details)
    daily = " per day" if "PerDay" in str(details)[:_MAX_MESSAGE] else ""
    param = error.get("param")
    return _error(
        str(message),
        status=status or _STATUS_BY_CODE.get(code, 0),
        code=code,
        wait=wait,
        hint=daily,
        param=param if isinstance(param, str) else None,
    )


def _retry_delay(details: Any) -> float | None:
    """Google's `RetryInfo`: `{"@type": …, "retryDelay": "17s"}`, in seconds."""
    for detail in details if isinstance(details, list) else ():
        delay = detail.get("retryDelay") if isinstance(detail, dict) else None
        if isinstance(delay, str) and re.fullmatch(r"\d+(\.\d+)?s", delay):
            return float(delay[:-1])
    return None


def _error(
    message: str, *, status: int, code: str = "", wait: float | None = None, hint: str = "", param: str | None = None
) -> ProviderError:
    kind = _KIND_BY_CODE.get(code) or error_kind(status or 500, code=code, message=message)
    if kind in _VAGUE:
        kind = next((found for found, words in _WORDS if words.search(message + hint) and _fits(kind, found)), kind)
    own = kind in (ErrorKind.BAD_REQUEST, ErrorKind.NOT_FOUND) and 400 <= status < 500
    return ProviderError(
        message[:_MAX_MESSAGE],
        kind=kind,
        provider_status=status or None,
        status_code=status if own else None,
        code=code if own and code else None,
        param=param,
        retry_after=wait,
    )


def _fits(vague: ErrorKind, found: ErrorKind) -> bool:
    """A 429 is about a limit, a 403 may be a policy's; only a 400 may be anything."""
    if vague is ErrorKind.RATE_LIMITED:
        return found is ErrorKind.QUOTA_EXHAUSTED
    if vague is ErrorKind.AUTHENTICATION:
        return found in (ErrorKind.CONTENT_POLICY, ErrorKind.QUOTA_EXHAUSTED)
    return True
