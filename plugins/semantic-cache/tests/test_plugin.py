"""Through the whole gateway: what a client gets, what is stored, what is learned."""

import asyncio
import json

import pytest
from junctor_semantic_cache.store import Selection

PAIR = {"how do I fold a napkin": "fold it twice", "please how do I fold a napkin": "fold it twice"}


def header(answer, name="x-junctor-cache"):
    return answer.headers.get(name)


async def test_the_same_words_are_answered_from_memory(running):
    async with running() as g:
        first = await g.ask("Why is the sky blue?")
        second = await g.ask("  why is the sky  blue ?")
    assert (header(first), header(second)) == ("miss", "semantic-hit")
    assert second.text == first.text
    assert second.headers["x-junctor-cache-similarity"] == "1.0000"
    assert len(g.provider.calls) == 1


async def test_a_clean_rewording_is_answered_once_requests_bear_the_risk(running, knows):
    async with running({"max_wrong": "20%"}, provider=knows(PAIR)) as g:
        for number in range(12):
            await g.ask(f"question about subject {number * 7}")
        await g.ask("how do I fold a napkin")
        answer = await g.ask("please how do I fold a napkin")
    assert header(answer) == "semantic-hit"
    assert answer.text.startswith("fold it twice")
    assert g.fact["outcome"] == "hit"
    assert g.fact["risk"] <= 0.2


@pytest.mark.parametrize(("first", "second"), [(False, True), (True, False), (True, True)])
async def test_plain_and_streamed_answers_serve_each_other(running, first, second):
    async with running() as g:
        one = await g.ask("Why is grass green?", stream=first)
        two = await g.ask("Why is grass green?", stream=second)
    assert header(two) == "semantic-hit"
    assert one.text == two.text
    assert two.headers["content-type"].startswith("text/event-stream" if second else "application/json")
    if second:
        assert two.events[-1] == "[DONE]"
        assert any(e["choices"][0]["finish_reason"] == "stop" for e in two.events[:-1] if e["choices"])


@pytest.mark.parametrize(
    "more", [{"temperature": 0}, {"max_tokens": 3}, {"tools": [{"type": "function", "function": {"name": "f"}}]}]
)
async def test_other_parameters_are_another_question(running, more):
    async with running() as g:
        await g.ask("Why is snow white?")
        assert header(await g.ask("Why is snow white?", **more)) == "miss"


async def test_a_tenant_never_sees_anothers_answer(running):
    async with running({"tenant_header": "X-Tenant"}) as g:
        await g.ask("What is my plan?", headers={"x-tenant": "a"})
        assert header(await g.ask("What is my plan?", headers={"x-tenant": "b"})) == "miss"
        assert header(await g.ask("What is my plan?", headers={"x-tenant": "a"})) == "semantic-hit"


async def test_shadow_serves_nothing_and_says_what_it_would_have_done(running):
    async with running({"mode": "shadow"}) as g:
        await g.ask("Why is coal black?")
        answer = await g.ask("Why is coal black?")
        assert header(answer) == "miss"
        assert g.fact["outcome"] == "shadow"
        assert len(g.provider.calls) == 2


async def test_off_leaves_the_request_alone(running):
    async with running({"mode": "off"}, wait=False) as g:
        await g.ask("Why?")
        assert header(await g.ask("Why?")) is None


@pytest.mark.parametrize(("control", "kept"), [("no-store", False), ("no-cache", True)])
async def test_the_client_may_decline(running, control, kept):
    async with running() as g:
        first = await g.ask("Why is tea hot?", headers={"cache-control": control})
        second = await g.ask("Why is tea hot?")
    assert header(first) == "bypass"
    assert header(second) == ("semantic-hit" if kept else "miss")


@pytest.mark.parametrize("how", [{"script": [ValueError("no")]}, {"cut_after": 2}])
async def test_a_failed_or_cut_answer_is_not_kept(running, knows, how):
    provider = knows(**how)
    async with running(provider=provider) as g:
        await g.ask("Why is ice cold?", stream=True)
        provider.script, provider.cut_after = [], None
        assert header(await g.ask("Why is ice cold?")) == "miss"


async def test_a_client_that_hangs_up_leaves_no_half_answer(running, knows):
    async with running(provider=knows(chunk_delay=0.05)) as g:
        await g.ask("Tell me a long story", stream=True, hang_up_after=1)
        assert header(await g.ask("Tell me a long story")) == "miss"


async def test_an_entry_lives_as_long_as_the_client_says(running):
    async with running() as g:
        await g.ask("Why is fire warm?", headers={"x-junctor-cache-ttl": "0"})
        assert header(await g.ask("Why is fire warm?")) == "miss"


async def test_volatile_questions_are_not_kept_where_their_life_is_nothing(running):
    async with running({"volatile_ttl": 0}) as g:
        await g.ask("What is the weather in Rome?")
        assert header(await g.ask("What is the weather in Rome?")) == "miss"


async def test_a_verified_hit_teaches_and_a_wrong_one_is_not_served_again(running, knows):
    provider = knows(PAIR)
    async with running({"max_wrong": "30%", "verify": 1.0}, provider=provider) as g:
        for number in range(12):
            await g.ask(f"question about subject {number * 7}")
        await g.ask("how do I fold a napkin")
        provider.answers["please how do I fold a napkin"] = "burn it"
        assert header(await g.ask("please how do I fold a napkin")) == "semantic-hit"
        for _ in range(100):
            await asyncio.sleep(0.02)
            if g.cache.namespaces["test"].verified:
                break
        await asyncio.sleep(0.1)
        again = await g.ask("please how do I fold a napkin")
    assert g.cache.namespaces["test"].verified_wrong == 1
    assert again.text.startswith("burn it")


async def test_what_was_learned_and_stored_outlives_a_restart(running):
    async with running() as g:
        await g.ask("Why is gold heavy?")
    async with running() as g:
        assert header(await g.ask("Why is gold heavy?")) == "semantic-hit"
        assert g.cache.namespaces["test"].requests == 2


async def test_the_least_worthy_entries_go_when_there_are_too_many(running, tmp_path):
    async with running({"store": {"path": str(tmp_path / "small"), "max_entries": 5}}) as g:
        for number in range(12):
            await g.ask(f"subject {number * 13} alone")
        assert await g.cache.engine.store.count(Selection()) <= 5


async def test_the_operator_reads_and_purges(running):
    config = json.dumps(
        {"models": [{"name": "test", "targets": [{"target": "fake/one"}]}], "admin": {"key": "sixteen-letters-x"}}
    )
    key = {"authorization": "Bearer sixteen-letters-x"}
    async with running(config=config) as g:
        await g.ask("Why is lead soft?", headers={"x-junctor-cache-tags": "metals"})
        report = (await g.harness.request("GET", "/admin/semantic-cache", headers=key)).json()
        assert report["namespaces"]["test"]["requests"] == 1
        purged = await g.harness.request("POST", "/admin/semantic-cache/purge", {"tag": "metals"}, headers=key)
        assert purged.json() == {"purged": 1}
        refused = await g.harness.request("POST", "/admin/semantic-cache/purge", {}, headers=key)
        assert refused.status == 400
        assert header(await g.ask("Why is lead soft?")) == "miss"
        assert (await g.harness.request("GET", "/admin/semantic-cache")).status == 401
