"""OpenTelemetry, against receivers that read OTLP with OpenTelemetry's own protocol definitions."""

import asyncio
import http.server
import json
import subprocess
import sys
import threading
from concurrent import futures

import pytest
from junctor import ErrorKind, ProviderError, hookimpl
from junctor.testing import FakeProvider, Recorder

grpc = pytest.importorskip("grpc")
pytest.importorskip("opentelemetry.exporter.otlp.proto.grpc")
pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics_pb  # noqa: E402
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2_grpc as metrics_grpc  # noqa: E402
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as trace_pb  # noqa: E402
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as trace_grpc  # noqa: E402

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
UNSAMPLED = PARENT[:-1] + "0"


class Received:
    """What a collector was sent."""

    def __init__(self):
        self.traces, self.sets, self.headers = [], [], []

    @property
    def spans(self):
        return [s for r in self.traces for one in r.resource_spans for scope in one.scope_spans for s in scope.spans]

    @property
    def server(self):
        (span,) = [span for span in self.spans if span.kind == span.SPAN_KIND_SERVER]
        return span

    @property
    def clients(self):
        found = [span for span in self.spans if span.kind == span.SPAN_KIND_CLIENT]
        return sorted(found, key=lambda span: span.start_time_unix_nano)

    def metric(self, name):
        (found,) = [
            m
            for r in self.sets
            for one in r.resource_metrics
            for scope in one.scope_metrics
            for m in scope.metrics
            if m.name == name
        ]
        return found


class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        got = self.server.got
        got.headers.append(dict(self.headers))
        if self.path == "/v1/traces":
            got.traces.append(trace_pb.ExportTraceServiceRequest.FromString(body))
        elif self.path == "/v1/metrics":
            got.sets.append(metrics_pb.ExportMetricsServiceRequest.FromString(body))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *args): ...


@pytest.fixture
def over_http():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.got = Received()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server.got, {"endpoint": f"http://127.0.0.1:{server.server_address[1]}", "protocol": "http"}
    server.shutdown()
    thread.join()
    server.server_close()


class Traces(trace_grpc.TraceServiceServicer):
    def __init__(self, got):
        self.got = got

    def Export(self, request, context):
        self.got.traces.append(request)
        self.got.headers.append(dict(context.invocation_metadata()))
        return trace_pb.ExportTraceServiceResponse()


class Sets(metrics_grpc.MetricsServiceServicer):
    def __init__(self, got):
        self.got = got

    def Export(self, request, context):
        self.got.sets.append(request)
        return metrics_pb.ExportMetricsServiceResponse()


