"""A process that is told to end loses nothing; one that is killed loses no more than the documentation says."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from junctor.testing import FakeProvider

FLUSH = 0.1
SCRIPT = """
import asyncio, json, signal, sys, time
from junctor import config
from junctor.gateway import Gateway
from junctor.testing import FakeProvider, Harness, _section

async def main():
    gateway = Gateway(config.parse(sys.argv[1], file="test"), extra=[_section(FakeProvider())])
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    number = 0
    async with gateway:
        harness = Harness(gateway)
        while not stop.is_set():
            await harness.chat(headers={"x-request-id": f"n-{number}"})
            print(number, time.time(), flush=True)
            number += 1
            await asyncio.sleep(0.001)

asyncio.run(main())
"""


def tree(folder, sinks):
    settings = {"directory": str(folder), "sinks": sinks, "flush": FLUSH, "close_timeout": 1}
    models = [{"name": "test", "targets": [{"target": "fake/one", "price": {"input": 1}}]}]
    return json.dumps({"models": models, "plugins": [{"logging": settings}]})


def run(folder, sinks, number, seconds=1.2):
    """Start the process, let it answer, send the signal; what it answered and when, and the time of the signal."""
    child = subprocess.Popen([sys.executable, "-c", SCRIPT, tree(folder, sinks)], stdout=subprocess.PIPE)
    first = child.stdout.readline()
    time.sleep(seconds)
    at = time.time()
    os.kill(child.pid, number)
    out, _ = child.communicate(timeout=20)
    rows = [line.split() for line in (first + out).decode().splitlines() if line.count(" ") == 1]
    return {int(count): float(when) for count, when in rows}, at


def ids(log):
    found = [int(record["id"][2:]) for record in log.records if record["id"].startswith("n-")]
    assert len(found) == len(set(found)), "a record is there twice"
    return set(found)


@pytest.fixture
def sinks(log):
    return [{"json_lines": {"path": str(log.folder / "out.jsonl")}}]


def test_sigterm_loses_nothing(log, sinks):
    answered, _ = run(log.folder, sinks, signal.SIGTERM)
    assert len(answered) > 50
    assert ids(log) == set(answered)


async def test_sigterm_with_a_dead_sink_leaves_everything_for_the_next_process(log, sinks, logged):
    out = log.folder / "out.jsonl"
    out.symlink_to("/dev/full")
    answered, _ = run(log.folder, sinks, signal.SIGTERM)
    out.unlink()
    await replay(log, sinks, logged, len(answered))
    assert ids(log) == set(answered)


async def test_kill_9_loses_at_most_what_ended_within_the_flush_interval(log, sinks, logged):
    answered, at = run(log.folder, sinks, signal.SIGKILL)
    await replay(log, sinks, logged, 0)
    safe = {number for number, when in answered.items() if when < at - FLUSH - 0.4}
    assert len(safe) > 50
    assert safe <= ids(log)


async def test_kill_9_with_a_dead_sink_leaves_the_spool(log, sinks, logged):
    out = log.folder / "out.jsonl"
    out.symlink_to("/dev/full")
    answered, at = run(log.folder, sinks, signal.SIGKILL)
    out.unlink()
    safe = {number for number, when in answered.items() if when < at - FLUSH - 0.4}
    await replay(log, sinks, logged, len(safe))
    assert len(safe) > 50
    assert safe <= ids(log)


async def replay(log, sinks, logged, expected):
    """Start the next process (here: a gateway on the same folder), and give it time to bring what was left."""
    async with logged(FakeProvider(), settings={"sinks": sinks}) as g:
        plugin = g.gateway.plugins.by_name["logging"]
        end = time.monotonic() + 10
        while plugin.stats()["sinks"]["json_lines"]["replayed"] < expected and time.monotonic() < end:
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.1)
