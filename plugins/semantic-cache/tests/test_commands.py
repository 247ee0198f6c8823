"""`junctor semantic-cache report | calibrate | purge`, as an operator calls them."""

import asyncio
import json

import pytest
import uvicorn
from junctor.__main__ import main

KEY = "sixteen-letters-x"
TEXTS = [
    "how do I fold a napkin",
    "please tell me how I fold a napkin",
    "how do I wash a napkin",
    "how to fold napkins",
]


@pytest.fixture
def config(tmp_path):
    """`config(**server)` writes a file whose cache lies where the fixture `running` puts it; its path."""

    def write(**server):
        cache = {"semantic_cache": {"judge": "first_line", "store": {"path": str(tmp_path / "store")}}}
        tree = {"server": server, "admin": {"key": KEY}, "plugins": [cache]}
        (tmp_path / "config.yaml").write_text(json.dumps(tree))
        return str(tmp_path / "config.yaml")

    return write


async def test_what_a_gateway_learned_is_reported_after_it_ended(running, config, capsys):
    async with running() as g:
        await g.ask("Why is ivy green?")
        await g.ask("Why is ivy green?")
    assert await asyncio.to_thread(main, ["semantic-cache", "report", "-c", config(), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)["test"]
    assert (report["requests"], report["exact_hits"], report["mode"]) == (2, 1, "serve")
    assert await asyncio.to_thread(main, ["semantic-cache", "report", "-c", config()]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:5] == ["test", "serve", "2", "0", "1"]


def test_calibrating_learns_before_the_first_request(minilm, config, tmp_path, capsys):
    rows = [{"request": {"model": "test", "messages": [{"role": "user", "content": t}]}, "answer": t} for t in TEXTS]
    (tmp_path / "traffic.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert main(["semantic-cache", "calibrate", str(tmp_path / "traffic.jsonl"), "-c", config()]) == 0
    labels = int(capsys.readouterr().out.removeprefix("test: ").split()[0])
    assert main(["semantic-cache", "report", "--json", "-c", config()]) == 0
    assert json.loads(capsys.readouterr().out)["test"]["labels"] == labels > 0


def test_calibrating_from_a_file_that_is_none_says_where(minilm, config, tmp_path, capsys):
    (tmp_path / "traffic.jsonl").write_text("{}\n")
    assert main(["semantic-cache", "calibrate", str(tmp_path / "traffic.jsonl"), "-c", config()]) == 1
    assert "traffic.jsonl:1" in capsys.readouterr().err
    assert main(["semantic-cache", "calibrate", str(tmp_path / "none.jsonl"), "-c", config()]) == 1
    assert "none.jsonl" in capsys.readouterr().err


async def test_purging_empties_the_running_gateway(running, config, capsys):
    tree = {"models": [{"name": "test", "targets": [{"target": "fake/one"}]}], "admin": {"key": KEY}}
    async with running(config=json.dumps(tree)) as g:
        await g.ask("Why is tin soft?", headers={"x-junctor-cache-tags": "metals"})
        await g.ask("Why is jam sweet?")
        server = uvicorn.Server(uvicorn.Config(g.harness.app, port=0, log_level="error", lifespan="off"))
        serving = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        file = config(port=server.servers[0].sockets[0].getsockname()[1])
        for chosen in (["--tag", "metals"], ["--older-than", "3600"], ["--all"]):
            assert await asyncio.to_thread(main, ["semantic-cache", "purge", *chosen, "-c", file]) == 0
        server.should_exit = True
        await serving
    assert capsys.readouterr().out.splitlines() == [f"purged {count} entries" for count in (1, 0, 1)]


@pytest.mark.parametrize("body", [b"no json", b"[]", b'{"colour": "red"}', b'{"older_than": "soon"}', b"{}"])
async def test_a_purge_that_makes_no_sense_is_refused(running, body):
    async with running(config=json.dumps({"admin": {"key": KEY}})) as g:
        headers = {"authorization": f"Bearer {KEY}"}
        assert (await g.harness.request("POST", "/admin/semantic-cache/purge", body, headers=headers)).status == 400


def test_purging_says_what_is_missing(config, capsys):
    assert main(["semantic-cache", "purge", "-c", config(port=1)]) == 2
    assert "say what to purge" in capsys.readouterr().err
    assert main(["semantic-cache", "purge", "--all", "-c", config(port=1)]) == 1
    assert "does not answer" in capsys.readouterr().err
