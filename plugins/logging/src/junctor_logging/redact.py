"""Takes secrets out of text, always, and personal data by choice."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

__all__ = ["Redactor"]

_MARK = "[secret]"
# Keys by the forms that their makers document, and whatever follows a word that announces one.
_SECRETS = re.compile(
    r"""
      -----BEGIN[ ][A-Z ]*PRIVATE[ ]KEY-----.*?(?:-----END[ ][A-Z ]*PRIVATE[ ]KEY-----|\Z)
    | \bsk-[A-Za-z0-9_\-]{12,}                     # OpenAI, Anthropic, DeepSeek, OpenRouter
    | \bsk_(?:live|test)_[A-Za-z0-9]{16,}          # Stripe
    | \b(?:AIza|ya29\.)[A-Za-z0-9_\-]{20,}         # Google
    | \b(?:AKIA|ASIA)[A-Z0-9]{16}\b                # AWS
    | \b(?:gsk|xai|hf|pplx|r8|nvapi|fw|tgp_v1|key|jct|jk)[_-][A-Za-z0-9_\-]{20,}
    | \bgh[pousr]_[A-Za-z0-9]{20,} | \bgithub_pat_[A-Za-z0-9_]{20,} | \bglpat-[A-Za-z0-9_\-]{16,}
    | \bxox[abeoprs]-[A-Za-z0-9\-]{10,}            # Slack
    | \beyJ[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]*   # a JSON web token
    | (?<=://)[^\s/:@"']*:[^\s/@"']+(?=@)          # user and password in a URL
    | (?i:\b(?:bearer|basic)\s+)(?=\S*\d)[A-Za-z0-9._~+/=\-]{12,}
    | (?i:(?:api[-_ ]?key|secret|password|passwd|token|authorization)["']?\s*(?:[:=]|provided:)\s*["']?)
      (?!\[)[^\s"',;]{8,}
    """,
    re.VERBOSE | re.DOTALL,
)
_HINT = re.compile(
    r"sk[-_]|AIza|ya29|AKIA|ASIA|_|-|eyJ|://|bearer|basic|key|secret|passw|token|authorization|PRIVATE", re.IGNORECASE
)
_EMAIL = re.compile(r"\b[A-Za-z0-9._%+\-]{1,64}@(?:[A-Za-z0-9\-]{1,63}\.){1,8}[A-Za-z]{2,24}\b")
_DIGITS = re.compile(r"(?<![\w.])\d(?:[ \-]?\d){12,18}(?![\w])")
_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b")
_PHONE = re.compile(r"(?<![\w.+])(?:\+|00)\d[\d \-./()]{6,18}\d\b|(?<![\w.])\(?0\d{1,4}\)?[ \-/]\d[\d \-/]{4,12}\d\b|"
                    r"(?<![\w.])\(?\d{3}\)?[ \-.]\d{3}[ \-.]\d{4}\b")


def _card(match: re.Match[str]) -> str:
    digits = [int(char) for char in match[0] if char.isdigit()]
    total = sum(d if place % 2 == 0 else sum(divmod(2 * d, 10)) for place, d in enumerate(reversed(digits)))
    return "[card]" if total % 10 == 0 else match[0]


def _iban(match: re.Match[str]) -> str:
    text = match[0].replace(" ", "")
    # ISO 13616: the first four characters go to the end, letters count from 10; the remainder modulo 97 is 1.
    return "[iban]" if int("".join(str(int(char, 36)) for char in text[4:] + text[:4])) % 97 == 1 else match[0]


_PERSONAL: dict[str, tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]] = {
    "email": (_EMAIL, "[email]"),
    "iban": (_IBAN, _iban),
    "card": (_DIGITS, _card),
    "phone": (_PHONE, "[phone]"),
}


class Redactor:
    """`known` are the secrets of the configuration, found whatever they look like."""

    def __init__(self, known: Iterable[str] = ()) -> None:
        values = sorted({value for value in known if len(value) >= 8}, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, values))) if values else None
        self._raw = [value.encode() for value in values]

    def betrayed(self, line: bytes) -> bool:
        """Whether a secret of the configuration stands in this line."""
        return any(value in line for value in self._raw)

    def secrets(self, text: str, own: Sequence[str] = ()) -> str:
        """The text with every secret replaced; `own` are further ones, such as the key that a request came with."""
        for value in own:
            if len(value) >= 8:
                text = text.replace(value, _MARK)
        if self._known is not None:
            text = self._known.sub(_MARK, text)
        return _SECRETS.sub(_announced, text) if _HINT.search(text) else text

    def personal(self, text: str, kinds: Sequence[str]) -> str:
        """The text with personal data of these kinds replaced: `email`, `iban`, `card`, `phone`."""
        for kind, (pattern, replacement) in _PERSONAL.items():
            if kind in kinds:
                text = pattern.sub(replacement, text)
        return text

    def clean(self, value: Any, kinds: Sequence[str], own: Sequence[str] = ()) -> Any:
        """The same for every text within a JSON value."""
        if isinstance(value, str):
            return self.personal(self.secrets(value, own), kinds)
        if isinstance(value, dict):
            return {self.secrets(str(key)): self.clean(child, kinds, own) for key, child in value.items()}
        return [self.clean(child, kinds, own) for child in value] if isinstance(value, list) else value


def _announced(match: re.Match[str]) -> str:
    """The mark; a word that announces the secret stays, so that the line can still be understood."""
    head = re.match(r"(?i:(?:bearer|basic)\s+|(?:api[-_ ]?key|secret|password|passwd|token|authorization)[^\w]*"
                    r"(?:is|provided:)?\s*[\"']?)", match[0])
    return (head[0] if head else "") + _MARK
