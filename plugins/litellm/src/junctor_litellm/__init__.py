"""Calls any provider that litellm can speak to."""

from junctor_litellm.plugin import LiteLLM

__all__ = ["LiteLLM"]
