"""Closed word classes of English, and what stands for what; read from `english.txt` once, at import."""

from __future__ import annotations

from importlib import resources

__all__ = [
    "AUXILIARIES",
    "FUNCTION",
    "HOW",
    "NEGATIONS",
    "NUMBER_WORDS",
    "ORDER",
    "PASSIVE",
    "SCOPE",
    "SYMMETRIC",
    "SYNONYMS",
    "UNITS",
    "VOLATILE",
    "WH",
    "WHAT",
    "opposite",
    "stem",
]

_ENDINGS = (("ies", "y"), ("sses", "ss"), ("ing", ""), ("edly", ""), ("ed", ""), ("es", ""), ("ly", ""), ("s", ""))
_PREFIXES = ("un", "in", "im", "ir", "il", "dis", "non", "non-", "mis", "de", "anti", "anti-", "self-")


def stem(word: str) -> str:
    """Cut the commonest endings; both sides of a comparison are cut alike, so it need not be a word."""
    word = word.removesuffix("'s").removesuffix("'")
    for ending, replacement in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= 3 and not word.endswith(("ss", "us")):
            word = word[: len(word) - len(ending)] + replacement
            break
    if len(word) > 3 and word[-1] == word[-2] and word[-1] not in "lsz":
        word = word[:-1]
    return word.removesuffix("e") if len(word) > 3 else word


def _sections() -> dict[str, list[list[str]]]:
    found: dict[str, list[list[str]]] = {}
    for line in resources.files(__package__).joinpath("english.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            found[line[1:-1]] = []
        elif line and not line.startswith("#"):
            found[next(reversed(found))].append(line.split())
    return found


_READ = _sections()


def _words(name: str) -> frozenset[str]:
    return frozenset(word for line in _READ[name] for word in line)


def _groups(name: str) -> dict[str, str]:
    return {word: line[0] for line in _READ[name] for word in line}


def _values(name: str) -> dict[str, str]:
    pairs = (pair.partition("=") for line in _READ[name] for pair in line)
    return {word: value.replace("_", " ") for word, _, value in pairs}


FUNCTION = _words("function")
NEGATIONS = _words("negations")
AUXILIARIES = _words("auxiliaries")
PASSIVE = _words("passive")
SYMMETRIC = _words("symmetric")
VOLATILE = _words("volatile")
NUMBER_WORDS = _values("numbers")
UNITS = _groups("units")
SCOPE = _groups("scope")
ORDER = _groups("order")
SYNONYMS = _groups("synonyms")
WH = _values("question")
HOW = _values("how")
WHAT = _values("what")
_PAIRS = frozenset(frozenset(map(stem, pair.split("/"))) for line in _READ["opposites"] for pair in line)


def opposite(one: str, other: str) -> bool:
    """Tell whether two words are opposites, by list or by prefix."""
    if frozenset((stem(one), stem(other))) in _PAIRS:
        return True
    short, long = sorted((one, other), key=len)
    if len(short) > 3 and any(long == prefix + short for prefix in _PREFIXES):
        return True
    return len(short) > 4 and short.endswith("ful") and long == short[:-3] + "less"
