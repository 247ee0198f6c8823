"""What kind of task a request is, from its words and shape: no model, a few dozen microseconds, and it says why.

An instruction stands at the beginning or at the end of a prompt; only those are read word by word. The middle, which is
mostly material, is only looked at for code. Each feature found adds its weight to a task; the confidence is the best
task's part of all weight, with a constant for what was not seen.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from junctor import Request

__all__ = ["TASKS", "Task", "classify", "last_words"]

TASKS = (
    "classification",
    "extraction",
    "summarising",
    "translation",
    "code",
    "reasoning",
    "writing",
    "chat",
    "embedding",
)
_HEAD, _TAIL, _SYSTEM, _MIDDLE = 500, 300, 500, 6000
_EARLY = 10  # words: where an instruction begins
_UNSEEN = 0.8

# Word stems by task and weight, in English, German, French and Spanish. A word counts if it begins with a stem; a stem
# of three letters or less must be the whole word.
_STEMS: dict[str, str] = {
    "classification": (
        "classif:3 categor:2.5 sentiment:3 label:2 tag:1 spam:2.5 intent:2 triage:2.5 moderat:1.5 rate:1 "
        "toxic:2 klassifi:3 kategor:2.5 einordn:2.5 ordne:2 einstuf:2 bewerte:1 stimmung:2 catégor:2.5 "
        "classe:2 clasific:3 categoría:2.5 sentimiento:3 etiquet:2 urgency:1.5 assign:1.5 route:1 positive:1 "
        "negative:1 neutral:1"
    ),
    "extraction": (
        "extract:3 parse:1.5 pull:1.5 fields:2 entities:2.5 json:1.5 invoice:1 named:0.7 identify:1 "
        "populate:1.5 extrahier:3 entnimm:2.5 entnehm:2.5 felder:2 auslesen:2.5 lies:1 extrai:3 extrae:3 "
        "champs:2 campos:2 find:0.7 list:0.7 csv:0.7 table:0.5 values:0.8 mentioned:1.2 appear:0.7 liste:0.7 "
        "nenne:0.5 relève:2 key-value:2"
    ),
    "summarising": (
        "summar:3 summaris:3 tldr:3 condense:2.5 shorten:2 recap:2.5 digest:1.5 abstract:1 gist:2.5 "
        "highlights:1.5 takeaway:2.5 boil:1 zusammenfass:3 fasse:2.5 kürze:2 stichpunkt:1.5 kernaussage:2.5 "
        "résum:3 synthèse:2 synthétis:2.5 resum:3 sintetiz:2.5 minutes:0.7 brief:0.6 bullet:1 bullets:1 "
        "key:0.3 points:0.6 paragraph:0.3"
    ),
    "translation": (
        "translat:3.5 übersetz:3.5 tradui:3.5 traduc:3.5 traduz:3.5 localiz:1.5 localis:1.5 german:0.8 "
        "french:0.8 spanish:0.8 english:0.5 japanese:0.8 italian:0.8 portuguese:0.8 chinese:0.8 korean:0.8 "
        "polish:0.5 dutch:0.8 deutsch:0.8 englisch:0.8 französisch:0.8 spanisch:0.8 anglais:0.8 allemand:0.8 "
        "espagnol:0.8 inglés:0.8 alemán:0.8 francés:0.8"
    ),
    "code": (
        "code:2 function:1.5 python:2 javascript:2 typescript:2 rust:1.5 golang:2 java:1.5 sql:2 bug:2 "
        "debug:2.5 refactor:3 compile:2 compiler:2 unittest:2.5 pytest:2.5 regex:2 regexp:2 script:1.5 bash:2 "
        "api:0.8 class:0.5 method:0.7 stacktrace:2.5 traceback:2.5 exception:1.5 implement:1.5 algorithm:1 "
        "endpoint:1 query:0.8 repository:1 git:1.5 docker:1.5 dockerfile:2 kubernetes:1.5 yaml:1 react:1.5 "
        "css:1.5 html:1.5 funktion:1.5 skript:1.5 programm:1.2 fonction:1.5 función:1.5 programa:1 código:2 "
        "terraform:2 segfault:2.5 nullpointer:2.5 loop:0.8 test:0.5 tests:1 database:0.5 postgres:1 async:1 "
        "thread:0.6 shell:1.2"
    ),
    "reasoning": (
        "prove:2.5 proof:2.5 derive:2 solve:2 calculat:2 comput:1 probabil:2 equation:2 integral:2 "
        "theorem:2.5 logic:1.5 puzzle:2.5 riddle:2.5 step-by-step:1.5 deduce:2.5 optimal:1.5 minim:0.8 "
        "maxim:0.8 how-many:1 percent:0.6 beweis:2.5 berechne:2 löse:2 gleichung:2 wahrscheinlich:2 "
        "rätsel:2.5 calcul:2 démontr:2.5 prouve:2.5 résou:2 resuelv:2 demuestr:2.5 probabilidad:2 "
        "trade-off:1.2 tradeoff:1.2 schedule:0.6 strategy:0.7 diagnos:1 infer:1.2 constraint:1 consistent:0.6 "
        "contradict:1.5 interest:0.4 average:0.8 train:0.3 speed:0.5 travels:1"
    ),
    "writing": (
        "write:0.8 draft:2.5 compose:2 poem:3 story:2 essay:2.5 email:1 letter:1.5 slogan:2.5 tagline:2.5 "
        "blog:2 rewrite:2 rephrase:2 reword:2 proofread:2 tone:1 headline:1.5 caption:1.5 haiku:3 lyrics:2.5 "
        "speech:1.5 schreib:1 verfass:2.5 gedicht:3 geschichte:1.5 brief:0.5 entwurf:2 formulier:2 rédige:2.5 "
        "poème:3 lettre:1.5 histoire:1.5 écri:1 redact:2 poema:3 carta:1.5 escrib:1 cuento:2 newsletter:1.5 "
        "announcement:1.5 advert:1.5 marketing:0.7 post:0.6 linkedin:1 polish:1.2 toast:1 limerick:3 "
        "ausformulier:2 stellenanzeige:2"
    ),
    "chat": (
        "hello:2 hi:2 hey:2 thanks:2 thank:1.5 hallo:2 danke:2 bonjour:2 salut:2 merci:2 hola:2 gracias:2 "
        "recommend:1 advice:1 opinion:1 feel:0.8 chat:1 joke:1 favourite:1 favorite:1 weekend:1 weather:1 "
        "think:0.5 what:0.4 who:0.5 where:0.5 when:0.3 why:0.5 was:0.3 wer:0.5 wo:0.5 warum:0.5 qui:0.3 "
        "où:0.5 pourquoi:0.5 qué:0.4 quién:0.5 dónde:0.5 explain:0.6 erklär:0.6 tell:0.6 bored:1.5 morning:1 "
        "help:0.4 suggest:0.8 capital:1"
    ),
}
# Turns of phrase that say more than their words.
_PHRASES: tuple[tuple[str, str, float], ...] = (
    (r"one of (?:the following|these)", "classification", 2.5),
    (r"(?:which|what) (?:category|class|label|type of)|best (?:fits|describes)", "classification", 2.5),
    (
        r"(?:answer|reply|respond)(?: only)? (?:with )?(?:yes or no|true or false|one word|a single word)",
        "classification",
        2.5,
    ),
    (r"(?:is|are) (?:this|the following|these)\b[^.?\n]{0,60}\bor\b", "classification", 1.5),
    (
        r"in (?:one|a few|two|three|five|\d+) (?:sentences?|bullets?|bullet points|words)|in (?:einem|"
        r"zwei|drei) sätzen",
        "summarising",
        1.5,
    ),
    (
        r"tl;?dr|main (?:points|ideas)|key (?:points|takeaways)|executive summary|the short version",
        "summarising",
        3.0,
    ),
    (
        r"(?:all|every|any) (?:the )?(?:dates|names|e-?mails|addresses|amounts|people|companies|"
        r"phone numbers|prices)",
        "extraction",
        2.5,
    ),
    (r"(?:as|into|in|return|output|gib)[^.\n]{0,20} json\b|fill (?:in|out) the", "extraction", 1.5),
    (
        r"(?:in|into|to|ins|auf|en|al) (?:german|french|spanish|english|italian|japanese|chinese|"
        r"portuguese|dutch|polish|korean|deutsche?|englische?|französische?|anglais|allemand|espagnol|"
        r"français|inglés|alemán|español)\b",
        "translation",
        1.5,
    ),
    (r"how (?:do|would) you say|what does [^?\n]{1,60} mean in", "translation", 3.0),
    (
        r"step by step|schritt für schritt|étape par étape|paso a paso|show your (?:work|reasoning)|"
        r"think carefully",
        "reasoning",
        2.5,
    ),
    (
        r"how (?:many|much|long|far|old|fast) |wie (?:viele?|lange|weit|alt) |combien |cuántos? ",
        "reasoning",
        1.2,
    ),
    (r"what is the (?:probability|chance|expected|minimum|maximum|remainder|sum|area)", "reasoning", 2.5),
    (
        r"\b(?:stack ?trace|unit tests?|pull request|command line|null pointer|type error|"
        r"off[- ]by[- ]one|time complexity)\b",
        "code",
        2.5,
    ),
    (
        r"(?:write|schreibe?) (?:me |mir )?(?:a|an|the|ein|eine|einen) [^.\n]{0,40}(?:poem|story|letter|"
        r"e-?mail|post|essay|speech|toast|song|gedicht|brief)",
        "writing",
        2.5,
    ),
    (r"make (?:it|this) (?:sound )?(?:more|less) \w+|improve (?:the )?(?:wording|style|text)", "writing", 2.0),
    (
        r"how are you|wie geht|comment (?:ça va|vas)|cómo est[aá]s|tell me (?:a joke|about yourself)|"
        r"what should i|nice to meet",
        "chat",
        2.5,
    ),
)
_WORD = re.compile(r"[^\W\d_]+(?:-[^\W\d_]+)*")
# Each is only tried when its literal is there: a search over kilobytes must not try at every letter.
_CODE = tuple(
    (literal, re.compile(regex))
    for literal, regex in (
        (
            "\n",
            r"\n[ \t]*(?:def|class|import|from|return|if|for|while|fn|func|let|const|var|public|private|#include)"
            r"\b[^.\n]*[:;{(=]",
        ),
        (";\n", r";\n"),
        ("{\n", r"\{\n"),
        ("=>", r"=>"),
        ("#!/", r"#!/"),
        ("SELECT ", r"SELECT\s.{1,80}\sFROM\s"),
        ("::", r"::\w+\("),
    )
)
_TRACES = (
    "Traceback (most recent",
    "Exception in thread",
    "panicked at",
    "Error: ",
    "Exception: ",
    "error[E0",
    "core dumped",
)
_MATHS = re.compile(r"\d\s*[+*/^×÷=]\s*[\dx(]")
_FORMULAE = ("\\frac", "\\int", "\\sum", "\\sqrt", "x^", "n^", "√", "∑", "∫", " mod ")


@dataclass(frozen=True, slots=True)
class Task:
    """A task's name, the confidence (0 to 1), who says so (`header`, `classifier`, `operation`), and why."""

    name: str
    confidence: float
    source: str
    because: tuple[str, ...] = ()

    def fact(self) -> dict[str, Any]:
        """As `exchange.facts["task"]` has it."""
        found = {"name": self.name, "confidence": round(self.confidence, 3), "source": self.source}
        return {**found, "because": list(self.because)} if self.because else found


