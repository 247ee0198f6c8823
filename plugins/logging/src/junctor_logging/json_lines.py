"""JSON lines on stdout, or in a file that is rotated. Several processes may share one file."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import select
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

from junctor import Duration, Section
from pydantic import ByteSize, Field, model_validator

from junctor_logging.sinks import Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from junctor_logging.record import Entry
    from junctor_logging.sinks import Context

__all__ = ["JSONLines", "JSONLinesSettings"]

_RECORD = re.compile(rb'"record":"([0-9a-f-]{1,64})"')
_LONGEST_BLOCK = 5.0
_DAY = 86400.0


class JSONLinesSettings(Section):
    """A sink of JSON lines."""

    path: Annotated[Path | None, Field(description="The file; stdout without it.")] = None
    max_size: Annotated[ByteSize, Field(gt=0, description="The file is rotated at this size.")] = ByteSize(
        100 * 1024**2
    )
    keep: Annotated[int, Field(ge=0, le=10_000, description="Rotated files that are kept: `path.1`, `path.2` …")] = 5
    retention: Annotated[Duration | None, Field(gt=0, description="Rotated daily, and deleted after this time.")] = None
    content: Annotated[bool, Field(description="With prompts and answers, where those are recorded.")] = False

    @model_validator(mode="after")
    def _content_ends(self) -> JSONLinesSettings:
        if self.content and (self.path is None or self.retention is None):
            raise ValueError("content: true needs a path and a retention, so that what was recorded is deleted again")
        return self


class JSONLines:
    """Whole lines only: what a full disk cut off is taken back."""

    Settings = JSONLinesSettings

    def __init__(self, settings: JSONLinesSettings, context: Context) -> None:
        self.wants_content = settings.content
        self._path = settings.path.expanduser() if settings.path is not None else None
        self._settings = settings
        self._file = -1
        self._regular = False
        self._lock = -1

    def open(self) -> None:
        if self._path is None:
            self._file = os.dup(1)
        else:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = _writing(self._path)
        self._regular = self._path is not None and stat.S_ISREG(os.fstat(self._file).st_mode)
        if self._regular:
            self._lock = os.open(f"{self._path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)

    def write(self, batch: Sequence[Entry], *, again: bool) -> None:
        lines = [entry.line + b"\n" for entry in batch]
        if not self._regular:
            _write_lines(self._file, lines)
            return
        with self._locked():
            self._follow()
            if again:
                there = self._there({entry.key.encode() for entry in batch})
                lines = [line for line, entry in zip(lines, batch, strict=True) if entry.key.encode() not in there]
            self._append(b"".join(lines))
            if self._is_due(os.fstat(self._file)):
                self._rotate()

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_UN)

    def _follow(self) -> None:
        """Go on in the file that now has the name, if another process or logrotate has moved ours away.

        Raises `Unavailable` if the name is now that of a device or a pipe, which `open` treats as such.
        """
        try:
            same = os.path.samestat(os.stat(str(self._path)), os.fstat(self._file))
        except FileNotFoundError:
            same = False
        if not same:
            os.close(self._file)
            self._file = _writing(str(self._path))
            if not stat.S_ISREG(os.fstat(self._file).st_mode):
                raise Unavailable(f"{self._path} is no longer a regular file")

    def _append(self, data: bytes) -> None:
        end = os.fstat(self._file).st_size
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._file, view) :]
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, end)
            raise

    def _there(self, wanted: set[bytes]) -> set[bytes]:
        """Which of these records the file, and the one before it, hold already."""
        found: set[bytes] = set()
        for path in (f"{self._path}.1", str(self._path)):
            with contextlib.suppress(FileNotFoundError), _reading(path) as file:
                for line in file:
                    match = _RECORD.search(line, 0, 200)
                    if match is not None and match[1] in wanted:
                        found.add(match[1])
        return found

    def _is_due(self, found: os.stat_result) -> bool:
        if found.st_size >= self._settings.max_size:
            return True
        return self._settings.retention is not None and time.time() - self._begun() >= min(
            _DAY, self._settings.retention
        )

    def _begun(self) -> float:
        """When the file was begun: the time of its first record."""
        with _reading(str(self._path)) as file:
            match = re.search(rb'"time":"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)', file.readline(4096))
        if match is None:
            return time.time()
        return time.mktime(time.strptime(match[1].decode(), "%Y-%m-%dT%H:%M:%S")) - time.timezone

    def _rotate(self) -> None:
        """Move the file to `.1`, that one to `.2`, and delete what is too many or too old."""
        assert self._path is not None
        keep = self._settings.keep
        Path(f"{self._path}.{keep}").unlink(missing_ok=True)
        for number in range(keep - 1, 0, -1):
            old = Path(f"{self._path}.{number}")
            if old.exists():
                old.rename(f"{self._path}.{number + 1}")
        if keep:
            self._path.rename(f"{self._path}.1")
        else:
            self._path.unlink()
        self._follow()
        if self._settings.retention is not None:
            for number in range(1, keep + 1):
                old = Path(f"{self._path}.{number}")
                if old.exists() and time.time() - old.stat().st_mtime > self._settings.retention:
                    old.unlink()

    def close(self) -> None:
        for descriptor in (self._file, self._lock):
            if descriptor >= 0:
                os.close(descriptor)
        self._file = self._lock = -1


def _writing(path: Path | str) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)


def _reading(path: str) -> BinaryIO:
    """The file, to read. Whoever changes the name to that of a device or a pipe gets `Unavailable`, not a reader that
    waits for ever, or never comes to an end.
    """
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise Unavailable(f"{path} is not a regular file")
    return file


def _write_lines(descriptor: int, lines: Sequence[bytes]) -> None:
    """Lines to a pipe or terminal, in pieces that other processes' lines cannot get into, and never for ever."""
    done = 0
    for group in _groups(lines):
        view = memoryview(b"".join(group))
        while view:
            _, ready, _ = select.select([], [descriptor], [], _LONGEST_BLOCK)
            try:
                if not ready:
                    raise Unavailable(f"nobody has read for {_LONGEST_BLOCK:g} s", written=done)
                view = view[os.write(descriptor, view[: select.PIPE_BUF]) :]
            except OSError as error:
                raise Unavailable(str(error), written=done) from error
        done += len(group)


def _groups(lines: Sequence[bytes]) -> Iterator[list[bytes]]:
    group: list[bytes] = []
    size = 0
    for line in lines:
        if group and size + len(line) > select.PIPE_BUF:
            yield group
            group, size = [], 0
        group.append(line)
        size += len(line)
    if group:
        yield group
