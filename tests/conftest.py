"""The real server process, real clients, all plugins: the fixtures of the end-to-end tests."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from junctor.testing import free_port, require, wait_for_port

HERE = Path(__file__).parent
NODE_MODULES = HERE / "node_modules"


class Running:
    """A gateway in a process of its own."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process, self._log = process, log
        self.root = "http://127.0.0.1:" + self.wait_for(r"ready on http://127\.0\.0\.1:(\d+)")
        self.url = self.root + "/v1"

    @property
    def log(self) -> str:
        return self._log.read_text()

    def wait_for(self, pattern: str, seconds: float = 60) -> str:
        until = time.monotonic() + seconds
        while time.monotonic() < until and self.process.poll() is None:
            if found := re.search(pattern, self.log):
                return found[1]
            time.sleep(0.02)
        raise AssertionError(f"{pattern!r} did not come up in:\n{self.log}")


@contextmanager
def serving(config: str, folder: Path, **environ: str):
    """Serve a configuration's text; ends the process, and whatever it started, with the block."""
    file, log = folder / "config.yaml", folder / "log.txt"
    file.write_text(config)
    command = [sys.executable, "-m", "junctor", "serve", "-c", str(file), "--port", "0"]
    with log.open("wb") as out:
        process = subprocess.Popen(command, stderr=out, cwd=folder, env=os.environ | environ)
    try:
        yield Running(process, log)
    finally:
        process.terminate()
        try:
            process.wait(20)
        finally:
            process.kill()
            process.wait()


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
    with (tmp_path_factory.mktemp("aimock") / "log").open("wb") as out:
        process = subprocess.Popen(arguments, stdout=out, stderr=out)
    assert wait_for_port(port), "aimock did not start"
    yield f"http://127.0.0.1:{port}"
    process.kill()
    process.wait()


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