class _Index:
    """The stems by their first four letters, built once."""

    def __init__(self) -> None:
        self.by_start: dict[str, list[tuple[str, str, float]]] = {}
        self.short: dict[str, list[tuple[str, float]]] = {}
        for task, line in _STEMS.items():
            for entry in line.split():
                stem, _, weight = entry.rpartition(":")
                if len(stem) < 4:
                    self.short.setdefault(stem, []).append((task, float(weight)))
                else:
                    self.by_start.setdefault(stem[:4], []).append((stem, task, float(weight)))
        self.phrases = [(re.compile(regex), task, weight) for regex, task, weight in _PHRASES]

    def weights(self, word: str) -> list[tuple[str, float]]:
        found = [(task, weight) for stem, task, weight in self.by_start.get(word[:4], ()) if word.startswith(stem)]
        return found + self.short.get(word, [])


_INDEX = _Index()


def classify(request: Request) -> Task:
    """The task of a request, from its own words and shape."""
    if request.operation == "embeddings":
        return Task("embedding", 1.0, "operation")
    system, user = _texts(request.body)
    scores = dict.fromkeys(TASKS[:-1], 0.0)
    scores["chat"] = 0.6
    because: dict[str, list[tuple[float, str]]] = {}

    def found(task: str, weight: float, why: str) -> None:
        scores[task] += weight
        because.setdefault(task, []).append((weight, why))

    for words, factor in _windows(system, user):
        _read(words, factor, found)
    _shape(request.body, user, found)
    best = max(scores, key=scores.__getitem__)
    confidence = scores[best] / (sum(scores.values()) + _UNSEEN)
    reasons = sorted(because.get(best, []), reverse=True)[:4]
    return Task(best, confidence, "classifier", tuple(dict.fromkeys(why for _, why in reasons)))


