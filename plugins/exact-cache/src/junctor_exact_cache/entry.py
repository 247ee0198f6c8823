"""One stored answer: as the provider sent it, and what is known of it."""

from __future__ import annotations

import asyncio
import zlib
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple

import orjson
from junctor import Usage

__all__ = ["Entry", "Filter", "Stats", "compress", "decode", "encode"]

# Beyond this a thread is cheaper than holding up everybody else.
_IN_A_THREAD = 256 * 1024
# What an entry costs beside its answer: the object, its strings, its place in the tables.
_OVERHEAD = 1200


@dataclass(frozen=True, slots=True)
class Entry:
    """An answer and its facts. Times are seconds since the epoch, `saved` is nano-dollars (None: unpriced).

    `form` is `whole` (a JSON body) or `stream` (the events, without the end marker). `version` is the model as the
    provider named it. `packed` says that `answer` is compressed.
    """

    id: str
    scope: str
    team: str
    model: str
    target: str
    version: str
    template: str
    tags: tuple[str, ...]
    created: float
    expires: float
    form: str
    finish_reason: str | None
    usage: Usage | None
    saved: int | None
    content_type: str
    answer: bytes
    packed: bool = False

    @property
    def size(self) -> int:
        """Bytes that it occupies, about."""
        return _OVERHEAD + len(self.answer) + len(self.scope) + sum(map(len, self.tags))

    async def body(self) -> bytes:
        """The answer as the provider sent it."""
        if not self.packed:
            return self.answer
        if len(self.answer) > _IN_A_THREAD // 4:
            return await asyncio.to_thread(zlib.decompress, self.answer)
        return zlib.decompress(self.answer)


async def compress(answer: bytes, *, above: int) -> tuple[bytes, bool]:
    """The answer as it is kept, and whether that is compressed."""
    if len(answer) < max(above, 1):
        return answer, False
    small = (
        await asyncio.to_thread(zlib.compress, answer, 1) if len(answer) > _IN_A_THREAD else zlib.compress(answer, 1)
    )
    return (small, True) if len(small) < len(answer) else (answer, False)


_HEAD = tuple(field.name for field in fields(Entry) if field.name != "answer")


def encode(entry: Entry) -> tuple[bytes, bytes]:
    """The entry as bytes, for a store outside of this process: its head (JSON) and its answer."""
    head: dict[str, Any] = {name: getattr(entry, name) for name in _HEAD}
    head["usage"] = asdict(entry.usage) if entry.usage is not None else None
    return orjson.dumps(head), entry.answer


def decode(head: bytes, answer: bytes) -> Entry:
    """The reverse of `encode`; raises ValueError for what is no entry of this version."""
    try:
        values = orjson.loads(head)
        usage = Usage(**values.pop("usage")) if values["usage"] else values.pop("usage")
        return Entry(**{**values, "tags": tuple(values["tags"])}, usage=usage, answer=answer)
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"not an entry: {error}") from None


class Filter(NamedTuple):
    """Which entries to purge: all that is given must fit. `before` is a time: entries made until then."""

    tag: str | None = None
    model: str | None = None
    version: str | None = None
    template: str | None = None
    team: str | None = None
    id: str | None = None
    before: float | None = None

    def fits(self, entry: Entry) -> bool:
        """Whether the entry is one of them."""
        return (
            (self.tag is None or self.tag in entry.tags)
            and (self.model is None or self.model in (entry.model, entry.target))
            and (self.version is None or self.version == entry.version)
            and (self.template is None or self.template == entry.template)
            and (self.team is None or self.team == entry.team)
            and (self.id is None or self.id == entry.id)
            and (self.before is None or entry.created <= self.before)
        )


class Stats(NamedTuple):
    """What a store holds. `bytes` is None where the store does not tell."""

    entries: int
    bytes: int | None
