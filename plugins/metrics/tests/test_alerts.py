"""Alerts: one for each change of state, to the log and to a webhook that checks the signature."""

import asyncio
import hashlib
import hmac
import json

import pytest
from junctor import Client, ErrorKind, ProviderError, hookimpl
from junctor.state import StateUnavailable
from junctor.testing import FakeProvider
from junctor_metrics import Metrics
from junctor_metrics.alerts import Alerts
from junctor_metrics.counts import Registry

SECRET = "a-secret-of-the-webhook"
DEAD = ProviderError("no", kind=ErrorKind.AUTHENTICATION, provider_status=401)
BROKEN = ProviderError("no", kind=ErrorKind.OVERLOADED)


class Hook:
    """A webhook's receiver; `statuses` are its answers, the last one for ever."""

    def __init__(self):
        self.statuses, self.got, self.tries = [200], [], 0

    async def serve(self, reader, writer):
        while head := await read_head(reader):
            body = await reader.readexactly(int(head["content-length"]))
            self.tries += 1
            status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
            if status == 200:
                self.got.append((head, body))
            writer.write(b"HTTP/1.1 %d X\r\ncontent-length: 0\r\n\r\n" % status)
        writer.close()

    @property
    def events(self):
        return [json.loads(body) for _, body in self.got]


async def read_head(reader):
    try:
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[1:-2]
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    return dict(line.split(": ", 1) for line in lines)


