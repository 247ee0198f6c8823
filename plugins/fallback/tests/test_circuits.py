"""Circuits and the retry budget under load: storm, recovery, and what two gateways tell each other."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest
from junctor.faults import answer, reset, slow, status
from junctor.faulty_server import FaultyServer

if TYPE_CHECKING:
    from collections.abc import Callable

CIRCUIT = {"open_for": 0.3, "probes": 2, "ramp": 0.2, "window": "5s", "min_requests": 10}


async def crowd(w: Any, requests: int, at_once: int = 100, **fields: Any) -> list[Any]:
    """So many requests, so many at a time."""
    gate = asyncio.Semaphore(at_once)

    async def one() -> Any:
        async with gate:
            return await w.chat(**fields)

    return await asyncio.gather(*(one() for _ in range(requests)))


@pytest.mark.parametrize("targets", [1, 2, 3])
async def test_a_retry_storm_stays_under_a_third_of_an_attempt_more_for_each_request(
    world: Callable[..., Any], targets: int
) -> None:
    servers = [FaultyServer(status(503)) for _ in range(targets)]
    async with world(*servers) as w:
        answers = await crowd(w, 500)
    assert {got.status for got in answers} == {503}
    assert sum(len(server.requests) for server in servers) <= 1.3 * 500


async def test_without_a_circuit_the_budget_alone_holds_retries_down(world: Callable[..., Any]) -> None:
    server = FaultyServer(status(503))
    async with world(server, settings={"circuit": {"min_requests": 100_000}}) as w:
        await crowd(w, 500)
    assert 500 < len(server.requests) <= 1.3 * 500


async def test_an_open_circuit_spares_its_provider_while_another_answers(world: Callable[..., Any]) -> None:
    down, up = FaultyServer(status(503)), FaultyServer(answer())
    async with world(down, up) as w:
        answers = await crowd(w, 200, at_once=5)
        assert w.target("faulty/one")["circuit"] == "open"
        assert w.target("faulty/one")["opens_until"] > time.time()
    assert {got.status for got in answers} == {200}
    assert len(down.requests) <= 20


async def test_traffic_is_back_in_time_with_few_probes(world: Callable[..., Any]) -> None:
    down, up = FaultyServer(status(503)), FaultyServer(answer())
    async with world(down, up, settings={"circuit": CIRCUIT}) as w:
        await crowd(w, 50, at_once=5)
        down.become(answer("back", delay=0.05))
        before = len(down.requests)
        await asyncio.sleep(0.31)
        await crowd(w, 40)
        assert len(down.requests) - before <= CIRCUIT["probes"]
        await asyncio.sleep(0.21)
        answers = await crowd(w, 40)
    assert [got.text for got in answers] == ["back"] * 40


async def test_a_failed_probe_opens_for_longer(world: Callable[..., Any]) -> None:
    down, up = FaultyServer(status(503)), FaultyServer(answer())
    async with world(down, up, settings={"circuit": CIRCUIT}) as w:
        await crowd(w, 30, at_once=5)
        before = len(down.requests)
        await asyncio.sleep(0.31)
        await crowd(w, 20)
        assert len(down.requests) - before <= CIRCUIT["probes"]
        assert w.target("faulty/one")["opens_until"] - time.time() > 0.4


async def test_traffic_grows_over_the_ramp(world: Callable[..., Any]) -> None:
    healed, up = FaultyServer(status(503)), FaultyServer(answer("other"))
    async with world(healed, up, settings={"circuit": {**CIRCUIT, "ramp": 60}}) as w:
        await crowd(w, 30, at_once=5)
        healed.become(answer("back"))
        await asyncio.sleep(0.31)
        await crowd(w, 4, at_once=1)
        texts = [got.text for got in await crowd(w, 200, at_once=20)]
    assert 2 <= texts.count("back") <= 60


async def test_when_every_circuit_is_open_the_last_resort_is_tried(world: Callable[..., Any]) -> None:
    servers = [FaultyServer(status(503)), FaultyServer(status(503))]
    async with world(*servers) as w:
        await crowd(w, 60, at_once=5)
        assert {line["circuit"] for line in w.plugin.snapshot()} == {"open"}
        for server in servers:
            server.become(answer())
        assert (await w.chat()).status == 200


async def test_one_request_that_cannot_connect_is_not_all_of_them(world: Callable[..., Any]) -> None:
    server = FaultyServer(reset("before_headers"))
    settings = {"retries": 9, "max_attempts": 10, "circuit": {"min_requests": 2}}
    async with world(server, settings=settings) as w:
        await w.chat()
        assert len(server.requests) > 2
        assert w.target("faulty/one")["circuit"] == "closed"


async def test_slow_answers_open_a_circuit_too(world: Callable[..., Any]) -> None:
    lame = FaultyServer(answer(delay=0.1))
    circuit = {"slow_call": "50ms", "min_requests": 5}
    async with world(lame, FaultyServer(answer()), settings={"circuit": circuit}) as w:
        await crowd(w, 5)
        assert (w.target("faulty/one")["circuit"], w.target("faulty/one")["reason"]) == ("open", "slow")


async def test_a_kind_of_error_may_have_a_share_of_its_own(world: Callable[..., Any]) -> None:
    script = [answer()] * 8 + [reset("before_headers")] * 2 + [answer()]
    circuit = {"min_requests": 10, "shares": {"connection": "20%"}}
    async with world(FaultyServer(*script), FaultyServer(answer()), settings={"circuit": circuit}) as w:
        await crowd(w, 10, at_once=1)
        assert w.target("faulty/one")["reason"] == "connection"


async def test_the_clients_own_mistakes_open_nothing(world: Callable[..., Any]) -> None:
    async with world(FaultyServer(status(400))) as w:
        await crowd(w, 40)
        assert w.target("faulty/one")["circuit"] == "closed"
        assert w.target("faulty/one")["failures"] == {}


async def test_nothing_is_left_in_flight(world: Callable[..., Any]) -> None:
    async with world(FaultyServer(status(500), answer(), slow(0.001)), FaultyServer(answer())) as w:
        await crowd(w, 30, stream=True)
        assert {line["in_flight"] for line in w.plugin.snapshot()} == {0}


async def test_the_operator_sees_every_target(world: Callable[..., Any]) -> None:
    key = "an-admin-key-of-some-length"
    async with world(FaultyServer(answer()), FaultyServer(answer()), admin={"key": key}) as w:
        await w.chat()
        got = await w.request("GET", "/admin/targets", headers={"authorization": f"Bearer {key}"})
        refused = await w.request("GET", "/admin/targets")
    assert refused.status == 401
    assert [line["target"] for line in got.json()] == ["faulty/one", "faulty/two"]
    fields = {"target", "key_id", "circuit", "failures", "in_flight", "retry_budget", "opens_until"}
    assert fields <= set(got.json()[0])


async def eventually(condition: Callable[[], bool], seconds: float = 3.0) -> float:
    """How long it took to become true."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < seconds
        await asyncio.sleep(0.01)
    return time.monotonic() - started


