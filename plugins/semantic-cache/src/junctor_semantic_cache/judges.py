"""Do two answers say the same? The labels that the controller learns from."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Any, Protocol

from junctor import jsons

from junctor_semantic_cache.evidence import normalise, parse, veto

if TYPE_CHECKING:
    from junctor import Exchange, Gateway

    from junctor_semantic_cache.embedders import Embedder

__all__ = ["EmbeddingJudge", "FirstLine", "Judge", "ModelJudge", "Normalised", "answer_text", "make_judge"]

_MARKUP = re.compile(r"[*_`#>]+|^\s*[-•]\s+", re.M)


class Judge(Protocol):
    """`key` names what an answer says, where equal keys are equal answers; None: ask `same` instead."""

    def key(self, answer: str) -> str | None: ...
    async def same(self, question: str, one: str, other: str, *, parent: Exchange) -> bool: ...


class Normalised:
    """Equal but for case, white space, markup and closing punctuation. Never wrong when it says yes."""

    def key(self, answer: str) -> str:
        return _digest(normalise(_MARKUP.sub("", answer)))

    async def same(self, question: str, one: str, other: str, *, parent: Exchange) -> bool:
        return self.key(one) == self.key(other)


class FirstLine:
    """The first line that is not empty is the answer; what follows is explanation."""

    def key(self, answer: str) -> str:
        return _digest(normalise(next((line for line in answer.splitlines() if line.strip()), "")))

    async def same(self, question: str, one: str, other: str, *, parent: Exchange) -> bool:
        return self.key(one) == self.key(other)


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()


class EmbeddingJudge:
    """The answers' vectors are close and nothing in their words forbids it."""

    def __init__(self, embedder: Embedder, *, least: float = 0.9) -> None:
        self._embedder = embedder
        self._least = least

    def key(self, answer: str) -> None:
        return None

    async def same(self, question: str, one: str, other: str, *, parent: Exchange) -> bool:
        if normalise(one) == normalise(other):
            return True
        first, second = parse(one), parse(other)
        if veto(first, second) or (first.negations > 0) != (second.negations > 0):
            return False
        a, b = await self._embedder.embed(one, parent=parent), await self._embedder.embed(other, parent=parent)
        return float(a @ b) >= self._least


_ASK = """Two assistants answered the same question. Do their answers tell the reader the same, with no fact, number,
name or advice that differs? Reply with one word, yes or no.

Question:
{question}

Answer one:
{one}

Answer two:
{other}"""


class ModelJudge:
    """A model of the gateway says yes or no; its question is an exchange of its own, logged and paid for."""

    def __init__(self, gateway: Gateway, model: str, *, timeout: float = 30.0) -> None:
        self._gateway = gateway
        self._model = model
        self._timeout = timeout

    def key(self, answer: str) -> None:
        return None

    async def same(self, question: str, one: str, other: str, *, parent: Exchange) -> bool:
        if normalise(one) == normalise(other):
            return True
        text = _ASK.format(question=question[:4000], one=one[:8000], other=other[:8000])
        return await ask_yes_no(self._gateway, self._model, text, purpose="judge", parent=parent, timeout=self._timeout)


async def ask_yes_no(
    gateway: Gateway, model: str, text: str, *, purpose: str, parent: Exchange, timeout: float
) -> bool:
    """Ask a model of the gateway; whatever is not yes is no."""
    body: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": text}], "temperature": 0}
    response = await gateway.ask("chat", body, purpose=purpose, parent=parent, timeout=timeout)
    return answer_text(response.body).strip().lower().startswith("yes")


def answer_text(body: bytes) -> str:
    """The text of a whole answer, in OpenAI's or Anthropic's wire; what is neither is compared as it is."""
    answer = jsons.loads(body)
    if not isinstance(answer, dict):
        return body.decode("utf-8", "replace")
    if isinstance(answer.get("choices"), list):
        message = answer["choices"][0].get("message") or {}
        calls = [call.get("function") for call in message.get("tool_calls") or ()]
        return str(message.get("content") or "") + (jsons.dumps(calls).decode() if calls else "")
    if isinstance(answer.get("content"), list):
        return "\n".join(str(part.get("text") or "") for part in answer["content"])
    return jsons.dumps({key: value for key, value in answer.items() if key not in ("id", "created", "usage")}).decode()


def make_judge(name: str, *, gateway: Gateway, embedder: Embedder) -> Judge:
    """The judge of the configuration's `judge`."""
    if name == "normalised":
        return Normalised()
    if name == "first_line":
        return FirstLine()
    return EmbeddingJudge(embedder) if name == "embedding" else ModelJudge(gateway, name.removeprefix("model:"))
