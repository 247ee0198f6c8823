"""Whatever breaks, the request is served, the bypass is said, and nobody waits long."""

import json
import time

import pytest
from junctor.errors import AssetError, ConfigError
from junctor_semantic_cache.calibrate import _records, calibrate
from junctor_semantic_cache.store import StoreError


class Broken:
    name, dimension = "words", 64

    def window(self, text):
        return len(text)

    def encode(self, texts):
        raise RuntimeError("the model broke")


class Slow(Broken):
    def encode(self, texts):
        time.sleep(1.0)
        raise RuntimeError("too late")


def missing(name):
    raise AssetError("asset 'minilm-l6' cannot be fetched: no network")


async def test_without_the_model_requests_pass_by(running):
    async with running(load=missing, wait=False) as g:
        answer = await g.harness.chat("Why?")
        assert answer.status == 200
        assert answer.headers["x-junctor-cache"] == "bypass"
        assert "cannot be fetched" in g.fact["why"]


async def test_a_model_that_breaks_is_a_request_that_is_served(running):
    async with running(load=lambda name: Broken()) as g:
        answer = await g.harness.chat("Why?")
    assert answer.status == 200
    assert answer.text.startswith("Why?")


async def test_a_model_that_is_slow_costs_no_more_than_the_limit(running):
    async with running({"lookup_timeout": "100ms"}, load=lambda name: Slow()) as g:
        started = time.monotonic()
        answer = await g.harness.chat("Why?")
        assert time.monotonic() - started < 0.6
    assert answer.headers["x-junctor-cache"] == "bypass"


@pytest.mark.parametrize("method", ["get", "search"])
async def test_a_store_that_is_gone_is_a_bypass(running, method):
    async with running() as g:

        class Gone(type(g.cache.engine.store)):
            pass

        async def gone(*args, **fields):
            raise StoreError("the store is gone")

        setattr(Gone, method, gone)
        g.cache.engine.store.__class__ = Gone
        answer = await g.harness.chat("Why?")
        assert answer.status == 200
        assert answer.headers["x-junctor-cache"] == "bypass"
        assert "gone" in g.fact["why"]


async def test_a_server_that_does_not_answer_at_the_start_is_a_bypass(running):
    async with running({"store": {"url": "http://127.0.0.1:9", "timeout": "1s"}}, wait=False) as g:
        answer = await g.harness.chat("Why?")
    assert answer.status == 200
    assert answer.headers["x-junctor-cache"] == "bypass"


async def test_answers_beyond_the_queue_are_dropped_and_counted(running):
    async with running({"queue": 1}) as g:
        await g.ask("one")
        g.cache._answers.put_nowait((None, None, b"", {}))
        g.cache._queue(g.cache._answers, (None, None, b"", {}))
        assert g.cache.dropped >= 1


def test_calibrating_refuses_a_file_that_is_no_record(tmp_path):
    file = tmp_path / "records.jsonl"
    file.write_text('{"request": {"model": "m", "messages": []}, "answer": "a"}\n{"nothing": 1}\n')
    records = _records(file)
    assert next(records)[0].model == "m"
    with pytest.raises(ConfigError, match=r"records.jsonl:2"):
        next(records)


async def test_calibrating_learns_labels_from_recorded_traffic(running, tmp_path):
    file = tmp_path / "records.jsonl"
    texts = ["how do I fold a napkin", "please how do I fold a napkin", "how do I wash a napkin"]
    rows = [
        {"request": {"model": "test", "messages": [{"role": "user", "content": t}]}, "answer": t[-6:]} for t in texts
    ]
    file.write_text("\n".join(map(json.dumps, rows)))
    async with running(wait=False, settings={"mode": "off"}) as g:
        assert await calibrate(g.cache, file) == {"test": 2}
