"""Finds what is sensitive in a text: secrets, addresses, numbers with check digits, words.

It runs in the event loop for every request, so each search begins at a literal or at a set of characters that is rare
in prose, and whatever costs more (a check digit, a phone number's plan) is only asked about what was found that way.
"""

from __future__ import annotations

import re
from collections import Counter
from math import log2
from typing import TYPE_CHECKING, NamedTuple

import ahocorasick_rs
import phonenumbers
from stdnum import iban, luhn

from junctor_content_policy.identifiers import identifiers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from junctor_content_policy.settings import CustomSettings

    Finder = Callable[[str], Iterable[tuple[int, int]]]

__all__ = ["Finding", "Scanner"]


class Finding(NamedTuple):
    """A stretch of the text, what it is (`email`, `card`, a name of the file's), and its label."""

    start: int
    end: int
    kind: str
    label: str


# How a secret begins, and how it goes on from there. A group is the secret itself.
_SECRETS = tuple(
    (start, re.compile(regex))
    for starts, regex in (
        ("sk-", r"sk-[A-Za-z0-9_\-]{20,}"),
        ("AKIA ASIA", r"A[KS]IA[A-Z0-9]{16}(?![A-Z0-9])"),
        ("ghp_ gho_ ghu_ ghs_ ghr_", r"gh[pousr]_[A-Za-z0-9]{36,}"),
        ("github_pat_", r"github_pat_[A-Za-z0-9_]{22,}"),
        ("glpat-", r"glpat-[A-Za-z0-9_\-]{20,}"),
        ("xoxa- xoxb- xoxe- xoxo- xoxp- xoxr- xoxs-", r"xox[abeoprs]-[A-Za-z0-9\-]{10,}"),
        ("AIza", r"AIza[A-Za-z0-9_\-]{35}"),
        ("sk_live_ rk_live_ sk_test_ rk_test_", r"[rs]k_(?:live|test)_[A-Za-z0-9]{16,}"),
        ("eyJ", r"eyJ[A-Za-z0-9_\-]{8,}\.eyJ[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]{8,}"),
        ("hf_", r"hf_[A-Za-z0-9]{30,}"),
        ("npm_", r"npm_[A-Za-z0-9]{36}"),
        ("pypi-", r"pypi-[A-Za-z0-9_\-]{50,}"),
        ("SG.", r"SG\.[\w\-]{16,}\.[\w\-]{16,}"),
        ("dop_v1_", r"dop_v1_[a-f0-9]{64}"),
        ("shpat_ shpca_ shppa_ shpss_", r"shp(?:at|ca|pa|ss)_[a-fA-F0-9]{32}"),
        ("ya29.", r"ya29\.[A-Za-z0-9_\-]{30,}"),
        ("AccountKey=", r"AccountKey=([A-Za-z0-9+/=]{40,})"),
        ("hooks.slack.com/", r"hooks\.slack\.com/services/[A-Z0-9]+/[A-Z0-9]+/[A-Za-z0-9]+"),
        ("Bearer bearer", r"[Bb]earer +([A-Za-z0-9._~+/\-]{20,})"),
        ("://", r"://[^\s:/@]{1,64}:([^\s:/@]{3,256})@"),
        (
            "-----BEGIN",
            r"-----BEGIN [A-Z ]{0,20}PRIVATE KEY-----[^\x00]*?(?:-----END [A-Z ]{0,20}PRIVATE KEY-----|(?=\x00)|\Z)",
        ),
    )
    for start in starts.split()
)
# `password: …`, `API_KEY=…`: the value is a secret if it looks made by a machine, or by somebody who was told how.
_ASSIGNED = re.compile(
    r"(?:key|secret|token|password|passwd|pwd|passwort|kennwort)[\"']?[ \t]*[:=][ \t]*"
    r"[\"']?([^\s\"',;<>{}$()\x00]{8,200})",
    re.IGNORECASE,
)
_ASSIGNMENTS = ("key", "secret", "token", "passw", "pwd", "kennwort")
_NUMBERS = frozenset({"iban", "card", "national_id", "phone"})
_DIGIT = re.compile(r"[0-9]")
_LONG = 32
_RANDOM = re.compile(r"[A-Za-z0-9_\-+]{32,200}={0,2}")
_ENTROPY = 4.0  # bits a character; English words joined by hyphens have less than 3.8
_DOMAIN = re.compile(r"(?:[^\W_](?:[\w\-]{0,61}[^\W_])?\.){1,8}[^\W\d_]{2,24}")
_IBAN = re.compile(r"[A-Z][A-Z][0-9]{2}(?:[ \-]?[A-Z0-9]{4}){2,7}(?:[ \-]?[A-Z0-9]{1,3}(?![A-Za-z0-9]))?")
_CARD = re.compile(
    r"[2-6][0-9]{3}(?:[ \-]?[0-9]{4}[ \-]?[0-9]{4}[ \-]?[0-9]{1,7}|[ \-]?[0-9]{6}[ \-]?[0-9]{4,5})(?![0-9])"
)
# Which beginnings and lengths are issued (ISO/IEC 7812): Visa, Mastercard, American Express, Diners, JCB, Discover.
_PLAN = re.compile(
    r"4[0-9]{12}(?:[0-9]{3}){0,2}|5[0-9]{15}|2[2-7][0-9]{14}|3[47][0-9]{13}|3(?:0[0-5]|[68][0-9])[0-9]{11}"
    r"|35[0-9]{14}|6[0-9]{15}(?:[0-9]{3})?"
)
_ABROAD = re.compile(r"\+[(]?[1-9][0-9 ().\-/]{4,20}[0-9]")
_ABROAD_00 = re.compile(r"00[1-9][0-9 ().\-/]{6,20}[0-9]")
_HOME = re.compile(r"[0-9(][0-9 ().\-/]{5,18}[0-9]")


