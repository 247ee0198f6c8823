"""The test kit, for the core's own tests and for those of plugin authors. A pytest plugin (entry point `pytest11`).

Fixtures: `gateway` (a factory: a running gateway from a list of plugins), `redis_url` and `postgres_url` (found,
started from the binary, or the test is skipped with the reason; with JUNCTOR_TEST_REQUIRE=all a skip is a failure).
`with serving(config, folder) as gateway` is the real server in a process of its own.

    async def test_my_plugin(gateway):
        async with gateway(MyPlugin(), FakeProvider("hello")) as g:
            answer = await g.chat("hi")
            assert answer.text == "hello"
"""

from __future__ import annotations

import asyncio
import json
import urllib.parse
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from junctor import config as configuration
from junctor import jsons
from junctor.exchange import Response
from junctor.gateway import Gateway
from junctor.hookspecs import hookimpl
from junctor.plugins import Section
from junctor.server import App
from junctor.services import (
    Served,
    free_port,
    postgres_url,
    prefix,
    process,
    redis_url,
    require,
    serving,
    wait_for_port,
)
from junctor.settings import PluginSettings
from junctor.stream import Stream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence

    from junctor.exchange import Exchange, Target

__all__ = [
    "Answer",
    "FakeProvider",
    "Harness",
    "Recorder",
    "Served",
    "free_port",
    "gateway",
    "postgres_url",
    "prefix",
    "process",
    "redis_url",
    "require",
    "serving",
    "wait_for_port",
]


@dataclass
class Answer:
    """What a client got: status, headers with lower-case names, body; `chunks` as they were sent."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    chunks: list[bytes] = field(default_factory=list)

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[Any]:
        """The data of the server-sent events, parsed; `[DONE]` as text."""
        lines = [line[5:].strip() for line in self.body.split(b"\n") if line.startswith(b"data:")]
        return ["[DONE]" if line == b"[DONE]" else json.loads(line) for line in lines]

    @property
    def text(self) -> str:
        """The answer's text, whole or put together from a stream."""
        if not self.headers.get("content-type", "").startswith("text/event-stream"):
            return str(self.json()["choices"][0]["message"]["content"])
        choices = [event["choices"][0] for event in self.events if event != "[DONE]" and event.get("choices")]
        return "".join(choice["delta"].get("content") or "" for choice in choices)


