"""What a client cannot do, and what litellm does not do."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys

import pytest
from junctor.plugins import installed
from junctor.testing import require

CLAUDE, GEMINI, GROQ = "anthropic/claude-haiku-4-5", "gemini/gemini-2.5-flash", "groq/llama-3.3-70b-versatile"
ELSEWHERE = "http://127.0.0.1:9/elsewhere"
TAMPERING = {
    "api_base": ELSEWHERE, "base_url": ELSEWHERE, "api_key": "stolen", "custom_llm_provider": "openai",
    "mock_response": "mocked", "mock_timeout": True, "extra_headers": {"x-evil": "1"}, "headers": {"x-evil": "1"},
    "extra_body": {"model": "evil"}, "fallbacks": ["openai/gpt-4o"], "num_retries": 5, "max_retries": 5,
    "timeout": 0.001,
    "model_list": [{"model_name": "x"}], "aws_bedrock_runtime_endpoint": ELSEWHERE, "aws_access_key_id": "stolen",
    "vertex_project": "evil", "vertex_credentials": "{}", "azure_ad_token": "stolen", "organization": "evil",
    "drop_params": True, "litellm_credential_name": "x", "cache": {"no-cache": True}, "caching": True,
    "_skip_mcp_handler": False, "proxy_server_request": {"url": ELSEWHERE}, "ssl_verify": False, "api_version": "evil",
    "deployment_id": "evil", "client": "x", "no-log": True, "text_completion": True, "hf_model_name": "evil",
}  # fmt: skip
ANSWERS = {
    CLAUDE: {"id": "m", "model": "c", "content": [{"type": "text", "text": "Hello"}], "stop_reason": "end_turn"},
    GEMINI: {"candidates": [{"content": {"parts": [{"text": "Hello"}]}, "finishReason": "STOP"}]},
    GROQ: {"choices": [{"index": 0, "message": {"content": "Hello", "role": "assistant"}, "finish_reason": "stop"}],
           "id": "c", "model": "g", "service_tier": "on_demand", "object": "chat.completion", "created": 1},
}  # fmt: skip


@pytest.mark.parametrize("target", [CLAUDE, GEMINI, GROQ])
async def test_a_body_cannot_change_the_call(served, says, target):
    async with served(target, says(ANSWERS[target])) as (gateway, server, _):
        clean = await gateway.chat()
        tampered = await gateway.chat(**TAMPERING)
    assert clean.text == tampered.text == "Hello"
    first, second = server.requests
    assert second.path == first.path
    assert second.body == first.body
    assert second.headers == {**first.headers, "content-length": second.headers["content-length"]}


@pytest.mark.parametrize("target", [CLAUDE, GEMINI, GROQ])
async def test_a_provider_gets_the_parameters_that_only_it_knows(served, says, target):
    async with served(target, says(ANSWERS[target])) as (gateway, server, _):
        await gateway.chat(brand_new={"a": 1})
    assert server.bodies[0]["brand_new"] == {"a": 1}


@pytest.mark.parametrize("target", [CLAUDE, GEMINI])
async def test_a_parameter_of_a_providers_own_does_not_replace_what_was_translated(served, says, target):
    async with served(target, says(ANSWERS[target])) as (gateway, server, _):
        await gateway.chat(
            contents=[{"role": "user", "parts": [{"text": "evil"}]}], messages=[{"role": "user", "content": "good"}]
        )
    assert "good" in json.dumps(server.bodies[0])
    assert target == CLAUDE or "evil" not in json.dumps(server.bodies[0])


async def test_a_parameter_that_cannot_be_honoured_is_refused_by_name(served, says):
    async with served(CLAUDE, says(ANSWERS[CLAUDE])) as (gateway, server, _):
        refused = await gateway.chat(n=3)
        neutral = await gateway.chat(n=1, frequency_penalty=0, logprobs=False, store=True, metadata={"a": "b"})
    assert refused.status == 400
    assert refused.json()["error"]["param"] == "n"
    assert refused.json()["error"]["code"] == "unsupported_parameter"
    assert neutral.status == 200
    assert len(server.requests) == 1


async def test_a_parameter_that_cannot_be_honoured_is_left_out_if_the_file_says_so(served, says):
    async with served(CLAUDE, says(ANSWERS[CLAUDE]), settings={"unsupported": "drop"}) as (gateway, server, _):
        answer = await gateway.chat(logit_bias={"5": 1}, n=3)
    assert answer.status == 200
    assert "logit_bias" not in server.bodies[0]


@pytest.mark.parametrize(("target", "url"), [
    (CLAUDE, "http://127.0.0.1:{port}/image.png"),
    (GEMINI, "https://127.0.0.1:{port}/image.png"),
    (GEMINI, "gs://bucket/image.png"),
    ("ollama_chat/llava", "http://127.0.0.1:{port}/image.png"),
    ("bedrock/anthropic.claude-3-haiku-20240307-v1:0", "http://127.0.0.1:{port}/image.png"),
])  # fmt: skip
@pytest.mark.parametrize("part", ["image_url", "file", "video_url"])
async def test_no_address_of_a_client_is_fetched(served, says, target, url, part):
    async with served(target, says({})) as (gateway, server, _):
        place = url.format(port=server.url.split(":")[2].removesuffix("/v1"))
        value = {"file_id": place} if part == "file" else {"url": place}
        content = [{"type": "text", "text": "?"}, {"type": part, part: value}]
        answer = await gateway.chat(messages=[{"role": "user", "content": content}])
    assert answer.status == 400
    assert answer.json()["error"]["param"] == "messages[0].content"
    assert server.connections == 0


async def test_tools_that_name_a_server_do_not_make_the_gateway_connect(served, says):
    tool = {"type": "mcp", "server_label": "x", "server_url": "litellm_proxy", "require_approval": "never"}
    async with served(GROQ, says(ANSWERS[GROQ])) as (gateway, server, _):
        await gateway.chat(tools=[tool])
    assert len(server.requests) <= 1


async def test_a_clients_own_key_pays_alone(says):
    from junctor_litellm.settings import ProviderSettings

    given = ProviderSettings.model_validate(
        {"aws_region_name": "eu-central-1", "aws_access_key_id": "A", "aws_secret_access_key": "S", "api_version": "v"}
    )
    assert given.arguments(secrets=False) == {"aws_region_name": "eu-central-1", "api_version": "v"}
    assert given.arguments(secrets=True)["aws_secret_access_key"] == "S"


IMPORT = """
import asyncio, logging, sys
connected = []
sys.addaudithook(lambda event, args: event in ("socket.connect", "socket.getaddrinfo") and connected.append(args))
from junctor_litellm.library import Library
from junctor_litellm.providers import known_providers
assert "anthropic" in known_providers() and "litellm" not in sys.modules

