"""The verdict of llmock, which judges clients of providers, on the gateway as such a client."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from junctor.testing import require

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

try:
    from llmock.pytest_plugin import LLMock
    from llmock.testing import LLMockServer
except ImportError:
    LLMockServer = LLMock = None

SETTINGS = {"backoff": {"base": "200ms", "by_kind": {}, "max": "2s"}}
TIMEOUTS = {"first_byte": "1s", "between_chunks": "300ms", "total": "20s"}


@pytest.fixture(scope="module")
def mock_server() -> Iterator[Any]:
    require(LLMockServer, "llmock is not installed (pip install llmock)")
    with LLMockServer() as server:
        yield server


@pytest.fixture
def mock(mock_server: Any) -> Any:
    judge = LLMock(mock_server)
    judge.reset()
    return judge


def targets(mock: Any, number: int = 1) -> list[dict[str, Any]]:
    return [
        {"target": f"openai/gpt-4o{'-mini' * n}", "base_url": mock.base_url(), "api_key": "k"} for n in range(number)
    ]


# A stream must be long enough that llmock is still sending when the gateway hangs up: it cannot tell otherwise.
async def patient(w: Any, text: str, **fields: Any) -> Any:
    """An application: it asks again when it is told of an error in the middle of a stream."""
    for _ in range(3):
        got = await w.chat(text, stream=True, **fields)
        if b'"error"' not in got.body:
            return got
        # llmock takes a request for a retry only if it has seen the one before end.
        await asyncio.sleep(0.3)
    return got


async def test_a_judge_of_clients_has_no_complaint_about_retries(world: Callable[..., Any], mock: Any) -> None:
    scenarios: list[Callable[[], Any]] = [
        lambda: mock.rate_limit(times=2, retry_after=0.3),
        lambda: mock.fail(503, times=2),
        lambda: mock.fail(500),
        lambda: mock.fail(529, retry_after=0.2),
        lambda: mock.fail(408),
        lambda: mock.delay(1.5),
    ]
    async with world(*targets(mock), settings=SETTINGS, timeouts=TIMEOUTS) as w:
        for number, script in enumerate(scenarios):
            script()
            assert (await w.chat(f"question {number}")).status == 200
    mock.assert_resilient(strict=True)


@pytest.mark.parametrize("status", [400, 401, 404, 422])
async def test_what_cannot_succeed_is_not_asked_again(world: Callable[..., Any], mock: Any, status: int) -> None:
    mock.fail(status, times=None)
    async with world(*targets(mock), settings=SETTINGS) as w:
        assert (await w.chat(f"wrong {status}")).status == (502 if status == 401 else status)
    mock.assert_resilient(strict=True)


async def test_an_outage_is_survived_with_a_second_target(world: Callable[..., Any], mock: Any) -> None:
    mock.fail(503, times=None, model="gpt-4o")
    async with world(*targets(mock, 2), settings=SETTINGS) as w:
        for number in range(5):
            got = await w.chat(f"outage {number}")
            assert (got.status, got.headers["x-junctor-target"]) == (200, "openai/gpt-4o-mini")
    assert not mock.verdict().errors


async def test_a_judge_of_clients_has_no_complaint_about_streams(world: Callable[..., Any], mock: Any) -> None:
    scenarios: list[Callable[[], Any]] = [
        lambda: mock.rate_limit(times=1, retry_after=0.3),
        lambda: mock.disconnect(after_chunks=2),
        lambda: mock.truncate(after_chunks=2),
        lambda: mock.pace(40).reply("word " * 60).corrupt(after_chunks=2),
        lambda: mock.stall(after_chunks=2, seconds=3),
        lambda: mock.slow_first_token(1.5),
    ]
    async with world(*targets(mock), settings=SETTINGS, timeouts=TIMEOUTS) as w:
        for number, script in enumerate(scenarios):
            script()
            got = await patient(w, f"stream {number}: tell me a story of some length, with a beginning and an end")
            assert got.events[-1] == "[DONE]"
    mock.assert_resilient(strict=True)
