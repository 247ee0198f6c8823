"""What a sink is, and how the configured ones are found.

A sink is a class with a pydantic model `Settings` and the methods of `Sink`, installed under the entry-point group
`junctor.logging.sinks`; the sinks of this package come through the same door. Its methods run in a thread of its own
and may block: what it cannot take waits in its spool.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Protocol

from junctor import ConfigError
from junctor.problems import close_match, problems_of
from pydantic import ValidationError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from junctor_logging.record import Entry

__all__ = ["GROUP", "Context", "Rejected", "Sink", "SinkSection", "Unavailable", "read_sinks"]

GROUP = "junctor.logging.sinks"


class Unavailable(Exception):
    """The sink cannot take records now. The first `written` entries of the batch are in it, the rest is not."""

    def __init__(self, reason: str, *, written: int = 0) -> None:
        super().__init__(reason)
        self.written = written


class Rejected(Exception):
    """The sink works and does not take this batch. It is halved until the record at fault is alone; that is dropped."""


@dataclass(frozen=True, slots=True)
class Context:
    """What a sink is built with: the plugin's folder, and its name in log lines and in the spool."""

    folder: Path
    label: str


class Sink(Protocol):
    """Takes batches of records. All calls come from one thread, one after the other.

    `open` is called before the first `write`, and again after a failure. `write` returns when the records are safe, and
    raises `Unavailable` (any other error is taken for that) or `Rejected`. With `again` a part of the batch may be in
    the sink already, written by a process that was killed: write none twice.
    """

    wants_content: bool

    def __init__(self, settings: Any, context: Context) -> None: ...
    def open(self) -> None: ...
    def write(self, batch: Sequence[Entry], *, again: bool) -> None: ...
    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class SinkSection:
    """One entry of `sinks:`, read but not yet built."""

    name: str
    label: str
    factory: Any
    settings: Any


def read_sinks(entries: Sequence[str | Mapping[str, Any]]) -> list[SinkSection]:
    """Find and validate the entries of `sinks:`; raises `ConfigError` with all that is wrong."""
    available = {point.name: point for point in entry_points(group=GROUP)}
    sections: list[SinkSection] = []
    problems: list[str] = []
    for index, entry in enumerate(entries):
        path = f"sinks[{index}]"
        if not isinstance(entry, str) and len(entry) != 1:
            problems.append(f"{path}: write a name, or one name with its settings")
            continue
        name, raw = (entry, None) if isinstance(entry, str) else next(iter(entry.items()))
        if name not in available:
            hint = close_match(name, available) or f" (installed: {', '.join(sorted(available))})"
            problems.append(f"{path}: there is no sink '{name}'{hint}")
            continue
        try:
            factory = available[name].load()
            settings = factory.Settings.model_validate(raw or {})
        except ImportError as error:
            problems.append(f"{path} ({name}): cannot be imported: {error}")
        except ValidationError as error:
            problems.extend(f"{path} ({name}): {problem}" for problem in problems_of(error, factory.Settings))
        else:
            twins = sum(section.name == name for section in sections)
            sections.append(SinkSection(name, f"{name}-{twins + 1}" if twins else name, factory, settings))
    if problems:
        raise ConfigError(problems)
    return sections
