"""Learns from recorded traffic, before anything is served.

The file has one JSON object a line: `request` (a chat body), `response` (its completion) or `answer` (its text), and
optionally `headers`, as the namespace's. The records are gone through in order, in shadow, with a store of their own.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from junctor import Request
from junctor.errors import ConfigError
from junctor.wire import OPENAI

from junctor_semantic_cache.edge_store import EdgeStore
from junctor_semantic_cache.engine import Engine
from junctor_semantic_cache.judges import make_judge
from junctor_semantic_cache.partition import Unfit, read_question
from junctor_semantic_cache.scoring import load_weights

if TYPE_CHECKING:
    from collections.abc import Iterator

    from junctor_semantic_cache.plugin import SemanticCache

__all__ = ["calibrate"]


async def calibrate(cache: SemanticCache, file: Path) -> dict[str, int]:
    """Return the number of labels by namespace; what was learned is saved where the gateway reads it at its start."""
    settings = cache.shadowed()
    if settings.judge.startswith("model:") or settings.embedder.startswith("gateway:"):
        raise ConfigError("calibrate: needs a judge and an embedder of this machine; record in shadow mode instead")
    cache.namespaces.load()
    embedder = await cache.open_embedder()
    with tempfile.TemporaryDirectory() as scratch:
        names = {"collection": "calibrate", "embedder": embedder.name}
        store = EdgeStore(Path(scratch), dimension=embedder.dimension, timeout=10.0, **names)
        await store.open()
        judge = make_judge(settings.judge, gateway=cache.gateway, embedder=embedder)
        engine = Engine(
            settings,
            load_weights(),
            cache.namespaces,
            embedder=embedder,
            store=store,
            judge=judge,
            purges=cache.purges,
        )
        try:
            for request, body in _records(file):
                exchange = cache.gateway.exchange(request)
                exchange.model = cache.gateway.models.get(request.model)
                try:
                    question = read_question(exchange, settings, embedder=embedder.name, window=embedder.window)
                except Unfit:
                    continue
                found = await engine.look(exchange, question, serving=False)
                await engine.store_answer(exchange, found, body, fresh={})
        finally:
            await store.aclose()
            await embedder.aclose()
    changed = cache.namespaces.changed()
    cache.namespaces.save(changed)
    return {name: len(learned["labels"]) for name, learned in changed.items()}


def _records(file: Path) -> Iterator[tuple[Request, bytes]]:
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                record = json.loads(line)
                request = record["request"]
                response: Any = record.get("response")
                if response is None:
                    message = {"role": "assistant", "content": record["answer"]}
                    response = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
                headers = {str(k).lower(): str(v) for k, v in (record.get("headers") or {}).items()}
                model = str(request["model"])
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ConfigError(f"{file}:{number}: is no record of a request and its answer: {error!r}") from None
            yield Request(OPENAI, "chat", request, model, headers=headers), json.dumps(response).encode()