async def main():
    library = Library()
    longest = last = asyncio.get_running_loop().time()
    longest = 0.0
    library.warm_up()
    while not library._loading.done():
        await asyncio.sleep(0.005)
        now = asyncio.get_running_loop().time()
        longest, last = max(longest, now - last), now
    litellm = await library.ready()
    litellm.verbose_logger.error("x")
    litellm.print_verbose("y")
    print("quiet", not connected, not logging.getLogger().handlers, round(longest, 3))
    await library.aclose()

asyncio.run(main())
"""


NOT_NEEDED = """
import asyncio, sys
from junctor.config import parse
from junctor.gateway import Gateway

async def main():
    targets = "[{target: openai/m, api_key: k}, {target: mine/m, base_url: 'http://127.0.0.1:1/v1'}]"
    async with Gateway(parse("{models: [{name: m, targets: %s}], plugins: [relay, litellm]}" % targets)):
        await asyncio.sleep(0.2)
    print("litellm" in sys.modules)

asyncio.run(main())
"""


def test_litellm_is_not_imported_for_targets_that_another_plugin_takes():
    require("relay" in installed(), "the plugin `relay` is not installed")
    done = subprocess.run([sys.executable, "-c", NOT_NEEDED], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout.strip(), done.stderr) == ("False", "")


def test_the_import_is_silent_reaches_no_network_and_lets_the_event_loop_run():
    done = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    word, network, handlers, longest = done.stdout.split()
    assert (word, network, handlers) == ("quiet", "True", "True")
    assert float(longest) < 1.5  # the interpreter's lock is held for a while by single steps of the import


async def test_nothing_of_litellm_reaches_the_network_outside_of_a_call(served, says):
    import litellm

    async with served(GROQ, says(ANSWERS[GROQ])) as (gateway, server, _):
        await gateway.chat()
        with pytest.raises(Exception, match="outside of a call"):
            await litellm.module_level_aclient.get(server.url)
    assert len(server.requests) == 1


async def test_answers_leave_no_tasks_behind(served, says):
    async with served(GROQ, says(ANSWERS[GROQ])) as (gateway, _, _):
        counts = []
        for _ in range(4):
            await gateway.chat()
            await asyncio.sleep(0.02)  # litellm starts one for its statistics, which has nothing to do
            counts.append(len(asyncio.all_tasks()))
    assert len(set(counts)) == 1
