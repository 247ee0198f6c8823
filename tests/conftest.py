"""The real server process, real clients, all plugins: the fixtures of the end-to-end tests."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import sqlite3
from collections import Counter
from contextlib import asynccontextmanager, closing
from pathlib import Path

import httpx
import pytest
from junctor.own_port import OwnPort
from junctor.testing import Answer, free_port, process, require, serving, wait_for_port
from starlette.routing import Mount

HERE = Path(__file__).parent
NODE_MODULES = HERE / "node_modules"


@pytest.fixture(scope="session")
def node() -> str:
    """Node.js, with the packages of `tests/package.json` installed beside it."""
    binary = shutil.which("node")
    require(binary, "Node.js is not installed (apt install nodejs)")
    require((NODE_MODULES / "openai").exists(), "run `npm install --prefix tests`")
    return str(binary)


@pytest.fixture(scope="session")
def aimock(node, tmp_path_factory):
    """An independent stand-in for OpenAI, Anthropic and Gemini on one port; written by nobody here."""
    port = free_port()
    program = NODE_MODULES / "@copilotkit" / "aimock" / "dist" / "cli.js"
    arguments = [node, str(program), "-p", str(port), "-f", str(HERE / "aimock.json"), "--strict", "-c", "3"]
    with process(arguments, tmp_path_factory.mktemp("aimock")):
        assert wait_for_port(port), "aimock did not start"
        yield f"http://127.0.0.1:{port}"


MOCKED = """
models:
  - name: gpt-4o-mini
    targets: [{{target: openai/gpt-4o-mini, api_key: sk-provider, base_url: "{mock}/v1"}}]
  - name: text-embedding-3-small
    targets: [{{target: openai/text-embedding-3-small, api_key: sk-provider, base_url: "{mock}/v1"}}]
  - name: claude
    targets: [{{target: anthropic/claude-haiku-4-5, api_key: sk-provider, base_url: "{mock}", wire: anthropic}}]
  - name: gemini
    targets: [{{target: gemini/gemini-2.5-flash, api_key: sk-provider, base_url: "{mock}/v1beta", wire: gemini}}]
  - name: dead
    targets: [{{target: openai/gpt-4o-mini, api_key: sk-provider, base_url: "http://127.0.0.1:9/v1"}}]