class Scanner:
    """Finds everything that the settings look for. Built at start-up; `scan` is safe in a thread."""

    def __init__(
        self,
        patterns: Mapping[str, str],
        *,
        countries: tuple[str, ...] = (),
        phone_regions: Sequence[str] = (),
        custom: Mapping[str, CustomSettings] | None = None,
        words: Mapping[str, tuple[str, Sequence[str], bool]] | None = None,
    ) -> None:
        """`words`: name → (label, words, ignore case). Patterns are tried in the order of `_finders`."""
        self._regions = tuple(phone_regions)
        self._identifiers = identifiers(countries) if "national_id" in patterns else []
        finders: dict[str, Finder] = {
            "secret": _Secrets().find,
            "email": _emails,
            "iban": _ibans,
            "card": _cards,
            "national_id": self._national_ids,
            "phone": self._phones,
        }
        self._finders: list[tuple[str, str, Finder]] = [
            (kind, patterns[kind], finder) for kind, finder in finders.items() if kind in patterns
        ]
        for name, pattern in (custom or {}).items():
            regex = re.compile(pattern.regex, re.IGNORECASE if pattern.ignore_case else 0)
            self._finders.append((name, pattern.label, _spans(regex)))
        for name, (label, listed, ignore_case) in (words or {}).items():
            self._finders.append((name, label, Words(listed, ignore_case=ignore_case).find))

    def scan(self, text: str) -> list[Finding]:
        """What was found, from left to right, without overlaps: what is tried first wins."""
        found: list[Finding] = []
        without_digits = _DIGIT.search(text) is None
        for kind, label, finder in self._finders:
            if without_digits and kind in _NUMBERS:
                continue
            for start, end in finder(text):
                if not any(start < other.end and end > other.start for other in found):
                    found.append(Finding(start, end, kind, label))
        found.sort()
        return found

    def _national_ids(self, text: str) -> Iterator[tuple[int, int]]:
        for _, regex, valid in self._identifiers:
            for match in regex.finditer(text):
                if _apart(text, match.start(), match.end()) and valid(match[0]):
                    yield match.span()

    def _phones(self, text: str) -> Iterator[tuple[int, int]]:
        if "+" in text:
            yield from _numbers(text, _ABROAD, None)
        if "00" in text:
            yield from _numbers(text, _ABROAD_00, None)
        for region in self._regions:
            yield from _numbers(text, _HOME, region)


def _apart(text: str, start: int, end: int) -> bool:
    """Whether the stretch is not part of a longer word or number."""
    before, after = text[start - 1] if start else " ", text[end] if end < len(text) else " "
    return not (before.isalnum() or before == "_" or after.isalnum() or after == "_")


def _spans(regex: re.Pattern[str]) -> Finder:
    return lambda text: (match.span() for match in regex.finditer(text))


class _Secrets:
    """All beginnings of secrets in one pass, then what may follow each."""

    def __init__(self) -> None:
        self._automaton = ahocorasick_rs.AhoCorasick([start for start, _ in _SECRETS])

    def find(self, text: str) -> Iterator[tuple[int, int]]:
        over = 0
        for index, start, _ in self._automaton.find_matches_as_indexes(text, overlapping=True):
            before = text[start - 1] if start else " "
            regex = _SECRETS[index][1]
            if start < over or (not regex.groups and (before.isalnum() or before in "_-.")):
                continue
            if match := regex.match(text, start):
                over = match.end()
                yield match.span(regex.groups)
        lower = text.lower()
        if any(word in lower for word in _ASSIGNMENTS) and (":" in text or "=" in text):
            for match in _ASSIGNED.finditer(text):
                if _made_up(match[1]):
                    yield match.span(1)
        yield from _random(text)


