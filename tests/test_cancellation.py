"""A client hangs up, wherever its request is: the books agree, nothing is held any more, and the next one is served."""

import asyncio
from itertools import count

import pytest
from junctor import ErrorKind, ProviderError, hookimpl
from junctor.testing import FakeProvider
from junctor_semantic_cache import SemanticCache

ONE, TWO = ({"target": f"fake/{name}", "price": {"input": 1, "output": 2}} for name in ("one", "two"))
COST = 7 * 1_000 + 5 * 2_000  # of the fake provider's answer, in nano-dollars


class Gate:
    """Holds back the calls of the targets named, or of all; `held` are the exchanges that stand before it."""

    def __init__(self, *targets):
        self._targets, self._open = targets, asyncio.Event()
        self.held = []
        self.let, self.close = self._open.set, self._open.clear

    @hookimpl
    async def call(self, exchange, target):
        if not self._targets or target.name in self._targets:
            await self._stand(exchange)

    async def _stand(self, exchange):
        self.held.append(exchange)
        try:
            await self._open.wait()
        finally:
            self.held.remove(exchange)


IN_LINE = {
    "its team's": ("team", []),
    "its target's": ("target", [("fake/one", "failed", "unavailable", 0)]),
}


@pytest.mark.parametrize("queue", IN_LINE)
async def test_in_a_queue_its_place_goes_to_the_next_in_line(books, queue):
    per, attempts = IN_LINE[queue]
    gate, provider = Gate(), FakeProvider()
    async with books(gate, provider, limits=[{"name": "places", "per": per, "concurrency": 1}]) as b:
        runs = b.ask("runs", "one")
        await b.until(lambda: len(gate.held) == 1)
        leaves = b.ask("leaves", "two")
        await b.until(lambda: b.in_line(1))
        stays = b.ask("stays", "three")
        await b.until(lambda: b.in_line(2))
        await leaves.hang_up()
        await b.until(lambda: b.in_line(1))
        gate.let()
        assert (await stays.end()).headers["x-junctor-queue-position"] == "2"
        await runs.end()
    assert b.outcomes == {"runs": "answered", "leaves": "cancelled", "stays": "answered", "next": "answered"}
    assert b.attempts("leaves") == attempts
    assert len(provider.calls) == 3


class Paced(FakeProvider):
    """Waits after the first piece of a stream until it is let."""

    def __init__(self, **more):
        super().__init__(**more)
        self._open = asyncio.Event()
        self.let = self._open.set

    async def _pieces(self, *what):
        async for piece in super()._pieces(*what):
            yield piece
            await self._open.wait()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("who", ["leader", "follower"])
async def test_in_one_flight_the_others_get_the_answer_and_share_its_cost(books, who, stream):
    gate, provider = Gate(), FakeProvider()
    async with books(gate, provider, cache={"flight_cost": "split"}) as b:
        calls = {"leader": b.ask("leader", stream=stream)}
        await b.until(lambda: len(gate.held) == 1)
        calls |= {other: b.ask(other, stream=stream) for other in ("follower", "second", "third")}
        await b.until(lambda: b.flying() == 4)
        leading = gate.held[0]
        await calls.pop(who).hang_up()
        await b.until(lambda: leading.client_gone if who == "leader" else b.flying() == 3)
        gate.let()
        answers = [await call.end() for call in calls.values()]
    assert {(answer.status, answer.text) for answer in answers} == {(200, provider.text)}
    assert b.outcomes == dict.fromkeys(calls, "cached") | {"leader": "answered", who: "cancelled", "next": "answered"}
    assert b.attempts("leader") == [("fake/one", "answered", "", COST)]
    shares = [b.record(one)["cache"]["flight"]["share"] for one in {"leader", *calls}]
    assert sum(shares) == COST
    assert len(provider.calls) == 2


