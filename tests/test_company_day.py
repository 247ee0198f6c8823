"""A company's day in little: three teams, five features, three providers, their failures, and books that agree."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.request
from contextlib import AsyncExitStack, ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import openai
import pytest
from junctor.http import HTTPClient
from junctor.testing import free_port, process, require, wait_for_port

HERE = Path(__file__).parent


def _beside(file: str) -> Any:
    """A module beside this one; tests are found by their paths, so it is on no path of imports."""
    spec = importlib.util.spec_from_file_location("day_" + Path(file).stem, HERE / file)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


traffic, outage, serving = _beside("company/traffic.py"), _beside("company/outage.py"), _beside("conftest.py").serving
ADMIN = "the-administrators-key-0123"
AT_ONCE = 50
BY_ROAD = ("openai/gpt-4o-mini", "openai/text-embedding-3-small")
PATHS = {  # of the stand-in, and the targets that are asked there
    "chat/completions": ("openai/gpt-4o-mini", "openai/gpt-4o"),
    "embeddings": ("openai/text-embedding-3-small",),
    "v1/messages": ("anthropic/claude-haiku-4-5",),
    "v1beta": ("gemini/gemini-2.5-flash",),
}
CONFIG = """
admin: {{key: {admin}}}
state: {{url: "redis://127.0.0.1:{redis}/0", timeout: 1s}}
models:
  - name: fast
    targets:
      - {{target: openai/gpt-4o-mini, api_key: sk-provider, base_url: "{road}/v1"}}
      - {{target: gemini/gemini-2.5-flash, api_key: sk-provider, base_url: "{mock}/v1beta", wire: gemini}}
  - name: smart
    targets:
      - target: anthropic/claude-haiku-4-5
        api_key: sk-provider
        base_url: "{mock}"
        wire: anthropic
        headers: {{x-test-id: the-limited-one}}
      - {{target: openai/gpt-4o, api_key: sk-provider, base_url: "{mock}/v1"}}
  - name: embeddings
    targets: [{{target: openai/text-embedding-3-small, api_key: sk-provider, base_url: "{road}/v1"}}]
  - name: here
    targets: [{{target: local/smollm2}}]
plugins:
  - logging: {{directory: logs, sinks: [ledger]}}
  - metrics
  - dashboard
  - auth:
      clients:
        - {{name: search, key: "{keys[search]}", team: search, allow_attribution: [feature]}}
        - {{name: support, key: "{keys[support]}", team: support, allow_attribution: [feature]}}
        - {{name: research, key: "{keys[research]}", team: research, allow_attribution: [feature]}}
  - content_policy
  - quotas:
      lease: 5s
      limits:
        - {{name: requests, per: team, requests: 100000, window: day}}
        - {{name: tokens, per: team, tokens: 100000000, window: day}}
        - {{name: money, per: team, cost: 1000, window: day}}
        - {{name: places, per: team, concurrency: 60}}
  - routing
  - exact_cache: {{store: {{url: "redis://127.0.0.1:{redis}/0"}}, secret: not-very-secret-0123456789}}
  - semantic_cache: {{mode: "off", namespace: feature, namespaces: {{faq: {{mode: serve}}}}, store: {{path: vectors}}}}
  - fallback: {{circuit: {{open_for: 500ms, ramp: 1s}}}}
  - local: {{threads: 1}}
  - relay
  - litellm