class Harness:
    """A running gateway and a client within the same process; no socket in between."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.app = App(gateway)

    async def request(
        self,
        method: str,
        path: str,
        body: Any = b"",
        *,
        headers: Mapping[str, str | Sequence[str]] | None = None,
        hang_up_after: int | None = None,
        hang_up: asyncio.Event | None = None,
    ) -> Answer:
        """One request. The client hangs up once it has so many chunks (0: once the body is sent), or at the event.

        A header whose value is a list is sent once for each entry.
        """
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        gone = hang_up or asyncio.Event()
        if hang_up_after == 0:
            gone.set()
        answer = Answer()
        sent = False

        async def receive() -> dict[str, Any]:
            nonlocal sent
            if not sent:
                sent = True
                return {"type": "http.request", "body": raw, "more_body": False}
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                answer.status = message["status"]
                answer.headers = {name.decode(): value.decode() for name, value in message["headers"]}
            elif message.get("body"):
                answer.chunks.append(message["body"])
                if hang_up_after is not None and len(answer.chunks) >= hang_up_after:
                    gone.set()
                    await asyncio.sleep(0)

        url = urllib.parse.urlsplit(path)
        await self.app(_scope(method, url.path, url.query, headers or {}, raw), receive, send)
        return answer

    async def chat(
        self, text: str = "hi", *, headers: Mapping[str, str | Sequence[str]] | None = None, **fields: Any
    ) -> Answer:
        """A chat completion with one user message; `fields` go into the body."""
        hang = {key: fields.pop(key) for key in ("hang_up", "hang_up_after") if key in fields}
        body = {"model": "test", "messages": [{"role": "user", "content": text}], **fields}
        return await self.request("POST", "/v1/chat/completions", body, headers=headers, **hang)


def _scope(
    method: str, path: str, query: str, headers: Mapping[str, str | Sequence[str]], body: bytes
) -> dict[str, Any]:
    given: dict[str, str | Sequence[str]] = {"content-length": str(len(body))}
    given |= {name.lower(): value for name, value in headers.items()}
    lines = [(name, line) for name, value in given.items() for line in ([value] if isinstance(value, str) else value)]
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(name.encode(), line.encode()) for name, line in lines],
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 4000),
    }


class FakeProvider:
    """Implements `call` for every target, without a network.

    It answers with `text`, plain or streamed word by word as the client asks. `script` says what it does instead, one
    entry a call, the last one for ever: an exception is raised, a text is answered, None is the default, a number
    is a silence of so many seconds before it. `cut_after` ends a stream without a finish after so many chunks,
    `chunk_delay` seconds lie between chunks. `calls` holds (target's id, body) of every call, `running` those that go
    on, `cancelled` counts those that were given up.
    """

    def __init__(
        self,
        text: str = "hello from the provider",
        *,
        script: Sequence[BaseException | str | float | None] = (),
        cut_after: int | None = None,
        chunk_delay: float = 0.0,
        usage: tuple[int, int] = (7, 5),
    ) -> None:
        self.text = text
        self.script = list(script)
        self.cut_after = cut_after
        self.chunk_delay = chunk_delay
        self.usage = usage
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.running = 0
        self.cancelled = 0

    @hookimpl
    def claims(self, target: Target) -> bool:
        return True

    @hookimpl
    async def call(self, exchange: Exchange, target: Target) -> Response:
        self.calls.append((target.id, dict(exchange.request.body)))
        step = (self.script.pop(0) if len(self.script) > 1 else self.script[0]) if self.script else None
        self.running += 1
        try:
            if isinstance(step, (int, float)):
                await asyncio.sleep(step)
            if isinstance(step, BaseException):
                raise step
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1
        return self._answer(exchange, step if isinstance(step, str) else self.text)

    def _answer(self, exchange: Exchange, text: str) -> Response:
        request = exchange.request
        if request.operation == "embeddings":
            body = jsons.dumps(_embeddings(request.body, self.usage[0]))
        else:
            body = jsons.dumps(_completion(request.operation, request.model, text, self.usage))
        if request.stream:
            stream = Stream(self._pieces(text, request.model, request.operation), request.wire.reader(request))
            return Response(stream=stream)
        reading = request.wire.read(request.operation, body)
        return Response(body, usage=reading.usage, finish_reason=reading.finish_reason, model=reading.model)

    async def _pieces(self, text: str, model: str, operation: str) -> AsyncIterator[bytes]:
        self.running += 1
        try:
            for number, event in enumerate(_events(text, model, operation, self.usage)):
                if self.cut_after is not None and number >= self.cut_after:
                    return
                if number and self.chunk_delay:
                    await asyncio.sleep(self.chunk_delay)
                yield event
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled += 1
            raise
        finally:
            self.running -= 1


def _embeddings(body: Mapping[str, Any], tokens: int) -> dict[str, Any]:
    texts = body["input"] if isinstance(body["input"], list) else [body["input"]]
    data = [{"object": "embedding", "index": i, "embedding": [float(len(str(t))), 1.0]} for i, t in enumerate(texts)]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "model": body["model"], "data": data, "usage": usage}


def _completion(operation: str, model: str, text: str, usage: tuple[int, int]) -> dict[str, Any]:
    chat = operation == "chat"
    content = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
    return {
        "id": "fake-1",
        "object": "chat.completion" if chat else "text_completion",
        "created": 1,
        "model": model,
        "choices": [{"index": 0, **content, "finish_reason": "stop"}],
        "usage": _usage(usage),
    }


def _usage(usage: tuple[int, int]) -> dict[str, int]:
    return {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)}


def _events(text: str, model: str, operation: str, usage: tuple[int, int]) -> Iterator[bytes]:
    chat = operation == "chat"
    head = {"id": "fake-1", "created": 1, "model": model}
    head["object"] = "chat.completion.chunk" if chat else "text_completion"

    def event(part: dict[str, Any], finish: str | None = None, **more: Any) -> bytes:
        choice = {
            "index": 0,
            **({"delta": part} if chat else {"text": part.get("content", "")}),
            "finish_reason": finish,
        }
        return b"data: " + json.dumps({**head, "choices": [choice], **more}).encode() + b"\n\n"

    words = text.split(" ")
    yield event({"role": "assistant", "content": ""})
    for number, word in enumerate(words):
        yield event({"content": word if number == len(words) - 1 else word + " "})
    yield event({}, "stop")
    yield b"data: " + json.dumps({**head, "choices": [], "usage": _usage(usage)}).encode() + b"\n\n"
    yield b"data: [DONE]\n\n"


class Recorder:
    """Keeps every exchange's end: (exchange, response, error), as `post_call` saw it."""

    def __init__(self) -> None:
        self.ended: list[tuple[Exchange, Response | None, BaseException | None]] = []

    @hookimpl
    async def post_call(self, exchange: Exchange, response: Response | None, error: BaseException | None) -> None:
        self.ended.append((exchange, response, error))

    @property
    def last(self) -> Exchange:
        return self.ended[-1][0]


@pytest.fixture
def gateway() -> Callable[..., Any]:
    """A factory: `async with gateway(plugin, …, config=YAML) as harness`.

    Plugins are objects, asked in this order, after those that the configuration lists. A class that takes settings is
    given as `(Class, {settings})`. Without `config` there is one model, `test`, with the targets `fake/one` and
    `fake/two`; `models` replaces it.
    """

    @asynccontextmanager
    async def run(
        *plugins: Any, config: str = "", models: Sequence[Mapping[str, Any]] | None = None
    ) -> AsyncIterator[Harness]:
        default = [{"name": "test", "targets": [{"target": "fake/one"}, {"target": "fake/two"}]}]
        tree = config or json.dumps({"models": list(models or default)})
        async with Gateway(configuration.parse(tree, file="test.yaml"), extra=list(map(_section, plugins))) as built:
            yield Harness(built)

    return run


def _section(plugin: Any) -> Section:
    """A plugin given to a test: an object, a class, or (class, {settings})."""
    factory, raw = plugin if isinstance(plugin, tuple) else (plugin, {})
    if not isinstance(factory, type):
        return Section(-1, type(plugin).__name__.lower(), lambda: plugin, PluginSettings())
    settings = getattr(factory, "Settings", PluginSettings).model_validate(raw)
    return Section(-1, factory.__name__.lower(), factory, settings)