async def test_in_the_middle_of_a_shared_stream_a_follower_owes_nothing(books):
    provider = Paced()
    async with books(provider, cache={"flight_cost": "split"}) as b:
        leads = b.ask("leads", stream=True)
        await b.until(lambda: leads.got.chunks)
        stays, leaves = (b.ask(who, stream=True) for who in ("stays", "leaves"))
        await b.until(lambda: stays.got.chunks and leaves.got.chunks)
        await leaves.hang_up()
        await b.until(lambda: b.gateway.pipeline.running == 2)
        provider.let()
        assert {(await call.end()).text for call in (leads, stays)} == {provider.text}
    assert b.outcomes == {"leads": "answered", "stays": "cached", "leaves": "cancelled", "next": "answered"}
    flights = {who: b.record(who)["cache"].get("flight") for who in ("leads", "stays", "leaves")}
    assert [flights[who]["share"] for who in ("leads", "stays")] == [COST - COST // 2, COST // 2]
    assert flights["leaves"] is None


@pytest.mark.parametrize("stream", [False, True])
async def test_in_the_second_attempt_both_are_told_and_the_abandoned_one_costs_its_input(books, stream):
    gate = Gate("fake/two")
    provider = FakeProvider(script=[ProviderError("down", kind=ErrorKind.OVERLOADED), None])
    async with books(gate, provider) as b:
        leaves = b.ask("leaves", stream=stream)
        await b.until(lambda: gate.held)
        await leaves.hang_up()
        await b.until(lambda: not gate.held)
    line = next(line for line in b.lines if line["outcome"] == "abandoned")
    assert b.outcomes == {"leaves": "cancelled", "next": "answered"}
    assert b.attempts("leaves") == [
        ("fake/one", "failed", "overloaded", 0),
        ("fake/two", "abandoned", "", line["input_tokens"] * 1_000),
    ]
    assert (line["input_tokens"] > 0, line["output_tokens"], line["estimated"]) == (True, 0, 1)


async def test_in_a_continuation_the_broken_attempt_and_the_abandoned_one_are_paid(books):
    gate, targets = Gate("fake/two"), [ONE, {**TWO, "tags": ["prefill"]}]
    provider = FakeProvider(cut_after=3)
    async with books(gate, provider, targets=targets, fallback={"continue": {"models": ["test"]}}) as b:
        leaves = b.ask("leaves", stream=True)
        await b.until(lambda: gate.held)
        await leaves.hang_up()
        await b.until(lambda: not gate.held)
    assert b.outcomes == {"leaves": "cancelled", "next": "answered"}
    assert [attempt[:2] for attempt in b.attempts("leaves")] == [("fake/one", "failed"), ("fake/two", "abandoned")]
    assert all(cost > 0 for *_, cost in b.attempts("leaves"))


async def test_while_a_retry_is_waited_for_the_retry_is_neither_made_nor_paid(books):
    provider = FakeProvider(script=[ProviderError("full", kind=ErrorKind.RATE_LIMITED, retry_after=9.0), None])
    async with books(provider, targets=[ONE]) as b:
        leaves = b.ask("leaves")
        await b.until(lambda: b.retries_left(9))
        await leaves.hang_up()
        await b.until(lambda: b.gateway.pipeline.running == 0)
        assert await b.retries_left(10)
    assert b.outcomes == {"leaves": "cancelled", "next": "answered"}
    assert b.attempts("leaves") == [("fake/one", "failed", "rate_limited", 0)]
    assert len(provider.calls) == 2


HEDGES = {"hedge": {"models": ["test"], "after": "20ms", "max_extra": "100%"}}


@pytest.mark.parametrize("stream", [False, True])
async def test_the_loser_of_a_hedge_is_in_the_metrics_what_it_is_in_the_ledger(books, stream):
    gate = Gate("fake/one")
    async with books(gate, FakeProvider(), fallback=HEDGES) as b:
        assert (await b.ask("hedged", stream=stream).end()).status == 200
        gate.let()
    (loser, winner), hedges = b.attempts("hedged"), b.counted("hedges_total", "target")
    assert (loser[:3], winner) == (("fake/one", "abandoned", ""), ("fake/two", "answered", "", COST))
    assert loser[3] > 0
    assert hedges == {("fake/two",): 1}


@pytest.mark.parametrize("stream", [False, True])
async def test_beside_a_hedge_both_attempts_are_given_up(books, stream):
    gate = Gate()
    async with books(gate, FakeProvider(), fallback=HEDGES) as b:
        leaves = b.ask("leaves", stream=stream)
        await b.until(lambda: len(gate.held) == 2)
        await leaves.hang_up()
        await b.until(lambda: not gate.held)
        gate.let()
    assert b.outcomes == {"leaves": "cancelled", "next": "answered"}
    assert [attempt[:2] for attempt in b.attempts("leaves")] == [("fake/one", "abandoned"), ("fake/two", "abandoned")]


QUESTION = "How do I fold a napkin"
EMBED = [{"name": "embed", "targets": [{"target": "fake/embed", "price": {"input": 1}}]}]


def semantic(folder):
    """The semantic cache, behind the exact one, with an embedder that a gate can hold back."""
    store = {"path": str(folder / "vectors")}
    return SemanticCache, {"embedder": "gateway:embed", "store": store, "verify": 0, "lookup_timeout": 20}


async def warm(b):
    """Have the semantic cache know the answer to the question: what is kept is kept behind the answers."""
    async with asyncio.timeout(20):
        for spaces in count(1):
            answer = await b.ask(f"warm {spaces}", QUESTION + " " * spaces).end()
            if answer.headers["x-junctor-cache"] == "semantic-hit":
                break
            await asyncio.sleep(0.05)
    b.idle = asyncio.all_tasks()


async def test_in_a_semantic_look_up_nothing_is_asked_and_the_embedding_is_told_as_given_up(books, tmp_path):
    gate, provider = Gate("fake/embed"), FakeProvider()
    gate.let()
    async with books(gate, semantic(tmp_path), provider, models=EMBED) as b:
        await warm(b)
        gate.close()
        asked = len(provider.calls)
        leaves = b.ask("leaves", "Something that nobody has asked so far")
        await b.until(lambda: gate.held)
        await leaves.hang_up()
        await b.until(lambda: not gate.held)
        assert len(provider.calls) == asked
        gate.let()
    assert (b.outcomes["leaves"], b.attempts("leaves")) == ("cancelled", [])
    own = [record for record in b.told if record.get("parent") == "leaves"]
    assert [(record["purpose"], record["outcome"]) for record in own] == [("embedding", "cancelled")]


class Look(Gate):
    """Holds back look-ups in the caches that come after it."""

    def __init__(self):
        super().__init__("nothing")

    @hookimpl
    async def cache_lookup(self, exchange):
        await self._stand(exchange)


@pytest.mark.parametrize("who", ["leader", "follower"])
async def test_of_a_flight_that_ends_in_a_semantic_hit_the_others_get_the_answer(books, tmp_path, who):
    look, provider = Look(), FakeProvider()
    look.let()
    async with books(look, semantic(tmp_path), provider, models=EMBED) as b:
        await warm(b)
        look.close()
        calls = {"leader": b.ask("leader", QUESTION)}
        await b.until(lambda: look.held)
        calls |= {other: b.ask(other, QUESTION) for other in ("follower", "second", "third")}
        await b.until(lambda: b.flying() == 4)
        leading = look.held[0]
        await calls.pop(who).hang_up()
        await b.until(lambda: leading.client_gone if who == "leader" else b.flying() == 3)
        asked = len(provider.calls)
        look.let()
        answers = [await call.end() for call in calls.values()]
        assert len(provider.calls) == asked
    assert {(answer.text, answer.headers["x-junctor-cache"]) for answer in answers} == {(provider.text, "semantic-hit")}
    assert {one: b.outcomes[one] for one in (*calls, who)} == dict.fromkeys(calls, "cached") | {who: "cancelled"}
