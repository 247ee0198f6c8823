"""The store that the configuration names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from junctor_semantic_cache.edge_store import EdgeStore
from junctor_semantic_cache.store import collection_name

if TYPE_CHECKING:
    from pathlib import Path

    from junctor_semantic_cache.embedders import Embedder
    from junctor_semantic_cache.settings import StoreSettings
    from junctor_semantic_cache.store import VectorStore

__all__ = ["make_store"]


def make_store(store: StoreSettings, folder: Path, embedder: Embedder) -> VectorStore:
    """Not opened yet. `folder` is for the vectors of an embedded store."""
    name, dimension = embedder.name, embedder.dimension
    if store.url is None:
        return EdgeStore(folder, collection=store.collection, embedder=name, dimension=dimension, timeout=store.timeout)
    # Its client takes longer to import than the whole gateway: only who uses a server pays for it.
    from junctor_semantic_cache.qdrant_server import ServerStore

    collection = collection_name(store.collection, name, dimension)
    key = store.api_key.get_secret_value() if store.api_key else None
    return ServerStore(
        store.url, collection, prefix=store.collection, dimension=dimension, api_key=key, timeout=store.timeout
    )
