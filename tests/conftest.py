"""The real server process, real clients, all plugins: the fixtures of the end-to-end tests."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from junctor.testing import free_port, process, require, serving, wait_for_port

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
