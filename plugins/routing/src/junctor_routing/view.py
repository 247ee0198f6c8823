"""What rules and strategies ask about a request, worked out at most once, and only if somebody asks."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, Any
from zlib import crc32

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from junctor import Exchange

    from junctor_routing.task import Task

__all__ = ["AUDIO", "IMAGES", "JSON_SCHEMA", "STREAMING", "TOOLS", "View", "session_part"]

STREAMING, TOOLS, IMAGES, JSON_SCHEMA, AUDIO = 1, 2, 4, 8, 16
_IMAGE_PARTS = frozenset({"image_url", "input_image", "image"})
_TOKENS_AN_IMAGE = 1000
_EXPECTED_OUTPUT = 256.0


class View:
    """One request as rules see it. `now` is a `time.monotonic()` value; `notes` go into the decision's record."""

    __slots__ = (
        "_features",
        "_output",
        "_session",
        "_shape",
        "_task",
        "_tokens",
        "body",
        "client",
        "exchange",
        "expected_output",
        "facts",
        "headers",
        "notes",
        "now",
        "request",
        "topic",
    )

    def __init__(self, exchange: Exchange, now: float) -> None:
        self.exchange = exchange
        self.now = now
        self.request = request = exchange.request
        self.client = exchange.client
        self.facts = exchange.facts
        self.headers = request.headers
        self.body = request.body
        self.notes: dict[str, Any] = {}
        self.topic: str | None = None
        self.expected_output = _EXPECTED_OUTPUT
        self._shape: tuple[int, int] | None = None
        self._features = -1
        self._tokens = -1
        self._output = -1.0
        self._task: Task | None = None
        self._session: bytes | None = None

    @property
    def features(self) -> int:
        """What a target must be able to do: a sum of STREAMING, TOOLS, IMAGES, JSON_SCHEMA, AUDIO."""
        if self._features < 0:
            body = self.body
            found = STREAMING if self.request.stream else 0
            if body.get("tools") or body.get("functions"):
                found |= TOOLS
            form = body.get("response_format")
            if type(form) is dict and form.get("type") == "json_schema":
                found |= JSON_SCHEMA
            self._features = found | self._media()[0]
        return self._features

    def _media(self) -> tuple[int, int]:
        """Which media the messages hold (IMAGES, AUDIO), and how many images."""
        if self._shape is None:
            found = images = 0
            for message in self.body.get("messages") or ():
                content = message.get("content") if type(message) is dict else None
                if type(content) is list:
                    for part in content:
                        kind = part.get("type") if type(part) is dict else None
                        if kind in _IMAGE_PARTS:
                            found |= IMAGES
                            images += 1
                        elif kind == "input_audio":
                            found |= AUDIO
            self._shape = (found, images)
        return self._shape

    @property
    def reasoning(self) -> bool:
        body = self.body
        return bool(body.get("reasoning_effort") or body.get("reasoning") or body.get("thinking"))

    @property
    def tokens(self) -> int:
        """Estimated input tokens: `facts["input_tokens_estimated"]`, or about four characters each."""
        if self._tokens < 0:
            given = self.facts.get("input_tokens_estimated")
            self._tokens = given if isinstance(given, int) else self._estimate()
        return self._tokens

    def _estimate(self) -> int:
        letters = wide = 0
        for text in texts(self.body):
            letters += len(text)
            if not text.isascii():
                # UTF-8 bytes beyond one a character: scripts whose characters are closer to a token each.
                wide += len(text.encode("utf-8", "surrogatepass")) - len(text)
        return int(letters / 4 + wide * 0.35) + 4 + self._media()[1] * _TOKENS_AN_IMAGE

    @property
    def output_tokens(self) -> float:
        """Expected output tokens: what the model's answers had on average, at most what the client allows."""
        if self._output < 0:
            expected = self.expected_output
            limit = self.body.get("max_completion_tokens") or self.body.get("max_tokens")
            self._output = min(expected, limit) if isinstance(limit, int) and limit > 0 else expected
        return self._output

    def task(self, classify: Callable[[View], Task]) -> Task:
        if self._task is None:
            self._task = classify(self)
            self.facts["task"] = self._task.fact()
        return self._task

    def key(self, by: str) -> str:
        """The value of a grouping word such as `key`, `session` or `header:x-foo`; empty if there is none."""
        client = self.client
        if by == "session":
            return self.session.hex()
        if by == "key":
            return client.key_id or client.name
        if by == "client":
            return client.name
        if by == "request":
            return self.exchange.id
        if by == "user":
            return client.end_user or str(self.body.get("user") or "")
        if by.startswith("header:"):
            return self.headers.get(by[7:].lower(), "")
        if by.startswith("metadata:"):
            return str((self.body.get("metadata") or {}).get(by[9:], ""))
        return str(getattr(client, by))

    @property
    def session(self) -> bytes:
        """Eight bytes for the session: its header, its end user, or its first messages (a conversation keeps those)."""
        if self._session is None:
            text = self.headers.get("x-junctor-session") or self.client.end_user or str(self.body.get("user") or "")
            if not text:
                text = "\0".join(session_part(message) for message in (self.body.get("messages") or ())[:2])
            text = f"{self.client.key_id}\0{text}"
            self._session = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        return self._session

    def percent(self, salt: int, by: str | None) -> float:
        """Where this request falls between 0 and 100, the same for the same key."""
        value = self.key(by or "request")
        mixed = (crc32(value.encode("utf-8", "surrogatepass"), salt) * 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        return (mixed >> 32) / 0x1_0000_0000 * 100


def session_part(message: Any) -> str:
    content = message.get("content") if isinstance(message, dict) else None
    return content[:2000] if isinstance(content, str) else str(content)[:2000]


def texts(body: dict[str, Any]) -> Iterator[str]:
    """The texts of a request that a model reads: messages, prompt, input, system and tools."""
    for message in body.get("messages") or ():
        content = message.get("content") if type(message) is dict else None
        if type(content) is str:
            yield content
        elif type(content) is list:
            for part in content:
                text = part.get("text") if type(part) is dict else None
                if type(text) is str:
                    yield text
        if type(message) is dict and message.get("tool_calls"):
            yield str(message["tool_calls"])
    for field in ("system", "prompt", "input", "instructions", "contents"):
        if value := body.get(field):
            yield from _strings(value)
    if tools := body.get("tools"):
        yield str(tools)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)
    elif isinstance(value, dict):
        for key in ("text", "content", "parts"):
            if key in value:
                yield from _strings(value[key])
