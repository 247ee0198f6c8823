"""A real small model on this machine answers: what the README's first command gives."""

import json

import pytest
from openai import OpenAI


@pytest.fixture
def client(local):
    with OpenAI(base_url=local.url, api_key="none", max_retries=0, timeout=100) as client:
        yield client


MESSAGES = [{"role": "user", "content": "Answer with one word: what is the capital of France?"}]


def test_answers_a_chat(client):
    answer = client.chat.completions.create(model="smollm2", messages=MESSAGES, temperature=0, max_tokens=20)
    assert "Paris" in answer.choices[0].message.content
    assert answer.usage.prompt_tokens > 10


def test_streams_a_chat_as_it_is_made(client):
    stream = client.chat.completions.create(
        model="smollm2",
        messages=MESSAGES,
        temperature=0,
        max_tokens=20,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    assert "Paris" in "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert chunks[-1].usage.completion_tokens >= 1


def test_keeps_to_a_json_schema(client):
    city = {"type": "string", "maxLength": 20}
    schema = {"type": "object", "properties": {"city": city}, "required": ["city"], "additionalProperties": False}
    answer = client.chat.completions.create(
        model="smollm2",
        messages=MESSAGES,
        max_tokens=400,  # the grammar allows white space between the tokens of JSON, and a small model makes it
        response_format={"type": "json_schema", "json_schema": {"name": "city", "schema": schema}},
    )
    assert set(json.loads(answer.choices[0].message.content)) == {"city"}
