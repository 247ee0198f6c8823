"""The providers that the installed litellm knows, read from its files: importing it takes seconds and 160 MB."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

__all__ = ["known_providers"]

_MEMBER = re.compile(r'^    [A-Z0-9_]+ = "([^"]+)"', re.MULTILINE)


def known_providers() -> frozenset[str]:
    """The names that litellm takes before the slash; empty if litellm is not installed.

    They are the members of its enumeration of providers, and those that it keeps in its JSON file.
    """
    spec = importlib.util.find_spec("litellm")
    if spec is None or spec.origin is None:
        return frozenset()
    folder = Path(spec.origin).parent
    _, _, after = (folder / "types" / "utils.py").read_text(encoding="utf-8").partition("class LlmProviders(")
    names = set(_MEMBER.findall(after.partition("\nclass ")[0]))
    table = folder / "llms" / "openai_like" / "providers.json"
    if table.exists():
        names |= set(json.loads(table.read_text(encoding="utf-8")))
    return frozenset(names)
