"""OTLP logs, against a receiver that reads them with OpenTelemetry's own protocol definitions."""

import asyncio
import http.server
import json
import threading

import pytest
from junctor.testing import FakeProvider

proto = pytest.importorskip("opentelemetry.proto.collector.logs.v1.logs_service_pb2")
pytest.importorskip("opentelemetry.exporter.otlp.proto.http")


class Receiver(http.server.ThreadingHTTPServer):
    """A collector: keeps what it is sent; `status` is what it answers."""

    def __init__(self):
        self.status = 200
        self.got = []
        self.headers = []
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1/logs"

    @property
    def logs(self):
        return [
            log for r in self.got for resource in r.resource_logs for s in resource.scope_logs for log in s.log_records
        ]


class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.server.status == 200:
            request = proto.ExportLogsServiceRequest()
            request.ParseFromString(body)
            self.server.got.append(request)
            self.server.headers.append((self.path, dict(self.headers)))
        self.send_response(self.server.status)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *args): ...


@pytest.fixture
def receiver():
    server = Receiver()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def attributes(log):
    found = {}
    for one in log.attributes:
        value = one.value
        found[one.key] = value.string_value or value.int_value
    return found


async def test_a_record_is_a_log_record_with_its_line_as_body(logged, receiver):
    sinks = [{"otlp": {"endpoint": receiver.url, "headers": {"x-token": "for the collector"}}}]
    async with logged(FakeProvider(), settings={"sinks": sinks}) as g:
        await g.chat(headers={"x-request-id": "mine"})
    (log,) = receiver.logs
    body = json.loads(log.body.string_value)
    found = attributes(log)
    assert (body["id"], found["junctor.request.id"], found["log.record.uid"]) == ("mine", "mine", body["record"])
    assert (found["gen_ai.usage.input_tokens"], found["junctor.cost.nano_dollars"]) == (7, 17_000)
    assert found["gen_ai.provider.name"] == "fake"
    assert log.event_name == "junctor.exchange"
    assert (
        abs(
            log.time_unix_nano / 1e9
            - receiver.got[0].resource_logs[0].scope_logs[0].log_records[0].time_unix_nano / 1e9
        )
        < 1
    )
    (path, headers) = receiver.headers[0]
    assert (path, headers["x-token"]) == ("/v1/logs", "for the collector")
    service = {a.key: a.value.string_value for a in receiver.got[0].resource_logs[0].resource.attributes}
    assert service["service.name"] == "junctor"


async def test_a_collector_that_is_down_gets_all_when_it_is_back(logged, receiver, log):
    receiver.status = 400
    async with logged(FakeProvider(), settings={"sinks": [{"otlp": {"endpoint": receiver.url}}]}) as g:
        plugin = g.gateway.plugins.by_name["logging"]
        for _ in range(20):
            await g.chat()
        for _ in range(1000):
            if plugin.stats()["sinks"]["otlp"]["spooled"] == 20:
                break
            await asyncio.sleep(0.01)
        receiver.status = 200
        for _ in range(1000):
            if not plugin.stats()["sinks"]["otlp"]["waiting"]:
                break
            await asyncio.sleep(0.01)
    uids = [attributes(one)["log.record.uid"] for one in receiver.logs]
    assert len(uids) == len(set(uids)) == 20
