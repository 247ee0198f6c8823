"""The spool keeps lines on disk, whole, in order, until they are elsewhere."""

import os
import resource
import signal
import subprocess
import sys
import threading

import pytest
from junctor_logging import spool as module
from junctor_logging.spool import Spool, SpoolFull, orphans

MB = 1024 * 1024


def drain(spool, count=2):
    found = []
    while spool:
        lines, length = spool.peek(count)
        found += lines
        spool.advance(length, len(lines))
    return found


def test_gives_back_what_it_was_given_in_order(tmp_path):
    spool = Spool(tmp_path, max_size=MB)
    spool.append([b"one", b"two"])
    spool.append([b"three"])
    assert spool.lines == 3
    assert drain(spool) == [b"one", b"two", b"three"]
    spool.close()
    assert list(tmp_path.iterdir()) == []


def test_what_was_peeked_and_not_advanced_is_given_again(tmp_path):
    spool = Spool(tmp_path, max_size=MB)
    spool.append([b"one"])
    assert spool.peek(5) == spool.peek(5)


def test_begins_new_segments_and_deletes_those_that_are_done(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_SEGMENT", 10)
    spool = Spool(tmp_path, max_size=MB)
    for number in range(4):
        spool.append([b"line-%06d" % number])
    assert len(list(tmp_path.rglob("*.jsonl"))) == 4
    _, length = spool.peek(1)
    spool.advance(length, 1)
    assert len(list(tmp_path.rglob("*.jsonl"))) == 3
    assert drain(spool) == [b"line-%06d" % number for number in (1, 2, 3)]


def test_spools_and_those_who_look_for_the_dead_do_not_take_each_others_folders(tmp_path):
    over = threading.Event()
    taken = []

    def look():
        while not over.is_set():
            taken.extend(orphans(tmp_path, max_size=MB))

    looking = threading.Thread(target=look)
    looking.start()
    spools = [Spool(tmp_path, max_size=MB) for _ in range(300)]
    for number, spool in enumerate(spools):
        spool.append([b"line %d" % number])
    over.set()
    looking.join()
    assert [drain(spool) for spool in spools] == [[b"line %d" % number] for number in range(300)]
    assert taken == []
    for spool in spools:
        spool.close()
    assert list(tmp_path.iterdir()) == []


def test_refuses_more_than_its_size(tmp_path):
    spool = Spool(tmp_path, max_size=20)
    spool.append([b"x" * 10])
    with pytest.raises(SpoolFull):
        spool.append([b"x" * 10])
    assert drain(spool) == [b"x" * 10]


def test_a_living_owner_is_left_alone_and_a_dead_one_is_taken_over(tmp_path):
    spool = Spool(tmp_path, max_size=MB)
    spool.append([b"mine"])
    assert orphans(tmp_path, max_size=MB) == []
    spool.close()
    (orphan,) = orphans(tmp_path, max_size=MB)
    assert orphans(tmp_path, max_size=MB) == []
    assert drain(orphan) == [b"mine"]
    orphan.close()
    assert list(tmp_path.iterdir()) == []


CHILD = """
import sys, time
from pathlib import Path
from junctor_logging.spool import Spool
spool = Spool(Path(sys.argv[1]), max_size=1000000)
for number in range(1000):
    spool.append([b"line-%d" % number])
    print(number, flush=True)
"""


def test_what_was_appended_outlives_a_kill(tmp_path):
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path)], stdout=subprocess.PIPE)
    for _ in range(20):
        last = int(child.stdout.readline())
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    (orphan,) = orphans(tmp_path, max_size=MB)
    lines = drain(orphan)
    assert lines[: last + 1] == [b"line-%d" % number for number in range(last + 1)]
    orphan.close()


def test_a_full_disk_leaves_no_half_line(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    spool = Spool(tmp_path, max_size=MB)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (150, hard))
    try:
        spool.append([b"x" * 99])
        with pytest.raises(OSError):
            spool.append([b"y" * 99])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    spool.append([b"z"])
    assert drain(spool) == [b"x" * 99, b"z"]


def test_others_cannot_read_it(tmp_path):
    spool = Spool(tmp_path, max_size=MB)
    spool.append([b"x"])
    (segment,) = tmp_path.rglob("*.jsonl")
    assert os.stat(segment).st_mode & 0o077 == 0
    spool.close()
