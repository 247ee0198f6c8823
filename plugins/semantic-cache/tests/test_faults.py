"""Whatever breaks, the request is served, the bypass is said, and nobody waits long."""

import contextlib
import fcntl
import json
import shutil
import time

import pytest
from junctor.errors import AssetError, ConfigError
from junctor_semantic_cache.calibrate import _records, calibrate
from junctor_semantic_cache.engine import Lookup


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
        assert "the model broke" in g.fact["why"]
    assert (answer.status, answer.headers["x-junctor-cache"]) == (200, "bypass")
    assert answer.text.startswith("Why?")


async def test_a_model_that_is_slow_costs_no_more_than_the_limit(running):
    async with running({"lookup_timeout": "100ms"}, load=lambda name: Slow()) as g:
        started = time.monotonic()
        answer = await g.harness.chat("Why?")
        assert time.monotonic() - started < 0.6
    assert answer.headers["x-junctor-cache"] == "bypass"


async def test_a_server_that_fails_is_a_bypass_and_a_cache_again_later(running, fake):
    async with running({"store": {"url": fake.url, "timeout": "2s"}}) as g:
        await g.ask("Why?")
        fake.broken = True
        answer = await g.harness.chat("Why?")
        assert (answer.status, answer.headers["x-junctor-cache"]) == (200, "bypass")
        assert g.fact["why"].startswith("StoreError")
        fake.broken = False
        assert (await g.harness.chat("Why?")).headers["x-junctor-cache"] == "semantic-hit"


async def test_a_server_that_goes_away_is_a_bypass(running, fake):
    async with running({"store": {"url": fake.url, "timeout": "2s"}}) as g:
        await g.ask("Why?")
        fake.close()
        answer = await g.harness.chat("Why?")
        assert (answer.status, answer.headers["x-junctor-cache"]) == (200, "bypass")


async def test_a_server_that_is_slow_costs_no_more_than_the_stores_limit(running, fake):
    async with running({"store": {"url": fake.url, "timeout": "100ms"}}) as g:
        fake.delay = 1.0
        started = time.monotonic()
        answer = await g.harness.chat("Why?")
        assert time.monotonic() - started < 0.8
        assert answer.headers["x-junctor-cache"] == "bypass"
        assert "within 0.1 s" in g.fact["why"]
        fake.delay = 0.0


async def test_a_place_where_nothing_can_be_written_is_a_bypass(running, tmp_path):
    (tmp_path / "file").write_text("in the way")
    async with running({"store": {"path": str(tmp_path / "file")}}, wait=False) as g:
        answer = await g.harness.chat("Why?")
        assert (answer.status, answer.headers["x-junctor-cache"]) == (200, "bypass")


async def test_shards_that_are_all_locked_are_a_bypass(running, tmp_path):
    folder = tmp_path / "store" / "vectors" / "junctor-words-64"
    folder.mkdir(parents=True)
    with contextlib.ExitStack() as stack:
        for number in range(256):
            fcntl.flock(stack.enter_context((folder / f"shard-{number}.lock").open("a+b")), fcntl.LOCK_EX)
        async with running(wait=False) as g:
            answer = await g.harness.chat("Why?")
            assert (answer.status, answer.headers["x-junctor-cache"]) == (200, "bypass")
            assert "every shard is in use" in g.fact["why"]


async def test_a_folder_that_is_removed_under_way_harms_no_request(running, tmp_path):
    async with running() as g:
        await g.ask("Why?")
        shutil.rmtree(tmp_path / "store")
        assert (await g.ask("Why?")).status == 200
        assert (await g.ask("What is new?")).status == 200


async def test_a_server_that_does_not_answer_at_the_start_is_a_bypass(running):
    async with running({"store": {"url": "http://127.0.0.1:9", "timeout": "1s"}}, wait=False) as g:
        answer = await g.harness.chat("Why?")
    assert answer.status == 200
    assert answer.headers["x-junctor-cache"] == "bypass"


async def test_answers_beyond_the_queue_are_dropped_and_counted(running):
    async with running({"queue": 1}) as g:
        for _ in range(3):
            g.cache.keeper.served(None, Lookup(None, "an entry"))
        assert g.cache.keeper.dropped == 2


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
