"""What the employees of a company ask in a day, and what they got."""

from __future__ import annotations

import asyncio
import json
import random
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from junctor import ProviderError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from junctor.http import HTTPClient, HTTPResponse

__all__ = ["FEATURES", "KEYS", "TOPICS", "Answer", "Ask", "asks", "fixtures", "send"]

TEAMS = ("search", "support", "research")
KEYS = {team: f"sk-{team}-0123456789abcdef" for team in TEAMS}
FEATURES = ("chat", "agents", "reports", "faq", "index")
TOPICS = 120
LONG = "The minutes of the meeting follow, with all that was said. " * 150
TOOL = {"type": "function", "function": {"name": "plan", "parameters": {"type": "object"}}}


def topic(number: int) -> str:
    return f"topic-{number % TOPICS:04}"


def vector(number: int) -> list[float]:
    return [float(number % TOPICS), 0.5, -0.5]


def fixtures() -> dict[str, Any]:
    """What the stand-in answers: each topic has texts, calls and vectors of its own; slow ones take their time."""
    found: list[dict[str, Any]] = []
    for number in range(TOPICS):
        name, tokens = topic(number), (30 + number % 7, 12 + number % 5)
        text = {"content": f"About {name}: " + "it is well understood. " * 8, "usage": usage(*tokens)}
        call = {"toolCalls": [{"name": "plan", "arguments": json.dumps({"about": name})}], "usage": usage(*tokens)}
        slow = {"ttft": 400, "tps": 20}
        found += [
            {"match": {"userMessage": f"plan {name}"}, "response": call},
            {"match": {"userMessage": f"slowly {name}"}, "response": text, "streamingProfile": slow},
            {"match": {"userMessage": name}, "response": text},
            {"match": {"inputText": name}, "response": {"embedding": vector(number)}},
        ]
    return {"fixtures": found}


def usage(given: int, made: int) -> dict[str, int]:
    """The same figures in the words of the three providers."""
    openai = {"prompt_tokens": given, "completion_tokens": made, "total_tokens": given + made}
    anthropic = {"input_tokens": given, "output_tokens": made}
    gemini = {"promptTokenCount": given, "candidatesTokenCount": made, "totalTokenCount": given + made}
    return {**openai, **anthropic, **gemini}


@dataclass(frozen=True)
class Ask:
    """One request. `leave` is when its client hangs up: never, before the first token, or in the middle."""

    team: str
    feature: str
    body: dict[str, Any] = field(repr=False)
    number: int
    leave: str = "never"

    @property
    def path(self) -> str:
        return "/embeddings" if self.feature == "index" else "/chat/completions"

    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        key = ("authorization", f"Bearer {KEYS[self.team]}")
        return (key, ("content-type", "application/json"), ("x-junctor-feature", self.feature))


def asks(count: int, *, seed: int) -> Iterator[Ask]:
    """A mixture of all features and teams; the same for the same seed."""
    dice = random.Random(seed)
    for place in range(count):
        team, feature = TEAMS[place % 3], dice.choice(FEATURES)
        number = place if feature in ("chat", "reports") else dice.randrange(TOPICS)
        leave = dice.choice(("early", "middle")) if feature == "chat" and place % 8 == 0 else "never"
        yield Ask(team, feature, _body(feature, seed * count + place, number, leave), number, leave)


def _body(feature: str, nonce: int, number: int, leave: str) -> dict[str, Any]:
    """`nonce` makes a question unlike all others, where the caches shall not answer."""
    name = topic(number)
    match feature:
        case "index":
            return {"model": "embeddings", "input": name}
        case "agents":
            return {"model": "smart", "messages": [user(f"{nonce}: plan {name}")], "tools": [TOOL]}
        case "reports":
            return {"model": "fast", "messages": [user(f"{LONG}\n{nonce}: sum up {name}")]}
        case "faq":
            return {"model": "fast", "messages": [user(f"What is {name}?")], "stream": number % 2 == 0}
        case _:
            how = "slowly" if leave != "never" else "briefly"
            model = "smart" if nonce % 4 == 0 else "fast"
            return {"model": model, "messages": [user(f"{nonce}: tell {how} {name}")], "stream": True}


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


@dataclass
class Answer:
    """What a client got. `error` is the error's code and type, `left` says that it hung up."""

    ask: Ask
    status: int = 0
    headers: Any = field(default_factory=dict, repr=False)
    text: str = ""
    error: str = ""
    left: bool = False
    broken: str = ""

    @property
    def right(self) -> bool:
        return topic(self.ask.number) in self.text

    @property
    def settled(self) -> bool:
        """An answer, or an error that says what it is, or a client that did not wait."""
        return not self.broken and (self.left or bool(self.error) or (self.status == 200 and bool(self.text)))


async def send(client: HTTPClient, root: str, ask: Ask) -> Answer:
    """Ask, and read the answer, or hang up."""
    answer = Answer(ask)
    asking = client.request(
        "POST", root + ask.path, headers=ask.headers, body=json.dumps(ask.body).encode(), max_body=None
    )
    try:
        if ask.leave == "early":
            with suppress(TimeoutError):
                async with asyncio.timeout(0.2):
                    response = await asking
                    await response.aclose()
            answer.left = True
            return answer
        await _read(await asking, answer)
    except ProviderError as error:
        answer.broken = repr(error)
    return answer


async def _read(response: HTTPResponse, answer: Answer) -> None:
    answer.status, answer.headers = response.status, response.headers
    body = b""
    async for piece in response:
        body += piece
        if answer.ask.leave == "middle" and body.count(b"\n\n") > 3:
            await response.aclose()
            answer.left = True
            return
    if "event-stream" in response.headers["content-type"]:
        _stream(body, answer)
    else:
        _whole(json.loads(body), answer)


def _stream(body: bytes, answer: Answer) -> None:
    lines = [line[6:] for line in body.split(b"\n") if line.startswith(b"data: ")]
    for event in (json.loads(line) for line in lines if line != b"[DONE]"):
        if "error" in event:
            answer.error = _named(event["error"])
        for choice in event.get("choices", ()):
            answer.text += (choice.get("delta") or {}).get("content") or ""
    if not answer.error and lines[-1:] != [b"[DONE]"]:
        answer.broken = "a stream without an end"


def _whole(tree: Any, answer: Answer) -> None:
    if "error" in tree:
        answer.error = _named(tree["error"])
    elif answer.ask.feature == "index":
        given = tree["data"][0]["embedding"]
        answer.text = topic(answer.ask.number) if given == vector(answer.ask.number) else "another vector"
    else:
        message = tree["choices"][0]["message"]
        answer.text = (message.get("content") or "") + json.dumps(message.get("tool_calls") or "")


def _named(error: dict[str, Any]) -> str:
    return f"{error['type']}/{error['code']}" if error["message"] and error["type"] and error["code"] else ""
