"""What the operator does: purge and look, over HTTP and on the command line."""

from __future__ import annotations

import asyncio
import json
import threading

import pytest
import uvicorn
from junctor import Client, hookimpl
from junctor.__main__ import main
from junctor.testing import FakeProvider
from junctor_exact_cache import ExactCache
from junctor_exact_cache.entry import Filter

_KEY = "an admin key of some length"
_AUTH = {"authorization": f"Bearer {_KEY}"}
_CONFIG = json.dumps({"admin": {"key": _KEY}, "models": [{"name": "test", "targets": [{"target": "fake/one"}]}]})


class Team:
    @hookimpl
    async def pre_route(self, exchange):
        exchange.client = Client(team=exchange.request.headers.get("x-team", ""))


async def _post(g, body, headers=_AUTH):
    return await g.request("POST", "/admin/cache/purge", body, headers=headers)


async def _is_hit(g, text="hi", **headers):
    return (await g.chat(text, headers={**headers, "cache-control": "only-if-cached"})).status == 200


async def test_a_purge_by_tag_takes_what_has_it(gateway):
    async with gateway(ExactCache, FakeProvider(), config=_CONFIG) as g:
        await g.chat("a", headers={"x-junctor-cache-tags": "docs, v1"})
        await g.chat("b")
        assert (await _post(g, {"tag": "v1"})).json() == {"purged": 1}
        assert (await _is_hit(g, "a"), await _is_hit(g, "b")) == (False, True)


async def test_a_purge_by_id_team_template_and_age(gateway):
    async with gateway(Team(), ExactCache, FakeProvider(), config=_CONFIG) as g:
        await g.chat("a")
        entry = (await g.chat("a")).headers["x-junctor-cache-entry"]
        assert (await _post(g, {"id": entry})).json() == {"purged": 1}
        await g.chat("a", headers={"x-team": "red"})
        await g.chat("a", headers={"x-team": "blue", "x-prompt-version": "7"})
        assert (await _post(g, {"team": "red"})).json() == {"purged": 1}
        assert (await _post(g, {"older_than": "1h"})).json() == {"purged": 0}
        assert (await _post(g, {"template": "7", "model": "test"})).json() == {"purged": 1}


@pytest.mark.parametrize("body", [{}, {"tga": "x"}, {"older_than": "soon"}, b"[]", b"not json", {"tag": "x" * 600}])
async def test_a_purge_that_says_nothing_or_nonsense_takes_nothing(gateway, body):
    async with gateway(ExactCache, FakeProvider(), config=_CONFIG) as g:
        await g.chat()
        answer = await _post(g, body)
        assert answer.status == 400
        assert await _is_hit(g)


async def test_all_takes_all_but_only_for_the_operator(gateway):
    async with gateway(ExactCache, FakeProvider(), config=_CONFIG) as g:
        await g.chat()
        assert (await _post(g, {"all": True}, {})).status == 401
        assert await _is_hit(g)
        assert (await _post(g, {"all": True})).json() == {"purged": 1}


async def test_the_paths_are_not_there_without_an_admin_key(gateway):
    async with gateway(ExactCache, FakeProvider()) as g:
        assert (await _post(g, {"all": True})).status == 404


async def test_an_answer_that_was_asked_for_before_the_purge_is_not_kept_after_it(gateway):
    provider = FakeProvider("old", script=[0.05, None])
    async with gateway(ExactCache, provider, config=_CONFIG) as g:
        asked = asyncio.create_task(g.chat())
        await asyncio.sleep(0.01)
        await _post(g, {"model": "test"})
        newer = await g.chat()
        await asked
    assert newer.headers["x-junctor-cache"] == "miss"
    assert len(provider.calls) == 2


async def test_the_figures_say_what_happened(gateway):
    async with gateway(ExactCache, FakeProvider(), config=_CONFIG) as g:
        for _ in range(3):
            await g.chat()
        await g.chat(headers={"cache-control": "no-store"})
        stats = (await g.request("GET", "/admin/cache/stats", headers=_AUTH)).json()
    assert {name: stats[name] for name in ("hit", "miss", "bypass", "stored", "entries")} == {
        "hit": 2,
        "miss": 1,
        "bypass": 1,
        "stored": 1,
        "entries": 1,
    }
    assert stats["store"] == "MemoryStore"


def _file(tmp_path, store, **server):
    file = tmp_path / "config.yaml"
    settings = {"store": store, "secret": "s" * 16} if store else {}
    tree = {"server": server, "admin": {"key": _KEY}, "plugins": [{"exact_cache": settings}]}
    file.write_text(json.dumps(tree))
    return str(file)


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
async def test_the_command_empties_a_shared_store(gateway, tmp_path, prefix, request, capsys, kind):
    url = f"sqlite:///{tmp_path}/c.db" if kind == "sqlite" else request.getfixturevalue("redis_url")
    store = {"url": url, "prefix": prefix, "timeout": 1.0}
    async with gateway((ExactCache, {"store": store, "secret": "s" * 16}), FakeProvider()) as g:
        await g.chat("a", headers={"x-junctor-cache-tags": "v1"})
        await g.chat("b")
        file = _file(tmp_path, store)
        assert await asyncio.to_thread(main, ["cache", "purge", "-c", file, "--tag", "v1"]) == 0
        assert (await _is_hit(g, "a"), await _is_hit(g, "b")) == (False, True)
        assert await asyncio.to_thread(main, ["cache", "stats", "-c", file]) == 0
        await g.gateway.plugins.by_name["exactcache"].purge(Filter())
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (lines[0], lines[1]["entries"]) == ({"purged": 1}, 1)


async def test_the_command_asks_the_running_gateway_for_its_memory(gateway, tmp_path, capsys):
    async with gateway(ExactCache, FakeProvider(), config=_CONFIG) as g:
        await g.chat()
        server = uvicorn.Server(uvicorn.Config(g.app, port=0, log_level="error", lifespan="off"))
        serving = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        file = _file(tmp_path, "", port=port)
        assert await asyncio.to_thread(main, ["cache", "purge", "-c", file, "--all"]) == 0
        assert await asyncio.to_thread(main, ["cache", "stats", "-c", file]) == 0
        server.should_exit = True
        await serving
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (lines[0], lines[1]["entries"]) == ({"purged": 1}, 0)


def test_the_command_says_what_is_missing(tmp_path, capsys):
    file = _file(tmp_path, "", port=1)
    assert main(["cache", "purge", "-c", file]) == 2
    assert "say which" in capsys.readouterr().err
    assert main(["cache", "purge", "-c", file, "--older-than", "soon"]) == 2
    assert main(["cache", "stats", "-c", file]) == 1
    assert "cannot be reached" in capsys.readouterr().err


def test_no_thread_is_left_behind(tmp_path):
    file = _file(tmp_path, f"sqlite:///{tmp_path}/c.db")
    assert main(["cache", "stats", "-c", file]) == 0
    left = [thread for thread in threading.enumerate() if "exact-cache" in thread.name]
    for thread in left:  # it has been told to end
        thread.join(10)
    assert not any(thread.is_alive() for thread in left)
