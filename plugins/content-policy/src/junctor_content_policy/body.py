"""The texts of a request's body, in any of the wires, and how to put changed ones back."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from junctor_content_policy.patterns import Finding

__all__ = ["Texts", "texts_of"]

_FIELDS = ("messages", "input", "prompt", "system", "instructions", "contents", "systemInstruction")
# What is not prose, though it is text: names of roles and types, identifiers, and files.
_SKIPPED = frozenset(
    {
        "role",
        "type",
        "id",
        "tool_call_id",
        "call_id",
        "tool_use_id",
        "url",
        "image_url",
        "file_id",
        "file_data",
        "data",
        "media_type",
        "mime_type",
        "mimeType",
        "detail",
        "format",
        "encrypted_content",
        "signature",
        "cache_control",
        "status",
    }
)
_BETWEEN = "\n\x00\n"  # no pattern reaches across it


class Slot(NamedTuple):
    """A text and where it stands: `holder[key]`."""

    holder: Any
    key: str | int
    path: str


class Texts:
    """All texts of a body as one, so that each pattern runs once however many messages there are."""

    def __init__(self, slots: Sequence[Slot]) -> None:
        self._slots = slots
        parts = [slot.holder[slot.key] for slot in slots]
        self._starts: list[int] = []
        place = 0
        for part in parts:
            self._starts.append(place)
            place += len(part) + len(_BETWEEN)
        self.joined: str = parts[0] if len(parts) == 1 else _BETWEEN.join(parts)

    def path(self, finding: Finding) -> str:
        """Where in the body a finding stands: `messages[2].content`."""
        return self._slots[bisect_right(self._starts, finding.start) - 1].path

    def replace(self, findings: Sequence[tuple[Finding, str]]) -> None:
        """Put other text in the place of findings, given from left to right."""
        by_slot: dict[int, list[tuple[Finding, str]]] = {}
        for finding, text in findings:
            by_slot.setdefault(bisect_right(self._starts, finding.start) - 1, []).append((finding, text))
        for index, changes in by_slot.items():
            slot, start = self._slots[index], self._starts[index]
            old: str = slot.holder[slot.key]
            parts, place = [], 0
            for finding, text in changes:
                parts += [old[place : finding.start - start], text]
                place = finding.end - start
            slot.holder[slot.key] = "".join([*parts, old[place:]])


def texts_of(body: dict[str, Any]) -> Texts | None:
    """The texts that a model would read; None if there are none."""
    slots = [slot for field in _FIELDS if field in body for slot in _walk(body, field, field)]
    return Texts(slots) if slots else None


def _walk(holder: Any, key: str | int, path: str) -> Iterator[Slot]:
    value = holder[key]
    if type(value) is str:
        if value:
            yield Slot(holder, key, path)
    elif type(value) is list:
        for index in range(len(value)):
            yield from _walk(value, index, f"{path}[{index}]")
    elif type(value) is dict:
        for name in value:
            if name not in _SKIPPED:
                yield from _walk(value, name, f"{path}.{name}")
