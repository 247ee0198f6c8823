"""The OpenAI SDK for Node, and LangChain."""

import json
import subprocess
from pathlib import Path

import pytest


def test_the_node_sdk_sees_no_surprise(node, mocked):
    program = [node, str(Path(__file__).parent / "openai_sdk.mjs"), mocked.url]
    seen = json.loads(subprocess.run(program, check=True, capture_output=True, text=True, timeout=60).stdout)
    assert seen["plain"].startswith("Hello")
    assert seen["streamed"] == "é 中文 🎉👩‍👩‍👧 ﷽ done"
    assert seen["tools"] == ["get_weather", "get_time"]
    assert seen["embedding"] == [0.25, -0.5, 0.125, 1]
    assert "claude" in seen["models"]
    assert seen["error"] == ["RateLimitError", 429, "rate_limit_exceeded"]
    assert 1 <= seen["aborted"] <= 3


@pytest.fixture
def langchain(mocked):
    from langchain_openai import ChatOpenAI

    return ChatOpenAI(base_url=mocked.url, api_key="sk-client", model="claude", max_retries=0)


def test_langchain_answers_and_streams(langchain):
    assert langchain.invoke("hello").content.startswith("Hello")
    assert "".join(chunk.content for chunk in langchain.stream("hello")).startswith("Hello")


def test_langchain_binds_tools(langchain):
    def get_weather(city: str) -> str:
        """The weather of a city."""
        return city

    answer = langchain.bind_tools([get_weather]).invoke("weather")
    assert answer.tool_calls[0]["args"] == {"city": "Oslo"}