def _made_up(value: str) -> bool:
    """Not a word or a placeholder such as `required` or `your_key_here`."""
    digits, lower = any(c.isdigit() for c in value), any(c.islower() for c in value)
    upper, other = any(c.isupper() for c in value), any(not c.isalnum() and c not in "_-./:" for c in value)
    strange = digits or other or (upper and lower and not value.istitle())
    return strange and len(set(value)) >= 5 and digits + lower + upper + other >= 2


def _random(text: str) -> Iterator[tuple[int, int]]:
    """Long words that only a machine writes: upper and lower case and digits, evenly spread."""
    place = 0
    for word in text.split():
        if len(word) < _LONG:
            continue
        place = text.find(word, place)
        for match in _RANDOM.finditer(word):
            token = match[0]
            if _mixed(token) and _entropy(token) >= _ENTROPY:
                yield place + match.start(), place + match.end()
        place += len(word)


def _mixed(token: str) -> bool:
    digits = sum(c.isdigit() for c in token)
    return digits >= 3 and any(c.islower() for c in token) and any(c.isupper() for c in token)


def _entropy(token: str) -> float:
    size = len(token)
    return -sum(n / size * log2(n / size) for n in Counter(token).values())


def _emails(text: str) -> Iterator[tuple[int, int]]:
    place = text.find("@")
    while place >= 0:
        start = place
        while start > max(0, place - 64) and (text[start - 1].isalnum() or text[start - 1] in "._%+-'"):
            start -= 1
        while start < place and text[start] in ".'-":
            start += 1
        domain = _DOMAIN.match(text, place + 1)
        if domain is not None and start < place:
            yield start, domain.end()
        place = text.find("@", place + 1)


def _ibans(text: str) -> Iterator[tuple[int, int]]:
    for match in _IBAN.finditer(text):
        start = match.start()
        if start and text[start - 1].isalnum():
            continue
        end = match.end()
        # The greedy expression may have taken the next word too: give it back, group by group.
        while end - start >= 15:
            if iban.is_valid(text[start:end], check_country=False):
                if _apart(text, start, end):
                    yield start, end
                break
            space = text.rfind(" ", start, end)
            if space < 0:
                break
            end = space


def _cards(text: str) -> Iterator[tuple[int, int]]:
    for match in _CARD.finditer(text):
        digits = match[0].replace(" ", "").replace("-", "")
        if _PLAN.fullmatch(digits) and _apart(text, *match.span()) and luhn.is_valid(digits) and len(set(digits)) > 1:
            yield match.span()


def _numbers(text: str, regex: re.Pattern[str], region: str | None) -> Iterator[tuple[int, int]]:
    for match in regex.finditer(text):
        start, end = match.span()
        if start and (text[start - 1].isalnum() or text[start - 1] in "+_-./"):
            continue
        for _ in range(3):
            if _is_phone(text[start:end], region) and _apart(text, start, end):
                yield start, end
                break
            # A number may be followed by another one, such as a year.
            space = text.rfind(" ", start, end)
            if space <= start:
                break
            end = space


def _is_phone(text: str, region: str | None) -> bool:
    written = "+" + text[2:] if region is None and text.startswith("00") else text
    try:
        return phonenumbers.is_valid_number(phonenumbers.parse(written, region))
    except phonenumbers.NumberParseException:
        return False


class Words:
    """Whole words and phrases of a list, in one pass over the text however long the list is."""

    def __init__(self, words: Iterable[str], *, ignore_case: bool) -> None:
        self._fold = _folded if ignore_case else str
        listed = sorted({self._fold(word.strip()) for word in words} - {""})
        self._automaton = ahocorasick_rs.AhoCorasick(listed)

    def find(self, text: str) -> list[tuple[int, int]]:
        matches = self._automaton.find_matches_as_indexes(self._fold(text), overlapping=True)
        found = [(start, end) for _, start, end in matches if _apart(text, start, end)]
        return sorted(found, key=lambda span: (span[0], -span[1]))


def _folded(text: str) -> str:
    """Lower case with the same length: places in it are places in the text."""
    lower = text.lower()
    if len(lower) == len(text):
        return lower
    return "".join(small if len(small := c.lower()) == 1 else c for c in text)
