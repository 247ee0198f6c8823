"""Prompts and answers, where their recording is configured."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from junctor import jsons

if TYPE_CHECKING:
    from collections.abc import Sequence

    from junctor import Exchange, Request, Response

    from junctor_logging.redact import Redactor
    from junctor_logging.settings import ContentRule

__all__ = ["Content", "Recorder", "clip"]

_ROOM = "logging.content"
# A stream's events are several times as long as the text in them.
_EVENTS = 24
_CUT = "…"


@dataclass(slots=True)
class Content:
    """What was taken of one exchange, not yet redacted; `events` are a stream's, in the client's wire."""

    rule: ContentRule
    request: Request
    body: Any
    answer: bytes | None
    events: bool
    cut: bool

    def finished(self, redactor: Redactor, secrets: Sequence[str]) -> dict[str, Any]:
        """What goes into the record: cut to size, and without secrets and what the rule redacts."""
        answer, whole = self._answer()
        body, body_whole = clip(self.body, self.rule.max_bytes, self.rule.max_text)
        answer, answer_whole = clip(answer, self.rule.max_bytes, self.rule.max_text)
        return {
            "request": redactor.clean(body, self.rule.redact, secrets),
            "response": redactor.clean(answer, self.rule.redact, secrets),
            "truncated": self.cut or not (whole and body_whole and answer_whole),
            "retention": int(self.rule.retention),
        }

    def _answer(self) -> tuple[Any, bool]:
        if self.answer is None:
            return None, not self.events
        try:
            data = self.request.wire.to_whole(self.request, self.answer) if self.events else self.answer
            return jsons.loads(data), True
        except Exception:  # another plugin's wire, and an answer that may have been cut off
            return self.answer[: self.rule.max_bytes].decode("utf-8", "replace"), False


class Recorder:
    """Chooses the exchanges, and takes their content in a bounded time."""

    def __init__(self, rules: Sequence[ContentRule]) -> None:
        self._rules = rules

    def begin(self, exchange: Exchange) -> None:
        """Before the routing: have a stream's bytes kept, if it is chosen.

        Who calls is known only when every plugin has seen the request, so the choice waits for the answer.
        """
        if exchange.request.stream:
            exchange.on_answer.append(partial(self._answered, exchange))

    def _answered(self, exchange: Exchange, _response: Response) -> None:
        rule = self._rule(exchange)
        if rule is not None:
            exchange.record(rule.max_bytes * _EVENTS)

    def _rule(self, exchange: Exchange) -> ContentRule | None:
        """The rule for this exchange; the dice are thrown once."""
        if _ROOM not in exchange.state:
            rule = next((rule for rule in self._rules if _fits(rule, exchange)), None)
            exchange.state[_ROOM] = rule if rule is not None and random.random() < rule.sample else None
        chosen: ContentRule | None = exchange.state[_ROOM]
        return chosen

    def take(self, exchange: Exchange, response: Response | None) -> Content | None:
        """After the answer: what the record will need, no more of it than the rule allows."""
        rule = self._rule(exchange)
        if rule is None:
            return None
        body, whole = clip(exchange.request.body, rule.max_bytes, rule.max_text)
        answer: bytes | None = None
        stream = response.stream if response is not None else None
        if response is not None:
            answer = response.body if stream is None else stream.recorded
            if stream is None and len(response.body) > 4 * rule.max_bytes:
                answer, whole = response.body[: rule.max_bytes], False
        # The body is needed no more: only what was clipped of it stays in memory.
        request = replace(exchange.request, body=body if isinstance(body, dict) else {}, headers={})
        return Content(rule, request, body, answer, stream is not None, not whole)


def _fits(rule: ContentRule, exchange: Exchange) -> bool:
    if rule.teams is not None and exchange.client.team not in rule.teams:
        return False
    return rule.models is None or exchange.request.model in rule.models


def clip(value: Any, size: int, text: int) -> tuple[Any, bool]:
    """A copy with texts of at most `text` characters, and about `size` bytes in all; and whether that was the whole.

    Takes time for what it keeps, not for what it was given.
    """
    clipper = _Clipper(size, text)
    return clipper.copy(value), clipper.whole


class _Clipper:
    def __init__(self, left: int, text: int) -> None:
        self._left = left
        self._text = text
        self.whole = True

    def copy(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._cut(value)
        if isinstance(value, dict):
            return dict(self._items(value.items()))
        if isinstance(value, list):
            return [child for _, child in self._items(enumerate(value))]
        self._left -= 4
        return value

    def _items(self, items: Any) -> list[tuple[Any, Any]]:
        kept: list[tuple[Any, Any]] = []
        for key, child in items:
            if self._left <= 0:
                self.whole = False
                break
            self._left -= len(key) + 4 if isinstance(key, str) else 1
            kept.append((key, self.copy(child)))
        return kept

    def _cut(self, value: str) -> str:
        room = max(0, min(self._text, self._left))
        self._left -= min(len(value), room) + 2
        if len(value) <= room:
            return value
        self.whole = False
        return value[:room] + _CUT
