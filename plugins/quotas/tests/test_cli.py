"""`junctor quotas show|set|reset`, beside a gateway that uses the same store, or by asking it."""

from __future__ import annotations

import asyncio
import json
import sys

import pytest
from junctor.__main__ import main
from junctor.testing import FakeProvider, free_port, process, wait_for_port

LIMITS = [
    {"name": "rph", "per": "team", "requests": 5, "window": "day"},
    {"name": "budget", "per": "team", "cost": "12.5", "window": "month"},
]
PRICE = {"input": 2, "output": 10}


def _file(folder, state, *, limits=LIMITS, **more):
    tree = {
        "state": state,
        "models": [{"name": "test", "targets": [{"target": "openai/m", "api_key": "sk-x"}]}],
        "plugins": ["relay", *([{"quotas": {"limits": limits}}] if limits else [])],
        **more,
    }
    file = folder / "config.yaml"
    file.write_text(json.dumps(tree))
    return str(file)


@pytest.fixture
def store():
    """Each test here has a store of its own."""
    return {}


@pytest.fixture
def quotas(tmp_path, redis_url, prefix, capsys):
    """A factory: run `junctor quotas …`; gives the exit code, the lines that were printed, and what was told beside."""
    file = _file(tmp_path, {"url": redis_url, "prefix": prefix})

    def run(*arguments):
        code = main(["quotas", *arguments, "-c", file])
        printed = capsys.readouterr()
        return code, [line.split() for line in printed.out.splitlines()], printed.err.strip()

    run.state = {"url": redis_url, "prefix": prefix, "timeout": 1.0}
    return run


@pytest.fixture
async def used(limited, quotas, rows):
    """A gateway that one request of 12 tokens has passed."""
    async with limited(FakeProvider(), limits=LIMITS, state=quotas.state, price=PRICE) as g:
        assert (await g.chat(max_tokens=10)).status == 200
        await rows(g)  # publishes the scopes, which happens every second
        yield g


async def test_show_prints_every_scope_with_money_in_dollars(used, quotas):
    code, lines, _ = await asyncio.to_thread(quotas, "show")
    assert code == 0
    assert lines[0][:7] == ["name", "scope", "window", "limit", "used", "reserved", "remaining"]
    assert lines[1][:7] == ["budget", "team=search", "month", "$12.500000", "$0.000064", "$0.000000", "$12.499936"]
    assert lines[2][:7] == ["rph", "team=search", "day", "5", "1", "0", "4"]
    assert lines[2][7].endswith("T00:00:00Z")


async def test_set_takes_dollars_and_the_gateway_obeys_at_once(used, quotas):
    assert (await asyncio.to_thread(quotas, "set", "budget", "team=search", "--limit", "0.00005"))[0] == 0
    answer = await used.chat(max_tokens=10)
    assert answer.status == 429
    assert "0.000064 of 0.00005 dollars per month" in answer.json()["error"]["message"]
    assert (await asyncio.to_thread(quotas, "set", "budget", "team=search", "--limit", "$1", "--used", "0.25"))[0] == 0
    _, lines, _ = await asyncio.to_thread(quotas, "show")
    assert lines[1][3:7] == ["$1.000000", "$0.250000", "$0.000000", "$0.750000"]


async def test_set_of_what_was_used_can_end_a_quota(used, quotas):
    await asyncio.to_thread(quotas, "set", "rph", "team=search", "--used", "5")
    assert (await used.chat()).status == 429
    assert (await used.chat(headers={"x-team": "other"})).status == 200


async def test_reset_brings_the_configured_limit_and_nothing_used(used, quotas):
    await asyncio.to_thread(quotas, "set", "rph", "team=search", "--limit", "1")
    assert (await used.chat()).status == 429
    assert (await asyncio.to_thread(quotas, "reset", "rph", "team=search"))[0] == 0
    _, lines, _ = await asyncio.to_thread(quotas, "show")
    assert lines[2][3:7] == ["5", "0", "0", "5"]
    assert (await used.chat()).status == 200


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["set", "nope", "team=search", "--limit", "5"], "no limit 'nope' of team=search"),
        (["set", "rph", "team=nobody", "--limit", "5"], "no limit 'rph' of team=nobody"),
        (["set", "rph", "team=search"], "give --limit, --used, or both"),
        (["set", "rph", "team=search", "--limit", "2.5"], "'rph' counts requests; write a whole number"),
        (["set", "budget", "team=search", "--limit", "lots"], "write an amount of dollars"),
        (["set", "budget", "team=search", "--used=-3"], "write an amount of dollars"),
    ],
)
def test_a_mistake_is_told_and_changes_nothing(quotas, arguments, told):
    code, lines, error = quotas(*arguments)
    assert (code, lines) == (1, [])
    assert told in error


def test_a_store_that_does_not_answer_is_told(tmp_path, capsys):
    file = _file(tmp_path, {"url": f"redis://127.0.0.1:{free_port()}"})
    assert main(["quotas", "show", "-c", file]) == 1
    assert capsys.readouterr().err.startswith("quotas: ")


def test_with_a_store_of_its_own_the_gateway_must_have_an_admin_key(tmp_path, capsys):
    assert main(["quotas", "show", "-c", _file(tmp_path, {"url": "memory://"})]) == 1
    assert "set `admin.key`" in capsys.readouterr().err


def test_a_gateway_with_a_store_of_its_own_is_asked(tmp_path, capsys):
    server, admin = {"port": free_port()}, {"key": "admin-key-0123456789"}
    limits = [{"name": "budget", "cost": 2, "window": "day"}]
    file = _file(tmp_path, {"url": "memory://"}, limits=limits, server=server, admin=admin)
    with process([sys.executable, "-m", "junctor", "serve", "-c", file], tmp_path):
        assert wait_for_port(server["port"], 30)
        assert main(["quotas", "show", "-c", file]) == 0
        assert main(["quotas", "set", "budget", "--limit", "3", "-c", file]) == 1
        assert "no limit 'budget' of global was seen" in capsys.readouterr().err
