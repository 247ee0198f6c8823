"""Asks the gateway one question: status, the headers that tell what happened, and the answer.

python docs/tour/ask.py [--key KEY] [--model MODEL] [--feature FEATURE] [--stream] QUESTION
"""

import argparse
import json
import urllib.error
import urllib.request

TOLD = ("x-junctor-target", "x-junctor-cache")


def text_of(response, stream):
    if not stream:
        return json.loads(response.read())["choices"][0]["message"]["content"]
    events = [json.loads(line[6:]) for line in response if line.startswith(b"data: {")]
    return "".join(choice["delta"].get("content") or "" for event in events for choice in event.get("choices", ()))


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--key", default="search-0123456789abcdef")
parser.add_argument("--model", default="gpt")
parser.add_argument("--feature", default="chat")
parser.add_argument("--stream", action="store_true")
parser.add_argument("question")
given = parser.parse_args()
body = {"model": given.model, "max_tokens": 40, "temperature": 0, "stream": given.stream}
body["messages"] = [{"role": "user", "content": given.question}]
headers = {"authorization": f"Bearer {given.key}", "x-junctor-feature": given.feature}
headers["content-type"] = "application/json"
url = "http://127.0.0.1:4000/v1/chat/completions"
try:
    with urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), headers)) as answer:
        status, said, text = answer.status, answer.headers, text_of(answer, given.stream)
except urllib.error.HTTPError as error:
    status, said, text = error.code, error.headers, json.loads(error.read())["error"]["message"]
print(status, *(f"{name}: {said[name]}" for name in TOLD if said[name]), sep="  ")
print(text)
