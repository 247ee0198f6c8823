"""The life of the model's process: lazy, watched, restarted, bounded, and never left behind."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
import urllib.error
import urllib.request
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from junctor.errors import ConfigError
from junctor_local import server

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from junctor.testing import Answer, Harness
    from junctor_local.engine import Engine

    Run = Callable[..., AbstractAsyncContextManager[Harness]]

pytestmark = pytest.mark.anyio


def engine(harness: Harness, name: str = "smollm2") -> Engine:
    plugin: Any = harness.gateway.plugins.by_name["local"]
    found: Engine = plugin.engines[name]
    return found


def alive(pid: int | None) -> bool:
    """Whether there is such a process, and it is more than an entry for its parent to collect."""
    assert pid is not None
    with suppress(FileNotFoundError, ProcessLookupError), open(f"/proc/{pid}/stat") as stat:
        return stat.read().rpartition(")")[2].split()[0] != "Z"
    return False


def gone_within(pid: int, seconds: float) -> bool:
    until = time.monotonic() + seconds
    while alive(pid) and time.monotonic() < until:
        time.sleep(0.02)
    return not alive(pid)


async def until_up(harness: Harness) -> Answer:
    """Ask until there is an answer, as a client that retries does."""
    async with asyncio.timeout(20):
        while (answer := await harness.chat(max_tokens=1)).status != 200:
            await asyncio.sleep(0.05)
    return answer


async def long_answer(harness: Harness, **fields: Any) -> Answer:
    return await harness.chat("Count to a thousand.", max_tokens=900, logit_bias={"2": -100}, **fields)


async def test_starts_with_the_first_request_and_ends_with_the_gateway(run: Run) -> None:
    async with run() as harness:
        assert engine(harness).pid is None
        assert (await harness.chat(max_tokens=1)).status == 200
        pid = engine(harness).pid
        assert alive(pid)
    assert not alive(pid)


async def test_is_loaded_before_the_first_request_if_so_configured(run: Run) -> None:
    async with run(preload=True) as harness:
        assert alive(engine(harness).pid)
        assert engine(harness).starts == 1


async def test_the_first_requests_wait_for_one_start(run: Run) -> None:
    async with run() as harness:
        answers = await asyncio.gather(*(harness.chat(max_tokens=1) for _ in range(5)))
        assert [answer.status for answer in answers] == [200] * 5
        assert engine(harness).starts == 1


async def test_a_killed_engine_comes_back_and_says_when(run: Run) -> None:
    async with run(preload=True) as harness:
        pid = engine(harness).pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await asyncio.sleep(0.2)
        refused = await harness.chat(max_tokens=1)
        assert refused.status == 503
        assert 0 < float(refused.headers["retry-after"]) <= 1
        assert "local/smollm2 is not running" in refused.json()["error"]["message"]
        assert (await until_up(harness)).status == 200
        assert engine(harness).pid != pid


async def test_a_stream_of_a_killed_engine_ends_with_an_error(run: Run) -> None:
    async with run(preload=True) as harness:
        asking = asyncio.create_task(long_answer(harness, stream=True))
        await asyncio.sleep(0.5)
        pid = engine(harness).pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        answer = await asyncio.wait_for(asking, 5)
        assert answer.events[-1]["error"]["code"]
        assert "[DONE]" not in answer.events


async def test_an_engine_that_hangs_is_replaced(run: Run) -> None:
    async with run(preload=True, health_interval="200ms") as harness:
        pid = engine(harness).pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        async with asyncio.timeout(15):
            while engine(harness).pid in (pid, None):
                await asyncio.sleep(0.05)
        assert (await until_up(harness)).status == 200
        assert not alive(pid)


@pytest.mark.parametrize("when", ["loaded", "loading"])
def test_ends_when_its_parent_is_killed(model_file: Path, when: str) -> None:
    program = f"""
        import asyncio, json, sys
        from pathlib import Path
        from junctor_local.engine import Engine, Options
        async def main():
            options = Options(parallel=1, queue=1, context=512, max_tokens=9, threads=1, embeddings=False, pooling="",
                              template="", start_timeout=60, health_interval=10)
            engine = Engine("m", lambda: Path({str(model_file)!r}), options)
            starting = asyncio.create_task(engine.address())
            while engine.pid is None: await asyncio.sleep(0.01)
            if {when!r} == "loaded": await starting
            print(engine.pid, flush=True)
            await asyncio.sleep(60)
        asyncio.run(main())
    """
    parent = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.communicate()
    assert gone_within(pid, 5)


async def test_two_models_have_a_process_each(run: Run, model_file: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.gguf").symlink_to(model_file)
    targets = {"one": "local/smollm2", "two": "local/mine"}
    models = {"mine": {"path": str(tmp_path / "mine.gguf"), "context": 512, "parallel": 1}}
    async with run(targets=targets, models=models) as harness:
        answers = await asyncio.gather(*(harness.chat(model=name, max_tokens=1) for name in targets))
        assert [answer.json()["model"] for answer in answers] == ["smollm2", "mine"]
        assert len({engine(harness, "smollm2").pid, engine(harness, "mine").pid, None}) == 3


@pytest.mark.parametrize("fields", [{"stream": True, "hang_up_after": 3}, {"hang_up_after": 0}])
async def test_a_client_that_hangs_up_frees_its_place(run: Run, fields: dict[str, Any]) -> None:
    async with run(preload=True, parallel=1, queue=1) as harness:
        await long_answer(harness, **fields)
        began = time.monotonic()
        assert (await harness.chat(max_tokens=1)).status == 200
        assert time.monotonic() - began < 3  # 900 tokens take longer


async def test_refuses_what_would_wait_too_long(run: Run) -> None:
    async with run(preload=True, parallel=1, queue=1) as harness:
        hang_up = asyncio.Event()
        asking = [asyncio.create_task(long_answer(harness, hang_up=hang_up)) for _ in range(2)]
        await asyncio.sleep(0.1)
        refused = await harness.chat(max_tokens=1)
        assert refused.status == 503
        assert refused.headers["retry-after"]
        assert "1 requests are waiting already" in refused.json()["error"]["message"]
        hang_up.set()
        await asyncio.gather(*asking)


async def test_only_the_gateway_is_served(run: Run) -> None:
    async with run(preload=True) as harness:
        address = await engine(harness).address()
        assert address.startswith("http://127.0.0.1:")
        with pytest.raises(urllib.error.HTTPError, match="401"):
            await asyncio.to_thread(urllib.request.urlopen, f"{address}/models")


async def test_a_file_that_is_no_model_is_told_and_tried_again_more_and_more_slowly(run: Run, tmp_path: Path) -> None:
    (tmp_path / "no.gguf").write_bytes(b"this is no model")
    models = {"no": {"path": str(tmp_path / "no.gguf")}}
    async with run(targets={"test": "local/no"}, models=models) as harness:
        answer = await harness.chat()
        assert answer.status == 503
        assert "local/no is not running" in answer.json()["error"]["message"]
        await asyncio.sleep(1.5)
        assert 2 <= engine(harness, "no").starts <= 3


async def test_a_preload_that_fails_ends_the_start(run: Run, tmp_path: Path) -> None:
    (tmp_path / "no.gguf").write_bytes(b"this is no model")
    models = {"no": {"path": str(tmp_path / "no.gguf")}}
    told = await problems(run, targets={"test": "local/no"}, models=models, preload=True)
    assert "preload: local/no is not running" in told


async def test_without_its_file_the_target_is_unavailable_and_tells_the_remedy(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUNCTOR_CACHE_DIR", str(tmp_path))
    async with run() as harness:
        answer = await harness.chat()
        assert answer.status == 503
        assert "run `junctor assets fetch smollm2`" in answer.json()["error"]["message"]


async def test_an_embedding_model_serves_embeddings_only(run: Run, model_file: Path) -> None:
    models = {"vectors": {"path": str(model_file), "embeddings": True, "pooling": "mean", "context": 512}}
    async with run(targets={"test": "local/vectors"}, models=models) as harness:
        answer = await harness.request("POST", "/v1/embeddings", {"model": "test", "input": ["one", "two"]})
        assert [len(item["embedding"]) for item in answer.json()["data"]] == [576, 576]
        assert (await harness.chat()).json()["error"]["code"] == "unsupported_operation"


async def problems(run: Run, **arguments: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        async with run(**arguments):
            pass
    return "\n".join(caught.value.problems)


async def test_the_check_names_unknown_models_and_missing_files(run: Run) -> None:
    missing = {"mine": {"path": "/nowhere/mine.gguf"}}
    told = await problems(run, targets={"a": "local/smolm2", "b": "local/mine"}, models=missing)
    assert "target 'local/smolm2' is no known model (did you mean 'local/smollm2'?)" in told
    assert "models.mine.path: there is no file /nowhere/mine.gguf" in told


async def test_the_check_tells_how_to_get_the_engine(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    told = await problems(run)
    assert "target 'local/smollm2' is unavailable: xllamacpp" in told
    assert 'pip install ".[local]"' in told


async def test_names_the_files_that_the_configuration_needs(run: Run, model_file: Path) -> None:
    async with run() as harness:
        (assets,) = harness.gateway.plugins.manager.hook.assets()
        assert [asset.name for asset in assets] == ["smollm2"]
    async with run(models={"smollm2": {"path": str(model_file)}}) as harness:
        assert harness.gateway.plugins.manager.hook.assets() == [[]]


def test_the_server_reports_what_it_cannot_load(tmp_path: Path) -> None:
    options = {"parent": os.getpid(), "model": str(tmp_path / "none.gguf"), "name": "m", "api_key": "k", "parallel": 1}
    options |= {"context": 512, "max_tokens": 9, "threads": 1, "embeddings": False, "pooling": "", "template": ""}
    line = json.dumps(options) + "\n"
    command = [sys.executable, server.__file__]
    done = subprocess.run(command, input=line, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 1
    assert "error" in json.loads(done.stdout)
