"""Which target follows, in which order, after how long: through a running gateway."""

from __future__ import annotations

import logging
import time
from email.utils import formatdate
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from junctor.faults import FAULTS, answer, silence, status
from junctor.faulty_server import Fault, FaultyServer

if TYPE_CHECKING:
    from collections.abc import Callable

FAR = "3600"


def keyed(server: FaultyServer, **keys: str) -> dict[str, Any]:
    return {"target": "faulty/one", "base_url": server.url, "api_keys": keys}


def named(server: FaultyServer, name: str, **more: Any) -> dict[str, Any]:
    return {"target": f"faulty/{name}", "base_url": server.url, **more}


def used(server: FaultyServer) -> list[str]:
    """The keys that the server was shown, in order."""
    return [asked.headers["authorization"].removeprefix("Bearer ") for asked in server.requests]


@pytest.mark.parametrize("name", ["401", "429 quota", "429"])
async def test_the_next_key_of_the_same_provider_is_tried_and_never_the_same_one_again(
    world: Callable[..., Any], name: str
) -> None:
    async with FaultyServer(FAULTS[name], answer()) as server, world(keyed(server, a="k1", b="k2")) as w:
        assert (await w.chat()).status == 200
        assert (await w.chat()).status == 200
    assert used(server)[:2] == ["k1", "k2"]
    assert name == "429" or used(server)[2] == "k2"


