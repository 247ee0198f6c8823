"""Where vectors and answers live. The `VectorStore` protocol, and Qdrant embedded in the process.

An entry's id is made from scope, tenant, partition and normalised text: an exact repeat is found by id, without a
vector. Whatever a store raises is `StoreError`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Protocol

from junctor.errors import JunctorError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path
    from typing import IO, TypeVar

    import numpy as np
    from numpy.typing import NDArray

    T = TypeVar("T")

__all__ = ["Candidate", "EdgeStore", "Entry", "Selection", "StoreError", "VectorStore", "collection_name", "entry_id"]

_log = logging.getLogger("junctor.semantic_cache")
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

    `group` names the answer: entries with the same one say the same. `answer` is compressed and encoded. `right` and
    `wrong` count labels, `floor` is the highest risk at which the entry may still be served. `worth` orders eviction:
    the time of the last use in seconds, plus a bonus for every hit. `cost` is in nano-dollars.
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


_COARSE = 128  # dimensions below which signs say too little of a vector
_OVERSAMPLING = 8.0  # so many times more candidates by signs are compared by their real vectors: recall@8 is 0.998


class EdgeStore:
    """Qdrant in this process, one shard a process: the first free folder of `shard-0`, `shard-1` … below `path`.

    Vectors of another embedder or dimension live in folders of another name; those of this collection that are not
    wanted any more are dropped. All calls run in one thread of the store's own; none waits longer than `timeout`.

    A search goes through its partition only, first by the signs of the vectors (32 times less to read), then by the
    vectors of the best. A graph (HNSW) would be quicker in a partition of very many entries, but building it holds up
    all look-ups for minutes.
    """

    def __init__(self, path: Path, *, collection: str, embedder: str, dimension: int, timeout: float = 0.25) -> None:
        self._home = path
        self._collection = collection
        self._folder = path / collection_name(collection, embedder, dimension)
        self._dimension = dimension
        self._timeout = timeout
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="semantic-cache-store")
        self._shard: Any = None
        self._lock: IO[bytes] | None = None
        self._busy = 0

    async def open(self) -> None:
        await self._run(self._open, timeout=60.0)

    def _open(self) -> None:
        import qdrant_edge as qdrant

        self._home.mkdir(parents=True, exist_ok=True)
        for number in range(256):
            folder = self._folder / f"shard-{number}"
            folder.mkdir(parents=True, exist_ok=True)
            if lock := _locked(folder.with_suffix(".lock")):
                break
        else:
            raise StoreError(f"{self._folder}: every shard is in use")
        self._lock = lock
        config = self._config()
        try:
            self._shard = qdrant.EdgeShard.load(str(folder), config) if any(folder.iterdir()) else self._create(folder)
        except Exception as error:  # a shard that cannot be read is a cache that is empty, not a gateway that is down
            _log.warning("%s cannot be read and is begun anew: %s", folder, error)
            shutil.rmtree(folder)
            folder.mkdir()
            self._shard = self._create(folder)
        self._drop_others()

    def _config(self) -> Any:
        import qdrant_edge as qdrant

        signs = qdrant.BinaryQuantizationConfig(always_ram=True) if self._dimension >= _COARSE else None
        vectors = qdrant.EdgeVectorParams(size=self._dimension, distance=qdrant.Distance.Cosine)
        return qdrant.EdgeConfig(vectors=vectors, quantization_config=signs, max_search_threads=1)

    def _create(self, folder: Path) -> Any:
        import qdrant_edge as qdrant

        shard = qdrant.EdgeShard.create(str(folder), self._config())
        for name in KEYWORDS:
            shard.update(qdrant.UpdateOperation.create_field_index(name, qdrant.PayloadSchemaType.Keyword))
        for name in NUMBERS:
            shard.update(qdrant.UpdateOperation.create_field_index(name, qdrant.PayloadSchemaType.Float))
        return shard

    def _drop_others(self) -> None:
        """Vectors of another embedder are of no use; a process that still uses them holds their locks."""
        for other in self._home.glob(f"{self._collection}-*"):
            if other == self._folder or not other.is_dir():
                continue
            locks = [_locked(lock) for lock in other.glob("*.lock")]
            free = all(locks)
            for lock in locks:
                if lock is not None:
                    lock.close()
            if free:
                shutil.rmtree(other, ignore_errors=True)

    async def get(self, identity: str) -> Entry | None:
        def call() -> Entry | None:
            found = self._shard.retrieve([uuid.UUID(identity)], True, False)
            return Entry.read(found[0].id, found[0].payload) if found else None

        return await self._run(call)

    async def search(self, vector: NDArray[np.float32], *, where: Mapping[str, str], limit: int) -> list[Candidate]:
        import qdrant_edge as qdrant

        if len(vector) != self._dimension:
            raise StoreError(f"a vector of dimension {len(vector)} in a collection of {self._dimension}")

        sampling = qdrant.QuantizationSearchParams(rescore=True, oversampling=_OVERSAMPLING)

        def call() -> list[Candidate]:
            request = qdrant.QueryRequest(
                limit=limit,
                query=qdrant.Query.Nearest(vector.tolist()),
                filter=_filter(Selection(narrowed(where))),
                with_payload=LIGHT,
                params=qdrant.SearchParams(quantization=sampling),
            )
            return [Candidate(Entry.read(p.id, p.payload), float(p.score)) for p in self._shard.query(request)]

        return await self._run(call)

    async def put(self, entry: Entry, vector: NDArray[np.float32]) -> None:
        import qdrant_edge as qdrant

        if len(vector) != self._dimension:
            raise StoreError(f"a vector of dimension {len(vector)} in a collection of {self._dimension}")
        point = qdrant.Point(uuid.UUID(entry.id), vector.tolist(), finite(entry.payload()))
        await self._run(lambda: self._shard.update(qdrant.UpdateOperation.upsert_points([point])))

    async def update(self, identity: str, values: Mapping[str, Any]) -> None:
        import qdrant_edge as qdrant

        operation = qdrant.UpdateOperation.set_payload([uuid.UUID(identity)], finite(values))
        await self._run(lambda: self._shard.update(operation))

    async def delete(self, selection: Selection) -> None:
        import qdrant_edge as qdrant

        operation = qdrant.UpdateOperation.delete_points_by_filter(_filter(selection))
        await self._run(lambda: self._shard.update(operation), timeout=10.0)

    async def count(self, selection: Selection) -> int:
        import qdrant_edge as qdrant

        request = qdrant.CountRequest(exact=True, filter=_filter(selection))
        return await self._run(lambda: int(self._shard.count(request)), timeout=10.0)

    async def least(self, limit: int) -> list[str]:
        import qdrant_edge as qdrant

        request = qdrant.ScrollRequest(limit=limit, order_by=qdrant.OrderBy("worth"), with_payload=False)
        return await self._run(lambda: [str(point.id) for point in self._shard.scroll(request)[0]], timeout=10.0)

    async def remove(self, identities: Sequence[str]) -> None:
        import qdrant_edge as qdrant

        operation = qdrant.UpdateOperation.delete_points([uuid.UUID(identity) for identity in identities])
        await self._run(lambda: self._shard.update(operation), timeout=10.0)

    async def aclose(self) -> None:
        if self._shard is not None:
            shard, self._shard = self._shard, None
            with contextlib.suppress(StoreError):
                await self._run(lambda: (shard.flush(), shard.close()), timeout=30.0)
        if self._lock is not None:
            self._lock.close()
        self._thread.shutdown(wait=False)

    async def _run(self, call: Callable[[], T], *, timeout: float | None = None) -> T:
        """Run in the store's thread. A thread that hangs must not gather calls: a few may wait, no more."""
        if self._busy >= 64:
            raise StoreError("the store is too slow; too many calls wait for it")
        self._busy += 1
        future = asyncio.get_running_loop().run_in_executor(self._thread, call)
        future.add_done_callback(self._finished)
        try:
            return await asyncio.wait_for(asyncio.shield(future), timeout or self._timeout)
        except TimeoutError:
            raise StoreError(f"no answer within {timeout or self._timeout:g} s") from None
        except StoreError:
            raise
        except Exception as error:  # qdrant_edge raises Exception itself
            raise StoreError(str(error) or type(error).__name__) from error

    def _finished(self, future: asyncio.Future[Any]) -> None:
        self._busy -= 1
        if not future.cancelled():
            future.exception()


