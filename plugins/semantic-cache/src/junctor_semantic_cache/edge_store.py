"""Qdrant embedded in this process: the default store."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from junctor_semantic_cache.store import (
    KEYWORDS,
    LIGHT,
    NUMBERS,
    Candidate,
    Entry,
    Selection,
    StoreError,
    collection_name,
    finite,
    narrowed,
)

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

__all__ = ["EdgeStore"]

_log = logging.getLogger("junctor.semantic_cache")
_COARSE = 128  # dimensions below which signs say too little of a vector
_ROOM = 64 * 1024 * 1024  # bytes that must be free for anything to be written
_OVERSAMPLING = 8.0  # so many times more candidates by signs are compared by their real vectors: recall@8 is 0.998


class EdgeStore:
    """Qdrant in this process, one shard a process: the first free folder of `shard-0`, `shard-1` … below `path`.

    Vectors of another embedder or dimension live in folders of another name; those of this collection that are not
    wanted any more are dropped. All calls run in one thread of the store's own; none waits longer than `timeout`.

    A search goes through its partition only, first by the signs of the vectors (32 times less to read), then by the
    vectors of the best. A graph (HNSW) would be quicker in a partition of very many entries, but building it keeps the
    interpreter's lock for seconds to minutes.
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
        self._need_room()
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
        await self._write(qdrant.UpdateOperation.upsert_points([point]))

    async def update(self, identity: str, values: Mapping[str, Any]) -> None:
        import qdrant_edge as qdrant

        operation = qdrant.UpdateOperation.set_payload([uuid.UUID(identity)], finite(values))
        await self._write(operation)

    async def delete(self, selection: Selection) -> None:
        import qdrant_edge as qdrant

        operation = qdrant.UpdateOperation.delete_points_by_filter(_filter(selection))
        await self._write(operation, timeout=10.0)

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
        await self._write(operation, timeout=10.0)

    async def aclose(self) -> None:
        if self._shard is not None:
            shard, self._shard = self._shard, None
            with contextlib.suppress(StoreError):
                await self._run(lambda: (shard.flush(), shard.close()), timeout=30.0)
        if self._lock is not None:
            self._lock.close()
        self._thread.shutdown(wait=False)

    async def _write(self, operation: Any, *, timeout: float | None = None) -> None:
        def call() -> None:
            self._need_room()
            self._shard.update(operation)

        await self._run(call, timeout=timeout)

    def _need_room(self) -> None:
        """The files are mapped into memory: where the disk has no page for one, the kernel ends the whole process."""
        if shutil.disk_usage(self._home).free < _ROOM:
            raise StoreError(f"{self._home}: less than {_ROOM >> 20} MiB are free, nothing is written")

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
