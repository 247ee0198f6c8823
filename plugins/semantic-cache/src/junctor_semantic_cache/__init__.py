"""Answers a question that was answered in other words, within a stated share of wrong answers."""

from junctor_semantic_cache.plugin import SemanticCache

__all__ = ["SemanticCache"]
