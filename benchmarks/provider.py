"""A provider that answers at once: the load's other end. Prints its port, then serves until its input ends."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import cast

import httptools
import uvloop

CHUNKS = 100


def _answer() -> bytes:
    text = "All happy families are alike; each unhappy family is unhappy in its own way. " * 8
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 200, "completion_tokens": 150, "total_tokens": 350}
    head = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "gpt-4o-mini"}
    return _whole({**head, "choices": [choice], "usage": usage})


def _whole(answer: dict[str, object]) -> bytes:
    body = json.dumps(answer).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body


def _stream() -> list[bytes]:
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o-mini"}

    def event(delta: dict[str, str], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return b"data: " + json.dumps({**head, "choices": [choice], "usage": None}).encode() + b"\n\n"

    usage = {"prompt_tokens": 200, "completion_tokens": CHUNKS, "total_tokens": 200 + CHUNKS}
    last = b"data: " + json.dumps({**head, "choices": [], "usage": usage}).encode() + b"\n\ndata: [DONE]\n\n"
    events = [
        event({"role": "assistant", "content": ""}),
        *[event({"content": "word "})] * CHUNKS,
        event({}, "stop"),
        last,
    ]
    return [b"%x\r\n%s\r\n" % (len(e), e) for e in events] + [b"0\r\n\r\n"]


def _messages() -> bytes:
    """The same answer on Anthropic's wire, for the lane that translates."""
    text = "All happy families are alike; each unhappy family is unhappy in its own way. " * 8
    usage = {"input_tokens": 200, "output_tokens": 150}
    head = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-haiku-4-5"}
    tail = {"content": [{"type": "text", "text": text}], "stop_reason": "end_turn", "stop_sequence": None}
    return _whole({**head, **tail, "usage": usage})


def _messages_stream() -> list[bytes]:
    message = {"id": "msg_1", "type": "message", "role": "assistant", "content": [], "model": "claude-haiku-4-5"}
    message |= {"stop_reason": None, "stop_sequence": None, "usage": {"input_tokens": 200, "output_tokens": 1}}
    word = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "word "}}
    events: list[dict[str, object]] = [
        {"type": "message_start", "message": message},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        *[word] * CHUNKS,
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": CHUNKS}},
        {"type": "message_stop"},
    ]
    framed = [f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in events]
    return [b"%x\r\n%s\r\n" % (len(each), each) for each in framed] + [b"0\r\n\r\n"]


ANSWER = _answer()
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
STREAM = _stream()
MESSAGES = _messages()
MESSAGES_STREAM = _messages_stream()


class Provider(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.parser = httptools.HttpRequestParser(self)
        self.body: list[bytes] = []

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self.body.append(body)

    def on_url(self, url: bytes) -> None:
        self.answer, self.stream = (MESSAGES, MESSAGES_STREAM) if b"messages" in url else (ANSWER, STREAM)

    def on_message_complete(self) -> None:
        body = b"".join(self.body)
        self.body.clear()
        if b'"stream":true' in body or b'"stream": true' in body:
            self.transport.write(STREAM_HEAD)
            self._next(0)
        else:
            self.transport.write(self.answer)

    def _next(self, number: int) -> None:
        """One chunk a turn of the loop, so that chunks arrive one by one as they do from a model."""
        if self.transport.is_closing():
            return
        self.transport.write(self.stream[number])
        if number + 1 < len(self.stream):
            asyncio.get_running_loop().call_soon(self._next, number + 1)


async def main() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Provider, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    uvloop.run(main())
