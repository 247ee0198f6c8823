"""All plugins in one gateway: what one decides, the others respect."""

import asyncio
import json
import sqlite3
from contextlib import closing

import pytest
from junctor import ErrorKind, ProviderError, hookimpl
from junctor.testing import FakeProvider, Recorder

KEYS = {"search": "sk-search-0123456789abcdef", "support": "sk-support-0123456789abcdef"}
PRICED = [
    {"target": "fake/cheap", "price": {"input": 1, "output": 1}},
    {"target": "fake/dear", "price": {"input": 10, "output": 10}},
]


def config(folder, *plugins, targets=PRICED, **clients):
    """A gateway with two teams and the plugins given, in the sound order."""
    listed = [{"name": team, "key": key, "team": team, **clients} for team, key in KEYS.items()]
    logging = {"directory": str(folder / "logs"), "sinks": ["ledger"]}
    models = [{"name": "test", "targets": targets}]
    return json.dumps({"models": models, "plugins": [{"logging": logging}, {"auth": {"clients": listed}}, *plugins]})


def of(team, **headers):
    return {"authorization": f"Bearer {KEYS[team]}", **headers}


async def quotas_of(g):
    """What the limits have counted and hold back, over their scopes."""
    report = {limit["name"]: (0, 0) for limit in LIMITS}
    for row in await g.gateway.plugins.by_name["quotas"].reports.rows():
        used, reserved = report[row["name"]]
        report[row["name"]] = (used + row["used"], reserved + row["reserved"])
    return report


LIMITS = [
    {"name": "count", "per": "team", "requests": 1000, "window": "hour"},
    {"name": "tokens", "per": "team", "tokens": 100_000, "window": "hour"},
    {"name": "money", "per": "team", "cost": 10, "window": "day"},
]


async def test_a_hit_costs_no_tokens_and_still_counts_as_a_request(gateway, tmp_path):
    text = config(tmp_path, {"quotas": {"limits": LIMITS}}, "exact_cache")
    provider = FakeProvider(usage=(100, 50))
    async with gateway(provider, config=text) as g:
        answers = [await g.chat("same", headers=of("search")) for _ in range(3)]
        report = await quotas_of(g)
    assert [answer.headers["x-junctor-cache"] for answer in answers] == ["miss", "hit", "hit"]
    assert len(provider.calls) == 1
    assert report["count"] == (3, 0)
    assert report["tokens"] == (150, 0)


async def test_one_flight_charges_one_answer_and_counts_all_requests(gateway, tmp_path):
    text = config(tmp_path, {"quotas": {"limits": LIMITS}}, "exact_cache")
    provider = FakeProvider("a b c d", usage=(100, 50), chunk_delay=0.02)
    async with gateway(provider, config=text) as g:
        answers = await asyncio.gather(*(g.chat("same", stream=True, headers=of("search")) for _ in range(20)))
        report = await quotas_of(g)
    assert {answer.text for answer in answers} == {"a b c d"}
    assert len(provider.calls) == 1
    assert report["count"] == (20, 0)
    assert report["tokens"] == (150, 0)


async def test_a_cache_does_not_cross_teams(gateway, tmp_path):
    provider = FakeProvider()
    async with gateway(provider, config=config(tmp_path, "exact_cache")) as g:
        await g.chat("same", headers=of("search"))
        other = await g.chat("same", headers=of("support"))
    assert other.headers["x-junctor-cache"] == "miss"
    assert len(provider.calls) == 2


async def test_a_fallback_to_a_dearer_target_is_paid_at_its_price(gateway, tmp_path):
    broken = ProviderError("down", kind=ErrorKind.OVERLOADED)
    text = config(tmp_path, {"quotas": {"limits": LIMITS}}, "fallback")
    recorder = Recorder()
    async with gateway(FakeProvider(script=[broken, None], usage=(1000, 1000)), recorder, config=text) as g:
        answer = await g.chat(headers=of("search"))
        report = await quotas_of(g)
    assert answer.headers["x-junctor-target"] == "fake/dear"
    assert answer.headers["x-junctor-cost"] == "0.020000000"
    assert report["money"] == (20_000_000, 0)


