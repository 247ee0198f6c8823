"""Answers a request that was answered before."""

from junctor_exact_cache.plugin import ExactCache
from junctor_exact_cache.settings import ExactCacheSettings

__all__ = ["ExactCache", "ExactCacheSettings"]
