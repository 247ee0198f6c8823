"""Texts to vectors, away from the event loop: one thread, requests that wait are embedded together, an LRU by text."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from junctor import jsons
from junctor.errors import JunctorError

if TYPE_CHECKING:
    from junctor import Exchange, Gateway
    from numpy.typing import NDArray

    from junctor_semantic_cache.models import SentenceModel

    Vector = NDArray[np.float32]

__all__ = ["Embedder", "EmbedderBusy", "EmbedderError", "GatewayEmbedder", "LocalEmbedder"]

_BATCH = 16


class EmbedderError(JunctorError):
    """No vector can be had now; the message says why."""


class EmbedderBusy(EmbedderError):
    """Too many texts are waiting."""

    def __init__(self) -> None:
        super().__init__("the embedder is busy")


class Embedder(Protocol):
    """`name` changes whenever the vectors do; `window` is how many characters of a text are seen."""

    name: str
    dimension: int

    async def embed(self, text: str, *, parent: Exchange | None = None) -> Vector: ...
    def window(self, text: str) -> int: ...
    async def aclose(self) -> None: ...


class LRU:
    """The last `size` vectors, by text."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._items: OrderedDict[str, Vector] = OrderedDict()

    def get(self, text: str) -> Vector | None:
        vector = self._items.get(text)
        if vector is not None:
            self._items.move_to_end(text)
        return vector

    def put(self, text: str, vector: Vector) -> None:
        self._items[text] = vector
        if len(self._items) > self._size:
            self._items.popitem(last=False)


class LocalEmbedder:
    """A model of this machine in a thread of its own. At most `waiting` texts wait; one more is `EmbedderBusy`."""

    def __init__(self, model: SentenceModel, *, cached: int = 2048, waiting: int = 256) -> None:
        self._model = model
        self._lru = LRU(cached)
        self._waiting = waiting
        self._pending: dict[str, asyncio.Future[Vector]] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="semantic-cache-embed")
        self._pump: asyncio.Task[None] | None = None
        self.name, self.dimension = model.name, model.dimension

    def window(self, text: str) -> int:
        return self._model.window(text)

    async def embed(self, text: str, *, parent: Exchange | None = None) -> Vector:
        if (known := self._lru.get(text)) is not None:
            return known
        future = self._pending.get(text)
        if future is None:
            if len(self._pending) >= self._waiting:
                raise EmbedderBusy
            future = self._pending[text] = asyncio.get_running_loop().create_future()
            if self._pump is None or self._pump.done():
                self._pump = asyncio.create_task(self._embed_pending())
        # One caller that gives up must not take the vector from another.
        return await asyncio.shield(future)

    async def _embed_pending(self) -> None:
        loop = asyncio.get_running_loop()
        while self._pending:
            texts = list(self._pending)[:_BATCH]
            try:
                vectors = await loop.run_in_executor(self._thread, self._model.encode, texts)
            except Exception as error:  # the model's runtime may raise anything
                self._settle(texts, EmbedderError(f"the model failed: {type(error).__name__}: {error}"))
            else:
                for text, vector in zip(texts, vectors, strict=True):
                    self._lru.put(text, vector)
                    future = self._pending.pop(text)
                    if not future.done():
                        future.set_result(vector)

    def _settle(self, texts: list[str], error: Exception) -> None:
        for text in texts:
            future = self._pending.pop(text)
            if not future.done():
                future.set_exception(error)
                future.exception()  # nobody may be waiting any more

    async def aclose(self) -> None:
        if self._pump is not None:
            await asyncio.wait({self._pump})
        self._thread.shutdown(wait=True)


class GatewayEmbedder:
    """An embedding model of the gateway itself: an exchange of its own, logged and paid for."""

    def __init__(
        self, gateway: Gateway, model: str, *, dimension: int, cached: int = 2048, timeout: float = 5.0
    ) -> None:
        self._gateway = gateway
        self._model = model
        self._lru = LRU(cached)
        self._timeout = timeout
        self.name, self.dimension = f"gateway-{model}", dimension

    @classmethod
    async def open(cls, gateway: Gateway, model: str) -> GatewayEmbedder:
        """Ask once, to learn the dimension."""
        embedder = cls(gateway, model, dimension=0)
        embedder.dimension = len(await embedder.embed("one"))
        return embedder

    def window(self, text: str) -> int:
        return min(len(text), 16_000)  # embedding APIs take about 8,000 tokens

    async def embed(self, text: str, *, parent: Exchange | None = None) -> Vector:
        if (known := self._lru.get(text)) is not None:
            return known
        body: dict[str, Any] = {"model": self._model, "input": text}
        response = await self._gateway.ask(
            "embeddings", body, purpose="embedding", parent=parent, timeout=self._timeout
        )
        try:
            vector = np.asarray(jsons.loads(response.body)["data"][0]["embedding"], np.float32)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise EmbedderError(f"{self._model}: the answer has no vector of numbers") from error
        vector = vector / max(float(np.linalg.norm(vector)), 1e-12)
        self._lru.put(text, vector)
        return vector

    async def aclose(self) -> None:
        return None