@pytest.fixture
def over_grpc():
    got = Received()
    server = grpc.server(futures.ThreadPoolExecutor(2))
    trace_grpc.add_TraceServiceServicer_to_server(Traces(got), server)
    metrics_grpc.add_MetricsServiceServicer_to_server(Sets(got), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield got, {"endpoint": f"http://127.0.0.1:{port}", "protocol": "grpc"}
    server.stop(None).wait()


@pytest.fixture(params=["over_http", "over_grpc"])
def collector(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def traced(metered):
    def run(settings, *plugins, **more):
        return metered(*plugins, settings={"opentelemetry": {**settings, **more}})

    return run


def told(span):
    found = {}
    for one in span.attributes:
        kind = one.value.WhichOneof("value")
        value = getattr(one.value, kind)
        found[one.key] = [v.string_value for v in value.values] if kind == "array_value" else value
    return found


class Again:
    @hookimpl
    async def on_error(self, exchange, target, error):
        return exchange.targets[1]


async def test_a_stream_is_a_server_span_with_a_client_span_within(traced, collector):
    got, settings = collector
    async with traced(settings, FakeProvider(usage=(70, 50), chunk_delay=0.01)) as g:
        await g.chat(stream=True, temperature=0.5, headers={"x-request-id": "mine"})
    server, (client,) = got.server, got.clients
    assert server.name == "chat test"
    assert not server.parent_span_id
    assert (client.trace_id, client.parent_span_id) == (server.trace_id, server.span_id)
    assert server.start_time_unix_nano <= client.start_time_unix_nano < client.end_time_unix_nano
    assert client.end_time_unix_nano <= server.end_time_unix_nano
    assert told(server)["junctor.request.id"] == "mine"
    assert told(server)["http.response.status_code"] == 200
    found = told(client)
    assert 0 < found.pop("gen_ai.response.time_to_first_chunk") < 1
    assert found == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "fake",
        "gen_ai.request.model": "one",
        "gen_ai.response.model": "test",
        "gen_ai.request.stream": True,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.usage.input_tokens": 70,
        "gen_ai.usage.output_tokens": 50,
        "junctor.attempt.number": 1,
    }


async def test_the_genai_metrics_have_the_specified_buckets(traced, collector):
    got, settings = collector
    async with traced(settings, FakeProvider(usage=(70, 50))) as g:
        await g.chat()
    duration = got.metric("gen_ai.client.operation.duration")
    (point,) = duration.histogram.data_points
    assert (duration.unit, point.count) == ("s", 1)
    assert point.explicit_bounds == [0.01 * 2**power for power in range(14)]
    usage = got.metric("gen_ai.client.token.usage")
    assert usage.unit == "{token}"
    assert {told(point)["gen_ai.token.type"]: point.sum for point in usage.histogram.data_points} == {
        "input": 70,
        "output": 50,
    }
    assert usage.histogram.data_points[0].explicit_bounds == [4**power for power in range(14)]


async def test_every_attempt_is_a_span_and_failed_ones_say_how(traced, over_http):
    got, settings = over_http
    broken = ProviderError("secret words of the provider", kind=ErrorKind.OVERLOADED, provider_status=529)
    async with traced(settings, Again(), FakeProvider(script=[broken, "good"])) as g:
        await g.chat()
    first, second = got.clients
    assert told(first)["error.type"] == "overloaded"
    assert first.status.code == first.status.STATUS_CODE_ERROR
    assert "error.type" not in told(second)
    assert got.server.status.code != got.server.status.STATUS_CODE_ERROR
    assert b"secret words" not in b"".join(r.SerializeToString() for r in got.traces)


async def test_a_failed_request_is_a_failed_server_span(traced, over_http):
    got, settings = over_http
    broken = ProviderError("no", kind=ErrorKind.TIMEOUT)
    async with traced(settings, FakeProvider(script=[broken])) as g:
        await g.chat()
    assert told(got.server)["error.type"] == "timeout"
    assert told(got.server)["http.response.status_code"] == 504


class Called(FakeProvider):
    """Keeps the headers that each call was to send."""

    def __init__(self, **options):
        super().__init__(**options)
        self.sent = []

    @hookimpl
    async def call(self, exchange, target):
        self.sent.append(dict(exchange.provider_headers))
        return await super().call(exchange, target)


async def test_a_clients_trace_is_continued_and_sent_on(traced, over_http):
    got, settings = over_http
    provider = Called(script=[ProviderError("no", kind=ErrorKind.OVERLOADED), "good"])
    recorder = Recorder()
    async with traced(settings, Again(), recorder, provider) as g:
        await g.chat(headers={"traceparent": PARENT, "tracestate": "vendor=1"})
    trace_id, parent = PARENT.split("-")[1:3]
    assert (got.server.trace_id.hex(), got.server.parent_span_id.hex()) == (trace_id, parent)
    expected = [f"00-{trace_id}-{span.span_id.hex()}-01" for span in got.clients]
    assert [sent["traceparent"] for sent in provider.sent] == expected
    assert {sent["tracestate"] for sent in provider.sent} == {"vendor=1"}
    assert got.server.trace_state == "vendor=1"
    assert recorder.last.facts["trace_id"] == trace_id


async def test_a_trace_that_is_not_sampled_is_sent_on_but_not_exported(traced, over_http):
    got, settings = over_http
    provider = Called()
    async with traced(settings, provider) as g:
        await g.chat(headers={"traceparent": UNSAMPLED})
    assert got.spans == []
    assert provider.sent[0]["traceparent"].endswith("-00")


@pytest.mark.parametrize(
    "given",
    ["", "rubbish", "00-" + "0" * 32 + "-b7ad6b7169203331-01", PARENT + "-more", "ff" + PARENT[2:], PARENT.upper()],
)
async def test_what_is_no_traceparent_begins_a_trace_of_its_own(traced, over_http, given):
    got, settings = over_http
    async with traced(settings, FakeProvider()) as g:
        await g.chat(headers={"traceparent": given})
    assert not got.server.parent_span_id
    assert got.server.trace_id.hex() != PARENT.split("-")[1]


async def test_sampling_keeps_the_share_that_it_is_told(traced, over_http):
    got, settings = over_http
    async with traced(settings, FakeProvider(), sample="30%", queue=2048) as g:
        for _ in range(200):
            await g.chat()
    assert 30 < len({span.trace_id for span in got.spans}) < 95


async def test_without_trust_a_client_decides_nothing(traced, over_http):
    got, settings = over_http
    async with traced(settings, FakeProvider(), trust_parent=False, sample=0) as g:
        await g.chat(headers={"traceparent": PARENT})
    assert got.spans == []


async def test_providers_are_told_nothing_when_that_is_asked_for(traced, over_http):
    _, settings = over_http
    provider = Called()
    async with traced(settings, provider, propagate=False) as g:
        await g.chat(headers={"traceparent": PARENT})
    assert provider.sent == [{}]


async def test_a_question_of_the_gateways_own_is_within_its_parents_trace(traced, over_http):
    got, settings = over_http

    class Judge:
        @hookimpl
        async def pre_route(self, exchange):
            if not exchange.purpose:
                await self.ask("chat", {"model": "test", "messages": []}, purpose="judge", parent=exchange)

    judge = Judge()
    async with traced(settings, judge, FakeProvider()) as g:
        judge.ask = g.gateway.ask
        await g.chat()
    (inner,) = [span for span in got.spans if span.kind == span.SPAN_KIND_INTERNAL]
    assert (inner.trace_id, inner.parent_span_id) == (got.server.trace_id, got.server.span_id)


async def test_the_collectors_headers_are_sent_and_no_secret_is_in_a_span(traced, over_http):
    got, settings = over_http
    key = "collector-key-123456"
    async with traced(settings, FakeProvider(), headers={"X-Key": key}) as g:
        await g.chat("canary-prompt", headers={"authorization": "Bearer sk-canary1234567890", "x-request-id": key})
    assert {headers["x-key"] for headers in got.headers} == {key}
    sent = b"".join(r.SerializeToString() for r in [*got.traces, *got.sets])
    assert b"canary" not in sent
    assert key.encode() not in sent


async def test_a_collector_that_is_down_fails_no_request(traced):
    settings = {"endpoint": "http://127.0.0.1:9", "timeout": "200ms", "delay": "10ms"}
    async with traced(settings, FakeProvider()) as g:
        answers = await asyncio.gather(*(g.chat() for _ in range(5)))
    assert {answer.status for answer in answers} == {200}


def test_off_means_that_the_sdk_is_not_even_imported():
    code = (
        "import sys; from junctor import Gateway, config;"
        "g = Gateway(config.parse('{\"plugins\": [\"metrics\"]}', file='x'));"
        "assert not [m for m in sys.modules if m.startswith('opentelemetry')];"
        "assert not g.plugins.hook['pre_route']"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_gateway_says_what_to_install_when_the_sdk_is_missing():
    code = (
        "import sys; sys.modules['opentelemetry.sdk'] = None\n"
        "from junctor import ConfigError, Gateway, config\n"
        'section = \'{"plugins": [{"metrics": {"opentelemetry": {"endpoint": "http://x"}}}]}\'\n'
        "read = config.parse(section, file='x')\n"
        "try: Gateway(read)\n"
        "except ConfigError as error: assert 'junctor-metrics[otlp]' in str(error)\n"
        "else: raise SystemExit(1)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


async def test_a_provider_behind_the_relay_gets_the_attempts_traceparent(gateway, over_http):
    got, settings = over_http
    heads = []

    async def serve(reader, writer):
        heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
        body = b'{"choices": [{"message": {}}]}'
        writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        target = {"target": "openai/m", "base_url": f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"}
        plugins = [{"metrics": {"opentelemetry": settings}}, "relay"]
        tree = json.dumps({"models": [{"name": "test", "targets": [target]}], "plugins": plugins})
        async with gateway(config=tree) as g:
            assert (await g.chat()).status == 200
    (client,) = got.clients
    assert f"traceparent: 00-{client.trace_id.hex()}-{client.span_id.hex()}-01" in heads[0]
    assert told(client)["server.address"] == "127.0.0.1"
