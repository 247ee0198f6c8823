"""Takes secrets out of text, always, and personal data by choice."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from junctor.secrets import Secrets

    from junctor_logging.names import Names

__all__ = ["Redactor"]

_EMAIL = re.compile(r"\b[A-Za-z0-9._%+\-]{1,64}@(?:[A-Za-z0-9\-]{1,63}\.){1,8}[A-Za-z]{2,24}\b")
_DIGITS = re.compile(r"(?<![\w.])\d(?:[ \-]?\d){12,18}(?![\w])")
_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b")
_PHONE = re.compile(
    r"(?<![\w.+])(?:\+|00)\d[\d \-./()]{6,18}\d\b|(?<![\w.])\(?0\d{1,4}\)?[ \-/]\d[\d \-/]{4,12}\d\b|"
    r"(?<![\w.])\(?\d{3}\)?[ \-.]\d{3}[ \-.]\d{4}\b"
)


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
    """Secrets always, personal data by choice, in every text of a JSON value."""

    def __init__(self, secrets: Secrets, names: Names | None = None) -> None:
        self.secrets = secrets
        self._names = names

    def personal(self, text: str, kinds: Sequence[str]) -> str:
        """The text with personal data of these kinds replaced: `email`, `iban`, `card`, `phone`, `name`."""
        for kind, (pattern, replacement) in _PERSONAL.items():
            if kind in kinds:
                text = pattern.sub(replacement, text)
        return self._names.hide(text) if self._names is not None and "name" in kinds else text

    def clean(self, value: Any, kinds: Sequence[str], own: Sequence[str] = ()) -> Any:
        """A copy of the value; `own` are further secrets."""
        if isinstance(value, str):
            return self.personal(self.secrets.hide(value, own), kinds)
        if isinstance(value, dict):
            return {self.secrets.hide(str(key)): self.clean(child, kinds, own) for key, child in value.items()}
        return [self.clean(child, kinds, own) for child in value] if isinstance(value, list) else value
