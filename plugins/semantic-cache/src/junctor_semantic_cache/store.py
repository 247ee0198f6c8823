"""Where vectors and answers live: the `VectorStore` protocol, and what its engines share.

An entry's id is made from scope, tenant, partition and normalised text: an exact repeat is found by id, without a
vector. Whatever a store raises is `StoreError`.
"""

from __future__ import annotations

import time
import uuid
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Protocol

from junctor.errors import JunctorError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray


__all__ = ["Candidate", "Entry", "Selection", "StoreError", "VectorStore", "collection_name", "entry_id"]

KEYWORDS = ("place", "scope", "tenant", "partition", "namespace", "model", "template", "tags")
NUMBERS = ("created", "expires", "worth")
LIGHT = [
    "scope",
    "tenant",
    "partition",
    "text",
    "group",
    "expires",
    "right",
    "wrong",
    "floor",
    "created",
    "hits",
    "worth",
]
LIGHT += ["namespace", "model", "template", "tags", "cost"]


class StoreError(JunctorError):
    """The store cannot be used now; the message says why."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A question, its answer, and what is known of it.

    `group` names the answer: entries with the same one say the same. `answer` is compressed and encoded. `created` is
    when it was asked for: a purge before it came has it. `right` and `wrong` count labels, `floor` is the highest risk
    at which the entry may still be served. `worth` orders eviction: the time of the last use in seconds, plus a bonus
    for every hit. `cost` is in nano-dollars.
    """

    id: str
    scope: str
    tenant: str
    partition: str
    namespace: str
    text: str
    group: str
    answer: str = ""
    model: str = ""
    template: str = ""
    tags: tuple[str, ...] = ()
    created: float = 0.0
    expires: float = float("inf")
    worth: float = 0.0
    hits: int = 0
    right: int = 0
    wrong: int = 0
    floor: float = 1.0
    cost: int = 0
    input_tokens: int = 0
    output_tokens: int = 0

    def payload(self) -> dict[str, Any]:
        values = {name: value for name, value in asdict(self).items() if name != "id"}
        place = place_of(self.scope, self.tenant, self.partition)
        return values | {"tags": list(self.tags), "place": place}

    @classmethod
    def read(cls, identity: object, payload: Mapping[str, Any]) -> Entry:
        known = {name: payload[name] for name in _FIELDS if name in payload}
        return cls(**{**_BLANK, **known, "id": str(identity), "tags": tuple(known.get("tags") or ())})


_FIELDS = frozenset(f.name for f in fields(Entry)) - {"id"}
_BLANK = dict.fromkeys(("scope", "tenant", "partition", "namespace", "text", "group"), "")


@dataclass(frozen=True, slots=True)
class Candidate:
    """An entry near the question, without its answer, and its cosine similarity."""

    entry: Entry
    similarity: float


@dataclass(frozen=True, slots=True)
class Selection:
    """Which entries: all conditions hold. `match` has fields and values, `before` bounds of times and worth."""

    match: Mapping[str, str] = field(default_factory=dict)
    before: Mapping[str, float] = field(default_factory=dict)

    def fits(self, entry: Entry) -> bool:
        """Whether the entry is one of them, as the stores' own filters say it."""
        for name, value in self.match.items():
            found = getattr(entry, name)
            if value not in found if name == "tags" else value != found:
                return False
        return all(getattr(entry, name) < bound for name, bound in self.before.items())


class VectorStore(Protocol):
    """What the cache needs of a vector database. All methods raise `StoreError` only."""

    async def open(self) -> None: ...
    async def get(self, identity: str) -> Entry | None: ...
    async def search(self, vector: NDArray[np.float32], *, where: Mapping[str, str], limit: int) -> list[Candidate]: ...
    async def put(self, entry: Entry, vector: NDArray[np.float32]) -> None: ...
    async def update(self, identity: str, values: Mapping[str, Any]) -> None: ...
    async def delete(self, selection: Selection) -> None: ...
    async def count(self, selection: Selection) -> int: ...
    async def least(self, limit: int) -> list[str]: ...
    async def remove(self, identities: Sequence[str]) -> None: ...
    async def aclose(self) -> None: ...


def place_of(scope: str, tenant: str, partition: str) -> str:
    """Scope, tenant and partition in one field: a filter of three takes twice as long as one of one."""
    return str(uuid.uuid5(_SPACE, "\x00".join((scope, tenant, partition))))


def narrowed(where: Mapping[str, str]) -> dict[str, str]:
    """The conditions of a search; scope, tenant and partition together become one."""
    if not {"scope", "tenant", "partition"} <= set(where):
        return dict(where)
    rest = {name: value for name, value in where.items() if name not in ("scope", "tenant", "partition")}
    return rest | {"place": place_of(where["scope"], where["tenant"], where["partition"])}


def entry_id(scope: str, tenant: str, partition: str, text: str) -> str:
    """The id of the entry for this text; `text` is normalised."""
    return str(uuid.uuid5(_SPACE, "\x00".join((scope, tenant, partition, text))))


_SPACE = uuid.UUID("0c1f4b6a-5d1e-4c0e-9f6d-7a1f6f1f2b3c")


def finite(values: Mapping[str, Any]) -> dict[str, Any]:
    """A payload is JSON: it knows no infinity."""
    return {key: 1e18 if value == float("inf") else value for key, value in values.items()}


def collection_name(collection: str, embedder: str, dimension: int) -> str:
    """Vectors of different embedders never share a collection."""
    return f"{collection}-{''.join(c if c.isalnum() else '-' for c in embedder)}-{dimension}"


def touched(entry: Entry, *, bonus: float) -> dict[str, Any]:
    """What changes when the entry was served: it is worth more by `bonus` seconds for each hit."""
    return {"hits": entry.hits + 1, "worth": time.time() + bonus * (entry.hits + 1)}
