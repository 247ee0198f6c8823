"""A gateway with this plugin before a scripted server, and before an independent mock of the providers' APIs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from junctor.faulty_server import FaultyServer
from junctor.testing import Recorder, free_port, require, wait_for_port
from junctor_litellm import LiteLLM

ROOT = Path(__file__).parents[3]
FIXTURES = Path(__file__).parent / "aimock.json"


@pytest.fixture
def served(gateway):
    """`async with served("anthropic/claude-haiku-4-5", fault, …) as (gateway, server, recorder)`."""

    @asynccontextmanager
    async def run(target, *script, settings=None, suffix="", others=(), **fields):
        async with FaultyServer(*script) as server:
            base = server.url.removesuffix("/v1") + suffix
            entry = {"target": target, "api_key": "provider-key", "base_url": base, "wire": "other", **fields}
            recorder = Recorder()
            models = [{"name": "test", "targets": [entry]}]
            async with gateway(*others, (LiteLLM, settings or {}), recorder, models=models) as running:
                yield running, server, recorder

    return run


@pytest.fixture(scope="session")
def aimock(tmp_path_factory):
    """npm's `@copilotkit/aimock`, from JUNCTOR_TEST_AIMOCK, the repository's `tests/node_modules` or `node_modules`."""
    node = shutil.which("node")
    require(node, "Node.js is not installed (apt install nodejs)")
    folders = [os.environ.get("JUNCTOR_TEST_AIMOCK"), ROOT / "tests" / "node_modules", ROOT / "node_modules"]
    programs = [Path(folder) / "@copilotkit" / "aimock" / "dist" / "cli.js" for folder in folders if folder]
    program = next((path for path in programs if path.exists()), None)
    require(program, "aimock is not installed: `npm install --prefix tests`")
    port = free_port()
    command = [str(node), str(program), "-p", str(port), "-f", str(FIXTURES), "--strict", "-c", "4"]
    with (tmp_path_factory.mktemp("aimock") / "log").open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out)
    assert wait_for_port(port), "aimock did not start"
    yield f"http://127.0.0.1:{port}"
    process.kill()
    process.wait()


@pytest.fixture
def sse():
    """A fault that streams these events, parsed or raw, as they are; `close` breaks the connection off after them."""

    def make(*events, named=False, close=False, then=None):
        async def act(reply):
            await reply.head(content_type="text/event-stream")
            for event in events:
                data = event if isinstance(event, bytes) else b"data: " + json.dumps(event).encode() + b"\n\n"
                name = f"event: {event['type']}\n".encode() if named and isinstance(event, dict) else b""
                await reply.chunk(name + data)
            if then is not None:
                await then(reply)
            if close:
                reply.close()
            else:
                await reply.end()

        return act

    return make


@pytest.fixture
def says():
    """A fault that answers with this JSON."""

    def make(body, code=200, **headers):
        async def act(reply):
            raw = body if isinstance(body, bytes) else json.dumps(body).encode()
            await reply.whole(raw, code, **{"content_type": "application/json", **headers})

        return act

    return make
