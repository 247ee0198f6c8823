"""What the workers of one server tell each other: a file each, so that whichever is asked gives the sum of all.

A worker writes its figures before it shows them, and the figures of one that has ended stay in the sum: what was shown
never goes down, whoever answers next. The folder belongs to the process that started the workers, and is removed by
the next one that finds it without its owner.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import stat
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from junctor_metrics.counts import load, merge

if TYPE_CHECKING:
    from collections.abc import Iterator

    from junctor_metrics.counts import Series

__all__ = ["Share", "folder_of"]

_log = logging.getLogger("junctor.metrics")
_ENDED = "ended.json"


def _began(pid: int) -> str:
    """When the process began, as Linux counts it: a number that comes again is another process's. Empty: not there."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        pass
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except OSError:
        return "0"
    return "0"


def folder_of(parent: Path | None, owner: int) -> Path:
    """Where the workers of this owner meet; in memory where the machine offers that."""
    base = parent or (Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else Path(tempfile.gettempdir()))  # noqa: S108
    return base / f"junctor-metrics-{os.getuid()}-{owner}-{_began(owner)}"


class Share:
    """This worker's file, and the others'. All methods wait for the disk: not for the event loop."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._name = f"{os.getpid()}-{_began(os.getpid())}.json"
        self._last = b""
        self._written = 0
        self._writing = threading.Lock()
        self._failed = False

    def open(self) -> None:
        """Make the folder, tidy what others left, and put the figures of ended workers together."""
        self._sweep()
        try:
            self._folder.mkdir(mode=0o700, parents=False, exist_ok=True)
            found = self._folder.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
                raise PermissionError(f"{self._folder} belongs to somebody else")
            with self._lock(fcntl.LOCK_EX):
                self._compact()
        except OSError as error:
            self._complain(error)

    def write(self, number: int, snapshot: bytes) -> None:
        """Tell the others; nothing if a later snapshot is there already, or nothing has changed."""
        path = self._folder / self._name
        part = path.with_suffix(".part")
        with self._writing:
            if number <= self._written or snapshot == self._last:
                return
            self._written = number
            try:
                part.write_bytes(snapshot)
                part.replace(path)
                self._last = snapshot
            except OSError as error:
                self._complain(error)

    def others(self) -> list[tuple[bool, Series]]:
        """(Whether it is alive, its figures) of every other worker that there is or was."""
        try:
            with self._lock(fcntl.LOCK_SH):
                return [(_alive(path), load(path.read_bytes())) for path in self._files() if path.name != self._name]
        except (OSError, orjson.JSONDecodeError) as error:
            self._complain(error)
            return []

    def _files(self) -> list[Path]:
        return sorted(self._folder.glob("*.json"))

    def _compact(self) -> None:
        ended = [path for path in self._files() if path.name != _ENDED and path.name != self._name and not _alive(path)]
        if not ended:
            return
        kept = self._folder / _ENDED
        series = merge((False, load(path.read_bytes())) for path in [*ended, *([kept] if kept.exists() else [])])
        part = kept.with_suffix(".part")
        part.write_bytes(orjson.dumps({name: list(rows.items()) for name, rows in series.items()}))
        part.replace(kept)
        for path in ended:
            path.unlink()

    def _sweep(self) -> None:
        """Remove the folders of owners that are no more."""
        for folder in self._folder.parent.glob(f"junctor-metrics-{os.getuid()}-*"):
            owner, _, began = folder.name.removeprefix(f"junctor-metrics-{os.getuid()}-").partition("-")
            if owner.isdigit() and _began(int(owner)) != began:
                shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def _lock(self, kind: int) -> Iterator[None]:
        descriptor = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, kind)
            yield
        finally:
            os.close(descriptor)

    def _complain(self, error: Exception) -> None:
        if not self._failed:
            self._failed = True
            _log.error("the workers cannot share their metrics, each shows only its own: %s", error)


def _alive(path: Path) -> bool:
    pid, _, began = path.stem.partition("-")
    return pid.isdigit() and _began(int(pid)) == began