async def test_a_soft_limit_makes_the_route_cheaper(gateway, tmp_path):
    limits = [{"name": "money", "per": "team", "cost": 0.1, "window": "day", "at": {"10%": "prefer_cheaper"}}]
    text = config(
        tmp_path,
        {"quotas": {"limits": limits}},
        {"routing": {"strategies": {"default": "ordered"}}},
        targets=list(reversed(PRICED)),
    )
    async with gateway(FakeProvider(usage=(1000, 1000)), config=text) as g:
        before = await g.chat("first", headers=of("search"))
        after = await g.chat("second", headers=of("search"))
    assert before.headers["x-junctor-target"] == "fake/dear"
    assert after.headers["x-junctor-target"] == "fake/cheap"


@pytest.mark.parametrize(
    "hang", [{"hang_up_after": 0}, {"hang_up_after": 0, "stream": True}, {"hang_up_after": 2, "stream": True}]
)
async def test_a_client_that_hangs_up_leaves_nothing_reserved(gateway, tmp_path, hang):
    text = config(tmp_path, {"quotas": {"limits": LIMITS}}, "routing", "exact_cache", "fallback")
    provider = FakeProvider("word " * 50, chunk_delay=0.02, script=[0.3])
    async with gateway(provider, config=text) as g:
        await asyncio.wait_for(g.chat(headers=of("search"), **hang), 10)
        report = await quotas_of(g)
    assert provider.running == 0
    assert {name: reserved for name, (_, reserved) in report.items()} == {"count": 0, "tokens": 0, "money": 0}


async def test_a_circuit_that_opens_leaves_running_streams_alone(gateway, tmp_path):
    circuit = {"min_requests": 2, "window": "5s"}
    targets = [{"target": "fake/only", "price": {"input": 1}}]
    text = config(tmp_path, {"fallback": {"circuit": circuit, "retries": 0}}, targets=targets)
    broken = ProviderError("down", kind=ErrorKind.OVERLOADED)
    provider = FakeProvider("a b c d e f", chunk_delay=0.05, script=[None, broken])
    async with gateway(provider, config=text) as g:
        streaming = asyncio.create_task(g.chat("long", stream=True, headers=of("search")))
        await asyncio.sleep(0.05)
        for number in range(6):
            await g.chat(f"fails {number}", headers=of("search"))
        answer = await streaming
    assert answer.text == "a b c d e f"


async def test_a_clients_own_key_has_a_cache_of_its_own(gateway, tmp_path):
    provider = FakeProvider()
    async with gateway(provider, config=config(tmp_path, "exact_cache", byok="allowed")) as g:
        own = of("search", **{"x-junctor-provider-key": "sk-theirs-0123456789"})
        await g.chat("same", headers=own)
        shared = await g.chat("same", headers=of("search"))
        again = await g.chat("same", headers=own)
    assert shared.headers["x-junctor-cache"] == "miss"
    assert again.headers["x-junctor-cache"] == "hit"


async def test_what_a_policy_separates_a_cache_does_not_join(gateway, tmp_path):
    policy = {
        "actions": {"regulated": {"route": ["zdr"]}},
        "rules": [{"when": {"header": {"x-kind": "med"}}, "label": "regulated"}],
    }
    targets = [{"target": "fake/plain"}, {"target": "fake/safe", "tags": ["zdr"]}]
    text = config(tmp_path, {"content_policy": policy}, "routing", "exact_cache", targets=targets)
    async with gateway(FakeProvider(), config=text) as g:
        await g.chat("same", headers=of("search"))
        safe = await g.chat("same", headers=of("search", **{"x-kind": "med"}))
    assert safe.headers["x-junctor-target"] == "fake/safe"
    assert safe.headers["x-junctor-cache"] == "miss"


async def test_redacted_values_come_back_to_their_owner_only(gateway, tmp_path):
    class Echo(FakeProvider):
        def _answer(self, exchange, text):
            return super()._answer(exchange, exchange.request.body["messages"][0]["content"])

    text = config(tmp_path, {"content_policy": {"actions": {"personal": "redact"}}}, "exact_cache")
    provider = Echo()
    async with gateway(provider, config=text) as g:
        first = await g.chat("mail ada@example.org", headers=of("search"))
        second = await g.chat("mail bob@example.org", headers=of("search"))
    assert first.text == "mail ada@example.org"
    assert second.text == "mail bob@example.org"
    assert "example.org" not in json.dumps([body for _, body in provider.calls])


