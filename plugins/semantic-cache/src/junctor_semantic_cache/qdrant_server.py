"""A Qdrant server or cluster, by URL. Imported only when one is configured."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, TypeVar

from qdrant_client import AsyncQdrantClient, models
from qdrant_client.http.exceptions import ApiException

from junctor_semantic_cache.store import KEYWORDS, LIGHT, NUMBERS, Candidate, Entry, StoreError, finite, narrowed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from junctor_semantic_cache.store import Selection

__all__ = ["ServerStore"]

_log = logging.getLogger("junctor.semantic_cache")
T = TypeVar("T")


class ServerStore:
    """One collection on a server, shared by all replicas.

    `open` makes the collection and its payload indexes, and drops those of the same `prefix` with another embedder or
    dimension, which nobody can use any more. `timeout` is in seconds, for each call.
    """

    def __init__(
        self,
        url: str,
        collection: str,
        *,
        prefix: str,
        dimension: int,
        api_key: str | None = None,
        timeout: float = 0.25,
    ) -> None:
        self._client = AsyncQdrantClient(
            url=url, api_key=api_key, timeout=max(1, round(timeout)), check_compatibility=False, prefer_grpc=False
        )
        self._collection = collection
        self._prefix = prefix
        self._dimension = dimension
        self._timeout = timeout

    async def open(self) -> None:
        names = {found.name for found in (await self._call(self._client.get_collections(), slow=True)).collections}
        if self._collection not in names:
            vectors = models.VectorParams(size=self._dimension, distance=models.Distance.COSINE)
            try:
                await self._call(self._client.create_collection(self._collection, vectors_config=vectors), slow=True)
            except StoreError as error:
                if "already exists" not in str(error):  # another replica was faster
                    raise
        for name in KEYWORDS:
            await self._index(
                name, models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD, is_tenant=name == "place")
            )
        for name in NUMBERS:
            await self._index(name, models.PayloadSchemaType.FLOAT)
        for other in names:
            if other.startswith(f"{self._prefix}-") and other != self._collection:
                _log.info("collection %s belongs to another embedder and is dropped", other)
                await self._call(self._client.delete_collection(other), slow=True)

    async def _index(self, name: str, schema: Any) -> None:
        await self._call(self._client.create_payload_index(self._collection, name, schema), slow=True)

    async def get(self, identity: str) -> Entry | None:
        found = await self._call(self._client.retrieve(self._collection, [identity], with_payload=True))
        return Entry.read(found[0].id, found[0].payload or {}) if found else None

    async def search(self, vector: NDArray[np.float32], *, where: Mapping[str, str], limit: int) -> list[Candidate]:
        self._fit(vector)
        conditions: list[Any] = [_equals(name, value) for name, value in narrowed(where).items()]
        found = await self._call(
            self._client.query_points(
                self._collection,
                query=vector.tolist(),
                query_filter=models.Filter(must=conditions),
                limit=limit,
                with_payload=LIGHT,
            )
        )
        return [Candidate(Entry.read(point.id, point.payload or {}), float(point.score)) for point in found.points]

    async def put(self, entry: Entry, vector: NDArray[np.float32]) -> None:
        self._fit(vector)
        point = models.PointStruct(id=entry.id, vector=vector.tolist(), payload=finite(entry.payload()))
        await self._call(self._client.upsert(self._collection, [point]))

    async def update(self, identity: str, values: Mapping[str, Any]) -> None:
        await self._call(self._client.set_payload(self._collection, finite(values), points=[identity]))

    async def delete(self, selection: Selection) -> None:
        selector = models.FilterSelector(filter=_filter(selection))
        await self._call(self._client.delete(self._collection, selector), slow=True)

    async def count(self, selection: Selection) -> int:
        answer = await self._call(self._client.count(self._collection, _filter(selection), exact=True), slow=True)
        return int(answer.count)

    async def least(self, limit: int) -> list[str]:
        points, _ = await self._call(
            self._client.scroll(self._collection, limit=limit, order_by="worth", with_payload=False), slow=True
        )
        return [str(point.id) for point in points]

    async def remove(self, identities: Sequence[str]) -> None:
        await self._call(self._client.delete(self._collection, models.PointIdsList(points=list(identities))), slow=True)

    async def aclose(self) -> None:
        await self._client.close()

    def _fit(self, vector: NDArray[np.float32]) -> None:
        if len(vector) != self._dimension:
            raise StoreError(f"a vector of dimension {len(vector)} in a collection of {self._dimension}")

    async def _call(self, call: Awaitable[T], *, slow: bool = False) -> T:
        """One call within its time; whatever the client raises is a `StoreError` (it wraps what httpx raises)."""
        try:
            async with asyncio.timeout(10.0 if slow else self._timeout):
                return await call
        except TimeoutError:
            raise StoreError(f"no answer within {10.0 if slow else self._timeout:g} s") from None
        except (ApiException, OSError, ValueError) as error:
            raise StoreError(str(error).replace("\n", " ")[:500] or type(error).__name__) from error


def _equals(name: str, value: str) -> models.FieldCondition:
    return models.FieldCondition(key=name, match=models.MatchValue(value=value))


def _filter(selection: Selection) -> models.Filter:
    conditions: list[Any] = [_equals(name, value) for name, value in selection.match.items()]
    conditions += [models.FieldCondition(key=n, range=models.Range(lt=v)) for n, v in selection.before.items()]
    return models.Filter(must=conditions)
