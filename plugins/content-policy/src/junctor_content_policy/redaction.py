"""Placeholders instead of values on the way to the provider, and the values again on the way back.

The model sees `[EMAIL_1]`; the client gets the address. Answers are restored whole or streamed, in every wire's text,
and within the arguments of tool calls, where the value is escaped as JSON demands. A placeholder that arrives in pieces
is held back until it is whole or turns out to be something else.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from junctor import jsons

from junctor_content_policy.deltas import Delta, deltas, ended

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

__all__ = ["Placeholders", "Restorer"]

_NO_LETTER = re.compile(r"[^A-Z0-9]+")
# A list in JSON does not go on with a letter, and a text that ends with a bracket ends with a quote after it.
_MAYBE = re.compile(rb'\[[A-Z"]')
_JSON_TEXTS = frozenset({"arguments", "partial_json"})


class Placeholders:
    """The placeholders of one exchange: the same value has the same one."""

    def __init__(self, text: str) -> None:
        """`text` is everything that will be sent: a placeholder that stands there already is not used."""
        self._text = text
        self._names: dict[tuple[str, str], str] = {}
        self._prefixes: dict[str, str] = {}
        self.values: dict[str, str] = {}
        self._regex: re.Pattern[str] | None = None

    def __len__(self) -> int:
        return len(self.values)

    def for_value(self, kind: str, value: str) -> str:
        name = self._names.get((kind, value))
        if name is None:
            prefix = self._prefixes.get(kind) or self._prefix(kind)
            name = f"[{prefix}_{sum(k == kind for k, _ in self._names) + 1}]"
            self._names[kind, value] = name
            self.values[name] = value
            self._regex = None
        return name

    def _prefix(self, kind: str) -> str:
        prefix = _NO_LETTER.sub("_", kind.upper()).strip("_") or "VALUE"
        if not prefix[0].isalpha():
            prefix = f"X{prefix}"
        while f"[{prefix}_" in self._text or prefix in self._prefixes.values():
            prefix += "X"
        self._prefixes[kind] = prefix
        return prefix

    def restore(self, text: str, *, in_json: bool) -> str:
        """The text with every placeholder replaced by its value, escaped if the text is itself JSON."""
        if self._regex is None:
            self._regex = re.compile("|".join(map(re.escape, self.values)))
        if in_json:
            return self._regex.sub(lambda m: jsons.dumps(self.values[m[0]])[1:-1].decode(), text)
        return self._regex.sub(lambda m: self.values[m[0]], text)

    def begun(self, text: str) -> int:
        """How many characters at the end of the text may be the beginning of a placeholder."""
        place = text.rfind("[")
        if place < 0:
            return 0
        tail = text[place:]
        return len(tail) if any(len(tail) < len(name) and name.startswith(tail) for name in self.values) else 0


class Restorer:
    """The transform that puts the values back."""

    def __init__(self, placeholders: Placeholders) -> None:
        self._placeholders = placeholders
        self._held: dict[Any, tuple[str, Delta, bytes]] = {}

    def whole(self, body: bytes) -> bytes:
        if _MAYBE.search(body) is None:
            return body
        try:
            answer = jsons.loads(body)
        except ValueError:
            return body
        return jsons.dumps(self._restored(answer, ""))

    def _restored(self, value: Any, key: str) -> Any:
        if isinstance(value, str):
            return self._placeholders.restore(value, in_json=key in _JSON_TEXTS) if "[" in value else value
        if isinstance(value, list):
            return [self._restored(item, key) for item in value]
        if isinstance(value, dict):
            return {name: self._restored(item, name) for name, item in value.items()}
        return value

    def feed(self, events: bytes) -> bytes:
        if not self._held and _MAYBE.search(events) is None:
            return events
        return b"".join(out for event in events.split(b"\n\n") if event for out in self._event(event))

    def _event(self, event: bytes) -> Iterator[bytes]:
        lines = event.split(b"\n")
        data = [line for line in lines if line.startswith(b"data:")]
        try:
            parsed = jsons.loads(b"\n".join(line[5:] for line in data)) if data else None
        except ValueError:
            parsed = None
        if not isinstance(parsed, dict):
            yield event + b"\n\n"
            return
        head = b"".join(line + b"\n" for line in lines if not line.startswith(b"data:"))
        found = list(deltas(parsed))
        # Text that was held back belongs before whatever follows it in the same answer.
        yield from self._released(found, ended(parsed))
        kept = [(delta, self._take(delta, head)) for delta in found]
        restored = self._restored(parsed, "")
        if kept:
            for delta, text in zip(deltas(restored), (text for _, text in kept), strict=True):
                delta.holder[delta.key] = text
        yield head + b"data: " + jsons.dumps(restored) + b"\n\n"

    def _take(self, delta: Delta, head: bytes) -> str:
        """The text that may go out now; the rest is held."""
        held = self._held.pop(delta.channel, None)
        text = (held[0] if held else "") + delta.holder[delta.key]
        begun = self._placeholders.begun(text)
        if begun:
            self._held[delta.channel] = (text[-begun:], delta, head)
            text = text[:-begun]
        return self._placeholders.restore(text, in_json=delta.in_json) if "[" in text else text

    def _released(self, found: list[Delta], finished: Collection[Any] | bool) -> Iterator[bytes]:
        if not self._held:
            return
        going_on = {delta.channel for delta in found}
        groups = {delta.group for delta in found}
        for channel, (text, delta, head) in list(self._held.items()):
            over = finished is True or (finished is not False and delta.group in finished)
            # Arguments of several calls may come interleaved; other text is complete when something else follows.
            passed = delta.group in groups and not delta.in_json
            if channel not in going_on and (over or passed):
                del self._held[channel]
                yield head + b"data: " + jsons.dumps(delta.alone(text)) + b"\n\n"

    def flush(self) -> bytes:
        held, self._held = self._held, {}
        return b"".join(
            head + b"data: " + jsons.dumps(delta.alone(text)) + b"\n\n" for text, delta, head in held.values()
        )
