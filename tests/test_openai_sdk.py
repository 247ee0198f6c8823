"""The OpenAI SDK for Python, sync and async, pointed at the gateway: what an application's developer sees."""

import asyncio
import base64
import struct

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel

CHATS = ["gpt-4o-mini", "claude", "gemini"]
TOOLS = [
    {
        "type": "function",
        "function": {"name": name, "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
    }
    for name in ("get_weather", "get_time")
]


def ask(text):
    return [{"role": "user", "content": text}]


@pytest.fixture
def client(mocked):
    with OpenAI(base_url=mocked.url, api_key="sk-client", max_retries=0) as client:
        yield client


@pytest.mark.parametrize("model", CHATS)
def test_answers_a_chat(client, model):
    answer = client.chat.completions.create(model=model, messages=ask("hello"))
    assert answer.choices[0].message.content == "Hello there, how can I help you today?"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.completion_tokens > 0


@pytest.mark.parametrize("model", CHATS)
def test_streams_a_chat_with_its_usage(client, model):
    options = {"include_usage": True}
    chunks = list(
        client.chat.completions.create(model=model, messages=ask("hello"), stream=True, stream_options=options)
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == "Hello there, how can I help you today?"
    assert chunks[-1].usage.completion_tokens > 0
    assert len(chunks) > 5


@pytest.mark.parametrize("model", CHATS)
def test_calls_tools(client, model):
    answer = client.chat.completions.create(model=model, messages=ask("weather"), tools=TOOLS)
    calls = answer.choices[0].message.tool_calls
    assert [(call.function.name, call.function.arguments.replace(" ", "")) for call in calls] == [
        ("get_weather", '{"city":"Oslo"}'),
        ("get_time", '{"zone":"CET"}'),
    ]
    assert answer.choices[0].finish_reason == "tool_calls"


@pytest.mark.parametrize("model", CHATS)
def test_streams_tool_calls(client, model):
    with client.chat.completions.stream(model=model, messages=ask("weather"), tools=TOOLS) as stream:
        final = stream.get_final_completion()
    calls = final.choices[0].message.tool_calls
    assert [call.function.name for call in calls] == ["get_weather", "get_time"]
    assert len({call.id for call in calls}) == 2


class Person(BaseModel):
    name: str
    born: int


@pytest.mark.parametrize("model", CHATS)
def test_answers_by_a_json_schema(client, model):
    answer = client.chat.completions.parse(model=model, messages=ask("as json"), response_format=Person)
    assert answer.choices[0].message.parsed == Person(name="Ada", born=1815)


@pytest.mark.parametrize("model", CHATS)
def test_takes_an_image_as_a_data_uri(client, model):
    pixel = base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"\0" * 60).decode()
    content = [
        {"type": "text", "text": "what is in the picture"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{pixel}"}},
    ]
    answer = client.chat.completions.create(model=model, messages=[{"role": "user", "content": content}])
    assert answer.choices[0].message.content == "a red dot"


@pytest.mark.parametrize("model", CHATS)
def test_unicode_survives_being_cut_across_chunks(client, model):
    stream = client.chat.completions.create(model=model, messages=ask("greet in scripts"), stream=True)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
    # The stand-in cuts in the middle of surrogate pairs, as JavaScript does; put together they are whole again.
    assert text.encode("utf-16", "surrogatepass").decode("utf-16") == "é 中文 🎉👩‍👩‍👧 ﷽ done"


def test_embeds_as_floats_and_as_base64(client):
    floats = client.embeddings.create(model="text-embedding-3-small", input="embed me", encoding_format="float")
    assert floats.data[0].embedding == [0.25, -0.5, 0.125, 1.0]
    raw = client.embeddings.with_raw_response.create(
        model="text-embedding-3-small", input="embed me", encoding_format="base64"
    )
    encoded = raw.http_response.json()["data"][0]["embedding"]
    if isinstance(encoded, str):
        assert struct.unpack("<4f", base64.b64decode(encoded)) == (0.25, -0.5, 0.125, 1.0)
    assert raw.parse().data[0].embedding == pytest.approx([0.25, -0.5, 0.125, 1.0])


def test_lists_models(client):
    assert {model.id for model in client.models.list()} >= set(CHATS)
    assert client.models.retrieve("claude").id == "claude"


@pytest.mark.parametrize("model", ["gpt-4o-mini", "claude"])
def test_takes_a_prompt_of_200_kb(client, model):
    answer = client.chat.completions.create(model=model, messages=ask("hello " + "x" * 200_000))
    assert answer.choices[0].message.content.startswith("Hello")


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("rate limited", openai.RateLimitError),
        ("bad request", openai.BadRequestError),
        ("unprocessable", openai.UnprocessableEntityError),
        ("not found", openai.NotFoundError),
        ("server error", openai.InternalServerError),
        ("wrong key", openai.InternalServerError),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_every_error_is_the_class_that_the_sdk_has_for_it(client, text, error, stream):
    with pytest.raises(error) as caught:
        client.chat.completions.create(model="gpt-4o-mini", messages=ask(text), stream=stream)
    assert isinstance(caught.value.code, str)
    assert caught.value.request_id


def test_an_unknown_model_a_bad_body_and_a_dead_provider(client):
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        client.chat.completions.create(model="gpt-99", messages=ask("hi"))
    with pytest.raises(openai.BadRequestError, match="messages"):
        client.chat.completions.create(model="gpt-4o-mini", messages=[])
    with pytest.raises(openai.InternalServerError) as caught:
        client.chat.completions.create(model="dead", messages=ask("hi"))
    assert caught.value.status_code == 502


async def test_20_streams_at_once_do_not_mix(mocked):
    async with AsyncOpenAI(base_url=mocked.url, api_key="sk-client", max_retries=0) as client:

        async def one(number):
            text = "hello" if number % 2 else "greet in scripts"
            stream = await client.chat.completions.create(model=CHATS[number % 3], messages=ask(text), stream=True)
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])

        answers = await asyncio.gather(*(one(number) for number in range(20)))
    assert [answer.startswith("Hello") for answer in answers] == [bool(number % 2) for number in range(20)]
    assert len(set(answers)) == 2


async def test_hanging_up_early_does_no_harm(mocked):
    async with AsyncOpenAI(base_url=mocked.url, api_key="sk-client", max_retries=0) as client:
        for _ in range(5):
            stream = await client.chat.completions.create(model="gpt-4o-mini", messages=ask("hello"), stream=True)
            await anext(aiter(stream))
            await stream.close()
        answer = await client.chat.completions.create(model="gpt-4o-mini", messages=ask("hello"))
    assert answer.choices[0].message.content.startswith("Hello")
