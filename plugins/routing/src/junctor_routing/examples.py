"""Topics by example utterances: a request belongs to the topic whose example its last message resembles most.

The vectors come from the semantic cache's local embedder; if that plugin is enabled, from its very object, so that the
model is in memory once.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import logging
from typing import TYPE_CHECKING, Any, Protocol

from junctor import ConfigError, JunctorError

from junctor_routing.task import last_words

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from junctor import Exchange, Gateway
    from junctor.assets import Asset

    from junctor_routing.settings import TopicSettings
    from junctor_routing.view import View

__all__ = ["Embedder", "Topics"]

_log = logging.getLogger("junctor.routing")
_RETRY = 5.0
_SEEN = 1000  # characters of the message that are compared with the examples


class Embedder(Protocol):
    """Texts to vectors of length 1 (numpy arrays), away from the event loop."""

    async def embed(self, text: str, *, parent: Exchange | None = None) -> Any: ...
    async def aclose(self) -> None: ...


class Topics:
    """The examples' vectors, made once in the background after the start; until then no request has a topic."""

    def __init__(self, topics: Mapping[str, TopicSettings], gateway: Gateway, *, model: str, timeout: float) -> None:
        if importlib.util.find_spec("junctor_semantic_cache") is None:
            raise ConfigError("topics: need the embedder of the semantic cache; `pip install junctor-semantic-cache`")
        self._settings = topics
        self._gateway = gateway
        self._model = model
        self._timeout = timeout
        self._embedder: Embedder | None = None
        self._own: Embedder | None = None
        self._examples: list[tuple[str, float, Any]] = []
        self._task: asyncio.Task[None] | None = None
        self.ready = asyncio.Event()

    def assets(self) -> Sequence[Asset]:
        """The model's files, if it is not there yet."""
        if "semantic_cache" in self._gateway.plugins.by_name:
            return []
        from junctor_semantic_cache.models import needed_assets  # optional: only with topics

        return needed_assets(self._model)

    def open(self) -> None:
        self._task = asyncio.create_task(self._prepare())

    async def aclose(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        if self._own is not None:
            await self._own.aclose()

    async def _prepare(self) -> None:
        while True:
            try:
                embedder = await self._find()
                if embedder is not None:
                    self._examples = [
                        (name, topic.threshold, await embedder.embed(text))
                        for name, topic in self._settings.items()
                        for text in topic.examples
                    ]
                    self._embedder = embedder
                    self.ready.set()
                    return
            except (JunctorError, OSError) as error:
                _log.warning("routing: topics are not known yet: %s", str(error).splitlines()[0])
            except Exception:  # a model's runtime may raise anything
                _log.exception("routing: topics are not known yet")
            await asyncio.sleep(0.1 if self._own is None else _RETRY)

    async def _find(self) -> Embedder | None:
        """The semantic cache's own embedder if it is enabled (None until it is ready), else one of ours."""
        cache = self._gateway.plugins.by_name.get("semantic_cache")
        if cache is not None:
            engine = getattr(cache, "engine", None)
            found: Embedder | None = getattr(engine, "embedder", None)
            return found
        if self._own is None:
            from junctor_semantic_cache.embedders import LocalEmbedder
            from junctor_semantic_cache.models import load_model

            self._own = LocalEmbedder(await asyncio.to_thread(load_model, self._model))
        return self._own

    async def of(self, view: View) -> str | None:
        """The topic of a request; None if it resembles no example, or if the embedder has no answer in time."""
        text = last_words(view.body)[:_SEEN]
        if self._embedder is None or not text:
            view.notes["topic"] = {"name": None, "reason": "no text" if self._embedder else "the embedder is not ready"}
            return None
        try:
            async with asyncio.timeout(self._timeout):
                vector = await self._embedder.embed(text, parent=view.exchange)
        except TimeoutError:
            view.notes["topic"] = {"name": None, "reason": "the embedder took too long"}
            return None
        except Exception as error:  # busy, or its runtime's own; a topic is never worth an answer
            view.notes["topic"] = {"name": None, "reason": f"the embedder failed: {type(error).__name__}"}
            return None
        return self._nearest(vector, view)

    def _nearest(self, vector: Any, view: View) -> str | None:
        best, name, threshold = -1.0, "", 1.0
        for topic, least, example in self._examples:
            similarity = float(example @ vector)
            if similarity > best:
                best, name, threshold = similarity, topic, least
        found = name if best >= threshold else None
        view.notes["topic"] = {"name": found, "nearest": name, "similarity": round(best, 4)}
        return found