"""


@dataclass
class Day:
    """The servers of this day, and what came of it."""

    gateway: Any
    mock: str
    redis: subprocess.Popen[bytes]
    road: Any
    client: HTTPClient
    answers: list[Any] = field(default_factory=list)
    local: list[Any] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)
    others: int = 0  # requests that are not in `answers`

    async def work(self, count: int, seed: int) -> None:
        """So many requests, some at a time."""
        waiting = iter(list(traffic.asks(count, seed=seed)))

        async def employee() -> None:
            for ask in waiting:
                self.answers.append(await traffic.send(self.client, self.gateway.url, ask))

        await asyncio.gather(*(employee() for _ in range(AT_ONCE)))

    def weigh(self) -> None:
        """Note the gateway's resident memory, in MB."""
        status = Path(f"/proc/{self.gateway.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+)", status)
        self.memory.append(int(found[1]) // 1024 if found else 0)


@pytest.fixture
def servers(node, tmp_path):
    """A Redis and a stand-in of this test's own: it stops the one and counts with the other."""
    binary = shutil.which("redis-server")
    require(binary, "no redis-server to start one that can be stopped (install redis-server)")
    (tmp_path / "answers.json").write_text(json.dumps(traffic.fixtures()))
    program = HERE / "node_modules" / "@copilotkit" / "aimock" / "dist" / "cli.js"
    redis_port, mock_port = free_port(), free_port()
    redis = [str(binary), "--port", str(redis_port), "--save", "", "--appendonly", "no"]
    mock = [node, str(program), "-p", str(mock_port), "-f", "answers.json", "--strict", "--journal-max", "0"]
    with ExitStack() as stack:
        store = stack.enter_context(process(redis, tmp_path))
        stack.enter_context(process([*mock, "--log-level", "silent"], tmp_path))
        require(wait_for_port(redis_port) and wait_for_port(mock_port), "Redis or the stand-in did not start")
        yield store, redis_port, mock_port


async def _day(stack: AsyncExitStack, servers: Any, folder: Path) -> Day:
    redis, redis_port, mock_port = servers
    road = await stack.enter_async_context(outage.Road(mock_port))
    mock = f"http://127.0.0.1:{mock_port}"
    where = {"road": f"http://127.0.0.1:{road.port}", "mock": mock, "redis": redis_port}
    config = CONFIG.format(admin=ADMIN, keys=traffic.KEYS, **where)
    gateway = stack.enter_context(serving(config, folder))
    client = await stack.enter_async_context(HTTPClient())
    return Day(gateway, mock, redis, road, client)


def _chaos(day: Day, **rates: float) -> None:
    """Let the stand-in fail, for the target that says in a header who it is."""
    headers = {"x-test-id": "the-limited-one", "content-type": "application/json"}
    _fetch(f"{day.mock}/__aimock/chaos", headers=headers, body=json.dumps(rates).encode())


def _fetch(url: str, *, headers: dict[str, str] | None = None, body: bytes | None = None) -> Any:
    asked = urllib.request.Request(url, data=body, headers=headers or {})
    with urllib.request.urlopen(asked, timeout=30) as answer:
        return dict(answer.headers), answer.read()


def _admin(day: Day, path: str) -> Any:
    return json.loads(_fetch(day.gateway.root + path, headers={"authorization": f"Bearer {ADMIN}"})[1])


async def _sdk(day: Day, count: int) -> None:
    """The same with the SDK that most applications use."""
    async with openai.AsyncOpenAI(base_url=day.gateway.url, api_key=traffic.KEYS["support"]) as sdk:
        sdk = sdk.with_options(default_headers={"x-junctor-feature": "chat"}, max_retries=0)
        for number in range(count):
            question = [traffic.user(f"sdk {number}: tell briefly {traffic.topic(number)}")]
            stream = await sdk.chat.completions.create(model="fast", messages=question, stream=True)
            text = "".join([part.choices[0].delta.content or "" async for part in stream if part.choices])
            assert traffic.topic(number) in text
    day.others += count


async def _local(day: Day) -> None:
    body = {"model": "here", "messages": [traffic.user("Say hello.")], "max_tokens": 8}
    for stream in (False, True):
        ask = traffic.Ask("research", "chat", {**body, "stream": stream}, 0)
        day.local.append(await traffic.send(day.client, day.gateway.url, ask))
    day.others += 2


async def _live(day: Day) -> None:
    """Morning; a provider's outage; another's limits; the store of the counts hangs; afternoon."""
    await day.work(12, 0)  # what is loaded with the first requests makes a process of one core deaf for a second
    await asyncio.gather(day.work(1300, 1), _sdk(day, 30), _local(day))
    day.weigh()
    outage_at = asyncio.create_task(day.work(400, 2))
    await asyncio.sleep(1)
    await day.road.close()  # in the middle of what runs
    await day.work(60, 6)  # and some that begin in it, however fast the machine was
    await outage_at
    await day.road.open()
    _chaos(day, rateLimitRate=0.7)
    await day.work(300, 3)
    _chaos(day)
    await _without_store(day)
    await day.work(2600, 5)
    day.weigh()


async def _without_store(day: Day) -> None:
    working = asyncio.create_task(day.work(300, 4))
    await asyncio.sleep(0.5)
    day.redis.send_signal(signal.SIGSTOP)
    try:
        await asyncio.gather(asyncio.sleep(2.5), day.work(40, 7))
    finally:
        day.redis.send_signal(signal.SIGCONT)
    await working
    await asyncio.sleep(2)  # a store that hung is asked again after a second


@pytest.mark.timeout(300)
async def test_a_companys_day_ends_with_books_that_agree(servers, tmp_path):
    async with AsyncExitStack() as stack:
        day = await _day(stack, servers, tmp_path)
        async with asyncio.timeout(150):
            await _live(day)
        for check in (_all_were_answered, _failures_happened, _memory_is_flat):
            check(day)
        books = await asyncio.to_thread(_Books, day, tmp_path)
        for agree in (_provider_counted_the_same, _quotas_are_the_ledger, _metrics_are_the_ledger):
            agree(day, books)
        _the_command_tells_the_same(tmp_path, books)


def _all_were_answered(day: Day) -> None:
    assert not [answer for answer in day.answers if not answer.settled][:3]
    texts = [answer for answer in day.answers if answer.text and not answer.error and not answer.left]
    assert not [answer for answer in texts if not answer.right][:3]  # nobody got an answer to another's question
    answered = len(texts)
    assert answered > len(day.answers) / 2
    assert all(answer.status == 200 and answer.text for answer in day.local)


def _failures_happened(day: Day) -> None:
    """The day was as hard as it was meant to be, and the caches answered in it."""
    codes = {answer.error for answer in day.answers}
    assert {"api_error/connection", "api_error/quota_store_unavailable"} <= codes
    caches = {answer.headers["x-junctor-cache"] for answer in day.answers if "x-junctor-cache" in answer.headers}
    assert {"hit", "semantic-hit", "miss"} & caches >= {"hit", "miss"}
    assert sum(answer.left for answer in day.answers) > 30


def _memory_is_flat(day: Day) -> None:
    assert day.memory[-1] - day.memory[0] < 40, day.memory


class _Books:
    """The accounts, once nothing is reserved any more and the ledger is written."""

    def __init__(self, day: Day, folder: Path) -> None:
        most = len(day.answers) + day.others
        # A client that left early may have left before the gateway had read its request.
        least = most - sum(answer.ask.leave == "early" for answer in day.answers)
        until, settled = time.monotonic() + 30, False
        while time.monotonic() < until and not settled:
            time.sleep(0.5)
            self.quotas = _admin(day, "/admin/quotas")
            headers = {"authorization": f"Bearer {ADMIN}"}
            self.metrics = _samples(_fetch(day.gateway.root + "/metrics", headers=headers)[1].decode())
            self.ledger = _admin(day, "/admin/costs?by=team,outcome&since=1h&purpose=")
            # With the calls of the gateway's own, such as those that verify a semantic hit.
            self.everything = _admin(day, "/admin/costs?by=team&since=1h")
            written = self.everything["total"]["requests"] == self.metric("junctor_requests_total")
            reserved = sum(row["reserved"] for row in self.quotas)
            settled = written and not reserved and not self.metric("junctor_requests_in_flight")
        assert settled, (reserved, self.everything["total"])
        assert least <= self.ledger["total"]["requests"] <= most
        self._database = folder / "logs" / "ledger.db"

    def of(self, team: str, figure: str, *outcomes: str) -> int:
        """A sum of the ledger for one team; of all outcomes if none is named."""
        rows = [row for row in self.ledger["rows"] if row["team"] == team]
        return sum(row[figure] for row in rows if not outcomes or row["outcome"] in outcomes)

    def attempts(self, target: str) -> tuple[int, int]:
        """Attempts at a target, and how many of them may not have reached it: refused, or given up before they left."""
        lost = "(outcome = 'failed' and ?) or (abandoned = 1 and output_tokens = 0)"
        query = f"select count(*), coalesce(sum({lost}), 0) from lines where line > 0 and target = ?"
        with closing(sqlite3.connect(self._database)) as connection:
            found: tuple[int, int] = connection.execute(query, (target in BY_ROAD, target)).fetchone()
        return found

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples with these labels."""
        rows = [value for (found, has), value in self.metrics if found == name and labels.items() <= has.items()]
        return sum(rows)


def _samples(text: str) -> list[tuple[tuple[str, dict[str, str]], float]]:
    lines = re.findall(r"^(\w+)(?:\{(.*)\})? (\S+)$", text, re.MULTILINE)
    return [((name, dict(re.findall(r'(\w+)="([^"]*)"', labels))), float(value)) for name, labels, value in lines]


def _provider_counted_the_same(day: Day, books: _Books) -> None:
    for path, targets in PATHS.items():
        counted = int(_fetch(f"{day.mock}/__aimock/journal?limit=0&path={path}")[0]["X-Total-Count"])
        attempts = [books.attempts(target) for target in targets]
        recorded, lost = sum(count for count, _ in attempts), sum(lost for _, lost in attempts)
        assert recorded - lost <= counted <= recorded, path


def _quotas_are_the_ledger(day: Day, books: _Books) -> None:
    used = {(row["name"], row["scope"].removeprefix("team=")): row["used"] for row in books.quotas}
    for team in traffic.KEYS:
        assert used["requests", team] == books.of(team, "requests", "answered", "cached", "abandoned"), team
        tokens = books.of(team, "input_tokens") + books.of(team, "output_tokens")
        assert used["tokens", team] == tokens, team
        assert used["money", team] == books.of(team, "cost"), team


def _the_command_tells_the_same(folder: Path, books: _Books) -> None:
    command = [sys.executable, "-m", "junctor", "costs", "-c", "config.yaml", "--by", "team", "--since", "1h"]
    told = json.loads(subprocess.check_output([*command, "--format", "json"], cwd=folder))
    assert told["total"] == books.everything["total"]


def _metrics_are_the_ledger(day: Day, books: _Books) -> None:
    for team in traffic.KEYS:
        assert books.metric("junctor_requests_total", team=team, purpose="") == books.of(team, "requests"), team
        counted = next(row for row in books.everything["rows"] if row["team"] == team)
        cost = books.metric("junctor_cost_dollars_total", team=team)
        assert cost * 1e9 == pytest.approx(counted["cost"], rel=1e-9), team
        for kind in ("input", "output"):
            tokens = books.metric("junctor_tokens_total", team=team, type=kind)
            assert tokens == counted[f"{kind}_tokens"], (team, kind)
    for target in (target for targets in PATHS.values() for target in targets):
        assert books.metric("junctor_attempts_total", target=target) == books.attempts(target)[0], target
    assert books.metric("junctor_requests_in_flight") == 0
