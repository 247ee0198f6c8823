"""Stands in for a paid provider: OpenAI's chat completions, with answers that depend on the question alone.

    python docs/tour/provider.py PORT [--break-after WORDS]

With `--break-after` every stream ends after so many words, as that of a provider which falls over does.
"""

import argparse
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Provider(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    break_after = None

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        *_, question = (message["content"] for message in asked["messages"] if message["role"] == "user")
        text = f"You asked: {question} There is much to say about that, and this is all of it."
        given = asked["messages"][-1]
        if given["role"] == "assistant":  # the beginning of this very answer: go on with it
            text = text.removeprefix(given["content"])
        usage = {"prompt_tokens": 20 + len(question.split()), "completion_tokens": len(text.split())}
        usage["total_tokens"] = sum(usage.values())
        head = {"id": "chatcmpl-tour", "created": 1, "model": asked["model"]}
        if asked.get("stream"):
            self.stream(head, text, usage)
        else:
            message = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
            self.whole({**head, "object": "chat.completion", "choices": [message], "usage": usage})

    def whole(self, answer):
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def stream(self, head, text, usage):
        self.close_connection = True
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        words = text.split(" ")
        for number, word in enumerate(words):
            if number == self.break_after:
                return
            piece = word if number == len(words) - 1 else word + " "
            self.event(head, [{"index": 0, "delta": {"content": piece}, "finish_reason": None}])
        self.event(head, [{"index": 0, "delta": {}, "finish_reason": "stop"}])
        self.event(head, [], usage=usage)
        self.wfile.write(b"data: [DONE]\n\n")

    def event(self, head, choices, **more):
        chunk = {**head, "object": "chat.completion.chunk", "choices": choices, **more}
        self.wfile.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("port", type=int)
    parser.add_argument("--break-after", type=int, help="words of a stream, then the connection is cut")
    arguments = parser.parse_args()
    Provider.break_after = arguments.break_after
    ThreadingHTTPServer(("127.0.0.1", arguments.port), Provider).serve_forever()
