"""What is sent to a server of the client's wire, and what comes back."""

import json

import pytest
from junctor import Target
from junctor.faults import completion
from junctor.faulty_server import FaultyServer
from junctor_relay import Relay

BODY = {"model": "fast", "messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture
async def server():
    async with FaultyServer() as server:
        yield server


def models(server, **target):
    base = {"target": "openai/gpt-4o-mini", "base_url": f"{server.url}", "api_key": "sk-provider", **target}
    return [{"name": "fast", "targets": [base]}]


async def test_the_body_is_changed_only_where_it_must_be(gateway, server):
    given = {**BODY, "top_k": 5, "unknown": {"deep": [1, 2.5, None]}, "temperature": 1.0}
    async with gateway(Relay, models=models(server, params={"temperature": 0.1, "seed": 7})) as g:
        await g.request("POST", "/v1/chat/completions", given)
    assert server.bodies[0] == {**given, "model": "gpt-4o-mini", "seed": 7}


async def test_the_answer_goes_back_byte_for_byte(gateway, server):
    async with gateway(Relay, models=models(server)) as g:
        answer = await g.request("POST", "/v1/chat/completions", BODY)
    assert answer.status == 200
    assert answer.body == completion()


async def test_only_configured_keys_and_headers_reach_the_provider(gateway, server):
    headers = {"authorization": "Bearer sk-client", "openai-organization": "theirs", "x-secret": "1", "host": "evil"}
    async with gateway(Relay, models=models(server, headers={"OpenAI-Organization": "ours"})) as g:
        await g.request("POST", "/v1/chat/completions", BODY, headers=headers)
    sent = server.requests[0].headers
    assert sent["authorization"] == "Bearer sk-provider"
    assert sent["openai-organization"] == "ours"
    assert "x-secret" not in sent
    assert sent["host"].startswith("127.0.0.1")


async def test_usage_is_asked_for_and_kept_from_a_client_who_did_not_ask(gateway, server):
    async with gateway(Relay, models=models(server)) as g:
        answer = await g.request("POST", "/v1/chat/completions", {**BODY, "stream": True})
    assert server.bodies[0]["stream_options"] == {"include_usage": True}
    assert not any(event.get("usage") for event in answer.events[:-1])


async def test_a_client_cannot_send_the_call_elsewhere(gateway, server):
    smuggled = {**BODY, "base_url": "http://127.0.0.1:1", "api_base": "http://127.0.0.1:1", "api_key": "sk-mine"}
    async with gateway(Relay, models=models(server)) as g:
        answer = await g.request("POST", "/v1/chat/completions", smuggled)
    assert answer.status == 200
    assert server.requests[0].headers["authorization"] == "Bearer sk-provider"


async def test_it_leaves_targets_of_another_wire_to_others():
    relay = Relay(Relay.Settings(), type("G", (), {"models": {}, "http": None})())
    assert relay.claims(Target("openai", "gpt-4o"))
    assert relay.claims(Target("vllm", "qwen", base_url="http://x/v1"))
    assert not relay.claims(Target("anthropic", "claude"))
    assert not relay.claims(Target("anthropic", "claude", base_url="http://x", wire="anthropic"))


async def test_a_lone_surrogate_reaches_the_provider_as_it_was(gateway, server):
    body = b'{"model": "fast", "messages": [{"role": "user", "content": "\\ud83d"}]}'
    async with gateway(Relay, models=models(server)) as g:
        answer = await g.request("POST", "/v1/chat/completions", body)
    assert answer.status == 200
    assert json.dumps(server.bodies[0]["messages"][0]["content"]) == '"\\ud83d"'
