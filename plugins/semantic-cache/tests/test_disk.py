"""A disk that is full, fills up, or cannot be written to: the request is served, the bypass said, the process lives.

Each runs inside a mount of its own, in a process of its own: a full disk under mapped files ends it.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from junctor.testing import require

DISK = os.environ.get("SMALL_DISK_OF_THE_TEST", "")
MOUNT = 'mount -t tmpfs -o size=$1 tmpfs "$2" && mkdir "$2/store" && mount -o "remount,$3" "$2"'
UNSHARE = ("unshare", "-rm", "sh", "-c")


def in_a_mount(folder, size, options, command):
    """Run the command in a process that has a small file system at `folder`."""
    environment = os.environ | {"SMALL_DISK_OF_THE_TEST": str(folder)}
    words = [*UNSHARE, f'{MOUNT} && shift 3 && exec "$@"', "sh", size, str(folder), options, *command]
    return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    ("test", "size", "options"),
    [("a_full_disk", "1m", "rw"), ("a_read_only_disk", "200m", "ro"), ("a_disk_that_fills_up", "200m", "rw")],
)
def test_on_a_disk_of_its_own(test, size, options, tmp_path):
    mounted = sys.platform == "linux" and in_a_mount(tmp_path, size, options, ["true"]).returncode == 0
    require(mounted, "no mount of one's own (unshare -rm)")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"{__file__}::test_{test}"]
    done = in_a_mount(tmp_path, size, options, command)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


async def passes_by(running, why):
    async with running({"store": {"path": f"{DISK}/store"}}, wait=False) as g:
        answer = await g.harness.chat("Why?")
        assert (answer.status, answer.headers["x-junctor-cache"]) == (200, "bypass")
        assert why in g.fact["why"]


async def a_full_disk(running):
    await passes_by(running, "64 MiB are free")


async def a_read_only_disk(running):
    await passes_by(running, "Read-only file system")


async def a_disk_that_fills_up(running):
    async with running({"store": {"path": f"{DISK}/store", "timeout": "5s"}}) as g:
        await g.ask("Why is tin soft?")
        big = Path(DISK, "big")
        with pytest.raises(OSError, match="No space"), big.open("wb", 0) as file:
            while True:
                file.write(b"x" * 65536)
        assert (await g.ask("Why is jam sweet?")).status == 200
        assert g.cache.keeper.dropped == 1
        assert (await g.ask("Why is tin soft?")).headers["x-junctor-cache"] == "semantic-hit"
        big.unlink()
        await g.ask("Why is jam sweet?")
        assert (await g.ask("Why is jam sweet?")).headers["x-junctor-cache"] == "semantic-hit"


if DISK:
    test_a_full_disk, test_a_read_only_disk = a_full_disk, a_read_only_disk
    test_a_disk_that_fills_up = a_disk_that_fills_up
