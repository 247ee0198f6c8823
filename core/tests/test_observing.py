"""What a plugin that observes is offered: attempts as they begin, headers for the provider, and what runs."""

import asyncio

from junctor import Exchange, Gateway, Request, Target, config, hookimpl
from junctor.http import HTTPClient
from junctor.testing import FakeProvider, Recorder
from junctor.upstream import OpenAIUpstream
from junctor.wire import OPENAI


class Tracing:
    """Sends a header of its own with every call."""

    def __init__(self):
        self.begun = []

    @hookimpl
    async def pre_route(self, exchange):
        def begun(attempt):
            self.begun.append(attempt)
            exchange.provider_headers["traceparent"] = f"call-{len(self.begun)}"

        exchange.on_attempt.append(begun)


async def test_every_attempt_is_told_as_it_begins(gateway):
    tracing, recorder, provider = Tracing(), Recorder(), FakeProvider(script=[0.0, 0.0])
    async with gateway(tracing, recorder, provider) as g:
        await g.chat()
    assert tracing.begun == recorder.last.attempts
    assert recorder.last.provider_headers == {"traceparent": "call-1"}


async def test_the_providers_headers_of_a_call_are_sent_with_it():
    heads = []

    async def serve(reader, writer):
        for _ in range(2):
            heads.append(await reader.readuntil(b"\r\n\r\n"))
            await reader.readexactly(int(heads[-1].lower().split(b"content-length: ")[1].split(b"\r\n")[0]))
            writer.write(b'HTTP/1.1 200 OK\r\ncontent-length: 30\r\n\r\n{"choices": [{"message": {}}]}')
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    target = Target("openai", "m", base_url=url)
    async with server, HTTPClient() as http:
        upstream = OpenAIUpstream(http, url, api_key=None, headers={})
        for given in ({"traceparent": "00-aa"}, {}):
            await _call(upstream, target, given)
    assert b"traceparent: 00-aa" in heads[0]
    assert b"traceparent" not in heads[1]


async def _call(upstream, target, headers):
    exchange = Exchange("1", Request(OPENAI, "chat", {"messages": []}, "m"))
    exchange.provider_headers.update(headers)
    return await upstream.call(exchange, target)


async def test_the_pipeline_knows_how_many_exchanges_run(gateway):
    provider = FakeProvider(script=[0.05])
    async with gateway(provider) as g:
        running = asyncio.gather(g.chat(), g.chat())
        await asyncio.sleep(0.02)
        assert g.gateway.pipeline.running == 2
        await running
        assert g.gateway.pipeline.running == 0


def test_what_plugins_keep_outlives_a_reload():
    first = Gateway(config.parse("{}", file="test.yaml"))
    first.kept["mine"] = [1]
    assert Gateway(config.parse("{}", file="test.yaml"), previous=first).kept["mine"] == [1]
    assert Gateway(config.parse("{}", file="test.yaml")).kept == {}
