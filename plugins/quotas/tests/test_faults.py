"""Redis stopped, killed, restarted empty: no 500, and no unlimited spending."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from contextlib import contextmanager

import pytest
from junctor.state import StateUnavailable
from junctor.testing import FakeProvider, free_port, process, require, wait_for_port


@pytest.fixture
def store():
    """Each test here has a store of its own."""
    return {}


@pytest.fixture
def server(tmp_path):
    binary, port = shutil.which("redis-server"), free_port()
    require(binary, "no redis-server to start (install redis-server)")

    @contextmanager
    def running():
        with process([binary, "--port", str(port), "--save", ""], tmp_path) as child:
            assert wait_for_port(port)
            yield child

    running.state = {"url": f"redis://127.0.0.1:{port}", "prefix": "t:", "timeout": 0.05}
    return running


def _limits(policy):
    return [{"name": "rph", "per": "team", "requests": 10, "window": "day", "on_store_failure": policy}]


@pytest.mark.parametrize("policy", ["closed", "local"])
async def test_a_stopped_store_is_answered_by_the_policy_and_then_forgotten(limited, server, policy):
    with server() as child:
        async with limited(FakeProvider(), limits=_limits(policy), state=server.state) as g:
            assert (await g.chat()).status == 200
            os.kill(child.pid, signal.SIGSTOP)
            answers = [await g.chat() for _ in range(30)]
            os.kill(child.pid, signal.SIGCONT)
            statuses = [answer.status for answer in answers]
            if policy == "closed":
                assert statuses == [503] * 30
                assert answers[0].headers["retry-after"] == "1"
            else:
                assert statuses == [200] * 9 + [429] * 21
                assert answers[0].headers["x-junctor-quota-store"] == "local"
            await asyncio.sleep(1.5)
            after = [(await g.chat()).status for _ in range(12)]
            assert after.count(200) == (9 if policy == "closed" else 0)


async def test_a_store_that_restarts_empty_is_told_what_was_used(limited, server):
    async with limited(FakeProvider(), limits=_limits("closed"), state=server.state) as g:
        with server():
            assert [(await g.chat()).status for _ in range(6)] == [200] * 6
        assert (await g.chat()).status == 503
        with server():
            statuses = []
            for _ in range(40):
                statuses.append((await g.chat()).status)
                await asyncio.sleep(0.05)
    assert set(statuses) <= {200, 429, 503}
    assert statuses.count(200) == 4


async def test_a_settlement_whose_answer_was_lost_is_told_again_and_counts_once(limited, server, rows, monkeypatch):
    limits = [{"name": "tokens", "per": "team", "tokens": 10_000, "window": "day"}]
    with server():
        async with limited(FakeProvider(usage=(100, 50)), limits=limits, state=server.state) as g:
            state, lost = g.gateway.state, []
            run = state.run

            async def losing(script, keys, arguments):
                answer = await run(script, keys, arguments)
                if script.name == "quotas.settle" and not lost:
                    lost.append(answer)
                    raise StateUnavailable("the answer was lost on its way")
                return answer

            monkeypatch.setattr(state, "run", losing)
            await g.chat()
            await asyncio.sleep(0.6)
            told = await rows(g)
    assert lost
    assert (told["tokens"]["used"], told["tokens"]["reserved"]) == (150, 0)
