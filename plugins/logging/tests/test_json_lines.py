"""JSON lines: whole ones, each once, in files that are rotated, and on stdout."""

import os
import resource
import signal
import subprocess
import sys
import time

import pytest
from junctor import ConfigError
from junctor_logging import Context, Unavailable
from junctor_logging.json_lines import JSONLines, JSONLinesSettings, _write_lines
from junctor_logging.record import from_line
from junctor_logging.sinks import read_sinks


def entry(number, size=0, at="2026-01-02T03:04:05Z"):
    return from_line(b'{"record":"a-%d","id":"%s","time":"%s"}' % (number, b"x" * size, at.encode()))


@pytest.fixture
def sink(tmp_path):
    made = []

    def make(**settings):
        settings.setdefault("path", tmp_path / "out.jsonl")
        one = JSONLines(JSONLinesSettings(**settings), Context(tmp_path, "json_lines"))
        one.open()
        made.append(one)
        return one

    yield make
    for one in made:
        one.close()


def keys(path):
    return [from_line(line).key for line in path.read_bytes().splitlines()] if path.exists() else []


def test_rotates_at_its_size_and_keeps_so_many(sink, tmp_path):
    one = sink(max_size=200, keep=2)
    for number in range(10):
        one.write([entry(number, 100)], again=False)
    kept = sorted(path.name for path in tmp_path.glob("out.jsonl*") if not path.name.endswith("lock"))
    assert kept == ["out.jsonl", "out.jsonl.1", "out.jsonl.2"]
    assert keys(tmp_path / "out.jsonl.2") + keys(tmp_path / "out.jsonl.1") == [f"a-{n}" for n in range(6, 10)]


def test_rotates_daily_and_deletes_what_is_too_old_with_a_retention(sink, tmp_path):
    old = tmp_path / "out.jsonl.1"
    old.write_text("old\n")
    os.utime(old, (time.time() - 5000, time.time() - 5000))
    sink(retention="1h").write([entry(1)], again=False)
    assert keys(tmp_path / "out.jsonl.1") == ["a-1"]
    assert not (tmp_path / "out.jsonl.2").exists()


@pytest.mark.parametrize("place", ["out.jsonl", "out.jsonl.1"])
def test_a_device_in_the_place_of_the_file_is_not_read(sink, tmp_path, place):
    one = sink()
    one.write([entry(1)], again=False)
    (tmp_path / place).unlink(missing_ok=True)
    (tmp_path / place).symlink_to("/dev/zero")
    with pytest.raises(Unavailable, match=f"{place} is no"):
        one.write([entry(1)], again=True)


def test_writes_no_record_again_that_is_there(sink, tmp_path):
    one = sink(max_size=300)
    one.write([entry(number, 100) for number in range(3)], again=False)
    one.write([entry(3)], again=False)
    one.write([entry(number) for number in range(6)], again=True)
    assert keys(tmp_path / "out.jsonl.1") + keys(tmp_path / "out.jsonl") == [f"a-{n}" for n in range(6)]


def test_goes_on_in_a_new_file_when_logrotate_has_moved_the_old_one(sink, tmp_path):
    one = sink()
    one.write([entry(1)], again=False)
    (tmp_path / "out.jsonl").rename(tmp_path / "moved")
    one.write([entry(2)], again=False)
    assert keys(tmp_path / "out.jsonl") == ["a-2"]


def test_two_processes_share_a_file_and_its_rotation(sink, tmp_path):
    one, other = sink(max_size=500, keep=100), sink(max_size=500, keep=100)
    for number in range(0, 40, 2):
        one.write([entry(number, 100)], again=False)
        other.write([entry(number + 1, 100)], again=False)
    found = [key for path in tmp_path.glob("out.jsonl*") if not path.name.endswith("lock") for key in keys(path)]
    assert sorted(found, key=lambda key: int(key[2:])) == [f"a-{n}" for n in range(40)]


def test_a_full_disk_leaves_no_half_line(sink, tmp_path):
    one = sink()
    one.write([entry(1, 100)], again=False)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, hard))
    try:
        with pytest.raises(OSError):
            one.write([entry(2, 100)], again=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    one.write([entry(2)], again=False)
    assert keys(tmp_path / "out.jsonl") == ["a-1", "a-2"]


def test_dev_full_takes_nothing(sink):
    with pytest.raises(Unavailable) as caught:
        sink(path="/dev/full").write([entry(1)], again=False)
    assert caught.value.written == 0


def test_says_how_much_a_reader_took_that_went_away():
    read, write = os.pipe()
    lines = [b"x" * 3000 + b"\n", b"y" * 3000 + b"\n", *[b"z" * 4000 + b"\n"] * 40]
    with pytest.raises(Unavailable) as caught:
        import junctor_logging.json_lines as module

        old, module._LONGEST_BLOCK = module._LONGEST_BLOCK, 0.05
        try:
            _write_lines(write, lines)
        finally:
            module._LONGEST_BLOCK = old
    os.close(write)
    data = b""
    while part := os.read(read, 65536):
        data += part
    os.close(read)
    assert data.count(b"\n") == caught.value.written
    assert 0 < caught.value.written < len(lines)


def test_writes_to_stdout_without_a_path():
    code = (
        "from pathlib import Path; from junctor_logging import Context\n"
        "from junctor_logging.json_lines import *; from junctor_logging.record import from_line\n"
        "s = JSONLines(JSONLinesSettings(), Context(Path('.'), 'x')); s.open()\n"
        's.write([from_line(b\'{"record":"r","id":"i","time":"2026-01-02T03:04:05Z"}\')], again=False)'
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert from_line(done.stdout.strip()).key == "r"


@pytest.mark.parametrize(
    ("entries", "problem"),
    [
        (["leger"], "sinks[0]: there is no sink 'leger', did you mean 'ledger'?"),
        ([{"json_lines": {"pathh": "x"}}], "sinks[0] (json_lines): pathh"),
        ([{"a": 1, "b": 2}], "sinks[0]: write a name, or one name with its settings"),
        ([{"json_lines": {"content": True}}], "needs a path and a retention"),
    ],
)
def test_a_mistake_is_told_with_its_place(entries, problem):
    with pytest.raises(ConfigError) as caught:
        read_sinks(entries)
    assert problem.split(",")[0] in str(caught.value)