async def test_a_circuit_crosses_two_gateways_through_redis(
    world: Callable[..., Any], redis_url: str, prefix: str
) -> None:
    state = {"url": redis_url, "prefix": prefix, "timeout": "500ms"}
    settings = {"circuit": {**CIRCUIT, "open_for": 0.5}, "sync": "200ms"}
    async with FaultyServer(status(503)) as down, FaultyServer(answer()) as up:
        async with world(down, up, state=state, settings=settings) as one:
            async with world(down, up, state=state, settings=settings) as two:
                await crowd(one, 20, at_once=5)
                took = await eventually(lambda: two.target("faulty/one")["circuit"] == "open")
                calls = len(down.requests)
                assert (await two.chat()).headers["x-junctor-target"] == "faulty/two"
                assert len(down.requests) == calls
                down.become(answer())
                await asyncio.sleep(0.51)
                await crowd(one, 2, at_once=1)
                await eventually(lambda: two.target("faulty/one")["circuit"] == "closed")
            async with world(down, up, state=state, settings=settings) as late:
                assert late.target("faulty/one")["circuit"] == "closed"
    assert took < 1


async def test_a_worker_that_starts_late_knows_what_is_open(
    world: Callable[..., Any], redis_url: str, prefix: str
) -> None:
    state = {"url": redis_url, "prefix": prefix, "timeout": "500ms"}
    async with FaultyServer(status(503)) as down, FaultyServer(answer()) as up:
        async with world(down, up, state=state) as one:
            await crowd(one, 20, at_once=5)
            await asyncio.sleep(0.2)
            async with world(down, up, state=state) as late:
                assert late.target("faulty/one")["circuit"] == "open"


async def test_without_its_store_a_worker_has_circuits_of_its_own(world: Callable[..., Any]) -> None:
    state = {"url": "redis://127.0.0.1:1/0"}
    down, up = FaultyServer(status(503)), FaultyServer(answer())
    async with world(down, up, state=state) as w:
        answers = await crowd(w, 30, at_once=5)
        assert w.target("faulty/one")["circuit"] == "open"
    assert {got.status for got in answers} == {200}