@pytest.fixture
async def hook():
    made = Hook()
    async with await asyncio.start_server(made.serve, "127.0.0.1", 0) as server:
        made.settings = {"url": f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/", "secret": SECRET}
        made.settings["backoff"] = "10ms"
        yield made


@pytest.fixture
def alerted(metered):
    """`async with alerted(rule, plugin, …, hook=…) as g`; rules are judged by `look(g)`."""

    def run(rule, *plugins, hook=None, **more):
        webhook = {"webhook": hook.settings | more.pop("webhook", {})} if hook else {}
        alerts = {"rules": [rule], "every": "1h", **webhook, **more}
        return metered(*plugins, settings={"alerts": alerts})

    return run


async def look(g):
    await g.gateway.plugins.by_name["metrics"]._alerts.look()


class Team:
    def __init__(self, **facts):
        self.facts = facts

    @hookimpl
    async def pre_route(self, exchange):
        exchange.client = Client(team="search")
        exchange.facts.update(self.facts)


async def test_a_budget_that_is_nearly_used_is_told_once_and_its_end_too(alerted, hook):
    team = Team(budget_used=0.85)
    async with alerted({"when": "budget", "above": "80%"}, team, FakeProvider(), hook=hook) as g:
        await g.chat()
        await look(g)
        await look(g)
        team.facts["budget_used"] = 0.1
        await g.chat()
        await look(g)
    firing, resolved = hook.events
    assert (firing["rule"], firing["state"], firing["subject"]) == ("budget 80%", "firing", "search")
    assert (firing["value"], firing["threshold"]) == (0.85, 0.8)
    assert resolved["state"] == "resolved"


async def test_the_webhook_can_check_who_sent_it_and_when(alerted, hook):
    async with alerted({"when": "budget"}, Team(budget_used=0.9), FakeProvider(), hook=hook) as g:
        await g.chat()
        await look(g)
    ((head, body),) = hook.got
    signed = head["x-junctor-timestamp"].encode() + b"." + body
    assert head["x-junctor-signature"] == "v1=" + hmac.new(SECRET.encode(), signed, hashlib.sha256).hexdigest()
    assert head["x-junctor-delivery"] == json.loads(body)["id"]


async def test_a_webhook_that_fails_is_asked_again(alerted, hook):
    hook.statuses = [500, 429, 200]
    async with alerted({"when": "budget"}, Team(budget_used=0.9), FakeProvider(), hook=hook) as g:
        await g.chat()
        await look(g)
    assert (hook.tries, len(hook.got)) == (3, 1)


@pytest.mark.parametrize(("statuses", "tries"), [([500], 3), ([404], 1)])
async def test_a_webhook_that_does_not_take_it_is_given_up_and_counted(alerted, hook, scrape, statuses, tries):
    hook.statuses = statuses
    rule = {"when": "budget"}
    async with alerted(rule, Team(budget_used=0.9), FakeProvider(), hook=hook, webhook={"retries": 2}) as g:
        await g.chat()
        await look(g)
        await asyncio.sleep(0.15)
        assert (await scrape(g))["junctor_alerts_undelivered_total",] == 1
    assert hook.tries == tries


async def test_the_queue_of_the_webhook_is_bounded(alerted, hook, scrape):
    async with alerted({"when": "budget"}, FakeProvider(), hook=hook, webhook={"queue": 3}) as g:
        metrics = g.gateway.plugins.by_name["metrics"]
        for number in range(10):
            metrics.registry["junctor_budget_used_ratio"][(f"team-{number}",)][0] = 0.9
        await look(g)
        assert (await scrape(g))["junctor_alerts_undelivered_total",] == 7
    assert [event["subject"] for event in hook.events] == ["team-7", "team-8", "team-9"]


async def test_alerts_are_told_to_the_log_without_a_webhook(alerted, caplog):
    async with alerted({"when": "unpriced"}, FakeProvider()) as g:
        await g.chat(model="free")
        await look(g)
    assert "alert 'unpriced' firing: tokens of fake/three were used, and it has no price" in caplog.text


async def test_a_share_of_errors_is_told_when_enough_requests_say_so(alerted, hook):
    rule = {"when": "errors", "above": "50%", "min_requests": 4}
    async with alerted(rule, FakeProvider(script=[BROKEN, BROKEN, BROKEN, "good"]), hook=hook) as g:
        for _ in range(3):
            await g.chat()
        await look(g)
        assert not hook.got
        await g.chat()
        await look(g)
    (event,) = hook.events
    assert (event["rule"], event["subject"], event["value"]) == ("errors per model 50%", "test", 0.75)


async def test_errors_can_be_watched_by_target(alerted, hook):
    rule = {"when": "errors", "per": "target", "min_requests": 1}
    async with alerted(rule, FakeProvider(script=[BROKEN]), hook=hook) as g:
        await g.chat()
        await look(g)
    assert hook.events[0]["subject"] == "fake/one"


async def test_errors_leave_the_window(alerted, hook):
    rule = {"when": "errors", "min_requests": 1, "window": "50ms"}
    async with alerted(rule, FakeProvider(script=[BROKEN, "good"]), hook=hook) as g:
        await look(g)
        await g.chat()
        await look(g)
        await asyncio.sleep(0.06)
        await look(g)
        await asyncio.sleep(0.06)
        await look(g)
    assert [event["state"] for event in hook.events] == ["firing", "resolved"]


async def test_what_was_counted_before_a_reload_is_no_news(gateway, hook, caplog):
    rules = [{"when": "errors", "min_requests": 1}]
    async with gateway((Metrics, {"alerts": {"rules": rules, "every": "1h"}}), FakeProvider(script=[BROKEN])) as g:
        await g.chat()
        alerts = g.gateway.plugins.by_name["metrics"]._alerts
        await alerts._begin()
        await look(g)
    assert "alert" not in caplog.text


async def test_an_open_breaker_is_told_with_its_target_and_key(gateway, caplog):
    models = [{"name": "test", "targets": [{"target": "fake/one"}]}]
    alerts = {"rules": [{"when": "breaker"}, {"when": "provider_key"}], "every": "10ms"}
    tree = json.dumps({"models": models, "plugins": [{"metrics": {"alerts": alerts}}, "fallback"]})
    async with gateway(FakeProvider(script=[DEAD]), config=tree) as g:
        await g.chat()
        await asyncio.sleep(0.1)
    assert "alert 'breaker' firing: the circuit of fake/one#default is open: authentication" in caplog.text
    assert caplog.text.count("alert 'provider_key' firing: the provider refuses the key of fake/one#default") == 1


async def test_a_clients_own_dead_key_wakes_nobody(alerted, caplog):
    async with alerted({"when": "provider_key"}, Team(byok=True), FakeProvider(script=[DEAD])) as g:
        await g.chat()
        await look(g)
    assert "alert" not in caplog.text


async def test_what_flaps_is_told_again_only_after_the_cooldown(alerted, hook):
    team = Team()
    async with alerted({"when": "budget"}, team, FakeProvider(), hook=hook, cooldown="150ms") as g:
        for used in (0.9, 0.1, 0.9, 0.1):
            team.facts["budget_used"] = used
            await g.chat()
            await look(g)
        await asyncio.sleep(0.16)
        team.facts["budget_used"] = 0.9
        await g.chat()
        await look(g)
        await look(g)
    assert [event["state"] for event in hook.events] == ["firing", "resolved", "firing"]


async def test_of_two_workers_one_tells(alerted, hook):
    rule, team = {"when": "budget"}, Team(budget_used=0.9)
    async with alerted(rule, team, FakeProvider(), hook=hook) as a, alerted(rule, team, FakeProvider(), hook=hook) as b:
        b.gateway.state = a.gateway.state
        for g in (a, b, a, b):
            await g.chat()
            await look(g)
    assert [event["state"] for event in hook.events] == ["firing"]


async def test_workers_that_cannot_be_read_for_a_moment_are_no_new_errors(gateway, caplog):
    def counted(failed, answered):
        labels = ("test", "chat", "", "")
        return {"junctor_requests_total": {(*labels, "failed"): [failed], (*labels, "answered"): [answered]}}

    async def series():
        return seen.pop(0)

    everyone, alone = counted(100, 100), counted(0, 10)
    settings = Metrics.Settings.model_validate(
        {"alerts": {"rules": [{"when": "errors", "window": "50ms"}], "every": "1h"}}
    ).alerts
    async with gateway(FakeProvider()) as g:
        seen = [everyone, alone, everyone, counted(150, 110)]
        async with Alerts(settings, g.gateway, Registry(max_values=10, max_series=10, known={}), series) as alerts:
            await alerts.look()
            await asyncio.sleep(0.06)  # that look is what the next one is compared with
            await alerts.look()
            assert "alert" not in caplog.text
            await alerts.look()
    assert "firing: 83% of 60 requests" in caplog.text


async def test_without_the_state_it_is_told_all_the_same(alerted, hook):
    class Down:
        async def set(self, *args, **options):
            raise StateUnavailable("down")

    async with alerted({"when": "budget"}, Team(budget_used=0.9), FakeProvider(), hook=hook) as g:
        state, g.gateway.state = g.gateway.state, Down()
        await g.chat()
        await look(g)
        g.gateway.state = state
    assert len(hook.events) == 1


@pytest.mark.parametrize("rule", [{"when": "moon"}, {"when": "budget", "above": "120%"}, {"when": "budget", "x": 1}])
def test_rules_that_cannot_be_are_refused(rule):
    with pytest.raises(ValueError):
        Metrics.Settings.model_validate({"alerts": {"rules": [rule]}})
