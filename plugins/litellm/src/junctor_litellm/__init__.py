"""Calls any provider that litellm can speak to."""