plugins: [relay, litellm]
"""


@pytest.fixture(scope="session")
def mocked(aimock, tmp_path_factory):
    """A gateway before the stand-in, on both lanes."""
    with serving(MOCKED.format(mock=aimock), tmp_path_factory.mktemp("mocked")) as running:
        yield running


@pytest.fixture(scope="session")
def local(tmp_path_factory):
    """A gateway before the real small model on this machine."""
    config = "{models: [{name: smollm2, targets: [{target: local/smollm2}]}], plugins: [{local: {threads: 1}}]}"
    with serving(config, tmp_path_factory.mktemp("local")) as running:
        yield running


KEY, ADMIN = "sk-search-0123456789abcdef", "the-administrators-key-0123"
TARGETS = [{"target": f"fake/{name}", "price": {"input": 1, "output": 2}} for name in ("one", "two")]
LIMITS = [
    {"name": "count", "per": "team", "requests": 1000, "window": "day"},
    {"name": "tokens", "per": "team", "tokens": 100_000, "window": "day"},
    {"name": "money", "per": "team", "cost": 10, "window": "day"},
]


class Call:
    """A request of a real client on a connection of its own, which it closes to hang up."""

    def __init__(self, http, body, headers):
        self.got = Answer()
        self._task = asyncio.create_task(self._run(http, body, headers))

    async def _run(self, http, body, headers):
        async with http.stream("POST", "/v1/chat/completions", json=body, headers=headers) as answer:
            self.got.status, self.got.headers = answer.status_code, dict(answer.headers)
            async for part in answer.aiter_bytes():
                self.got.chunks.append(part)

    async def hang_up(self):
        self._task.cancel()
        await asyncio.wait({self._task})

    async def end(self):
        await asyncio.wait_for(self._task, 10)
        return self.got


class Books:
    """A gateway, its real clients, and what it writes down; the ledger is read once it is closed.

    `idle` are the tasks that there are when nobody asks, `told` are the records, `lines` the attempts.
    """

    def __init__(self, gateway, http):
        self.gateway, self._http = gateway, http
        self.idle = asyncio.all_tasks()
        self.told, self.lines, self._quotas, self._metrics = [], [], [], ""

    def ask(self, who, text="same", **fields):
        """Ask under this request id."""
        body = {"model": "test", "messages": [{"role": "user", "content": text}], **fields}
        return Call(self._http, body, {"authorization": f"Bearer {KEY}", "x-request-id": who})

    @staticmethod
    async def until(condition):
        """Wait for a condition, plain or awaited."""
        async with asyncio.timeout(10):
            while not (await found if asyncio.iscoroutine(found := condition()) else found):
                await asyncio.sleep(0.005)

    async def _get(self, path):
        return await self._http.get(path, headers={"authorization": f"Bearer {ADMIN}"})

    async def in_line(self, count):
        """Whether so many wait in a queue of the quotas."""
        return sum(limit["queue"] for limit in (await self._get("/admin/quotas")).json()) == count

    async def retries_left(self, count):
        """Whether the first target's budget has so many whole retries."""
        return int((await self._get("/admin/targets")).json()[0]["retry_budget"]) == count

    def flying(self):
        """How many clients take part in flights of the exact cache."""
        return sum(flight.clients for flight in self.gateway.plugins.by_name["exact_cache"]._flights.values())

    async def settled(self):
        """The next request is served, and then nothing runs or is held any more."""
        assert (await self.ask("next", "the next one").end()).status == 200
        mine = {asyncio.current_task()}
        await self.until(lambda: self.gateway.pipeline.running == 0 and asyncio.all_tasks() - self.idle <= mine)
        self._metrics = (await self._get("/metrics")).text
        self._quotas = (await self._get("/admin/quotas")).json()
        assert {(limit["reserved"], limit["queue"]) for limit in self._quotas} == {(0, 0)}
        assert {row["in_flight"] for row in (await self._get("/admin/targets")).json()} == {0}
        assert self.counted("requests_in_flight") == self.counted("target_in_flight", "target") == {}
        assert self.flying() == 0

    def read(self, ledger):
        with closing(sqlite3.connect(ledger)) as opened:
            opened.row_factory = sqlite3.Row
            self.told = [json.loads(story) for (story,) in opened.execute("select story from exchanges")]
            lines = opened.execute("select * from lines where line > 0 order by record, line")
            self.lines = [dict(line) for line in lines]

    def counted(self, name, *labels):
        """A metric by these labels; where it is zero it is left out."""
        found = Counter()
        for given, value in re.findall(rf"^junctor_{name}(?:{{(.*)}})? (\S+)$", self._metrics, re.M):
            values = dict(re.findall(r'(\w+)="([^"]*)"', given))
            found[tuple(values[label] for label in labels)] += float(value)
        return +found

    def agree(self):
        """Ledger, metrics and quotas say the same."""
        ended = Counter((record["outcome"], record.get("purpose", "")) for record in self.told)
        assert self.counted("requests_total", "outcome", "purpose") == ended
        tried = Counter()
        for (target, outcome), count in self.counted("attempts_total", "target", "outcome").items():
            tried[target, outcome if outcome in ("answered", "abandoned") else "failed"] += count
        assert tried == Counter((line["target"], line["outcome"]) for line in self.lines)
        errors = [record["error"] for record in self.told if "error" in record]
        assert self.counted("errors_total", "kind") == Counter((e.get("kind") or e["code"],) for e in errors)
        caches = [record["cache"] for record in self.told if "cache" in record]
        said = self.counted("cache_requests_total", "cache", "status")
        assert {key: n for key, n in said.items() if key[0] == "exact" or key[1] == "hit"} == Counter(
            (cache["cache"], cache["status"]) for cache in caches
        )
        assert self.counted("tokens_total", "type") == +Counter(
            {(kind,): sum(line[f"{kind}_tokens"] for line in self.lines) for kind in ("input", "output")}
        )
        paid = sum(line["cost"] or 0 for line in self.lines)
        assert sum(self.counted("cost_dollars_total").values()) == pytest.approx(paid / 1e9, abs=1e-12)
        own = [line for line in self.lines if not line["purpose"]]
        used = {limit["name"]: limit["used"] for limit in self._quotas}
        assert used["tokens"] == sum(line["input_tokens"] + line["output_tokens"] for line in own)
        assert used["money"] == sum(line["cost"] or 0 for line in own)
        assert used["count"] == sum(self._counts(record) for record in self.told)

    def _counts(self, record):
        """A request counts once it has an answer, or a provider was asked for it."""
        asked = [attempt.get("error", {}).get("kind") != "unavailable" for attempt in record.get("attempts", ())]
        return not record.get("purpose") and (record["outcome"] in ("answered", "cached") or any(asked))

    @property
    def outcomes(self):
        """How each of the clients' requests ended, by its id."""
        ended = [(record["id"], record["outcome"]) for record in self.told if not record.get("purpose")]
        assert len(dict(ended)) == len(ended)
        return dict(ended)

    def record(self, who):
        return next(record for record in self.told if record["id"] == who)

    def attempts(self, who):
        """A request's attempts: target, outcome, the kind of its error, and what it cost."""
        errors = [attempt.get("error", {}).get("kind", "") for attempt in self.record(who).get("attempts", ())]
        lines = [line for line in self.lines if line["record"] == self.record(who)["record"]]
        return [
            (line["target"], line["outcome"], kind, line["cost"] or 0) for line, kind in zip(lines, errors, strict=True)
        ]


@pytest.fixture
def books(gateway, tmp_path):
    """`async with books(plugins, …) as b`: a gateway with real clients, whose books are right at the end.

    The plugins given come after those that write, limit, cache and fall back; `limits` are added to the quotas'.
    """

    @asynccontextmanager
    async def run(*extra, limits=(), targets=None, models=(), cache=None, fallback=None):
        plugins = [
            {"logging": {"directory": str(tmp_path / "logs"), "sinks": ["ledger"]}},
            "metrics",
            {"auth": {"clients": [{"name": "search", "key": KEY, "team": "search"}]}},
            {"quotas": {"limits": [*LIMITS, *limits]}},
            {"exact_cache": cache or {}},
            {"fallback": fallback or {}},
        ]
        models = [{"name": "test", "targets": targets or TARGETS}, *models]
        config = json.dumps({"admin": {"key": ADMIN}, "models": models, "plugins": plugins})
        async with (
            gateway(*extra, config=config) as g,
            OwnPort("127.0.0.1", 0, [Mount("", g.app)], setting="test: port") as own,
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{own.port}", timeout=20) as http,
        ):
            b = Books(g.gateway, http)
            yield b
            await b.settled()
        b.read(tmp_path / "logs" / "ledger.db")
        b.agree()

    return run
