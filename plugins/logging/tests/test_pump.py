"""What happens to records when a sink does not take them: they wait, and arrive once."""

import os
import threading
import time
from collections import Counter

import pytest
from junctor_logging import Rejected, Unavailable
from junctor_logging.pump import Pump
from junctor_logging.record import from_line
from junctor_logging.settings import SpoolSettings

QUICK = SpoolSettings(retry=0.02, longest_retry=0.05)


def entries(*numbers):
    return [from_line(b'{"record":"r-%d","id":"x","time":"2026-01-02T03:04:05Z"}' % number) for number in numbers]


class Sink:
    """Keeps what it takes; `fail` says what happens instead."""

    wants_content = False

    def __init__(self):
        self.got = []
        self.fail = None
        self.hold = threading.Event()
        self.hold.set()

    def open(self): ...

    def close(self): ...

    def write(self, batch, *, again):
        self.hold.wait()
        if self.fail is not None:
            self.fail(batch)
        there = set(self.got) if again else set()
        self.got += [entry.key for entry in batch if entry.key not in there]


@pytest.fixture
def pump(tmp_path):
    made = []

    def make(sink, *, batch=10, memory=1000, settings=QUICK, folder=tmp_path):
        one = Pump(sink, "test", folder, spool=settings, batch=batch, memory=memory)
        one.start()
        made.append((one, sink))
        return one

    yield make
    for one, sink in made:
        sink.hold.set()
        one.close(time.monotonic() + 5)


def wait(condition):
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def down(batch):
    raise Unavailable("no")


def test_what_is_on_its_way_to_the_disk_is_waiting_too(pump, monkeypatch):
    disk, sync = threading.Event(), os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda file: disk.wait(10) and sync(file))
    sink = Sink()
    one = pump(sink)
    sink.fail = down
    one.offer(entries(1, 2))
    wait(lambda: one.counts["failures"])
    time.sleep(0.05)
    assert one.waiting == 2
    disk.set()
    wait(lambda: one.counts["spooled"] == one.waiting == 2)


def test_records_wait_on_disk_while_the_sink_is_down_and_arrive_once(pump, tmp_path):
    sink = Sink()
    one = pump(sink)
    sink.fail = down
    for number in range(30):
        one.offer(entries(number))
        time.sleep(0.003)
    wait(lambda: one.counts["spooled"] == 30)
    sink.fail = None
    wait(lambda: len(sink.got) == 30)
    assert Counter(sink.got) == Counter(f"r-{number}" for number in range(30))
    assert one.waiting == 0
    assert list(tmp_path.rglob("*.jsonl")) == []


def test_a_slow_sink_holds_two_batches_and_the_rest_goes_to_the_disk(pump):
    sink = Sink()
    sink.hold.clear()
    one = pump(sink, batch=5)
    for number in range(50):
        one.offer(entries(number))
    wait(lambda: one.counts["spooled"] >= 35)
    sink.hold.set()
    wait(lambda: len(sink.got) == 50)
    assert one.counts["dropped"] == 0


def test_a_partial_write_is_not_repeated(pump):
    sink = Sink()
    one = pump(sink)
    failed = []

    def half(batch):
        if not failed:
            failed.append(1)
            sink.got += [batch[0].key]
            raise Unavailable("in the middle", written=1)

    sink.fail = half
    one.offer(entries(1, 2, 3))
    wait(lambda: len(sink.got) == 3)
    assert Counter(sink.got) == Counter(["r-1", "r-2", "r-3"])


def test_one_record_that_the_sink_rejects_does_not_hold_up_the_others(pump):
    sink = Sink()
    one = pump(sink)

    def picky(batch):
        if any(entry.key == "r-4" for entry in batch):
            raise Rejected("not this one")

    sink.fail = picky
    one.offer(entries(*range(9)))
    wait(lambda: len(sink.got) == 8)
    assert (one.counts["rejected"], one.counts["dropped"]) == (1, 1)


def test_drops_are_counted_when_neither_sink_nor_disk_takes_them(pump, tmp_path, caplog):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    sink = Sink()
    sink.fail = down
    one = pump(sink, batch=2, memory=10, folder=blocked)
    for number in range(100):
        one.offer(entries(number))
    wait(lambda: one.counts["dropped"] > 0)
    assert "dropped" in caplog.text
    sink.fail = None
    wait(lambda: one.waiting == 0)
    assert one.counts["dropped"] + len(sink.got) == 100


def test_a_spool_at_its_limit_drops_and_counts(pump):
    sink = Sink()
    sink.fail = down
    one = pump(sink, batch=2, memory=4, settings=SpoolSettings(retry=5, max_size=300))
    for number in range(50):
        one.offer(entries(number))
    wait(lambda: one.counts["dropped"] + one.waiting == 50)
    assert one.counts["dropped"] > 30


def test_closing_writes_what_is_left(pump):
    sink = Sink()
    one = pump(sink)
    one.offer(entries(1, 2))
    one.close(time.monotonic() + 5)
    assert sorted(sink.got) == ["r-1", "r-2"]


def test_closing_spools_what_a_hanging_sink_holds_up_and_the_next_process_brings_it_once(pump, tmp_path):
    sink = Sink()
    sink.hold.clear()
    one = pump(sink, batch=5)
    one.offer(entries(*range(5)))
    wait(lambda: one._in_flight)
    one.offer(entries(*range(5, 10)))
    started = time.monotonic()
    one.close(time.monotonic() + 0.2)
    assert time.monotonic() - started < 2
    sink.hold.set()  # the write that hung ends after all
    wait(lambda: not one._thread.is_alive())
    pump(sink)
    wait(lambda: len(set(sink.got)) == 10)
    assert Counter(sink.got) == Counter(f"r-{number}" for number in range(10))


def test_takes_over_what_a_dead_process_left(pump, tmp_path):
    from junctor_logging.spool import Spool

    left = Spool(tmp_path, max_size=10**6)
    left.append([entry.line for entry in entries(1, 2, 3)] + [b'{"torn'])
    left.close()
    sink = Sink()
    sink.got = ["r-1"]  # the dead process had written this one
    one = pump(sink)
    wait(lambda: len(sink.got) == 3)
    assert sorted(sink.got) == ["r-1", "r-2", "r-3"]
    assert one.counts["torn"] == 1


def test_says_once_that_a_sink_is_down_and_that_it_is_back(pump, caplog):
    caplog.set_level("INFO")
    sink = Sink()
    sink.fail = down
    one = pump(sink)
    for number in range(10):
        one.offer(entries(number))
        time.sleep(0.01)
    sink.fail = None
    wait(lambda: len(sink.got) == 10)
    assert caplog.text.count("takes no records") == 1
    assert "takes records again" in caplog.text