def _windows(system: str, user: str) -> list[tuple[str, float]]:
    """The stretches of text where instructions stand, and how much they count."""
    parts = [(system[:_SYSTEM], 0.8)] if system else []
    if len(user) <= _HEAD + _TAIL:
        return [*parts, (user, 1.0)]
    return [*parts, (user[:_HEAD], 1.0), (user[-_TAIL:], 0.9)]


def _read(text: str, factor: float, found: Any) -> None:
    text = text.lower()
    seen: set[str] = set()
    for place, word in enumerate(_WORD.findall(text)):
        if word in seen:
            continue
        seen.add(word)
        for task, weight in _INDEX.weights(word):
            # An instruction begins with its verb; later on the same word may be part of the material.
            found(task, weight * factor * (1.0 if place < _EARLY else 0.5), word)
    for regex, task, weight in _INDEX.phrases:
        if match := regex.search(text):
            found(task, weight * factor, match[0].strip()[:40])


def _shape(body: Mapping[str, Any], user: str, found: Any) -> None:
    form = body.get("response_format")
    kind = form.get("type") if isinstance(form, dict) else None
    if kind == "json_schema":
        enum = '"enum"' in str(form).replace("'", '"')
        found("classification" if enum else "extraction", 1.5, "schema with an enum" if enum else "json schema")
    elif kind == "json_object":
        found("extraction", 1.0, "json object")
    limit = body.get("max_completion_tokens") or body.get("max_tokens")
    if isinstance(limit, int) and limit <= 16:
        found("classification", 1.5, "very short answer")
    if body.get("reasoning_effort") in ("medium", "high"):
        found("reasoning", 1.0, "reasoning effort")
    middle = user[:_MIDDLE]
    if "```" in middle:
        found("code", 2.0, "code fence")
    if lines := sum(len(regex.findall(middle)) for literal, regex in _CODE if literal in middle):
        found("code", min(3.0, 0.75 * lines), f"{lines} signs of code")
    if trace := next((sign for sign in _TRACES if sign in middle), None):
        found("code", 2.5, trace.strip())
    if formula := next((sign for sign in _FORMULAE if sign in middle), None):
        found("reasoning", 1.0, formula.strip())
    elif maths := _MATHS.search(middle):
        found("reasoning", 1.0, maths[0])
    if len(user) < 40:
        found("chat", 0.4, "short")


def _texts(body: Mapping[str, Any]) -> tuple[str, str]:
    """The system prompt and the last message of the user; of a completion, its prompt."""
    messages = body.get("messages")
    if not isinstance(messages, list):
        prompt = body.get("prompt") or body.get("input") or ""
        return str(body.get("system") or body.get("instructions") or ""), prompt if isinstance(prompt, str) else str(
            prompt
        )
    system = _content(body.get("system"))
    user = ""
    for message in messages:
        if not isinstance(message, dict):
            continue
        if message.get("role") in ("system", "developer"):
            system = system or _content(message.get("content"))
        elif message.get("role") == "user":
            user = _content(message.get("content")) or user
    return system, user


def last_words(body: Mapping[str, Any]) -> str:
    """The user's last message, or the prompt."""
    return _texts(body)[1]


def _content(content: Any) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    return "\n".join(
        str(part["text"]) for part in content if isinstance(part, dict) and isinstance(part.get("text"), str)
    )
