"""All namespaces of this process, kept in a folder so that a restart goes on where it was."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from typing import TYPE_CHECKING, Any

from junctor_semantic_cache.controller import Limits, Namespace

if TYPE_CHECKING:
    from pathlib import Path

    from junctor_semantic_cache.controller import Prior
    from junctor_semantic_cache.settings import NamespaceSettings, SemanticCacheSettings

__all__ = ["Namespaces", "read_reports"]

_log = logging.getLogger("junctor.semantic_cache")
_VERSION = 1


class Namespaces:
    """By name; more than `max_namespaces` share one, `other`, so that a header cannot fill the memory."""

    def __init__(self, settings: SemanticCacheSettings, prior: Prior, folder: Path) -> None:
        self._settings = settings
        self._prior = prior
        self._folder = folder
        self._known: dict[str, Namespace] = {}
        self._before: dict[str, dict[str, Any]] = {}

    def __getitem__(self, name: str) -> Namespace:
        known = self._known.get(name)
        if known is None:
            if len(self._known) >= self._settings.max_namespaces and name not in self._settings.namespaces:
                name = "other"
            known = self._known.get(name) or self._open(name)
        return known

    def own(self, name: str) -> NamespaceSettings | None:
        """What the configuration says of this namespace."""
        return self._settings.namespaces.get(name)

    def mode(self, name: str) -> str:
        """`off`, `shadow` or `serve`."""
        own = self.own(name)
        return (own.mode if own and own.mode else None) or self._settings.mode

    def _open(self, name: str) -> Namespace:
        namespace = self._known[name] = Namespace(self._prior, self._limits(name))
        return namespace

    def _limits(self, name: str) -> Limits:
        own = self.own(name)

        def pick(field: str) -> float:
            value = getattr(own, field) if own is not None else None
            return float(getattr(self._settings, field) if value is None else value)

        return Limits(pick("max_wrong"), pick("max_wrong_per_hit"), pick("verify"))

    def load(self) -> None:
        """Read what an earlier run learned. Blocks; call it before the first request."""
        for file in sorted(self._folder.glob("*.json"))[: self._settings.max_namespaces]:
            try:
                saved = json.loads(file.read_text())
                if saved["version"] == _VERSION:
                    self[saved["name"]].restore(saved["learned"])
                    self._before[saved["name"]] = self[saved["name"]].counts()
            except (OSError, ValueError, KeyError, TypeError) as error:
                _log.warning("%s cannot be read, its namespace learns anew: %s", file, error)

    def changed(self) -> dict[str, dict[str, Any]]:
        """What is to be saved, as plain values; it counts as saved from now on."""
        found = {name: namespace.dump() for name, namespace in self._known.items() if namespace.dirty}
        for name in found:
            self._known[name].dirty = False
        return found

    def save(self, changed: dict[str, dict[str, Any]]) -> None:
        """Write them, each file in one step. Blocks; call it in a thread."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for name, learned in changed.items():
            file = self._folder / f"{hashlib.blake2b(name.encode(), digest_size=12).hexdigest()}.json"
            scratch = file.with_suffix(f".{os.getpid()}.tmp")
            scratch.write_text(json.dumps({"version": _VERSION, "name": name, "learned": learned}))
            os.replace(scratch, file)

    def reports(self) -> dict[str, dict[str, Any]]:
        """`Namespace.report` of all, with their modes and limits."""
        return {
            name: {"mode": self.mode(name), "max_wrong": namespace.limits.max_wrong, **namespace.report()}
            for name, namespace in sorted(self._known.items())
        }

    def stats(self) -> dict[str, dict[str, Any]]:
        """By namespace: what was counted since this start, money in nano-dollars, and the shares of `reports`."""
        found = {}
        for name, namespace in self._known.items():
            before, report = self._before.get(name, {}), namespace.report()
            counts = {field: value - before.get(field, 0) for field, value in namespace.counts().items()}
            shares = {field: report[field] for field in ("wrong_estimate", "wrong_bound_95")}
            found[name] = counts | shares
        return found


def read_reports(settings: SemanticCacheSettings, prior: Prior, folder: Path) -> dict[str, dict[str, Any]]:
    """The reports of what was saved last, without a running gateway."""
    namespaces = Namespaces(settings, prior, folder)
    namespaces.load()
    return namespaces.reports()
