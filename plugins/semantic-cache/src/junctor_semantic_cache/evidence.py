"""Lexical evidence that two texts want the same answer, or do not: what a sentence vector blurs.

`parse` reads a text once; `compare` puts two of them side by side and gives numbers for the logistic model; `veto`
names the evidence that is certain. English word lists are small on purpose: closed classes (negation,
quantities, order, question words) and common opposites. A text in another language gives little evidence, and the
model then knows less.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from junctor_semantic_cache.words import (
    AUXILIARIES,
    FUNCTION,
    HOW,
    NEGATIONS,
    NUMBER_WORDS,
    ORDER,
    PASSIVE,
    SCOPE,
    SYMMETRIC,
    SYNONYMS,
    UNITS,
    WH,
    WHAT,
    opposite,
    stem,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["FEATURES", "Text", "compare", "normalise", "parse", "veto"]

_WORD = re.compile(r"[^\W_]+(?:['’.&/+#-][^\W_]+)*(?:\+\+|#)?|[£$€¥%°=<>]")
_NUMBER = re.compile(r"(?<![\w.])\d[\d,]*(?:[.:/]\d+)*(?:(st|nd|rd|th|am|pm|k|m|bn)\b)?", re.I)
_EXACT = re.compile(
    r"```.*?```|`[^`]+`|\"[^\"]{2,}\"|“[^”]{2,}”|https?://\S+|[\w.+-]+@[\w-]+\.\w+|\b[A-Z]{1,5}-?\d[\w-]*\b", re.S
)
_SPACE = re.compile(r"\s+")
_LETTERS = re.compile(r"[^\W\d_]+")
_END = re.compile(r"\s*[.?!…]+$")
_PUNCTUATION = re.compile(r"\s+([,.;:?!])")

FEATURES = (
    "cosine",
    "near",
    "overlap",
    "added",
    "dropped",
    "replaced",
    "one_word",
    "inverted",
    "roles",
    "numbers",
    "number_extra",
    "names",
    "name_extra",
    "negation",
    "opposite",
    "scope",
    "question",
    "sequence",
    "exact",
    "length",
    "permuted",
    "clean",
)
_ROLES = frozenset(
    {"from", "to", "by", "into", "before", "after", "than", "with", "without", "for", "against", "over", "under"}
)
_SUFFIX = {"k": 1e3, "m": 1e6, "bn": 1e9}


@dataclass(frozen=True, slots=True)
class Text:
    """What is compared of a text.

    `stems` are the content words in order, `clauses` the places in it where a comma stands, `names` the capitalised
    words and acronyms, `roles` each content word's preposition.
    """

    normal: str
    words: frozenset[str]
    length: int
    stems: tuple[str, ...]
    clauses: tuple[int, ...]
    roles: frozenset[tuple[str, str]]
    numbers: tuple[str, ...]
    units: frozenset[str]
    names: frozenset[str]
    exact: tuple[str, ...]
    negations: int
    scope: frozenset[str]
    order: frozenset[str]
    question: str
    passive: bool
    symmetric: bool


def normalise(text: str) -> str:
    """The text without differences that no answer depends on: white space, case, the closing punctuation.

    IT and US keep their case, or they would be "it" and "us".
    """
    text = _END.sub("", _PUNCTUATION.sub(r"\1", _SPACE.sub(" ", text).strip()))
    if text.isupper():
        return text.casefold()
    return _LETTERS.sub(lambda found: found[0] if _is_trade(found[0]) else found[0].casefold(), text)


def _is_trade(word: str) -> bool:
    """IT is a trade and US a country; "it" and "us" are nothing."""
    return len(word) > 1 and word.isupper() and word.lower() in FUNCTION


def parse(text: str) -> Text:
    """Read a text once."""
    text = text.replace("’", "'")
    raw = _WORD.findall(text)
    words = [word.lower() for word in raw]
    stems, clauses, roles = _content(text)
    return Text(
        normal=normalise(text),
        words=frozenset(words),
        length=len(words),
        stems=stems,
        clauses=clauses,
        roles=roles,
        numbers=tuple(sorted(_numbers(text, words))),
        units=frozenset(UNITS[w] for w in words if w in UNITS),
        names=frozenset(_names(raw)),
        exact=tuple(sorted(m.strip('`"“” ') for m in _EXACT.findall(text))),
        negations=sum(w in NEGATIONS or w.endswith("n't") for w in words),
        scope=frozenset(SCOPE[w] for w in words if w in SCOPE),
        order=frozenset(ORDER[w] for w in words if w in ORDER),
        question=_question(words),
        passive="by" in words and not PASSIVE.isdisjoint(words),
        symmetric=not SYMMETRIC.isdisjoint(words),
    )


def _content(text: str) -> tuple[tuple[str, ...], tuple[int, ...], frozenset[tuple[str, str]]]:
    stems: list[str] = []
    clauses: list[int] = []
    roles: set[tuple[str, str]] = set()
    preposition = ""
    shouted = text.isupper()
    for clause in text.split(","):
        for raw in _WORD.findall(clause):
            word = f"={raw}" if not shouted and _is_trade(raw) else raw.lower()
            if word in _ROLES:
                preposition = word
            elif word not in FUNCTION and not word[0].isdigit() and word not in NUMBER_WORDS:
                stems.append(_base(word))
                if preposition:
                    roles.add((stems[-1], preposition))
                preposition = ""
        clauses.append(len(stems))
    return tuple(stems), tuple(clauses[:-1]), frozenset(roles)


def _base(word: str) -> str:
    root = stem(word)
    return SYNONYMS.get(word) or SYNONYMS.get(root) or root


def _numbers(text: str, words: Sequence[str]) -> list[str]:
    found = []
    for match in _NUMBER.finditer(text):
        digits, suffix = match[0].replace(",", ""), (match[1] or "").lower()
        digits = digits[: len(digits) - len(suffix)]
        if suffix in _SUFFIX and "." not in digits and ":" not in digits and "/" not in digits:
            digits, suffix = str(int(int(digits) * _SUFFIX[suffix])), ""
        found.append(digits + (suffix if suffix in ("am", "pm") else ""))
    return found + [NUMBER_WORDS[w] for w in words if w in NUMBER_WORDS]


def _names(raw: Sequence[str]) -> list[str]:
    """Capitalised words that do not open the text, and acronyms anywhere."""
    names = []
    for place, word in enumerate(raw):
        acronym = len(word) > 1 and word.isupper() and word.isalpha()
        inside = place > 0 and word[0].isupper() and word != "I" and not word.startswith("I'")
        if acronym or (inside and word.lower() not in FUNCTION):
            names.append(_base(word.lower()))
    return names


def _question(words: Sequence[str]) -> str:
    """Which kind of answer is asked for: a question word, `how many`, `whether`, or nothing that can be told."""
    for place, word in enumerate(words):
        kind = WH.get(word)
        if kind == "how" and place + 1 < len(words):
            return HOW.get(words[place + 1], kind)
        if kind == "what":
            return next((WHAT[w] for w in words[place + 1 : place + 6] if w in WHAT), kind)
        if kind:
            return kind
    return "whether" if words and words[0] in AUXILIARIES else ""


def compare(asked: Text, known: Text, cosine: float) -> list[float]:
    """Numbers in the order of `FEATURES`; all but `cosine`, `near`, `overlap` and `clean` speak against a hit."""
    mine, theirs = set(asked.stems), set(known.stems)
    only, lost = _unmatched(mine - theirs, theirs - mine, asked.names | known.names)
    union = len(mine | theirs) or 1
    bare, other = asked.words - known.words, known.words - asked.words
    opposed = sum(opposite(a, b) for a in bare for b in other)
    new, gone = asked.names & only, known.names & lost
    inverted, swapped = _inverted(asked, known), _swapped(asked, known)
    negated = abs(asked.negations - known.negations)
    order, scope = len(asked.order ^ known.order), len(asked.scope ^ known.scope)
    same = not only and not lost and asked.numbers == known.numbers
    question = bool(asked.question) and bool(known.question) and asked.question != known.question
    differs = inverted or swapped or negated or opposed or order or scope or question or asked.exact != known.exact
    clean = same and not differs
    return [
        cosine,
        max(0.0, cosine - 0.9) * 10,
        1 - (len(only) + len(lost)) / union,
        float(min(3, len(only))),
        float(min(3, len(lost))),
        float(min(3, len(only), len(lost))),
        float(len(only) <= 1 and len(lost) <= 1 and bool(only or lost)),
        inverted,
        float(min(2, swapped)),
        float(bool(asked.numbers) and bool(known.numbers) and asked.numbers != known.numbers),
        float(bool(asked.numbers) != bool(known.numbers)),
        float(bool(new) and bool(gone)),
        float(bool(new) != bool(gone)),
        float(min(2, negated)),
        float(min(2, opposed)),
        float(min(3, scope)),
        float(question),
        float(min(2, order)),
        float(asked.exact != known.exact),
        abs(asked.length - known.length) / (max(asked.length, known.length) or 1),
        float(same and inverted > 0),
        max(0.0, cosine - 0.85) * 10 * clean,
    ]


def _unmatched(only: set[str], lost: set[str], names: frozenset[str]) -> tuple[set[str], set[str]]:
    """Words of one side only, without those that are a slip of the pen apart. Names are never taken for a slip."""
    for word in only - names if lost else ():
        twin = next((o for o in lost - names if _slip(word, o)), None)
        if twin is not None:
            only, lost = only - {word}, lost - {twin}
    return only, lost


def _slip(one: str, other: str) -> bool:
    """Whether two longer words differ by one letter, or by two neighbours that changed places."""
    if min(len(one), len(other)) < 5 or abs(len(one) - len(other)) > 1 or opposite(one, other):
        return False
    start = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    a, b = one[start:], other[start:]
    return a[1:] == b[1:] or a[1:] == b or a == b[1:] or (a[2:] == b[2:] and a[:2] == b[1::-1])


def _inverted(asked: Text, known: Text) -> float:
    """The share of the shared words in another order than the roles of the other text ask for.

    A clause moved to the front or the end does not count, nor what is symmetrical ("married to"); a passive turns
    the order round.
    """
    if asked.symmetric and known.symmetric:
        return 0.0
    share = min(_turned(asked, known), _turned(known, asked))
    if asked.passive == known.passive or len(set(asked.stems) & set(known.stems)) < 2:
        return share
    return 1.0 - share


def _turned(one: Text, other: Text) -> float:
    place = {word: index for index, word in enumerate(other.stems)}
    turns = (one.stems[start:] + one.stems[:start] for start in (0, *one.clauses))
    return min(_descents([place[word] for word in turn if word in place]) for turn in turns)


def _descents(places: Sequence[int]) -> float:
    if len(places) < 2:
        return 0.0
    return sum(a > b for a, b in pairwise(places)) / (len(places) - 1)


def _swapped(asked: Text, known: Text) -> int:
    """How many words stand behind another preposition: from here to there, from there to here."""
    mine, theirs = dict(asked.roles), dict(known.roles)
    return sum(mine[word] != theirs[word] for word in mine.keys() & theirs.keys())


def veto(asked: Text, known: Text) -> str | None:
    """Name the difference that makes another answer certain, or None."""
    if asked.numbers and known.numbers and asked.numbers != known.numbers:
        return "numbers"
    if asked.units and known.units and asked.units != known.units and asked.numbers and known.numbers:
        return "units"
    if asked.exact and known.exact and asked.exact != known.exact:
        return "exact text"
    return None
