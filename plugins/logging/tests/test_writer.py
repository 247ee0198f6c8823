"""The writer's thread: what it has in hand, and that nothing ends it."""

import time

import pytest
from junctor import Exchange, Request
from junctor.secrets import Secrets
from junctor.wire import OPENAI
from junctor_logging.build import Builder
from junctor_logging.capture import Capturer
from junctor_logging.redact import Redactor
from junctor_logging.writer import Writer


class Pump:
    """Takes all that it is offered."""

    wants_content = True

    def __init__(self):
        self.got = []

    def start(self):
        self.started = True

    def offer(self, entries):
        self.got += [entry.id for entry in entries]

    def close(self, until):
        self.closed = True


@pytest.fixture
def written():
    """`written(ids, seen)`: the writer and its pump, once these exchanges have been through it."""

    def run(ids, seen):
        pump, capturer = Pump(), Capturer()
        writer = Writer(
            Builder({}, Redactor(Secrets())),
            [pump],
            limit=100,
            batch=2,
            flush=0.01,
            seen=lambda entries: seen(writer, entries),
        )
        for name in ids:
            writer.put(capturer.take(Exchange(name, Request(OPENAI, "chat", {}, "m")), None, None))
        writer.start()
        until = time.monotonic() + 10
        while writer.waiting:
            assert time.monotonic() < until
            time.sleep(0.01)
        writer.close(5)
        return writer, pump

    return run


def test_records_that_are_being_made_are_waiting_too(written):
    found = []
    _, pump = written("abcde", lambda writer, entries: found.append(writer.waiting))
    assert found == [5, 3, 1]
    assert pump.got == list("abcde")


def test_a_fault_with_some_does_not_end_the_log(written, caplog):
    def fails_once(_writer, entries):
        if entries[0].id == "a":
            raise RuntimeError("the event loop has just been closed")

    writer, pump = written("abcde", fails_once)
    assert pump.got == list("cde")
    assert writer.dropped == 2
    assert "2 records may be lost" in caplog.text
