# ruff: noqa: E501 (the templates are read more easily one a line)
"""Makes question pairs with known answers to "do both want the same answer?", from templates written for this purpose.

A frame is one question in several phrasings, with slots. Two phrasings with the same slot values are a right pair; a slot
with another value, the opposite frame, a negation, a narrower scope, another number or swapped roles make a wrong one.
Fillers, contractions, typing slips, moved clauses and case are added to both kinds. Nothing here is taken from anywhere.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Pair", "generate"]

_HERE = Path(__file__).parent
_LINES = (_HERE / "slots.txt").read_text(encoding="utf-8").splitlines()
SLOTS = {name: values.split("|") for name, values in (line.split(": ", 1) for line in _LINES)}
# One frame a paragraph; "!" is the question with the opposite answer.
FRAMES = (_HERE / "frames.txt").read_text(encoding="utf-8")
OPENERS = (
    "Hi, ",
    "Hello! ",
    "um ",
    "so ",
    "okay so ",
    "Quick question: ",
    "Hey there, ",
    "please tell me: ",
    "Could you help me? ",
)
CLOSERS = (" thanks", " Thanks in advance!", " please", " Thank you.", " cheers", "?", "!", "", " ??")
TAILS = (
    "in {country}",
    "for beginners",
    "in {year}",
    "at home",
    "without paying",
    "on a phone",
    "for free",
    "for {who}",
    "online",
)


@dataclass(frozen=True, slots=True)
class Pair:
    """Two questions, whether one answer serves both, and what kind of pair it is."""

    one: str
    other: str
    same: bool
    kind: str


def generate(count: int, seed: int = 7) -> Iterator[Pair]:
    """Yield `count` pairs, about half of them right."""
    chance = random.Random(seed)
    frames = [_frame(block) for block in FRAMES.strip().split("\n\n")]
    makers = [_paraphrase] * 10 + [_noise] * 3 + [_slot] * 6 + [_opposite] * 5 + [_negated] * 2 + [_narrowed] * 3
    made = 0
    while made < count:
        pair = chance.choice(makers)(chance, *chance.choice(frames))
        if pair and pair.one != pair.other:
            made += 1
            yield pair


def _frame(block: str) -> tuple[list[str], list[str]]:
    asked, _, against = block.partition("\n!")
    return asked.split("|"), [q for q in against.replace("\n!", "|").split("|") if q]


def _values(chance: random.Random) -> dict[str, str]:
    values = {name: chance.choice(options) for name, options in SLOTS.items()}
    for name in ("city", "lang", "drug", "name", "account"):
        values[f"{name}2"] = chance.choice([v for v in SLOTS[name] if v != values[name]])
    return values


def _paraphrase(chance: random.Random, asked: list[str], against: list[str]) -> Pair:
    values = _values(chance)
    one, other = chance.sample(asked, 2)
    one, other = one.format_map(values), other.format_map(values)
    return Pair(one, _dress(chance, other) if chance.random() < 0.3 else other, same=True, kind="paraphrase")


def _noise(chance: random.Random, asked: list[str], against: list[str]) -> Pair:
    text = chance.choice(asked).format_map(_values(chance))
    return Pair(text, _dress(chance, text), same=True, kind="noise")


def _slot(chance: random.Random, asked: list[str], against: list[str]) -> Pair | None:
    template = chance.choice(asked)
    names = re.findall(r"{(\w+)}", template)
    if not names:
        return None
    values, name = _values(chance), chance.choice(names)
    changed = dict(values)
    while (
        changed[name] == values[name]
        or changed[name] == values.get(name.rstrip("2"))
        or changed[name] == values.get(f"{name}2")
    ):
        changed[name] = chance.choice(SLOTS[name.rstrip("2")])
    second = template if chance.random() < 0.6 else chance.choice(asked)
    other = second.format_map(changed)
    return Pair(template.format_map(values), _dress(chance, other, 0.2), same=False, kind="slot")


def _opposite(chance: random.Random, asked: list[str], against: list[str]) -> Pair:
    values = _values(chance)
    pair = [chance.choice(asked).format_map(values), _dress(chance, chance.choice(against).format_map(values), 0.2)]
    chance.shuffle(pair)
    return Pair(*pair, same=False, kind="opposite")


def _negated(chance: random.Random, asked: list[str], against: list[str]) -> Pair | None:
    text = chance.choice(asked).format_map(_values(chance))
    for word in ("can", "is", "does", "do", "should", "are", "was", "did"):
        inserted = re.sub(rf"\b{word} (I|my|the|a|it|you|\w+s)\b", rf"{word} \1 not", text, count=1, flags=re.I)
        contracted = re.sub(rf"\b{word}\b", f"{word}n't".replace("cann't", "can't"), text, count=1, flags=re.I)
        changed = inserted if chance.random() < 0.4 and inserted != text else contracted
        if changed != text:
            pair = [text, changed]
            chance.shuffle(pair)
            return Pair(*pair, same=False, kind="negation")
    return None


def _narrowed(chance: random.Random, asked: list[str], against: list[str]) -> Pair | None:
    values = _values(chance)
    one = chance.choice(asked).format_map(values)
    other = one if chance.random() < 0.7 else chance.choice(asked).format_map(values)
    tail = chance.choice(TAILS).format_map(values)
    if any(word in one.lower() or word in other.lower() for word in tail.lower().split()[-1:]):
        return None
    pair = [one, other.rstrip("?") + " " + tail + ("?" if other.endswith("?") else "")]
    chance.shuffle(pair)
    return Pair(*pair, same=False, kind="scope")


def _dress(chance: random.Random, text: str, share: float = 1.0) -> str:
    """Change what no answer depends on."""
    if chance.random() > share:
        return text
    if chance.random() < 0.4:
        text = text.replace("What is", "What's").replace("How can I", "How do I").replace("I want", "I'd like")
    if chance.random() < 0.35:
        text = chance.choice(OPENERS) + (text[0].lower() + text[1:] if not text.startswith("I ") else text)
    if chance.random() < 0.35:
        text = text.rstrip("?") + chance.choice(CLOSERS)
    if chance.random() < 0.3:
        text = text.lower()
    if chance.random() < 0.15:
        text = _slip(chance, text)
    return text


def _slip(chance: random.Random, text: str) -> str:
    places = [i for i in range(1, len(text) - 2) if text[i : i + 2].isalpha() and text[i - 1].isalpha()]
    if not places:
        return text
    at = chance.choice(places)
    return text[:at] + text[at + 1] + text[at] + text[at + 2 :] if chance.random() < 0.5 else text[:at] + text[at + 1 :]
