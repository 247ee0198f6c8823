"""What the operator sees over HTTP: costs, stories, and records as they come."""

import asyncio
import json

import pytest
from junctor import Client, hookimpl
from junctor.testing import FakeProvider

KEY = "an-admin-key-of-some-length"
ADMIN = {"authorization": f"Bearer {KEY}"}
CONFIG = json.dumps(
    {"admin": {"key": KEY}, "models": [{"name": "test", "targets": [{"target": "fake/one", "price": {"input": 1}}]}]}
)


class Team:
    @hookimpl
    async def pre_route(self, exchange):
        exchange.client = Client(team=exchange.request.headers.get("team", "none"))


@pytest.fixture
def served(logged):
    def run(*plugins, **settings):
        return logged(Team(), *plugins, FakeProvider(), settings={"sinks": ["ledger"], **settings}, config=CONFIG)

    return run


async def get(g, path, **wanted):
    """Ask until the answer has come so far; the writing is behind the answers."""
    for _ in range(500):
        answer = await g.request("GET", path, headers=ADMIN)
        if answer.status == 200 and all(len(answer.json()[name]) >= count for name, count in wanted.items()):
            return answer.json()
        await asyncio.sleep(0.01)
    raise AssertionError(answer.body)


async def test_costs_are_the_same_as_on_the_command_line(served):
    async with served() as g:
        for team in ("a", "a", "b"):
            await g.chat(headers={"team": team})
        for _ in range(500):
            found = await get(g, "/admin/costs?by=team&since=1h", rows=2)
            if found["total"]["requests"] == 3:
                break
        assert [(row["team"], row["cost"]) for row in found["rows"]] == [("a", 14_000), ("b", 7_000)]
        answer = await g.request("GET", "/admin/costs?by=team&format=csv&team=b", headers=ADMIN)
    assert answer.body.splitlines()[1].startswith(b"b,1,1,7,5,")


async def test_costs_can_be_asked_for_before_the_first_request(served):
    async with served() as g:
        found = await get(g, "/admin/costs")
    assert found["rows"] == []


@pytest.mark.parametrize("path", ["/admin/costs", "/admin/exchanges", "/admin/exchanges/stream"])
async def test_nobody_sees_it_without_the_admin_key(served, path):
    async with served() as g:
        assert (await g.request("GET", path)).status == 401
        assert (await g.request("GET", path, headers={"authorization": "Bearer wrong"})).status == 401


async def test_the_last_exchanges_with_all_their_fields_newest_first(served):
    async with served() as g:
        for number in range(3):
            await g.chat(headers={"x-request-id": f"id-{number}"})
        found = (await get(g, "/admin/exchanges?limit=2", exchanges=2))["exchanges"]
        assert [story["id"] for story in found] == ["id-2", "id-1"]
        assert found[0]["attempts"][0]["abandoned"] is False
        assert found[0]["purpose"] == ""
        (one,) = (await get(g, "/admin/exchanges?id=id-0", exchanges=1))["exchanges"]
        assert one["attempts"][0]["target"] == "fake/one"


async def test_an_exchange_that_left_the_memory_comes_from_the_ledger(served):
    async with served(recent=1) as g:
        for number in range(4):
            await g.chat(headers={"x-request-id": f"id-{number}", "team": "a"})
        found = (await get(g, "/admin/exchanges?team=a", exchanges=4))["exchanges"]
        assert [story["id"] for story in found] == ["id-3", "id-2", "id-1", "id-0"]
        assert found[0].keys() == found[3].keys()
        before = await get(g, f"/admin/exchanges?before={found[1]['record']}", exchanges=2)
        assert [story["id"] for story in before["exchanges"]] == ["id-1", "id-0"]


async def test_content_only_for_one_record_and_only_when_asked(served):
    async with served(content=[{}]) as g:
        await g.chat("a prompt")
        (one,) = (await get(g, "/admin/exchanges", exchanges=1))["exchanges"]
        assert one["content"] is None
        for _ in range(500):
            answer = await g.request("GET", f"/admin/exchanges?record={one['record']}&content=true", headers=ADMIN)
            if answer.status == 200 and answer.json()["exchanges"][0]["content"]:
                break
            await asyncio.sleep(0.01)
        assert answer.json()["exchanges"][0]["content"]["request"]["messages"][0]["content"] == "a prompt"


@pytest.mark.parametrize("query", ["exchanges?limit=0", "exchanges?limit=x", "exchanges?colour=red", "costs?by=colour"])
async def test_a_question_that_makes_no_sense_is_told(served, query):
    async with served() as g:
        answer = await g.request("GET", f"/admin/{query}", headers=ADMIN)
    assert answer.status == 400
    assert answer.json()["error"]["message"]


async def test_without_a_ledger_the_memory_is_there_and_costs_say_why_they_are_not(served):
    async with served(sinks=[]) as g:
        await g.chat()
        assert len((await get(g, "/admin/exchanges", exchanges=1))["exchanges"]) == 1
        answer = await g.request("GET", "/admin/costs", headers=ADMIN)
    assert (answer.status, answer.json()["error"]["code"]) == (404, "no_ledger")


async def test_records_are_streamed_as_they_end(served):
    gone = asyncio.Event()
    async with served() as g:
        watching = asyncio.create_task(g.request("GET", "/admin/exchanges/stream", headers=ADMIN, hang_up=gone))
        plugin = g.gateway.plugins.by_name["logging"]
        while not plugin._recent.watching:
            await asyncio.sleep(0.01)
        await g.chat(headers={"x-request-id": "live"})
        await asyncio.sleep(0.3)
        gone.set()
        answer = await watching
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert b"event: exchange\n" in answer.body
    (event,) = [json.loads(line[6:]) for line in answer.body.split(b"\n") if line.startswith(b"data: ")]
    assert (event["id"], event["stream"]) == ("live", False)


def test_a_reader_that_is_too_slow_loses_the_oldest_and_is_told():
    from junctor_logging.recent import Watcher

    async def look():
        watcher = Watcher(2)
        for line in (b"1", b"2", b"3"):
            watcher.put(line)
        return watcher.missed, await watcher.queue.get()

    assert asyncio.run(look()) == (1, b"2")


async def test_another_plugin_can_ask_for_costs_and_records(served):
    async with served() as g:
        await g.chat(headers={"x-request-id": "asked"})
        await get(g, "/admin/exchanges", exchanges=1)
        await get(g, "/admin/costs")
        plugin = g.gateway.plugins.by_name["logging"]
        (found,) = await plugin.find(5, {"id": "asked"})
        costs = await plugin.costs(["model"], 0)
    assert found["outcome"] == "answered"
    assert costs["by"] == ["model"]
