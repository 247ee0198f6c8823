"""The answer that Prometheus gets: its form, who may read it, and what other plugins tell in it."""

import asyncio
import json
import shutil
import subprocess

import pytest
from junctor import ConfigError, Gateway, config
from junctor.http import HTTPClient
from junctor.testing import FakeProvider, free_port, require
from junctor_metrics import Metrics
from junctor_metrics.catalogue import METRICS

KEY = "an-admin-key-of-the-operator"


async def test_promtool_finds_no_fault(metered):
    promtool = shutil.which("promtool")
    require(promtool, "promtool is not installed (apt install prometheus)")
    async with metered(FakeProvider()) as g:
        await g.chat()
        await g.chat(stream=True)
        await asyncio.sleep(0.3)
        body = (await g.request("GET", "/metrics")).body
    checked = subprocess.run([promtool, "check", "metrics"], input=body, capture_output=True)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


async def test_whoever_accepts_openmetrics_gets_it(metered):
    async with metered(FakeProvider()) as g:
        answer = await g.request("GET", "/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.body.endswith(b"# EOF\n")


async def test_every_metric_is_described_before_anything_has_happened(metered):
    async with metered(FakeProvider()) as g:
        text = (await g.request("GET", "/metrics")).body.decode()
    for metric in METRICS:
        assert f"# TYPE {metric.name} {metric.kind}" in text


def configured(settings, host="127.0.0.1", key=KEY):
    admin = {"admin": {"key": key}} if key else {}
    return json.dumps({"server": {"host": host}, **admin, "plugins": [{"metrics": settings}]})


async def test_with_admin_only_the_operator_reads_it(gateway):
    async with gateway(config=configured({"admin": True})) as g:
        assert (await g.request("GET", "/metrics")).status == 401
        assert (await g.request("GET", "/metrics", headers={"authorization": f"Bearer {KEY}"})).status == 200


class Open:
    authenticates = True


@pytest.mark.parametrize(("settings", "status"), [({}, 401), ({"admin": False}, 200)])
async def test_off_loopback_the_key_is_asked_for_unless_the_operator_says_otherwise(gateway, settings, status):
    async with gateway(Open(), config=configured(settings, "0.0.0.0")) as g:
        assert (await g.request("GET", "/metrics")).status == status


@pytest.mark.parametrize("settings", [{}, {"admin": True}])
async def test_a_path_that_would_be_open_to_all_is_a_mistake_that_is_told(gateway, settings):
    with pytest.raises(ConfigError, match=r"metrics.*admin\.key"):
        async with gateway(Open(), config=configured(settings, "0.0.0.0", key="")):
            pass


async def test_a_port_of_its_own_serves_nothing_else(metered, shown):
    async with metered(FakeProvider(), settings={"port": 0}) as g, HTTPClient() as http:
        await g.chat()
        port = g.gateway.plugins.by_name["metrics"].port
        answer = await http.request("GET", f"http://127.0.0.1:{port}/metrics", max_body=None)
        figures = shown((await answer.read()).decode())
        other = await http.request("GET", f"http://127.0.0.1:{port}/v1/models", max_body=None)
        assert (await g.request("GET", "/metrics")).status == other.status == 404
    assert figures["junctor_requests_total", "test", "chat", "", "", "answered"] == 1


async def test_a_port_of_its_own_can_be_guarded_too(gateway):
    async with gateway(config=configured({"port": 0, "admin": True})) as g, HTTPClient() as http:
        url = f"http://127.0.0.1:{g.gateway.plugins.by_name['metrics'].port}/metrics"
        refused = await http.request("GET", url, max_body=None)
        answer = await http.request("GET", url, max_body=None, headers=[("authorization", f"Bearer {KEY}")])
        assert (refused.status, answer.status) == (401, 200)
        await answer.read()


async def test_a_port_that_is_taken_is_told(metered):
    port = free_port()
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", port)
    async with server:
        with pytest.raises(ConfigError, match=f"metrics: port: 127.0.0.1:{port}"):
            async with metered(FakeProvider(), settings={"port": port}):
                pass


async def test_path_null_serves_nothing(metered):
    async with metered(FakeProvider(), settings={"path": None}) as g:
        assert (await g.request("GET", "/metrics")).status == 404


async def test_what_was_counted_outlives_a_reload(shown):
    read = config.parse('{"plugins": ["metrics"]}', file="test.yaml")
    async with Gateway(read) as first:
        first.plugins.by_name["metrics"].registry["junctor_hedges_total"][("other",)][0] += 3
    async with Gateway(read, previous=first) as second:
        figures = await second.plugins.by_name["metrics"].figures()
    assert figures["junctor_hedges_total"]["other",] == [3]


async def test_the_breakers_state_is_shown(gateway, scrape):
    from junctor import ErrorKind, ProviderError

    models = [{"name": "test", "targets": [{"target": "fake/one"}]}]
    broken = ProviderError("no", kind=ErrorKind.AUTHENTICATION, provider_status=401)
    tree = json.dumps({"models": models, "plugins": ["metrics", "fallback"]})
    async with gateway(FakeProvider(script=[broken]), config=tree) as g:
        assert (await scrape(g))["junctor_breaker_state", "fake/one"] == 0
        await g.chat()
        assert (await scrape(g))["junctor_breaker_state", "fake/one"] == 2


async def test_the_quotas_queue_is_shown_with_its_wait(gateway, scrape):
    models = [{"name": "test", "targets": [{"target": "fake/one"}]}]
    quotas = {"quotas": {"limits": [{"name": "places", "concurrency": 1}]}}
    tree = json.dumps({"models": models, "plugins": ["metrics", quotas]})
    async with gateway(FakeProvider(script=[0.1]), config=tree) as g:
        running = asyncio.gather(*(g.chat() for _ in range(3)))
        await asyncio.sleep(0.05)
        assert (await scrape(g))["junctor_queue_length",] == 2
        await running
        figures = await scrape(g)
    assert figures["junctor_queue_length",] == 0
    assert figures["junctor_queue_wait_seconds_count", ""] == 2
    assert figures["junctor_queue_wait_seconds_sum", ""] > 0.15


async def test_the_logs_sinks_are_shown(gateway, scrape, tmp_path):
    sinks = [{"json_lines": {"path": str(tmp_path / "log.jsonl")}}]
    logging = {"logging": {"directory": str(tmp_path), "sinks": sinks, "flush": "20ms"}}
    models = [{"name": "test", "targets": [{"target": "fake/one"}]}]
    async with gateway(FakeProvider(), config=json.dumps({"models": models, "plugins": ["metrics", logging]})) as g:
        await g.chat()
        for _ in range(100):
            await asyncio.sleep(0.02)
            figures = await scrape(g)
            if figures["junctor_sink_written_total", "json_lines"]:
                break
    assert figures["junctor_sink_written_total", "json_lines"] == 1
    assert figures["junctor_sink_queue", "json_lines"] == figures["junctor_sink_dropped_total", "json_lines"] == 0


def test_settings_of_the_plugin_are_open_on_failure():
    assert Metrics.Settings().on_failure == "open"