async def test_a_semantic_hit_is_told_to_the_log_and_costs_nothing(gateway, tmp_path):
    text = config(
        tmp_path, {"quotas": {"limits": LIMITS}}, {"semantic_cache": {"store": {"path": str(tmp_path / "v")}}}
    )
    recorder = Recorder()
    async with gateway(FakeProvider(usage=(100, 50)), recorder, config=text) as g:
        await until_semantic_hit(g, "how do I fold a napkin", of("search"))
        report = await quotas_of(g)
    told = recorder.last.facts["cache"]
    asked = len(recorder.ended)
    assert (told["status"], told["cache"], told["saved"]) == ("hit", "semantic", 150_000)
    assert report["count"] == (asked, 0)
    assert report["tokens"] == (150 * (asked - 1), 0)


SEPARATED = {
    "a team": ([], of("support")),
    "a policy": (
        [
            {
                "content_policy": {
                    "actions": {"regulated": {"route": ["zdr"]}},
                    "rules": [{"when": {"header": {"x-kind": "med"}}, "label": "regulated"}],
                }
            },
            "routing",
        ],
        of("search", **{"x-kind": "med"}),
    ),
    "a route": (
        [{"routing": {"rules": [{"name": "sums", "when": {"header": {"x-kind": "sum"}}, "use": {"tags": ["zdr"]}}]}}],
        of("search", **{"x-kind": "sum"}),
    ),
}


@pytest.mark.parametrize("by", SEPARATED)
async def test_a_semantic_hit_does_not_cross_what_something_separates(gateway, tmp_path, by):
    plugins, other = SEPARATED[by]
    cache = {"semantic_cache": {"store": {"path": str(tmp_path / "v")}}}
    targets = [{"target": "fake/plain"}, {"target": "fake/safe", "tags": ["zdr"]}]
    async with gateway(FakeProvider(), config=config(tmp_path, *plugins, cache, targets=targets)) as g:
        hit = await until_semantic_hit(g, "how do I fold a napkin", of("search"))
        across = await g.chat("how do I fold a napkin", headers=other)
    assert hit.headers["x-junctor-cache"] == "semantic-hit"
    assert across.headers["x-junctor-cache"] == "miss"


async def until_semantic_hit(g, text, headers):
    """The first answer out of the cache, which stores and learns behind the answers."""
    for _ in range(50):
        answer = await g.chat(text, headers=headers)
        if answer.headers["x-junctor-cache"] == "semantic-hit":
            break
        await asyncio.sleep(0.1)
    return answer


async def test_the_loser_of_a_hedge_is_a_line_of_the_bill_and_of_the_budget(gateway, tmp_path):
    hedge = {"models": ["test"], "after": "50ms", "max_extra": "100%"}
    targets = [PRICED[0], {**PRICED[0], "target": "fake/other"}]
    text = config(tmp_path, {"quotas": {"limits": LIMITS}}, {"fallback": {"hedge": hedge}}, targets=targets)
    provider = FakeProvider(script=[5.0, None], usage=(1000, 1000))
    async with gateway(provider, config=text) as g:
        answer = await g.chat(headers=of("search"))
        report = await quotas_of(g)
    assert answer.headers["x-junctor-target"] == "fake/other"
    with closing(sqlite3.connect(tmp_path / "logs" / "ledger.db")) as ledger:
        lines = ledger.execute("select target, kind, abandoned, cost from lines order by line").fetchall()
    assert [line[:3] for line in lines] == [("fake/cheap", "first", 1), ("fake/other", "hedge", 0)]
    assert all(cost > 0 for *_, cost in lines)
    assert report["money"] == (sum(cost for *_, cost in lines), 0)


async def test_a_stream_that_breaks_is_continued_for_all_who_share_it(gateway, tmp_path):
    """The exact cache reads ahead of the leader's client: what the second target goes on from is what was read."""
    targets = [PRICED[0], {**PRICED[1], "tags": ["prefill"]}]
    plugins = ("exact_cache", {"fallback": {"continue": {"models": ["test"]}}})

    class Breaks(FakeProvider):
        """Breaks off its first answer after three words; the second is the rest of it."""

        @hookimpl
        async def call(self, exchange, target):
            self.cut_after = None if self.calls else 4
            return await super().call(exchange, target)

    provider = Breaks("one two three four", script=[None, "four five six"], chunk_delay=0.01)
    async with gateway(provider, config=config(tmp_path, *plugins, targets=targets)) as g:
        answers = await asyncio.gather(*(g.chat("same", stream=True, headers=of("search")) for _ in range(3)))
    assert [target for target, _ in provider.calls] == ["fake/cheap", "fake/dear"]
    assert provider.calls[1][1]["messages"][-1]["role"] == "assistant"
    assert [answer.text for answer in answers] == ["one two three four five six"] * 3
    assert all(answer.events[-1] == "[DONE]" for answer in answers)
