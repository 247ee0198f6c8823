"""Records that wait on disk for a sink: lines of JSON in segments, in a folder that one process owns.

`<folder>/<owner>/00000001.jsonl` … The owner holds a lock on `<owner>/lock` for as long as it lives, so another process
can tell a folder whose owner is dead, and take it over. A batch is on disk when `append` returns.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import threading
import uuid
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Spool", "SpoolFull", "orphans"]

_SEGMENT = 8 * 1024 * 1024


class SpoolFull(OSError):
    """The spool has reached its size limit."""


class Spool:
    """One owner's folder. `append` and `peek` may be called from different threads."""

    def __init__(self, folder: Path, *, max_size: int) -> None:
        self._base = self._folder = folder
        self._max = max_size
        self._guard = threading.Lock()
        self._held: int | None = None
        self._segments: list[tuple[Path, int]] = []
        self._offset = 0
        self._writing: int | None = None
        self.lines = 0

    @property
    def size(self) -> int:
        """Bytes on disk that wait."""
        return sum(size for _, size in self._segments) - self._offset

    def __bool__(self) -> bool:
        return bool(self._segments)

    def append(self, lines: list[bytes]) -> None:
        """Put lines at the end; all of them or, with `OSError`, none."""
        data = b"".join([line + b"\n" for line in lines])
        with self._guard:
            if self.size + len(data) > self._max:
                raise SpoolFull(f"{self._folder} holds {self.size} bytes; spool.max_size is {self._max}")
            self._own()
            if self._writing is None or self._segments[-1][1] >= _SEGMENT:
                self._begin()
            assert self._writing is not None
            path, size = self._segments[-1]
            try:
                _write_all(self._writing, data)
                os.fdatasync(self._writing)
            except OSError:
                with contextlib.suppress(OSError):
                    os.ftruncate(self._writing, size)
                if not size:
                    self._drop(len(self._segments) - 1)
                raise
            self._segments[-1] = (path, size + len(data))
            self.lines += len(lines)

    def _own(self) -> None:
        """Make a folder and lock it. It gets its name then, or whoever looks for dead owners could be faster."""
        if self._held is None:
            name = uuid.uuid4().hex
            hidden = self._base / f".{name}"
            hidden.mkdir(parents=True, mode=0o700)
            held = _lock(hidden)
            self._folder = hidden.rename(self._base / name)
            self._held = held

    def _begin(self) -> None:
        last = int(self._segments[-1][0].stem) if self._segments else 0
        path = self._folder / f"{last + 1:08d}.jsonl"
        writing = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        if self._writing is not None:
            os.close(self._writing)
        self._writing = writing
        self._segments.append((path, 0))

    def peek(self, count: int) -> tuple[list[bytes], int]:
        """The oldest lines, and what `advance` is to be told once they are safe elsewhere. Torn lines are given too."""
        with self._guard:
            if not self._segments:
                return [], 0
            path, size = self._segments[0]
            with path.open("rb") as file:
                file.seek(self._offset)
                lines = [line for _ in range(count) if (line := file.readline())]
            if not lines:  # an empty segment of a killed process
                self._drop(0)
                return [], 0
            return [line.rstrip(b"\n") for line in lines], min(sum(map(len, lines)), size - self._offset)

    def advance(self, length: int, lines: int) -> None:
        """Forget what `peek` gave; a segment that is done is deleted."""
        with self._guard:
            self._offset += length
            self.lines = max(0, self.lines - lines)
            if self._segments and self._offset >= self._segments[0][1]:
                self._drop(0)

    def _drop(self, index: int) -> None:
        path, _ = self._segments.pop(index)
        if index == 0:
            self._offset = 0
        if not self._segments and self._writing is not None:
            os.close(self._writing)
            self._writing = None
        path.unlink(missing_ok=True)

    def adopt(self, folder: Path, held: int) -> None:
        """Begin with the segments of a dead owner, whose folder has been locked."""
        self._folder, self._held = folder, held
        self._segments = [(path, path.stat().st_size) for path in sorted(folder.glob("*.jsonl"))]

    def close(self) -> None:
        """Let go of the folder; it is removed if nothing waits in it."""
        with self._guard:
            if self._writing is not None:
                os.close(self._writing)
                self._writing = None
            if self._held is not None:
                if not self._segments:
                    shutil.rmtree(self._folder, ignore_errors=True)
                os.close(self._held)
                self._held = None


def orphans(folder: Path, *, max_size: int) -> list[Spool]:
    """The spools whose owners are dead, taken over; the caller replays and closes them."""
    found: list[Spool] = []
    try:
        folders = sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")
    except OSError:
        return found
    for path in folders:
        with contextlib.suppress(OSError):
            held = _lock(path)
            if held is not None:
                spool = Spool(folder, max_size=max_size)
                spool.adopt(path, held)
                found.append(spool)
    return found


def _lock(folder: Path) -> int | None:
    """An open lock file that ends with the process, or None if another one holds it."""
    held = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(held)
        return None
    return held


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