def _filter(selection: Selection) -> Any:
    import qdrant_edge as qdrant

    conditions: list[Any] = [qdrant.FieldCondition(k, match=qdrant.MatchValue(v)) for k, v in selection.match.items()]
    conditions += [qdrant.FieldCondition(k, range=qdrant.RangeFloat(lt=v)) for k, v in selection.before.items()]
    return qdrant.Filter(must=conditions)


def finite(values: Mapping[str, Any]) -> dict[str, Any]:
    """A payload is JSON: it knows no infinity."""
    return {key: 1e18 if value == float("inf") else value for key, value in values.items()}


def collection_name(collection: str, embedder: str, dimension: int) -> str:
    """Vectors of different embedders never share a collection."""
    return f"{collection}-{''.join(c if c.isalnum() else '-' for c in embedder)}-{dimension}"


def _locked(file: Path) -> IO[bytes] | None:
    """An exclusive lock that ends with the process, or None if another holds it."""
    handle = file.open("a+b")
    try:
        if sys.platform == "win32":
            msvcrt.locking(handle.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(handle.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        handle.close()
        return None
    return handle


def touched(entry: Entry, *, bonus: float) -> dict[str, Any]:
    """What changes when the entry was served: it is worth more by `bonus` seconds for each hit."""
    return {"hits": entry.hits + 1, "worth": time.time() + bonus * (entry.hits + 1)}
