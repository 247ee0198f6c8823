"""A purge reaches every process: a record of it is kept where all of them look, at most once a second.

Each embedded store belongs to one process, and a store on a server may be given an answer that was asked for before the
purge. So a purge is a record: which entries, and until when. It lies in the folder that the workers of a machine share,
so a shard that nobody had open is emptied when it is opened again, and, with Redis, in the coordination state for the
other machines. Requests never wait for either.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from junctor.state import Script, StateUnavailable

from junctor_semantic_cache.store import Selection, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from junctor.state import Entries, State

    from junctor_semantic_cache.store import Entry, VectorStore

__all__ = ["Purge", "Purges"]

_log = logging.getLogger("junctor.semantic_cache")
_EVERY = 1.0  # seconds between two looks
_MOST = 1000  # records kept; of more, a store that is opened forgets everything from before the oldest kept
_OPENING = "opening"
_KEY = "semantic-cache:purges"
_STATE_TTL = 30 * 86400
_STATE_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Purge:
    """Entries of this `selection` that were asked for until `at` (seconds since the epoch) are not to be served."""

    id: str
    at: float
    selection: Selection

    @property
    def doomed(self) -> Selection:
        """What a store is to delete."""
        bound = min(self.at, self.selection.before.get("created", self.at))
        return Selection(self.selection.match, {**self.selection.before, "created": bound})

    def fits(self, entry: Entry) -> bool:
        """Whether the entry is one of them."""
        return entry.created < self.at and self.selection.fits(entry)

    def dump(self) -> str:
        selection = {"match": dict(self.selection.match), "before": dict(self.selection.before)}
        return json.dumps({"id": self.id, "at": self.at, **selection})

    @classmethod
    def read(cls, text: str) -> Purge:
        """Raises ValueError for what is no record."""
        try:
            tree = json.loads(text)
            match = {str(name): str(value) for name, value in tree["match"].items()}
            before = {str(name): float(value) for name, value in tree["before"].items()}
            return cls(str(tree["id"]), float(tree["at"]), Selection(match, before))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"no record of a purge: {error!r}") from None


def _prepend(entries: Entries, keys: Sequence[str], arguments: Sequence[Any]) -> None:
    line, ttl, size = arguments
    entries.set(keys[0], (str(line).encode() + b"\n" + (entries.get(keys[0]) or b""))[: int(size)], float(ttl))


# The newest first; what is cut off at the end is no record any more and is passed over.
_PREPEND = Script(
    "semantic-cache-purge",
    """
    local lines = ARGV[1] .. '\\n' .. (redis.call('GET', KEYS[1]) or '')
    redis.call('SET', KEYS[1], string.sub(lines, 1, tonumber(ARGV[3])), 'EX', ARGV[2])
    """,
    _prepend,
)


class Purges:
    """All records that this process knows of. `state` is None where there is no coordination state but its own.

    `own_shard` says that the store is this process's alone, so what others purge is to be deleted here as well.
    """

    def __init__(self, folder: Path, state: State | None, *, own_shard: bool) -> None:
        self._folder = folder
        self._state = state
        self._own_shard = own_shard
        self._known: dict[str, Purge] = {}
        self._pending: dict[str, Purge] = {}

    async def purge(self, selection: Selection, store: VectorStore) -> int:
        """Purge everywhere; how many entries went from this store.

        `StoreError` says what did not work: others are told even if this store fails, and the other way round.
        """
        purge = Purge(uuid.uuid4().hex, time.time(), selection)
        self._note([purge])
        self._pending[purge.id] = purge
        untold = await self._tell(purge)
        found = await store.count(purge.doomed)
        await store.delete(purge.doomed)
        self._pending.pop(purge.id, None)
        if untold:
            raise StoreError(f"purged in this process, but others may not learn of it: {untold}")
        return found

    async def _tell(self, purge: Purge) -> str:
        """Write the record wherever others look for it; what went wrong, in words."""
        try:
            await asyncio.to_thread(self._write, purge)
            if self._state is not None:
                await self._state.run(_PREPEND, [_KEY], [purge.dump(), _STATE_TTL, _STATE_BYTES])
        except (OSError, StateUnavailable) as error:
            return str(error) or type(error).__name__
        return ""

    def _write(self, purge: Purge) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        _put(self._folder, purge)
        known = sorted(_listed(self._folder).values(), key=lambda other: other.at)
        old = [other for other in known if other.id != purge.id and other.at <= purge.at]
        gone = [other for other in old if other.selection == purge.selection]
        surplus = [other for other in old if other not in gone][: max(0, len(known) - len(gone) - _MOST)]
        if surplus:
            _put(self._folder, Purge(_OPENING, surplus[-1].at, Selection()))
        for other in gone + surplus:
            (self._folder / f"{other.id}.json").unlink(missing_ok=True)

    async def open(self, store: VectorStore) -> None:
        """Before the first request: delete what was purged while this store was closed. Raises `StoreError`."""
        with contextlib.suppress(OSError, ValueError):
            self._note([Purge.read(await asyncio.to_thread((self._folder / f"{_OPENING}.json").read_text))])
        await self._look_in_folder()
        await self._look_in_state()
        await self._apply(store)

    async def follow(self, store: VectorStore) -> None:
        """Learn of purges by others, and do them here. Cancel this task at the end."""

        async def each(look: Any) -> None:
            while True:
                await asyncio.sleep(_EVERY)
                await look()
                try:
                    await self._apply(store)
                except StoreError as error:
                    _log.warning("a purge is not done yet, its entries are passed over: %s", error)

        # Apart, so that a Redis that does not answer holds up nothing of this machine's.
        looks = [self._look_in_folder] if self._state is None else [self._look_in_folder, self._look_in_state]
        async with asyncio.TaskGroup() as group:
            for look in looks:
                group.create_task(each(look))

    async def _look_in_folder(self) -> None:
        try:
            self._note((await asyncio.to_thread(_listed, self._folder, frozenset(self._known))).values())
        except OSError as error:
            _log.debug("records of purges cannot be read: %s", error)

    async def _look_in_state(self) -> None:
        if self._state is None:
            return
        try:
            lines = (await self._state.get(_KEY) or b"").decode("utf-8", "replace").splitlines()
        except StateUnavailable as error:
            _log.debug("records of purges cannot be read: %s", error)
            return
        found = []
        for line in lines:
            try:
                found.append(Purge.read(line))
            except ValueError:
                continue
        self._note(found)

    def _note(self, purges: Iterable[Purge]) -> None:
        new = {purge.id: purge for purge in purges if purge.id not in self._known}
        if not new:
            return
        newest = sorted((self._known | new).values(), key=lambda purge: purge.at)[-4 * _MOST :]
        self._known = {purge.id: purge for purge in newest}
        if self._own_shard:
            self._pending |= new

    async def _apply(self, store: VectorStore) -> None:
        for purge in list(self._pending.values()):
            await store.delete(purge.doomed)
            self._pending.pop(purge.id, None)

    def hides(self, entry: Entry) -> bool:
        """Whether the entry was purged, though the store may still have it."""
        return bool(self._pending) and any(purge.fits(entry) for purge in self._pending.values())

    def forbids(self, entry: Entry) -> bool:
        """Whether an answer that has just come was asked for before a purge that is to forget such answers."""
        return any(purge.fits(entry) for purge in self._known.values())


def _put(folder: Path, purge: Purge) -> None:
    scratch = folder / f"{purge.id}.{os.getpid()}.tmp"
    scratch.write_text(purge.dump())
    os.replace(scratch, folder / f"{purge.id}.json")


def _listed(folder: Path, known: frozenset[str] = frozenset()) -> dict[str, Purge]:
    """The records in the folder, without those that are known."""
    found: dict[str, Purge] = {}
    for name in os.listdir(folder) if folder.is_dir() else ():
        identity = name.removesuffix(".json")
        if identity in (name, _OPENING) or identity in known:
            continue
        try:
            found[identity] = Purge.read((folder / name).read_text())
        except (OSError, ValueError) as error:  # removed just now, in favour of a newer one, or nothing of ours
            _log.debug("%s is passed over: %s", folder / name, error)
    return found
