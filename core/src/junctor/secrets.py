"""Keeps keys and passwords out of whatever is written down: log lines, records, error texts.

A secret is found because the configuration holds it, or because it looks like one.
"""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, BeforeValidator, SecretStr

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

__all__ = [
    "MARK",
    "SHORTEST",
    "FromEnvironment",
    "Headers",
    "SafeFormatter",
    "Secrets",
    "hide_in_log",
    "opened",
    "secrets_in",
    "secrets_of_headers",
]

MARK = "[secret]"
"""Stands where a secret was."""

SHORTEST = 8
"""Fewer characters are no secret: to hide them would garble plain words."""
# Keys by the forms that their makers document, and whatever follows a word that announces one.
_PATTERN = re.compile(
    r"""
      -----BEGIN[ ][A-Z ]*PRIVATE[ ]KEY-----.*?(?:-----END[ ][A-Z ]*PRIVATE[ ]KEY-----|\Z)
    | \bsk-[A-Za-z0-9_\-]{12,}                     # OpenAI, Anthropic, DeepSeek, OpenRouter
    | \b[rs]k_(?:live|test)_[A-Za-z0-9]{16,}       # Stripe
    | \b(?:AIza|ya29\.)[A-Za-z0-9_\-]{20,}         # Google
    | \b(?:AKIA|ASIA)[A-Z0-9]{16}\b                # AWS
    | \b(?:gsk|xai|hf|pplx|r8|nvapi|fw|tgp|jct|jk)[_\-][A-Za-z0-9_\-]{20,}
    | \bgh[pousr]_[A-Za-z0-9]{20,} | \bgithub_pat_[A-Za-z0-9_]{20,} | \bglpat-[A-Za-z0-9_\-]{16,}
    | \bxox[abeoprs]-[A-Za-z0-9\-]{10,}            # Slack
    | \beyJ[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]*   # a JSON web token
    | (?P<url>://[^\s/:@"']*:)[^\s/@"']+(?=@)      # a password in a URL
    | (?P<scheme>(?i:\b(?:bearer|basic)\s+))(?=\S*\d)[A-Za-z0-9._~+/=\-]{12,}
    | (?P<word>(?i:(?:api[-_ ]?key|secret|password|passwd|token|authorization)["']?\s*(?:[:=]|provided:)\s*["']?))
      (?!\[)[^\s"',;]{8,}
    """,
    re.VERBOSE | re.DOTALL,
)

_CREDENTIAL = re.compile(r"auth|key|token|secret|cookie|pass|pwd|credential|signature|session", re.IGNORECASE)
# Words and short numbers, as of names, versions, dates, regions, media types and addresses. A made key mixes the two
# more closely, and a phrase to remember has blanks.
_PART = r"(?:[A-Z]?[a-z]+[0-9]{0,4}|[A-Z]+[0-9]{0,4}|[0-9]{1,4}[a-z]?)"
_PLAIN = re.compile(rf"{_PART}(?:[\-_.,:;/+*]+{_PART})*")


class Secrets:
    """Replaces secrets in text. `known` are values that are hidden whatever they look like."""

    def __init__(self, known: Iterable[str] = ()) -> None:
        self.known = sorted({value for value in known if len(value) >= SHORTEST}, key=len, reverse=True)
        self._raw = [value.encode() for value in self.known]

    def hide(self, text: str, own: Iterable[str] = ()) -> str:
        """The text with a mark for every secret; `own` are further known ones."""
        for value in (*own, *self.known):
            if len(value) >= SHORTEST and value in text:
                text = text.replace(value, MARK)
        return _PATTERN.sub(_marked, text)

    def known_in(self, data: bytes) -> bool:
        """Whether a known secret stands in these bytes."""
        return any(value in data for value in self._raw)


def _marked(match: re.Match[str]) -> str:
    """The mark; the word that announces a secret stays, so that the line can still be understood."""
    return (match["url"] or match["scheme"] or match["word"] or "") + MARK


def secrets_in(value: Any) -> Iterator[str]:
    """Every `SecretStr` within settings: models, lists and dictionaries, however deep."""
    if isinstance(value, SecretStr):
        yield from _with_credential(value.get_secret_value())
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from secrets_in(getattr(value, name))
    elif isinstance(value, dict):
        for child in value.values():
            yield from secrets_in(child)
    elif isinstance(value, (list, tuple, set, frozenset)):
        for child in value:
            yield from secrets_in(child)


class FromEnvironment(str):
    """A text of the configuration that an environment variable gave, as long as nothing has made another one of it."""

    __slots__ = ()


def _is_secret(name: str, value: str) -> bool:
    """Every header is, but a plain value (`anthropic`, `2023-06-01`) that the file itself has under a plain name."""
    return isinstance(value, FromEnvironment) or bool(_CREDENTIAL.search(name)) or not _PLAIN.fullmatch(value)


def _with_credential(value: str) -> Iterator[str]:
    """The value; and what follows a scheme (`Bearer …`), which is secret for itself as well."""
    yield value
    scheme, _, rest = value.partition(" ")
    if rest and scheme.lower() in ("bearer", "basic", "token"):
        yield rest.strip()


def secrets_of_headers(headers: Mapping[str, str]) -> Iterator[str]:
    """What of the headers of a target is secret."""
    for name, value in headers.items():
        if _is_secret(name, value):
            yield from _with_credential(value)


def _closed(headers: object) -> object:
    if not isinstance(headers, dict):
        return headers
    for name, value in headers.items():
        if not isinstance(value, (str, SecretStr)):
            raise ValueError(f"{name}: is not a text; put the value in quotes")  # noqa: TRY004 (pydantic takes no other)
    return {
        name: SecretStr(value) if isinstance(value, str) and _is_secret(str(name), value) else value
        for name, value in headers.items()
    }


Headers = Annotated[dict[str, str | SecretStr], BeforeValidator(_closed)]
"""A setting: headers to be sent, the secret ones closed. `opened` gives their values."""


def opened(headers: Mapping[str, str | SecretStr]) -> dict[str, str]:
    """The headers as they are sent."""
    return {name: value if isinstance(value, str) else value.get_secret_value() for name, value in headers.items()}


def hide_in_log(secrets: Iterable[str]) -> None:
    """Have the log hide these values as well, from now on; for the handlers that have a `SafeFormatter`."""
    known = Secrets(secrets)
    for handler in logging.getLogger().handlers:
        if isinstance(handler.formatter, SafeFormatter):
            handler.formatter.secrets = known


class SafeFormatter(logging.Formatter):
    """A log line, with its traceback, without secrets: a provider or a library may quote a key in an error's text."""

    def __init__(self, format: str) -> None:  # noqa: A002
        super().__init__(format)
        self.secrets = Secrets()

    def format(self, record: logging.LogRecord) -> str:
        return self.secrets.hide(super().format(record))
