"""Streams as OpenAI sends them: usage and cost to the nano-dollar."""

import pytest
from junctor import Response, Stream, hookimpl

HEAD = '{"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"gpt-4o-2024-08-06","service_tier":null'


def events(*usages):
    choices = [
        '[{"index":0,"delta":{"role":"assistant","content":"","refusal":null},"logprobs":null,"finish_reason":null}]',
        '[{"index":0,"delta":{"content":"Hello"},"logprobs":null,"finish_reason":null}]',
        '[{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}]',
    ]
    lines = [f'{HEAD},"choices":{choice},"usage":null}}' for choice in choices]
    lines += [f'{HEAD},"choices":[],"usage":{usage}}}' for usage in usages]
    return b"".join(b"data: " + line.encode() + b"\n\n" for line in lines) + b"data: [DONE]\n\n"


USAGE = (
    '{"prompt_tokens":2006,"completion_tokens":1337,"total_tokens":3343,'
    '"prompt_tokens_details":{"cached_tokens":1920,"audio_tokens":0},'
    '"completion_tokens_details":{"reasoning_tokens":1088,"audio_tokens":0,'
    '"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}}'
)
PLAIN = '{"prompt_tokens":3,"completion_tokens":1,"total_tokens":4}'
# Dollars per million: 2.5 in, 10 out, 1.25 from the provider's cache.
PRICE = {"input": 2.5, "output": 10, "cache_read": 1.25}
CASES = {
    "cached and reasoning tokens": (USAGE, (2006, 1337, 1920, 1088), 86 * 2500 + 1920 * 1250 + 1337 * 10_000),
    "plain": (PLAIN, (3, 1, 0, 0), 3 * 2500 + 10_000),
}


class Recorded:
    """Answers with bytes that were recorded, in pieces of a size."""

    def __init__(self, data, size):
        self.data, self.size = data, size

    @hookimpl
    def claims(self, target):
        return True

    @hookimpl
    async def call(self, exchange, target):
        async def pieces():
            for start in range(0, len(self.data), self.size):
                yield self.data[start : start + self.size]

        return Response(stream=Stream(pieces(), exchange.request.wire.reader(exchange.request)))


@pytest.mark.parametrize("size", [7, 100_000])
@pytest.mark.parametrize("name", CASES)
async def test_a_stream_of_openais_costs_what_its_bill_says(logged, log, name, size):
    usage, (sent, got, cached, reasoning), cost = CASES[name]
    models = [{"name": "test", "targets": [{"target": "openai/gpt-4o", "price": PRICE}]}]
    async with logged(Recorded(events(usage), size), models=models) as g:
        answer = await g.chat(stream=True)
    assert answer.text == "Hello"
    record = log.record
    assert record["usage"] == {
        "input": sent,
        "output": got,
        "cache_read": cached,
        "cache_write": 0,
        "reasoning": reasoning,
        "estimated": False,
    }
    assert record["cost"]["total"] == cost
    assert record["cost"]["cache_read"] == cached * 1250
    assert record["answered_model"] == "gpt-4o-2024-08-06"
    (line,) = log.lines
    assert (line["cost"], line["reasoning_tokens"], line["cache_read_tokens"]) == (cost, reasoning, cached)


async def test_a_price_of_fractions_of_a_nano_dollar_is_rounded_once_for_each_part(logged, log):
    models = [{"name": "test", "targets": [{"target": "openai/tiny", "price": {"input": "0.0375", "output": "0.15"}}]}]
    async with logged(Recorded(events(PLAIN), 50), models=models) as g:
        await g.chat(stream=True)
    assert log.record["cost"]["input"] == 113  # 3 × 37.5 = 112.5
    assert log.record["cost"]["output"] == 150
