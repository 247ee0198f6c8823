"""Which targets are taken, and what is said of those that cannot be."""

from __future__ import annotations

import json

import pytest
from junctor import ConfigError
from junctor.config import parse
from junctor.gateway import Gateway
from junctor.plugins import installed
from junctor.testing import require
from junctor_litellm.providers import known_providers


def problems(*targets, plugins=("litellm",), **fields):
    models = [
        {"name": f"m{n}", "targets": [{"target": target, "api_key": "k", **fields}]} for n, target in enumerate(targets)
    ]
    try:
        Gateway(parse(json.dumps({"models": models, "plugins": list(plugins)}), file="c.yaml"))
    except ConfigError as error:
        return error.problems
    return []


def test_knows_litellms_providers():
    assert {"anthropic", "gemini", "bedrock", "vertex_ai", "azure", "groq", "mistral", "ollama"} <= known_providers()


@pytest.mark.parametrize(
    "target", ["anthropic/claude-haiku-4-5", "groq/llama-3.3-70b-versatile", "azure/x", "mistral/y"]
)
def test_takes_what_litellm_knows(target):
    assert problems(target) == []


def test_suggests_the_provider_that_was_meant():
    found = problems("antropic/claude-haiku-4-5")
    assert any("litellm knows no provider 'antropic'; did you mean 'anthropic'?" in line for line in found)


def test_leaves_a_target_that_another_plugin_takes_alone():
    require("relay" in installed(), "the plugin `relay` is not installed")
    assert problems("my-own/model", plugins=("relay", "litellm"), base_url="http://127.0.0.1:1/v1") == []


def test_asks_for_the_key_that_is_missing():
    assert any("add `api_key: ${ANTHROPIC_API_KEY}`" in line for line in problems("anthropic/claude-x", api_key=None))


def test_refuses_settings_of_a_provider_that_there_is_not():
    found = problems("groq/x", plugins=({"litellm": {"providers": {"bedrok": {"aws_region_name": "x"}}}},))
    assert any(
        "providers.bedrok: litellm knows no provider 'bedrok'; did you mean 'bedrock'?" in line for line in found
    )


def test_refuses_settings_that_are_not_on_the_list():
    found = problems("groq/x", plugins=({"litellm": {"providers": {"azure": {"api_base": "http://x"}}}},))
    assert any("providers.azure.api_base: unknown key" in line for line in found)


def test_keeps_its_secrets():
    section = {"litellm": {"providers": {"bedrock": {"aws_secret_access_key": "very-secret-key"}}}}
    config = parse(json.dumps({"plugins": [section]}))
    assert "very-secret-key" in config.secrets
    assert "very-secret-key" not in repr(config.sections)


async def test_leaves_other_wires_alone(served, says):
    async with served("anthropic/claude-haiku-4-5", says({})) as (gateway, _, _):
        plugin = gateway.gateway.plugins.by_name["litellm"]
        exchange = gateway.gateway.exchange(_request("anthropic"))
        assert await plugin.call(exchange, next(iter(gateway.gateway.models["test"].targets))) is None


def _request(wire):
    from types import SimpleNamespace

    from junctor import Request

    return Request(SimpleNamespace(name=wire), "chat", {"model": "test"}, "test")


async def test_sends_the_targets_headers_and_defaults(served, says):
    answer = {"id": "m", "model": "c", "content": [{"type": "text", "text": "x"}], "stop_reason": "end_turn"}
    fields = {"headers": {"anthropic-beta": "some-beta"}, "params": {"temperature": 0.1, "max_tokens": 7}}
    async with served("anthropic/claude-haiku-4-5", says(answer), **fields) as (gateway, server, _):
        await gateway.chat(max_tokens=9)
    assert server.requests[0].headers["anthropic-beta"] == "some-beta"
    assert (server.bodies[0]["temperature"], server.bodies[0]["max_tokens"]) == (0.1, 9)