async def test_a_refused_key_raises_an_alert_and_is_out_for_all_its_models(
    world: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    async with FaultyServer(FAULTS["401"]) as bad, FaultyServer(answer()) as good:
        targets = [named(bad, "one", api_key="k1"), named(bad, "two", api_key="k1"), named(good, "three")]
        async with world(*targets) as w:
            with caplog.at_level(logging.ERROR, "junctor.fallback"):
                assert (await w.chat()).status == 200
            assert w.recorder.last.facts["alerts"][0]["kind"] == "authentication"
            lines = w.plugin.snapshot()
    assert [line["circuit"] for line in lines] == ["open", "open", "closed"]
    assert len(bad.requests) == 1
    assert "taken out" in caplog.text
    assert "k1" not in caplog.text.replace("key", "")


async def test_a_403_takes_out_only_the_target(world: Callable[..., Any]) -> None:
    async with FaultyServer(FAULTS["403"], answer()) as server:
        async with world(named(server, "one", api_key="k1"), named(server, "two", api_key="k1")) as w:
            assert (await w.chat()).headers["x-junctor-target"] == "faulty/two"


async def test_a_prompt_that_is_too_long_goes_only_to_a_larger_window(world: Callable[..., Any]) -> None:
    async with FaultyServer(FAULTS["context too long"]) as short, FaultyServer(answer()) as other:
        sizes = {"one": 8000, "two": 4000, "three": 128_000}
        targets = [named(short if n == "one" else other, n, context_window=s) for n, s in sizes.items()]
        async with world(*targets) as w:
            assert (await w.chat()).headers["x-junctor-target"] == "faulty/three"
    assert len(short.requests) == len(other.requests) == 1


@pytest.mark.parametrize(("named_for_it", "expected"), [([], 400), (["faulty/three"], 200), (["tag:open"], 200)])
async def test_what_a_filter_refused_goes_only_to_targets_named_for_it(
    world: Callable[..., Any], named_for_it: list[str], expected: int
) -> None:
    async with FaultyServer(FAULTS["content policy"]) as strict, FaultyServer(answer()) as other:
        targets = [named(strict, "one"), named(other, "two"), named(other, "three", tags=["open"])]
        async with world(*targets, settings={"content_policy": named_for_it}) as w:
            assert (await w.chat()).status == expected
            assert expected == 400 or w.attempts[-1].target.model == "three"


async def test_another_model_follows_when_the_configuration_says_so(world: Callable[..., Any]) -> None:
    async with FaultyServer(status(503)) as down, FaultyServer(answer()) as up:
        models = [{"name": "test", "targets": [named(down, "one")]}, {"name": "small", "targets": [named(up, "two")]}]
        async with world(models=models, settings={"models": {"test": ["small"]}}) as w:
            assert (await w.chat()).headers["x-junctor-target"] == "faulty/two"


def date(seconds: float) -> str:
    return formatdate(time.time() + seconds, usegmt=True)


WAITS: list[tuple[Callable[[], dict[str, str]], float]] = [
    (lambda: {"retry_after_ms": "300"}, 0.3),
    (lambda: {"retry_after": "0.3"}, 0.3),
    (lambda: {"retry_after": date(2.0)}, 0.9),  # whole seconds
]


@pytest.mark.parametrize(("headers", "least"), WAITS, ids=["ms", "seconds", "date"])
async def test_retry_after_is_waited_for_when_it_fits(
    world: Callable[..., Any], headers: Callable[[], dict[str, str]], least: float
) -> None:
    server = FaultyServer(status(429, **headers()), answer())
    async with world(server) as w:
        assert (await w.chat()).status == 200
    assert server.requests[1].at - server.requests[0].at >= least


async def test_a_wait_that_does_not_fit_is_told_to_the_client(world: Callable[..., Any]) -> None:
    async with world(FaultyServer(status(429, retry_after="7")), timeouts={"total": "2s"}) as w:
        got = await w.chat()
    assert got.status == 429
    assert 6 <= int(got.headers["retry-after"]) <= 8
    assert len(w.attempts) == 1


async def test_the_least_of_the_waits_is_told_when_all_are_limited(world: Callable[..., Any]) -> None:
    servers = [FaultyServer(status(429, retry_after=wait)) for wait in ("500", "200", "300")]
    async with world(*servers) as w:
        got = await w.chat()
    assert got.status == 429
    assert 199 <= int(got.headers["retry-after"]) <= 201


async def test_an_overloaded_provider_gives_the_client_a_time_to_come_back(world: Callable[..., Any]) -> None:
    async with world(FaultyServer(status(503)), settings={"retries": 0}) as w:
        got = await w.chat()
    assert (got.status, got.headers["retry-after"]) == (503, "1")


async def test_nothing_starts_after_the_deadline(world: Callable[..., Any]) -> None:
    server = FaultyServer(silence())
    async with world(server, timeouts={"first_byte": 0.2, "total": 0.5}, settings={"retries": 9}) as w:
        started = time.monotonic()
        got = await w.chat()
    assert got.status == 504
    assert time.monotonic() - started < 0.8
    assert all(asked.at - started < 0.5 for asked in server.requests)


async def test_waits_grow(world: Callable[..., Any]) -> None:
    server = FaultyServer(status(500))
    settings = {"backoff": {"base": 0.05, "by_kind": {}, "max": 1}, "retries": 3}
    async with world(server, settings=settings) as w:
        await w.chat()
    at = [asked.at for asked in server.requests]
    waits = [later - earlier for earlier, later in pairwise(at)]
    assert len(waits) == 3
    assert waits == sorted(waits)


@pytest.mark.parametrize(("retry_first", "calls"), [(0, 1), (2, 3)])
async def test_the_same_target_may_be_tried_again_first(
    world: Callable[..., Any], retry_first: int, calls: int
) -> None:
    first = FaultyServer(status(503))
    async with world(first, FaultyServer(answer()), settings={"retry_first": retry_first}) as w:
        assert (await w.chat()).status == 200
    assert len(first.requests) == calls


async def test_attempts_are_limited_over_all_targets(world: Callable[..., Any]) -> None:
    servers = [FaultyServer(status(503)) for _ in range(4)]
    async with world(*servers, settings={"max_attempts": 3}) as w:
        await w.chat()
    assert sum(len(server.requests) for server in servers) == 3


async def test_an_exchange_never_costs_more_than_it_may(world: Callable[..., Any]) -> None:
    async with FaultyServer(status(503)) as cheap, FaultyServer(answer()) as dear:
        price = {"input": 1, "output": 10}
        costly = {"input": 1000, "output": 10_000}
        targets = [named(cheap, "one", price=price), named(dear, "two", price=costly)]
        async with world(*targets, settings={"max_cost": 0.02, "retries": 0}) as w:
            assert (await w.chat(max_tokens=100)).status == 503
    assert not dear.requests


async def test_a_fault_of_this_gateway_never_shows_the_providers_key(world: Callable[..., Any]) -> None:
    async with world(FaultyServer(FAULTS["401"])) as w:
        got = await w.chat()
    assert got.status == 502
    assert b"sk-" not in got.body


async def test_a_client_that_hangs_up_ends_the_providers_work(world: Callable[..., Any]) -> None:
    server = FaultyServer(silence())
    async with world(server) as w:
        await w.chat(hang_up_after=0)
        assert server.running == 0 or await server.left.wait()
        assert w.target("faulty/one")["in_flight"] == 0
    assert len(w.attempts) <= 1


def scripted(*faults: Fault) -> FaultyServer:
    return FaultyServer(*faults)


CONNECT = ["connect", "first token", "between tokens", "total"]


@pytest.mark.parametrize("kind", CONNECT)
async def test_each_time_out_ends_its_own_wait(world: Callable[..., Any], kind: str) -> None:
    fault = silence(after=3) if kind == "between tokens" else silence()
    limits = {"first token": {"first_byte": 0.2}, "between tokens": {"between_chunks": 0.2}, "total": {"total": 0.2}}
    address = [{"target": "faulty/one", "base_url": "http://127.0.0.1:1/v1"}] if kind == "connect" else []
    servers = address or [scripted(fault)]
    started = time.monotonic()
    async with world(*servers, timeouts=limits.get(kind, {"connect": 0.2}), settings={"retries": 0}) as w:
        got = await w.chat(stream=True)
    assert time.monotonic() - started < 1
    assert got.status in (200, 502, 504)
    assert b"error" in got.body
